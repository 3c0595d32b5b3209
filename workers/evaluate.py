"""Evaluation: how well a model predicts while some of its neurons are held.

A cell says which neurons are held, and at what:

    nothing     the baseline: the bare model
    constants   folded into the output projection (`workers.ablation`): no hooks
    constants   that differ between buckets of positions: each held activation is
                replaced by the constant of the bucket its position is in
    donors      each held activation is replaced, position by position, by the
                one that the unablated model has there on another input

Batches are outside and cells inside, so what depends on the batch alone is done
once: the donors' pass through the unablated model is made once for each batch
and serves every cell. Everything is held in all layers at once, in one forward
pass. A cell's answer depends on the model, the batches and the cell, and on no
other cell of the call.

That neurons were held is measured: columns are read back from the parameters
(folded constants), and elements that equal what was put in are counted in what
the projection really gets (the other two; an activation can agree by nature, as
two texts do on their first token). An answer is given only where the count is
what was told.

A position is counted from the start of the sequence: special tokens and an
image's prefix are positions too. Padded positions are left as they are.

A donor keeps its activations of all layers at one site on the device: as much
as L x S x T x N values of the model's dtype for each name of donors. Constants
by position take L x Z x N for each cell, and L x T x N while it runs.

Shapes: L layers, S sequences, T positions, Z buckets of positions, N neurons of
one hookpoint, D width of the hidden states.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks, metrics
from workers.ablation import AblationError, prepare_fold
from workers.folding import check_held, check_values
from workers.loading import Model
from workers.messages import Batch, CellAnswer, CellOrder, Site


def evaluate(
    model: Model,
    batches: Sequence[Batch],
    cells: Sequence[CellOrder],
    donors: Mapping[str, Sequence[Batch]],
    *,
    logits_bytes: int,
) -> list[CellAnswer]:
    """Return each cell's answer, in the order of `cells`, over all sequences of `batches`.

    `donors` gives, by name, one batch for each of `batches`, of the same shape:
    its row i is the donor of row i, and is attended wherever row i is.
    `logits_bytes` bounds one float32 tensor of logits. A loss that is not a
    number is counted, not raised. An answer's seconds are the cell's own; the
    donors' pass, which cells share, is in none.

    Raises ValueError where orders, batches and donors do not fit together, and
    AblationError where what was held is not what was told.
    """
    _check(batches, cells, donors)
    with torch.inference_mode():
        widest = max(_attended(model, batch).shape[1] for batch in batches)
        running = [_Running(model, order, widest) for order in cells]
        for index, batch in enumerate(batches):
            given = {
                (name, site): _activations(model, site, donors[name][index])
                for name, site in dict.fromkeys(cell.donors for cell in running if cell.donors)
            }
            for cell in running:
                cell.run(batch, given[cell.donors] if cell.donors else [], logits_bytes)
    order = np.argsort(np.concatenate([batch.sequence for batch in batches]))
    return [cell.answer(batches, order) for cell in running]


class _Running:
    """One cell under way: what holds its neurons, and what has been summed so far."""

    def __init__(self, model: Model, order: CellOrder, widest: int) -> None:
        start = perf_counter()
        self._model, self._order = model, order
        self._told = self._held = 0
        self._sums: list[metrics.Sums] = []
        holds = any(len(held_H) for held_H in order.held)
        constant = holds and order.values is not None
        folds = constant and order.starts is None
        self._fold = prepare_fold(model, order) if folds else None
        self._buckets = _Buckets(model, order, widest) if constant and not folds else None
        self.donors = (order.donors, order.site) if holds and order.donors else None
        self._seconds = perf_counter() - start

    def run(self, batch: Batch, donor_LSTN: Sequence[Tensor], logits_bytes: int) -> None:
        """Add one batch's sums."""
        start = perf_counter()
        if self._fold is not None:
            with self._fold as proof:
                hidden_STD = hooks.hidden(self._model, batch)
            self._told, self._held = proof.told, proof.held  # columns: the same for every batch
        elif self._buckets is not None or self.donors is not None:
            attended_ST = _attended(self._model, batch)
            put_in_L = donor_LSTN
            if self._buckets is not None:
                put_in_L = self._buckets.spread(attended_ST.shape[1])
            with _replaced(self._model, self._order, attended_ST, put_in_L) as count:
                hidden_STD = hooks.hidden(self._model, batch)
            self._told += count.told
            self._held += count.held()
        else:
            hidden_STD = hooks.hidden(self._model, batch)
        sums = metrics.score(
            lambda hidden_MD: hooks.scores(self._model, hidden_MD),
            hidden_STD,
            batch.targets,
            vocabulary=self._model.facts.vocabulary,
            budget=logits_bytes,
        )
        self._sums.append(sums)
        self._seconds += perf_counter() - start

    def answer(self, batches: Sequence[Batch], order: NDArray[np.intp]) -> CellAnswer:
        """Return the sums by ascending sequence number; `order` sorts the batches' numbers."""
        if self._held != self._told:
            raise AblationError(
                f"Cell {self._order.cell}: {self._told} activations were to be replaced by"
                f" {'constants' if self._buckets else f'those of {self._order.donors}'};"
                f" {self._held} were, as counted in what the projections got."
                " Something changed them after the replacing; remove other hooks from the model."
            )
        return CellAnswer(
            cell=self._order.cell,
            sequence=np.concatenate([batch.sequence for batch in batches])[order],
            tokens=np.concatenate([sums.tokens for sums in self._sums])[order],
            top1=np.concatenate([sums.top1 for sums in self._sums])[order],
            top10=np.concatenate([sums.top10 for sums in self._sums])[order],
            loss=np.concatenate([sums.loss for sums in self._sums])[order],
            nan=np.concatenate([sums.nan for sums in self._sums])[order],
            told=self._told,
            held=self._held,
            seconds=self._seconds,
        )


class _Count:
    """Elements of one batch that were to be replaced, and those that were."""

    def __init__(self, told: int) -> None:
        self.told = told
        self.equal: list[Tensor] = []

    def held(self) -> int:
        """Return the elements that equal what was put in; waits for the device."""
        return int(torch.stack(self.equal).sum()) if self.equal else 0


class _Buckets:
    """The constants of one cell by bucket of positions, on the device."""

    def __init__(self, model: Model, order: CellOrder, widest: int) -> None:
        """Take the buckets that positions below `widest` are in; the others may hold anything."""
        assert order.values is not None
        assert order.starts is not None
        self._start_Z = np.array([start for start in order.starts if start < widest])
        values_ZLN = order.values[: len(self._start_Z)]
        layers, neurons = _size(model, order.site)
        check_held(order.held, layers=layers, neurons=neurons)
        for start, values_LN in zip(self._start_Z, values_ZLN, strict=True):
            said = f" from position {start} on"
            check_values(order.held, values_LN, layers=layers, neurons=neurons, where=said)
        self._values_ZLN = torch.tensor(values_ZLN, dtype=model.dtype, device=model.device)

    def spread(self, positions: int) -> list[Tensor]:
        """Return each layer's constants (T, N), at every position those of its bucket."""
        bucket_T = np.searchsorted(self._start_Z, np.arange(positions), side="right") - 1
        index_T = torch.from_numpy(bucket_T).to(self._values_ZLN.device)
        return [values_ZN[index_T] for values_ZN in self._values_ZLN.unbind(1)]


def _activations(model: Model, site: Site, batch: Batch) -> list[Tensor]:
    """Return each layer's activations (S, T, N) of the model as it is."""
    kept: dict[int, Tensor] = {}
    with hooks.recording(model, site, lambda layer, x_STN: kept.update({layer: x_STN.clone()})):
        hooks.hidden(model, batch)
    return [kept[layer] for layer in range(model.facts.layers)]


def _attended(model: Model, batch: Batch) -> NDArray[np.bool_]:
    """Return which of a batch's (S, T) positions are no padding."""
    if batch.attended is not None:
        return batch.attended
    return np.ones((len(batch.inputs), model.facts.window), np.bool_)  # an image has no padding


def _size(model: Model, site: Site) -> tuple[int, int]:
    """Return (L, N) of a site."""
    projections = hooks.projections(model, site)
    return len(projections), projections[0].in_features


@contextmanager
def _replaced(
    model: Model, order: CellOrder, attended_ST: NDArray[np.bool_], put_in_L: Sequence[Tensor]
) -> Iterator[_Count]:
    """Put values at the held neurons of attended positions, inside the block.

    What is put in is given layer by layer, (S, T, N) or, for all sequences alike, (T, N).
    """
    layers, neurons = _size(model, order.site)
    check_held(order.held, layers=layers, neurons=neurons)
    held_LN = np.zeros((layers, neurons), np.bool_)
    for held_N, held_H in zip(held_LN, order.held, strict=True):
        held_N[held_H] = True
    count = _Count(told=int(attended_ST.sum()) * int(held_LN.sum()))
    attended_ST1 = torch.from_numpy(attended_ST).to(model.device)[:, :, None]
    told_LN = torch.from_numpy(held_LN).to(model.device)

    def replace(layer: int, x_STN: Tensor) -> Tensor:
        return torch.where(attended_ST1 & told_LN[layer], put_in_L[layer], x_STN)

    def measure(layer: int, x_STN: Tensor) -> None:
        put_in = put_in_L[layer]
        equal_STN = (x_STN == put_in) | (x_STN.isnan() & put_in.isnan())
        count.equal.append((equal_STN & attended_ST1 & told_LN[layer]).sum())

    # Hooks run in the order they are put on: the second sees what the projection gets.
    with hooks.replacing(model, order.site, replace), hooks.recording(model, order.site, measure):
        yield count


def _check(
    batches: Sequence[Batch], cells: Sequence[CellOrder], donors: Mapping[str, Sequence[Batch]]
) -> None:
    """Raise ValueError unless every cell can be run on every batch."""
    sequences = np.concatenate([batch.sequence for batch in batches]) if batches else np.empty(0)
    if not len(sequences) or len(np.unique(sequences)) < len(sequences):
        raise ValueError(
            f"The {len(batches)} batches hold {len(sequences)} sequences,"
            f" {len(np.unique(sequences))} of them distinct. Give at least one, and each once."
        )
    for order in cells:
        held = sum(len(held_H) for held_H in order.held)
        if held and (order.values is None) == (order.donors is None):
            raise ValueError(
                f"Cell {order.cell} holds {held} neurons and has"
                f" {'neither values nor' if order.values is None else 'both values and'} donors."
                " Give it one of the two."
            )
        if order.starts is not None and not _fits(order.starts, order.values):
            shape = None if order.values is None else order.values.shape
            raise ValueError(
                f"Cell {order.cell} has buckets that start at the positions {list(order.starts)},"
                f" and values of shape {shape}. Give one start for every bucket, ascending from 0,"
                " and values of shape (buckets, layers, neurons)."
            )
        if order.donors is not None and order.donors not in donors:
            raise ValueError(
                f"Cell {order.cell} names the donors `{order.donors}`; given are {sorted(donors)}."
                " Send their batches along."
            )
    for name, donor_batches in donors.items():
        if len(donor_batches) != len(batches):
            raise ValueError(
                f"There are {len(batches)} batches, and {len(donor_batches)} of the donors"
                f" `{name}`. Send one for each, in the same order."
            )
        for batch, donor in zip(batches, donor_batches, strict=True):
            if batch.inputs.shape != donor.inputs.shape or not _covered(batch, donor):
                raise ValueError(
                    f"The donors `{name}` of sequences {batch.sequence.tolist()} have the shape"
                    f" {donor.inputs.shape}, the sequences {batch.inputs.shape}. Every donor must"
                    " be as long as its sequence or longer, and cut to the batch's shape."
                )


def _fits(starts: Sequence[int], values: NDArray[np.float64] | None) -> bool:
    ascending = list(starts) == sorted({0, *starts}) and starts[0] == 0
    return ascending and values is not None and values.ndim == 3 and len(values) == len(starts)


def _covered(batch: Batch, donor: Batch) -> bool:
    if batch.attended is None or donor.attended is None:
        return batch.attended is donor.attended
    return not (batch.attended & ~donor.attended).any()
