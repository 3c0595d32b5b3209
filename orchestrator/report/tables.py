"""Tables: the numbers behind the figures, as a reader would copy them.

Every spread is named: an interval in brackets with what it covers in the
caption, or a standard deviation over masks in a column that says so.
"""

from collections.abc import Sequence

import polars as pl

from orchestrator.report.html import Child, Element, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.words import (
    METRIC_NAME,
    SCALE,
    UNIT,
    Contrast,
    Metric,
    change,
    contrast_sentence,
    decimals,
    interval,
    label_name,
    method_name,
    number,
    percent,
)

HEADLINE = 0.5
"""The fraction that sentences are about; the nearest one where it was not swept."""

_METRICS: tuple[Metric, ...] = ("ce", "top1")


def declared(run: Run) -> pl.DataFrame:
    """Return the declared contrasts, metrics as `ce` and `top1`."""
    return run.contrasts.filter(pl.col("declared")).with_columns(
        metric=pl.col("metric").str.strip_prefix("d_")
    )


def pairs(run: Run) -> list[tuple[str, str]]:
    """Return the declared pairs, in the order of the sweep file where it says one."""
    rows = declared(run).select("a", "b").unique(maintain_order=True).rows()
    found = [(str(a), str(b)) for a, b in rows]
    asked = run.spec.get("contrasts")
    order = [tuple(pair) for pair in asked] if isinstance(asked, list) else []
    return sorted(found, key=lambda pair: order.index(pair) if pair in order else len(order))


def sentences(run: Run, a: str, b: str) -> list[str]:
    """Return one sentence per panel on the contrast of `a` with `b`."""
    said = []
    for panel in run.panels:
        rows = declared(run).filter(
            pl.col("panel") == panel, pl.col("fraction") > 0, pl.col("a") == a, pl.col("b") == b
        )
        if not rows.height:
            continue
        nearest = min(rows["fraction"].unique().sort(), key=lambda f: abs(f - HEADLINE))
        at = {
            row["metric"]: Contrast(**{field: row[field] for field in Contrast.__slots__})
            for row in rows.filter(pl.col("fraction") == nearest).to_dicts()
        }
        if "ce" in at:
            said.append(contrast_sentence(panel, at["ce"], at.get("top1")))
    return said


def contrast_table(run: Run, a: str, b: str, fractions: Sequence[float]) -> Element:
    """Return the contrast of `a` with `b` at some fractions and as the area between the curves."""
    rows = declared(run).filter(a=a, b=b)
    heads = [*(f"f = {f:g}" for f in fractions), "area"]
    spans = [
        tag("th", f"{METRIC_NAME[m]} ({UNIT[m]})", scope="colgroup", colspan=str(len(heads)))
        for m in _METRICS
    ]
    head = [
        tag("tr", tag("th", "", rowspan="2", scope="col", **{"aria-label": "model"}), *spans),
        tag("tr", *(tag("th", text, scope="col") for _ in _METRICS for text in heads)),
    ]
    body = []
    for panel in run.panels:
        own = rows.filter(pl.col("panel") == panel)
        if own.height:
            cells = [
                _difference(own, metric, fraction)
                for metric in _METRICS
                for fraction in (*fractions, None)
            ]
            body.append(row(panel, *cells))
    caption = (
        f"Difference {label_name(a)} − {label_name(b)}, with its 95 % interval over documents and"
        " masks. Area: between the two curves, from nothing held to the largest share."
    )
    return table(caption, head, [tag("tbody", *body)], kind="stacked")


def _difference(rows: pl.DataFrame, metric: Metric, fraction: float | None) -> Child:
    wanted = pl.col("fraction").is_null() if fraction is None else pl.col("fraction") == fraction
    found = rows.filter(pl.col("metric") == metric).filter(wanted).to_dicts()
    if not found or any(found[0][key] is None for key in ("estimate", "low", "high")):
        return "–"
    estimate, low, high = (found[0][key] * SCALE[metric] for key in ("estimate", "low", "high"))
    places = decimals(low, high)
    inner = tag(
        "span",
        change(estimate, places),
        " ",
        tag("small", interval(low, high, places)),
    )
    adjusted = found[0]["p_adjusted"]
    if adjusted is not None:
        inner.append(tag("small", f" adjusted p {adjusted:.2g}"))
    return inner


def held_table(run: Run, fraction: float) -> Element | None:
    """Return Top-1 and CE of every method at one fraction; None when nothing is there yet."""
    bodies = []
    for panel in run.panels:
        share = _share(run, panel, fraction)
        rows = run.curves.filter(pl.col("panel") == panel)
        at = rows.filter((pl.col("held_share") - (share or -1)).abs() < 1e-9)
        if at.height:
            bodies.append(_body(run, panel, share or 0, at))
    if not bodies:
        return None
    head = tag(
        "tr",
        *(
            tag("th", *_broken(name), scope="col")
            for name in (
                "held at",
                "Top-1, %",
                "change, points [95 % interval]",
                "s.d. over masks",
                "CE, nats",
                "change, nats [95 % interval]",
                "s.d. over masks",
            )
        ),
    )
    caption = (
        f"At f = {fraction:g}: Top-1 and CE as the mean over masks, the change against the"
        " unablated model with its 95 % interval over documents and masks, and the standard"
        " deviation of the change from one mask to another."
    )
    return table(caption, [head], bodies)


def _broken(name: str) -> list[Child]:
    """Return a heading whose bracket stands on a line of its own."""
    first, found, second = name.partition(" [")
    return [first, tag("small", f" [{second}", class_="below")] if found else [first]


def _share(run: Run, panel: str, fraction: float) -> float | None:
    """Return the share of neurons really held at a nominal fraction."""
    points = run.cells.filter(pl.col("panel") == panel, pl.col("fraction") == fraction)
    shares = (points["units_held"] / points["units_total"]).drop_nulls()
    return float(shares[0]) if shares.len() else None


def _body(run: Run, panel: str, share: float, at: pl.DataFrame) -> Element:
    baseline = run.summary.filter(pl.col("panel") == panel, pl.col("fraction") == 0).head(1)
    by_method: dict[str, dict[str, dict[str, float | None]]] = {}
    for r in at.to_dicts():
        by_method.setdefault(method_name(r["method"], r["parameters"]), {})[r["metric"]] = r
    places = {m: _places(by_method, f"d_{m}", SCALE[m]) for m in _METRICS}
    rows = [
        tag(
            "tr",
            tag(
                "th",
                panel,
                tag("small", f" {percent(share, 1)} held"),
                scope="rowgroup",
                colspan="7",
            ),
            class_="group",
        )
    ]
    for b in baseline.to_dicts():
        rows.append(
            row("unablated", number(100 * b["top1"], 1), "", "", number(b["ce"], 3), "", "")
        )
    for method in (name for name in run.methods if name in by_method):
        metrics = by_method[method]
        cells: list[Child] = []
        for metric, level_places in (("top1", 1), ("ce", 3)):
            m: Metric = "top1" if metric == "top1" else "ce"
            level = metrics.get(metric, {}).get("mean")
            delta = metrics.get(f"d_{metric}", {})
            cells += [
                number(None if level is None else level * SCALE[m], level_places),
                _with_interval(delta, SCALE[m], places[m]),
                _scaled(delta.get("sd_masks"), SCALE[m], places[m] + 1),
            ]
        rows.append(row(method, *cells))
    return tag("tbody", *rows)


def _places(
    by_method: dict[str, dict[str, dict[str, float | None]]], metric: str, scale: float
) -> int:
    """Return the decimals that a column needs: those of its narrowest interval, within reason."""
    found = []
    for metrics in by_method.values():
        low, high = (metrics.get(metric, {}).get(key) for key in ("low", "high"))
        if low is not None and high is not None and high > low:
            found.append(decimals(low * scale, high * scale))
    return sorted(found)[len(found) // 2] if found else 2


def _with_interval(delta: dict[str, float | None], scale: float, places: int) -> Child:
    middle, low, high = (delta.get(key) for key in ("mean", "low", "high"))
    if middle is None:
        return "–"
    text = _scaled_change(middle, scale, places)
    if low is None or high is None:
        return text
    return tag("span", text, " ", tag("small", interval(low * scale, high * scale, places)))


def _scaled_change(value: float, scale: float, places: int) -> str:
    return change(value * scale, places)


def _scaled(value: float | None, scale: float, places: int) -> str:
    return "–" if value is None else number(value * scale, places)
