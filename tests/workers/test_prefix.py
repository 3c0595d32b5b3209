"""Passes that share their prefixes have the bits of passes that do not, and do less.

Shapes: L layers, S sequences, T positions, N neurons of one hookpoint.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.workers import tiny
from tests.workers.cells import (
    ATTENTION,
    BUDGET,
    KINDS,
    baseline,
    batches,
    constant,
    donors,
    held_at,
    needed,
    resampled,
    same,
)
from tests.workers.holding import hooks_left
from workers import hooks, prefix, zoo
from workers.evaluate import evaluate
from workers.loading import Model, load
from workers.messages import SITES, Batch, CellAnswer, CellOrder, Donors, Site
from workers.replacing import activations
from workers.shortcuts import find_shortcuts
from workers.stubs import kept_at

Dtype = Literal["float32", "bfloat16", "float16"]
families = pytest.mark.parametrize("name", tiny.NAMES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


@cache
def loaded(name: str, home: Path, dtype: Dtype) -> Model:
    """Return a tiny model, or one of the bundled."""
    if name.startswith("zoo:"):
        return load(tiny.ref(Path(str(zoo.folder(name.removeprefix("zoo:")))), dtype))
    return tiny.model(name, home, dtype)


@contextmanager
def unshared() -> Iterator[None]:
    """Let every pass run in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "_shortcuts", lambda *_: None)
        yield


def run(
    model: Model,
    orders: Sequence[CellOrder],
    mine: list[Batch] | None = None,
    kl: bool = False,
    given: Mapping[str, Donors] | None = None,
) -> list[CellAnswer]:
    mine = batches(model) if mine is None else mine
    given = needed(orders, donors(model, mine)) if given is None else given
    return evaluate(model, mine, orders, given, logits_bytes=BUDGET, kl=kl)


def assert_shared_is_unshared(
    model: Model,
    orders: Sequence[CellOrder],
    mine: list[Batch] | None = None,
    kl: bool = False,
    given: Mapping[str, Donors] | None = None,
) -> None:
    with unshared():
        expected = run(model, orders, mine, kl, given)
    answers = run(model, orders, mine, kl, given)
    assert prefix.usable(model) is None
    assert [answer.cell for answer in answers] == [order.cell for order in orders]
    for answer, plain in zip(answers, expected, strict=True):
        assert same(answer, plain), answer.cell


def in_layer(order: CellOrder, *layers: int) -> CellOrder:
    """Return the cell with neurons held in some layers only."""
    holds = tuple(
        replace(hold, held=tuple(h if i in layers else h[:0] for i, h in enumerate(hold.held)))
        for hold in order.holds
    )
    return replace(order, cell=f"{order.cell}-in-{layers}", holds=holds)


def mixed(model: Model) -> list[CellOrder]:
    """Return cells that begin at every place of a model of three layers, of every kind."""
    mlp: tuple[Site, ...] = ("mlp_mid",)
    orders = [baseline(model)]
    for seed, kind in enumerate(KINDS):
        orders.append(held_at(model, kind, 0.4, seed))
        orders.append(in_layer(held_at(model, kind, 0.5, seed), 1, 2))
        if kind != "per_head":
            orders.append(in_layer(held_at(model, kind, 0.6, seed, mlp), seed % 3))
    for sites in (ATTENTION, mlp, SITES):
        whole = held_at(model, "constant", 1.0, 7, sites)
        orders += [whole, *(in_layer(whole, layer) for layer in range(3))]
        orders.append(held_at(model, "constant", 1.0, 8, sites, alpha=0.5))
    return orders


@dtypes
@families
def test_cells_of_every_kind_that_share_their_prefix_have_the_bits_of_cells_that_do_not(
    name: str, dtype: Dtype, home: Path
) -> None:
    model = loaded(name, home, dtype)
    mine = batches(model)[:2]  # padded where they are texts
    assert_shared_is_unshared(model, mixed(model), mine, kl=dtype == "float32")


@dtypes
@pytest.mark.parametrize("name", ["opt", "mistral", "roberta", "vit"])
def test_the_bundled_models_share_without_changing_a_bit(
    name: str, dtype: Dtype, home: Path
) -> None:
    model = loaded(f"zoo:{name}", home, dtype)
    orders = [baseline(model)]
    for share in (0.3, 1.0):
        for sites in (ATTENTION, SITES[1:], SITES):
            whole = held_at(model, "constant", share, 3, sites)
            orders += [whole, in_layer(whole, 0), in_layer(whole, 2), in_layer(whole, 3)]
    orders += [held_at(model, "joint", 0.5), in_layer(held_at(model, "noise", 0.5), 2, 3)]
    mine = few(model)
    other = replace(mine, inputs=np.where(mine.inputs > 99, mine.inputs - 7, mine.inputs))
    given = {"others": Donors(passes=((other,),))}
    assert_shared_is_unshared(model, orders, [mine], given=given)


def few(model: Model) -> Batch:
    """Return three sequences of a bundled model, of different lengths where they are texts."""
    rng, sequence = np.random.default_rng(3), np.array([2, 0, 1])
    if model.facts.image is not None:
        pixels = rng.integers(0, 256, (3, *model.facts.image)).astype(np.uint8)
        return Batch(sequence=sequence, inputs=pixels, attended=None, targets=np.zeros((3, 1), int))
    attended_ST = np.arange(24) < np.array([24, 9, 17])[:, None]
    ids_ST = np.where(attended_ST, rng.integers(5, model.facts.vocabulary, (3, 24)), 1)
    targets_ST = np.where(attended_ST, ids_ST, -100)
    return Batch(sequence=sequence, inputs=ids_ST, attended=attended_ST, targets=targets_ST)


@given(data=st.data())
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("name", ["opt", "roberta", "timm-vit"])
def test_an_answer_does_not_depend_on_where_other_cells_begin_or_on_their_order(
    name: str, home: Path, data: st.DataObject
) -> None:
    model = loaded(name, home, "float32")
    every = mixed(model)
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=7, unique_by=id))
    kl = data.draw(st.booleans())
    mine = batches(model)[:1]
    for order, answer in zip(chosen, run(model, chosen, mine, kl), strict=True):
        with unshared():
            (alone,) = run(model, [order], mine, kl)
        assert same(answer, alone), order.cell


@contextmanager
def counting(model: Model) -> Iterator[Counter[str]]:
    """Count the calls of matrices that were made to the end, by their paths."""
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for path, module in model.module.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                watch = module.register_forward_hook(lambda *_, path=path: calls.update([path]))
                stack.callback(watch.remove)
        yield calls


def fresh(model: Model, orders: Sequence[CellOrder]) -> Model:
    """Find out what can be shared, so that what is counted afterwards is the cells alone."""
    run(model, orders, [tiny.batch(model, [0])])
    return model


def test_the_first_attention_runs_once_for_all_cells_of_a_batch(home: Path) -> None:
    model = tiny.shared("opt", home)
    orders = [constant(model, share) for share in (0.2, 0.4, 0.6, 0.8)]
    orders.append(held_at(model, "noise", 0.5))
    fresh(model, orders)
    with counting(model) as calls:
        run(model, orders)
    layers = "model.decoder.layers"
    assert calls[f"{layers}.0.self_attn.q_proj"] == 3  # batches
    assert calls[f"{layers}.0.self_attn.out_proj"] == 3 * 5
    assert calls[f"{layers}.0.fc1"] == calls[f"{layers}.1.self_attn.q_proj"] == 3 * 5


def test_cells_that_hold_one_layer_each_run_half_of_the_layers(home: Path) -> None:
    model = tiny.shared("mistral", home)
    whole = constant(model, 0.5)
    orders = [baseline(model), *(in_layer(whole, layer) for layer in (1, 0, 2))]
    fresh(model, orders)
    with counting(model) as calls:
        run(model, orders)
    for layer in range(3):
        path = f"model.layers.{layer}"
        assert calls[f"{path}.self_attn.q_proj"] == 3 * (1 + layer)
        assert calls[f"{path}.self_attn.o_proj"] == 3 * (2 + layer)
        assert calls[f"{path}.mlp.down_proj"] == 3 * (2 + layer)


@pytest.mark.parametrize(
    ("name", "inside", "projection"),
    [
        ("opt", "self_attn.q_proj", "self_attn.out_proj"),
        ("mistral", "self_attn.q_proj", "self_attn.o_proj"),
        ("roberta", "attention.self.query", "attention.output.dense"),
        ("vit", "attention.q_proj", "attention.o_proj"),
        ("timm-vit", "attn.qkv", "attn.proj"),
    ],
)
def test_attention_does_not_run_where_all_its_neurons_are_constants(
    name: str, inside: str, projection: str, home: Path
) -> None:
    model = tiny.shared(name, home)
    whole = constant(model, 1.0)
    fresh(model, [whole])
    for orders, runs in [([whole], 0), ([constant(model, 0.5), whole], 1)]:
        with counting(model) as calls:
            run(model, orders)
        for layer in range(3):
            path = f"{model.family.layers}.{layer}"
            assert calls[f"{path}.{inside}"] == 3 * runs
            assert calls[f"{path}.{projection}"] == 3 * len(orders)


@families
def test_where_the_deepest_pass_holds_all_neurons_others_still_begin_there(
    name: str, home: Path
) -> None:
    model = loaded(name, home, "float32")
    for sites in (ATTENTION, SITES[1:]):
        whole = held_at(model, "constant", 1.0, 1, sites)
        again, part = replace(whole, cell="again"), held_at(model, "constant", 0.5, 2, sites)
        assert_shared_is_unshared(model, [whole, again, part])
        assert_shared_is_unshared(model, [whole, again])


def test_neurons_that_are_not_finite_do_not_let_an_answer_depend_on_other_cells(
    home: Path,
) -> None:
    model = tiny.model("mistral", home)
    model.module.get_submodule("model.layers.0.self_attn.q_proj").weight.data[0, 0] = torch.inf
    prefix._known.pop(model.module, None)
    whole = constant(model, 1.0)
    again = replace(whole, cell="again")
    (alone,) = run(model, [whole])
    for others in ([again], [constant(model, 0.5), again], [baseline(model)]):
        assert same(run(model, [*others, whole])[-1], alone)


def state(model: Model) -> list[tuple[str, list[str]]]:
    return [(path, sorted(module.__dict__)) for path, module in model.module.named_modules()]


@families
def test_nothing_is_left_of_a_stub_also_after_an_error(name: str, home: Path) -> None:
    model = loaded(name, home, "float32")
    orders = [baseline(model), constant(model, 0.5), constant(model, 1.0), resampled(model, 0.5)]
    fresh(model, orders)
    before, passes = state(model), 0
    run(model, orders)
    assert state(model) == before
    head = model.module.get_submodule(f"{model.family.layers}.2")
    for survived in range(5):
        left = survived

        def fail(*_: object) -> None:
            nonlocal left, passes
            if not left:
                raise MemoryError("no more")
            left, passes = left - 1, passes + 1

        watch = head.register_forward_hook(fail)
        with pytest.raises(MemoryError):
            run(model, orders)
        watch.remove()
        assert state(model) == before
        assert hooks_left(model) == 0
    assert passes == sum(range(5))


def test_somebody_elses_forward_is_put_back(home: Path) -> None:
    model = tiny.model("opt", home)
    attention = model.module.get_submodule("model.decoder.layers.0.self_attn")
    real = attention.forward
    attention.forward = lambda *args, **kwargs: real(*args, **kwargs)
    mine = attention.__dict__["forward"]
    assert_shared_is_unshared(model, [constant(model, 0.5), constant(model, 1.0)])
    assert attention.__dict__["forward"] is mine


class Adding(nn.Module):
    """Attention that adds to what its projection returned, in place, and returns that."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner = attention
        self.out_proj = attention.out_proj

    def forward(self, hidden_states: Tensor, **kwargs: object) -> tuple[Tensor, None]:
        out_STD, _ = self.inner(hidden_states=hidden_states, **kwargs)
        out_STD += 0.5 * hidden_states
        return out_STD, None


def test_attention_that_writes_to_what_was_projected_is_still_shared_rightly(home: Path) -> None:
    model = tiny.model("opt", home)
    for layer in model.module.get_submodule(model.family.layers).children():
        layer.self_attn = Adding(layer.self_attn)
    holders = [start.holder for start in find_shortcuts(model, batches(model)[0]).starts.values()]
    assert [holder and holder.endswith("self_attn") for holder in holders[::2]] != [True] * 3
    whole = constant(model, 0.5)
    orders = [baseline(model), whole, in_layer(whole, 1), in_layer(constant(model, 1.0), 1, 2)]
    assert_shared_is_unshared(model, orders)


class Writing(nn.Module):
    """Attention that leaves something behind for the MLP, which no one sees."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner, self.out_proj = attention, attention.out_proj
        self.note: Tensor | None = None

    def forward(self, hidden_states: Tensor, **kwargs: object) -> tuple[Tensor, None]:
        self.note = hidden_states.mean(dim=(1, 2), keepdim=True)
        answer: tuple[Tensor, None] = self.inner(hidden_states=hidden_states, **kwargs)
        return answer


def test_a_model_whose_modules_leave_notes_for_others_shares_nothing_and_says_so(
    home: Path,
) -> None:
    model = tiny.model("opt", home)
    for layer in model.module.get_submodule(model.family.layers).children():
        layer.self_attn = Writing(layer.self_attn)

        def read(_: nn.Module, __: object, out: Tensor, layer: nn.Module = layer) -> Tensor:
            return out + layer.self_attn.note.mean()

        layer.fc2.register_forward_hook(read)
    orders = [resampled(model, 0.5), constant(model, 0.5), in_layer(constant(model, 1.0), 1)]
    with unshared():
        expected = run(model, orders)
    assert all(map(same, run(model, orders), expected))
    assert "begun at (0, 1)" in (prefix.usable(model) or "")


def test_a_model_that_calls_a_layer_twice_shares_nothing_and_says_so(home: Path) -> None:
    model = tiny.model("mistral", home)
    layers = model.module.get_submodule(model.family.layers)
    layers[1].register_forward_hook(
        lambda layer, args, kwargs, out: (
            out if "twice" in kwargs else layer(out, **{**kwargs, "twice": True})
        ),
        with_kwargs=True,
    )
    orders = [constant(model, 0.5), constant(model, 0.4)]
    with unshared():
        expected = run(model, orders)
    assert all(map(same, run(model, orders), expected))
    assert "once each" in (prefix.usable(model) or "")


def test_hooks_of_others_act_as_often_as_without_sharing(home: Path) -> None:
    model = tiny.model("roberta", home)
    for path in ("attention.self", "attention.output.dense", "intermediate", ""):
        for layer in model.module.get_submodule(model.family.layers).children():
            module = layer.get_submodule(path)
            module.register_forward_hook(
                lambda _, __, out: (1.5 * out[0], *out[1:]) if isinstance(out, tuple) else 1.5 * out
            )
    whole = constant(model, 0.5)
    orders = [baseline(model), whole, in_layer(whole, 1), held_at(model, "noise", sites=SITES[1:])]
    assert_shared_is_unshared(model, orders)


def test_donors_run_no_further_than_their_activations_are_taken(home: Path) -> None:
    model = tiny.shared("vit", home)
    order = in_layer(resampled(model, 0.5), 0, 1)
    with counting(model) as calls, unshared():
        run(model, [order])
    assert calls["vit.layers.1.attention.q_proj"] == 3 * 2
    assert calls["vit.layers.1.attention.o_proj"] == 3  # a donors' pass ends before it
    assert calls["vit.layers.2.attention.q_proj"] == 3
    batch = batches(model)[0]
    every = activations(model, {site: range(model.facts.layers) for site in SITES}, batch)
    some = activations(model, {"attn_pre_out": {1}, "mlp_mid": {0, 1}}, batch)
    for site, layers in {"attn_pre_out": {1}, "mlp_mid": {0, 1}}.items():
        for layer, (x_STN, all_STN) in enumerate(zip(some[site], every[site], strict=True)):
            assert torch.equal(x_STN, all_STN) if layer in layers else not x_STN.numel()


@families
def test_what_is_recorded_takes_no_more_memory_than_is_said(name: str, home: Path) -> None:
    model, facts = loaded(name, home, "bfloat16"), loaded(name, home, "bfloat16").facts
    batch = tiny.batch(model, [0, 1, 2])
    positions = 3 * (batch.inputs.shape[1] if batch.attended is not None else facts.window)
    found = find_shortcuts(model, batch)
    for site, place in [(site, (layer, i)) for layer in range(3) for i, site in enumerate(SITES)]:
        with torch.inference_mode(), kept_at(model.module, found, [place]) as kept:
            hooks.hidden(model, batch)
        tensors = [leaf for answer in kept.answers.values() for leaf in answer.leaves]
        tensors += list(kept.fed.values())
        assert all(t is None or t.dtype == model.dtype for t in tensors)
        values = sum(t.numel() for t in tensors if t is not None)
        copies = (place[0] > 0) + (site == "mlp_mid")
        said = positions * (copies * facts.d_model + facts.neurons_at(site))
        assert said <= values <= said + (0 if facts.image is None else positions * facts.d_model)


class Standing:
    """What stands for a compiled model: it answers as the model does, and counts."""

    def __init__(self, model: Model) -> None:
        self.model, self.calls = model, 0

    def hidden(self, batch: Batch) -> Tensor:
        self.calls += 1
        assert not any("forward" in module.__dict__ for module in self.model.module.modules())
        return hooks.hidden(self.model, batch)


@pytest.mark.parametrize("kl", [False, True])
def test_cells_that_fold_run_through_the_compiled_model_and_all_others_share(
    kl: bool, home: Path
) -> None:
    model = tiny.shared("vit", home)
    folding = [baseline(model), constant(model, 0.5), constant(model, 1.0)]
    hooked = [held_at(model, kind, 0.5) for kind in ("noise", "joint")]
    orders = [folding[0], hooked[0], *folding[1:], hooked[1]]
    expected, mine, compiled = run(model, orders, kl=kl), batches(model), Standing(model)
    with counting(model) as calls:
        answers = evaluate(
            model,
            mine,
            orders,
            needed(orders, donors(model)),
            logits_bytes=BUDGET,
            kl=kl,
            compiled=compiled,
        )
    assert all(map(same, answers, expected))
    assert compiled.calls == 3 * len(folding)
    assert calls["vit.layers.0.attention.q_proj"] == 3 * (len(folding) + 2)  # one, and donors


def test_held_says_where_a_cell_begins_and_which_places_it_fills(home: Path) -> None:
    model = tiny.shared("opt", home)
    whole = in_layer(held_at(model, "constant", 1.0, 0, SITES), 1, 2)
    found = prefix.held_by(model, whole, folded=True)
    assert found.first == (1, 0)
    assert found.full == {(1, 0), (1, 1), (2, 0), (2, 1)}
    assert prefix.held_by(model, whole, folded=False).full == set()
    assert prefix.held_by(model, replace(whole, share=0.5), folded=True).full == set()
    assert prefix.held_by(model, baseline(model), folded=True) == prefix.BARE
    mlp = replace(whole, holds=whole.holds[1:])
    assert prefix.held_by(model, mlp, folded=True).first == (1, 1)
