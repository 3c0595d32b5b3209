"""Ablation: folding is the same as hooking, for every family.

Tolerances. In float32, fold and hook differ by rounding of sums of some fifty
terms: 1e-5 of the largest logit after three layers. In bfloat16 the hook also
rounds the constant, and three layers carry it on: 5 %.

Shapes: L layers, N neurons of one hookpoint, S sequences, T positions, D outputs.
"""

import copy
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.workers import tiny
from tests.workers.cells import held_at
from tests.workers.holding import (
    Held,
    bits,
    difference,
    hooked_at,
    hooks_left,
    plainly,
    projections,
    random_held,
    random_values,
)
from workers import ablation, folding, hooks
from workers.ablation import (
    AblationError,
    ablated,
    checked_by_hook,
    entered,
    folded,
    folds,
    prepare_folds,
)
from workers.loading import Model
from workers.messages import SITES, CellOrder, Constant, Hold, Site

CLOSE = {"float32": 1e-5, "bfloat16": 5e-2}

families = pytest.mark.parametrize("name", tiny.NAMES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def order(held: Held, values: NDArray[np.float64]) -> CellOrder:
    hold = Hold(site="attn_pre_out", held=held, value=Constant(values=values))
    return CellOrder(cell="c", holds=(hold,))


def at_both(model: Model, share: float, alpha: float) -> CellOrder:
    """Return a cell that holds a share of the neurons of both sites, softly."""
    return held_at(model, "constant", share, sites=SITES, alpha=alpha)


@dtypes
@families
def test_folding_equals_hooking(name: str, dtype: str, home: Path) -> None:
    model = tiny.model(name, home, dtype)
    batch = tiny.batch(model, [0, 1, 2])
    bare = hooks.logits(model, batch)
    for share in (0.1, 0.5, 1.0):
        held, values = random_held(model, share), random_values(model)
        with hooked_at(model, held, values):
            by_hook = hooks.logits(model, batch)
        with folded(model, "attn_pre_out", held, values):
            by_fold = hooks.logits(model, batch)
        assert difference(by_fold, by_hook) < CLOSE[dtype]
        assert difference(by_fold, bare) > 4 * CLOSE[dtype]  # there was something to get wrong


@families
@given(data=st.data())
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_held_set_at_any_values_folds_as_it_hooks_and_is_undone(
    name: str, home: Path, data: st.DataObject
) -> None:
    model = tiny.shared(name, home)
    layers, neurons = model.facts.layers, model.facts.neurons
    index = st.integers(0, neurons - 1)
    held = tuple(
        np.array(sorted(data.draw(st.sets(index, max_size=neurons))), dtype=np.int64)
        for _ in range(layers)
    )
    scale = data.draw(st.sampled_from([0.0, 1e-6, 1.0, 30.0]))
    values = scale * random_values(model, seed=data.draw(st.integers(0, 2**31)))
    batch, before = tiny.batch(model, [0, 2]), bits(model)
    with hooked_at(model, held, values):
        by_hook = hooks.logits(model, batch)
    with folded(model, "attn_pre_out", held, values) as proof:
        by_fold = hooks.logits(model, batch)
    assert difference(by_fold, by_hook) < 1e-4
    assert proof.told == proof.held == sum(len(held_H) for held_H in held)
    assert bits(model) == before


@dtypes
@families
def test_holding_nothing_is_the_librarys_own_forward(name: str, dtype: str, home: Path) -> None:
    model = tiny.model(name, home, dtype)
    batch, nothing = tiny.batch(model, [0, 1]), random_held(model, 0)
    library = hooks.logits(model, batch)
    with folded(model, "attn_pre_out", nothing, random_values(model)) as proof:
        assert torch.equal(hooks.logits(model, batch), library)
        assert hooks_left(model) == 0
    assert (proof.told, proof.held) == (0, 0)


@dtypes
@families
def test_all_at_zero_is_attention_replaced_by_the_projections_bias(
    name: str, dtype: str, home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    batch = tiny.batch(model, [0, 1, 2])

    def only_bias(projection: nn.Linear, _: tuple[Tensor], out_STD: Tensor) -> Tensor:
        return torch.zeros_like(out_STD) + (0 if projection.bias is None else projection.bias)

    with ExitStack() as stack:
        for projection in hooks.projections(model, "attn_pre_out"):
            stack.callback(projection.register_forward_hook(only_bias).remove)
        expected = hooks.logits(model, batch)
    zeros = np.zeros((model.facts.layers, model.facts.neurons))
    with folded(model, "attn_pre_out", random_held(model, 1), zeros) as proof:
        assert torch.equal(hooks.logits(model, batch), expected)
    assert proof.held == zeros.size


@families
def test_holding_one_head_at_zero_is_removing_that_head_by_hand(name: str, home: Path) -> None:
    model = tiny.model(name, home)
    batch, d_head, layer, head = tiny.batch(model, [0, 1]), model.facts.d_head, 1, 2
    mine = np.arange(head * d_head, (head + 1) * d_head)
    without = copy.deepcopy(model.module)
    by_hand = Model(module=without, ref=model.ref, family=model.family, pixels=model.pixels)
    hooks.projections(by_hand, "attn_pre_out")[layer].weight.data[:, mine] = 0
    held = tuple(mine if at == layer else np.empty(0, np.int64) for at in range(3))
    with folded(model, "attn_pre_out", held, np.zeros((3, model.facts.neurons))):
        assert torch.equal(hooks.logits(model, batch), hooks.logits(by_hand, batch))


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_a_notebook_holds_masked_neurons_given_as_numpy_or_torch(
    make: type[Tensor], home: Path
) -> None:
    model = tiny.model("vit", home)
    batch, held, values = tiny.batch(model, [0, 1]), random_held(model, 0.5), random_values(model)
    masks = np.zeros(values.shape, np.bool_)
    for mask_N, held_H in zip(masks, held, strict=True):
        mask_N[held_H] = True
    with folded(model, "attn_pre_out", held, values):
        expected = hooks.logits(model, batch)
    with ablated(model, make(masks), make(values)) as proof:
        assert torch.equal(hooks.logits(model, batch), expected)
    assert proof.held == masks.sum()
    with pytest.raises(ValueError, match="masks are int64"):
        ablated(model, masks.astype(np.int64), values).__enter__()


@families
@given(alpha=st.floats(0.001, 0.999), share=st.sampled_from([0.1, 0.5, 1.0]))
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_soft_mixtures_at_both_sites_fold_as_they_hook_and_are_undone(
    name: str, home: Path, alpha: float, share: float
) -> None:
    model = tiny.shared(name, home)
    told, before = at_both(model, share, alpha), bits(model)
    batch = tiny.batch(model, [0, 3])  # no padding, which a fold holds and a hook leaves
    with plainly(model, told, batch, {}):
        by_hook = hooks.logits(model, batch)
    with entered(prepare_folds(model, told)) as proof:
        by_fold = hooks.logits(model, batch)
    assert difference(by_fold, by_hook) < CLOSE["float32"]
    assert proof.told == proof.held == sum(len(held_H) for h in told.holds for held_H in h.held)
    assert bits(model) == before
    assert hooks_left(model) == 0


def test_only_constants_fold_and_soft_mixtures_of_them_only_in_float32(home: Path) -> None:
    model = tiny.model("opt", home, "bfloat16")
    soft, whole = at_both(model, 0.5, 0.5), at_both(model, 0.5, 1.0)
    assert folds(whole, torch.bfloat16)
    assert folds(soft, torch.float32)
    assert not folds(soft, torch.bfloat16)
    assert not folds(held_at(model, "by_position"), torch.float32)
    assert folds(CellOrder(cell="bare"), torch.bfloat16)
    said = r"Cell constant-.* holds Constant at a share of 0.5 in torch.bfloat16, and only"
    with pytest.raises(ValueError, match=said):
        prepare_folds(model, soft)
    with pytest.raises(ValueError, match="holds ByPosition at a share of 1 in"):
        checked_by_hook(model, tiny.batch(model, [0]), held_at(model, "by_position"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@families
def test_the_check_by_a_plain_hook_passes_for_every_family(
    name: str, dtype: str, home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    before, batch = bits(model), tiny.batch(model, [0, 1, 2])
    for share in (0.1, 1.0):
        told = order(random_held(model, share), random_values(model))
        assert 0 <= checked_by_hook(model, batch, told) <= ablation.TOLERANCE[model.dtype]
        for alpha in (0.3, 1.0) if dtype == "float32" else (1.0,):
            joint = at_both(model, share, alpha)
            assert 0 < checked_by_hook(model, batch, joint) <= ablation.TOLERANCE[model.dtype]
    assert bits(model) == before
    assert hooks_left(model) == 0


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("dtype", "alpha"), [("float32", 1), ("float32", 0.6), ("bfloat16", 1)])
def test_the_check_by_a_plain_hook_finds_a_wrong_offset(
    dtype: str, alpha: float, site: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right = tiny.model("roberta", home, dtype), folding._part
    told = at_both(model, 0.5, alpha)
    wide = dict(zip(SITES, (32, 48), strict=True))[site]

    def wrong(
        layer: int, projection: nn.Linear, held_H: NDArray[np.int64], values_N: NDArray[np.float64]
    ) -> object:
        off = 1.3 if layer == 1 and len(values_N) == wide else 1
        return right(layer, projection, held_H, values_N * off)

    monkeypatch.setattr(folding, "_part", wrong)
    with pytest.raises(AblationError, match=rf"Layer 1 at {site}, .*fold and plain hook differ"):
        checked_by_hook(model, tiny.batch(model, [0, 1]), told)


def test_the_check_by_a_plain_hook_finds_a_forward_that_goes_round_the_projection(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("opt", home)
    detached = copy.deepcopy(projections(model))
    monkeypatch.setattr(hooks, "projections", lambda model, site: detached)
    told = order(random_held(model, 0.5), random_values(model))
    with pytest.raises(AblationError, match="never called the output projection"):
        checked_by_hook(model, tiny.batch(model, [0]), told)
