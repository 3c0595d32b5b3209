"""Logits: what a model says, position by position, while some of its neurons are held.

A sweep keeps sums over positions, because the logits of all of its cells would fill any disk.
Whoever wants to look inside one cell asks for them again: this runs the same forward
pass as `workers.evaluate`, on the same batches and with the same values put in, and hands on
what the head says of every position that is attended.

Sequences come one at a time, so that only those that are kept take memory: one of T positions
has T x V numbers of 4 bytes. Below float32 the head computes in the model's dtype, and what it
says is converted.

That neurons were held is measured as in evaluation; where it was not, there are no logits.

Shapes: S sequences, T positions, V tokens or classes, D width of the head's input, K passes of
donors, L layers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks
from workers.ablation import AblationError, entered, folds_into, prepare_folds
from workers.asked import check
from workers.loading import Model
from workers.messages import Batch, CellOrder, Donors
from workers.positions import attended
from workers.replacing import Replacement, donated


def logits(
    model: Model,
    batches: Sequence[Batch],
    order: CellOrder,
    donors: Mapping[str, Donors],
    *,
    wanted: Collection[int] | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield sequence number and logits, (T, V) over its attended positions; images (1, V).

    In the order of `batches`; of the sequences `wanted` alone, all where it is None. `donors`
    are as `workers.evaluate.evaluate` takes them. Batches without a wanted sequence do not run.
    Raises ValueError where order, batches and donors do not fit together, and AblationError where
    what was held is not what was told.
    """
    check(model, batches, [order], donors)
    widest = max(attended(batch, model.facts).shape[1] for batch in batches)
    for index, batch in enumerate(batches):
        numbers = batch.sequence.tolist()
        rows = [i for i, n in enumerate(numbers) if wanted is None or n in wanted]
        if not rows:
            continue
        hidden_STD = _hidden(model, batch, order, donors, index, widest)
        for row in rows:
            yield numbers[row], _scores(model, batch, row, hidden_STD[row])


@torch.inference_mode()
def _hidden(
    model: Model,
    batch: Batch,
    order: CellOrder,
    donors: Mapping[str, Donors],
    index: int,
    widest: int,
) -> Tensor:
    """Return what the head is fed in one batch while the cell's neurons are held, (S, T, D)."""
    if folds_into(model, order):
        with entered(prepare_folds(model, order)) as proof:
            hidden_STD = hooks.hidden(model, batch)
        told, held = proof.told, proof.held
    else:
        given = donated(model, [order], donors, index)
        with Replacement(model, order, widest).on(batch, given) as count:
            hidden_STD = hooks.hidden(model, batch)
        told, held = count.told, count.held()
    if told != held:
        raise AblationError(
            f"Cell {order.cell}: {told} were to be held, {held} were. Something changed them after"
            " they were put in; remove other hooks from the model."
        )
    return hidden_STD


@torch.inference_mode()
def _scores(model: Model, batch: Batch, row: int, hidden_TD: Tensor) -> NDArray[np.float32]:
    if batch.attended is not None:
        hidden_TD = hidden_TD[torch.from_numpy(batch.attended[row]).to(hidden_TD.device)]
    logits_TV: NDArray[np.float32] = hooks.scores(model, hidden_TD).float().cpu().numpy()
    return logits_TV
