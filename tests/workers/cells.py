"""Cells to evaluate on tiny models, with their batches and donors."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from tests.workers import tiny
from tests.workers.holding import hooked, random_by_position, random_held, random_values
from workers import hooks
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import Batch, CellAnswer, CellOrder

BUDGET = 1 << 20
STARTS = (0, 1, 4, 11)
"""First position of every bucket in `by_position`."""
SUMS = ("sequence", "tokens", "top1", "top10", "loss", "nan")


def batches(model: Model) -> list[Batch]:
    """Return three batches whose numbers are in no order, within or between them."""
    return [tiny.batch(model, [7, 2]), tiny.batch(model, [5, 0, 4]), tiny.batch(model, [3])]


def donors(model: Model, seed: int = 9) -> list[Batch]:
    """Return donors of `batches`: other inputs, row by row at least as long."""
    made = []
    for batch in batches(model):
        other = tiny.batch(model, batch.sequence.tolist(), seed=seed)
        if other.attended is not None:  # all of them as long as can be
            inputs_ST = np.where(other.attended, other.inputs, tiny.VOCABULARY - 1)
            other = replace(other, inputs=inputs_ST, attended=np.ones_like(other.attended))
        made.append(other)
    return made


def baseline(model: Model) -> CellOrder:
    nothing = random_held(model, 0)
    return CellOrder(cell="bare", site="attn_pre_out", held=nothing, values=None, donors=None)


def constant(model: Model, share: float, seed: int = 0) -> CellOrder:
    return CellOrder(
        cell=f"constant-{share}-{seed}",
        site="attn_pre_out",
        held=random_held(model, share, seed),
        values=random_values(model, seed),
        donors=None,
    )


def resampled(model: Model, share: float, seed: int = 0, name: str = "others") -> CellOrder:
    return CellOrder(
        cell=f"resampled-{share}-{seed}-{name}",
        site="attn_pre_out",
        held=random_held(model, share, seed),
        values=None,
        donors=name,
    )


def by_position(model: Model, share: float, seed: int = 0) -> CellOrder:
    return CellOrder(
        cell=f"by-position-{share}-{seed}",
        site="attn_pre_out",
        held=random_held(model, share, seed),
        values=random_by_position(model, len(STARTS), seed),
        donors=None,
        starts=STARTS,
    )


def one(model: Model, order: CellOrder) -> CellAnswer:
    named = {order.donors: donors(model)} if order.donors else {}
    return evaluate(model, batches(model), [order], named, logits_bytes=BUDGET)[0]


def same(a: CellAnswer, b: CellAnswer) -> bool:
    """Equal in every bit but for the time taken."""
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in SUMS)
    return arrays and (a.cell, a.told, a.held) == (b.cell, b.told, b.held)


def activations(model: Model, batch: Batch) -> list[Tensor]:
    kept: list[Tensor] = []

    def keep(_: int, x_STN: Tensor) -> Tensor:
        kept.append(x_STN.clone())
        return x_STN

    with hooked(model, keep):
        hooks.logits(model, batch)
    return kept
