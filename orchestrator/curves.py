"""Curves: how each method's numbers change with the share that is held, and their areas.

A point is the mean over masks at one held share, of a metric or of its change against the
unablated model (`d_` before its name), with the s.d. over masks and two intervals, both
over documents and masks:

    pointwise      covers this point in 95 % of sweeps over other documents and masks
    simultaneous   covers all points of the curve at once in 95 % (`orchestrator.bands`)

An area is the curve's mean level over the held share (`orchestrator.comparisons`), one
number for the whole curve.

Where cells have read different numbers of documents, a point is over those that its mask's
draws have all read, and its change over those that the unablated model has read too; other
points and masks may have read others (`orchestrator.comparisons`).

Shapes: M masks, P points, G documents.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from orchestrator.answers import METRICS, Answers, answers, nominal
from orchestrator.bands import joint_level
from orchestrator.comparisons import Sample, Step, documents, levels, stacked, steps
from orchestrator.groups import GROUP, Curve, Group, groups
from orchestrator.intervals import LEVEL, Estimate, Floats

_KEYS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(GROUP, pl.String),
    "complement": pl.Boolean,
    "method": pl.String,
    "parameters": pl.String,
    "metric": pl.String,
}
_ENDS: dict[str, type[pl.DataType]] = {"low": pl.Float64, "high": pl.Float64}
_CURVES = pl.Schema(
    _KEYS
    | {"held_share": pl.Float64, "mean": pl.Float64}
    | _ENDS
    | {"band": pl.String, "sd_masks": pl.Float64, "masks": pl.Int64}
)
_AREAS = pl.Schema(
    _KEYS
    | {"from_share": pl.Float64, "to_share": pl.Float64, "area": pl.Float64}
    | _ENDS
    | {"sd_masks": pl.Float64, "masks": pl.Int64, "documents": pl.Int64}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What a curve needs of one of its points."""

    step: Step
    mean: Estimate
    """The mean over masks."""
    value_M: Floats
    """Each mask's number."""
    residuals_G: Floats
    """Each document's share of the mean's error."""
    worth: float
    """How many documents the mean is worth."""

    @classmethod
    def of(cls, sample: Sample, step: Step) -> "Point":
        """Return what is needed of a sample."""
        return cls(
            step=step,
            mean=sample.mean,
            value_M=sample.value_M,
            residuals_G=sample.residuals_MG.mean(axis=0),
            worth=sample.worth,
        )


def curves(
    cells: pl.LazyFrame,
    results: pl.LazyFrame,
    *,
    metrics: Sequence[str] = METRICS,
    documents_bytes: pl.LazyFrame | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Return two rows per method, held share, metric and its change: a band of either kind.

    `sd_masks` is the s.d. over masks, null where all masks hold the same; `seed` is that of the
    draws behind the simultaneous bands. `documents_bytes` is that of the summary. Raises
    DifferingAnswersError, UnknownMetricError.
    """
    points = nominal(cells)
    return curved(points, answers(points, results, documents_bytes, metrics), metrics, seed)


def curved(
    points: pl.DataFrame, every: Iterable[Answers], metrics: Sequence[str], seed: int = 0
) -> pl.DataFrame:
    """Return the curves of answers that are there."""
    keys: list[dict[str, object]] = []
    found: list[Estimate] = []
    wanted: list[float] = []
    for here, group, curve in _every(points, every):
        at = [step for step in steps(curve) if step.share is not None]
        for metric in _applying(here, metrics):
            for name, base in _changes(group, metric):
                # Of a point's numbers per mask and document the mean is kept: there may be many.
                numbers = [Point.of(levels(here, metric, step, base=base), step) for step in at]
                if not numbers:
                    continue
                level = joint_level(*_shares(numbers, len(curve.seeds)), seed=seed)
                for point in numbers:
                    key = _key(group, curve, name, point.step, point.value_M)
                    key |= {"held_share": point.step.share}
                    keys += [key | {"band": b} for b in ("pointwise", "simultaneous")]
                    found += [point.mean] * 2
                    wanted += [LEVEL, float(level)]
    return _table(keys, found, np.array(wanted), _CURVES, "mean")


def areas(
    cells: pl.LazyFrame,
    results: pl.LazyFrame,
    *,
    metrics: Sequence[str] = METRICS,
    documents_bytes: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """Return the area under each curve: its mean level from `from_share` to `to_share` held.

    Over the masks that are answered at every point; `documents` are the fewest that were read at
    any of these. Of `to_share` below 1, say so beside the
    number. Raises DifferingAnswersError, UnknownMetricError.
    """
    points = nominal(cells)
    return enclosed(points, answers(points, results, documents_bytes, metrics), metrics)


def enclosed(
    points: pl.DataFrame, every: Iterable[Answers], metrics: Sequence[str]
) -> pl.DataFrame:
    """Return the areas of answers that are there."""
    keys: list[dict[str, object]] = []
    found: list[Estimate] = []
    for here, group, curve in _every(points, every):
        for step in steps(curve):
            if step.share is not None:
                continue
            for metric in _applying(here, metrics):
                for name, base in _changes(group, metric):
                    sample = levels(here, metric, step, base=base)
                    key = _key(group, curve, name, step, sample.value_M)
                    key |= dict(zip(("from_share", "to_share"), step.span, strict=True))
                    keys.append(key | {"documents": documents(here, metric, step, base)})
                    found.append(sample.mean)
    return _table(keys, found, np.full(len(found), LEVEL), _AREAS, "area")


def _every(
    points: pl.DataFrame, every: Iterable[Answers]
) -> Iterator[tuple[Answers, Group, Curve]]:
    for here in every:
        for group in groups(points, here):
            for curve in group.curves:
                yield here, group, curve


def _applying(found: Answers, metrics: Sequence[str]) -> list[str]:
    return [metric for metric in dict.fromkeys(metrics) if metric in found.measures]


def _changes(group: Group, metric: str) -> list[tuple[str, int | None]]:
    """Return a metric's name and that of its change, each with the row it is taken from."""
    level: tuple[str, int | None] = (metric, None)
    return [level] if group.baseline < 0 else [level, (f"d_{metric}", group.baseline)]


def _shares(points: Sequence[Point], masks: int) -> tuple[Floats, Floats]:
    """Return each document's share of each point's error, (P, G), and each mask's, (P, M)."""
    residuals_PG = np.array([point.residuals_G for point in points])
    masks_PM = np.zeros((len(points), masks))
    for p, point in enumerate(points):
        step, value_M = point.step, point.value_M
        if step.masks > 1:
            scale = (step.masks * (step.masks - 1)) ** 0.5
            masks_PM[p, step.masks_M] = (value_M - value_M.mean()) / scale
    counts = [point.worth for point in points]
    scale_P = np.array([(n / (n - 1)) ** 0.5 if n > 1 else np.nan for n in counts])
    return residuals_PG * scale_P[:, None], masks_PM


def _key(group: Group, curve: Curve, metric: str, step: Step, value_M: Floats) -> dict[str, object]:
    sd = float(value_M.std(ddof=1)) if step.masks > 1 else None
    name = {"method": curve.method, "parameters": curve.parameters, "metric": metric}
    return {**group.keys, **name, "sd_masks": sd, "masks": step.masks}


def _table(
    keys: Sequence[dict[str, object]],
    found: Sequence[Estimate],
    level_X: Floats,
    schema: pl.Schema,
    value: str,
) -> pl.DataFrame:
    """Return rows of keys with their estimates and intervals; null where there is no number."""
    every = stacked(found)
    half_X = every.half_width_at(level_X)
    ends = {value: every.value, "low": every.value - half_X, "high": every.value + half_X}
    frame = pl.DataFrame(keys, schema={k: v for k, v in schema.items() if k not in ends})
    frame = frame.hstack(pl.DataFrame(ends)).select(schema.names()).fill_nan(None)
    order = [*_KEYS, *(k for k in ("held_share", "band") if k in schema)]
    return frame.sort(order, nulls_last=True)
