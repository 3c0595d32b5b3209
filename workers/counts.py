"""Counts: what is left of a neuron's activations once they have been counted.

Keeping every activation to find a mode costs gigabytes; a few hundred integer
counts per neuron say the same as far as anyone can tell, and they add up.

Where the bins lie (`workers.windows`) is fixed before counting begins and never
follows the data: one outlier would ruin the resolution where the peak is.

Every value is counted exactly once, in one of these: a bin (`counts`), exactly
zero (`zeros`; such values are *not* in the bins, because an atom at zero and a
density around it are different things), `below` or `above` the window, `nan`,
`pos_inf`, `neg_inf`. A *finite* value is one of the first four.

Values at the first position of a sequence are also summed on their own
(`firsts` and the moment "first"): where heads dump their attention on that
position, a neuron's value there is unlike any other of its values.

Floating-point sums do not add up the same in every order. Therefore moments
stay apart per shard, and are combined in ascending order of shard only when
they are read (`workers.summaries`).

Shapes: R rows (L layers x N neurons of one site; row = layer·N + neuron, or with
strata (stratum·L + layer)·N + neuron), B bins, K shards, M = 6 moment sums.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.windows import Windows

MOMENTS = ("d", "d2", "d3", "d4", "abs", "first")
"""The M sums over finite values: of d, d², d³, d⁴ with d = x − the window's centre, of |x|, and
of x over first positions alone."""


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
    firsts: NDArray[np.int64]
    """(R,) finite values at the first position of a sequence, whether or not it is counted."""
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
