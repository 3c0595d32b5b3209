"""Estimators: where a neuron's activations are densest, from its histogram.

A mode is not in the data, it is estimated, and the estimator can change what an
experiment finds. So each is declared, and its name is part of every result:

    smooth       Gaussian kernel on the counts, highest point, parabola through
                 three bins. Bandwidth h = 0.9·min(σ, IQR/1.349)·n^(-1/7), the
                 rate for a mode (not n^(-1/5), the one for a density), of the
                 values that are not exactly zero; never under half a bin.
    half_sample  the shortest interval with half of the values, in it again the
                 shortest with half of those, … down to one bin.
    paper        the centre of the first fullest of 100 bins from the minimum to
                 the maximum, as published; needs a second counting pass.

What `smooth` finds is the mode of the density *smoothed at h*, which shrinks as n
grows: a narrow spike beside a broad bulk is seen only once h is small enough. On
10^5 values it misses a normal's mode by 0.03 σ where `paper` misses by 0.12; with
heavy tails `paper` gets worse with more data, as its bins follow the outliers.

Many exact zeros are an atom, and an atom that is highest makes the peak exactly
0 (the rule is in `workers.modes`).

Ties go to the place nearest zero, then to the lower. A constant is its own peak.
Where nothing lies in the window there is no peak: NaN; widen the window. On dtypes
of few bits, values lie on a lattice and a peak is known to half its spacing only.

Shapes: R rows (neurons of one site), B bins, E = B + 1 edges, J modes of all rows,
A rows still at work.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workers.histogram import FixedCounts, Histogram, quantile
from workers.modes import Modes, find, join

FAINT = 0.01
"""Share of finite values under which a mode is not listed, unless it is the highest."""
_EVEN = 1e-9
"""Relative difference under which heights are equal; far above rounding, far under noise."""
_ROWS = 1024
"""Rows worked on at a time, so that temporaries stay small."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Peaks:
    """The densest places of every row, in the units of the activations."""

    value: NDArray[np.float64]
    """(R,) the highest; NaN where a row has nothing in its window."""
    bandwidth: NDArray[np.float64]
    """(R,) standard deviation h of the kernel; 0 for a constant."""
    mode_values: list[NDArray[np.float64]]
    """R arrays: all modes, the highest first."""
    mode_weights: list[NDArray[np.float64]]
    """R arrays: share of the finite values between the valleys at either side of each mode."""


def smooth(histogram: Histogram) -> Peaks:
    """Return the peak, all modes and the bandwidth of every row; see the module's text."""
    bandwidth_R = _bandwidth(histogram)
    rows = bandwidth_R.size
    constant = np.flatnonzero(histogram.minimum == histogram.maximum)
    one, at = np.ones(constant.size), histogram.minimum[constant]
    found = find(histogram, bandwidth_R)
    modes = join([found, Modes(row=constant, value=at, weight=one, height=one, distance=one)])

    highest_R = np.zeros(rows)
    np.maximum.at(highest_R, modes.row, modes.height)
    tied_J = modes.height >= (1 - _EVEN) * highest_R[modes.row]
    falling_J = np.where(tied_J, 0.0, -modes.height)
    nearest_J = np.where(tied_J, modes.distance, 0.0)
    order = np.lexsort((modes.value, falling_J, nearest_J, ~tied_J, modes.row))
    row_J, value_J, weight_J = modes.row[order], modes.value[order], modes.weight[order]
    first_J = np.diff(row_J, prepend=-1) > 0

    peak_R = np.full(rows, np.nan)
    peak_R[row_J[first_J]] = value_J[first_J]
    listed_J = first_J | (weight_J >= FAINT)
    ends = np.bincount(row_J[listed_J], minlength=rows).cumsum()[:-1]
    return Peaks(
        value=peak_R,
        bandwidth=bandwidth_R,
        mode_values=np.split(value_J[listed_J], ends),
        mode_weights=np.split(weight_J[listed_J], ends),
    )


def half_sample(histogram: Histogram) -> NDArray[np.float64]:
    """Return the half-sample mode of every row on its bins, (R,); good to half a bin.

    Exact zeros count to the bin that starts at 0; if they are at least half of what is
    in the last interval, or of all, the mode is exactly 0. Equally short intervals are
    settled by the number of values in them, then by the rule for ties.
    """
    windows = histogram.windows
    value_R = np.full(windows.first.size, np.nan)
    for start in range(0, value_R.size, _ROWS):
        rows = slice(start, start + _ROWS)
        counts_RB, zeros_R = histogram.counts[rows].copy(), histogram.zeros[rows]
        first_R, width_R = windows.first[rows], windows.width[rows]
        inside = np.flatnonzero((first_R <= 0) & (-first_R < windows.bins))
        counts_RB[inside, -first_R[inside]] += zeros_R[inside]
        bin_R = _half_sample_bin(counts_RB, first_R)
        left_R = counts_RB[np.arange(bin_R.size), bin_R]
        off_R = (2 * zeros_R >= left_R) & (first_R + bin_R == 0)
        off_R |= 2 * zeros_R >= counts_RB.sum(axis=1)
        centre_R = np.where(left_R > 0, (first_R + bin_R + 0.5) * width_R, np.nan)
        value_R[rows] = np.where(off_R & (zeros_R > 0), 0.0, centre_R)
    constant_R = histogram.minimum == histogram.maximum
    return np.where(constant_R, histogram.minimum, value_R)


def paper(fixed: FixedCounts) -> NDArray[np.float64]:
    """Return the centre of each row's first fullest bin, (R,); NaN where nothing was counted."""
    bins = fixed.counts.shape[1]
    counted_R = fixed.counts.any(axis=1)
    low_R = np.where(counted_R, fixed.low, np.nan)
    high_R = np.where(counted_R, fixed.high, np.nan)
    share_R = (fixed.counts.argmax(axis=1) + 0.5) / bins
    return np.asarray(low_R + share_R * (high_R - low_R))  # a constant: high = low, so exactly that


def _bandwidth(histogram: Histogram) -> NDArray[np.float64]:
    """Return the kernel's standard deviation, (R,), from the values that are not exactly zero."""
    zeros_R, centre_R = histogram.zeros, histogram.windows.centre
    count_R = np.maximum(histogram.finite - zeros_R, 1)
    sum_R, square_R = zeros_R * centre_R, -zeros_R * centre_R**2  # d = −centre for each zero
    for shard_RM in histogram.moments:
        sum_R += shard_RM[:, 0]
        square_R += shard_RM[:, 1]
    std_R = np.sqrt(np.maximum(square_R / count_R - (sum_R / count_R) ** 2, 0))
    others = replace(histogram, zeros=np.zeros_like(zeros_R))
    iqr_R = quantile(others, 0.75) - quantile(others, 0.25)
    spread_R = np.fmin(std_R, iqr_R / 1.349)
    bandwidth_R = np.maximum(0.9 * spread_R * count_R ** (-1 / 7), histogram.windows.width / 2)
    return np.where(histogram.minimum < histogram.maximum, bandwidth_R, 0.0)


def _half_sample_bin(counts_RB: NDArray[np.int64], first_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Halve each row's interval [low, high) of bins until one bin is left; return it, (R,).

    All rows are searched at once: shifted apart, their cumulative counts are one sorted array.
    """
    rows, bins = counts_RB.shape
    reached_RE = np.zeros((rows, bins + 1), np.int64)
    counts_RB.cumsum(axis=1, out=reached_RE[:, 1:])
    shift = 2 * int(reached_RE[:, -1].max(initial=0)) + 1
    low_R, high_R = np.zeros(rows, np.int64), np.full(rows, bins)
    place_B = np.arange(bins)
    while (row_A := np.flatnonzero(high_R - low_R > 1)).size:  # A rows still at work
        cum_AE, low_A, high_A = reached_RE[row_A], low_R[row_A, None], high_R[row_A, None]
        mass_A = np.take_along_axis(cum_AE, high_A, 1) - np.take_along_axis(cum_AE, low_A, 1)
        shift_A = shift * np.arange(row_A.size)[:, None]
        target_AB = cum_AE[:, :-1] + (mass_A + 1) // 2 + shift_A
        end_AB = np.searchsorted((cum_AE + shift_A).ravel(), target_AB.ravel())
        end_AB = end_AB.reshape(target_AB.shape) - (bins + 1) * np.arange(row_A.size)[:, None]
        end_AB = np.maximum(end_AB, place_B + 1)  # an interval without any values is one bin
        fits_AB = (place_B >= low_A) & (end_AB <= high_A)
        length_AB = np.where(fits_AB, end_AB - place_B, bins + 1)
        held_AB = np.take_along_axis(cum_AE, np.minimum(end_AB, bins), 1) - cum_AE[:, :-1]
        twice_AB = np.abs(2 * (first_R[row_A, None] + place_B) + length_AB)  # middle from zero
        best_A = _least(length_AB, -held_AB, twice_AB)
        low_R[row_A] = best_A
        high_R[row_A] = np.take_along_axis(end_AB, best_A[:, None], 1)[:, 0]
    return low_R


def _least(*keys_AB: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first column with the least first key, among equals the least second, … (A,)."""
    left_AB = np.ones(keys_AB[0].shape, np.bool_)
    for key_AB in keys_AB:
        masked_AB = np.where(left_AB, key_AB, np.iinfo(np.int64).max)
        left_AB &= masked_AB == masked_AB.min(axis=1, keepdims=True)
    return np.asarray(left_AB.argmax(axis=1))
