"""Replacing: values that are put in by hooks, because no projection could know them.

What a neuron is held at may depend on where it stands, on which sequence it is in
or on its own activation (`workers.kinds`). None of that folds into a projection.
Instead a hook puts the value in before the projection, at held neurons and
attended positions alone.

All of a layer's neurons are worked on at once, whichever are held: bits of what is put
in where a mask is set, and of the activation elsewhere. Picking held neurons out and
putting them back would cost several times as much.

A soft mixture of share α puts in (1 - α) x + α c, made in float32 and rounded once.
Positions are counted from the start of the sequence: special tokens and an image's
prefix are positions too. Padded positions are left as they are.

That values were put in is measured: a second hook sees what the projection really
gets and counts the held elements at attended positions that have the bits of what the
first hook made. Not a number equals itself by its bits, and -0 is not 0: what was put
in is a copy. What is compared against is never the tensor that was handed on, so a
write to that one shows.

Shapes: L layers, S sequences, T positions, N neurons of one hookpoint, H of them held.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks
from workers.kinds import Given, Here, Make, Place, maker
from workers.loading import Model
from workers.messages import Batch, CellOrder, Donated, Donors, Site
from workers.positions import attended

__all__ = ["Count", "Given", "Replacement", "activations", "donated"]

_BITS = {2: torch.int16, 4: torch.int32}
"""Integers that are as wide as a floating number of so many bytes."""


class Count:
    """Elements of one batch that were to be replaced, and those that were."""

    def __init__(self, told: int) -> None:
        self.told = told
        self.equal: list[Tensor] = []

    def held(self) -> int:
        """Return the elements that equal what was put in; waits for the device."""
        return int(torch.stack(self.equal).sum()) if self.equal else 0


class Replacement:
    """What one cell puts in: `with replacement.on(batch, given) as count: …`.

    Making one raises ValueError where the order does not fit the model. `widest` is
    the largest number of positions of any batch: buckets beyond may hold anything.
    """

    def __init__(self, model: Model, order: CellOrder, widest: int) -> None:
        self._model = model
        self._share = order.share
        self._places = [Place(model, hold) for hold in order.holds]
        self._makers = [
            maker(place, hold, widest, f"Cell {order.cell}")
            for place, hold in zip(self._places, order.holds, strict=True)
        ]

    @contextmanager
    def on(self, batch: Batch, given: Given) -> Iterator[Count]:
        """Put values at the held neurons of attended positions, inside the block."""
        attended_ST = attended(batch, self._model.facts)
        neurons = sum(len(columns_H) for place in self._places for columns_H in place.columns_L)
        count = Count(told=int(attended_ST.sum()) * neurons)
        here = Here(sequence_S=torch.tensor(batch.sequence, device=self._model.device), given=given)
        with ExitStack() as stack:
            for place, make in zip(self._places, self._makers, strict=True):
                stack.enter_context(self._at(place, make, attended_ST, here, count))
            yield count

    @contextmanager
    def _at(
        self, place: Place, make: Make, attended_ST: NDArray[np.bool_], here: Here, count: Count
    ) -> Iterator[None]:
        bits = _BITS[self._model.dtype.itemsize]
        everywhere = bool(attended_ST.all())
        seen_ST = torch.from_numpy(attended_ST).to(self._model.device)
        made: dict[int, Tensor] = {}
        # For all layers one: fresh memory costs a CPU more than what is written to it.
        shape = (*seen_ST.shape, place.neurons)
        equal_STN = torch.empty(shape, dtype=torch.float32, device=seen_ST.device)

        def replace(layer: int, x_STN: Tensor) -> Tensor:
            if not len(place.columns_L[layer]):
                return x_STN
            mask = -place.held_LN[layer].to(bits)  # all bits, or none
            if not everywhere:
                mask = mask * seen_ST[:, :, None].to(bits)
            made[layer] = self._value(place, layer, x_STN, make(layer, x_STN, here))
            x, c = x_STN.view(bits), made[layer].view(bits)
            # x ^ ((x ^ c) & mask): c where the mask is set, else x. On a CPU twice as fast as
            # `where`, for torch vectorises it.
            return (x ^ c).bitwise_and_(mask).bitwise_xor_(x).view(x_STN.dtype)

        def measure(layer: int, x_STN: Tensor) -> None:
            if layer in made:
                torch.eq(x_STN.view(bits), made.pop(layer).view(bits), out=equal_STN)
                # Products count exactly, below 2^24 in float32; compared to bool, sums are slow.
                equal_ST = equal_STN @ place.held_LN[layer].float()
                count.equal.append((equal_ST * seen_ST).sum(dtype=torch.float64))

        # Hooks run in the order they are put on: the second sees what the projection gets.
        site = place.site
        with (
            hooks.replacing(self._model, site, replace),
            hooks.recording(self._model, site, measure),
        ):
            yield

    def _value(self, place: Place, layer: int, x_STN: Tensor, made: Tensor) -> Tensor:
        """Return what is put in, in the model's dtype; it broadcasts to (S, T, N)."""
        if self._share == 1:
            return place.spread(layer, made.to(x_STN.dtype))
        c_STN = place.spread(layer, made.float())
        soft_STN = (1 - self._share) * x_STN.float()
        return soft_STN.add_(self._share * c_STN).to(x_STN.dtype)


def activations(
    model: Model,
    taken: Mapping[Site, Collection[int]],
    batch: Batch,
    row_S: NDArray[np.int64] | None = None,
) -> dict[Site, list[Tensor]]:
    """Return by site some layers' activations (S, T, N) of the model as it is, in one pass.

    Layers that are not `taken` have an empty tensor, and what comes after the last that is
    does not run. With `row_S`, (S, 1, N): of one position of each sequence alone, zeros where
    it is -1.
    """
    nothing = torch.empty(0, dtype=model.dtype, device=model.device)
    kept = {site: [nothing] * model.facts.layers for site in taken}
    missing = {(site, layer) for site in kept for layer in taken[site]}

    def keep(x_STN: Tensor) -> Tensor:
        if row_S is None:
            return x_STN.clone()
        at_S = torch.tensor(row_S, device=x_STN.device)
        row_S1N = x_STN[torch.arange(len(at_S), device=x_STN.device), at_S.clamp(0)][:, None]
        return torch.where((at_S >= 0)[:, None, None], row_S1N, 0)

    def sink(site: Site, layer: int, x_STN: Tensor) -> None:
        if (site, layer) in missing:
            kept[site][layer] = keep(x_STN)
            missing.discard((site, layer))
            if not missing:
                raise _EnoughError

    with ExitStack() as stack:
        for site in kept:
            stack.enter_context(hooks.recording(model, site, partial(sink, site)))
        with suppress(_EnoughError):
            hooks.hidden(model, batch)
    return kept


def donated(
    model: Model, cells: Sequence[CellOrder], donors: Mapping[str, Donors], index: int
) -> Given:
    """Return what the donors of batch `index` give; a pass is made once for all cells and sites."""
    given: dict[tuple[str, Site], list[list[Tensor]]] = {}
    for name, taken in _takers(cells).items():
        rows = donors[name].rows
        for fed in donors[name].passes:
            row_S = None if rows is None else rows[index]
            for site, x_LSTN in activations(model, taken, fed[index], row_S).items():
                given.setdefault((name, site), []).append(x_LSTN)
    return given


def _takers(cells: Sequence[CellOrder]) -> dict[str, dict[Site, set[int]]]:
    """Return by name of the donors and by site the layers in which some cell takes theirs."""
    taken: dict[str, dict[Site, set[int]]] = {}
    for order in cells:
        for hold in order.holds:
            if isinstance(hold.value, Donated):
                layers = taken.setdefault(hold.value.donors, {}).setdefault(hold.site, set())
                layers |= {layer for layer, held_H in enumerate(hold.held) if len(held_H)}
    return taken


class _EnoughError(Exception):
    """All activations were taken: the rest of the pass would be for nothing."""
