"""Windows: where each neuron's bins lie, and how a pilot sample decides it.

Bins are *dyadic*: bin b of row r covers [(first + b)·2^e, (first + b + 1)·2^e).
So the index floor(x·2^-e) is exact in binary floating point on every device,
zero is always an edge between two bins, and halving the resolution is a right
shift. Every neuron has its own e and first bin, because scales and offsets of
neurons differ by orders of magnitude.

`place` turns order statistics of a small sample into windows. It aims at the
middle 99 % of the values that are not exactly zero (those are counted apart)
plus half a spread at either end, the spread being the interquartile range, or
the standard deviation where more than half of the values are one value (but no
more than the middle 99 % spans), or the spacing of the dtype where 99 % are.
`around` then takes the narrowest bins, a power of two wide, with which the window
still covers that, but never narrower than the dtype's own spacing at the window's
far edge: of finer bins some would hold no number of the dtype and stay empty, and
the rest would look like peaks.

When it is weak: a neuron that wakes up only outside the sample, or whose middle
99 % is hundreds of times wider than its peak, gets a poor window. Values outside
are counted, so this shows, and `workers.widening` says where to count again.

Shapes: R rows (neurons of one site, layer-major), W some of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TAIL = 0.005
"""Share of the sample that is left out at either end before the margin is added."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """Where each row's bins lie; `bins` is even, so that the centre is an edge."""

    exponent: NDArray[np.int32]
    """(R,) e: bins are 2^e wide, in units of the activations."""
    first: NDArray[np.int64]
    """(R,) index of the first bin: it starts at first·2^e."""
    bins: int

    @property
    def width(self) -> NDArray[np.float64]:
        """Width of a bin, (R,), in units of the activations; exact."""
        return np.ldexp(np.ones(self.exponent.shape), self.exponent)

    @property
    def start(self) -> NDArray[np.float64]:
        """Left edge of the first bin, (R,), in units of the activations; exact."""
        return np.ldexp(self.first.astype(np.float64), self.exponent)

    @property
    def centre(self) -> NDArray[np.float64]:
        """The edge in the middle, (R,), from which moments are taken; exact."""
        return np.ldexp((self.first + self.bins // 2).astype(np.float64), self.exponent)

    def taken(self, rows: NDArray[np.intp] | slice) -> "Windows":
        """Return the windows of some rows, in the order given."""
        return Windows(exponent=self.exponent[rows], first=self.first[rows], bins=self.bins)

    def same(self, other: "Windows") -> bool:
        """Whether both place every bin of every row alike."""
        return (
            self.bins == other.bins
            and np.array_equal(self.exponent, other.exponent)
            and np.array_equal(self.first, other.first)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """The numbers a floating-point dtype can tell apart."""

    name: str
    mantissa: int
    """Bits after the leading one: neighbours of 1 are 2^-mantissa apart."""
    smallest: int
    """Exponent of the smallest normal number; below it the spacing shrinks no further."""

    def spacing(self, magnitude: NDArray[np.float64]) -> NDArray[np.int32]:
        """Exponent of the distance between neighbours at a magnitude; of any shape."""
        _, exponent = np.frexp(magnitude)  # 2^(exponent − 1) <= magnitude, but for 0
        normal = np.where(magnitude > 0, np.maximum(exponent - 1, self.smallest), self.smallest)
        return np.asarray(normal - self.mantissa, np.int32)


LATTICES: Mapping[str, Lattice] = {
    lattice.name: lattice
    for lattice in (
        Lattice(name="float32", mantissa=23, smallest=-126),
        Lattice(name="bfloat16", mantissa=7, smallest=-126),
        Lattice(name="float16", mantissa=10, smallest=-14),
    )
}
"""By the name of the dtype that activations have."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """Order statistics of the values of a pilot that are finite and not zero, (R,) each.

    A row without such values has zeros in all of them.
    """

    low: NDArray[np.float64]
    """The `TAIL` quantile."""
    quarter: NDArray[np.float64]
    three_quarters: NDArray[np.float64]
    high: NDArray[np.float64]
    """The 1 − `TAIL` quantile."""
    std: NDArray[np.float64]
    """Standard deviation."""


def stacked(parts: Sequence[Windows]) -> Windows:
    """Return the windows of all parts' rows, one part after the other.

    Raises ValueError if there are no parts or if their numbers of bins differ.
    """
    bins = sorted({part.bins for part in parts})
    if len(bins) != 1:
        raise ValueError(
            f"Windows of {bins or 'no'} bins are to be put into one table; expected one number of"
            " bins for all. Place all windows with the same `bins`."
        )
    return Windows(
        exponent=np.concatenate([part.exponent for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        bins=bins[0],
    )


def place(sample: Sample, lattice: Lattice, bins: int) -> Windows:
    """Return the windows for a pilot sample, R rows.

    Raises ValueError if `bins` is odd, below 4, or more than the dtype can tell apart.
    """
    iqr_R = sample.three_quarters - sample.quarter
    # A single outlier can make the s.d. as large as it likes, the middle 99 % it cannot widen.
    spread_R = np.where(iqr_R > 0, iqr_R, np.minimum(sample.std, sample.high - sample.low))
    return around(sample.low, sample.high, spread_R / 2, lattice, bins)


def around(
    low_R: NDArray[np.float64],
    high_R: NDArray[np.float64],
    margin_R: NDArray[np.float64],
    lattice: Lattice,
    bins: int,
) -> Windows:
    """Return the narrowest windows that hold [low − margin, high + margin], R rows.

    Bins are never narrower than the dtype's spacing at the window's far edge. Where
    the margin is 0, half that spacing at the larger end stands in. Raises as `place` does.
    """
    most = 2 ** (lattice.mantissa + 1)  # with more, a window as wide as its edge is finer than that
    if bins % 2 or not 4 <= bins <= most:
        raise ValueError(
            f"A window of {bins} bins was asked for; for {lattice.name} activations it takes an"
            f" even number from 4 to {most}."
        )
    largest_R = np.maximum(np.abs(low_R), np.abs(high_R))
    # A row of nothing but zeros has no scale of its own: it is looked at as if its values were 1.
    finest_R = lattice.spacing(np.where(largest_R > 0, largest_R, 1.0))
    margin_R = np.where(margin_R > 0, margin_R, np.ldexp(0.5, finest_R))
    low_R, high_R = low_R - margin_R, high_R + margin_R

    # One bin fewer, because the window's ends are rounded to multiples of its width.
    mantissa_R, exponent_R = np.frexp((high_R - low_R) / (bins - 1))
    exponent_R = np.maximum(exponent_R - (mantissa_R == 0.5), finest_R)
    middle_R = low_R / 2 + high_R / 2
    while True:
        width_R = np.ldexp(1.0, exponent_R)
        first_R = np.rint(middle_R / width_R).astype(np.int64) - bins // 2
        inner_R = np.maximum(np.abs(first_R + 1), np.abs(first_R + bins - 1)) * width_R
        too_fine_R = exponent_R < lattice.spacing(inner_R)
        if not too_fine_R.any():
            return Windows(exponent=exponent_R.astype(np.int32), first=first_R, bins=bins)
        exponent_R = exponent_R + too_fine_R
