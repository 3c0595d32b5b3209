"""Scores: numbers that say which neurons to hold first, from their statistics.

    mean             |mean|: how far from nothing it stands on average
    std              standard deviation: how much it says
    rms              root mean square: size, offset and spread together
    abs_mean         mean of |x|
    positive         share of values above 0
    mean_minus_peak  |mean - peak|: how much it matters which of the two it is held at
    modes            number of modes of its smoothed histogram
    kurtosis         excess kurtosis: 0 for a normal distribution
    fluctuation      std² x ||W_:j||²: mean squared change of the projection's output when the
                     neuron alone is held at its mean (FLAP: An et al. 2024, arXiv 2312.11983)
    wanda            sum over outputs i of |W_ij| x rms, Wanda's score of single weights summed over
                     the column (Sun et al. 2024, arXiv 2306.11695). Theirs has the norm over
                     all tokens, root of their number times the rms: the order is the same

A score is of one neuron by itself and of the bare model. It knows nothing of what other
neurons make up for, nor of the loss. Sizes differ between layers and sites, so ranking
over all layers mostly ranks layers, but for shares, counts and ratios.

Two data sets can be compared, `of` and `against`, which is the reference. These are the
questions of the published code (nickypro/taker, selective-pruning), whose `std` held the
variance and whose ratios add 1e-6 below:

    any score        its ratio, score on `of` over (score on `against` + e). e is `EPSILON` of
                     the layer's median score on `against`. Not of kurtosis, which may be negative
    difference       |mean on `of` - mean on `against`|, in units of the activations, as published
    standardised     the same in standard deviations of the reference (+ e), which compares layers
    peak_centred     root mean square distance from the reference's peak on `of` over (the same on
                     `against` + e): sqrt(std² + (mean - peak)²)

A neuron that is silent on the reference has a ratio of 100 times its score in medians: large,
but not the largest number there is, as with an epsilon that knows no scale.

Shapes: L layers, N neurons and H heads of one hookpoint, K modes, U units in any shape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["high", "low"]
Pooling = Literal["mean", "median"]
Table = Mapping[str, NDArray[np.float64]]
"""Columns of the statistics table and norms of weights by name, (L, N) each, modes (L, N, K)."""

EPSILON = 0.01
"""Of the median of a layer's denominators: what is added below, so that nothing explodes."""


class ScoreError(ValueError):
    """There is no such score, or not of so many data sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How one score is computed."""

    columns: tuple[str, ...]
    """Columns of the statistics table that it needs."""
    of: Callable[[Table], NDArray[np.float64]]
    """Returns it, (L, N), NaN where a neuron was never seen."""
    norms: tuple[Literal["l1", "l2"], ...] = ()
    """Norms of the columns of weights that it needs too."""
    signed: bool = False
    """Whether it may be negative, so that ratios of it mean nothing."""


def _modes(table: Table) -> NDArray[np.float64]:
    number_LN = np.isfinite(table["mode_values"]).sum(axis=-1).astype(np.float64)
    return np.where(number_LN > 0, number_LN, np.nan)  # who was seen has one


SCORES: Mapping[str, Score] = {
    "mean": Score(columns=("mean",), of=lambda t: np.abs(t["mean"])),
    "std": Score(columns=("std",), of=lambda t: t["std"]),
    "rms": Score(columns=("rms",), of=lambda t: t["rms"]),
    "abs_mean": Score(columns=("abs_mean",), of=lambda t: t["abs_mean"]),
    "positive": Score(columns=("positive",), of=lambda t: t["positive"]),
    "mean_minus_peak": Score(columns=("mean", "peak"), of=lambda t: np.abs(t["mean"] - t["peak"])),
    "modes": Score(columns=("mode_values",), of=_modes),
    "kurtosis": Score(columns=("kurtosis",), of=lambda t: t["kurtosis"], signed=True),
    "fluctuation": Score(
        columns=("std",), norms=("l2",), of=lambda t: t["std"] ** 2 * t["l2"] ** 2
    ),
    "wanda": Score(columns=("rms",), norms=("l1",), of=lambda t: t["rms"] * t["l1"]),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """How one score of two data sets is computed."""

    columns: tuple[str, ...]
    """Columns of the statistics table that it needs of both."""
    of: Callable[[Table, Table], NDArray[np.float64]]
    """Takes `of` and `against`; returns (L, N), NaN where a neuron was never seen."""


def _difference(of: Table, against: Table) -> NDArray[np.float64]:
    return np.abs(of["mean"] - against["mean"])


def _peak_centred(of: Table, against: Table) -> NDArray[np.float64]:
    peak_LN = against["peak"]
    return over(*(np.hypot(t["std"], t["mean"] - peak_LN) for t in (of, against)))


BETWEEN: Mapping[str, Between] = {
    "difference": Between(columns=("mean",), of=_difference),
    "standardised": Between(
        columns=("mean", "std"), of=lambda t, u: over(_difference(t, u), u["std"])
    ),
    "peak_centred": Between(columns=("mean", "std", "peak"), of=_peak_centred),
}


def needed(by: str) -> tuple[str, ...]:
    """Return the columns of the statistics table that a score needs.

    Raises ScoreError where there is no such score.
    """
    return _found(by).columns


def norms_needed(by: str) -> bool:
    """Return whether a score needs the norms of the columns of weights."""
    found = _found(by)
    return isinstance(found, Score) and bool(found.norms)


def scored(by: str, of: Table, against: Table | None = None) -> NDArray[np.float64]:
    """Return a score of every neuron, (L, N); with `against`, of two data sets.

    NaN where a neuron was never seen, or where its statistic is undefined, as the kurtosis of a
    constant is. Raises ScoreError where there is no such score, or not of so many data sets.
    """
    found = _found(by)
    if against is None:
        if isinstance(found, Between):
            raise ScoreError(
                f"found one data set for the score {by!r}, expected two to compare; name the other"
                " one with `against`"
            )
        return found.of(of)
    if isinstance(found, Between):
        return found.of(of, against)
    if found.signed:
        raise ScoreError(
            f"found two data sets for the score {by!r}, expected one: it may be negative, so its"
            " ratio means nothing. Leave `against` out, or take another score"
        )
    return over(found.of(of), found.of(against))


def _found(by: str) -> Score | Between:
    found = SCORES.get(by) or BETWEEN.get(by)
    if found is None:
        known = ", ".join((*SCORES, *BETWEEN))
        raise ScoreError(f"found the score {by!r}, expected one of {known}")
    return found


def over(of_LN: NDArray[np.float64], against_LN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a ratio whose denominator never vanishes, (L, N).

    `EPSILON` of the median of a layer's positive denominators is added to each. NaN in a layer that
    has none.
    """
    ratio_LN = np.full(of_LN.shape, np.nan)
    for layer, against_N in enumerate(against_LN):
        usual_N = against_N[against_N > 0]
        if usual_N.size:
            ratio_LN[layer] = of_LN[layer] / (against_N + EPSILON * np.median(usual_N))
    return ratio_LN


def by_head(
    score_LN: NDArray[np.float64], d_head: int, how: Pooling = "mean"
) -> NDArray[np.float64]:
    """Return the mean or median score of each head's neurons, (L, H).

    Neurons without a score are left out; NaN for a head that has no other.
    """
    layers = len(score_LN)
    score_RD = score_LN.reshape(-1, d_head)
    some_R = ~np.isnan(score_RD).all(axis=1)
    pooled_R = np.full(len(score_RD), np.nan)
    pool = np.nanmean if how == "mean" else np.nanmedian
    pooled_R[some_R] = pool(score_RD[some_R], axis=1)
    return pooled_R.reshape(layers, -1)


def ranked(score_U: NDArray[np.float64], direction: Direction) -> NDArray[np.int64]:
    """Return the flat index of the unit held first, second, …, (U,).

    `high` holds the largest score first. Of equal scores the lower index comes first, and units
    without a score come last in both directions.
    """
    flat_U = score_U.ravel()
    key_U = -flat_U if direction == "high" else flat_U
    return np.argsort(key_U, kind="stable").astype(np.int64)  # which puts NaN at the end
