"""Tally: the integers of counting, on the model's device.

A table has C counters for each of N neurons, laid flat, so that a value is counted
by adding one at a single place, n·C + c, and a whole block by one operation that
never makes the host wait for the device.

Counters are 32-bit, which halves their memory and traffic. Each position adds one
to one counter of a neuron, so after P positions none holds more than P, and the
table is emptied into a 64-bit one before P could exceed what fits.

`Slots` says where a value is counted, in floating point of one dtype: the index of
a bin is floor(x·2^-e). It is clamped to the window while it is still a float and
only then made an integer, so no value can overflow it.

Shapes: N neurons, C counters of a neuron, P positions.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.windows import Windows

ZERO, BELOW = 0, 4
"""Counters of a neuron in order: zeros, nan, pos_inf, neg_inf, below, the bins, above."""
_FULL = 2**31 - 1
"""What a counter on the device holds at most."""


class Tally:
    """N x C counters on a device, of 32 bits each, emptied before any of them could overflow."""

    def __init__(self, neurons: int, counters: int, device: torch.device) -> None:
        self._table_NC = torch.zeros(neurons, counters, dtype=torch.int32, device=device)
        self._one = torch.ones((), dtype=torch.int32, device=device)
        self._emptied_NC: Tensor | None = None
        self._positions = 0  # counted since the table was empty; no counter is above this

    def add(self, place_PN: Tensor) -> None:
        """Add one at every place, n·C + c, of P positions; places are whole, of any dtype."""
        if self._positions + len(place_PN) > _FULL:
            self._emptied_NC, self._positions = self._total(), 0
            self._table_NC.zero_()
        self._positions += len(place_PN)
        index = place_PN.to(torch.int32).view(-1)
        # Unlike bincount this does not make the host wait; unlike scatter_add_ it takes narrow
        # indices, and on a CPU it is faster than either unless blocks far outgrow the cache.
        self._table_NC.view(-1).index_add_(0, index, self._one.expand_as(index))

    def total(self) -> NDArray[np.int64]:
        """Return all counters, (N, C)."""
        return self._total().cpu().numpy()

    def _total(self) -> Tensor:
        wide_NC = self._table_NC.to(torch.int64)
        return wide_NC if self._emptied_NC is None else wide_NC.add_(self._emptied_NC)


class Slots:
    """Where values are counted in a flat table of N x C counters, in one floating dtype."""

    def __init__(self, windows: Windows, dtype: torch.dtype, device: torch.device) -> None:
        def on_device(values_N: NDArray[np.floating[Any]]) -> Tensor:
            return torch.from_numpy(values_N).to(device, dtype)

        first_N = windows.first.astype(np.float64)
        self.per_unit_N = on_device(1 / windows.width)
        self._below_N = on_device(first_N - 1)
        self._above_N = on_device(first_N + windows.bins)
        self._start_N = on_device(
            np.arange(first_N.size, dtype=np.float64) * self.counters(windows)
        )
        self._shift_N = self._start_N + BELOW - self._below_N

    @staticmethod
    def counters(windows: Windows) -> int:
        """Return C, the counters of a neuron."""
        return BELOW + 1 + windows.bins + 1

    def place(self, y_PN: Tensor) -> Tensor:
        """Turn y = x·2^-e into the place of its bin, or below, or above; in place. NaN stays."""
        return y_PN.floor_().clamp_(self._below_N, self._above_N).add_(self._shift_N)

    def counter(self, number: int) -> Tensor:
        """Return the place of one counter of every neuron, (N,)."""
        return self._start_N + number
