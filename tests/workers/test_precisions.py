"""A model in half precision says nearly what it says in float32, on a CPU and on a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tests.workers import tiny
from tests.workers.cells import BUDGET
from workers.collect import collect, pilot, windows_from
from workers.counting import Counter
from workers.evaluate import evaluate
from workers.histogram import Histogram
from workers.loading import Model
from workers.messages import CellAnswer, CellOrder, Constant, Donated, Donors, Hold

Half = Literal["float16", "bfloat16"]
HALVES = ("float16", "bfloat16")
FAMILIES = ("opt", "mistral", "roberta", "vit")
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance of two numbers that follow each other, as a share of the first."""


def moved(model: Model) -> Model:
    """Return the model on the GPU."""
    ref = replace(model.ref, device="cuda")
    return replace(model, module=model.module.to("cuda"), ref=ref)


def answers(model: Model, seed: int = 0) -> list[CellAnswer]:
    """Return what the bare model says, and with half its neurons held in three ways."""
    facts, batch = model.facts, tiny.batch(model, [0, 1, 2])
    values_LN = np.random.default_rng(seed).normal(size=(facts.layers, facts.neurons), scale=0.1)
    held = tuple(np.arange(0, facts.neurons, 2) for _ in range(facts.layers))

    def cell(name: str, value: Any, share: float = 1.0) -> CellOrder:
        hold = Hold(site="attn_pre_out", held=held, value=value)
        return CellOrder(cell=name, holds=(hold,), share=share)

    orders = [
        CellOrder(cell="bare"),
        cell("folded", Constant(values=values_LN)),
        cell("mixed", Constant(values=values_LN), 0.5),
        cell("donated", Donated(donors="d")),
    ]
    given = {"d": Donors(passes=((tiny.batch(model, [0, 1, 2]),),))}
    return evaluate(model, [batch], orders, given, logits_bytes=BUDGET)


def counted(model: Model) -> Histogram:
    batches = [tiny.batch(model, [0, 1, 2])]
    windows = pilot(model, batches, site="attn_pre_out", seed=0)
    return collect(model, batches, site="attn_pre_out", windows=windows, shard=0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_in_half_precision_are_those_of_float32_but_for_rounding(
    name: str, dtype: Half, home: Path
) -> None:
    whole, half = (answers(tiny.model(name, home, d)) for d in ("float32", dtype))
    for a, b in zip(whole, half, strict=True):
        assert b.told == b.held
        assert (b.nan == 0).all()
        np.testing.assert_allclose(b.loss, a.loss, rtol=20 * ROUNDING[dtype])
    # What holding does is larger than what rounding does.
    assert abs(half[1].loss.sum() - half[0].loss.sum()) > abs(
        half[0].loss.sum() - whole[0].loss.sum()
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_activations_in_half_precision_are_those_of_float32_but_for_rounding(
    dtype: Half, home: Path
) -> None:
    whole, half = (counted(tiny.model("opt", home, d)) for d in ("float32", dtype))
    assert (half.finite == whole.finite).all()
    span = np.maximum(whole.maximum - whole.minimum, 1e-6)
    assert (np.abs(half.maximum - whole.maximum) < 40 * ROUNDING[dtype] * span).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_says_what_a_cpu_says_but_for_rounding(name: str, dtype: Any, home: Path) -> None:
    cpu = answers(tiny.model(name, home, dtype))
    gpu = answers(moved(tiny.model(name, home, dtype)))
    for a, b in zip(cpu, gpu, strict=True):
        assert b.told == b.held == a.told
        np.testing.assert_allclose(b.loss, a.loss, rtol=20 * ROUNDING.get(dtype, 1e-5))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equal_activations_are_counted_equally_on_cpu_and_gpu(dtype: torch.dtype) -> None:
    values_PN = torch.randn(5000, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    windows = windows_from([values_PN[:1000]])
    made = []
    for device in ("cpu", "cuda"):
        counter = Counter(windows, torch.device(device))
        counter.add(values_PN.to(device))
        made.append(counter.histogram(0))
    for field in ("counts", "zeros", "below", "above", "positive", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(made[0], field), getattr(made[1], field))
