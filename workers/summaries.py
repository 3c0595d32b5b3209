"""Summaries: moments and quantiles, read off a histogram.

Moments come from sums and are exact up to rounding. Quantiles come from counts
and are good to one bin width inside the window; outside it all that is known is
the count, the extremes and the signs.

Shapes: R rows, B bins, P pieces of a distribution, E edges, M moment sums.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.counts import MOMENTS, Histogram

_ROWS = 4096
"""Rows worked on at a time, so that temporaries stay small beside the histogram."""


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
    first: NDArray[np.float64]
    """Mean over first positions alone."""


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
        d1_R, d2_R, d3_R, d4_R, abs_R, _ = (total_RM / count_R[:, None]).T
        variance_R = np.maximum(d2_R - d1_R**2, 0)
        third_R = d3_R - 3 * d1_R * d2_R + 2 * d1_R**3
        fourth_R = d4_R - 4 * d1_R * d3_R + 6 * d1_R**2 * d2_R - 3 * d1_R**4
        # The mean of a constant is that constant, not nearly so; and it has no shape.
        mean_R = np.where(constant_R, histogram.minimum, histogram.windows.centre + d1_R)
        std_R = np.where(constant_R, 0.0, np.sqrt(variance_R))
        spread_R = np.where(std_R > 0, std_R, np.nan)
        first_R = total_RM[:, MOMENTS.index("first")] / histogram.firsts
        return Moments(
            count=count_R,
            mean=mean_R,
            std=std_R,
            rms=np.hypot(mean_R, std_R),
            abs_mean=np.where(constant_R, np.abs(mean_R), abs_R),
            positive=histogram.positive / count_R,
            skewness=third_R / spread_R**3,
            kurtosis=fourth_R / spread_R**4 - 3,
            first=first_R,
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
    starts = range(0, max(rows, 1), _ROWS)
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
