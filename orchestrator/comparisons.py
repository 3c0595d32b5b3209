"""Comparisons: methods against each other, and against how much is held.

What is known of a method at a fraction is one number per mask and, for each of them,
the documents' residuals. Methods share masks and documents, so they are compared pair by
pair: mask with mask, document with document. Of several draws for one mask (donor seeds)
the mean is taken first: they are no masks, and their spread is not in the interval.

The area between two curves is the default single test of "a is better than b": one number
per mask for all fractions together, so nobody has to choose a fraction afterwards.

Weak where masks are few: with three of them an interval is wide, and says so rightly.

Shapes: C cells, G documents, M masks, F fractions of the group, K of them that are compared,
D draws of one mask.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from orchestrator.answers import (
    GROUP,
    METRICS,
    Answers,
    Grid,
    Group,
    Integers,
    answers,
    groups,
    label,
    nominal,
)
from orchestrator.intervals import Estimate, Floats, crossed, trapezoid_weights

_KEYS = dict.fromkeys(GROUP, pl.String)
_ENDS = {"low": pl.Float64, "high": pl.Float64}
_CONTRASTS = pl.Schema(
    _KEYS
    | {"fraction": pl.Float64, "metric": pl.String, "a": pl.String, "b": pl.String}
    | {"estimate": pl.Float64}
    | _ENDS
    | {"p_adjusted": pl.Float64, "documents": pl.Int64, "masks": pl.Int64, "declared": pl.Boolean}
)
_CURVES = pl.Schema(
    _KEYS
    | {"method": pl.String, "parameters": pl.String, "metric": pl.String}
    | {"held_share": pl.Float64, "mean": pl.Float64}
    | _ENDS
    | {"band": pl.String, "sd_masks": pl.Float64, "masks": pl.Int64}
)


def contrasts(
    cells: pl.LazyFrame,
    results: pl.LazyFrame,
    declared: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
) -> pl.DataFrame:
    """Return a − b for each declared pair of labels, metric and fraction above 0.

    Fraction null is the area between the curves: a − b integrated over the held share by
    trapezoids, from 0 to the largest share of the sweep, over masks answered at every fraction.
    Where all masks hold the same (fraction 1) `masks` is 1 and the interval covers documents only.
    `p_adjusted` is null. `seed` is not used: the intervals are in closed form, nothing is drawn.
    """
    del seed
    points = nominal(cells)
    keys: list[dict[str, object]] = []
    found: list[Estimate] = []
    for here in answers(points, results):
        for group in groups(points, here):
            grids = {label(*method): grid for method, grid in group.grids.items()}
            for a, b in declared:
                if a not in grids or b not in grids:
                    continue
                for fraction, at_K, weights_K in _steps(group, grids[a], grids[b]):
                    pair = [grids[x].rows_MFD[:, at_K] for x in (a, b)]
                    there_M = np.all([(r >= 0).all(axis=(1, 2)) for r in pair], axis=0)
                    if not there_M.any():
                        continue
                    pair = [r[there_M] for r in pair]
                    masks = _masks(*pair)
                    key = {"fraction": fraction, "a": a, "b": b, "declared": True}
                    key |= {"documents": here.documents, "masks": masks}
                    for metric in METRICS:
                        of_a, of_b = (_level(here, metric, r[:masks], weights_K) for r in pair)
                        keys.append({**group.keys, **key, "metric": metric})
                        found.append(crossed(of_a[0] - of_b[0], of_a[1] - of_b[1]))
    return _table(keys, found, _CONTRASTS, "estimate")


def curves(cells: pl.LazyFrame, results: pl.LazyFrame, *, seed: int = 0) -> pl.DataFrame:
    """Return the mean over masks per method and held share, of each metric and its change.

    The band is pointwise: it covers each point by itself in 95 % of sweeps over other documents
    and masks, not the whole curve. `sd_masks` is the s.d. over masks, null where all masks hold
    the same. `seed` is not used: the bands are in closed form, nothing is drawn.
    """
    del seed
    points = nominal(cells)
    keys: list[dict[str, object]] = []
    found: list[Estimate] = []
    for here in answers(points, results):
        for group in groups(points, here):
            # Fractions so close that they hold the same units are one point of the curve.
            _, at_F = np.unique(group.share_F, return_index=True)
            for (method, parameters), grid in group.grids.items():
                for at in at_F:
                    rows_MD = grid.rows_MFD[grid.answered_MF[:, at], at]
                    if not len(rows_MD):
                        continue
                    masks = _masks(rows_MD)
                    name = {"method": method, "parameters": parameters}
                    key = {**name, "held_share": group.share_F[at], "band": "pointwise"}
                    for metric, value_M, residuals_MG in _metrics(here, group, rows_MD[:masks]):
                        sd = float(value_M.std(ddof=1)) if masks > 1 else None
                        more = {"metric": metric, "sd_masks": sd, "masks": masks}
                        keys.append({**group.keys, **key, **more})
                        found.append(crossed(value_M, residuals_MG))
    return _table(keys, found, _CURVES, "mean")


def _level(
    found: Answers, metric: str, rows_MKD: Integers, weights_K: Floats
) -> tuple[Floats, Floats]:
    """Return each mask's number, (M,), and residuals, (M, G), over draws and K fractions."""
    value_MK = found.ratio[metric][rows_MKD].mean(axis=2)
    residuals_MKG = found.residuals[metric][rows_MKD].mean(axis=2)
    return value_MK @ weights_K, np.einsum("mkg,k->mg", residuals_MKG, weights_K)


def _metrics(
    found: Answers, group: Group, rows_MD: Integers
) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield each metric and its change: name, each mask's number and residuals."""
    for metric in METRICS:
        ratio_C, residuals_CG = found.ratio[metric], found.residuals[metric]
        value_MD, residuals_MDG = ratio_C[rows_MD], residuals_CG[rows_MD]
        yield metric, value_MD.mean(axis=1), residuals_MDG.mean(axis=1)
        if group.baseline >= 0:
            value_MD = value_MD - ratio_C[group.baseline]
            residuals_MDG = residuals_MDG - residuals_CG[group.baseline]
            yield f"d_{metric}", value_MD.mean(axis=1), residuals_MDG.mean(axis=1)


def _steps(group: Group, a: Grid, b: Grid) -> Iterator[tuple[float | None, Integers, Floats]]:
    """Yield what two methods are compared at: a fraction or null, which K fractions, weights."""
    both_K = np.flatnonzero(a.planned_F & b.planned_F)
    held_K = both_K[group.share_F[both_K] > 0]
    for at in held_K:
        yield group.fractions[at], np.array([at]), np.ones(1)
    if len(held_K):
        yield None, both_K, trapezoid_weights(group.share_F[both_K])


def _masks(*rows: Integers) -> int:
    """Return how many masks there are; 1 when all of them are answered by the same cells."""
    alike = all((np.sort(r, axis=-1) == np.sort(r[:1], axis=-1)).all() for r in rows)
    return 1 if alike else len(rows[0])


def _table(
    keys: list[dict[str, object]], found: list[Estimate], schema: pl.Schema, value: str
) -> pl.DataFrame:
    """Return rows of keys with their estimates and intervals; null where there is no number."""
    parts = ("value", "variance", "degrees")
    every = Estimate(**{x: np.array([getattr(e, x) for e in found], dtype=float) for x in parts})
    ends = pl.DataFrame({value: every.value, "low": every.low, "high": every.high})
    frame = pl.DataFrame(keys, schema={k: v for k, v in schema.items() if k not in ends.columns})
    frame = frame.hstack(ends).select(schema.names()).fill_nan(None)
    return frame.sort([k for k in schema if k not in ends.columns], nulls_last=True)
