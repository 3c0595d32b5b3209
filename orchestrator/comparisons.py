"""Comparisons: curves side by side, over the same masks, documents and points.

What is known of a method at a share is one number per mask and, for each of them, the
documents' residuals. Curves that are compared share masks and documents, so they are
paired: mask with mask (by seed), document with document. Of several draws for one mask
(donor seeds) the mean is taken first: they are no masks, and their spread is not in the
interval. A rule that draws nothing has one mask; beside a rule that draws many, its one
number is set against each of them.

Curves are compared where they hold *the same share*. Methods and bases always do, at the same
fraction. Two rules need not: a file lists four units, and all of them are few of the model's;
0.3 of the heads is one in every layer, or a third of all. Then points of equal share belong
together, each named by the first curve's fraction. Where the other curve never holds as much,
a difference would say nothing of the rules, because more held units cost more whatever the
rule: the point has a reason in place of a number, and so has the area.

Curves are compared on *the same documents*. Cells may have stopped after different numbers of
rounds (`orchestrator.extents`), so at every mask and point all that is compared, the
unablated model too, is taken over the rounds that all of it has answered. Other masks and
points may have read more documents or fewer; then a number is worth fewer documents than
there are, and G/(G−1) and the degrees are those of what it is worth (`extents.worth`).

The area is a curve's mean level over the held share: trapezoids from its smallest share
(0, the unablated model) to its largest, divided by that range, so it has the metric's
unit whatever the range. It makes one number per mask of all points together, so nobody
has to choose a fraction afterwards: the default single test of "a is better than b".

Weak where masks are few: with three of them an interval is wide, and says so rightly.

Shapes: M masks, P points of a curve, K of them that a number is made of, D draws of one
mask, G documents, X numbers, C curves, `...` any leading axes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator import scratch
from orchestrator.answers import Answers, Integers
from orchestrator.extents import layers, worth
from orchestrator.groups import Curve
from orchestrator.intervals import Estimate, Floats, crossed, trapezoid_weights

SAME = 1e-12
"""Held shares that lie no further apart than this are the same."""
TOLD = 6
"""Fractions that a reason names at most."""
NOTHING = Estimate(value=np.array(np.nan), variance=np.array(np.nan), degrees=np.array(np.nan))
"""The estimate where nothing is to be said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that curves are compared at: a point, or the area."""

    fraction: float | None
    """Nominal fraction of the point; None for the area."""
    share: float | None
    """Held share of the point; None for the area, and where the curves hold different shares."""
    span: tuple[float, float]
    """Smallest and largest share that it is made of."""
    rows: Sequence[Integers]
    """Per curve: rows of the answers, (M, K, D), of the masks that every curve has answered; a
    single one where all masks are answered by the same cells."""
    masks_M: Integers
    """Which of the common masks these are."""
    weights_K: Floats
    """What a point counts."""
    reason: str | None
    """Why the curves are not to be compared here; None where they are."""

    @property
    def masks(self) -> int:
        """Masks that are there, M."""
        return len(self.masks_M)


def steps(*curves: Curve) -> Iterator[Step]:
    """Yield the points that all curves have, by growing share, then the area, if answered.

    Fractions at which each curve holds what it held at a smaller one are that point again.
    """
    named = _places(curves)
    places = sorted(named)
    if not places:
        return
    at = [np.array(at_P, dtype=np.int64) for at_P in zip(*places, strict=True)]
    paired = [rows[:, at_P] for rows, at_P in zip(_paired(curves), at, strict=True)]
    share_CP = np.array([c.share_P[at_P] for c, at_P in zip(curves, at, strict=True)])
    alike_P = np.ptp(share_CP, axis=0) <= SAME
    for p, place in enumerate(places):
        share = float(share_CP[0, p])
        reason = None if alike_P[p] else _held(curves, place)
        made = _step(paired, np.array([p]), np.ones(1), named[place], (share, share), reason)
        if made is not None:
            yield made
    if len(places) > 1:
        share_P = share_CP[0]
        span = float(share_P[0]), float(share_P[-1])
        weights_P, reason = np.full(len(places), np.nan), None
        if alike_P.all():
            weights_P = trapezoid_weights(share_P) / (span[1] - span[0])
        else:
            reason = _apart([named[places[p]] for p in np.flatnonzero(~alike_P)])
        made = _step(paired, np.arange(len(places)), weights_P, None, span, reason)
        if made is not None:
            yield made


def _places(curves: Sequence[Curve]) -> dict[tuple[int, ...], float]:
    """Return which points of the curves belong together, with the fraction of the first curve.

    Points of one share do, whichever fractions they are of; a point of the first curve whose share
    the others never hold stands beside theirs of the same fraction.
    """
    together: dict[tuple[int, ...], float] = {}
    first, *others = curves
    for fraction, point in sorted(first.point.items()):
        alike = [np.flatnonzero(np.abs(c.share_P - first.share_P[point]) <= SAME) for c in others]
        if all(len(at) for at in alike):
            together.setdefault((point, *(int(at[0]) for at in alike)), fraction)
        elif all(fraction in c.point for c in others):
            together.setdefault((point, *(c.point[fraction] for c in others)), fraction)
    return together


def _held(curves: Sequence[Curve], place: Sequence[int]) -> str:
    """Return how much the first curve holds at its point, and how much one that differs does."""
    held = [int(curve.held_P[p]) for curve, p in zip(curves, place, strict=True)]
    other = next(count for count in held if count != held[0])
    return f"the first holds {held[0]:,} of {curves[0].units:,} units, and the other {other:,}"


def _apart(fractions: Sequence[float]) -> str:
    """Return at which fractions shares differ, and what to do."""
    shown = ", ".join(f"{fraction:g}" for fraction in sorted(fractions)[:TOLD])
    more = f" and {len(fractions) - TOLD} more" if len(fractions) > TOLD else ""
    word = "fraction" if len(fractions) == 1 else "fractions"
    return (
        f"their shares differ at {word} {shown}{more}; choose fractions at which both hold the"
        " same number"
    )


def _paired(curves: Sequence[Curve]) -> list[Integers]:
    """Return each curve's rows, (M, P, D), of the masks that they have in common."""
    drawn = [set(c.seeds) for c in curves if list(c.seeds) != [None]]
    if not drawn:
        return [c.rows_MPD for c in curves]
    common = sorted(set.intersection(*drawn), key=lambda seed: (seed is not None, seed))
    return [c.rows_MPD[_masks(c, common)] for c in curves]


def _masks(curve: Curve, seeds: Sequence[int | None]) -> Integers:
    """Return which of the curve's masks have these seeds; its only one for all if it draws none."""
    if list(curve.seeds) == [None]:
        return np.zeros(len(seeds), dtype=np.int64)
    place = {seed: i for i, seed in enumerate(curve.seeds)}
    return np.array([place[seed] for seed in seeds], dtype=np.int64)


def _step(
    paired: Sequence[Integers],
    at_K: Integers,
    weights_K: Floats,
    fraction: float | None,
    span: tuple[float, float],
    reason: str | None,
) -> Step | None:
    rows = [r[:, at_K] for r in paired]
    there_M = np.flatnonzero(np.all([(r >= 0).all(axis=(1, 2)) for r in rows], axis=0))
    if not len(there_M):
        return None
    rows = [r[there_M] for r in rows]
    if all((np.sort(r, axis=-1) == np.sort(r[:1], axis=-1)).all() for r in rows):
        rows, there_M = [r[:1] for r in rows], there_M[:1]
    return Step(
        fraction=fraction,
        share=None if fraction is None or reason is not None else span[0],
        span=span,
        rows=rows,
        masks_M=there_M,
        weights_K=weights_K,
        reason=reason,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What a mean over masks is made of."""

    value_M: Floats
    """Each mask's number, in the metric's unit."""
    residuals_MG: Floats
    """Each document's share of that number's error; 0 of a document that was not taken."""
    layer_G: Integers
    """0 for documents that were taken at every mask and point, more for those taken at fewer."""

    @property
    def worth(self) -> float:
        """How many documents the mean is worth; all of them where none was left out."""
        return worth(self.residuals_MG.mean(axis=0), self.layer_G)

    @property
    def mean(self) -> Estimate:
        """The mean over masks; its error covers documents and masks."""
        return crossed(self.value_M, self.residuals_MG, self.worth)


def common(found: Answers, step: Step, base: int | None = None) -> Integers:
    """Return the rounds that all curves of a step, and a row, have answered, (M, K)."""
    least_CMK = np.array([found.extent_C[rows].min(axis=-1) for rows in step.rows])
    least_MK: Integers = least_CMK.min(axis=0)
    return least_MK if base is None else np.minimum(least_MK, found.extent_C[base])


def documents(found: Answers, metric: str, step: Step, base: int | None = None) -> int:
    """Return how many documents are taken at every mask and point of a step: the fewest of any."""
    layer_G = layers(found.measures[metric].round_G, common(found, step, base))
    return int((layer_G == 0).sum())


def levels(
    found: Answers, metric: str, step: Step, curve: int = 0, base: int | None = None
) -> Sample:
    """Return one curve's number per mask, less a row's if `base`, on what all curves have read."""
    measure, extents_MK = found.measures[metric], common(found, step, base)
    rows_MKD = step.rows[curve]
    masks, points, draws = rows_MKD.shape
    documents = len(measure.round_G)
    value_MKD, residuals_MG = np.empty(rows_MKD.shape), np.empty((masks, documents))
    # Some masks at a time, so that there is never a number per point and document of all of them.
    size = max(1, scratch.BLOCK // max(points * draws * documents, 1))
    for start in range(0, masks, size):
        some = slice(start, start + size)
        extents_XKD = extents_MK[some, :, None]
        value_XKD, residuals_XKDG = measure.at(rows_MKD[some], extents_XKD)
        if base is not None:
            # Before any mean, so that a row differs from itself by exactly nothing.
            base_value, base_residuals = measure.at(np.full_like(extents_XKD, base), extents_XKD)
            value_XKD = value_XKD - base_value
            residuals_XKDG = residuals_XKDG - base_residuals
        value_MKD[some] = value_XKD
        residuals_XKG = residuals_XKDG.mean(axis=2)
        residuals_MG[some] = np.einsum("mkg,k->mg", residuals_XKG, step.weights_K)
    return Sample(
        value_M=value_MKD.mean(axis=2) @ step.weights_K,
        residuals_MG=residuals_MG,
        layer_G=layers(measure.round_G, extents_MK),
    )


def combined(found: Answers, metric: str, step: Step, signs: Sequence[int]) -> Sample:
    """Return the curves' signed sum, on what all of them have read, those of sign 0 too."""
    parts = [levels(found, metric, step, curve) for curve in range(len(signs))]
    signed = list(zip(signs, parts, strict=True))
    return Sample(
        value_M=np.sum([s * part.value_M for s, part in signed], axis=0),
        residuals_MG=np.sum([s * part.residuals_MG for s, part in signed], axis=0),
        layer_G=parts[0].layer_G,
    )


def stacked(found: Sequence[Estimate]) -> Estimate:
    """Return X estimates of one number each as one, (X,)."""
    parts = ("value", "variance", "degrees")
    return Estimate(**{x: np.array([getattr(e, x) for e in found], dtype=float) for x in parts})
