"""Gap: how much of the way from a reference to the optimum a constant goes.

With the cross-entropy of a reference r (zero, mean), of a method m and of `optimal`, the
constants learned for that very set of held neurons,

    share closed = (CE_r − CE_m) / (CE_r − CE_opt)

is 0 where m is as bad as r and 1 where it is as good as the optimum (Li and Janson,
NeurIPS 2024, compare methods so). `optimal` is an *approximate* floor: it is fitted on
documents of its own by finitely many steps, so a share can exceed 1.

Both differences are means over the same masks and documents. Their ratio's error is that
of its linearised numbers (delta method): per mask and document, what the numerator has
beyond share x denominator, over the mean denominator. A ratio is only as good as its
denominator, so where the gap's own interval includes 0, or the gap is not positive, there
is no share, and the reason is said.

Measured beside Fieller's interval (`benchmarks/intervals.py`), where a share is shown: with a gap
of 12 standard errors both cover 91 – 97 %; with one of 3 the delta method covers 94 – 99 %,
Fieller's 91 – 96 %. So the delta method errs on the safe side where the two differ, its
interval has two ends always, and it is one line.

Weak where the gap is barely clear of 0: the sweeps that show a share are then those that
overrate the gap; and with three masks, where half of the gaps of 3 standard errors are not
seen at all.

Shapes: M masks, G documents.
"""

from collections.abc import Mapping

import numpy as np

from orchestrator.answers import Answers
from orchestrator.comparisons import NOTHING, Step, combined
from orchestrator.groups import Curve
from orchestrator.intervals import Estimate, Floats, crossed

OPTIMAL = "optimal"
"""Method whose constants are learned."""
REFERENCES = ("zero", "mean")
"""Labels that the gap is measured from."""
METRIC = "gap_closed"
CONSTANT = ("zero", "mean", "median", "quantile", "peak", "optimal")
"""Methods that can hold a neuron at one constant wherever it stands."""
WITHIN_NOISE = "the gap to optimal is within noise"
NOT_POSITIVE = "optimal loses no less than the reference"
NO_INTERVAL = "the gap to optimal has no interval"


def floor(named: Mapping[str, Curve]) -> str | None:
    """Return the label of the optimum learned cell by cell; the first of several, or None."""
    found = [
        label
        for label, curve in named.items()
        if curve.method == OPTIMAL and '"shared"' not in curve.parameters
    ]
    return min(found, default=None)


def constants(named: Mapping[str, Curve]) -> list[str]:
    """Return the labels of methods that are one constant per neuron, so above the floor."""
    # The floor of a softened method, or of one that knows the position, would be another.
    other = ('"alpha"', '"position"')
    return [
        label
        for label, curve in named.items()
        if curve.method in CONSTANT and not any(word in curve.parameters for word in other)
    ]


def closed(found: Answers, step: Step) -> tuple[Estimate, str | None]:
    """Return the share of the gap that is closed, or why there is none.

    The step's curves are, in this order, the reference, the method and the optimum.
    """
    gained = combined(found, "ce", step, (1, -1, 0))
    gap = combined(found, "ce", step, (1, 0, -1))
    whole = gap.mean
    if not np.isfinite(whole.low):
        return NOTHING, NO_INTERVAL
    if whole.high < 0:
        return NOTHING, NOT_POSITIVE
    if whole.low <= 0:
        return NOTHING, WITHIN_NOISE
    parts = gained.value_M, gained.residuals_MG, gap.value_M, gap.residuals_MG
    return share(*parts, documents=min(gained.worth, gap.worth)), None


def share(
    gained_M: Floats,
    gained_MG: Floats,
    gap_M: Floats,
    gap_MG: Floats,
    documents: float | None = None,
) -> Estimate:
    """Return the ratio of two means over masks, from numbers (..., M), residuals (..., M, G).

    `documents` is how many they are worth where masks saw different ones.
    """
    whole = gap_M.mean(axis=-1, keepdims=True)
    ratio = gained_M.mean(axis=-1, keepdims=True) / whole
    beyond_M = (gained_M - ratio * gap_M) / whole
    beyond_MG = (gained_MG - ratio[..., None] * gap_MG) / whole[..., None]
    return crossed(ratio + beyond_M, beyond_MG, documents)
