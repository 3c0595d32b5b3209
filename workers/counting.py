"""Counting: activations go in on the model's device, a histogram comes out.

A `Counter` holds the tables of one site of a whole model and is fed one layer of
one batch at a time. Whatever the number of tokens, memory is O(neurons x bins).
Nothing is read back before the end, so a GPU is never waited for; there is no
Python loop over neurons or tokens.

Exactness: values are widened to float64, where every float32, float16 or
bfloat16 number times a power of two is exact, subnormals included; the product
is floored and clamped to the window while it is still a float, and only then
made an integer, so no value can overflow the index. Counts are 64-bit.

Moment sums are floating point and so depend on order: they are made over blocks
of tokens whose size is fixed here, in the order in which batches are fed. The
same values fed in the same batches give the same bits, however they were padded.

`FixedCounter` counts again between given ends, with the arithmetic of
`torch.histc` on float32 values, so that the peak of the published code can be
had exactly, to the side on which a value at an edge falls.

Shapes: L layers, N neurons of a hookpoint, R = L x N rows (layer-major),
P positions, B bins, C = B + 6 counters of a neuron, M moment sums.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.histogram import MOMENTS, FixedCounts, Histogram
from workers.windows import Windows

_BLOCK = 2**18
"""Elements worked on at a time: what fits a core's cache. Moments depend on it in the last bits."""


class Counter:
    """Counts the activations of one site of a model with L layers into fixed windows."""

    def __init__(self, windows: Windows, layers: int, device: torch.device) -> None:
        def on_device(values_R: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values_R.reshape(layers, -1)).to(device)

        self._windows = windows
        self._per_unit_LN = on_device(1 / windows.width)
        self._first_LN = on_device(windows.first.astype(np.float64))
        self._centre_LN = on_device(windows.centre)
        shape = self._centre_LN.shape
        # Counters of a neuron: below, the bins, above, zeros, nan, pos_inf, neg_inf.
        self._table_LNC = torch.zeros((*shape, windows.bins + 6), dtype=torch.int64, device=device)
        self._positive_LN = torch.zeros(shape, dtype=torch.int64, device=device)
        self._minimum_LN = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self._maximum_LN = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self._moments_MLN = torch.zeros((len(MOMENTS), *shape), dtype=torch.float64, device=device)

    def add(self, layer: int, values_PN: Tensor) -> None:
        """Count the activations of one layer at P positions, (P, N), of any floating dtype."""
        for block_PN in _blocks(values_PN):
            wide_PN = block_PN.to(torch.float64)
            finite_PN = wide_PN.isfinite()
            self._count(layer, wide_PN)
            self._measure(layer, wide_PN, finite_PN)

    def _count(self, layer: int, x_PN: Tensor) -> None:
        bins = self._windows.bins
        slot_PN = (x_PN * self._per_unit_LN[layer]).floor_().sub_(self._first_LN[layer])
        slot_PN.clamp_(-1, bins).add_(1)
        slot_PN.masked_fill_(x_PN == 0, bins + 2)
        slot_PN.masked_fill_(x_PN.isnan(), bins + 3)
        slot_PN.masked_fill_(x_PN == torch.inf, bins + 4)
        slot_PN.masked_fill_(x_PN == -torch.inf, bins + 5)
        _tally(self._table_LNC[layer], slot_PN.to(torch.int64))

    def _measure(self, layer: int, x_PN: Tensor, finite_PN: Tensor) -> None:
        least_N = torch.where(finite_PN, x_PN, torch.inf).amin(dim=0)
        most_N = torch.where(finite_PN, x_PN, -torch.inf).amax(dim=0)
        self._minimum_LN[layer] = torch.minimum(self._minimum_LN[layer], least_N)
        self._maximum_LN[layer] = torch.maximum(self._maximum_LN[layer], most_N)
        self._positive_LN[layer] += ((x_PN > 0) & finite_PN).sum(dim=0)

        nothing = torch.zeros((), dtype=x_PN.dtype, device=x_PN.device)
        d_PN = torch.where(finite_PN, x_PN - self._centre_LN[layer], nothing)
        square_PN = d_PN * d_PN
        sums = (
            d_PN.sum(dim=0),
            square_PN.sum(dim=0),
            (square_PN * d_PN).sum(dim=0),
            (square_PN * square_PN).sum(dim=0),
            torch.where(finite_PN, x_PN, nothing).abs_().sum(dim=0),
        )
        self._moments_MLN[:, layer] += torch.stack(sums)

    def histogram(self, shard: int) -> Histogram:
        """Return what was counted, as the histogram of one shard of the data."""
        bins = self._windows.bins
        rows = self._windows.first.size
        table_RC = self._table_LNC.reshape(rows, -1).cpu().numpy()
        below_R, counts_RB, rest_CR = table_RC[:, 0], table_RC[:, 1 : bins + 1], table_RC.T
        above_R, zeros_R, nan_R, pos_inf_R, neg_inf_R = rest_CR[bins + 1 :]
        moments_RM = self._moments_MLN.reshape(len(MOMENTS), rows).T
        return Histogram(
            windows=self._windows,
            shards=(shard,),
            counts=counts_RB.copy(),
            zeros=zeros_R.copy(),
            below=below_R.copy(),
            above=above_R.copy(),
            nan=nan_R.copy(),
            pos_inf=pos_inf_R.copy(),
            neg_inf=neg_inf_R.copy(),
            positive=self._positive_LN.reshape(rows).cpu().numpy(),
            # Adding 0 leaves one sign of zero, whichever came first.
            minimum=self._minimum_LN.reshape(rows).cpu().numpy() + 0.0,
            maximum=self._maximum_LN.reshape(rows).cpu().numpy() + 0.0,
            moments=moments_RM.contiguous().cpu().numpy()[None],
        )


class FixedCounter:
    """Counts the activations of one site of a model into equal bins between given ends."""

    def __init__(
        self,
        low_R: NDArray[np.float64],
        high_R: NDArray[np.float64],
        *,
        bins: int,
        layers: int,
        device: torch.device,
    ) -> None:
        def on_device(values_R: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values_R.reshape(layers, -1)).to(device, torch.float32)

        self._low_R, self._high_R, self._bins = low_R, high_R, bins
        self._low_LN, self._high_LN = on_device(low_R), on_device(high_R)
        shape = (*self._low_LN.shape, bins + 1)  # the last counter takes what lies outside
        self._table_LNC = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, layer: int, values_PN: Tensor) -> None:
        """Count the activations of one layer at P positions, (P, N), of any floating dtype."""
        low_N, high_N = self._low_LN[layer], self._high_LN[layer]
        for block_PN in _blocks(values_PN):
            x_PN = block_PN.to(torch.float32)
            # The order of these operations is histc's; any other moves values at edges.
            slot_PN = (x_PN - low_N).mul_(self._bins).div_(high_N - low_N)
            slot_PN.clamp_(max=self._bins - 1)
            slot_PN.masked_fill_(low_N == high_N, 0)  # 0/0: a constant fills the first bin
            slot_PN.masked_fill_(~((x_PN >= low_N) & (x_PN <= high_N)), self._bins)
            _tally(self._table_LNC[layer], slot_PN.to(torch.int64))

    def counts(self, shard: int) -> FixedCounts:
        """Return what was counted, as the counts of one shard of the data."""
        table_RC = self._table_LNC.reshape(self._low_R.size, -1).cpu().numpy()
        counts_RB = table_RC[:, : self._bins].copy()
        return FixedCounts(low=self._low_R, high=self._high_R, shards=(shard,), counts=counts_RB)


def _blocks(values_PN: Tensor) -> tuple[Tensor, ...]:
    positions, neurons = values_PN.shape
    return torch.split(values_PN, max(1, _BLOCK // neurons)) if positions else ()


def _tally(table_NC: Tensor, slot_PN: Tensor) -> None:
    """Add one to table[n, slot[p, n]] for every p and n, in place, by one scatter-add."""
    neurons, counters = table_NC.shape
    start_N = torch.arange(0, neurons * counters, counters, device=table_NC.device)
    index = (slot_PN + start_N).view(-1)
    table_NC.view(-1).scatter_add_(0, index, torch.ones_like(index))
