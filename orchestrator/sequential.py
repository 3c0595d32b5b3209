"""Confidence sequences: intervals that may be looked at again and again.

Two methods a and b are scored on the same documents, visited in a random order. Whoever
looks after every round and stops once an ordinary interval is narrow enough has had many
chances to be misled: of 16 looks a nominal 95 % interval misses at one or more in 15 – 27 % of
comparisons (`benchmarks/stopping.py`). A *confidence sequence* is made for that: with the
nominal probability it holds the truth at **all** looks, however many there are and for
whatever reason one stops. The price is width, half as much again or more: over twice the
documents for the same half-width.

What is estimated is the ratio θ = E[over] / E[n]: `over` of a document is the loss of a less
that of b, or the right tokens of a less those of b, and n its scored tokens. So θ is nats per
token, or a difference of Top-1 shares, of *other documents of the same kind*. The document is
what is drawn; tokens within one may be as alike as they like.

    asymptotic            for cross-entropy, which nothing bounds. Right for many documents;
                          tight; says nothing from fewer than `FEW` documents
    empirical_bernstein   for Top-1. Right for any number of documents and any distribution;
                          wide, because so little is assumed

Both take documents for independent draws of one kind; the random order sees to it that sorted
data look so too. Each answer depends on the documents seen so far and on nothing else: earlier
intervals are not intersected with it.

Several contrasts: each keeps its own level. 95 % is then the chance that *one named* contrast
is right at all looks, not that all are at once; the widest decides when to stop.

Weak: the asymptotic sequence misses too often where documents are very skewed (lognormal with
σ = 1: up to 14 % of comparisons instead of 5) and where few documents carry the contrast (one
in twenty: up to 18 %); less so from 2,000 documents on. The empirical Bernstein one cannot be
narrower than 4.1 x `most` / (tokens seen) even if all documents are equal, so a single very
long document makes it useless. Masks are not a source of error here: θ is that of the masks
at hand.

Shapes: G documents seen, in visiting order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Nominal chance that a sequence holds the truth at all looks."""

FEW = 30
"""From fewer documents than this `asymptotic` says nothing. Simulated with 16 looks, exponential
documents: sequences begun at 8 missed in up to 16 %, at 16 in 9, at 30 in 6; normal ones in 3."""

BOLDEST = 0.9
"""Largest bet of `empirical_bernstein`; 1 would risk everything on one document."""

PATIENCE = 1000
"""For how many documents, at least, its bets are made. Bets for fewer are bolder at first, which
lost much where documents vary: of images, 2.7 times as many were needed for ±.01."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """What is known of a contrast at one look."""

    estimate: float
    """Σ over / Σ n of the documents seen, per token; NaN without tokens."""
    low: float
    """Lower end, per token; −inf where nothing is known."""
    high: float
    """Upper end, per token; inf where nothing is known."""

    @property
    def half_width(self) -> float:
        """Half the distance between the ends, per token; inf where nothing is known."""
        return (self.high - self.low) / 2


def narrow(intervals: Iterable[Interval], half_width: float) -> bool:
    """Return whether the widest of the contrasts' intervals is at most this wide; no: of none."""
    widest = max((interval.half_width for interval in intervals), default=math.inf)
    return widest <= half_width


def horizon_of(documents: int) -> int:
    """Return at how many of all `documents` the asymptotic sequence is made tightest: a quarter.

    That is the geometric middle between the first of 16 rounds and the last. It costs 7 % of
    width at the first, 3 % at the last, over a bound made for that very number. It must not
    depend on what was measured, or the sequence would no longer be one.
    """
    return max(1, math.ceil(documents / 4))


def asymptotic(
    over_G: ArrayLike, counts_G: ArrayLike, *, horizon: int, level: float = LEVEL
) -> Interval:
    """Return the asymptotic confidence sequence of Σ over / Σ n, at this look.

    `over_G` in nats (or any unit), `counts_G` in tokens. The order of documents does not matter.
    `horizon` is a number of documents, see `horizon_of`. Unknown (infinite) from fewer than `FEW`
    documents, from sums that are not finite, and while `over` is exactly proportional to n: a
    contrast of 0 on all documents so far may differ on the next, and no variance has been seen
    to say by how much.

    *Boundary.* S is a sum of t independent standard normal numbers. For each λ, exp(λS − λ²t/2)
    is a martingale that starts at 1; so is its mean over λ ~ N(0, ρ²), which is

        (1 + ρ²t)^(-1/2) · exp(ρ²S² / (2(1 + ρ²t)))                      (Robbins 1970)

    By Ville's inequality it ever reaches 1/α with a chance of at most α. Solved for S: always

        |S/t| < sqrt( (1 + ρ²t)/(ρ²t²) · (log(1 + ρ²t) + 2 log(1/α)) )

    With x = ρ²t this times t is (1 + 1/x)·(log(1 + x) + 2 log(1/α)), least where x = log(1 + x) +
    2 log(1/α): for 95 %, x = 8.21, and the bound is sqrt(9.21/t) there, 1.55 times 1.96/sqrt(t).
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Time-uniform central limit theory and
    asymptotic confidence sequences, Annals of Statistics 2024) show that the same holds, in the
    limit, for any distribution with more than two moments, its estimated s.d. being the unit;
    errors that vanish faster than sqrt(log t / t) do no harm.

    *Ratio.* With Z = over − θn, of mean 0, the error of the ratio is exactly ΣZ / Σn. Replacing
    Σn/G by E[n], and θ by its estimate in the residuals that the s.d. is of, changes this by
    (log log G)/G, almost surely: such an error. So it is the mean of residuals, in units of
    Σn/G, that is bounded.

    Raises `ValueError` for arrays that don't fit together, and a horizon below 1.
    """
    over, counts = _documents(over_G, counts_G)
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}: expected a number of documents, 1 or more.")
    estimate = _ratio(over, counts)
    nothing = Interval(estimate=estimate, low=-math.inf, high=math.inf)
    seen = len(over)
    if seen < FEW or not math.isfinite(estimate):
        return nothing
    residuals = over - estimate * counts
    # What is left of exact proportion is rounding, some 1e-16 of the numbers.
    if np.abs(residuals).max() <= 1e-12 * np.abs(over).max():
        return nothing
    spread = math.sqrt(np.square(residuals).sum() / (seen - 1)) / (counts.sum() / seen)
    half = float(spread) * _margin(seen, horizon, level)
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


def empirical_bernstein(
    over_G: ArrayLike, counts_G: ArrayLike, *, most: float, level: float = LEVEL
) -> Interval:
    """Return the empirical Bernstein confidence sequence of Σ over / Σ n, at this look.

    `over_G` and `counts_G` in tokens, |over| ≤ n ≤ `most`, in visiting order, which matters.
    `most` is the largest n that any document can have: known before, not from those seen.
    The ends are in [−1, 1] always and hold for any number of documents. They need not be at
    equal distances from the estimate.

    *One end.* The candidate is θ > −1, w = 1/(1 + θ). Then over + n ≥ 0 gives

        ξ = (over − θn) / ((1 + θ)·most) = w·(over + n)/most − n/most ≥ −1

    with mean 0 if θ is the truth. For ξ ≥ −1 and a bet 0 ≤ κ < 1 (Fan, Grama and Liu 2015)

        exp(κξ − ψ(κ)ξ²) ≤ 1 + κξ,   ψ(κ) = −log(1 − κ) − κ

    so at the truth M(θ) = Π exp(κξ − ψ(κ)ξ²) and the capital K(θ) = Π (1 + κξ) ≥ M(θ) start
    at 1 and do not grow on average, provided that each κ was fixed before its document was
    seen. By Ville's inequality K ever reaches 2/α with a chance of at most α/2. This is the
    predictable plug-in empirical Bernstein of Waudby-Smith and Ramdas (JRSS-B 2024, theorem 2),
    after Howard et al. (2021), centred at the 0 that the candidate implies, not a running mean.

    *The set.* ξ falls with θ, and with it K. So if M(θ) ≥ 2/α then K ≥ 2/α at every lower
    candidate as well: all of them are rejected, and the lower end is the largest θ with M(θ) ≥
    2/α. log M is a parabola in w: with u = (over + n)/most, b = n/most, L = log(2/α),

        log M − L = −A w² + B w − C,    A = Σψu²,  B = Σκu + 2Σψub,  C = Σκb + Σψb² + L
        lower end = 1/w − 1 at its smaller root = (B + sqrt(B² − 4AC)) / (2C) − 1

    and −1 where there is no root. The upper end is the lower one of −over, turned round.

    *Bets.* κ_g = sqrt(2L / (v·max(g log(1 + g), `PATIENCE`))), at most `BOLDEST`, where v·g is
    1/4 and the squares of (over − θ̂n)/most of the documents before g, each with the ratio θ̂ of
    those before it. So bets are small where documents vary much, and none knows its own document.
    The interval would be right with any bets of which that is true; they decide its width.

    Should the two ends cross (documents that are not alike), all of [−1, 1] is returned. Raises
    `ValueError` for arrays that don't fit together or numbers beyond their bounds.
    """
    over, counts = _documents(over_G, counts_G)
    if not (np.abs(over) <= counts).all() or (counts > most).any():
        raise ValueError(
            f"of {len(over)} documents one has more right tokens than tokens, or more tokens than"
            f" most = {most:g}: expected |over| ≤ n ≤ most. Give the largest n of all documents."
        )
    bets = _bets(over / most, counts / most, level)
    low = _lower(over / most, counts / most, bets, level)
    high = -_lower(-over / most, counts / most, bets, level)
    if low > high:
        low, high = -1.0, 1.0
    return Interval(estimate=_ratio(over, counts), low=low, high=high)


def _documents(over_G: ArrayLike, counts_G: ArrayLike) -> tuple[Floats, Floats]:
    """Return both as float64, (G,), or say what is wrong with them."""
    over = np.asarray(over_G, dtype=np.float64)
    counts = np.asarray(counts_G, dtype=np.float64)
    if over.ndim != 1 or over.shape != counts.shape:
        raise ValueError(
            f"sums have shape {over.shape} and counts {counts.shape}: expected one number each"
            " per document, (G,)."
        )
    if not (counts >= 0).all() or np.isinf(counts).any():
        raise ValueError("a document's count is negative or no number: expected scored tokens.")
    return over, counts


def _ratio(over: Floats, counts: Floats) -> float:
    """Return Σ over / Σ n, NaN without tokens or with a sum that is not finite."""
    total = counts.sum()
    return float(over.sum() / total) if total and np.isfinite(over).all() else math.nan


def _margin(seen: int, horizon: int, level: float) -> float:
    """Return the bound of |mean of `seen` standard normal numbers|, tightest at `horizon`."""
    doubt = -2 * math.log(1 - level)
    best = 1.0 + doubt
    for _ in range(50):  # a contraction: its slope is 1 / (1 + best)
        best = math.log1p(best) + doubt
    x = best * seen / horizon
    return math.sqrt((1 + 1 / x) * (math.log1p(x) + doubt) / seen)


def _bets(over: Floats, counts: Floats, level: float) -> Floats:
    """Return the share of the capital that is bet on each document, (G,), in (0, `BOLDEST`].

    `over` and `counts` are in units of `most`. Bet g depends on documents before g alone.
    """
    total = np.cumsum(counts)[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        before = np.where(total > 0, np.cumsum(over)[:-1] / total, 0.0)
    ratio = np.concatenate([[0.0], before])[: len(over)]
    squares = np.cumsum(np.square(over - ratio * counts))[:-1]
    number = np.arange(1, len(over) + 1)
    variance = (0.25 + np.concatenate([[0.0], squares])[: len(over)]) / number
    ahead = np.maximum(number * np.log1p(number), PATIENCE)
    return np.minimum(np.sqrt(2 * math.log(2 / (1 - level)) / (variance * ahead)), BOLDEST)


def _lower(over: Floats, counts: Floats, bets: Floats, level: float) -> float:
    """Return the largest rejected candidate, in [−1, 1]; −1 where none is. Units of `most`."""
    psi = -np.log1p(-bets) - bets
    shifted = over + counts
    a = (psi * shifted**2).sum()
    b = (bets * shifted).sum() + 2 * (psi * shifted * counts).sum()
    c = (bets * counts).sum() + (psi * counts**2).sum() + math.log(2 / (1 - level))
    inside = b * b - 4 * a * c
    return -1.0 if inside < 0 else min(1.0, float((b + math.sqrt(inside)) / (2 * c) - 1))
