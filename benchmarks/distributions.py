"""Distributions with a mode that is known, to try estimators on.

Each is a standard normal number put through a function, tabulated on a fine grid: so the
same distribution can be drawn independently or, from correlated normal numbers, with tokens
that are alike. Modes, means, medians and the modes of the density smoothed at a bandwidth
are had from the table as well, never from a sample.

Shapes: R rows (repetitions), Z places of the table, X places of a grid of values.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr, ndtri

from workers.modes import ATOM

Floats = NDArray[np.float64]

STEP = 1e-3
NORMAL_Z = np.arange(-6, 6 + STEP / 2, STEP)
"""Where functions of a normal number are tabulated; beyond, they stay as at the ends."""
GRID = 8192
"""Places of the grid on which densities are smoothed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Distribution:
    """A distribution of activations."""

    name: str
    of_normal_Z: Floats
    """Its value at each of `NORMAL_Z`."""
    mode: float
    """Where it is densest; an atom is denser than any density."""
    unit: float
    """What errors are counted in: the standard deviation, or the scale where that is infinite."""
    smooth: bool = True
    """One mode, no atom and no edge: where an interval of the peak is expected to cover."""
    follow: float = 0.0
    """Correlation of a token with the one before it."""
    bfloat16: bool = False
    """Whether values are rounded to bfloat16."""

    def of(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values that belong to standard normal numbers, of the same shape."""
        place = (z - np.float32(NORMAL_Z[0])) * np.float32(1 / STEP)
        np.clip(place, 0, NORMAL_Z.size - 1.001, out=place)
        below = place.astype(np.int32)
        table_Z = self.of_normal_Z.astype(np.float32)
        values = table_Z[below]
        values += (place - below) * np.diff(table_Z)[below]
        return rounded(values) if self.bfloat16 else values

    @property
    def mean(self) -> float:
        """The mean of what the table gives."""
        return float(_CELL_Z @ self._middle())

    @property
    def median(self) -> float:
        """The median."""
        order = np.argsort(self._middle(), kind="stable")
        cell_Z = _CELL_Z[order]
        return float(np.interp(0.5, cell_Z.cumsum() - cell_Z / 2, self._middle()[order]))

    def smoothed_mode(self, bandwidth_R: Floats) -> Floats:
        """Return the mode of the density smoothed by Gaussians of these s.d., (R,).

        The rule for an atom of exact zeros is that of `workers.modes`.
        """
        value_Z = self._middle()
        is_zero_Z = value_Z == 0
        atom = float(_CELL_Z[is_zero_Z].sum())
        if atom < ATOM:
            atom, is_zero_Z = 0.0, np.zeros_like(is_zero_Z)
        others_Z, weight_Z = value_Z[~is_zero_Z], _CELL_Z[~is_zero_Z]
        order = np.argsort(others_Z)
        reached_Z = weight_Z[order].cumsum() / weight_Z.sum()
        low, high = others_Z[order][np.searchsorted(reached_Z, [5e-4, 1 - 5e-4])]
        start, step = low - (high - low) / 2, 2 * (high - low) / GRID  # half of it is padding
        place_Z = (others_Z - start) / step
        inside_Z = (place_Z >= 0) & (place_Z < GRID - 1)
        left_Z, weight_Z = place_Z[inside_Z].astype(np.int64), weight_Z[inside_Z]
        right_share_Z = place_Z[inside_Z] - left_Z
        mass_X = np.bincount(left_Z, weight_Z * (1 - right_share_Z), GRID)
        mass_X += np.bincount(left_Z + 1, weight_Z * right_share_Z, GRID)
        spectrum = np.fft.rfft(mass_X)
        wave = 2 * np.pi * np.fft.rfftfreq(GRID, step)
        peak_R = np.empty(bandwidth_R.size)
        for r, h in enumerate(bandwidth_R):
            density_X = np.fft.irfft(spectrum * np.exp(-0.5 * (wave * h) ** 2), GRID) / step
            best = int(density_X.argmax())
            a, b, c = density_X[best - 1 : best + 2]
            peak_R[r] = start + (best + 0.5 * (c - a) / (2 * b - a - c)) * step
            at_zero = np.interp(0, start + step * np.arange(GRID), density_X)
            if atom and atom / (np.sqrt(2 * np.pi) * h) + at_zero >= b:
                peak_R[r] = 0
        return peak_R

    def _middle(self) -> Floats:
        """Return the values at the middles of the table's cells."""
        return (self.of_normal_Z[1:] + self.of_normal_Z[:-1]) / 2


_CELL_Z = np.diff(ndtr(NORMAL_Z))


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)).view(np.float32)


def _quantiles(law: stats.rv_continuous) -> Floats:
    low_Z = law.ppf(ndtr(np.minimum(NORMAL_Z, 0)))
    high_Z = law.isf(ndtr(-np.maximum(NORMAL_Z, 0)))  # from above, or the far tail is rounded off
    return np.where(NORMAL_Z < 0, low_Z, high_Z)


def _mixture(*parts: tuple[float, stats.rv_continuous]) -> Floats:
    """Return the table of a mixture of (weight, law), by inverting its distribution function."""
    ends = [law.ppf([1e-12, 1 - 1e-12]) for _, law in parts]
    near = [law.mean() + law.std() * np.linspace(-6, 6, 4001) for _, law in parts]
    wide = np.linspace(min(e[0] for e in ends), max(e[1] for e in ends), 100_001)
    x_X = np.unique(np.concatenate([wide, *near]))
    below_X = sum(weight * law.cdf(x_X) for weight, law in parts)
    above_X = sum(weight * law.sf(x_X) for weight, law in parts)
    z_X = np.where(below_X < 0.5, ndtri(below_X), -ndtri(above_X))
    return np.interp(NORMAL_Z, z_X, x_X)


def _off(share: float) -> Floats:
    """Return a share of exact zeros beside half a normal."""
    beyond_Z = (ndtr(NORMAL_Z) - share) / (1 - share)
    return np.where(beyond_Z > 0, ndtri(0.5 + beyond_Z.clip(0, 1 - 1e-9) / 2), 0.0)


def _atom(share: float, law: stats.rv_continuous) -> Floats:
    """Return a share of exact zeros inside another distribution."""
    below, u_Z = law.cdf(0) * (1 - share), ndtr(NORMAL_Z)
    outside_Z = np.where(u_Z < below, u_Z, u_Z - share) / (1 - share)
    values_Z = law.ppf(outside_Z.clip(1e-9, 1 - 1e-9))
    return np.where((u_Z >= below) & (u_Z <= below + share), 0.0, values_Z)


def _made(name: str, table_Z: Floats, mode: float, unit: float = 0.0) -> Distribution:
    """Return a distribution; its unit is the standard deviation if none is given."""
    middle_Z = (table_Z[1:] + table_Z[:-1]) / 2
    variance = _CELL_Z @ middle_Z**2 - (_CELL_Z @ middle_Z) ** 2
    return Distribution(
        name=name, of_normal_Z=table_Z, mode=mode, unit=unit or float(np.sqrt(variance))
    )


def _mixed(name: str, about: float, *parts: tuple[float, stats.rv_continuous]) -> Distribution:
    """Return a mixture of (weight, law); its mode lies near `about`."""
    grid_X = np.linspace(about - 0.1, about + 0.1, 200_001)
    density_X = sum(weight * law.pdf(grid_X) for weight, law in parts)
    return _made(name, _mixture(*parts), float(grid_X[density_X.argmax()]))


def named() -> list[Distribution]:
    """Return the distributions, the smooth ones first."""
    normal, gamma = stats.norm(), stats.gamma(3)
    smooth = [
        _made("normal", _quantiles(normal), 0),
        _made("logistic", _quantiles(stats.logistic()), 0),
        _made("Laplace", _quantiles(stats.laplace()), 0),
        _made("Student t, 2", _quantiles(stats.t(2)), 0, unit=1),
        _made("gamma 3", _quantiles(gamma), 2),
        _made("log-normal .5", _quantiles(stats.lognorm(0.5)), float(np.exp(-0.25))),
        _made("beta 2,2 (flat top)", _quantiles(stats.beta(2, 2)), 0.5),
        replace(_made("normal, AR(1) .9", _quantiles(normal), 0), follow=0.9),
        replace(_made("gamma 3, AR(1) .9", _quantiles(gamma), 2), follow=0.9),
    ]
    gelu_Z = NORMAL_Z * ndtr(NORMAL_Z)
    hard = [
        replace(_made("normal 3±.5, bfloat16", _quantiles(stats.norm(3, 0.5)), 3), bfloat16=True),
        _made("exponential", _quantiles(stats.expon()), 0),
        _mixed("bimodal .6/.4", -1, (0.6, stats.norm(-1, 0.5)), (0.4, stats.norm(2, 0.5))),
        _mixed("near-tie .51/.49", -2, (0.51, stats.norm(-2, 0.5)), (0.49, stats.norm(2, 0.5))),
        _mixed("spike 30 % + broad", 0.5, (0.3, stats.norm(0.5, 0.05)), (0.7, normal)),
        _mixed("thin spike 5 % + broad", 0, (0.05, stats.norm(0, 0.01)), (0.95, stats.norm(1, 1))),
        _made("zeros 5 % + broad", _atom(0.05, stats.norm(1, 1)), 0),
        _made("zeros 30 % + half-normal", _off(0.3), 0),
        _made("zeros 90 % + half-normal", _off(0.9), 0),
        _made("GELU of a normal", gelu_Z, float(gelu_Z.min())),
    ]
    return smooth + [replace(one, smooth=False) for one in hard]
