"""Groups: which answer belongs to which point of which curve.

A *curve* is one method at growing shares of held units; a *group* holds the curves
that differ in nothing but the method. Many nominal points share one cell and are
computed once: a curve says which row of the answers each of its points has.

A point is a share, units held over all units, not a fraction: with `complement` the
share falls as the fraction grows, and fractions so close that they hold the same
units are one point, which goes by the smallest of them. The unablated model is the
same whatever would be held where, so a group's baseline is the point at fraction 0
of the same model, data, dtype and basis.

Shapes: M masks, P points of a curve, D draws of one mask (donor, noise and masking seeds).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from orchestrator.answers import Answers, Integers, label
from orchestrator.intervals import Floats

GROUP = ["model", "data", "dtype", "basis", "site", "unit", "layers", "complement", "selection"]
"""Columns of `cells` within which curves are drawn and methods are compared."""

DRAW = ["donor_seed", "noise_seed", "masking_seed"]
"""Columns of `cells` that tell one mask's draws apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One method of a group at growing shares."""

    method: str
    parameters: str
    """Canonical JSON."""
    seeds: Sequence[int | None]
    """M seeds of masks, ascending; None for the one mask of a rule that draws nothing."""
    point: Mapping[float, int]
    """Which of the P points each nominal fraction is."""
    held_P: Integers
    """Units held, ascending."""
    units: int
    """All units, held or not."""
    rows_MPD: Integers
    """Row of the answers; −1 where there is none, or none complete yet."""

    @property
    def label(self) -> str:
        """The method as a sweep file says it."""
        return label(self.method, self.parameters)

    @property
    def share_P(self) -> Floats:
        """Units held over all units, 0 to 1, ascending."""
        return self.held_P / self.units


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The methods of one group of curves."""

    keys: Mapping[str, str | bool]
    """Value of each `GROUP` column."""
    baseline: int
    """Row of the unablated model; −1 where it is not answered yet."""
    curves: Sequence[Curve]
    """In order of their methods and parameters."""

    @property
    def named(self) -> Mapping[str, Curve]:
        """The curves by their labels."""
        return {curve.label: curve for curve in self.curves}


def groups(cells: pl.DataFrame, found: Answers) -> Iterator[Group]:
    """Yield the groups of one (model, data), in order of their keys."""
    complete = [cell for cell, whole in zip(found.cells, found.complete_C, strict=True) if whole]
    rows = pl.DataFrame(
        {"cell": complete, "row": np.flatnonzero(found.complete_C)},
        schema={"cell": pl.String, "row": pl.Int64},
    )
    here = (
        cells.filter(pl.col("model") == found.model, pl.col("data") == found.data)
        .join(rows, on="cell", how="left", maintain_order="left")
        .with_columns(
            pl.col("row").fill_null(-1),
            pl.col("fraction").round(9),
            draw=pl.concat_str(pl.col(DRAW).cast(pl.String).fill_null("-"), separator=" "),
        )
    )
    bare = here.filter(pl.col("fraction") == 0).group_by("dtype", "basis").agg(pl.col("row").max())
    baselines = {(dtype, basis): row for dtype, basis, row in bare.iter_rows()}
    for block in here.sort(GROUP).partition_by(GROUP, maintain_order=True):
        methods = block.sort("method", "parameters", "fraction", "seed", "draw").partition_by(
            "method", "parameters", maintain_order=True
        )
        yield Group(
            keys={name: block[name][0] for name in GROUP},
            baseline=baselines.get((block["dtype"][0], block["basis"][0]), -1),
            curves=[_curve(points) for points in methods],
        )


def _curve(points: pl.DataFrame) -> Curve:
    """Return the curve of the nominal points of one method, in order of their fractions."""
    seeds = points["seed"].unique().sort().to_list()
    mask = {seed: i for i, seed in enumerate(seeds)}
    held_P, at = np.unique(points["units_held"].to_numpy().astype(np.int64), return_inverse=True)
    draw = points["draw"].rank("dense").cast(pl.Int64).to_numpy() - 1
    rows_MPD = np.full((len(seeds), len(held_P), draw.max() + 1), -1, dtype=np.int64)
    # Backwards, so that of equal shares the smallest fraction, which names the point, is kept.
    place = np.array([mask[seed] for seed in points["seed"]])[::-1], at[::-1], draw[::-1]
    rows_MPD[place] = points["row"].to_numpy()[::-1]
    return Curve(
        method=points["method"][0],
        parameters=points["parameters"][0],
        seeds=seeds,
        point=dict(zip(points["fraction"].to_list(), at.tolist(), strict=True)),
        held_P=held_P,
        units=points["units_total"][0],
        rows_MPD=rows_MPD,
    )
