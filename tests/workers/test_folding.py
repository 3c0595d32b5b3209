"""Folding: undone to the bit, and never believed without proof.

Shapes: N inputs of a projection, H held of them.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.workers import tiny
from tests.workers.holding import (
    Held,
    bits,
    difference,
    hooked_at,
    hooks_left,
    projections,
    random_held,
    random_values,
)
from workers import additions, folding, hooks
from workers.ablation import AblationError, folded
from workers.folding import Fold
from workers.loading import Model

families = pytest.mark.parametrize("name", tiny.NAMES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def prepared(model: Model, held: Held, values: NDArray[np.float64], share: float = 1.0) -> Fold:
    return Fold(lambda: hooks.projections(model, "attn_pre_out"), held, values, share)


@dtypes
@families
def test_leaving_restores_every_bit_also_after_an_error(name: str, dtype: str, home: Path) -> None:
    model = tiny.model(name, home, dtype)
    hooks.projections(model, "attn_pre_out")[0].weight.data[0, :3] = -0.0
    before, had_bias = bits(model), [p.bias is not None for p in projections(model)]
    fold = prepared(model, random_held(model, 0.5), random_values(model))
    for _ in range(3):
        with fold:
            assert bits(model) != before
    with pytest.raises(KeyError), fold:  # noqa: PT012 - the block is what is under test
        hooks.logits(model, tiny.batch(model, [0]))
        raise KeyError("something of the user's")
    assert bits(model) == before
    assert [p.bias is not None for p in projections(model)] == had_bias
    assert hooks_left(model) == 0


def test_a_missing_bias_exists_only_while_folded(home: Path) -> None:
    model = tiny.model("mistral", home)
    assert all(p.bias is None for p in projections(model))
    with folded(model, "attn_pre_out", random_held(model, 0.5), random_values(model)):
        assert all(p.bias is not None for p in projections(model))
    assert all(p.bias is None for p in projections(model))
    assert not [key for key in model.module.state_dict() if key.endswith("o_proj.bias")]


def test_what_was_loaded_is_never_written_to_and_cloned_only_once(home: Path) -> None:
    model = tiny.model("opt", home)
    projection = projections(model)[0]
    assert projection.bias is not None
    loaded = [projection.weight.data, projection.bias.data]  # the pages that others may share
    copies, addresses = [tensor.clone() for tensor in loaded], []
    fold = prepared(model, random_held(model, 0.5), random_values(model))
    for _ in range(2):
        with fold:
            addresses.append((projection.weight.data_ptr(), projection.bias.data_ptr()))
            assert all(map(torch.equal, loaded, copies))
            assert not torch.equal(projection.weight, loaded[0])
    assert addresses[0] == addresses[1]
    assert not set(addresses[0]) & {tensor.data_ptr() for tensor in loaded}


def test_values_put_in_since_the_first_fold_are_what_is_restored(home: Path) -> None:
    model = tiny.model("opt", home)
    held, values = random_held(model, 0.5), random_values(model)
    with folded(model, "attn_pre_out", held, values):
        pass
    fresh = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    projections(model)[1].weight.data = fresh
    with folded(model, "attn_pre_out", held, values):
        pass
    assert torch.equal(projections(model)[1].weight, fresh)


def test_a_folded_model_can_still_be_trained_afterwards(home: Path) -> None:
    model = tiny.model("opt", home)
    with (
        torch.inference_mode(),
        folded(model, "attn_pre_out", random_held(model, 0.5), random_values(model)),
    ):
        pass
    projection = projections(model)[0].requires_grad_(True)
    projection(torch.ones(1, 32)).sum().backward()
    assert projection.weight.grad is not None


@dtypes
def test_an_ablation_that_touched_only_a_copy_is_refused(
    dtype: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("opt", home, dtype)
    before = bits(model)
    monkeypatch.setattr(
        folding, "_own", lambda projection, name: getattr(projection, name).detach().clone()
    )
    held, values = random_held(model, 0.5), random_values(model)
    with pytest.raises(AblationError, match=r"16 columns .* read back .*, 0 are \(not the right"):
        folded(model, "attn_pre_out", held, values).__enter__()
    assert bits(model) == before
    assert hooks_left(model) == 0


def test_a_bias_that_went_elsewhere_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = tiny.model("opt", home), folding._own
    before = bits(model)
    monkeypatch.setattr(
        folding,
        "_own",
        lambda projection, name: (
            own(projection, name).clone() if name == "bias" else own(projection, name)
        ),
    )
    with pytest.raises(AblationError, match=r"the right ones.* bias does not agree"):
        folded(model, "attn_pre_out", random_held(model, 0.5), random_values(model)).__enter__()
    assert bits(model) == before


def test_a_module_swapped_after_preparing_is_the_one_that_is_folded(home: Path) -> None:
    model = tiny.model("opt", home)
    held, values, batch = random_held(model, 0.5), random_values(model), tiny.batch(model, [0])
    fold = prepared(model, held, values)
    attention = model.module.get_submodule("model.decoder.layers.1.self_attn")
    attention.out_proj = copy.deepcopy(attention.out_proj)
    with hooked_at(model, held, values):
        expected = hooks.logits(model, batch)
    with fold:
        assert difference(hooks.logits(model, batch), expected) < 1e-5


@dtypes
def test_columns_that_were_zero_before_count_as_held_and_are_counted_apart(
    dtype: str, home: Path
) -> None:
    model = tiny.model("opt", home, dtype)
    projections(model)[0].weight.data[:, [3, 4, 9]] = 0
    held = (np.array([3, 4, 5]), np.array([7]), np.empty(0, np.int64))  # and 9 is not told
    with folded(model, "attn_pre_out", held, random_values(model)) as proof:
        pass
    assert (proof.told, proof.held, proof.zero_before) == (4, 4, 2)


def test_below_float32_the_offset_is_not_rounded_into_the_bias() -> None:
    projection = nn.Linear(2, 1, dtype=torch.bfloat16)
    projection.weight.data = torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16)
    projection.bias.data = torch.tensor([256.0], dtype=torch.bfloat16)
    x_N = torch.tensor([-256.0, 9.0], dtype=torch.bfloat16)
    with folding.Fold(lambda: [projection], [np.array([1])], np.array([[0.0, 0.75]])):
        assert projection.bias.item() == 256  # 256.375 would have been stored as 256
        assert projection(x_N).item() == 0.375


def test_an_offset_that_one_layer_never_added_is_refused() -> None:
    layers = [nn.Linear(2, 2, dtype=torch.bfloat16) for _ in range(2)]
    held = [np.array([0]), np.array([1])]
    fold = folding.Fold(lambda: layers, held, np.ones((2, 2)))
    with pytest.raises(AblationError, match=r"never added in layers \[1\]"), fold:
        layers[0](torch.ones(2, dtype=torch.bfloat16))


def test_a_second_fold_of_the_same_projections_is_refused(home: Path) -> None:
    model = tiny.model("opt", home)
    held, values = random_held(model, 0.5), random_values(model)
    fold = prepared(model, held, values)
    with folded(model, "attn_pre_out", held, values):
        with pytest.raises(AblationError, match="folded already"):
            prepared(model, held, values)
        with pytest.raises(AblationError, match="folded already"):
            fold.__enter__()
    with fold as proof:
        assert proof.held == proof.told


def test_both_sites_can_be_folded_at_once(home: Path) -> None:
    model = tiny.model("roberta", home)
    before, wide = bits(model), np.full((3, 48), 0.25)
    with (
        folded(model, "attn_pre_out", random_held(model, 0.5), random_values(model)),
        folded(model, "mlp_mid", (np.arange(48),) * 3, wide) as proof,
    ):
        hooks.logits(model, tiny.batch(model, [0]))
    assert proof.held == 3 * 48
    assert bits(model) == before


@pytest.mark.parametrize(
    ("held", "spoil", "said"),
    [
        ([5, 3], None, "not ascending"),
        ([3, 3], None, "not ascending"),
        ([-1], None, "not ascending"),
        ([32], None, "not ascending"),
        ([3], np.nan, "Neuron 3 of layer 1 was to be held at nan"),
        ([3], np.inf, "Neuron 3 of layer 1 was to be held at inf"),
    ],
)
def test_orders_that_do_not_fit_are_refused(
    held: list[int], spoil: float | None, said: str, home: Path
) -> None:
    model, empty = tiny.shared("opt", home), np.empty(0, np.int64)
    values = random_values(model)
    if spoil is not None:
        values[1, 3] = spoil
        values[1, 4] = np.nan  # not held, so nobody's concern
    with pytest.raises(ValueError, match=said):
        prepared(model, (empty, np.array(held), empty), values)


def test_orders_of_another_shape_are_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    held, values = random_held(model, 0.5), random_values(model)
    with pytest.raises(ValueError, match=r"\(3, 31\).* 3 layers of 32 neurons"):
        prepared(model, held, values[:, :-1])
    with pytest.raises(ValueError, match="held in 2 layers"):
        prepared(model, held[:2], values)


@pytest.mark.parametrize("share", [0.001, 0.25, 0.999])
@families
def test_a_soft_mixture_scales_the_columns_and_is_undone_to_the_bit(
    name: str, share: float, home: Path
) -> None:
    model = tiny.model(name, home)
    held, values, batch = random_held(model, 0.5), random_values(model), tiny.batch(model, [0])
    hooks.projections(model, "attn_pre_out")[0].weight.data[0, :3] = -0.0
    before, saved = bits(model), [p.weight.clone() for p in projections(model)]
    biases = [None if p.bias is None else p.bias.clone() for p in projections(model)]
    fold = prepared(model, held, values, share)
    for _ in range(2):
        with fold as proof:
            for layer, projection in enumerate(projections(model)):
                expected_DN = saved[layer].double()
                expected_DN[:, held[layer]] *= 1 - share
                assert torch.allclose(projection.weight.double(), expected_DN, rtol=1e-6, atol=0)
                constant_N = torch.zeros(expected_DN.shape[1]).double()
                constant_N[held[layer]] = torch.from_numpy(values[layer, held[layer]])
                added_D = share * (saved[layer].double() @ constant_N)
                was_D = 0 if (bias := biases[layer]) is None else bias.double()
                assert torch.allclose(projection.bias.double(), was_D + added_D, atol=1e-6)
            hooks.logits(model, batch)
        assert proof.told == proof.held == sum(map(len, held))
    assert bits(model) == before
    assert [p.bias is None for p in projections(model)] == [b is None for b in biases]


def test_a_soft_mixture_that_touched_only_a_copy_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("opt", home)
    projections(model)[0].weight.data[:, [3, 4]] = 0  # these are as they should be in any case
    before = bits(model)
    monkeypatch.setattr(
        folding, "_own", lambda projection, name: getattr(projection, name).detach().clone()
    )
    held = (np.array([3, 4, 5]), np.array([7]), np.empty(0, np.int64))
    with pytest.raises(AblationError, match=r"Layer 0: 3 columns .* read back .*, 2 are \(not the"):
        prepared(model, held, random_values(model), 1e-4).__enter__()
    assert bits(model) == before


def test_columns_that_were_zero_before_count_as_held_in_a_soft_mixture_too(home: Path) -> None:
    model = tiny.model("opt", home)
    projections(model)[0].weight.data[:, [3, 4, 9]] = 0
    held = (np.array([3, 4, 5]), np.array([7]), np.empty(0, np.int64))
    with prepared(model, held, random_values(model), 0.5) as proof:
        pass
    assert (proof.told, proof.held, proof.zero_before) == (4, 4, 2)


def test_below_float32_a_soft_mixture_cannot_pass_for_folded(home: Path) -> None:
    model = tiny.model("opt", home, "bfloat16")
    before = bits(model)
    with pytest.raises(AblationError, match="not the right ones"):
        prepared(model, random_held(model, 0.5), random_values(model), 0.3).__enter__()
    assert bits(model) == before
    assert hooks_left(model) == 0


def test_what_stands_already_is_written_to_and_left_standing(home: Path) -> None:
    model = tiny.model("mistral", home, "bfloat16")
    held, values, batch = random_held(model, 0.5), random_values(model), tiny.batch(model, [0])
    with folded(model, "attn_pre_out", held, values):
        expected = hooks.logits(model, batch)
    bare = hooks.logits(model, batch)
    standing = [additions.Addition(projection) for projection in projections(model)]
    buffers = [addition.offset_D.data_ptr() for addition in standing]
    for _ in range(2):
        with folded(model, "attn_pre_out", held, values):
            assert hooks_left(model) == len(standing)
            assert all((addition.offset_D != 0).any() for addition in standing)
            assert torch.equal(hooks.logits(model, batch), expected)
        assert torch.equal(hooks.logits(model, batch), bare)
        assert all(addition.offset_D.signbit().all() for addition in standing)  # minus zero
    assert [additions.standing(p) for p in projections(model)] == standing
    assert [addition.offset_D.data_ptr() for addition in standing] == buffers
    for projection in projections(model):
        additions.take_down(projection)
    assert hooks_left(model) == 0
    assert not [name for name, _ in model.module.named_buffers() if "offset" in name]


def test_a_standing_offset_that_one_layer_never_added_is_refused() -> None:
    layers = [nn.Linear(2, 2, dtype=torch.bfloat16) for _ in range(2)]
    for layer in layers:
        additions.Addition(layer)
        layer(torch.ones(2, dtype=torch.bfloat16))  # earlier calls do not count
    fold = folding.Fold(lambda: layers, [np.array([0]), np.array([1])], np.ones((2, 2)))
    with pytest.raises(AblationError, match=r"never added in layers \[1\]"), fold:
        layers[0](torch.ones(2, dtype=torch.bfloat16))


def test_an_offset_that_was_never_written_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("opt", home, "bfloat16")
    before, add = bits(model), folding.add
    monkeypatch.setattr(
        folding, "add", lambda projection, offset_D, undo: add(projection, 0 * offset_D, undo)
    )
    with pytest.raises(AblationError, match=r"the right ones.* bias does not agree"):
        folded(model, "attn_pre_out", random_held(model, 0.5), random_values(model)).__enter__()
    assert bits(model) == before
    assert hooks_left(model) == 0
