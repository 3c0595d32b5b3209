"""Adjust: p-values of several tests, so that all of them together err in 5 % of sweeps.

Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979): the smallest of n
p-values is multiplied by n, the next by n − 1, and none may be smaller than the one
before it. It holds the chance of even one false finding at the nominal level however the
tests hang together. A max-t bootstrap over documents would find a little more where
tests are strongly correlated, but it needs draws, and a family spans several models,
which share no documents: there is nothing to resample together.

Small p-values ask more of an interval than 95 % coverage does. Three masks lie close to
each other by chance now and then; the variance between masks then looks small, and
Satterthwaite's degrees large. Among a hundred tests that happens to one. So of fewer than
`FEW_MASKS` masks a test that is to be adjusted takes at most M − 1 degrees. Measured
(`benchmarks/intervals.py`; four models, three pairs, no effect at all), at least one false finding
among 12 areas and among 108 fractions:

    10 masks                      4 – 8 %    3 – 8 %
    3 masks that dominate         2 – 4 %    0 %        without this rule 13 – 17 %, 35 – 48 %
    3 masks, documents dominate   0 %        0 %        the rule costs all power there

Weak where a family is large: thirty tests at one fraction each need p < 0.0017. Declare
few contrasts, and draw ten masks.

Shapes: X tests.
"""

from dataclasses import replace

import numpy as np

from orchestrator.intervals import FEW_MASKS, Estimate, Floats


def cautious(found: Estimate, masks: int) -> Estimate:
    """Return the estimate with at most M − 1 degrees where there are 2 to `FEW_MASKS` − 1 masks."""
    if not 1 < masks < FEW_MASKS:
        return found
    return replace(found, degrees=np.minimum(found.degrees, masks - 1))


def holm(p_X: Floats) -> Floats:
    """Return the adjusted p of each of X tests, (X,); NaN, which counts for nothing, stays NaN."""
    adjusted_X = np.full(len(p_X), np.nan)
    known = np.flatnonzero(~np.isnan(p_X))
    ascending = known[np.argsort(p_X[known], kind="stable")]
    scaled = p_X[ascending] * np.arange(len(known), 0, -1)
    adjusted_X[ascending] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted_X
