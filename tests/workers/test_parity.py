"""Every family is read as its library reads it; a row that is wrong is found out.

The table of docs/families.md is what comes of this: `python -m tests.workers.test_parity`
writes it anew.

Shapes: S sequences, T positions, N neurons of one hookpoint.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.workers import tiny
from tests.workers.cells import ATTENTION, held_at
from workers import hooks
from workers.ablation import ablated
from workers.building import build, quiet
from workers.byhand import answering, other_rows, random_batch
from workers.checkpoint import inspect
from workers.collect import collect
from workers.conv1d import as_conv1d, as_linear
from workers.evaluate import evaluate
from workers.families import FAMILIES, Family
from workers.histogram import summarise
from workers.loading import Model, Pixels, adopt
from workers.messages import SITES, CellOrder
from workers.parity import Check, Parity, parity
from workers.parts import at, sites, values
from workers.prefix import usable

SMALL = 1e-6
"""Share of the largest value by which the tiny models are off at most, where sums are reordered."""
PAGE = Path(__file__).parents[2] / "docs" / "families.md"
every = pytest.mark.parametrize("name", tiny.EVERY)
NEW = [name for name in tiny.EVERY if name not in tiny.NAMES]
"""What tests of the five chosen families do not look at; some of them are repeated for these."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@cache
def compared(name: str, home: Path) -> Parity:
    return parity(tiny.shared(name, home))


def failed(model: Model) -> set[str]:
    return {check.name for check in parity(model).checks if not check.passed}


def otherwise(name: str, home: Path, **row: Any) -> Model:
    """Return a model of another row than its own."""
    model = tiny.shared(name, home)
    return replace(model, family=replace(model.family, **row))


# Parity


@every
def test_every_family_is_read_as_its_library_reads_it(name: str, home: Path) -> None:
    found = compared(name, home)
    assert found.passed, [check for check in found.checks if not check.passed]
    assert (found.family, found.dtype) == (name, "float32")
    bits = {check.name for check in found.checks if check.allowed == 0}
    assert bits == {"logits", "loss", "removed"}
    assert all(check.worst < SMALL for check in found.checks)


@pytest.mark.parametrize("name", ["opt", "gpt2", "gemma2", "timm-eva-split"])
def test_a_comparison_leaves_a_model_as_it_was(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    before = {
        key: (value.data_ptr(), value.clone()) for key, value in model.module.state_dict().items()
    }
    logits = hooks.logits(model, random_batch(model, 0))
    parity(model, seed=5)
    assert torch.equal(hooks.logits(model, random_batch(model, 0)), logits)
    after = model.module.state_dict()
    folded = {id(p.weight) for p in sites(model.module, model.family, "attn_pre_out")}
    own = dict(model.module.named_parameters(remove_duplicate=False))
    for key, (place, value) in before.items():
        assert torch.equal(after[key], value)
        if id(own.get(key)) not in folded:  # their values are cloned by the first fold
            assert after[key].data_ptr() == place


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gpt2", "bfloat16"), ("gemma2", "bfloat16"), ("gpt-j", "float16"), ("distilbert", "float16")],
)
def test_16_bits_are_as_good(name: str, dtype: Any, home: Path) -> None:
    assert parity(tiny.model(name, home, dtype)).passed


# Rows that are wrong


@pytest.mark.parametrize(
    ("name", "row", "missed"),
    [
        ("gpt-neox", {"fused": "blocks"}, {"neurons", "groups"}),
        ("phi3", {"fused": "groups"}, {"neurons"}),  # its last group lies there either way
        ("gemma2", {"softcap": None}, {"logits", "loss", "baseline"}),
        ("llama", {"head": "model.norm"}, {"logits", "loss", "baseline"}),
        ("llama", {"values": "self_attn.k_proj"}, {"neurons"}),
        ("gpt-j", {"values": "attn.q_proj"}, {"neurons"}),
        ("timm-eva-split", {"norm": None}, {"neurons", "groups"}),
    ],
)
def test_a_wrong_row_is_found_out(
    name: str, row: Mapping[str, Any], missed: set[str], home: Path
) -> None:
    assert failed(otherwise(name, home, **row)) >= missed


def test_heads_counted_wrongly_are_found_out(home: Path) -> None:
    model = tiny.shared("llama", home)  # 4 heads, of which two share a key-value head each
    facts = replace(model.facts, heads=2, d_head=16, kv_heads=1)
    assert failed(replace(model, ref=replace(model.ref, facts=facts))) == {"neurons"}


def test_a_projection_that_the_forward_pass_does_not_use_is_found_out(home: Path) -> None:
    model = tiny.model("opt", home)
    for layer in at(model.module, "model.decoder.layers"):
        layer.idle = nn.Linear(32, 32)
    model = replace(model, family=replace(model.family, attention_out="idle"))
    assert {"removed", "neurons", "groups"} <= failed(model)


def test_what_ends_a_check_is_said_and_fails_it(home: Path) -> None:
    found = parity(otherwise("distilbert", home, head="vocab_transform"))
    (logits,) = (check for check in found.checks if check.name == "logits")
    assert not logits.passed
    assert "RuntimeError" in logits.said
    assert logits.worst != logits.worst


def test_not_a_number_is_no_small_difference() -> None:
    assert not Check(name="x", claim="", worst=float("nan"), allowed=1.0).passed


def test_other_rows_are_put_back_after_an_error(home: Path) -> None:
    model = tiny.shared("gpt2", home)
    value = values(model.module, model.family)[0]
    weight, before = value.weight, value.weight.clone()

    def fail() -> None:
        assert not torch.equal(value.weight[1:3], before[1:3])
        assert torch.equal(value.weight[3:], before[3:])
        raise ArithmeticError

    with pytest.raises(ArithmeticError), other_rows(value, np.array([1, 2])):
        fail()
    assert value.weight is weight
    assert torch.equal(weight, before)


# What a sweep does with a model, for the families that other tests leave out


@pytest.mark.parametrize("name", NEW)
def test_cells_of_every_kind_are_answered_and_passes_share_their_prefix(
    name: str, home: Path
) -> None:
    model = tiny.shared(name, home)
    batch = [tiny.batch(model, [0, 1, 2])]
    kinds = ("constant", "noise")
    cells = [CellOrder(cell="bare"), *(held_at(model, k, sites=SITES) for k in kinds)]
    cells.append(held_at(model, "constant", 1.0, sites=ATTENTION))
    answers = evaluate(model, batch, cells, {}, logits_bytes=1 << 20)
    assert usable(model) is None
    for cell, answer in zip(cells, answers, strict=True):
        (alone,) = evaluate(model, batch, [cell], {}, logits_bytes=1 << 20)
        assert np.array_equal(alone.loss, answer.loss)
        assert answer.held == answer.told
        assert (answer.held > 0) == bool(cell.holds)
    losses = [answer.loss.sum() for answer in answers]
    assert len(set(losses)) == len(losses)  # each cell did something, and something else


@pytest.mark.parametrize("name", NEW)
def test_neurons_are_counted_and_held_at_their_means(name: str, home: Path) -> None:
    model = tiny.model(name, home)
    batch = tiny.batch(model, [0, 1, 2])
    mean_LN = summarise(collect(model, [batch])).mean.reshape(model.facts.layers, -1)
    bare = hooks.logits(model, batch)
    with ablated(model, np.ones(mean_LN.shape, np.bool_), mean_LN) as proof:
        held = hooks.logits(model, batch)
    assert proof.held == mean_LN.size

    def answer(layer: int, projection: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        mean_N = torch.as_tensor(mean_LN[layer]).to(x).expand_as(x)
        return nn.functional.linear(mean_N, projection.weight, projection.bias)

    with answering(model, range(model.facts.layers), answer):
        by_hand = hooks.logits(model, batch)
    torch.testing.assert_close(held, by_hand, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(held, bare, atol=1e-3)


# Conv1D


def test_a_conv1d_becomes_a_linear_layer_of_the_same_memory_to_the_bit() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        module = nn.Sequential(Conv1D(24, 16), nn.GELU(), Conv1D(8, 24)).to(dtype)
        x = torch.randn(3, 5, 16).to(dtype)
        before, weight = module(x), module[0].weight
        assert as_linear(module) is module
        assert [type(part) for part in module] == [nn.Linear, nn.GELU, nn.Linear]
        assert module[0].weight.data_ptr() == weight.data_ptr()
        assert torch.equal(module[0].weight, weight.T)
        assert torch.equal(module(x), before)
        assert as_conv1d(module) is module
        assert [type(part) for part in module] == [Conv1D, nn.GELU, Conv1D]
        assert torch.equal(module[0].weight, weight)
        assert torch.equal(module(x), before)


def test_a_norm_that_a_name_promises_and_a_layer_lacks_is_none() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_relpos_small_patch16_224", depth=2, embed_dim=48, num_heads=3)
    scaling = Pixels(scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert parity(adopt(module, pixels=scaling)).passed


def test_gpt2_can_be_adopted_and_planned_like_any_other(home: Path) -> None:
    folder = tiny.folder("gpt2", home / "again")
    with quiet():
        module = tiny.transformers.GPT2LMHeadModel.from_pretrained(folder)
    before = module.eval()(torch.arange(9)[None]).logits
    model = adopt(module)
    assert torch.equal(model.module(torch.arange(9)[None]).logits, before)
    hollow = as_linear(build(inspect(folder), torch.float32, hollow=True))
    weight = sites(hollow, model.family, "mlp_mid")[0].weight
    assert weight.shape == (32, 48)
    assert weight.untyped_storage().nbytes() <= 4


# The page


def layout(family: Family) -> str:
    made = {None: "own", "blocks": "fused, q·k·v", "groups": "fused, head by head"}[family.fused]
    return made + (", capped" if family.softcap else "")


def page_table(home: Path) -> str:
    """Return the table of docs/families.md: what each row is, and what came of comparing it."""
    names = [check.name for check in compared("opt", home).checks]
    head = ["family", "architectures", "`attn_pre_out` is the input of", "values", *names]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for family in FAMILIES:
        found = compared(family.name, home)
        for check in found.checks:
            assert check.worst <= min(check.allowed, SMALL), (family.name, check)
        off = ["0" if check.allowed == 0 else f"< {SMALL:.0e}" for check in found.checks]
        architectures = ", ".join(f"`{name}`" for name in family.architectures)
        reader = f"`{family.layers}.*.{family.attention_out}`"
        lines.append(
            f"| {' | '.join([family.name, architectures, reader, layout(family), *off])} |"
        )
    return "".join(f"{line}\n" for line in lines)


TABLE = r"(?<=<!-- table -->\n).*?(?=<!-- end -->)"


def between(text: str) -> str:
    found = re.search(TABLE, text, re.DOTALL)
    assert found is not None
    return found[0]


def test_the_page_has_the_table_that_comes_of_this(home: Path) -> None:
    assert between(PAGE.read_text()) == page_table(home), "python -m tests.workers.test_parity"


def test_the_worked_example_of_the_page_is_a_row() -> None:
    rows = {family.name: family for family in FAMILIES}
    (shown,) = re.findall(r"```python\n +(replace\(.*?)\n +```", PAGE.read_text(), re.DOTALL)
    assert eval(shown, {"replace": replace, "_LLAMA": rows["llama"]}) == rows["qwen3"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = PAGE.read_text()
        made = page_table(Path(folder))
        PAGE.write_text(re.sub(TABLE, lambda _: made, text, flags=re.DOTALL))
