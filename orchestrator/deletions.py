"""Deletions: how many neurons each layer loses, point by point.

A rule that ranks over all layers takes many units of one layer and few of another; whether
two rules differ by which units they take or only by which layers is asked of this table.
It says what the forward passes really held (`executions.held_by_layer`), not what was planned;
in neurons, also where whole heads are held. A cell that was answered in several parts, some
rounds of documents at a time, held the same in all of them, or its answers are not one cell's.

Weak where a cell was not executed yet: its points are absent.
"""

from collections.abc import Iterator

import polars as pl

from orchestrator.answers import nominal
from orchestrator.groups import GROUP

_KEYS = [*GROUP[:-1], "method", "parameters", "selection", "seed", "fraction"]
_COUNTS = pl.Schema({"at": pl.String, "layer": pl.Int64, "neurons_held": pl.Int64})


class LayersError(ValueError):
    """What a cell held can't be told apart by layers."""


def deletions(cells: pl.LazyFrame, executions: pl.LazyFrame) -> pl.DataFrame:
    """Return one row per nominal point, site and layer: the neurons of this layer that were held.

    `site` is the point's, as in `cells`, and `at` the one that the row is of: they differ where
    two sites are held together. A point that holds nothing has none. Raises LayersError.
    """
    points = nominal(cells).select(*_KEYS, "cell").unique(maintain_order=True)
    held = held_by_cell(executions)
    frames = [
        _site(part, number, sites)
        for sites, part in _by_sites(points.join(held, on="cell"))
        for number in range(len(sites))
    ]
    empty = (
        points.clear()
        .drop("cell")
        .with_columns(pl.lit(None, kind).alias(name) for name, kind in _COUNTS.items())
    )
    made = pl.concat([empty, *frames])
    return made.sort([*_KEYS, "at", "layer"], nulls_last=True)


def held_by_cell(executions: pl.LazyFrame) -> pl.DataFrame:
    """Return what each cell held in every layer, a row per cell, in order of the names.

    Raises LayersError where parts of a cell held different numbers.
    """
    parts = executions.select("cell", "held_by_layer").drop_nulls("held_by_layer").collect()
    held = parts.unique(maintain_order=True).sort("cell", maintain_order=True)
    again = held.filter(pl.col("cell").is_duplicated())
    if again.height:
        name = again["cell"][0]
        found = again.filter(pl.col("cell") == name)["held_by_layer"].to_list()
        raise LayersError(
            f"`executions` says that the parts of cell {name} held {found[0]} and {found[1]} of its"
            " layers, expected the same in all of them; delete the files that hold the cell and run"
            " the sweep again"
        )
    return held


def _by_sites(points: pl.DataFrame) -> Iterator[tuple[list[str], pl.DataFrame]]:
    # The baseline is one cell for all sites: its list fits whatever first asked for it.
    points = points.filter(pl.col("held_by_layer").list.sum() > 0)
    for part in points.partition_by("site", maintain_order=True):
        yield part["site"][0].split("+"), part


def _site(points: pl.DataFrame, number: int, sites: list[str]) -> pl.DataFrame:
    """Return the rows of one of the sites that some points hold together."""
    lengths = points["held_by_layer"].list.len()
    uneven = points.filter(lengths % len(sites) != 0)
    if uneven.height:
        name, found = uneven["cell"].to_list()[0], lengths.to_list()
        raise LayersError(
            f"`executions` says what {max(found)} layers of cell {name} held, expected as many of"
            f" each of its {len(sites)} sites ({', '.join(sites)}); delete the file that holds the"
            " cell and run the sweep again"
        )
    layers = pl.col("held_by_layer").list.len() // len(sites)
    rows = points.with_columns(
        at=pl.lit(sites[number]),
        neurons_held=pl.col("held_by_layer").list.slice(number * layers, layers),
        layer=pl.int_ranges(0, layers),
    )
    rows = rows.drop("held_by_layer", "cell").explode("layer", "neurons_held")
    return rows.select(*_KEYS, *(pl.col(name).cast(kind) for name, kind in _COUNTS.items()))
