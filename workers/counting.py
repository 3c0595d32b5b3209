"""Counting: activations go in on the model's device, a histogram comes out.

A `Counter` holds the tables of one hookpoint and is fed one batch of it at a
time. Whatever the number of tokens, memory is O(neurons x bins), and there is
no Python loop over neurons or tokens.

The bin of x is floor(x·2^-e), and scaling by a power of two is exact as long as
nothing under- or overflows. So a block of positions is counted in one of two
ways, which agree to the last count:

    plain     in float32, by some twenty passes over what fits a core's cache.
              Right for windows for which scaling only enlarges (e <= 0) and whose
              indices float32 can tell apart, and for blocks all of whose values
              are finite and at most 2^24 bins away from zero
    careful   in float64, where the product is exact for every float32, float16
              and bfloat16 number; what is not finite is taken out by masks

Which it may be shows in a block's extremes. Looking at them is free on a CPU; a
GPU would have to be waited for, layer after layer, so there every block is
counted carefully and nothing is read back before the end. Either way values are
clamped to the window while they are still floats and only then made integers,
so none can overflow the index.

Moment sums are floating point and so depend on order: they are made over blocks
whose size is fixed here, in the order in which batches are fed. The same values
fed in the same batches give the same bits, however they were padded. The plain
way sums powers of the distance from the first block's mean in float32 within a
block and in float64 over blocks, and moves the sums to the window's centre at the
end: the mean is right to 1e-7 of the rms, the standard deviation to 1e-6 of itself.

`FixedCounter` counts again between given ends, with the arithmetic of
`torch.histc` on float32 values, so that the peak of the published code can be
had exactly, to the side on which a value at an edge falls.

Shapes: N neurons of the hookpoint, P positions, S sequences, B bins, C counters
of a neuron, K = 5 sums over all positions (the MOMENTS but `first`), F neurons
whose window lies apart from zero.
"""

from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.histogram import MOMENTS, FixedCounts, Histogram
from workers.tally import BELOW, ZERO, Slots, Tally
from workers.windows import Windows

_BLOCK = 2**16
"""Elements worked on at a time: what fits a core's cache. Moments depend on it in the last bits."""
_NEAR = 2.0**24
"""Plain blocks hold no value more bins from zero; so the sum of their fourth powers is finite."""
_WHOLE = 2**23
"""No index of a plain window is beyond this; so the sum of two of them is exact in float32."""
_SUMS = len(MOMENTS) - 1


class Counter:
    """Counts the activations of one hookpoint, N neurons, into fixed windows."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self._windows = windows
        neurons, bins, first_N = windows.first.size, windows.bins, windows.first
        self._tally = Tally(neurons, Slots.counters(windows), device)
        self._careful = _Careful(windows, self._tally, device)
        enlarges = ((windows.exponent <= 0) & (windows.exponent >= -126)).all()
        farthest = max(np.abs(first_N).max(initial=0) + bins, neurons * Slots.counters(windows))
        may_look = device.type == "cpu"
        plain = may_look and enlarges and farthest <= _WHOLE
        self._plain = _Plain(windows, self._tally, device) if plain else None
        self._firsts_N = torch.zeros(neurons, dtype=torch.int64, device=device)
        self._first_N = torch.zeros(neurons, dtype=torch.float64, device=device)
        # Where zero is apart from the window, the bins do not tell how many values are above it.
        self._apart_F = np.flatnonzero((first_N > 0) | (first_N + bins < 0))
        self._column_F = torch.from_numpy(self._apart_F).to(device)
        self._positive_F = torch.zeros(self._apart_F.size, dtype=torch.int64, device=device)

    def add(self, values_PN: Tensor) -> None:
        """Count the activations at P positions, (P, N), of any floating dtype."""
        for block_PN in _blocks(values_PN):
            if self._apart_F.size:
                apart_PF = block_PN.index_select(1, self._column_F)
                self._positive_F += ((apart_PF > 0) & (apart_PF < torch.inf)).sum(dim=0)
            if self._plain is None or not self._plain.add(block_PN):
                self._careful.add(block_PN)

    def add_first(self, values_SN: Tensor) -> None:
        """Sum the activations at the first position of S sequences, (S, N); `add` counts them."""
        wide_SN = values_SN.to(torch.float64)
        finite_SN = wide_SN.isfinite()
        self._firsts_N += finite_SN.sum(dim=0)
        self._first_N += torch.where(finite_SN, wide_SN, 0.0).sum(dim=0)

    def histogram(self, shard: int) -> Histogram:
        """Return what was counted, N rows, as the histogram of one shard of the data."""
        bins = self._windows.bins
        table_NC = self._tally.total()
        zeros_N, nan_N, pos_inf_N, neg_inf_N, below_N = table_NC.T[: BELOW + 1].copy()
        counts_NB, above_N = table_NC[:, BELOW + 1 : -1].copy(), table_NC[:, -1].copy()
        right_NB = np.arange(bins) >= -self._windows.first[:, None]
        positive_N = np.where(right_NB, counts_NB, 0).sum(axis=1) + above_N
        positive_N[self._apart_F] = self._positive_F.cpu().numpy()
        minimum_N, maximum_N, sums_KN = self._careful.measured()
        if self._plain is not None:
            least_N, most_N, more_KN = self._plain.measured()
            minimum_N, maximum_N = np.minimum(minimum_N, least_N), np.maximum(maximum_N, most_N)
            sums_KN = sums_KN + more_KN
        moments_MN = np.concatenate([sums_KN, self._first_N.cpu().numpy()[None]])
        return Histogram(
            windows=self._windows,
            shards=(shard,),
            counts=counts_NB,
            zeros=zeros_N,
            below=below_N,
            above=above_N,
            nan=nan_N,
            pos_inf=pos_inf_N,
            neg_inf=neg_inf_N,
            positive=positive_N,
            firsts=self._firsts_N.cpu().numpy().copy(),
            # Adding 0 leaves one sign of zero, whichever came first.
            minimum=minimum_N + 0.0,
            maximum=maximum_N + 0.0,
            moments=moments_MN.T.copy()[None],
        )


class _Plain:
    """Counts and measures blocks in float32, in bins from zero: y = x·2^-e."""

    def __init__(self, windows: Windows, tally: Tally, device: torch.device) -> None:
        self._windows, self._tally = windows, tally
        self._slots = Slots(windows, torch.float32, device)
        self._positions = 0
        neurons = windows.first.size
        self._from_N = torch.zeros(neurons, device=device)
        self._least_N = torch.full((neurons,), torch.inf, device=device)
        self._most_N = torch.full((neurons,), -torch.inf, device=device)
        self._sums_KN = torch.zeros(_SUMS, neurons, dtype=torch.float64, device=device)

    def add(self, block_PN: Tensor) -> bool:
        """Count a block, or return False, having done nothing, where float32 is not exact."""
        if block_PN.dtype == torch.float64:
            return False
        y_PN = block_PN.to(torch.float32) * self._slots.per_unit_N
        least_N, most_N = y_PN.amin(dim=0), y_PN.amax(dim=0)
        # A column's extremes are NaN if one of its values is, and then neither holds.
        if not (least_N.amin() >= -_NEAR and most_N.amax() <= _NEAR):
            return False
        if not self._positions:  # from here on, sums of powers hardly cancel: see `measured`
            self._from_N = y_PN.mean(dim=0).mul_(64).round_().div_(64)  # short: more d are exact
        self._positions += len(y_PN)
        size_PN = y_PN.abs()
        torch.minimum(self._least_N, least_N, out=self._least_N)
        torch.maximum(self._most_N, most_N, out=self._most_N)
        self._sums_KN += _sums(y_PN - self._from_N, size_PN)
        slot_PN = self._slots.place(y_PN)
        if size_PN.amin() == 0:
            slot_PN.lerp_(self._slots.counter(ZERO), size_PN.eq_(0))  # weights 0 and 1: exact
        self._tally.add(slot_PN)
        return True

    def measured(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return minima and maxima, (N,), and sums of the MOMENTS about the centre, (K, N)."""
        exponent_N = self._windows.exponent
        centre_N = self._windows.first + self._windows.bins // 2
        offset_N = self._from_N.cpu().numpy().astype(np.float64) - centre_N
        *power_N, abs_N = self._sums_KN.cpu().numpy()
        powers = [np.full_like(abs_N, self._positions), *power_N]
        # (y - centre)^k, with y - centre = (y - from) + offset, by the binomial theorem.
        about_centre = [
            sum(comb(k, j) * offset_N ** (k - j) * powers[j] for j in range(k + 1))
            for k in range(1, len(powers))
        ]
        scale_KN = np.ldexp(1.0, np.multiply.outer((1, 2, 3, 4, 1), exponent_N))
        least_N, most_N = self._least_N.cpu().numpy(), self._most_N.cpu().numpy()
        return (
            np.ldexp(least_N.astype(np.float64), exponent_N),
            np.ldexp(most_N.astype(np.float64), exponent_N),
            np.stack([*about_centre, abs_N]) * scale_KN,
        )


class _Careful:
    """Counts and measures blocks in float64, whatever they hold, and never waits for a device."""

    def __init__(self, windows: Windows, tally: Tally, device: torch.device) -> None:
        self._tally = tally
        self._slots = Slots(windows, torch.float64, device)
        self._centre_N = torch.from_numpy(windows.centre).to(device)
        self._least_N = torch.full_like(self._centre_N, torch.inf)
        self._most_N = torch.full_like(self._centre_N, -torch.inf)
        self._sums_KN = self._centre_N.new_zeros(_SUMS, windows.first.size)

    def add(self, block_PN: Tensor) -> None:
        """Count a block."""
        x_PN = block_PN.to(torch.float64)
        finite_PN = x_PN.isfinite()
        least_N = torch.where(finite_PN, x_PN, torch.inf).amin(dim=0)
        most_N = torch.where(finite_PN, x_PN, -torch.inf).amax(dim=0)
        torch.minimum(self._least_N, least_N, out=self._least_N)
        torch.maximum(self._most_N, most_N, out=self._most_N)
        d_PN = torch.where(finite_PN, x_PN - self._centre_N, 0.0)
        self._sums_KN += _sums(d_PN, torch.where(finite_PN, x_PN, 0.0).abs_())
        slot_PN = self._slots.place(x_PN * self._slots.per_unit_N)
        apart = (x_PN == 0, x_PN.isnan(), x_PN == torch.inf, x_PN == -torch.inf)
        for counter, chosen_PN in enumerate(apart, start=ZERO):
            slot_PN = torch.where(chosen_PN, self._slots.counter(counter), slot_PN)
        self._tally.add(slot_PN)

    def measured(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return minima and maxima, (N,), and sums of the MOMENTS about the centre, (K, N)."""
        found = (self._least_N, self._most_N, self._sums_KN)
        least_N, most_N, sums_KN = (tensor.cpu().numpy() for tensor in found)
        return least_N, most_N, sums_KN


class FixedCounter:
    """Counts the activations of one hookpoint, N neurons, in equal bins between given ends."""

    def __init__(
        self,
        low_N: NDArray[np.float64],
        high_N: NDArray[np.float64],
        *,
        bins: int,
        device: torch.device,
    ) -> None:
        self._ends, self._bins = (low_N, high_N), bins
        self._low_N = torch.from_numpy(low_N).to(device, torch.float32)
        self._high_N = torch.from_numpy(high_N).to(device, torch.float32)
        # The last counter takes what lies outside.
        self._tally = Tally(low_N.size, bins + 1, device)
        self._start_N = torch.arange(low_N.size, device=device, dtype=torch.int32) * (bins + 1)

    def add(self, values_PN: Tensor) -> None:
        """Count the activations at P positions, (P, N), of any floating dtype."""
        low_N, high_N = self._low_N, self._high_N
        for block_PN in _blocks(values_PN):
            x_PN = block_PN.to(torch.float32)
            # The order of these operations is histc's; any other moves values at edges.
            slot_PN = (x_PN - low_N).mul_(self._bins).div_(high_N - low_N)
            slot_PN.clamp_(max=self._bins - 1)
            slot_PN.masked_fill_(low_N == high_N, 0)  # 0/0: a constant fills the first bin
            slot_PN.masked_fill_(~((x_PN >= low_N) & (x_PN <= high_N)), self._bins)
            self._tally.add(slot_PN.to(torch.int32).add_(self._start_N))

    def counts(self, shard: int) -> FixedCounts:
        """Return what was counted, N rows, as the counts of one shard of the data."""
        low_N, high_N = self._ends
        counts_NB = self._tally.total()[:, : self._bins].copy()
        return FixedCounts(low=low_N, high=high_N, shards=(shard,), counts=counts_NB)


def _sums(d_PN: Tensor, size_PN: Tensor) -> Tensor:
    """Return the sums over P of d, d², d³, d⁴ and |x|, (K, N), in float64; d is used up."""
    square_PN = d_PN * d_PN
    sums = [d_PN.sum(dim=0), square_PN.sum(dim=0)]
    sums.append(d_PN.mul_(square_PN).sum(dim=0))
    sums.append(square_PN.mul_(square_PN).sum(dim=0))
    return torch.stack([*sums, size_PN.sum(dim=0)]).to(torch.float64)


def _blocks(values_PN: Tensor) -> tuple[Tensor, ...]:
    positions, neurons = values_PN.shape
    return torch.split(values_PN, max(1, _BLOCK // neurons)) if positions else ()
