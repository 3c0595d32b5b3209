"""Optimal: how much of the gap to the learned constants each method closes.

With the cross-entropy of a reference (zero, mean), of a method and of `optimal`, the constants
learned for that very set of held units, the share is (reference − method) / (reference −
optimal): 0 where the method is as bad as the reference, 1 where it is as good as the optimum.
The optimum is an approximate floor: fitted on other documents, by finitely many steps. Where
the gap itself is within noise there is no share.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from orchestrator.report.contrasts import GAP
from orchestrator.report.html import Child, Element, columns, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import MANY, left_out
from orchestrator.report.tables import heading
from orchestrator.report.words import NBSP, decimals, interval, label_name, number

FRACTIONS = 4
"""Fractions that have a column; the area has one too."""


def gap_section(run: Run) -> list[Element]:
    """Return the shares of the gap that the methods close; nothing where there is no optimum."""
    rows = run.contrasts.filter(pl.col("metric") == GAP)
    if not rows.height:
        return []
    fractions = rows["fraction"].drop_nulls().unique().sort().to_list()
    at = _spread(fractions)
    blocks = rows.partition_by("panel", "b", maintain_order=True)
    bodies = []
    for block in blocks[: MANY // 2]:
        first = block.row(0, named=True)
        said = f"gap from {label_name(first['b'])}"
        lines = [heading(first["panel"], said, 2 + len(at))]
        for method in block["a"].unique(maintain_order=True):
            own = block.filter(pl.col("a") == method)
            cells = [_share(own, fraction) for fraction in (*at, None)]
            lines.append(row(label_name(method), *cells))
        bodies.append(tag("tbody", *lines))
    left = len(blocks) - len(bodies)
    caption = (
        "Share of the gap to optimal that a method closes, with its 95 % interval over documents"
        " and masks: 0 is as bad as the method that the gap is measured from, 1 as good as optimal."
        " Within noise: the gap’s own interval includes zero, so there is no share. Not adjusted."
        f" {left_out(left, 'contrasts').replace('more are', 'more settings are')}"
    ).strip()
    return [
        tag("h3", "How far from optimal", id="optimal"),
        tag(
            "p",
            "Optimal holds at constants learned for each set of held units. It is an approximate"
            " floor, not a bound: it was fitted on other documents and by finitely many steps, so a"
            " share can exceed 1.",
        ),
        table(
            caption,
            [columns("held at", *(f"f = {f:g}" for f in at), "area")],
            bodies,
            kind="stacked",
        ),
    ]


def _spread(fractions: list[float]) -> list[float]:
    """Return some fractions, evenly taken, the last among them."""
    if len(fractions) <= FRACTIONS:
        return fractions
    last = len(fractions) - 1
    return [fractions[round(i * last / (FRACTIONS - 1))] for i in range(FRACTIONS)]


def _share(rows: pl.DataFrame, fraction: float | None) -> Child:
    here = pl.col("fraction").is_null() if fraction is None else pl.col("fraction") == fraction
    found: Sequence[Mapping[str, object]] = rows.filter(here).to_dicts()
    if not found:
        return "–"
    estimate, low, high = (found[0][key] for key in ("estimate", "low", "high"))
    if not (isinstance(estimate, float) and isinstance(low, float) and isinstance(high, float)):
        return tag("small", _why(found[0]["reason"]))
    places = max(decimals(low, high), 2)
    said = number(estimate, places)
    return tag("span", said, " ", tag("small", interval(low, high, places)))


def _why(reason: object) -> str:
    text = str(reason or "")
    if "noise" in text or not text:
        return f"within{NBSP}noise"
    return "no gap" if "no less" in text else "no interval"
