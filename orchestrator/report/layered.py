"""Layered: the cells of a sweep that holds one layer at a time, for its heat maps.

A cell is a method, or a declared difference of two, at one layer and one fraction. Curves know
the share of the whole model that was held; a reader asks for the fraction of the layer, which
the planned points know. So cells start from the plan, and what was planned and is not there
yet, or could not be compared, is a cell without a value and not a gap that nobody sees.
"""

from collections.abc import Sequence

import polars as pl

from orchestrator.report.contrasts import with_kind
from orchestrator.report.curves import metrics
from orchestrator.report.layers import single_layers
from orchestrator.report.read import Run
from orchestrator.report.words import SCALE, label_name, method_name

KEYS = ("family", "kind", "metric", "name", "layer", "fraction")
"""Columns that name a cell: the setting without its layer, damage or difference, …"""
DAMAGE, DIFFERENCE = "damage", "declared differences"


def layered_cells(run: Run) -> pl.DataFrame | None:
    """Return every planned cell of single layers but those that hold nothing; None for none.

    A row per `KEYS`, in printed units: value, low, high (null where there is none) and clear: yes,
    no (its interval includes zero), no interval, or not there.
    """
    layers = single_layers(run).select("panel", "family", "layer")
    drawn = sorted((m for m in metrics(run) if m != "kl"), key=lambda m: m != "ce")
    if not layers.height or not drawn:
        return None
    own = pl.col("panel").is_in(layers["panel"].implode())
    found = pl.concat([_damage(run, own, drawn), _differences(run, own, drawn)])
    found = found.join(layers, on="panel", maintain_order="left")
    if found["value"].is_null().all():
        return None
    scale = pl.col("metric").replace_strict(SCALE, return_dtype=pl.Float64)
    zero = pl.col("low").le(0) & pl.col("high").ge(0)
    return (
        found.with_columns(pl.col("value", "low", "high") * scale)
        .with_columns(
            clear=pl.when(pl.col("value").is_null())
            .then(pl.lit("not there"))
            .when(zero)
            .then(pl.lit("no"))
            .when(zero.is_null())
            .then(pl.lit("no interval"))
            .otherwise(pl.lit("yes"))
        )
        .select(*KEYS, "value", "low", "high", "clear")
    )


def _damage(run: Run, own: pl.Expr, drawn: Sequence[str]) -> pl.DataFrame:
    """Return the changes of every method, at every fraction that is planned."""
    point = ["panel", "method", "parameters"]
    share = pl.col("units_held") / pl.col("units_total")
    planned = run.cells.filter(own, pl.col("fraction") > 0).select(
        *point, "fraction", _share=share.round(9)
    )
    planned = planned.unique([*point, "fraction"], maintain_order=True)
    changes = run.curves.filter(own, pl.col("metric").is_in([f"d_{m}" for m in drawn]))
    there = [m for m in drawn if f"d_{m}" in changes["metric"]]
    changes = changes.select(
        *point,
        pl.col("metric").str.strip_prefix("d_"),
        pl.col("mean").alias("value"),
        "low",
        "high",
        _share=pl.col("held_share").round(9),
    )
    asked = planned.join(pl.DataFrame({"metric": there}, schema={"metric": pl.String}), how="cross")
    found = asked.join(changes, on=[*point, "metric", "_share"], how="left", maintain_order="left")
    names = found.select("method", "parameters").unique(maintain_order=True)
    said = [method_name(m, p) for m, p in names.rows()]
    names = names.with_columns(name=pl.Series(said, dtype=pl.String))
    found = found.join(names, on=["method", "parameters"], maintain_order="left")
    return found.select("panel", "name", "metric", "fraction", "value", "low", "high").with_columns(
        kind=pl.lit(DAMAGE)
    )


def _differences(run: Run, own: pl.Expr, drawn: Sequence[str]) -> pl.DataFrame:
    """Return the declared differences of two methods at every fraction."""
    rows = with_kind(run.contrasts.filter(own, "declared", pl.col("fraction") > 0)).filter(
        pl.col("kind") == "methods", pl.col("metric").is_in(drawn)
    )
    pairs = rows.select("a", "b").unique(maintain_order=True)
    said = [f"{label_name(a)} − {label_name(b)}" for a, b in pairs.rows()]
    pairs = pairs.with_columns(name=pl.Series(said, dtype=pl.String))
    rows = rows.join(pairs, on=["a", "b"], maintain_order="left")
    return rows.select(
        "panel", "name", "metric", "fraction", pl.col("estimate").alias("value"), "low", "high"
    ).with_columns(kind=pl.lit(DIFFERENCE))
