"""Contrasts: methods, selections and bases against each other, with intervals and p-values.

A pair (a, b) of labels is a pair of whatever both are found among:

    methods      within a group: the same masks, the same documents
    selections   a rule against a rule, for every method: where both hold the same share,
                 document by document; the one mask of a rule that draws nothing is set
                 against each mask of one that does
    bases        the checkpoint's own axes against rotated ones, for every method: the same
                 masks and documents

and one kind of row has four curves: whether a pair of methods differs between two bases,
(a − b in own axes) − (a − b in rotated axes), with the method column `a - b`. It is there
for every declared pair of methods, and for peak and mean, whose answer says whether
peaks mean anything beyond their axes.

What the sweep file declares is tested; everything else is *exploratory*: the same numbers
with `declared` false and nothing adjusted, to look at and not to conclude from. Of more than
`MANY` labels only the pairs with the first, in alphabetical order, are made.

`p` is two-sided, of Student's t with the estimate's degrees. `p_adjusted` is Holm's
(`orchestrator.adjust`) over one of two families of the whole sweep, all models, groups and
metrics together: all declared areas, or all declared contrasts at single fractions. The area
is the default single test; a fraction is for who declared to look at fractions. With few
masks the p that is adjusted is larger than `p` (`orchestrator.adjust.cautious`). A row whose
two sides hold different shares has a reason and no number, and is not counted as a test.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import polars as pl

from orchestrator import gap
from orchestrator.adjust import cautious, holm
from orchestrator.answers import METRICS, Answers, answers, nominal
from orchestrator.comparisons import NOTHING, combined, documents, stacked, steps
from orchestrator.groups import GROUP, Curve, Group, groups
from orchestrator.intervals import Estimate, Floats
from orchestrator.labels import OWN

MANY = 20
"""With more labels than this, undeclared pairs are those with the first label alone."""
AXES = ("peak", "mean")
"""The pair of methods that is always compared between bases."""

_KEYS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(GROUP, pl.String),
    "complement": pl.Boolean,
    "method": pl.String,
    "fraction": pl.Float64,
    "metric": pl.String,
    "a": pl.String,
    "b": pl.String,
}
_COUNTS: dict[str, type[pl.DataType]] = {
    "documents": pl.Int64,
    "masks": pl.Int64,
    "declared": pl.Boolean,
    "reason": pl.String,
}
_NUMBERS = ("estimate", "low", "high", "p", "p_adjusted")
SCHEMA = pl.Schema(_KEYS | dict.fromkeys(_NUMBERS, pl.Float64) | _COUNTS)
"""Columns of the table. `reason` says why a row has no number: its two sides hold different shares,
or a gap is no gap; else it is null."""

Key = Mapping[str, str | bool | None]
Row = tuple[dict[str, object], Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Curves to be added up with signs, at every step that they share."""

    key: Key
    """Columns that are the same for all steps."""
    curves: Sequence[Curve]
    signs: Sequence[int]


def contrasts(
    cells: pl.LazyFrame,
    results: pl.LazyFrame,
    declared: Sequence[tuple[str, str]],
    *,
    metrics: Sequence[str] = METRICS,
    documents_bytes: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """Return a − b for pairs of labels, per metric, at each fraction and for the area (null).

    The area is the mean difference over the held share. Where all masks hold the same (fraction
    1) `masks` is 1 and the interval covers documents only. Where a and b hold different shares
    there is a reason in place of numbers. `documents` are those that all compared cells have read,
    the fewest of any mask and, for the area, of any fraction. Rows of the metric `gap_closed` hold
    the share of the gap from b to `optimal` that a closes (`orchestrator.gap`).
    `documents_bytes` is that of the summary. Raises DifferingAnswersError, UnknownMetricError.
    """
    points = nominal(cells)
    every = answers(points, results, documents_bytes, [*metrics, "ce"])
    return contrasted(points, every, declared, metrics)


def contrasted(
    points: pl.DataFrame,
    every: Iterable[Answers],
    declared: Sequence[tuple[str, str]],
    metrics: Sequence[str],
) -> pl.DataFrame:
    """Return the contrasts of answers that are there, cross-entropy among them."""
    found: list[Row] = []
    for here in every:
        found += _rows(here, list(groups(points, here)), declared, list(dict.fromkeys(metrics)))
    made = stacked([estimate for _, estimate in found])
    numbers = {"estimate": made.value, "low": made.low, "high": made.high, "p": made.p}
    keys = {k: v for k, v in SCHEMA.items() if k not in _NUMBERS}
    frame = pl.DataFrame([key for key, _ in found], schema=keys)
    frame = frame.hstack(pl.DataFrame(numbers)).fill_nan(None)
    # A share of the gap is no hypothesis.
    frame = frame.with_columns(p=pl.when(pl.col("metric") != gap.METRIC).then("p"))
    tested = [
        cautious(estimate, masks)
        for (_, estimate), masks in zip(found, frame["masks"], strict=True)
    ]
    frame = frame.with_columns(p_adjusted=_adjusted(frame, stacked(tested).p)).select(
        SCHEMA.names()
    )
    return frame.sort([*_KEYS, "declared"], nulls_last=True)


def _adjusted(frame: pl.DataFrame, p_X: Floats) -> pl.Series:
    """Return the adjusted p of the declared rows, null for the others."""
    adjusted = np.full(frame.height, np.nan)
    area = frame["fraction"].is_null()
    for family in (frame["declared"] & area, frame["declared"] & ~area):
        at = np.flatnonzero(family.to_numpy())
        adjusted[at] = holm(p_X[at])
    return pl.Series(adjusted, dtype=pl.Float64).fill_nan(None)


def _rows(
    found: Answers,
    every: Sequence[Group],
    declared: Sequence[tuple[str, str]],
    metrics: Sequence[str],
) -> Iterator[Row]:
    """Yield the rows of one (model, data)."""
    for question in questions(every, declared):
        for step in steps(*question.curves):
            if step.share == 0:
                continue
            for metric in metrics:
                if metric in found.measures:
                    seen = documents(found, metric, step)
                    key: dict[str, object] = {**question.key, "metric": metric}
                    key |= {"fraction": step.fraction}
                    key |= {"documents": seen, "masks": step.masks, "reason": step.reason}
                    if step.reason is None:
                        yield key, combined(found, metric, step, question.signs).mean
                    else:
                        yield key, NOTHING
    for group in every:
        yield from _gaps(found, group)


def _gaps(found: Answers, group: Group) -> Iterator[Row]:
    named = group.named
    floor = gap.floor(named)
    references = [b for b in gap.REFERENCES if floor is not None and b in named]
    for b, a in product(references, gap.constants(named)):
        if a in (b, floor):
            continue
        for step in steps(named[b], named[a], named[str(floor)]):
            if step.share == 0:
                continue
            share, reason = gap.closed(found, step)
            key: dict[str, object] = {**group.keys, "a": a, "b": b, "declared": False}
            key |= {"fraction": step.fraction, "metric": gap.METRIC, "reason": reason}
            key |= {"documents": documents(found, "ce", step), "masks": step.masks}
            yield key, share


def questions(every: Sequence[Group], declared: Sequence[tuple[str, str]]) -> Iterator[Question]:
    """Yield what is compared with what among the groups of one (model, data)."""
    for group in every:
        named = group.named
        for a, b, said in pairs(named, declared):
            key = {**group.keys, "a": a, "b": b, "declared": said}
            yield Question(key=key, curves=(named[a], named[b]), signs=(1, -1))
    for rules in _apart(every, "selection"):
        for a, b, said in pairs(rules, declared):
            yield from _across(rules, "selection", a, b, said)
    for bases in _apart(every, "basis"):
        for a, b, said in pairs(bases, declared):
            if said or OWN in (a, b):
                yield from _across(bases, "basis", *((a, b) if said or a == OWN else (b, a)), said)
        for rotated in bases:
            if rotated != OWN and OWN in bases:
                yield from _interactions(bases, rotated, declared)


def pairs(
    labels: Collection[str], declared: Sequence[tuple[str, str]]
) -> list[tuple[str, str, bool]]:
    """Return the pairs among `labels`, (a, b, whether declared), the declared ones first."""
    said = list(dict.fromkeys((a, b) for a, b in declared if a in labels and b in labels))
    known = {frozenset(pair) for pair in said}
    ordered = sorted(labels)
    rest = (
        combinations(ordered, 2) if len(ordered) <= MANY else ((ordered[0], b) for b in ordered[1:])
    )
    return [(*pair, True) for pair in said] + [
        (*pair, False) for pair in rest if frozenset(pair) not in known
    ]


def _apart(every: Sequence[Group], column: str) -> list[dict[str, Group]]:
    """Return groups that differ in nothing but one column, by their values of it."""
    bunches: dict[tuple[str | bool, ...], dict[str, Group]] = {}
    for group in every:
        rest = tuple(value for name, value in group.keys.items() if name != column)
        bunches.setdefault(rest, {})[str(group.keys[column])] = group
    return [bunch for bunch in bunches.values() if len(bunch) > 1]


def _across(
    bunch: Mapping[str, Group], column: str, a: str, b: str, said: bool
) -> Iterator[Question]:
    """Yield the same method in two groups, for every method that both have."""
    here, there = bunch[a].named, bunch[b].named
    for method in here:
        if method in there:
            key = {**bunch[a].keys, column: None, "method": method}
            yield Question(
                key=key | {"a": a, "b": b, "declared": said},
                curves=(here[method], there[method]),
                signs=(1, -1),
            )


def _interactions(
    bases: Mapping[str, Group], rotated: str, declared: Sequence[tuple[str, str]]
) -> Iterator[Question]:
    """Yield, per pair of methods, its difference in own axes less that in rotated axes."""
    here, there = bases[OWN].named, bases[rotated].named
    wanted = dict.fromkeys([*declared, AXES] if AXES[::-1] not in declared else declared)
    for a, b in wanted:
        if {a, b} <= here.keys() & there.keys():
            key = {**bases[OWN].keys, "basis": None, "method": f"{a} - {b}"}
            yield Question(
                key=key | {"a": OWN, "b": rotated, "declared": (a, b) in declared},
                curves=(here[a], here[b], there[a], there[b]),
                signs=(1, -1, -1, 1),
            )
