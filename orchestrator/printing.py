"""Printing: a plan, a status, statistics and a sweep's summary as tables on a terminal.

Every interval is named for what it covers, and no number stands with a bare ±.
"""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.aggregate import method_label
from orchestrator.budget import Budget
from orchestrator.cells import data_of
from orchestrator.plan import Plan
from orchestrator.status import Status

SHARES = (0.1, 0.5, 0.9)
"""Held shares that the summary shows, where the sweep has them."""

OUTSIDE = 0.01
"""Share of a neuron's tokens outside its window from which on its statistics are told as poor."""


def plan_table(console: Console, made: Plan, needs: Budget) -> None:
    """Print what a plan holds and needs."""
    points = len(made.rows)
    console.print(
        f"[bold]{escape(made.spec.name)}[/]: {points:,} points are {len(made.cells):,} distinct"
        f" cells, and {len(made.tasks):,} tasks come before them"
    )
    table = Table(box=None, pad_edge=False)
    for column in (
        "model",
        "data",
        "layers x neurons",
        "cells",
        "replica",
        "on disk",
        "rough time",
    ):
        right = column in ("cells", "replica", "on disk", "rough time")
        table.add_column(column, justify="right" if right else "left")
    for need, (name, ref) in zip(needs.needs, made.models.items(), strict=True):
        table.add_row(
            name,
            data_of(made.spec, name),
            f"{ref.facts.layers} x {ref.facts.neurons:,}",
            f"{need.cells:,}",
            size(need.replica_bytes),
            size(need.disk_bytes),
            duration(need.seconds),
        )
    console.print(table)
    console.print(
        f"rough time is that of one replica ({next(iter(made.models.values())).device});"
        f" {duration(needs.seconds)} in all"
    )


def _number(value: float | None, form: str, none: str = "unknown") -> str:
    return none if value is None else form.format(value)


def counted(count: int, what: str) -> str:
    """Return `1 mask`, `2 masks`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def fetched(files: int) -> str:
    """Return a sentence on what was found in the shared store; empty if nothing was."""
    return f" {counted(files, 'file')} found in the shared store." if files else ""


def size(count: int) -> str:
    """Return bytes as people read them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_table(found: Status) -> Table:
    """Return a status as a table."""
    title = f"{found.run}: " + (
        "finished"
        if found.finished
        else f"running (process {found.driver})"
        if found.driver is not None
        else "not running here; `peaksweep run` with the same sweep and folder goes on"
    )
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    for column in ("done", "running", "missing", "failed"):
        table.add_column(column, justify="right")
    for stage in found.stages:
        counts = (stage.done, stage.running, stage.missing, stage.failed)
        table.add_row(stage.stage, *(f"{n:,}" for n in counts))
    return table


def statistics_tables(statistics: pl.LazyFrame) -> Iterator[Table]:
    """Yield per model what its statistics say in short; of the whole, strata only by number.

    Shares are of neurons. What is null for all of them, as intervals that were not asked for, is
    a dash.
    """
    distance = (pl.col("peak") - pl.col("mean")).abs() / pl.col("std")
    apart = (pl.col("mean") < pl.col("peak_low")) | (pl.col("mean") > pl.col("peak_high"))
    whole = statistics.filter((pl.col("stratum") == "all") & pl.col("cell").is_null())
    others = statistics.filter(pl.col("stratum") != "all")
    of = ("model", "data", "dtype")
    strata = others.group_by(of).agg(pl.struct("stratum").n_unique().alias("strata"))
    found = whole.group_by(of).agg(
        pl.len().alias("neurons"),
        pl.col("count").max().alias("tokens"),
        ((pl.col("below") + pl.col("above")) > OUTSIDE * pl.col("count")).mean().alias("outside"),
        pl.col("peak_stable").mean().alias("stable"),
        distance.filter(distance.is_finite()).median().alias("distance"),
        apart.filter(pl.col("peak_low").is_not_nan()).sum().alias("apart"),
        pl.col("peak_low").is_not_nan().sum().alias("known"),
    )
    told = found.join(strata, on=of, how="left").sort(of).collect()
    for row in told.iter_rows(named=True):
        title = f"{row['model']} on {row['data']}, {row['dtype']}"
        table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
        table.add_column("statistics")
        table.add_column("", justify="right")
        table.add_row("neurons", f"{row['neurons']:,}")
        table.add_row("tokens counted, at most", f"{row['tokens']:,}")
        if row["strata"]:
            table.add_row("strata beside the whole", f"{row['strata']:,}")
        table.add_row(f"more than {OUTSIDE:.0%} outside the window", _share(row["outside"]))
        table.add_row("peak stable over bandwidths", _share(row["stable"]))
        table.add_row("median |peak - mean| / std", _number(row["distance"], "{:.3f}", "–"))
        apart_of = f"{row['apart']:,} of {row['known']:,}" if row["known"] else "–"
        table.add_row("peak's interval excludes the mean", apart_of)
        yield table


def _share(value: float | None) -> str:
    return _number(value, "{:.1%}", "–")


def summary_tables(
    cells: pl.DataFrame, summary: pl.DataFrame, curves: pl.DataFrame
) -> Iterator[Table | str]:
    """Yield per model the baseline, then Top-1 and CE per method at some held shares.

    Models and methods come in the order of the sweep file; each table fits 80 columns.
    """
    kinds = cells.select("method", "parameters").unique(maintain_order=True)
    labels = method_label(kinds)["label"].to_list()
    models = cells["model"].unique(maintain_order=True)
    for model in models:
        rows = summary.filter((pl.col("model") == model) & (pl.col("units_held") == 0))
        if rows.is_empty():
            yield f"\n[bold]{escape(model)}[/]: its baseline is not answered"
            continue
        base = rows.row(0, named=True)
        top1, top1_se = (_number(base[c], "{:.1%}") for c in ("top1", "top1_se"))
        ce, ce_se = (_number(base[c], "{:.3f}") for c in ("ce", "ce_se"))
        yield (
            f"\n[bold]{escape(model)}[/] on {escape(base['data'])}, unablated: Top-1 {top1}"
            f" (s.e. {top1_se}), CE {ce} nats (s.e. {ce_se}), standard errors over"
            f" {counted(base['documents'], 'document')}"
        )
        here = method_label(curves.filter(pl.col("model") == model))
        for metric, title, form in (("top1", "Top-1", "{:.1%}"), ("ce", "CE, nats", "{:.3f}")):
            yield _levels(here.filter(pl.col("metric") == metric), labels, title, form)


def _levels(rows: pl.DataFrame, labels: Sequence[str], title: str, form: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    shares = [s for s in rows["held_share"].unique().sort() if _shown(s)]
    for share in shares:
        table.add_column(f"{share:.0%} held", justify="right", no_wrap=True)
    for label in labels:
        found = {r["held_share"]: r for r in rows.iter_rows(named=True) if r["label"] == label}
        table.add_row(label, *(_level(found.get(share), form) for share in shares))
    return table


def _level(row: Mapping[str, float | None] | None, form: str) -> str:
    if row is None or row["mean"] is None:
        return "not yet"
    if row["low"] is None:
        return form.format(row["mean"])
    return f"{form.format(row['mean'])} [{form.format(row['low'])}, {form.format(row['high'])}]"


def _shown(share: float) -> bool:
    return any(abs(share - s) < 0.01 for s in SHARES)


def contrast_lines(contrasts: pl.DataFrame) -> Iterator[str]:
    """Yield one line per declared contrast over the whole range of fractions, and at a half."""
    shown = contrasts.filter(
        (pl.col("metric") == "ce")
        & (pl.col("fraction").is_null() | ((pl.col("fraction") - 0.5).abs() < 1e-9))
    )
    for row in shown.sort("model", "a", "b", "fraction", nulls_last=True).iter_rows(named=True):
        where = "area over fractions" if row["fraction"] is None else f"at {row['fraction']:.0%}"
        yield (
            f"{row['model']}: CE of {row['a']} minus {row['b']}, {where}:"
            f" {_number(row['estimate'], '{:+.4f}')} [{_number(row['low'], '{:+.4f}')},"
            f" {_number(row['high'], '{:+.4f}')}] over {counted(row['documents'], 'document')} and"
            f" {counted(row['masks'], 'mask')}"
        )
