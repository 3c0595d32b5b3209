"""Histograms: what is left of a neuron's activations once they have been counted.

Keeping every activation to find a mode costs gigabytes; a few hundred integer
counts per neuron say the same as far as anyone can tell, and they add up. So a
shard of the data leaves one `Histogram`, and histograms are joined by `merge`:
integers are added, and every result is the same to the last bit whatever the
number of workers, the shape of the merge tree or the order of arrival.

Where the bins lie (`workers.windows`) is fixed before counting begins and never
follows the data: one outlier would ruin the resolution where the peak is.

Every value is counted exactly once, in one of these: a bin (`counts`), exactly
zero (`zeros`; such values are *not* in the bins, because an atom at zero and a
density around it are different things), `below` or `above` the window, `nan`,
`pos_inf`, `neg_inf`. A *finite* value is one of the first four.

Floating-point sums do not add up the same in every order. Therefore moments
stay apart per shard and are combined in ascending order of shard only when they
are read; and a histogram carries the shards it holds, because a retried task
delivers the same shard twice and adding it twice would be wrong unnoticed.

What to expect: quantiles are good to one bin width inside the window; outside
it all that is known is the count, the extremes and the signs.

Shapes: R rows (L layers x N neurons of one site; row = layer·N + neuron), B bins,
K shards, M = 5 moment sums, P pieces of a distribution, E edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.windows import Windows as Windows  # part of this module's vocabulary

MOMENTS = ("d", "d2", "d3", "d4", "abs")
"""The M sums over finite values: of d, d², d³, d⁴ with d = x − the window's centre, and of |x|."""

_ROWS = 4096
"""Rows worked on at a time, so that temporaries stay small beside the histogram."""


class MergeError(ValueError):
    """Two partial results cannot be joined: a shard came twice, or the bins differ."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Histogram:
    """The activations of one site of a whole model, over some shards of the data."""

    windows: Windows
    shards: tuple[int, ...]
    """The K shards counted here, ascending."""
    counts: NDArray[np.int64]
    """(R, B) values per bin, exact zeros left out."""
    zeros: NDArray[np.int64]
    """(R,) values that are exactly 0, of either sign."""
    below: NDArray[np.int64]
    """(R,) finite values below the window, exact zeros left out."""
    above: NDArray[np.int64]
    """(R,) finite values above the window, exact zeros left out."""
    nan: NDArray[np.int64]
    pos_inf: NDArray[np.int64]
    neg_inf: NDArray[np.int64]
    positive: NDArray[np.int64]
    """(R,) finite values above 0."""
    minimum: NDArray[np.float64]
    """(R,) smallest finite value; +inf where there is none."""
    maximum: NDArray[np.float64]
    """(R,) largest finite value; −inf where there is none."""
    moments: NDArray[np.float64]
    """(K, R, M) sums of `MOMENTS` per shard, in the order of `shards`."""

    @property
    def finite(self) -> NDArray[np.int64]:
        """Number of finite values, (R,): inside, zero, below and above."""
        inside_R = self.counts.sum(axis=1, dtype=np.int64)
        return np.asarray(inside_R + self.zeros + self.below + self.above)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Statistics over the finite values of every row, all (R,); NaN where undefined."""

    count: NDArray[np.int64]
    """Finite values."""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """Root of the mean squared deviation (divided by count, not count − 1)."""
    rms: NDArray[np.float64]
    abs_mean: NDArray[np.float64]
    positive: NDArray[np.float64]
    """Share of values above 0."""
    skewness: NDArray[np.float64]
    """Third standardised moment; NaN for a constant."""
    kurtosis: NDArray[np.float64]
    """Fourth standardised moment minus 3 (0 for a normal distribution); NaN for a constant."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FixedCounts:
    """Counts in equal bins between two given values per row, over some shards."""

    low: NDArray[np.float64]
    """(R,) left edge of the first bin: the neuron's final minimum."""
    high: NDArray[np.float64]
    """(R,) right edge of the last bin, which includes it: the neuron's final maximum."""
    shards: tuple[int, ...]
    """Ascending."""
    counts: NDArray[np.int64]
    """(R, bins) finite values from low to high; exact zeros are counted like any other."""


def empty(windows: Windows) -> Histogram:
    """Return the histogram of no shard: the identity of `merge`."""
    rows = windows.first.size
    none_R = np.zeros(rows, np.int64)
    return Histogram(
        windows=windows,
        shards=(),
        counts=np.zeros((rows, windows.bins), np.int64),
        zeros=none_R,
        below=none_R,
        above=none_R,
        nan=none_R,
        pos_inf=none_R,
        neg_inf=none_R,
        positive=none_R,
        minimum=np.full(rows, np.inf),
        maximum=np.full(rows, -np.inf),
        moments=np.zeros((0, rows, len(MOMENTS))),
    )


def merge(parts: Sequence[Histogram]) -> Histogram:
    """Join histograms of different shards; equal, bit for bit, to having counted them together.

    The parts are left as they are. Raises MergeError if a shard is in two parts
    or if windows differ, ValueError if there are no parts.
    """
    shards, order = _joined([part.shards for part in parts])
    windows = parts[0].windows
    for part in parts[1:]:
        if not windows.same(part.windows):
            raise MergeError(
                f"Histograms of shards {list(parts[0].shards)} and {list(part.shards)} were counted"
                " in different windows. Collect all shards with the windows of one pilot."
            )
    return Histogram(
        windows=windows,
        shards=shards,
        counts=_added([part.counts for part in parts]),
        zeros=_added([part.zeros for part in parts]),
        below=_added([part.below for part in parts]),
        above=_added([part.above for part in parts]),
        nan=_added([part.nan for part in parts]),
        pos_inf=_added([part.pos_inf for part in parts]),
        neg_inf=_added([part.neg_inf for part in parts]),
        positive=_added([part.positive for part in parts]),
        minimum=np.min([part.minimum for part in parts], axis=0),
        maximum=np.max([part.maximum for part in parts], axis=0),
        moments=np.concatenate([part.moments for part in parts])[order],
    )


def merge_fixed(parts: Sequence[FixedCounts]) -> FixedCounts:
    """Join fixed counts of different shards; raises as `merge` does."""
    shards, _ = _joined([part.shards for part in parts])
    one = parts[0]
    for part in parts[1:]:
        alike = np.array_equal(one.low, part.low) and np.array_equal(one.high, part.high)
        if not alike or one.counts.shape != part.counts.shape:
            raise MergeError(
                f"Fixed counts of shards {list(one.shards)} and {list(part.shards)} lie between"
                " different ends. Recount all shards between the minima and maxima of one merge."
            )
    counts_RB = _added([part.counts for part in parts])
    return FixedCounts(low=one.low, high=one.high, shards=shards, counts=counts_RB)


def summarise(histogram: Histogram) -> Moments:
    """Return count, mean, spread and shape of every row, (R,) each; exact up to float64 rounding.

    Shards are combined in ascending order, so the bits do not depend on how they were merged.
    """
    count_R = histogram.finite
    total_RM = np.zeros(histogram.moments.shape[1:])
    for shard_RM in histogram.moments:  # one at a time: numpy would be free to choose the order
        total_RM += shard_RM
    constant_R = histogram.minimum == histogram.maximum
    with np.errstate(divide="ignore", invalid="ignore"):  # no values, or no spread: NaN is meant
        d1_R, d2_R, d3_R, d4_R, abs_R = (total_RM / count_R[:, None]).T
        variance_R = np.maximum(d2_R - d1_R**2, 0)
        third_R = d3_R - 3 * d1_R * d2_R + 2 * d1_R**3
        fourth_R = d4_R - 4 * d1_R * d3_R + 6 * d1_R**2 * d2_R - 3 * d1_R**4
        # The mean of a constant is that constant, not nearly so; and it has no shape.
        mean_R = np.where(constant_R, histogram.minimum, histogram.windows.centre + d1_R)
        std_R = np.where(constant_R, 0.0, np.sqrt(variance_R))
        spread_R = np.where(std_R > 0, std_R, np.nan)
        return Moments(
            count=count_R,
            mean=mean_R,
            std=std_R,
            rms=np.hypot(mean_R, std_R),
            abs_mean=np.where(constant_R, np.abs(mean_R), abs_R),
            positive=histogram.positive / count_R,
            skewness=third_R / spread_R**3,
            kurtosis=fourth_R / spread_R**4 - 3,
        )


def quantile(histogram: Histogram, q: float) -> NDArray[np.float64]:
    """Estimate the ceil(q·n)-th smallest of each row's n finite values, (R,); NaN where n = 0.

    An exact zero comes back as 0. Inside the window the answer lies in the same
    bin as the true value, so it is good to one bin width; below and above, values
    are taken as spread evenly from the window (or from 0) to the extreme.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"A quantile of {q} was asked for; it must lie between 0 and 1.")
    rows = histogram.windows.first.size
    starts = range(0, rows, _ROWS)
    return np.concatenate([_quantile(histogram, q, slice(at, at + _ROWS)) for at in starts])


def _quantile(histogram: Histogram, q: float, rows: slice) -> NDArray[np.float64]:
    mass_RP, edge_RP = _pieces(histogram, rows)
    zeros_R, positive_R = histogram.zeros[rows], histogram.positive[rows]
    nonzero_R = mass_RP.sum(axis=1)
    count_R = nonzero_R + zeros_R
    negative_R = nonzero_R - positive_R

    rank_R = np.maximum(np.ceil(q * count_R), 1).astype(np.int64)
    is_zero_R = (rank_R > negative_R) & (rank_R <= negative_R + zeros_R)
    rank_R -= np.where(rank_R > negative_R, zeros_R, 0)  # rank among the values that are not zero

    reached_RP = mass_RP.cumsum(axis=1)
    piece_R = np.minimum((reached_RP < rank_R[:, None]).sum(axis=1), mass_RP.shape[1] - 1)
    at = (np.arange(piece_R.size), piece_R)
    mass_R = np.maximum(mass_RP[at], 1)
    share_R = (rank_R - (reached_RP[at] - mass_RP[at]) - 0.5) / mass_R  # evenly within the piece
    left_R, right_R = edge_RP[at], edge_RP[at[0], piece_R + 1]
    found = (count_R > 0) & ~is_zero_R
    value_R = np.where(is_zero_R, 0.0, np.nan)
    value_R[found] = (left_R + share_R * (right_R - left_R))[found]
    low_R, high_R = histogram.minimum[rows], histogram.maximum[rows]
    value_R[found] = np.clip(value_R[found], low_R[found], high_R[found])
    return value_R


def _pieces(histogram: Histogram, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cut the non-zero values into P = B + 4 pieces; return masses (R, P) and edges (R, P + 1).

    Of the values below the window, those under and over 0 are told apart by the
    number of positive values: only one of the two can straddle 0. Likewise above.
    """
    counts_RB = histogram.counts[rows]
    below_R, above_R = histogram.below[rows], histogram.above[rows]
    positive_R = histogram.positive[rows]
    negative_R = below_R + counts_RB.sum(axis=1) + above_R - positive_R
    under_R, over_R = np.minimum(below_R, negative_R), np.minimum(above_R, positive_R)
    mass_RP = np.column_stack(
        [under_R, below_R - under_R, counts_RB, above_R - over_R, over_R],
    )
    windows = histogram.windows
    width_R = windows.width[rows, None]
    inner_RE = windows.start[rows, None] + width_R * np.arange(windows.bins + 1)
    start_R, end_R = inner_RE[:, 0], inner_RE[:, -1]
    # Rows without a finite value have infinite extremes; their window's ends stand in.
    low_R = np.minimum(histogram.minimum[rows], start_R)
    high_R = np.maximum(histogram.maximum[rows], end_R)
    edge_RP = np.column_stack(
        [low_R, np.clip(0.0, low_R, start_R), inner_RE, np.clip(0.0, end_R, high_R), high_R],
    )
    return mass_RP, edge_RP


def _joined(parts: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], list[int]]:
    """Return all shards ascending, and where each stands in the concatenation of the parts."""
    if not parts:
        raise ValueError("There is nothing to merge; give at least one part (`empty` will do).")
    shards = [shard for part in parts for shard in part]
    twice = sorted({shard for shard in shards if shards.count(shard) > 1})
    if twice:
        raise MergeError(
            f"Shards {twice} are in more than one of the {len(parts)} parts to be merged."
            " Each must be counted once: leave out the second delivery."
        )
    order = sorted(range(len(shards)), key=shards.__getitem__)
    return tuple(shards[place] for place in order), order


def _added(parts_: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    total = parts_[0].copy()
    for part in parts_[1:]:
        total += part
    return total
