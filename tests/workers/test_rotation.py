"""Other axes inside the heads: the model stays, its neurons do not."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.workers import tiny
from workers import zoo
from workers.checkpoint import inspect, weight_digest
from workers.families import FAMILIES
from workers.hooks import hidden, logits, recording, replacing
from workers.loading import CheckpointError, Model, RotationError, load
from workers.messages import Site
from workers.parts import at, known, sites, values
from workers.rotation import TOLERANCE, orthogonal, rotate, rotate_checked

SEED = 5
families = pytest.mark.parametrize("name", tiny.NAMES)
FIXED = {  # what stands in the way of a rotation
    "timm-eva": "EvaAttention has `q_bias`",
    "timm-eva-split": "EvaAttention has `norm`",
}
turning = pytest.mark.parametrize("name", [name for name in tiny.EVERY if name not in FIXED])


@pytest.fixture
def pair(name: str, home: Path) -> tuple[Model, Model]:
    """A model in its own basis and in another."""
    return tiny.model(name, home), tiny.model(name, home, basis=SEED)


def activations(model: Model, site: Site = "attn_pre_out") -> Tensor:
    """Return what a batch makes at a site: (L, rows, N), padding left out."""
    batch = tiny.batch(model, list(range(12)))
    seen: list[Tensor] = []
    with recording(model, site, lambda _, x_STN: seen.append(x_STN.clone())):
        hidden(model, batch)
    x_LSTN = torch.stack(seen)
    kept = slice(None) if batch.attended is None else torch.from_numpy(batch.attended)
    return x_LSTN[:, kept].reshape(len(x_LSTN), -1, x_LSTN.shape[-1])


def changed(model: Model, change: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return the logits with the activations before the output projections changed."""
    with replacing(model, "attn_pre_out", change):
        return logits(model, tiny.batch(model, [0, 1, 2]))


def differ(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest."""
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


# Matrices


@given(st.integers(0, 2**70), st.integers(0, 99), st.integers(0, 99), st.integers(1, 40))
def test_a_rotation_is_orthogonal(seed: int, layer: int, group: int, size: int) -> None:
    q_EE = orthogonal(seed, layer, group, size)
    assert np.abs(q_EE @ q_EE.T - np.eye(size)).max() < 1e-12
    assert np.array_equal(q_EE, orthogonal(seed, layer, group, size))


def test_every_seed_layer_and_group_has_its_own() -> None:
    keys = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    assert len({orthogonal(*key, 4).tobytes() for key in keys}) == len(keys)


def test_rotations_favour_no_direction() -> None:
    drawn = np.stack([orthogonal(seed, 0, 0, 3) for seed in range(3000)])
    # Of uniform ones every entry has mean 0 and variance 1/3, and the trace variance 1; without
    # the signs of R the diagonal would have means of -1/2 and less.
    assert np.abs(drawn.mean(axis=0)).max() < 4 / np.sqrt(3 * 3000)
    assert np.abs(drawn.var(axis=0) - 1 / 3).max() < 0.03
    assert abs(np.trace(drawn, axis1=1, axis2=2).var() - 1) < 0.1
    assert abs(np.linalg.det(drawn).mean()) < 4 / np.sqrt(3000)  # reflections as often as not


# The model stays


@turning
def test_the_scores_do_not_change(pair: tuple[Model, Model]) -> None:
    own, other = pair
    batch = tiny.batch(own, [0, 1, 2])
    assert differ(logits(other, batch), logits(own, batch)) < 1e-5


@turning
def test_every_head_has_other_neurons_that_are_the_old_ones_turned(
    pair: tuple[Model, Model],
) -> None:
    facts = pair[0].facts
    shape = (facts.layers, -1, facts.heads, facts.d_head)
    old_LRHE, new_LRHE = (activations(m).double().reshape(shape) for m in pair)
    for layer in range(facts.layers):
        for head in range(facts.heads):
            group = head // (facts.heads // facts.kv_heads)
            q_EE = torch.from_numpy(orthogonal(SEED, layer, group, facts.d_head))
            expected_RE = old_LRHE[layer, :, head] @ q_EE.T
            assert differ(new_LRHE[layer, :, head], expected_RE) < 1e-4
            assert differ(new_LRHE[layer, :, head], old_LRHE[layer, :, head]) > 0.1


@families
def test_heads_that_share_values_share_a_rotation_and_no_others_do(
    pair: tuple[Model, Model],
) -> None:
    facts = pair[0].facts
    shape = (facts.layers, -1, facts.heads, facts.d_head)
    old_LHRE, new_LHRE = (activations(m).double().reshape(shape).transpose(1, 2) for m in pair)
    solved_LHEE = torch.linalg.lstsq(old_LHRE, new_LHRE).solution  # the rotation, from outside
    shared = facts.heads // facts.kv_heads
    solved = [
        (layer, head // shared, solved_LHEE[layer, head])
        for layer in range(facts.layers)
        for head in range(facts.heads)
    ]
    for *one, a_EE in solved:
        for *two, b_EE in solved:
            distance = float((a_EE - b_EE).norm())
            assert distance < 0.05 if one == two else distance > 1


@families
def test_the_mlp_keeps_its_neurons(pair: tuple[Model, Model]) -> None:
    own, other = pair
    assert differ(activations(other, "mlp_mid"), activations(own, "mlp_mid")) < 1e-5


@families
@pytest.mark.parametrize("value", ["zero", "mean"])
def test_whole_heads_that_are_held_do_the_same_harm(pair: tuple[Model, Model], value: str) -> None:
    def held(model: Model) -> Tensor:
        size = model.facts.d_head
        mean_LN = activations(model).mean(dim=1)

        def change(layer: int, x_STN: Tensor) -> Tensor:
            x_STN = x_STN.clone()
            for head in (layer, 3):  # of all layers another one, and one more
                at_head = slice(head * size, (head + 1) * size)
                x_STN[..., at_head] = 0 if value == "zero" else mean_LN[layer, at_head]
            return x_STN

        return changed(model, change)

    own, other = pair
    assert differ(held(other), held(own)) < 1e-4
    assert differ(held(own), logits(own, tiny.batch(own, [0, 1, 2]))) > 1e-2


@families
def test_single_neurons_that_are_held_do_other_harm(pair: tuple[Model, Model]) -> None:
    def change(layer: int, x_STN: Tensor) -> Tensor:
        x_STN = x_STN.clone()
        x_STN[..., [1, 10]] = 0
        return x_STN

    own, other = pair
    assert differ(changed(other, change), changed(own, change)) > 1e-2


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_bundled_models_can_be_turned_in_every_dtype(name: str, dtype: Any) -> None:
    folder = zoo.folder(name)
    ref = tiny.ref(folder, dtype)
    own, other = load(ref), load(replace(ref, basis=SEED))
    old, new = (sites(m.module, m.family, "attn_pre_out")[0].weight for m in (own, other))
    assert differ(new, old) > 0.1
    assert new.dtype == old.dtype


# What is written, and what is not


@families
def test_values_and_the_columns_that_read_them_change_and_nothing_else(
    pair: tuple[Model, Model],
) -> None:
    own, other = pair
    meant = {id(p) for p in values(other.module, other.family)}
    outputs = {id(p) for p in sites(other.module, other.family, "attn_pre_out")}
    expected = set()
    for name, part in other.module.named_modules():
        if id(part) in meant | outputs:
            expected.add(f"{name}.weight")
        if id(part) in meant and part.bias is not None:
            expected.add(f"{name}.bias")
    old, new = own.module.state_dict(), other.module.state_dict()
    assert {key for key in old if not torch.equal(old[key], new[key])} == expected
    assert len(expected) == 3 * (2 if own.family.name == "mistral" else 3)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("timm-vit", [True, True, False]),  # q, k, v of all heads
        ("gpt2", [True, True, False]),
        ("phi3", [True, True, True, False]),  # 4 heads' queries, 2 keys, 2 values
        ("gpt-neox", 4 * [True, True, False]),  # q, k, v of each head
    ],
)
def test_queries_and_keys_beside_fused_values_stay(name: str, kept: list[bool], home: Path) -> None:
    own, other = (tiny.model(name, home, basis=basis) for basis in (None, SEED))
    for old, new in zip(*(values(m.module, m.family) for m in (own, other)), strict=True):
        for part in ("weight", "bias"):
            if getattr(old, part) is None:
                continue
            blocks = zip(
                *(getattr(layer, part).chunk(len(kept)) for layer in (old, new)), strict=True
            )
            assert [torch.equal(a, b) for a, b in blocks] == kept


@pytest.mark.parametrize("name", FIXED)
def test_a_norm_or_a_bias_on_the_way_of_values_is_refused_by_name(name: str, home: Path) -> None:
    with pytest.raises(RotationError, match=f"^tiny:{name}: .*{FIXED[name]}"):
        tiny.model(name, home, basis=SEED)


@families
def test_the_checkpoint_and_the_tensors_it_was_read_into_are_left_alone(
    name: str, home: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(home / name, tmp_path / name)
    model = load(tiny.ref(folder))
    old = dict(model.module.named_parameters())
    before = {key: parameter.clone() for key, parameter in old.items()}
    rotate(model.module, model.family, model.facts, SEED)
    assert all(torch.equal(old[key], before[key]) for key in before)
    assert weight_digest(inspect(folder)) == model.facts.digest
    assert not any(p.requires_grad for p in model.module.parameters())


@families
def test_the_seed_says_which_basis(name: str, home: Path) -> None:
    def weights(basis: int) -> Tensor:
        model = tiny.model(name, home, basis=basis)
        return torch.cat([p.weight for p in sites(model.module, model.family, "attn_pre_out")])

    assert torch.equal(weights(SEED), weights(SEED))
    assert not torch.equal(weights(SEED), weights(SEED + 1))


@families
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_only_rounding_is_added(name: str, dtype: str, home: Path) -> None:
    own, other = (tiny.model(name, home, dtype, basis=basis) for basis in (None, SEED))  # type: ignore[arg-type]
    assert {p.dtype for p in other.module.parameters()} == {getattr(torch, dtype)}
    batch = tiny.batch(own, [0, 1, 2])
    assert differ(logits(other, batch), logits(own, batch)) < TOLERANCE[own.dtype]
    exact = tiny.model(name, home, basis=SEED)
    for rounded, whole in zip(
        sites(other.module, other.family, "attn_pre_out"),
        sites(exact.module, exact.family, "attn_pre_out"),
        strict=True,
    ):
        step = torch.finfo(own.dtype).eps
        assert differ(rounded.weight, whole.weight) < 2 * step  # twice: read, then turned


# Refusals


def timm_vit(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        num_classes=tiny.CLASSES,
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=4,
        **arguments,
    )
    return module.eval()


TIMM = next(family for family in FAMILIES if family.name == "timm-vit")


def test_a_norm_of_queries_and_keys_does_no_harm() -> None:
    module = timm_vit(qk_norm=True)
    rotate_checked(module, TIMM, known(module, TIMM, "this"), SEED, name="mine")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [({"scale_attn_norm": True}, "Attention has `norm`"), ({"attn_layer": "diff"}, "sub_norm")],
)
def test_what_stands_between_values_and_output_is_refused_by_name(
    arguments: dict[str, Any], part: str
) -> None:
    module = timm_vit(**arguments)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(RotationError, match=f"^mine: The axes .* cannot be rotated.*{part}"):
        rotate_checked(module, TIMM, known(module, TIMM, "this"), SEED, name="mine")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_bias_that_the_attention_adds_by_itself_is_refused(home: Path) -> None:
    model = tiny.model("timm-vit", home)
    at(model.module, "blocks.1.attn").v_bias = nn.Parameter(torch.ones(32))
    with pytest.raises(RotationError, match="`v_bias`"):
        rotate(model.module, model.family, model.facts, SEED)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@families
def test_what_no_name_betrays_is_seen_in_what_the_model_computes(
    name: str, dtype: str, home: Path
) -> None:
    model = tiny.model(name, home, dtype)  # type: ignore[arg-type]
    for value in values(model.module, model.family):
        value.register_forward_hook(lambda part, fed, made: made.relu())
    with pytest.raises(RotationError, match=rf"^mine in {dtype} does not compute the same"):
        rotate_checked(model.module, model.family, model.facts, SEED, name="mine")


def test_not_a_number_is_not_the_same(home: Path) -> None:
    model = tiny.model("vit", home)
    sites(model.module, model.family, "attn_pre_out")[0].bias.fill_(torch.nan)
    with pytest.raises(RotationError, match="differ by nan"):
        rotate_checked(model.module, model.family, model.facts, SEED, name="mine")


def test_a_refusal_while_loading_names_the_model_and_is_one_of_a_checkpoint(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.0)
    with pytest.raises(CheckpointError, match=r"^mine in float32"):
        load(replace(tiny.ref(home / "opt", basis=SEED), name="mine"))
