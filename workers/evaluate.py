"""Evaluation: how well a model predicts while some of its neurons are held.

A cell says which neurons are held, at one site or several, and at what:

    nothing        the baseline: the bare model
    constants      folded into the output projection (`workers.ablation`): no hooks
    anything else  put in by hooks (`workers.replacing`): what differs between
                   positions or sequences, what other inputs give, what is drawn,
                   what depends on the activation; and soft mixtures of constants
                   below float32, which would not fold rightly

Batches are outside and cells inside, so what depends on the batch alone is done
once: the donors' passes through the unablated model, up to where the last is taken,
and the bare model's own hidden states where the divergence from it is asked for, serve
every cell. So does what lies below a cell's first place (`workers.prefix`): cells run
in descending order of these, and the first pass is recorded for the others.
Everything is held in all layers and sites at once, in one forward pass. A cell's
answer depends on the model, the batches and the cell, and on no other cell of the
call: sharing changes no bit.

Where the model was compiled, the bare model and cells that fold run as one graph and
share nothing; all others run as they do without.

That neurons were held is measured: columns are read back from the parameters
(folded constants), and elements that equal what was put in are counted in what
the projection really gets (all else). An answer is given only where the count is
what was told.

Beside that reading back, and what is copied to the device, nothing waits for it until all
cells of a batch have run; then their sums leave it. Cells that are scored against the bare
model are scored together, batch by batch, because logits are the largest thing there is
and its own are needed by all of them; until then each keeps S x T x D values of what its
head will be fed.

Donors keep their activations of the layers and sites at which they are taken on the
device: up to K x L x S x T x N values of the model's dtype for each name of donors,
K passes. `workers.prefix` says what is recorded.

Shapes: K passes of donors, L layers, S sequences, T positions, N neurons of one
hookpoint, D width of the hidden states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks, metrics
from workers.ablation import AblationError, Proof, entered, folds_into, prepare_folds
from workers.asked import check
from workers.loading import Model
from workers.messages import Batch, CellAnswer, CellOrder, Donors
from workers.positions import attended
from workers.prefix import BARE, Held, Sharing, held_by
from workers.replacing import Count, Given, Replacement, donated

Forward = Callable[[Held], Tensor]
"""Runs one batch up to the head, (S, T, D), and is told where neurons are held."""


class Compiled(Protocol):
    """A model whose forward pass was compiled; folding changes what it computes."""

    def hidden(self, batch: Batch) -> Tensor:
        """Return what the head is fed, (S, T, D)."""


def evaluate(
    model: Model,
    batches: Sequence[Batch],
    cells: Sequence[CellOrder],
    donors: Mapping[str, Donors],
    *,
    logits_bytes: int,
    kl: bool = False,
    compiled: Compiled | None = None,
) -> list[CellAnswer]:
    """Return each cell's answer, in the order of `cells`, over all sequences of `batches`.

    `donors` gives, by name, batches for each of `batches`, of the same shape: row i
    of them is a donor of row i, and is attended wherever row i is (or, where one row
    is given to all positions, there). `logits_bytes` bounds one float32 tensor of
    logits. With `kl`, answers say how far they are from the bare model. With `compiled`,
    the bare model and cells that fold run through it. A loss that is not a number is
    counted, not raised. An answer's seconds are the cell's own: what cells share lies in
    those of the cell that ran first, and the donors' passes, and the bare model's for
    `kl`, in none. On a GPU work that was queued in one cell's time may end in another's.

    Raises ValueError where orders, batches and donors do not fit together, and
    AblationError where what was held is not what was told.
    """
    check(model, batches, cells, donors)
    with torch.inference_mode():
        widest = max(attended(batch, model.facts).shape[1] for batch in batches)
        told = [_Running(model, order, widest) for order in cells]
        running = sorted(told, key=lambda cell: cell.held.depth, reverse=True)
        sharing = Sharing(model, batches[0], _passes(running, kl, compiled is not None))
        for index, batch in enumerate(batches):
            shared, scoring = sharing.on(batch), _scoring(model, batch, logits_bytes)
            folded = shared.hidden if compiled is None else partial(_through, compiled, batch)
            bare_STD = folded(BARE) if kl else None
            given = donated(model, cells, donors, index)
            for cell in running:
                forward = folded if cell.folding else shared.hidden
                cell.run(batch, forward, bare_STD, given)
                if bare_STD is None:
                    _score(scoring, [cell], None)
            if bare_STD is not None:  # together, so that its logits are made once
                _score(scoring, running, bare_STD)
            for cell in running:  # the one wait for what was queued
                cell.settle(scoring)
    order = np.argsort(np.concatenate([batch.sequence for batch in batches]))
    return [cell.answer(batches, order) for cell in told]


def _scoring(model: Model, batch: Batch, logits_bytes: int) -> metrics.Scoring:
    return metrics.Scoring(
        partial(hooks.scores, model),
        batch.targets,
        vocabulary=model.facts.vocabulary,
        budget=logits_bytes,
        device=model.device,
        marks_ST=batch.marks,
        masked=model.facts.modality == "masked",
        wrong_SW=batch.wrong,
    )


def _score(scoring: metrics.Scoring, cells: Sequence["_Running"], bare_STD: Tensor | None) -> None:
    """Score what the head would be fed in each of some cells; what was fed is let go."""
    start = perf_counter()
    found = scoring.measure([cell.hidden.pop() for cell in cells], bare_STD)
    seconds = (perf_counter() - start) / len(cells)
    for cell, measured_QM in zip(cells, found, strict=True):
        cell.measured.append(measured_QM)
        cell.seconds += seconds


def _through(compiled: Compiled, batch: Batch, _: Held) -> Tensor:
    return compiled.hidden(batch)


def _passes(running: Sequence["_Running"], kl: bool, compiled: bool) -> list[Held]:
    """Return what is held in each pass of a batch that can share, in the order they run."""
    cells = [cell for cell in running if not (compiled and cell.folding)]
    held = [cell.held for cell in cells if not (kl and cell.is_baseline)]
    return [BARE, *held] if kl and not compiled else held


class _Running:
    """One cell under way: what holds its neurons, and what has been measured so far."""

    def __init__(self, model: Model, order: CellOrder, widest: int) -> None:
        start = perf_counter()
        self._order, self.is_baseline = order, not order.holds
        self.hidden: list[Tensor] = []
        """What the head is to be fed in the batch at hand, until it is scored."""
        self.measured: list[Tensor] = []
        """In the batch at hand; on the device until all cells have run."""
        self._sums: list[metrics.Sums] = []
        self._counts: list[Count] = []
        self._told = self._held = 0
        self._proof = Proof(told=0, held=0, zero_before=0)
        self.folding = folds_into(model, order)
        self.held = held_by(model, order, folded=self.folding)
        self._folds = prepare_folds(model, order) if self.folding else ()
        self._replacement = None if self.folding else Replacement(model, order, widest)
        self.seconds = perf_counter() - start

    def run(self, batch: Batch, forward: Forward, bare_STD: Tensor | None, given: Given) -> None:
        """Run one batch up to the head; `forward` does so, while the cell's neurons are held."""
        start = perf_counter()
        if self._replacement is not None:
            with self._replacement.on(batch, given) as count:
                hidden_STD = forward(self.held)
            self._counts.append(count)
        elif self.is_baseline and bare_STD is not None:
            hidden_STD = bare_STD  # its divergence from itself is exactly 0
        else:
            with entered(self._folds) as self._proof:  # columns: the same for every batch
                hidden_STD = forward(self.held)
        self.hidden.append(hidden_STD)
        self.seconds += perf_counter() - start

    def settle(self, scoring: metrics.Scoring) -> None:
        """Add what was measured in the batch at hand; waits for the device."""
        start = perf_counter()
        self._sums.append(scoring.sums(self.measured.pop()))
        self._told += sum(count.told for count in self._counts)
        self._held += sum(count.held() for count in self._counts)
        self._counts.clear()
        self.seconds += perf_counter() - start

    def answer(self, batches: Sequence[Batch], order: NDArray[np.intp]) -> CellAnswer:
        """Return the sums by ascending sequence number; `order` sorts the batches' numbers."""
        told, held = self._proof.told + self._told, self._proof.held + self._held
        if held != told:
            kinds = {type(hold.value).__name__ for hold in self._order.holds}
            raise AblationError(
                f"Cell {self._order.cell}: {told} activations were to be replaced"
                f" ({', '.join(kinds)}); {held} were, as counted in what the projections got."
                " Something changed them after the replacing; remove other hooks from the model."
            )

        def joined(name: str) -> NDArray[np.generic] | None:
            parts = [getattr(sums, name) for sums in self._sums]
            return None if parts[0] is None else np.concatenate(parts)[order]

        sums: dict[str, Any] = {field.name: joined(field.name) for field in fields(metrics.Sums)}
        return CellAnswer(
            cell=self._order.cell,
            sequence=np.concatenate([batch.sequence for batch in batches])[order],
            told=told,
            held=held,
            seconds=self.seconds,
            **sums,
        )
