"""Evaluation: how well a model predicts while some of its neurons are held.

A cell says which neurons are held, at one site or several, and at what:

    nothing        the baseline: the bare model
    constants      folded into the output projection (`workers.ablation`): no hooks
    anything else  put in by hooks (`workers.replacing`): what differs between
                   positions or sequences, what other inputs give, what is drawn,
                   what depends on the activation; and soft mixtures of constants
                   below float32, which would not fold rightly

Batches are outside and cells inside, so what depends on the batch alone is done
once: the donors' passes through the unablated model, and the bare model's own
hidden states where the divergence from it is asked for, serve every cell.
Everything is held in all layers and sites at once, in one forward pass. A cell's
answer depends on the model, the batches and the cell, and on no other cell of the
call.

That neurons were held is measured: columns are read back from the parameters
(folded constants), and elements that equal what was put in are counted in what
the projection really gets (all else). An answer is given only where the count is
what was told.

Donors keep their activations of all layers at their sites on the device: as much
as K x L x S x T x N values of the model's dtype for each name of donors, K passes.

Shapes: K passes of donors, L layers, S sequences, T positions, N neurons of one
hookpoint, D width of the hidden states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks, metrics
from workers.ablation import AblationError, entered, folds, prepare_folds
from workers.loading import Model
from workers.messages import SITES, Batch, CellAnswer, CellOrder, Donated, Donors, Site
from workers.positions import attended
from workers.replacing import Given, Replacement, activations


def evaluate(
    model: Model,
    batches: Sequence[Batch],
    cells: Sequence[CellOrder],
    donors: Mapping[str, Donors],
    *,
    logits_bytes: int,
    kl: bool = False,
) -> list[CellAnswer]:
    """Return each cell's answer, in the order of `cells`, over all sequences of `batches`.

    `donors` gives, by name, batches for each of `batches`, of the same shape: row i
    of them is a donor of row i, and is attended wherever row i is (or, where one row
    is given to all positions, there). `logits_bytes` bounds one float32 tensor of
    logits. With `kl`, answers say how far they are from the bare model. A loss that
    is not a number is counted, not raised. An answer's seconds are the cell's own;
    the donors' and the bare model's passes, which cells share, are in none.

    Raises ValueError where orders, batches and donors do not fit together, and
    AblationError where what was held is not what was told.
    """
    _check(model, batches, cells, donors)
    with torch.inference_mode():
        widest = max(attended(batch, model.facts).shape[1] for batch in batches)
        running = [_Running(model, order, widest) for order in cells]
        for index, batch in enumerate(batches):
            bare_STD = hooks.hidden(model, batch) if kl else None
            given = _given(model, cells, donors, index)
            for cell in running:
                cell.run(batch, bare_STD, given, logits_bytes)
    order = np.argsort(np.concatenate([batch.sequence for batch in batches]))
    return [cell.answer(batches, order) for cell in running]


class _Running:
    """One cell under way: what holds its neurons, and what has been summed so far."""

    def __init__(self, model: Model, order: CellOrder, widest: int) -> None:
        start = perf_counter()
        self._model, self._order = model, order
        self._told = self._held = 0
        self._sums: list[metrics.Sums] = []
        folding = folds(order, model.dtype)
        self._folds = prepare_folds(model, order) if folding else ()
        self._replacement = None if folding else Replacement(model, order, widest)
        self._seconds = perf_counter() - start

    def run(self, batch: Batch, bare_STD: Tensor | None, given: Given, logits_bytes: int) -> None:
        """Add one batch's sums."""
        start = perf_counter()
        sums = metrics.score(
            lambda hidden_MD: hooks.scores(self._model, hidden_MD),
            self._hidden(batch, bare_STD, given),
            batch.targets,
            vocabulary=self._model.facts.vocabulary,
            budget=logits_bytes,
            marks_ST=batch.marks,
            masked=self._model.facts.modality == "masked",
            bare_STD=bare_STD,
        )
        self._sums.append(sums)
        self._seconds += perf_counter() - start

    def _hidden(self, batch: Batch, bare_STD: Tensor | None, given: Given) -> Tensor:
        """Return what the head is fed, (S, T, D), while the cell's neurons are held."""
        if self._replacement is not None:
            with self._replacement.on(batch, given) as count:
                hidden_STD = hooks.hidden(self._model, batch)
            self._told += count.told
            self._held += count.held()
            return hidden_STD
        if not self._order.holds and bare_STD is not None:
            return bare_STD  # the baseline: its divergence from itself is exactly 0
        with entered(self._folds) as proof:
            hidden_STD = hooks.hidden(self._model, batch)
        self._told, self._held = proof.told, proof.held  # columns: the same for every batch
        return hidden_STD

    def answer(self, batches: Sequence[Batch], order: NDArray[np.intp]) -> CellAnswer:
        """Return the sums by ascending sequence number; `order` sorts the batches' numbers."""
        if self._held != self._told:
            kinds = {type(hold.value).__name__ for hold in self._order.holds}
            raise AblationError(
                f"Cell {self._order.cell}: {self._told} activations were to be replaced"
                f" ({', '.join(kinds)}); {self._held} were, as counted in what the projections got."
                " Something changed them after the replacing; remove other hooks from the model."
            )

        def joined(name: str) -> NDArray[np.generic] | None:
            parts = [getattr(sums, name) for sums in self._sums]
            return None if parts[0] is None else np.concatenate(parts)[order]

        sums: dict[str, Any] = {field.name: joined(field.name) for field in fields(metrics.Sums)}
        return CellAnswer(
            cell=self._order.cell,
            sequence=np.concatenate([batch.sequence for batch in batches])[order],
            told=self._told,
            held=self._held,
            seconds=self._seconds,
            **sums,
        )


def _donated(cells: Sequence[CellOrder]) -> dict[str, dict[Site, None]]:
    """Return by name of the donors the sites at which some cell takes their activations."""
    sites: dict[str, dict[Site, None]] = {}
    for order in cells:
        for hold in order.holds:
            if isinstance(hold.value, Donated):
                sites.setdefault(hold.value.donors, {})[hold.site] = None
    return sites


def _given(
    model: Model, cells: Sequence[CellOrder], donors: Mapping[str, Donors], index: int
) -> Given:
    """Return what the donors of one batch give; every pass is made once for all cells and sites."""
    given: dict[tuple[str, Site], list[list[Tensor]]] = {}
    for name, sites in _donated(cells).items():
        rows = donors[name].rows
        for fed in donors[name].passes:
            row_S = None if rows is None else rows[index]
            made = activations(model, list(sites), fed[index], row_S)
            for site, x_LSTN in made.items():
                given.setdefault((name, site), []).append(x_LSTN)
    return given


def _check(
    model: Model,
    batches: Sequence[Batch],
    cells: Sequence[CellOrder],
    donors: Mapping[str, Donors],
) -> None:
    """Raise ValueError unless every cell can be run on every batch."""
    sequences = np.concatenate([batch.sequence for batch in batches]) if batches else np.empty(0)
    if not len(sequences) or len(np.unique(sequences)) < len(sequences):
        raise ValueError(
            f"The {len(batches)} batches hold {len(sequences)} sequences,"
            f" {len(np.unique(sequences))} of them distinct. Give at least one, and each once."
        )
    for order in cells:
        _check_order(order, donors)
    for name in donors:
        _check_donors(model, name, donors[name], batches)


def _check_order(order: CellOrder, donors: Mapping[str, Donors]) -> None:
    sites = [hold.site for hold in order.holds]
    kinds = sorted({type(hold.value).__name__ for hold in order.holds})
    if len(kinds) > 1 or len(set(sites)) < len(sites) or not set(sites) <= set(SITES):
        raise ValueError(
            f"Cell {order.cell} holds neurons at the sites {sites}, by {kinds}. Give each site of"
            f" {list(SITES)} once, and all of them one kind of value."
        )
    if not 0 < order.share <= 1:
        raise ValueError(
            f"Cell {order.cell} has a share of {order.share}; it must be above 0 and at most 1,"
            " which is all of the activation."
        )
    for value in (hold.value for hold in order.holds):
        if isinstance(value, Donated):
            if value.donors not in donors:
                raise ValueError(
                    f"Cell {order.cell} names the donors `{value.donors}`; given are"
                    f" {sorted(donors)}. Send their batches along."
                )
            passes = len(donors[value.donors].passes)
            if value.drawn == "joint" and passes > 1:
                raise ValueError(
                    f"Cell {order.cell} takes the donors `{value.donors}` jointly, and there are"
                    f" {passes} passes of them. Give one; several are for donors that layers,"
                    " heads or neurons draw by themselves."
                )


def _check_donors(model: Model, name: str, given: Donors, batches: Sequence[Batch]) -> None:
    rows = given.rows
    lengths = [len(fed) for fed in given.passes] + ([] if rows is None else [len(rows)])
    if not given.passes or set(lengths) != {len(batches)}:
        raise ValueError(
            f"There are {len(batches)} batches, and {lengths} of the donors `{name}`. Send one for"
            " each, in the same order, in every pass."
        )
    for fed in given.passes:
        for index, (batch, donor) in enumerate(zip(batches, fed, strict=True)):
            row_S = None if rows is None else rows[index]
            same = batch.inputs.shape == donor.inputs.shape
            if not same or not _covered(model, batch, donor, row_S):
                raise ValueError(
                    f"The donors `{name}` of sequences {batch.sequence.tolist()} have the shape"
                    f" {donor.inputs.shape}, the sequences {batch.inputs.shape}. Every donor must"
                    " be as long as its sequence or longer, and cut to the batch's shape; where"
                    " one row is given, that row must be there."
                )


def _covered(model: Model, batch: Batch, donor: Batch, row_S: NDArray[np.int64] | None) -> bool:
    """Whether donors, of the batch's shape, are attended where their activations are taken."""
    donor_ST = attended(donor, model.facts)
    if row_S is None:
        return not (attended(batch, model.facts) & ~donor_ST).any()
    if row_S.shape != (len(donor_ST),) or (row_S < -1).any() or (row_S >= donor_ST.shape[1]).any():
        return False
    return bool((donor_ST[np.arange(len(row_S)), row_S] | (row_S < 0)).all())
