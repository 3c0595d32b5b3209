"""Histograms of many repetitions at once, one row each, made with numpy.

What `workers.counting` does for a model is done here for samples that lie in memory, sorted,
so that many bin counts can be tried on one sample; `tests/workers` holds the counting itself.

Shapes: R rows (repetitions), P values of a row, E edges.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workers.histogram import MOMENTS, FixedCounts, Histogram, empty
from workers.windows import LATTICES, TAIL, Sample, Windows, place

Floats = NDArray[np.float64]
Values = NDArray[np.float32]


def windows_of(sample_RP: Values, bins: int, dtype: str) -> Windows:
    """Return windows placed from a sample, as a pilot does."""
    rows = [np.zeros(5)] * len(sample_RP)
    for r, values_P in enumerate(sample_RP):
        if (others_P := values_P[values_P != 0].astype(np.float64)).size:
            quantiles = np.quantile(others_P, [TAIL, 0.25, 0.75, 1 - TAIL])
            rows[r] = np.array([*quantiles, others_P.std()])
    low, quarter, three_quarters, high, std = np.stack(rows, axis=1)
    sample = Sample(low=low, quarter=quarter, three_quarters=three_quarters, high=high, std=std)
    return place(sample, LATTICES[dtype], bins)


def histogram(sorted_RP: Values, windows: Windows, shard: int = 0) -> Histogram:
    """Count rows of ascending, finite values into windows."""
    rows, positions = sorted_RP.shape
    nothing = empty(windows)
    reached_RE = np.empty((rows, windows.bins + 1), np.int64)  # values below each edge
    zero_R2, moments_RM = np.empty((rows, 2), np.int64), np.zeros((rows, len(MOMENTS)))
    for r, values_P in enumerate(sorted_RP):
        edge_E = windows.start[r] + windows.width[r] * np.arange(windows.bins + 1)
        reached_RE[r] = np.searchsorted(values_P, edge_E.astype(np.float32))  # exact: dyadic
        zero_R2[r] = [np.searchsorted(values_P, np.float32(0), side) for side in ("left", "right")]
        away_P = values_P.astype(np.float64) - windows.centre[r]
        moments_RM[r, MOMENTS.index("d")] = away_P.sum()
        moments_RM[r, MOMENTS.index("d2")] = away_P @ away_P
    zeros_R = zero_R2[:, 1] - zero_R2[:, 0]
    counts_RB = np.diff(reached_RE)
    at_zero_R = -windows.first  # the bin that starts at 0 has the zeros in it
    inside = np.flatnonzero((at_zero_R >= 0) & (at_zero_R < windows.bins))
    counts_RB[inside, at_zero_R[inside]] -= zeros_R[inside]
    return replace(
        nothing,
        shards=(shard,),
        counts=counts_RB,
        zeros=zeros_R,
        below=reached_RE[:, 0] - zeros_R * (at_zero_R < 0),
        above=positions - reached_RE[:, -1] - zeros_R * (at_zero_R >= windows.bins),
        positive=positions - zero_R2[:, 1],
        minimum=sorted_RP[:, 0].astype(np.float64) + 0.0,
        maximum=sorted_RP[:, -1].astype(np.float64) + 0.0,
        moments=moments_RM[None],
    )


def fixed(sorted_RP: Values, low_R: Floats, high_R: Floats, bins: int = 100) -> FixedCounts:
    """Count rows of ascending values in equal bins between given ends."""
    counts_RB = np.empty((len(sorted_RP), bins), np.int64)
    for r, values_P in enumerate(sorted_RP):
        edge_E = np.linspace(low_R[r], high_R[r], bins + 1).astype(np.float32)
        reached_E = np.searchsorted(values_P, edge_E)
        reached_E[-1] = np.searchsorted(values_P, edge_E[-1], "right")
        counts_RB[r] = np.diff(reached_E)
    return FixedCounts(low=low_R, high=high_R, shards=(0,), counts=counts_RB)
