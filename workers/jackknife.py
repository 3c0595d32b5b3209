"""Jackknife: how far a mean, median or peak might be off, by leaving out one shard at a time.

Tokens of one text are alike, so counting noise understates what another set of
texts would have given: with a correlation of .3 within a text, intervals made
from tokens cover 74 % instead of 95 %. Merged counts cannot show this. Shards
can: each is a set of whole documents, so shards are independent. The statistic
is taken again from the histogram without shard g, for every g; what shard g
moved it by is

    u_g = (1 − n_g / n)·(θ − θ without g),     n values, n_g of them in g,

and the variance of θ is G/(G − 1)·Σ u_g². For the mean this is, exactly, the
variance of a ratio of sums over G clusters of unequal size; with equal sizes it
is the delete-one jackknife about θ. The interval is θ ± t·s, the 97.5 % quantile
of Student's t with G − 1 degrees: nominally 95 %, symmetric about θ.

What is estimated: the mean, the median, and the mode of the density *smoothed at
h*, the bandwidth given, which stays the same for all deletions. The bias that
smoothing brings is not seen (nor would a bootstrap see it).

When it is weak (measured in `benchmarks/jackknife.py`): two modes nearly equally high, where
all deletions may agree on the wrong one; a median in a gap; a flat top, which covers 82 %
with 10^4 values; an edge narrower than a bin; fewer than 8 shards, or few documents in
each. An atom at 0 that always wins has an interval of no width.

Shapes: R rows, G shards, V = 3 statistics (mean, median, peak).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import cos, pi, sin, sqrt, tan

import numpy as np
from numpy.typing import NDArray

from workers.estimators import peak_at
from workers.histogram import Histogram, MergeError, quantile, summarise


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Intervals:
    """Ends of nominal 95 % intervals, (R,) each, in the units of the activations.

    NaN where fewer than two shards have values or the statistic is undefined.
    """

    mean_low: NDArray[np.float64]
    mean_high: NDArray[np.float64]
    median_low: NDArray[np.float64]
    median_high: NDArray[np.float64]
    peak_low: NDArray[np.float64]
    peak_high: NDArray[np.float64]


def intervals(
    total: Histogram, shards: Iterable[Histogram], bandwidth_R: NDArray[np.float64]
) -> Intervals:
    """Return the intervals of every row, from a histogram and the shards it was merged from.

    `bandwidth_R` is that of `smooth(total)`. Shards may come in any order and are looked at
    one by one, so an iterator that reads them holds one at a time. Raises MergeError if
    they were counted in other windows or are not exactly the shards of the total.
    """
    names: list[int] = []
    value_GVR, held_GR, low_GR, high_GR = [], [], [], []
    for shard in shards:
        if not total.windows.same(shard.windows):
            raise MergeError(
                f"Shards {list(shard.shards)} were counted in other windows than the total they"
                " are to be left out of. Give the shards that it was merged from."
            )
        names += shard.shards
        value_GVR.append(_statistics(_less(total, shard), bandwidth_R))
        held_GR.append(shard.finite)
        low_GR.append(shard.minimum)
        high_GR.append(shard.maximum)
    if sorted(names) != list(total.shards):
        raise MergeError(
            f"The shards {sorted(names)} came to be left out, but the total holds"
            f" {list(total.shards)}. Give each of those once."
        )
    theta_VR = _statistics(total, bandwidth_R)
    half_VR = np.full(theta_VR.shape, np.nan)
    if len(held_GR) > 1:
        # What is left lies between the extremes of the other shards; so constants stay exact.
        for g, value_VR in enumerate(value_GVR):
            low_R = np.min(low_GR[:g] + low_GR[g + 1 :], axis=0)
            high_R = np.max(high_GR[:g] + high_GR[g + 1 :], axis=0)
            np.clip(value_VR, low_R, high_R, out=value_VR)
        half_VR = _half_widths(theta_VR, np.stack(value_GVR), np.stack(held_GR))
    low_VR, high_VR = theta_VR - half_VR, theta_VR + half_VR
    return Intervals(
        mean_low=low_VR[0],
        mean_high=high_VR[0],
        median_low=low_VR[1],
        median_high=high_VR[1],
        peak_low=low_VR[2],
        peak_high=high_VR[2],
    )


def _statistics(histogram: Histogram, bandwidth_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean, median and peak of every row, (V, R)."""
    peak_R = peak_at(histogram, bandwidth_R)
    return np.stack([summarise(histogram).mean, quantile(histogram, 0.5), peak_R])


def _less(total: Histogram, shard: Histogram) -> Histogram:
    """Return the total without a shard; its extremes are still the total's."""
    moments_RM = total.moments.sum(axis=0) - shard.moments.sum(axis=0)
    return replace(
        total,
        shards=(),
        counts=np.subtract(total.counts, shard.counts, dtype=np.int64),  # files hold them narrow
        zeros=total.zeros - shard.zeros,
        below=total.below - shard.below,
        above=total.above - shard.above,
        positive=total.positive - shard.positive,
        moments=moments_RM[None],
    )


def _half_widths(
    theta_VR: NDArray[np.float64], value_GVR: NDArray[np.float64], held_GR: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return t·s from the estimates without each shard and the values in each, (V, R)."""
    # A shard without a value of a row says nothing about it and is not one of its G.
    held_GR = held_GR.astype(np.float64)
    shards_R = np.count_nonzero(held_GR, axis=0)
    share_GR = held_GR / np.maximum(held_GR.sum(axis=0), 1)
    value_GVR = np.where(shards_R > 1, value_GVR, theta_VR)  # of less there is nothing left
    moved_GVR = (1 - share_GR[:, None]) * (theta_VR - value_GVR)
    t_R = np.full(shards_R.size, np.nan)
    for shards in np.unique(shards_R[shards_R > 1]):
        t_R[shards_R == shards] = student(int(shards) - 1)
    scale_R = shards_R / np.maximum(shards_R - 1, 1)
    return np.asarray(t_R * np.sqrt(scale_R * np.square(moved_GVR).sum(axis=0)))


def student(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t with that many degrees of freedom, from 1.

    P(|T| < √degrees·tan φ) is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4); the
    angle φ at which it is .95 is found by halving.
    """
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 0.95 else (low, middle)
    return sqrt(degrees) * tan(low)


def _within(angle: float, degrees: int) -> float:
    odd = degrees % 2
    term = cos(angle) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cos(angle) ** 2 * (k - 1) / k
    total *= sin(angle)
    return 2 / pi * (angle + total) if odd else total
