"""Estimators: where a neuron's activations are densest, from its histogram.

A mode is not in the data, it is estimated, and the estimator can change what an
experiment finds. So each is declared, and its name is part of every result:

    smooth        the highest point of the counts smoothed by a Gaussian kernel whose
                  bandwidth shrinks with the number of values; the default
    fixed_scales  the same at three bandwidths that do not shrink, and whether they agree
    half_sample   the shortest interval with half of the values, in it again the
                  shortest with half of those, … down to one bin

What each is known to get wrong stands with it; `benchmarks/estimators.py` measures it.
The peaks of the published code are controls and stand apart, in `workers.published`.

Many exact zeros are an atom, and an atom that is highest makes the peak exactly
0 (the rule is in `workers.modes`).

Ties go to the place nearest zero, then to the lower. A constant is its own peak.
Where nothing lies in the window there is no peak: NaN; widen the window. On dtypes
of few bits, values lie on a lattice and a peak is known to half its spacing only.

Shapes: R rows (neurons of one site), B bins, E = B + 1 edges, J modes of all rows,
A rows still at work, H = 3 scales.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workers.histogram import Histogram, quantile
from workers.modes import Modes, find, join

SCALES = (0.05, 0.1, 0.2)
"""Fixed bandwidths, in units of the spread; ascending."""
_NOISE = 3.0
"""Standard deviations of counting noise by which a place must be higher to be called so."""
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scales:
    """The peak of every row as it is seen at each of `SCALES`."""

    values: NDArray[np.float64]
    """(H, R) in the units of the activations; NaN where a row has nothing in its window."""
    stable: NDArray[np.bool_]
    """(R,) whether the choice of scale makes no difference beyond noise; False without a peak."""


def smooth(histogram: Histogram) -> Peaks:
    """Return the peak, all modes and the bandwidth of every row.

    The counts are convolved with a Gaussian of standard deviation h, the highest bin
    is taken and a parabola laid through it and its neighbours. The bandwidth is
    h = 0.9·spread·n^(-1/7) with spread = min(σ, IQR/1.349), both of the n values that are
    not exactly zero, and never under half a bin. The rate is the one for a mode (Parzen
    1962; Grund and Hall 1995), not n^(-1/5), the one for a density; 0.9 is Silverman's.

    Bias: its target is the mode of the density *smoothed at h*. Beside a steep flank that
    lies inside of the true mode (exponential: by about h); a spike narrower than h with
    little mass is not seen until h has shrunk, so the answer can jump as n grows.
    """
    spread_R, count_R = _spread(histogram)
    bandwidth_R = _kernel(histogram, 0.9 * spread_R * count_R ** (-1 / 7))
    modes, first_J = _ranked(histogram, bandwidth_R)
    listed_J = first_J | (modes.weight >= FAINT)
    ends = np.bincount(modes.row[listed_J], minlength=spread_R.size).cumsum()[:-1]
    return Peaks(
        value=_peak(modes, first_J, spread_R.size),
        bandwidth=bandwidth_R,
        mode_values=np.split(modes.value[listed_J], ends),
        mode_weights=np.split(modes.weight[listed_J], ends),
    )


def peak_at(histogram: Histogram, bandwidth_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the peak of every row, (R,), smoothed at bandwidths in units of the activations.

    With `smooth`'s bandwidths these are `smooth`'s peaks. A row that is not a constant
    needs a bandwidth over 0, or it has no peak.
    """
    return _peak(*_ranked(histogram, bandwidth_R), bandwidth_R.size)


def fixed_scales(histogram: Histogram) -> Scales:
    """Return the peak of every row at the bandwidths `SCALES` x spread, and whether they agree.

    The spread is that of `smooth`'s bandwidth: min(σ, IQR/1.349) of the values that are not
    exactly zero; half a bin is the least bandwidth here as well. These targets do not move
    with the number of values, so data sets of different size can be compared.

    Stable: at each finer scale, the highest place lies within the coarsest bandwidth of the
    coarsest peak, or is no higher than the best place that does, by `_NOISE` standard
    deviations of counting noise. The second half is needed because on a broad mode the
    finest peak wanders: on 10^5 normal values it is .17 σ off by chance alone, and equal
    places would be called unstable. So `stable` says that *scale* does not matter; whether
    chance does (two nearly equal modes) is for the interval to say.

    Bias: each is the mode of the density smoothed at its scale. Tokens that are correlated
    are noisier than counting, so then rows are called unstable too often.
    """
    spread_R, _ = _spread(histogram)
    bandwidths = [_kernel(histogram, scale * spread_R) for scale in SCALES]
    ranked = [_ranked(histogram, bandwidth_R) for bandwidth_R in bandwidths]
    value_HR = np.stack([_peak(*one, spread_R.size) for one in ranked])
    stable_R = np.isfinite(value_HR[-1])
    for bandwidth_R, (modes, _) in zip(bandwidths, ranked, strict=True):
        highest_R, near_R = np.zeros((2, spread_R.size))
        away_J = np.abs(modes.value - value_HR[-1, modes.row])
        near_J = away_J <= bandwidths[-1][modes.row]
        np.maximum.at(highest_R, modes.row, modes.height)
        np.maximum.at(near_R, modes.row[near_J], modes.height[near_J])
        # A height is a sum of counts x kernel; its variance is at most height x kernel's summit.
        width_R = histogram.windows.width
        summit_R = width_R / (np.sqrt(2 * np.pi) * np.maximum(bandwidth_R, width_R / 2))
        noise_R = np.sqrt(summit_R * (highest_R + near_R))
        stable_R &= (near_R > 0) & (highest_R - near_R <= _NOISE * noise_R)
    return Scales(values=value_HR, stable=stable_R)


def half_sample(histogram: Histogram) -> NDArray[np.float64]:
    """Return the half-sample mode of every row on its bins, (R,); good to half a bin.

    Robertson and Cryer 1974; Bickel and Frühwirth 2006, who work on the values themselves.
    Exact zeros count to the bin that starts at 0; if they are at least half of what is
    in the last interval, or of all, the mode is exactly 0. Equally short intervals are
    settled by the number of values in them, then by the rule for ties.

    Bias: none to speak of on symmetric densities, but an error that shrinks only as
    n^(-1/3), so that there is no bootstrap or jackknife for it; a half that holds the
    broader of two modes is left for good in the first step.
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


def _ranked(
    histogram: Histogram, bandwidth_R: NDArray[np.float64]
) -> tuple[Modes, NDArray[np.bool_]]:
    """Return the modes row by row, each row's by the rules of choice, and which are first, (J,)."""
    constant = np.flatnonzero(histogram.minimum == histogram.maximum)
    one, at = np.ones(constant.size), histogram.minimum[constant]
    found = find(histogram, bandwidth_R)
    modes = join([found, Modes(row=constant, value=at, weight=one, height=one, distance=one)])

    highest_R = np.zeros(bandwidth_R.size)
    np.maximum.at(highest_R, modes.row, modes.height)
    tied_J = modes.height >= (1 - _EVEN) * highest_R[modes.row]
    falling_J = np.where(tied_J, 0.0, -modes.height)
    nearest_J = np.where(tied_J, modes.distance, 0.0)
    order = np.lexsort((modes.value, falling_J, nearest_J, ~tied_J, modes.row))
    ranked = modes.take(order)
    return ranked, np.diff(ranked.row, prepend=-1) > 0


def _peak(modes: Modes, first_J: NDArray[np.bool_], rows: int) -> NDArray[np.float64]:
    peak_R = np.full(rows, np.nan)
    peak_R[modes.row[first_J]] = modes.value[first_J]
    return peak_R


def _spread(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return min(σ, IQR/1.349) and the number of the values that are not exactly zero, (R,)."""
    zeros_R, centre_R = histogram.zeros, histogram.windows.centre
    count_R = np.maximum(histogram.finite - zeros_R, 1)
    sum_R, square_R = zeros_R * centre_R, -zeros_R * centre_R**2  # d = −centre for each zero
    for shard_RM in histogram.moments:
        sum_R += shard_RM[:, 0]
        square_R += shard_RM[:, 1]
    std_R = np.sqrt(np.maximum(square_R / count_R - (sum_R / count_R) ** 2, 0))
    others = replace(histogram, zeros=np.zeros_like(zeros_R))
    iqr_R = quantile(others, 0.75) - quantile(others, 0.25)
    return np.fmin(std_R, iqr_R / 1.349), count_R


def _kernel(histogram: Histogram, wanted_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return usable bandwidths, (R,): at least half a bin, and 0 where there is no spread."""
    bandwidth_R = np.maximum(wanted_R, histogram.windows.width / 2)
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
