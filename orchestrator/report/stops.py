"""Stops: how far documents were read for what `precision` asks, and how well it is known.

A row of the table `stops` is one comparison of two methods at one fraction and mask, with the
ends of its confidence sequence. The page says in words how many of them are known as well as
was asked and what that saved, and shows them by setting and fraction, masks together.

Masks that hold the same units (all of them, at f = 1) are one comparison, and counted once. A
comparison whose cells must be read further is not counted as known, nor as saved.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from orchestrator.report.html import Child, Element, bullets, columns, folded, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import MANY, PANEL, in_turn, left_out
from orchestrator.report.tables import heading
from orchestrator.report.words import (
    METRIC_NAME,
    NBSP,
    SCALE,
    UNIT,
    change,
    count,
    decimals,
    interval,
    label_name,
    listed,
    metric_said,
    number,
    percent,
)

_COMPANY = (*PANEL, "fraction", "seed", "masking_seed")
_HOW = {
    "ce": "an asymptotic confidence sequence, which says nothing from fewer than 30 documents and"
    " errs where a few documents differ far more than the others",
    "top1": "an empirical Bernstein confidence sequence, which assumes nothing of the documents and"
    " is wide for it",
}


def stops_section(run: Run) -> list[Element]:
    """Return how far documents were read; nothing where every cell reads all."""
    if not run.stops.height:
        return []
    rows = _distinct(run.stops)
    named = run.stops.select("model", "data").unique(maintain_order=True)
    several = named["model"].n_unique() < named.height
    said = []
    for model, data in named.rows():
        here = rows.filter(pl.col("model") == model, pl.col("data") == data)
        name = f"{model} on {data}" if several else str(model)
        said.append(f"{name}: {_told(here)}{_saved(run, model, data)}")
    return [
        tag("p", _asked(run.stops)),
        bullets(said),
        tag("p", _meaning(str(rows["metric"][0]))),
        _table(rows),
    ]


def _distinct(stops: pl.DataFrame) -> pl.DataFrame:
    """Return the comparisons, each once, with `done`: their cells need not be read further."""
    narrow = pl.col("reached").all().over(_COMPANY)
    rows = stops.with_columns(done=narrow | (pl.col("rounds") == pl.col("rounds_total")))
    same = [c for c in rows.columns if c != "seed"]
    return rows.unique(same, keep="first", maintain_order=True)


def _asked(stops: pl.DataFrame) -> str:
    metric, half = stops.row(0, named=True)["metric"], stops.row(0, named=True)["halfwidth"]
    pairs = [_minus(a, b) for a, b in stops.select("a", "b").unique(maintain_order=True).rows()]
    widest = "" if len(pairs) == 1 else " The one known worst decides."
    return (
        f"The sweep file asks to know {METRIC_NAME[metric]} of {listed(pairs)} to a half-width of"
        f" {_short(half * SCALE[metric])} {UNIT[metric]}, for each fraction and mask by itself, and"
        f" to read no more documents than that takes.{widest} Documents are visited in a random"
        " order, in rounds, and all methods of one fraction and mask stop together."
    )


def _told(rows: pl.DataFrame) -> str:
    """Return how many comparisons of a model are known as asked, after how many documents."""
    done = rows.filter("done")
    reached, total = int(done["reached"].sum()), rows.height
    every = int(rows["documents_total"].to_numpy().max())
    said = f"{_of(reached, total)} reached it"
    if done.height:
        least, most = map(int, _range(done["documents"]))
        middle = _middle(done["documents"])
        each = "each" if done.height > 1 else ""
        after = (
            f"{least:,} of {every:,} documents {each}".strip()
            if least == most
            else f"{middle} of {every:,} documents (median; {least:,} to {most:,})"
        )
        said += f"; what is done read {after}" if reached < total else f", after {after}"
    said += "."
    short = done.height - reached
    if short:
        said += f" {_known(short)} known less well than that from what there is."
    further = rows.height - done.height
    if further:
        said += f" {_known(further)} yet to be read further."
    return said


def _of(reached: int, total: int) -> str:
    if reached == total:
        return f"all {count(total, 'comparison')}" if total > 1 else "the comparison"
    return f"{reached:,} of {count(total, 'comparison')}"


def _known(rows: int) -> str:
    return "1 is" if rows == 1 else f"{rows:,} are"


def _saved(run: Run, model: str, data: str) -> str:
    """Return what share of a model's scored positions was not read, of the cells that are done."""
    here = run.summary.filter(pl.col("model") == model, pl.col("data") == data)
    cells = here.unique("cell").filter(~pl.col("cell").is_in(list(run.unread)))
    if not cells.height:
        return ""
    every = cells.height * int(here["tokens"].to_numpy().max())
    early = cells.filter(pl.col("tokens") < pl.col("tokens").max()).height
    if not early:
        return " No cell stopped early."
    share = 1 - int(cells["tokens"].sum()) / every
    return (
        f" That saved {percent(share)} of the scored positions: {early:,} of"
        f" {count(cells.height, 'cell')} stopped early."
    )


def _meaning(metric: str) -> str:
    return (
        "The ends below may be looked at after every round and stopped at: they hold at all rounds"
        f" at once, with a nominal 95 %. They are those of {_HOW[metric]}. Each is of one"
        " comparison by itself, and covers other documents, not other masks. All other intervals"
        " on this page are for a number of documents that is fixed beforehand; where cells stopped"
        " early they cover somewhat less than they say."
    )


def _table(rows: pl.DataFrame) -> Element:
    blocks = [
        own.partition_by("panel", "a", "b", maintain_order=True)
        for own in rows.partition_by("model", maintain_order=True)
    ]
    shown = in_turn(blocks, MANY)
    bodies, lines = [], 0
    for block in shown:
        pair = _minus(block["a"][0], block["b"][0])
        body = [row(f"f = {at['fraction'][0]:g}", *_cells(at)) for at in _fractions(block)]
        lines += len(body)
        bodies.append(tag("tbody", heading(block["panel"][0], pair, 5), *body))
    metric = str(rows["metric"][0])
    left = left_out(sum(map(len, blocks)) - len(shown), "stops")
    caption = (
        "Where reading stopped. Documents: the median over masks, and their range where they"
        f" differ. Difference: in {metric_said(metric)} with the 95 % ends of its confidence"
        " sequence; of several masks the range of their estimates. Widest half-width: the largest"
        f" of any mask. {left}"
    ).strip()
    heads = columns("held at", "documents read", "difference", "widest half-width", "reached it")
    made = table(caption, [heads], bodies)
    return folded(made, f"Where reading stopped: {count(lines, 'row')}", rows=lines)


def _fractions(block: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield from block.sort("fraction", maintain_order=True).partition_by(
        "fraction", maintain_order=True
    )


def _cells(at: pl.DataFrame) -> list[Child]:
    """Return the cells of a fraction's row."""
    scale = SCALE[at["metric"][0]]
    total = int(at["documents_total"].to_numpy().max())
    least, most = map(int, _range(at["documents"]))
    documents: Child = f"{least:,} of {total:,}"
    if least < most:
        apart = tag("small", f"({least:,} to {most:,})")
        documents = tag("span", f"{_middle(at['documents'])} of {total:,} ", apart)
    half = scale * float(((at["high"] - at["low"]) / 2).to_numpy().max())
    reached = f"{at['reached'].sum():,} of {at.height:,}"
    wide = number(half, decimals(-half, half)) if half < float("inf") else "unknown"
    return [documents, _difference(at, scale), wide, reached]


def _difference(at: pl.DataFrame, scale: float) -> Child:
    estimates = at["estimate"].drop_nulls()
    if not estimates.len():
        return "–"
    low, high = (scale * float(at[end][0]) for end in ("low", "high"))
    places = decimals(low, high)
    least, most = (change(scale * float(v), places) for v in _range(estimates))
    if at.height > 1:
        masks = tag("small", f" over {at.height:,}{NBSP}masks")
        return tag("span", least if least == most else f"{least} to {most}", masks)
    return tag("span", least, " ", tag("small", interval(low, high, places)))


def _range(values: pl.Series) -> tuple[float, float]:
    numbers = values.to_numpy()
    return float(numbers.min()), float(numbers.max())


def _middle(values: pl.Series) -> str:
    return number(float(np.median(values.to_numpy())), 0)


def _minus(a: str, b: str) -> str:
    return f"{label_name(a)} − {label_name(b)}"


def _short(value: float) -> str:
    return f"{round(value, 6):g}"
