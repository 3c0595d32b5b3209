"""A model whose weights are packed runs, is held at anything, and is never folded into."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers import tiny
from tests.workers.cells import BUDGET
from workers import hooks
from workers.ablation import checked_by_hook, folds, prepare_folds
from workers.canaries import canaries
from workers.collect import collect, pilot
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import SITES, CellOrder, Constant, Hold
from workers.packed import PackingError, is_packed, pack
from workers.parts import at

Dtype = Literal["float32", "bfloat16", "float16"]
pytest.importorskip("torchao")


def packed(name: str, home: Path, dtype: Dtype = "float32") -> Model:
    """Return a tiny model whose layers are packed into 8 bits."""
    model = tiny.model(name, home, dtype)
    pack(at(model.module, model.family.layers), "int8", "cpu")
    return replace(model, ref=replace(model.ref, packed="int8"))


def held_at(model: Model, values_LN: np.ndarray, share: float = 1.0) -> CellOrder:
    """Return a cell that holds every second neuron of every layer."""
    held = tuple(np.arange(0, model.facts.neurons, 2) for _ in range(model.facts.layers))
    hold = Hold(site="attn_pre_out", held=held, value=Constant(values=values_LN))
    return CellOrder(cell="held", holds=(hold,), share=share)


def zeros(model: Model) -> np.ndarray:
    return np.zeros((model.facts.layers, model.facts.neurons))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["opt", "mistral", "roberta", "vit"])
def test_layers_are_packed_and_nothing_else(name: str, dtype: Dtype, home: Path) -> None:
    whole, model = tiny.model(name, home, dtype), packed(name, home, dtype)
    layers = list(at(model.module, model.family.layers))
    inside = {id(part) for layer in layers for part in layer.modules()}
    linears = [part for part in model.module.modules() if type(part) is nn.Linear]
    assert {is_packed(part) for part in linears if id(part) in inside} == {True}
    assert not any(is_packed(part) for part in linears if id(part) not in inside)
    assert model.dtype == whole.dtype
    assert hooks.projections(model, "mlp_mid")[0].weight.shape == (
        hooks.projections(whole, "mlp_mid")[0].weight.shape
    )


def test_eight_bits_move_the_answer_a_little(home: Path) -> None:
    whole, model = tiny.model("opt", home), packed("opt", home)
    batch = tiny.batch(whole, [0, 1, 2])
    with torch.inference_mode():
        a_STD, b_STD = hooks.hidden(whole, batch), hooks.hidden(model, batch)
    off = ((a_STD - b_STD).norm() / a_STD.norm()).item()
    assert 0 < off < 0.02


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_constants_are_put_in_and_counted(dtype: Dtype, share: float, home: Path) -> None:
    model = packed("mistral", home, dtype)
    batch = tiny.batch(model, [3, 1])
    values_LN = np.random.default_rng(0).normal(size=zeros(model).shape)
    order = held_at(model, values_LN, share)
    assert not folds(order, model.dtype, packed=True)
    assert folds(CellOrder(cell="bare"), model.dtype, packed=True)
    with pytest.raises(ValueError, match="none into packed weights"):
        prepare_folds(model, order)
    assert checked_by_hook(model, batch, order) == 0.0
    orders = [CellOrder(cell="bare"), order]
    bare, held = evaluate(model, [batch], orders, {}, logits_bytes=BUDGET)
    assert held.told == held.held > 0
    assert (held.loss != bare.loss).all()
    again, _ = evaluate(model, [batch], orders, {}, logits_bytes=BUDGET)
    np.testing.assert_array_equal(again.loss, bare.loss)


def test_holding_is_what_it_is_on_the_weights_that_were_packed(home: Path) -> None:
    """The same constants fold into a plain model with the weights as packing rounded them."""
    model, plain = packed("opt", home), tiny.model("opt", home)
    for a, b in zip(model.module.modules(), plain.module.modules(), strict=True):
        if type(a) is nn.Linear and is_packed(a):
            b.weight = nn.Parameter(a.weight.dequantize(), requires_grad=False)
    batch = tiny.batch(model, [0, 2])
    order = held_at(model, np.random.default_rng(1).normal(size=zeros(model).shape))
    (put_in,) = evaluate(model, [batch], [order], {}, logits_bytes=BUDGET)
    (folded,) = evaluate(plain, [batch], [order], {}, logits_bytes=BUDGET)
    np.testing.assert_allclose(put_in.loss, folded.loss, rtol=1e-4)


@pytest.mark.parametrize("name", ["opt", "vit"])
def test_canaries_sing_on_packed_models(name: str, home: Path) -> None:
    model = packed(name, home)
    found = canaries(model, tiny.batch(model, [1, 0]), sites=SITES)
    assert found.least > 0.1


def test_activations_are_counted_as_ever(home: Path) -> None:
    model = packed("opt", home, "bfloat16")
    batches = [tiny.batch(model, [0, 1])]
    windows = pilot(model, batches, site="attn_pre_out", seed=0)
    counted = collect(model, batches, site="attn_pre_out", windows=windows, shard=0)
    assert counted.counts.sum() > 0


def test_what_cannot_be_packed_is_refused_with_the_cure(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [nn.Linear(64, 64, dtype=torch.bfloat16)]
    with pytest.raises(PackingError, match=r"4 bits are multiplied in bfloat16 on an NVIDIA GPU"):
        pack(layers, "int4", "cpu")
    with pytest.raises(PackingError, match="no linear weights"):
        pack([nn.LayerNorm(4)], "int8", "cpu")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(PackingError, match=r"needs torchao.*pip install torchao"):
        pack(layers, "int8", "cpu")


@pytest.mark.gpu
def test_four_bits_run_on_a_gpu_and_are_held(home: Path) -> None:
    model = tiny.model("mistral", home, "bfloat16")
    pack(at(model.module, model.family.layers), "int4", "cuda")
    ref = replace(model.ref, packed="int4", device="cuda")
    model = replace(model, module=model.module.to("cuda"), ref=ref)
    batch = tiny.batch(model, [0, 1])
    orders = [CellOrder(cell="bare"), held_at(model, zeros(model) + 0.5)]
    bare, held = evaluate(model, [batch], orders, {}, logits_bytes=BUDGET)
    assert held.told == held.held > 0
    assert (held.loss != bare.loss).all()
