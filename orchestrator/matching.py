"""Matching: which point of one run stands beside which point of another.

A *subject* is a model on its data in its dtype. Subjects belong together where all three are
called alike; of the others, where model and data are; where the model is. Of what is left, one
run's only subject of a modality is set beside every one that the other run has: two models, or
two versions of one under different names. If both have several left, nobody can say which belong
together, and they are named and left alone.

Within two subjects a point is matched by everything else that names it: basis, site, unit,
layers, complement, selection, method, parameters and fraction. Layer 3 is layer 3, and `all` is
all, in a model of any depth; so is a fraction, which holds the nearest whole number of units in
either. Areas are taken over the fractions that both runs have.

Masks that are paired are those whose seeds both runs have; a mask that one of them has not
answered at a point is left out of both there.

Shapes: M masks, P points of a curve.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orchestrator.groups import GROUP, Curve, Group

SUBJECT = ("model", "data", "dtype")
ELSE = tuple(column for column in GROUP if column not in SUBJECT)
"""Columns of a group that are the same in both runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model on its data, in its dtype."""

    model: str
    data: str
    dtype: str
    modality: str

    def __str__(self) -> str:
        """Return it in words: `zoo:opt on stdlib in float32`."""
        return f"{self.model} on {self.data} in {self.dtype}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """The subjects of two runs."""

    pairs: Sequence[tuple[Subject, Subject]]
    left: tuple[Sequence[Subject], Sequence[Subject]]
    """Those of either run that stand beside nothing."""


def subjects(a: pl.DataFrame, b: pl.DataFrame) -> Matched:
    """Return which subjects of two runs' points belong together, in order of their names."""
    left, right = _subjects(a), _subjects(b)
    pairs: list[tuple[Subject, Subject]] = []
    for columns in (SUBJECT, SUBJECT[:2], SUBJECT[:1]):
        for one in list(left):
            same = [x for x in right if all(_same(one, x, c) for c in (*columns, "modality"))]
            twins = [x for x in left if all(_same(one, x, c) for c in (*columns, "modality"))]
            if len(same) == len(twins) == 1:
                pairs.append((one, same[0]))
                left.remove(one)
                right.remove(same[0])
    for modality in dict.fromkeys(x.modality for x in list(left)):
        ours = [x for x in left if x.modality == modality]
        theirs = [x for x in right if x.modality == modality]
        if theirs and 1 in (len(ours), len(theirs)):
            pairs += [(x, y) for x in ours for y in theirs]
            left = [x for x in left if x not in ours]
            right = [x for x in right if x not in theirs]
    pairs.sort(key=lambda pair: (str(pair[0]), str(pair[1])))
    return Matched(pairs=pairs, left=(left, right))


def _subjects(points: pl.DataFrame) -> list[Subject]:
    rows = points.select(*SUBJECT, "modality").unique().sort(SUBJECT)
    return [Subject(**row) for row in rows.to_dicts()]


def _same(one: Subject, other: Subject, column: str) -> bool:
    return bool(getattr(one, column) == getattr(other, column))


def planned(a: pl.DataFrame, b: pl.DataFrame, pair: tuple[Subject, Subject]) -> int:
    """Return how many points beside the unablated model two subjects have in common, once each."""
    columns = (*ELSE, "method", "parameters", "fraction")
    own = [
        points.filter(*(pl.col(c) == getattr(subject, c) for c in SUBJECT), pl.col("fraction") > 0)
        .select(columns)
        .with_columns(pl.col("fraction").round(9))
        .unique()
        for points, subject in zip((a, b), pair, strict=True)
    ]
    return own[0].join(own[1], on=columns).height


def apart(a: pl.DataFrame, b: pl.DataFrame) -> list[tuple[str, list[str], list[str]]]:
    """Return the columns of which two runs' points have no value in common, with these values."""
    found = []
    for column in ("modality", *ELSE, "method", "parameters", "fraction"):
        sets = [
            points.filter(pl.col("fraction") > 0)[column].cast(pl.String).unique().sort().to_list()
            for points in (a, b)
        ]
        if not set(sets[0]) & set(sets[1]):
            found.append((column, sets[0], sets[1]))
    return found


def together(
    a: Sequence[Group], b: Sequence[Group], dtypes: tuple[str, str]
) -> Iterator[tuple[Group, Group]]:
    """Yield the groups of two subjects that differ in nothing but the run."""
    theirs = {_key(group): group for group in b if group.keys["dtype"] == dtypes[1]}
    for group in a:
        if group.keys["dtype"] == dtypes[0] and _key(group) in theirs:
            yield group, theirs[_key(group)]


def _key(group: Group) -> tuple[str | bool, ...]:
    return tuple(group.keys[column] for column in ELSE)


def fractions(*curves: Curve) -> list[float]:
    """Return the fractions that all curves have, ascending."""
    first, *others = curves
    return sorted(set(first.point).intersection(*(set(c.point) for c in others)))


def cut(
    a: Sequence[Curve], b: Sequence[Curve], *, masks_paired: bool
) -> tuple[list[Curve], list[Curve]]:
    """Return the curves of either run at the fractions that all of them have.

    With `masks_paired` also at the masks that all have, each missing where any is missing.
    """
    every = [*a, *b]
    shared = fractions(*every)
    cut_C = [_at(curve, shared) for curve in every]
    if masks_paired and shared:
        seeds = [s for s in every[0].seeds if all(s in c.seeds for c in every)]
        cut_C = [_of(curve, seeds) for curve in cut_C]
        there_MF = np.ones((len(seeds), len(shared)), dtype=np.bool_)
        for curve in cut_C:
            at_F = [curve.point[f] for f in shared]
            there_MF &= (curve.rows_MPD[:, at_F] >= 0).all(axis=2)
        cut_C = [_without(curve, shared, there_MF) for curve in cut_C]
    return cut_C[: len(a)], cut_C[len(a) :]


def _at(curve: Curve, shared: Sequence[float]) -> Curve:
    """Return a curve at some of its fractions."""
    kept_P = sorted({curve.point[f] for f in shared})
    place = {p: i for i, p in enumerate(kept_P)}
    return replace(
        curve,
        point={f: place[curve.point[f]] for f in shared},
        held_P=curve.held_P[kept_P],
        rows_MPD=curve.rows_MPD[:, kept_P],
    )


def _of(curve: Curve, seeds: Sequence[int | None]) -> Curve:
    """Return a curve at some of its masks."""
    place: Mapping[int | None, int] = {seed: i for i, seed in enumerate(curve.seeds)}
    at_M = [place[seed] for seed in seeds]
    return replace(curve, seeds=list(seeds), rows_MPD=curve.rows_MPD[at_M])


def _without(curve: Curve, shared: Sequence[float], there_MF: NDArray[np.bool_]) -> Curve:
    """Return a curve whose masks are missing where they are not there in all."""
    rows_MPD = curve.rows_MPD.copy()
    for i, fraction in enumerate(shared):
        rows_MPD[~there_MF[:, i], curve.point[fraction]] = -1
    return replace(curve, rows_MPD=rows_MPD)
