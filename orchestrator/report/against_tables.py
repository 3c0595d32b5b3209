"""Against, in tables: damage in both runs and its difference, contrasts, and what differs.

Every table is bounded, and says how many more rows lie in the Parquet file beside the page.
"""

from collections.abc import Callable

import polars as pl

from orchestrator.agreement import Agreement
from orchestrator.report.against_words import about, row_name
from orchestrator.report.html import Child, Element, columns, folded, row, table, tag
from orchestrator.report.settings import left_out
from orchestrator.report.words import (
    SCALE,
    change,
    count,
    decimals,
    interval,
    label_name,
    method_name,
    metric_said,
    number,
)

ROWS = 40
"""Rows of a table at most."""


def damage_table(differences: pl.DataFrame, metric: str) -> Element:
    """Return the change of a metric in both runs and the difference: areas, then fractions."""
    rows = differences.filter(pl.col("metric") == f"d_{metric}")
    told = about(rows)
    whole = rows.filter(pl.col("fraction").is_null())
    at = rows.filter(pl.col("fraction").is_not_null())
    body = [_numbers(r, metric, told) for r in pl.concat([whole, at]).head(ROWS).to_dicts()]
    caption = (
        f"Change of {metric_said(metric)} against the unablated model, in run A and in run B, and B"
        " − A with its 95 % interval, for one number each and not adjusted. Area: the mean change"
        f" over the held share. {left_out(rows.height - len(body), 'differences')}"
    )
    return _whole("method", metric, caption, body)


def _whole(first: str, metric: str, caption: str, body: list[Element]) -> Element:
    head = columns(first, "held", "A", "B", "B − A", "documents", "masks")
    made = table(caption.strip(), [head], [tag("tbody", *body)])
    return folded(made, f"{metric_said(metric)}: {count(len(body), 'row')}", rows=len(body))


def _numbers(
    r: dict[str, object], metric: str, told: Callable[[dict[str, object]], str]
) -> Element:
    said = [told(r), method_name(str(r["method"]), str(r["parameters"]))]
    where = "area" if r["fraction"] is None else f"f = {r['fraction']:g}"
    return row(" · ".join(x for x in said if x), where, *_values(r, metric))


def _values(r: dict[str, object], metric: str, *, level: bool = False) -> list[Child]:
    scale = SCALE[metric]
    names = ("value_a", "value_b", "estimate", "low", "high")
    a, b, middle, low, high = (None if r[x] is None else float(str(r[x])) * scale for x in names)
    places = 3 if low is None or high is None else decimals(low, high)
    said = number if level else change
    return [
        said(a, places),
        said(b, places),
        tag("span", change(middle, places), " ", tag("small", interval(low, high, places))),
        _two(r["documents_a"], r["documents_b"]),
        _two(r["masks_a"], r["masks_b"]),
    ]


def _two(a: object, b: object) -> str:
    return f"{a:,}" if a == b else f"{a:,} and {b:,}"


def contrasts_table(contrasts: pl.DataFrame, metric: str) -> Element:
    """Return the declared contrasts of both runs and how these differ."""
    rows = contrasts.filter(pl.col("metric") == metric)
    told = about(rows)
    whole = pl.col("fraction").is_null()
    chosen = pl.concat([rows.filter(whole), rows.filter(~whole)]).head(ROWS)
    body = []
    for r in chosen.to_dicts():
        pair = f"{label_name(r['a'])} − {label_name(r['b'])}"
        said = [told(r), r["method"] or "", pair]
        where = "area" if r["fraction"] is None else f"f = {r['fraction']:g}"
        body.append(row(" · ".join(x for x in said if x), where, *_values(r, metric)))
    caption = (
        f"Contrasts that both sweeps declare, {metric_said(metric)}: the contrast in run A, in run"
        " B, and B − A, the difference of differences, with its 95 % interval, not adjusted."
        f" {left_out(rows.height - len(body), 'contrasts')}"
    )
    return _whole("contrast", metric, caption, body)


def baselines_table(baselines: pl.DataFrame) -> Element:
    """Return the unablated models of both runs."""
    body = [
        row(
            f"{row_name(r)} · {metric_said(r['metric'])}",
            *_values(r, r["metric"], level=True)[:4],
        )
        for r in baselines.head(ROWS).to_dicts()
    ]
    head = columns("model and metric", "A", "B", "B − A", "documents")
    caption = (
        "The unablated models, over the documents that are compared, with the 95 % interval of the"
        f" difference. {left_out(baselines.height - len(body), 'baselines')}"
    )
    return table(caption.strip(), [head], [tag("tbody", *body)])


def facts_tables(facts: pl.DataFrame) -> list[Element]:
    """Return what differs between the runs, then what is the same, folded away."""
    parts: list[Element] = []
    differing = facts.filter(~pl.col("same"))
    if differing.is_empty():
        parts.append(tag("p", "Nothing that the runs recorded of themselves differs."))
    else:
        body = [
            row(f"{r['topic']} · {r['what']}", _short(r["a"]), _short(r["b"]))
            for r in differing.head(2 * ROWS).to_dicts()
        ]
        more = differing.height - len(body)
        caption = "What differs." + (f" {more:,} more facts differ." if more > 0 else "")
        head = columns("fact", "A", "B")
        parts.append(table(caption, [head], [tag("tbody", *body)], kind="text"))
    same = facts.filter("same")
    if same.height:
        body = [row(f"{r['topic']} · {r['what']}", _short(r["a"])) for r in same.to_dicts()]
        made = table(
            "What is the same.", [columns("fact", "both")], [tag("tbody", *body)], kind="text"
        )
        parts.append(tag("details", tag("summary", f"{count(same.height, 'fact')} the same"), made))
    return parts


def _short(value: str | None) -> str:
    text = "–" if value is None else value
    return text if len(text) <= 160 else f"{text[:150]}…"


def agreement_parts(found: Agreement) -> list[Element]:
    """Return whether cells of one name have one answer, and which do not."""
    differing = found.differing
    if not found.shared:
        said = "No cell has the same name in both runs: every answer has another recipe."
        return [tag("p", said)]
    share = (
        f"{count(found.shared, 'cell')} {'has' if found.shared == 1 else 'have'} the same name in"
        f" both runs, of {found.cells[0]:,} that A has answered and {found.cells[1]:,} that B has."
    )
    if differing.is_empty():
        return [tag("p", f"{share} Their answers agree to the bit.")]
    parts = [
        tag(
            "p",
            f"{share} Of these, {count(differing.height, 'cell')} differ, though a name stands for"
            " everything that is known to change an answer. On another kind of device last digits"
            " may; a count that differs, or a large loss, points to a library or to an error.",
            class_="banner",
        )
    ]
    worst = differing.sort("integers", "largest", descending=True, nulls_last=True).head(ROWS)
    body = [
        row(
            tag("code", r["cell"]),
            f"{r['sequences']:,}",
            "yes" if r["integers"] else "no",
            "–" if r["largest"] is None else f"{r['largest']:.2g}",
            ", ".join(r["columns"]),
        )
        for r in worst.to_dicts()
    ]
    caption = (
        "Cells of one name whose answers differ, those with counts first. Largest: the largest"
        " difference of a sequence’s loss, in nats."
        f" {left_out(differing.height - len(body), 'differing')}"
    )
    head = columns("cell", "sequences", "counts differ", "largest", "columns")
    return [*parts, table(caption.strip(), [head], [tag("tbody", *body)], kind="text")]
