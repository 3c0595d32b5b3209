"""Synthetic curves with a known truth, and how often what is said of them holds.

A curve has ten points, at shares 0.1 to 1 of the held units. At each point a document, a
mask and their meeting shift the loss per token by random amounts with mean 0, which differ
from point to point but hang together along the curve (correlation .7); a mask's shift dies
out where all units are held. Documents have unequal lengths. So masks are alike in their
documents, documents in their masks, and points in both.

Shapes: R sweeps, P points, M masks, G documents, X tests.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.adjust import cautious, holm
from orchestrator.bands import joint_level
from orchestrator.gap import share
from orchestrator.intervals import LEVEL, Estimate, Floats, crossed, trapezoid_weights

SHARES = np.arange(1, 11) / 10
ALONG = 0.7
"""Correlation of one document's, or mask's, shifts between points."""
SWEEPS = 200
"""Sweeps simulated at once, R."""
Row = dict[str, object]
Measured = Mapping[str, Floats | NDArray[np.bool_]]
"""Per name, (R,): whether something held in each sweep, or NaN where it was not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Which shifts there are, as s.d. in nats per token."""

    name: str
    documents: float
    masks: float
    both: float
    skewed: bool = False
    """Whether documents' shifts are exponential rather than normal."""


DESIGNS = (
    Design(name="documents", documents=1, masks=0.01, both=0.2),
    Design(name="documents, skewed", documents=1, masks=0.01, both=0.2, skewed=True),
    Design(name="masks", documents=0.1, masks=0.3, both=0.1),
    Design(name="all", documents=0.7, masks=0.2, both=1),
)
Measure = Callable[[np.random.Generator, Design, int, int], Measured]

SIZES = ((20, 3), (20, 10), (60, 3), (60, 5), (60, 10), (200, 10))
"""(documents, masks)."""


def lengths(rng: np.random.Generator, documents: int) -> Floats:
    """Return tokens per document, (R, G)."""
    return np.round(rng.lognormal(4, 0.5, (SWEEPS, documents))) + 1


def shifts(rng: np.random.Generator, design: Design, masks: int, documents: int) -> Floats:
    """Return the shift per token, (R, P, M, G)."""

    def along(*shape: int, skewed: bool = False) -> Floats:
        def drawn(points: int) -> Floats:
            size = (SWEEPS, points, *shape)
            return rng.exponential(1, size) - 1 if skewed else rng.standard_normal(size)

        both = ALONG**0.5 * drawn(1) + (1 - ALONG) ** 0.5 * drawn(len(SHARES))
        return np.asarray(both, dtype=np.float64)

    held_P = SHARES[:, None, None]
    by_mask = (held_P * (1 - held_P)) ** 0.5 * 2
    return (
        held_P * design.documents * along(1, documents, skewed=design.skewed)
        + by_mask * design.masks * along(masks, 1)
        + by_mask * design.both * along(masks, documents)
    )


def ratio(shift: Floats, tokens_RG: Floats) -> tuple[Floats, Floats]:
    """Return numbers (R, …, M) and residuals (R, …, M, G) of shifts per token (R, …, M, G)."""
    weight = tokens_RG / tokens_RG.sum(axis=1, keepdims=True)
    weight = weight.reshape(len(weight), *(1,) * (shift.ndim - 2), -1)
    value = (shift * weight).sum(axis=-1)
    return value, (shift - value[..., None]) * weight


def _area(value: Floats, residuals: Floats) -> Estimate:
    """Return the area under curves, (R,), of numbers (R, P, M) and residuals (R, P, M, G)."""
    area_P = trapezoid_weights(SHARES) / (SHARES[-1] - SHARES[0])
    return crossed(
        np.einsum("rpm,p->rm", value, area_P), np.einsum("rpmg,p->rmg", residuals, area_P)
    )


def curves(rng: np.random.Generator, design: Design, documents: int, masks: int) -> Measured:
    """Measure single points, areas, and whole curves with three kinds of bands."""
    shift = shifts(rng, design, masks, documents)
    value, residuals = ratio(shift, lengths(rng, documents))
    area = _area(value, residuals)
    points = crossed(value[:, :-1], residuals[:, :-1])
    # All units held: one mask, as in the tables.
    last = crossed(value[:, -1:, :1], residuals[:, -1:, :1])
    every = np.concatenate([points.value, last.value], axis=1)
    level_R = joint_level(
        residuals.mean(axis=2) * (documents / (documents - 1)) ** 0.5,
        (value - value.mean(axis=2, keepdims=True)) / (masks * (masks - 1)) ** 0.5,
        seed=int(rng.integers(2**32)),
    )

    def all_covered(level: float | Floats) -> NDArray[np.bool_]:
        parts = [points.half_width_at(level), last.half_width_at(level)]
        return np.asarray((np.abs(every) <= np.concatenate(parts, axis=1)).all(axis=1))

    middle = len(SHARES) // 2
    covered = np.abs(points.value) <= points.half_width
    wider = points.half_width_at(level_R[:, None]) / points.half_width
    return {
        "point": covered[:, middle],
        "area": np.abs(area.value) <= area.half_width,
        "all, pointwise": all_covered(LEVEL),
        "all, simultaneous": all_covered(level_R[:, None]),
        "all, Bonferroni": all_covered(1 - (1 - LEVEL) / len(SHARES)),
        "times as wide": wider[:, middle],
    }


def selections(rng: np.random.Generator, design: Design, documents: int, masks: int) -> Measured:
    """Measure a random rule with M masks against a rule with one."""
    many = shifts(rng, design, masks, documents)[:, 4]
    # The one set of a rule is the rule: nothing of it is drawn but the documents.
    own = Design(name="", documents=design.documents, masks=0, both=design.both)
    one = shifts(rng, own, 1, documents)[:, 4]
    made = crossed(*ratio(many - one, lengths(rng, documents)))
    return {"random − rule": np.abs(made.value) <= made.half_width}


def gaps(rng: np.random.Generator, design: Design, documents: int, masks: int) -> Measured:
    """Measure the share of the gap that is closed, for gaps of 3, 6 and 12 standard errors."""
    tokens = lengths(rng, documents)
    gap, own = (shifts(rng, design, masks, documents)[:, 4] for _ in range(2))
    error = float(ratio(gap, tokens)[0].mean(axis=1).std())
    measured: dict[str, Floats | NDArray[np.bool_]] = {}
    for clear in (3, 6, 12):
        # The truth, 1/2, does not matter: both intervals move with it.
        whole = clear * error + gap
        gained = whole / 2 + own / 2
        of_whole = ratio(whole, tokens)
        shown = crossed(*of_whole).low > 0
        delta = share(*ratio(gained, tokens), *of_whole)
        # Fieller's interval holds the truth where gained − truth x gap is not off 0.
        fieller = crossed(*ratio(gained - whole / 2, tokens))
        measured[f"shown at {clear}"] = shown
        for name, covered in (
            ("delta", np.abs(delta.value - 0.5) <= delta.half_width),
            ("Fieller", np.abs(fieller.value) <= fieller.half_width),
        ):
            measured[f"{name} at {clear}"] = np.where(shown, covered, np.nan)
    return measured


def families(rng: np.random.Generator, design: Design, documents: int, masks: int) -> Measured:
    """Measure how often a sweep without any effect finds one: 4 models x 3 pairs of methods."""
    areas, fractions = [], []
    for _ in range(4):
        tokens = lengths(rng, documents)
        a, b, c = (shifts(rng, design, masks, documents) for _ in range(3))
        for difference in (a - b, a - c, b - c):
            value, residuals = ratio(difference, tokens)
            area = _area(value, residuals)
            areas.append(
                replace(area, **{f.name: getattr(area, f.name)[:, None] for f in fields(area)})
            )
            fractions.append(crossed(value[:, :-1], residuals[:, :-1]))
    measured: dict[str, Floats | NDArray[np.bool_]] = {}
    for family, found in (("12 areas", areas), ("108 fractions", fractions)):
        for name, adjust, p in (
            ("Holm", holm, [cautious(x, masks).p for x in found]),
            ("Holm, not cautious", holm, [x.p for x in found]),
            ("unadjusted", np.asarray, [x.p for x in found]),
        ):
            adjusted_RX = np.array([adjust(p_X) for p_X in np.concatenate(p, axis=1)])
            measured[f"{family}, {name}"] = adjusted_RX.min(axis=1) <= 1 - LEVEL
    return measured


def rates(measure: Measure, repetitions: int, seed: int) -> Iterator[Row]:
    """Yield per size and design the mean of what is measured, over sweeps where it is there."""
    rng = np.random.default_rng(seed)
    for documents, masks in SIZES:
        for design in DESIGNS:
            parts = [measure(rng, design, documents, masks) for _ in range(repetitions // SWEEPS)]
            row: Row = {"documents": documents, "masks": masks, "design": design.name}
            for name in parts[0]:
                row[name] = round(float(np.nanmean([part[name] for part in parts])), 4)
            yield row
