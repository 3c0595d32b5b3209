"""Widening: which rows were counted in a poor window, and where to count them again.

A window is placed from a small sample (`workers.windows`), and what the sample
did not show may lie outside it: a neuron that wakes up for a few documents, a
second mode far away. Counts show this, so rows are judged by their histogram
over all shards, and the poor ones are counted again, once, in a wider window:

- a row is poor when more than `OUTSIDE` of its finite values lie outside its
  window. Exact zeros, which have a counter of their own, are inside;
- or when its fullest bin lies within `EDGE` of an end of the window beyond which
  there are values: then the true peak may be out there.

The wider window needs no second look at the data. Its moments bound what can lie
far from the mean μ. Of any distribution, at most 1/k² lies further from μ than k
standard deviations (Chebyshev, 1867), and at most m₄/t⁴ further than t, m₄ being
the fourth central moment (Markov's inequality for (x − μ)⁴). With

    t = min(10 σ, (100 m₄)^(1/4))

at most 1 % lies outside μ ± t, guaranteed, so after the second pass no row is
poor on that account. The extremes are known too, and cut the interval further;
a tenth of it is then added at either end.

When it is weak: the bound holds for the worst distribution, so for an ordinary one
the window is wider than it need be, and heavy tails or one far outlier widen it
more: with one value 1e4 spreads away among 1e6, to some ±100 spreads, so about one
bin per spread. Only rows whose first window was poor pay this.

Shapes: R rows, W poor ones, B bins, M moment sums.
"""

import numpy as np
from numpy.typing import NDArray

from workers.histogram import Histogram
from workers.windows import Lattice, Windows, around

OUTSIDE = 0.01
"""Share of the finite values that may lie outside a window."""
EDGE = 0.05
"""Share of a window's bins, at either end, that should not hold the fullest one."""
_MARGIN = 0.1
"""Added at either end, as a share of the interval."""
_ROUNDING = 2.0**-20
"""Relative error of a moment sum, generously: blocks may be summed in float32."""


def poor(histogram: Histogram, lattice: Lattice) -> NDArray[np.intp]:
    """Return the rows to count again, (W,) ascending, of a histogram over all shards.

    A row without spread is never poor, nor one whose wider window would be the old one.
    """
    bins = histogram.windows.bins
    count_R = histogram.finite
    outside_R = histogram.below + histogram.above
    fullest_R = histogram.counts.argmax(axis=1)
    peaked_R = histogram.counts.any(axis=1)
    at_start_R = peaked_R & (fullest_R < EDGE * bins) & (histogram.below > 0)
    at_end_R = peaked_R & (bins - 1 - fullest_R < EDGE * bins) & (histogram.above > 0)
    suspect_R = (outside_R > OUTSIDE * count_R) | at_start_R | at_end_R
    rows_W = np.flatnonzero(suspect_R & (histogram.minimum < histogram.maximum))
    old, new = histogram.windows.taken(rows_W), wider(histogram, rows_W, lattice)
    other_W = (old.exponent != new.exponent) | (old.first != new.first)
    return np.asarray(rows_W[other_W], np.intp)


def wider(histogram: Histogram, rows_W: NDArray[np.intp], lattice: Lattice) -> Windows:
    """Return windows for some rows, W of them, outside which at most 1 % of their values lie.

    `lattice` is that of the activations' dtype. Raises ValueError as `windows.around` does.
    """
    count_W = np.maximum(histogram.finite[rows_W], 1)
    total_WM = histogram.moments[:, rows_W].sum(axis=0)
    d1_W, d2_W, d3_W, d4_W = (total_WM[:, :4] / count_W[:, None]).T
    # Far from the centre central moments are small differences of large numbers: what rounding
    # may have taken away is added, so that the bound stays a bound.
    variance_W = d2_W - d1_W**2 + _ROUNDING * (d2_W + d1_W**2)
    size_W = d4_W + 4 * np.abs(d1_W * d3_W) + 6 * d1_W**2 * d2_W + 3 * d1_W**4
    fourth_W = d4_W - 4 * d1_W * d3_W + 6 * d1_W**2 * d2_W - 3 * d1_W**4 + _ROUNDING * size_W
    reach_W = np.minimum(
        np.sqrt(np.maximum(variance_W, 0) / OUTSIDE),
        np.sqrt(np.sqrt(np.maximum(fourth_W, 0) / OUTSIDE)),
    )
    reach_W += _ROUNDING * np.sqrt(d2_W)  # the mean's own error
    mean_W = histogram.windows.centre[rows_W] + d1_W
    least_W, most_W = histogram.minimum[rows_W], histogram.maximum[rows_W]
    some_W = least_W <= most_W  # or there are no finite values, and nothing to hold
    low_W = np.where(some_W, np.clip(mean_W - reach_W, least_W, most_W), 0.0)
    high_W = np.where(some_W, np.clip(mean_W + reach_W, least_W, most_W), 0.0)
    margin_W = _MARGIN * (high_W - low_W)
    return around(low_W, high_W, margin_W, lattice, histogram.windows.bins)
