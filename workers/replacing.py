"""Replacing: values that are put in by hooks, because no projection could know them.

What a neuron is held at may depend on where it stands, on which sequence it is in
or on its own activation (`workers.kinds`). None of that folds into a projection.
Instead a hook puts the value in before the projection, at held neurons and
attended positions alone.

A soft mixture of share α puts in (1 - α) x + α c, made in float32 and rounded once.
Positions are counted from the start of the sequence: special tokens and an image's
prefix are positions too. Padded positions are left as they are.

That values were put in is measured: a second hook sees what the projection really
gets and counts the elements that equal what the first hook made.

Shapes: L layers, S sequences, T positions, N neurons of one hookpoint, H of them held.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks
from workers.kinds import Given, Here, Make, Place, maker
from workers.loading import Model
from workers.messages import Batch, CellOrder, Site
from workers.positions import attended

__all__ = ["Count", "Given", "Replacement", "activations"]


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
        attended_ST1 = torch.from_numpy(attended_ST).to(self._model.device)[:, :, None]
        here = Here(sequence_S=torch.tensor(batch.sequence, device=self._model.device), given=given)
        with ExitStack() as stack:
            for place, make in zip(self._places, self._makers, strict=True):
                stack.enter_context(self._at(place, make, attended_ST1, here, count))
            yield count

    @contextmanager
    def _at(
        self, place: Place, make: Make, attended_ST1: Tensor, here: Here, count: Count
    ) -> Iterator[None]:
        made: dict[int, Tensor] = {}

        def replace(layer: int, x_STN: Tensor) -> Tensor:
            columns_H = place.columns_L[layer]
            if not len(columns_H):
                return x_STN
            x_STH = x_STN[..., columns_H]
            c_STH = make(layer, x_STN, here)
            if self._share < 1:
                c_STH = (1 - self._share) * x_STH.float() + self._share * c_STH.float()
            made[layer] = c_STH.to(x_STN.dtype)
            return x_STN.index_copy(-1, columns_H, torch.where(attended_ST1, made[layer], x_STH))

        def measure(layer: int, x_STN: Tensor) -> None:
            if layer in made:
                x_STH, c_STH = x_STN[..., place.columns_L[layer]], made.pop(layer)
                equal_STH = (x_STH == c_STH) | (x_STH.isnan() & c_STH.isnan())
                count.equal.append((equal_STH & attended_ST1).sum())

        # Hooks run in the order they are put on: the second sees what the projection gets.
        site = place.site
        with (
            hooks.replacing(self._model, site, replace),
            hooks.recording(self._model, site, measure),
        ):
            yield


def activations(
    model: Model, sites: Sequence[Site], batch: Batch, row_S: NDArray[np.int64] | None = None
) -> dict[Site, list[Tensor]]:
    """Return by site each layer's activations (S, T, N) of the model as it is, in one pass.

    With `row_S`, (S, 1, N): of one position of each sequence alone, zeros where it is -1.
    """
    kept: dict[Site, list[Tensor]] = {site: [] for site in sites}

    def keep(x_STN: Tensor) -> Tensor:
        if row_S is None:
            return x_STN.clone()
        at_S = torch.tensor(row_S, device=x_STN.device)
        row_S1N = x_STN[torch.arange(len(at_S), device=x_STN.device), at_S.clamp(0)][:, None]
        return torch.where((at_S >= 0)[:, None, None], row_S1N, 0)

    with ExitStack() as stack:
        for site, x_L in kept.items():

            def sink(_: int, x_STN: Tensor, x_L: list[Tensor] = x_L) -> None:
                x_L.append(keep(x_STN))

            stack.enter_context(hooks.recording(model, site, sink))
        hooks.hidden(model, batch)
    return kept
