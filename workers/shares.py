"""Shares: which rows of a collection this process counts, and all of them put together.

A process that holds a whole model counts every row, and nothing here does anything. One that
holds a model with others (`workers.sharding`) counts the rows of its own neurons, in a model
that is smaller and otherwise like any other, and each then gets what all have counted: the
very tables that one process would have made, but for activations that rounding moved over
the edge of a bin.

Shapes: L layers, N neurons of a hookpoint, W rows counted (ascending rows of strata x L x N),
V of them here.
"""

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from workers import cuts, sharding
from workers.histogram import FixedCounts, Histogram
from workers.loading import Model
from workers.windows import Windows


class Share:
    """The rows that this process counts of those that are to be counted."""

    def __init__(self, model: Model, rows_W: NDArray[np.intp], neurons: int) -> None:
        """Take part in counting rows `rows_W` of a table of `neurons` to a hookpoint."""
        self.model, self.rows, self.neurons = model, rows_W, neurons
        self._size = rows_W.size
        self._ranks: sharding.Ranks | None = None
        if model.ref.shards > 1:
            narrow = cuts.part(model.facts, model.ref.shards)
            self.model = replace(model, ref=replace(model.ref, facts=narrow, shards=1))
            self._ranks = sharding.ranks()
            self._at_V, self.rows = self._ranks.rows(rows_W, neurons)
            self.neurons //= model.ref.shards

    def own(self, whole_W: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rows of an array (W, …) that are counted here, (V, …)."""
        return whole_W if self._ranks is None else whole_W[self._at_V]

    def windows(self, whole: Windows) -> Windows:
        """Return the windows of the rows that are counted here."""
        return whole if self._ranks is None else whole.taken(self._at_V)

    def placed(self, own: Windows) -> Windows:
        """Return the windows of all rows from each process's own."""
        if self._ranks is None:
            return own
        exponent_W, first_W = (
            self._ranks.joined(part_V, self._at_V, self._size)
            for part_V in (own.exponent, own.first)
        )
        return Windows(exponent=exponent_W, first=first_W, bins=own.bins)

    def histogram(self, own: Histogram, windows: Windows) -> Histogram:
        """Return the histogram of all rows, in `windows`, from each process's own."""
        if self._ranks is None:
            return own
        arrays = {
            field.name: self._ranks.joined(
                array, self._at_V, self._size, axis=int(field.name == "moments")
            )
            for field in fields(own)
            if isinstance(array := getattr(own, field.name), np.ndarray)
        }
        return Histogram(windows=windows, shards=own.shards, **arrays)

    def fixed(
        self, own: FixedCounts, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> FixedCounts:
        """Return the counts of all rows between their ends from each process's own."""
        if self._ranks is None:
            return own
        counts_WB = self._ranks.joined(own.counts, self._at_V, self._size)
        return FixedCounts(low=low, high=high, shards=own.shards, counts=counts_WB)
