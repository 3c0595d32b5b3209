"""Printing: a plan, statistics and a sweep's summary as tables on a terminal.

What a terminal shows is short: of many groups of curves the first, of many contrasts the
declared areas. The tables in the run folder have the rest, and it is said which. Every
interval is named for what it covers, and no number stands with a bare ±.
"""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator import batching
from orchestrator.aggregate import method_label
from orchestrator.amounts import counted, duration, size
from orchestrator.budget import Budget
from orchestrator.calls import rounds_of
from orchestrator.cells import data_of
from orchestrator.groups import GROUP
from orchestrator.plan import Plan
from orchestrator.remarks import remarks
from workers.messages import ModelFacts

SHARES = (0.1, 0.5, 0.9)
"""Held shares that the summary shows, where the sweep has them."""

LINES = 12
"""Contrasts that are told at most; with more areas, those at a half are left out."""

_TOLD = (
    ("top1", "Top-1", "{:.1%}"),
    ("ce", "CE, nats", "{:.3f}"),
    ("logit_diff", "logit difference, nats", "{:.3f}"),
    ("choice", "choice", "{:.1%}"),
)
"""Metrics of the summary; the last two are of paired prompts, where asked for."""

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
    for column in ("model", "data", "layers x neurons"):
        table.add_column(column)
    rounds = made.spec.precision is not None
    for column in (
        *("batch", "cells", *(["rounds"] if rounds else [])),
        *("replica", "on disk", "rough time"),
    ):
        table.add_column(column, justify="right")
    for need, (name, ref) in zip(needs.needs, made.models.items(), strict=True):
        table.add_row(
            name,
            data_of(made.spec, name),
            _hookpoints(made, ref.facts),
            f"{batching.tokens(made.spec, ref):,}",
            f"{need.cells:,}",
            *([f"{rounds_of(made, ref)}"] if rounds else []),
            size(need.replica_bytes),
            size(need.disk_bytes),
            duration(need.seconds),
        )
    console.print(table)
    console.print(
        "a batch is of so many positions at most, padding included; rough time is that of one"
        f" replica ({next(iter(made.models.values())).device}); {duration(needs.seconds)} in all",
        soft_wrap=True,
    )
    for line in remarks(made):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _hookpoints(made: Plan, facts: ModelFacts) -> str:
    """Return layers and neurons of every site of the sweep: `4 x 128, mlp 4 x 512`."""
    sites = dict.fromkeys(site for group in made.spec.sites for site in group)
    return ", ".join(
        f"{'mlp ' if site == 'mlp_mid' else ''}{facts.layers} x {facts.neurons_at(site):,}"
        for site in sites
    )


def _number(value: float | None, form: str, none: str = "unknown") -> str:
    return none if value is None else form.format(value)


def fetched(files: int) -> str:
    """Return a sentence on what was found in the shared store; empty if nothing was."""
    return f" {counted(files, 'file')} found in the shared store." if files else ""


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
    """Yield per model the baseline, then the metrics of `_TOLD` per method at some held shares.

    Models and methods come in the order of the sweep file; each table fits 80 columns. A model
    with several groups of curves shows the first, and says how many more there are.
    """
    curves = curves.filter(pl.col("band") == "pointwise")
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
            f" (s.e. {top1_se}), CE {ce} nats (s.e. {ce_se}){_paired(base)}, standard errors over"
            f" {counted(base['documents'], 'document')}"
        )
        groups = cells.filter(pl.col("model") == model).select(GROUP).unique(maintain_order=True)
        first = method_label(curves.join(groups.head(1), on=GROUP))
        if groups.height > 1:
            yield escape(", ".join(f"{c} {groups[c][0]}" for c in _varying(groups)) + ":")
        for metric, title, form in _TOLD:
            rows = first.filter(pl.col("metric") == metric)
            if rows.height:
                yield _levels(rows, labels, title, form)
        if groups.height > 1:
            yield (
                f"{counted(groups.height - 1, 'more group')} of curves of this model in"
                f" curves.parquet, told apart by {', '.join(_varying(groups))}"
            )


def _paired(base: Mapping[str, float | None]) -> str:
    """Return what the unablated model makes of paired prompts; nothing of other data."""
    if base.get("logit_diff") is None:
        return ""
    return f", logit difference {base['logit_diff']:.3f} nats, choice {base['choice']:.1%}"


def _varying(groups: pl.DataFrame) -> list[str]:
    """Return the columns that tell groups apart."""
    return [column for column in groups.columns if groups[column].n_unique() > 1]


def _levels(rows: pl.DataFrame, labels: Sequence[str], title: str, form: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    there = rows.filter(pl.col("held_share") > 0)["held_share"].unique().sort().to_list()
    shares = [s for s in there if _shown(s)] or there[-len(SHARES) :]
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
    """Yield a line per declared area of CE, some points where they are few, and what is left."""
    declared = contrasts.filter("declared")
    ce = declared.filter(pl.col("metric") == "ce")
    area = pl.col("fraction").is_null()
    half = (pl.col("fraction") - 0.5).abs() < 1e-9
    few = ce.filter(area).height <= LINES
    lost = (area & pl.col("reason").is_not_null()).any().over(*GROUP, "a", "b", "method")
    alone = lost & pl.col("reason").is_null()  # points that are compared where the area is not
    shown = ce.filter(area | half | alone if few else area)
    order = ["model", "a", "b", "method", "fraction"]
    shown = shown.sort(order, nulls_last=True, maintain_order=True)
    # The first of every pair, then the second of each: one pair does not crowd out another.
    turn = pl.int_range(pl.len()).over("model", "a", "b", pl.col("fraction").is_null())
    told = shown.sort(turn, maintain_order=True).head(2 * LINES if few else LINES)
    told = told.sort(order, nulls_last=True, maintain_order=True)
    varying = {
        model: [c for c in (*GROUP[1:], "method") if rows[c].drop_nulls().n_unique() > 1]
        for (model,), rows in ce.group_by("model")
    }
    for row in told.iter_rows(named=True):
        where = "area over fractions" if row["fraction"] is None else f"at {row['fraction']:.0%}"
        of = "".join(f", {c} {row[c]}" for c in varying[row["model"]] if row[c] is not None)
        p = row["p_adjusted"]
        adjusted = "" if p is None else f", adjusted p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}"
        value, low, high = (_number(row[c], "{:+.4f}") for c in ("estimate", "low", "high"))
        over = f"{counted(row['documents'], 'document')} and {counted(row['masks'], 'mask')}"
        found = f"{value} [{low}, {high}]{adjusted}, over {over}"
        found = found if row["reason"] is None else f"not compared: {row['reason']}"
        yield f"{row['model']}{of}: CE of {row['a']} minus {row['b']}, {where}: {found}"
    rest = declared.height - told.height
    exploratory = contrasts.height - declared.height
    if rest or exploratory:
        yield (
            f"contrasts.parquet has {rest:,} more declared rows (other metrics and fractions) and"
            f" {exploratory:,} exploratory ones, which are not adjusted"
        )
