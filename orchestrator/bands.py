"""Bands: how wide intervals must be for all points of a curve to be covered at once.

A pointwise interval covers its own point in 95 % of sweeps; that all eleven of a curve
are covered happens less often. How much less depends on how the points move together:
they share documents and, nested, most of their masks, so they move together strongly and
the price is below that of eleven separate tests.

The multiplier bootstrap (Chernozhukov, Chetverikov and Kato, Annals of Statistics 41,
2013) draws one independent normal number per document and one per mask, multiplies each
document's and each mask's share of every point's error by it, and adds up: a random curve
that moves like the estimate's error. Given the data such a curve is normal, with the
covariance over documents plus that over masks, so it is drawn from that covariance at
once: the same law, and the names of documents and masks don't matter. The 95 % quantile
of the largest |error / standard error| over the points, of `DRAWS` curves, says what
*pointwise* level makes the whole curve hold; each point then takes that level of its own
Student's t, because points differ in their degrees of freedom.

Fewer than `FEW_MASKS` masks (but more than one) show nothing of how points move together: three
of them have any two points correlated strongly by chance. The points are then taken as
independent, which needs the level .95^(1/P) of each.

All ten points of a simulated curve were covered in 91 – 97 % of sweeps, those of nominal 95 %
pointwise intervals in 64 – 78 % (`benchmarks/intervals.py`). Weak with twenty documents of very
unequal weight (88 %) and three masks that dominate (90 %).

Shapes: P points, G documents, M masks, B draws; `...` any leading axes.
"""

import numpy as np
from scipy.stats import norm

from orchestrator.intervals import FEW_MASKS, LEVEL, Floats

DRAWS = 2000


def joint_level(documents_PG: Floats, masks_PM: Floats, *, seed: int, draws: int = DRAWS) -> Floats:
    """Return the pointwise level at which all points hold together at `LEVEL`, shape (...).

    `documents_PG` (..., P, G) and `masks_PM` (..., P, M) are the shares of each point's error;
    zeros for a mask that a point does not have. Points whose error is 0 don't count; one point
    alone gets about `LEVEL`. NaN where an error is not a number.
    """
    masks, points = masks_PM.shape[-1], masks_PM.shape[-2]
    shares = np.concatenate([documents_PG, masks_PM], axis=-1)
    covariance_PP = shares @ np.swapaxes(shares, -1, -2)
    scale_P = np.sqrt(np.einsum("...pp->...p", covariance_PP))
    known = np.isfinite(scale_P).all(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit_P = np.where(np.isfinite(scale_P) & (scale_P > 0), 1 / scale_P, 0.0)
    moving = known & (unit_P > 0).any(axis=-1)
    together_PP = np.nan_to_num(covariance_PP) * unit_P[..., :, None] * unit_P[..., None, :]
    values_P, vectors_PP = np.linalg.eigh(together_PP)
    # The symmetric root: no choice of signs, so nearly equal data give nearly equal draws.
    root_P = np.sqrt(np.where(values_P > 1e-9, values_P, 0.0))
    root_PP = (vectors_PP * root_P[..., None, :]) @ np.swapaxes(vectors_PP, -1, -2)
    normal_BP = np.random.default_rng(seed).standard_normal((draws, scale_P.shape[-1]))
    largest_B = np.abs(normal_BP @ root_PP).max(axis=-1)
    level = 2 * norm.cdf(np.quantile(largest_B, LEVEL, axis=-1)) - 1
    if 1 < masks < FEW_MASKS:
        level = np.full_like(level, LEVEL ** (1 / points))
    # A single point needs no more than its own interval, whatever the draws say.
    level = np.maximum(level, LEVEL)
    return np.where(moving, level, np.where(known, LEVEL, np.nan))
