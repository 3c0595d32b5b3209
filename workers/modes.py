"""Modes: the local maxima of a neuron's kernel-smoothed histogram.

Counts are convolved with a Gaussian sampled at the bins' centres (by FFT, padded
to twice the window so that nothing wraps round; a kernel cut off in the frequency
domain instead would ring and make false modes). A mode is where the result turns
from rising to falling, refined by a parabola through it and its two neighbours;
its basin reaches from valley to valley. Every row has its own bandwidth.

Exact zeros. A density gives next to none, so many of them mean an atom: a unit
that is off. From `ATOM` of the values on they are a mode of their own at exactly
0. Its height is the kernel's over all of them, plus the density of the other
values at 0. They lend nothing to places beside 0, or a half-normal next to them
would have its peak dragged off 0. Fewer zeros are values like any others, shared out
between the two bins that meet at 0.

What lies outside the window has no place in it and takes no part.

Shapes: R rows, B bins, W = 2B places of the padded convolution, J modes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from workers.histogram import Histogram

ATOM = 0.01
"""Share of finite values from which exact zeros are a mode of their own."""
_NOTHING = 1e-9
"""Of a row's highest place: below it, a density is taken as 0. Far above the FFT's rounding."""
_ROWS = 1024
"""Rows worked on at a time, so that temporaries stay small."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Modes:
    """Modes of many rows, one after the other; all (J,)."""

    row: NDArray[np.intp]
    value: NDArray[np.float64]
    """Where it is, in the units of the activations."""
    weight: NDArray[np.float64]
    """Share of the row's finite values in its basin."""
    height: NDArray[np.float64]
    """Smoothed values per bin."""
    distance: NDArray[np.float64]
    """From zero, of the centre of the mode's bin: exact, so that ties are seen."""

    def take(self, which: NDArray[np.intp]) -> "Modes":
        """Return the modes of these indices, in their order."""
        return Modes(**{field.name: getattr(self, field.name)[which] for field in fields(Modes)})


def join(parts: Sequence[Modes]) -> Modes:
    """Put modes one after the other."""
    names = [field.name for field in fields(Modes)]
    return Modes(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def find(histogram: Histogram, bandwidth_R: NDArray[np.float64]) -> Modes:
    """Return the modes of all rows with a bandwidth over 0 (units of the activations)."""
    rows = np.flatnonzero(bandwidth_R > 0)
    starts = range(0, max(rows.size, 1), _ROWS)
    return join([_find(histogram, bandwidth_R, rows[start : start + _ROWS]) for start in starts])


def smoothed(
    counts_RB: NDArray[np.float64], bandwidth_R: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Convolve the counts of every row, (R, B), with a Gaussian of its own s.d., (R,), in bins.

    Returns the result, (R, B), what leaves the row at its ends being lost, and the
    kernels' summits, (R,). A s.d. far under half a bin smooths nothing.
    """
    bins = counts_RB.shape[1]
    distance_W = np.minimum(np.arange(2 * bins), np.arange(2 * bins, 0, -1))
    kernel_RW = np.exp(-0.5 * (distance_W / bandwidth_R[:, None]) ** 2)
    kernel_RW /= kernel_RW.sum(axis=1, keepdims=True)
    spectrum = np.fft.rfft(counts_RB, 2 * bins) * np.fft.rfft(kernel_RW)
    density_RB = np.fft.irfft(spectrum, 2 * bins)[:, :bins]
    highest_R = density_RB.max(axis=1, keepdims=True)
    return np.where(density_RB > _NOTHING * highest_R, density_RB, 0.0), kernel_RW[:, 0]


def _find(histogram: Histogram, bandwidth_R: NDArray[np.float64], rows: NDArray[np.intp]) -> Modes:
    windows, bins = histogram.windows, histogram.windows.bins
    first_R, width_R = windows.first[rows], windows.width[rows]
    counts_RB, zeros_R = histogram.counts[rows].astype(np.float64), histogram.zeros[rows]
    outside_R = histogram.below[rows] + histogram.above[rows]
    finite_R = counts_RB.sum(axis=1) + zeros_R + outside_R
    is_atom_R = zeros_R >= np.maximum(ATOM * finite_R, 1)

    beside_R2 = np.stack([-first_R - 1, -first_R], axis=1)  # the bins that meet at 0
    within_R2 = (beside_R2 >= 0) & (beside_R2 < bins)
    few_R2 = np.where(within_R2 & ~is_atom_R[:, None], zeros_R[:, None] / 2, 0.0)
    beside_R2 = beside_R2.clip(0, bins - 1)
    np.add.at(counts_RB, (np.arange(rows.size)[:, None], beside_R2), few_R2)

    density_RB, summit_R = smoothed(counts_RB, bandwidth_R[rows] / width_R)
    row_J, bin_J, mass_J = _maxima(density_RB, counts_RB)
    centre_J = first_R[row_J] + bin_J + 0.5
    value_J = (centre_J + _parabola(density_RB, row_J, bin_J)) * width_R[row_J]
    low_R, high_R = histogram.minimum[rows], histogram.maximum[rows]
    smooth_modes = Modes(
        row=rows[row_J],
        value=np.clip(value_J, low_R[row_J], high_R[row_J]),
        weight=mass_J / finite_R[row_J],
        height=density_RB[row_J, bin_J],
        distance=np.abs(centre_J) * width_R[row_J],
    )
    atom = np.flatnonzero(is_atom_R)
    around_R2 = np.where(within_R2, np.take_along_axis(density_RB, beside_R2, 1), 0.0)
    height_R = zeros_R * summit_R + around_R2.mean(axis=1)
    nothing = np.zeros(atom.size)
    atoms = Modes(
        row=rows[atom],
        value=nothing,
        weight=zeros_R[atom] / finite_R[atom],
        height=height_R[atom],
        distance=nothing,
    )
    return join([smooth_modes, atoms])


def _maxima(
    density_RB: NDArray[np.float64], counts_RB: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return row and bin of every local maximum, (J,) each, and the counts of its basin."""
    rows, bins = density_RB.shape
    # Every row is taken to rise into its first bin and to fall out of its last; a level stretch
    # goes on in the direction before it. So maxima and valleys alternate, and basins fit.
    slope_RE = np.ones((rows, bins + 1))
    slope_RE[:, 1:-1] = np.sign(np.diff(density_RB))
    slope_RE[:, -1] = -1
    last_RE = np.maximum.accumulate(np.where(slope_RE != 0, np.arange(bins + 1), 0), axis=1)
    slope_RE = np.take_along_axis(slope_RE, last_RE, axis=1)
    turn_RB = np.diff(slope_RE)
    row_J, bin_J = np.nonzero(turn_RB < 0)
    starts_RB = turn_RB > 0
    starts_RB[:, 0] = True
    basin_RB = starts_RB.cumsum().reshape(rows, bins) - 1  # numbered through, as the maxima are
    mass_J = np.bincount(basin_RB.ravel(), counts_RB.ravel(), minlength=row_J.size).astype(
        np.float64
    )
    real_J = density_RB[row_J, bin_J] > 0
    return row_J[real_J], bin_J[real_J], mass_J[real_J]


def _parabola(
    density_RB: NDArray[np.float64], row_J: NDArray[np.intp], bin_J: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the vertex through each maximum and its neighbours, in bins from its centre, (J,)."""
    last = density_RB.shape[1] - 1
    left_J = density_RB[row_J, np.maximum(bin_J - 1, 0)]
    right_J = density_RB[row_J, np.minimum(bin_J + 1, last)]
    bend_J = 2 * density_RB[row_J, bin_J] - left_J - right_J
    inner_J = (bin_J > 0) & (bin_J < last) & (bend_J > 0)
    shift_J = 0.5 * (right_J - left_J) / np.where(inner_J, bend_J, 1.0)
    return np.where(inner_J, shift_J.clip(-0.5, 0.5), 0.0)
