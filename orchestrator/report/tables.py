"""Tables: the numbers behind the curves, as a reader would copy them.

Every spread is named: an interval in brackets with what it covers in the
caption, or a standard deviation over masks in a column that says so.
"""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from orchestrator.report.html import Child, Element, columns, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import left_out
from orchestrator.report.words import (
    METRIC_NAME,
    SCALE,
    change,
    decimals,
    interval,
    method_name,
    metric_said,
    number,
    percent,
)

PLAIN = ("top1", "ce")

_PAIRED = (
    " The logit difference is the answer’s logit less the mean of the wrong ones’, choice the share"
    " of prompts in which it is above all of them; both fall where the model does worse."
)

Numbers = Mapping[str, float | None]


def held_table(run: Run, fraction: float) -> Element | None:
    """Return Top-1 and CE of every method at one fraction; None when nothing is there yet."""
    metrics = [m for m in PLAIN if m in run.metrics]
    bodies = []
    for panel in run.shown:
        share = held_share(run, panel, fraction)
        at = curves_at(run, panel, share)
        if share is not None and at.height and metrics:
            bodies.append(_body(run, panel, share, at, metrics))
    if not bodies:
        return None
    titles = ["held at"]
    for m in metrics:
        level, unit = ("Top-1, %", "points") if m == "top1" else ("CE, nats", "nats")
        titles += [level, f"change, {unit} [95 % interval]", "s.d. over masks"]
    head = tag("tr", *(tag("th", *_broken(name), scope="col") for name in titles))
    caption = (
        f"At f = {fraction:g}: {' and '.join(METRIC_NAME[m] for m in metrics)} as the mean over"
        " masks, the change against the unablated model with its pointwise 95 % interval over"
        " documents and masks, and the standard deviation of the change from one mask to another."
        f" {more_settings(run, 'curves')}"
    ).strip()
    return table(caption, [head], bodies)


def more_settings(run: Run, name: str) -> str:
    """Return how many settings a page leaves out, in words."""
    single = run.settings.filter(~pl.col("layered")).height
    return left_out(single - len(run.shown), name).replace(" more are", " more settings are")


def _broken(name: str) -> list[Child]:
    """Return a heading whose bracket stands on a line of its own."""
    first, found, second = name.partition(" [")
    return [first, tag("small", f" [{second}", class_="below")] if found else [first]


def held_share(run: Run, panel: str, fraction: float) -> float | None:
    """Return the share of units really held at a nominal fraction."""
    points = run.cells.filter(
        pl.col("panel") == panel, (pl.col("fraction") - fraction).abs() < 1e-9
    )
    shares = (points["units_held"] / points["units_total"]).drop_nulls()
    return float(shares[0]) if shares.len() and shares[0] > 0 else None


def curves_at(run: Run, panel: str, share: float | None) -> pl.DataFrame:
    """Return the points of a panel's curves at one held share."""
    rows = run.curves.filter(pl.col("panel") == panel)
    return rows.filter((pl.col("held_share") - (-1 if share is None else share)).abs() < 1e-9)


def heading(panel: str, aside: str, width: int) -> Element:
    """Return the row that opens a panel's body."""
    inner = tag("th", panel, scope="rowgroup", colspan=str(width))
    if aside:
        inner.append(tag("small", f" {aside}"))
    return tag("tr", inner, class_="group")


def _body(run: Run, panel: str, share: float, at: pl.DataFrame, metrics: Sequence[str]) -> Element:
    baseline = run.summary.filter(pl.col("panel") == panel, pl.col("fraction") == 0).head(1)
    by_method = by_names(run, at)
    places = {m: _places(by_method.values(), f"d_{m}", SCALE[m]) for m in metrics}
    rows = [heading(panel, f"{percent(share, 1)} held", 1 + 3 * len(metrics))]
    for b in baseline.to_dicts():
        levels = {m: number(SCALE[m] * b[m], 1 if m == "top1" else 3) for m in metrics}
        rows.append(row("unablated", *(c for m in metrics for c in (levels[m], "", ""))))
    for method, found in by_method.items():
        cells: list[Child] = []
        for m in metrics:
            level = found.get(m, {}).get("mean")
            delta = found.get(f"d_{m}", {})
            sd = delta.get("sd_masks")
            cells += [
                number(None if level is None else level * SCALE[m], 1 if m == "top1" else 3),
                with_interval(delta, "mean", SCALE[m], places[m]),
                "–" if sd is None else number(sd * SCALE[m], places[m] + 1),
            ]
        rows.append(row(method, *cells))
    return tag("tbody", *rows)


def by_names(run: Run, rows: pl.DataFrame) -> dict[str, dict[str, Numbers]]:
    """Return the rows by method, in the order of the sweep file, and by metric."""
    found: dict[str, dict[str, Numbers]] = {}
    for r in rows.to_dicts():
        found.setdefault(method_name(r["method"], r["parameters"]), {})[r["metric"]] = r
    return {name: found[name] for name in run.methods if name in found}


def _places(by_method: Iterable[Mapping[str, Numbers]], metric: str, scale: float) -> int:
    """Return the decimals that a column needs: those of its middle interval, within reason."""
    found = []
    for metrics in by_method:
        low, high = (metrics.get(metric, {}).get(key) for key in ("low", "high"))
        if low is not None and high is not None and high > low:
            found.append(decimals(low * scale, high * scale))
    return sorted(found)[len(found) // 2] if found else 2


def with_interval(
    found: Numbers, key: str, scale: float, places: int | None = None, *, signed: bool = True
) -> Child:
    """Return a number and its interval as the inside of a cell."""
    middle, low, high = (found.get(name) for name in (key, "low", "high"))
    if middle is None:
        return "–"
    said = change if signed else number
    if low is None or high is None:
        return said(middle * scale, 2 if places is None else places)
    digits = decimals(low * scale, high * scale) if places is None else places
    text = said(middle * scale, digits)
    return tag("span", text, " ", tag("small", interval(low * scale, high * scale, digits)))


def areas_table(run: Run) -> Element | None:
    """Return the mean change under each curve; None when nothing is there yet."""
    metrics = [m for m in ("ce", "top1") if m in run.metrics]
    bodies = []
    for panel in run.shown:
        rows = run.areas.filter(pl.col("panel") == panel)
        changes = rows.filter(pl.col("metric").is_in([f"d_{m}" for m in metrics]))
        if not changes.height:
            continue
        ends = changes["to_share"].unique().drop_nulls().sort()
        to = " or ".join(percent(end) for end in ends)
        lines = [heading(panel, f"nothing to {to} held", 1 + len(metrics))]
        for method, found in by_names(run, changes).items():
            cells = [with_interval(found.get(f"d_{m}", {}), "area", SCALE[m]) for m in metrics]
            lines.append(row(method, *cells))
        bodies.append(tag("tbody", *lines))
    if not bodies:
        return None
    caption = (
        "Area under the curve: the mean change against the unablated model over the held share,"
        " with its 95 % interval over documents and masks. Settings that reach another share are"
        f" not to be compared. {more_settings(run, 'areas')}"
    ).strip()
    return table(caption, [columns("held at", *map(metric_said, metrics))], bodies)


def metrics_table(run: Run, fraction: float) -> Element | None:
    """Return the levels of the metrics beyond Top-1 and CE; None where none was asked for."""
    there = set(run.curves["metric"])
    metrics = [m for m in run.metrics if m not in PLAIN and m in there]
    bodies = []
    for panel in run.shown:
        share = held_share(run, panel, fraction)
        at = curves_at(run, panel, share).filter(pl.col("metric").is_in(metrics))
        if share is None or not at.height:
            continue
        lines = [heading(panel, f"{percent(share, 1)} held", 1 + len(metrics))]
        for b in run.summary.filter(panel=panel, fraction=0.0).head(1).to_dicts():
            bare = [b.get(m) for m in metrics]
            lines.append(
                row(
                    "unablated",
                    *(
                        "–" if v is None else number(v * SCALE[m], 1 if SCALE[m] > 1 else 3)
                        for m, v in zip(metrics, bare, strict=True)
                    ),
                )
            )
        for method, found in by_names(run, at).items():
            cells = [
                with_interval(found.get(m, {}), "mean", SCALE[m], signed=False) for m in metrics
            ]
            lines.append(row(method, *cells))
        bodies.append(tag("tbody", *lines))
    if not bodies:
        return None
    paired = _PAIRED if {"logit_diff", "choice"} & set(metrics) else ""
    caption = (
        f"Further metrics at f = {fraction:g}: the mean over masks with its pointwise 95 % interval"
        " over documents and masks. KL is that of the unablated from the ablated model’s"
        " predictions, perplexity is exp of the mean CE, bits per byte are of the text’s UTF-8"
        f" bytes.{paired} A dash: does not apply to this model. {more_settings(run, 'curves')}"
    ).strip()
    heads = [metric_said(m).replace("(points)", "(%)") for m in metrics]
    return table(caption, [columns("held at", *heads)], bodies)
