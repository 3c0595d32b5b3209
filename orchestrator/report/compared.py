"""Compared: the tables of contrasts, first what was declared, then what was not.

Every table is bounded: a sweep of many settings has thousands of rows, and the page says how
many more `contrasts.parquet` has. Of what was not declared only the areas of CE are shown, by
panels in turn; none is chosen for its size, which would show chance.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from orchestrator.report.contrasts import (
    GAP,
    Question,
    about,
    difference,
    named,
    p_value,
    rows_of,
    spanned,
    told,
    with_kind,
)
from orchestrator.report.html import Child, Element, columns, folded, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import in_turn, left_out
from orchestrator.report.words import (
    METRIC_NAME,
    SCALE,
    change,
    decimals,
    interval,
    metric_said,
)


def contrast_table(run: Run, question: Question, fractions: Sequence[float]) -> Element:
    """Return a declared contrast at some fractions and as the area between the curves."""
    rows = rows_of(run, question)
    at = spanned(rows["fraction"].drop_nulls().unique().sort().to_list(), fractions)
    metrics = told(run)
    heads = [*(f"f = {f:g}" for f in at), "area"]
    spans = [tag("th", metric_said(m), scope="colgroup", colspan=str(len(heads))) for m in metrics]
    head = [
        tag("tr", tag("th", "setting", rowspan="2", scope="col"), *spans),
        tag("tr", *(tag("th", text, scope="col") for _ in metrics for text in heads)),
    ]
    by_model = [
        [block for _, block in own.group_by("panel", "method", maintain_order=True)]
        for own in rows.partition_by("model", maintain_order=True)
    ]
    blocks = in_turn(by_model)
    left = sum(map(len, by_model)) - len(blocks)
    body = [
        row(
            about(block.row(0, named=True)),
            *(_difference(block, metric, f) for metric in metrics for f in (*at, None)),
        )
        for block in blocks
    ]
    caption = (
        f"{_minus(question)}, with its 95 % interval over documents and masks, not adjusted, and"
        " the p that is adjusted (Holm) together with all declared areas of the sweep, or all its"
        " declared contrasts at single fractions. Area: the mean difference over the held share,"
        f" the default test. {left_out(left, 'contrasts')}"
    ).strip()
    made = table(caption, head, [tag("tbody", *body)], kind="stacked")
    return folded(made, f"{question.title}: {len(body)} settings", rows=len(body))


def _minus(question: Question) -> str:
    a, b = named(question.kind, question.a), named(question.kind, question.b)
    if question.kind == "axes":
        return f"Difference of differences: ({difference(question.method)}) in {a} − in {b}"
    return f"Difference: {a} − {b}"


def _difference(rows: pl.DataFrame, metric: str, fraction: float | None) -> Child:
    wanted = (
        pl.col("fraction").is_null()
        if fraction is None
        else (pl.col("fraction") - fraction).abs() < 1e-9
    )
    found = rows.filter(pl.col("metric") == metric).filter(wanted).to_dicts()
    return numbers(found[0]) if found else "–"


def numbers(found: Mapping[str, float | None], *, adjusted: bool = True) -> Child:
    """Return estimate, interval and adjusted p of a row of contrasts as the inside of a cell."""
    if found["reason"] is not None:
        return tag("small", f"not compared: {found['reason']}")
    scale = SCALE.get(str(found["metric"]), 1)
    estimate, low, high = found["estimate"], found["low"], found["high"]
    if estimate is None or low is None or high is None:
        return "–"
    places = decimals(low * scale, high * scale)
    inner = tag(
        "span",
        change(estimate * scale, places),
        " ",
        tag("small", interval(low * scale, high * scale, places)),
    )
    if adjusted and found["p_adjusted"] is not None:
        inner.append(tag("small", f" adjusted {p_value(found['p_adjusted'])}"))
    return inner


def exploratory(run: Run) -> list[Element]:
    """Return areas of what was not declared, bounded; nothing where there is nothing."""
    rest = with_kind(run.contrasts.filter(~pl.col("declared"), pl.col("metric") != GAP))
    areas = rest.filter(pl.col("fraction").is_null(), pl.col("metric") == "ce")
    if not areas.height:
        return []
    by_panel = areas.partition_by("panel", maintain_order=True)
    picked = in_turn([block.to_dicts() for block in by_panel])
    body = [
        row(
            about(found),
            _pair(found),
            numbers(found, adjusted=False),
        )
        for found in picked
    ]
    caption = (
        "Not declared, not adjusted: mean difference in CE (nats) over the held share, with its"
        f" 95 % interval over documents and masks. {left_out(rest.height - len(body), 'contrasts')}"
        " Among many such intervals some miss zero by chance."
    )
    head = columns("setting", "difference", METRIC_NAME["ce"] + ", nats")
    return [table(caption, [head], [tag("tbody", *body)], kind="pairs")]


def _pair(found: Mapping[str, str]) -> str:
    if found["kind"] == "axes":
        return f"{difference(found['method'])}: {named('bases', found['a'])} − {found['b']}"
    return f"{named(found['kind'], found['a'])} − {named(found['kind'], found['b'])}"
