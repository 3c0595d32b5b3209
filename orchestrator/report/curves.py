"""Curves: how the metrics change with the share of units held.

Of a plain sweep, where every model has one panel, two figures after the paper's figures 2
and 3 (arXiv 2408.17322): a row per panel, Top-1 on the left and CE on the right. Of a sweep
with several groups of curves, one figure per model and metric whose panels are the groups,
side by side on one scale, so that groups can be compared by eye.

Two 95 % bands are drawn: the darker is pointwise, it covers each point by itself; the lighter
is simultaneous, it covers all points of a curve at once. With many methods bands would hide
the curves and are left to the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from orchestrator.names import slug
from orchestrator.report.figures import Figure, Rows, Spec, below, beside, of, part, wrapped
from orchestrator.report.read import Run
from orchestrator.report.settings import common
from orchestrator.report.style import Encoding
from orchestrator.report.words import (
    METRIC_NAME,
    SCALE,
    UNIT,
    change,
    decimals,
    interval,
    listed,
    method_name,
    metric_said,
    number,
    percent,
)

WIDTH, HEIGHT = 372, 210
SMALL_WIDTH, SMALL_HEIGHT = 226, 150
VALUES = alt.Axis(tickCount=5, domain=False, ticks=False, minExtent=38, labelPadding=9)
APART = ("kl", "logit_diff", "choice")
"""Metrics that have figures of their own."""
DRAWN = ("top1", "ce", *APART)
"""Metrics that have figures."""
BANDED = 6
"""Of more methods, no bands are drawn."""
_BANDS = (
    " Shaded: 95 % bands over documents and masks, darker those that hold for one point"
    " (pointwise), lighter those that hold for a whole curve (simultaneous)."
)
_POINTWISE = (
    " Shaded: 95 % pointwise bands over documents and masks; each holds at its own held share, none"
    " for a curve as a whole."
)
_NO_BANDS = " With so many methods no bands are drawn; the tables have them."


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What the panels of a figure have in common."""

    width: int
    height: int
    methods: Encoding
    shares: tuple[float, float]
    """Smallest and largest held share of the axis."""
    banded: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """A still figure of curves, and what is in it."""

    figure: Figure
    panels: Sequence[str]
    metrics: Sequence[str]
    drawn: Drawn


def metrics(run: Run) -> list[str]:
    """Return the metrics that are drawn, of those asked for."""
    return [m for m in DRAWN if m in run.metrics]


def changes(
    run: Run, modalities: Sequence[str], *, name: str, after: str, shown: Sequence[str]
) -> Curves | None:
    """Return the curves of the panels of these modalities; None when there are none yet."""
    rows = curve_rows(run)
    panels = [p for p in run.shown if run.modality[p] in modalities and p in rows]
    panels = [p for p in panels if any(row["metric"] in shown for row in rows[p])]
    there = [m for m in shown if any(row["metric"] == m for p in panels for row in rows[p])]
    if not there:
        return None
    look = _look(run, [row for p in panels for row in rows[p]], WIDTH, HEIGHT)
    drawn = {metric: chart(metric, look) for metric in there}
    charts = [
        beside(
            [of(f"{i}-{metric}", drawn[metric]) for metric in there],
            title=panel,
            subtitle=baseline(run, panel),
            spacing=34,
        )
        for i, panel in enumerate(panels)
    ]
    sides = [f"{metric_said(m)}" for m in there]
    figure = Figure(
        name=name,
        chart=below(charts, spacing=26)
        if len(there) > 1
        else wrapped(charts, columns=2, spacing=34),
        data={
            f"{i}-{metric}": [row for row in rows[panel] if row["metric"] == metric]
            for i, panel in enumerate(panels)
            for metric in there
        },
        caption=(
            f"Change of {listed(sides)} against the share of units held, one curve per method, as"
            f" the mean over masks.{_bands(look, rows, panels)} Panels have scales of their own."
            + (f" After the paper’s {after}." if after else "")
        ),
        alt=_alt(panels, rows, there),
    )
    return Curves(figure=figure, panels=panels, metrics=there, drawn=look)


def multiples(run: Run, model: str, metric: str) -> Curves | None:
    """Return the curves of a model's panels in one metric; None when there are none yet."""
    found = curve_rows(run)
    settings = run.settings.filter(pl.col("panel").is_in(run.shown), pl.col("model") == model)
    short = dict(settings.select("panel", "short").rows())
    rows = {
        p: [row for row in found.get(p, []) if row["metric"] == metric] for p in settings["panel"]
    }
    rows = {p: own for p, own in rows.items() if own}
    if not rows:
        return None
    every = [row for own in rows.values() for row in own]
    look = _look(run, every, SMALL_WIDTH, SMALL_HEIGHT)
    where = dict(settings.select("panel", "site").rows())
    drawn = {
        site: chart(
            metric, look, domain=_domain([r for p, r in rows.items() if where[p] == site], look)
        )
        for site in dict.fromkeys(where[panel] for panel in rows)
    }
    charts = [of(str(i), drawn[where[p]], title=short[p]) for i, p in enumerate(rows)]
    figure = Figure(
        name=f"curves-{slug(model)}-{metric}",
        chart=wrapped(charts, columns=3, spacing=26),
        data={str(i): own for i, own in enumerate(rows.values())},
        caption=(
            f"{model}, {common(run.settings, model)} ({baseline(run, next(iter(rows)))}): change of"
            f" {metric_said(metric)} against the share of units held, one curve per method, as the"
            " mean over masks. A panel per setting; those of one site share their scale."
            f"{_bands(look, rows, list(rows))}"
        ),
        alt=_alt(list(rows), rows, [metric]),
    )
    return Curves(figure=figure, panels=list(rows), metrics=[metric], drawn=look)


def _domain(panels: Sequence[Rows], look: Drawn) -> tuple[float, float]:
    """Return the scale of panels that are compared by eye: of points and pointwise bands."""
    keys = ("mean", "low", "high") if look.banded else ("mean",)
    rows = [row for panel in panels for row in panel]
    values = [float(str(row[k])) for row in rows for k in keys if row[k] is not None]
    return min([0.0, *values]), max([0.0, *values])


def _look(run: Run, rows: Sequence[Mapping[str, object]], width: int, height: int) -> Drawn:
    there = {str(row["method"]) for row in rows}
    methods = [name for name in run.methods if name in there]
    shares = [float(str(row["share"])) for row in rows]
    return Drawn(
        width=width,
        height=height,
        methods=Encoding(names=methods, among=run.methods),
        shares=(0.0, max(shares, default=1.0)),
        banded=len(methods) <= BANDED,
    )


def _bands(
    look: Drawn, rows: Mapping[str, Sequence[Mapping[str, object]]], panels: Sequence[str]
) -> str:
    if not look.banded:
        return _NO_BANDS
    joint = any(row["low_all"] is not None for p in panels for row in rows[p])
    return _BANDS if joint else _POINTWISE


def curve_rows(run: Run) -> Mapping[str, list[dict[str, object]]]:
    """Return the points to draw, per panel, in printed units."""
    rows: dict[str, list[dict[str, object]]] = {}
    for row in run.curves.sort("held_share", maintain_order=True).to_dicts():
        metric = str(row["metric"]).removeprefix("d_")
        if not str(row["metric"]).startswith("d_") or metric not in DRAWN:
            continue
        keys = ("mean", "low", "high", "low_all", "high_all")
        drawn = {key: None if row[key] is None else row[key] * SCALE[metric] for key in keys}
        middle, low, high = drawn["mean"], drawn["low"], drawn["high"]
        method = method_name(row["method"], row["parameters"])
        places = 1 if middle is None or low is None or high is None else decimals(low, high)
        rows.setdefault(row["panel"], []).append(
            {
                "method": method,
                "metric": metric,
                "share": row["held_share"],
                **drawn,
                "tip": f"{method}, {percent(row['held_share'], 1)} held: {METRIC_NAME[metric]}"
                f" {change(middle, places)} {UNIT[metric]} {interval(low, high, places)}",
            }
        )
    order = run.methods
    return {p: sorted(r, key=lambda row: order.index(str(row["method"]))) for p, r in rows.items()}


def chart(metric: str, look: Drawn, *, domain: tuple[float, float] | None = None) -> Spec:
    """Return a panel without its data and title: Altair is slow, so one serves many panels."""
    base = alt.Chart(alt.NamedData(name=""), width=look.width, height=look.height).encode(
        x=share_axis(look.shares), color=look.methods.colour
    )
    line = base.mark_line(strokeWidth=1.8).encode(
        y=_y(metric, "mean", domain), strokeDash=look.methods.dash
    )
    points = base.mark_point(filled=True, size=46 if domain is None else 30, opacity=1).encode(
        y=_y(metric, "mean", domain), shape=look.methods.shape, description="tip:N"
    )
    bands = [
        base.mark_area(opacity=opacity, clip=domain is not None).encode(
            y=_y(metric, low, domain), y2=f"{high}:Q"
        )
        for low, high, opacity in (("low_all", "high_all", 0.07), ("low", "high", 0.12))
        if look.banded
    ]
    return part(alt.layer(*bands, line, points))


def share_axis(shares: tuple[float, float]) -> alt.X:
    """Return the axis of held shares, from nothing to the largest."""
    low, high = shares
    whole = high > 0.99
    return alt.X(
        "share:Q",
        title="share held",
        scale=alt.Scale(domain=[low, 1 if whole else high], nice=False),
        axis=alt.Axis(
            format="%",
            grid=False,
            labelOverlap=False,
            tickCount=5,
            values=[0, 0.25, 0.5, 0.75, 1] if whole else alt.Undefined,
        ),
    )


def _y(metric: str, field: str, domain: tuple[float, float] | None) -> alt.Y:
    unit = f" ({UNIT[metric]})" if UNIT[metric] else ""
    return alt.Y(
        f"{field}:Q",
        # Nothing diverges from itself: the unablated model's KL is 0.
        title=f"{'' if metric == 'kl' else 'change of '}{METRIC_NAME[metric]}{unit}",
        axis=VALUES,
        scale=alt.Scale(domain=list(domain)) if domain else alt.Undefined,
    )


def baseline(run: Run, panel: str) -> str:
    """Return what the unablated model of a panel scores, in words."""
    rows = run.summary.filter(pl.col("panel") == panel, pl.col("fraction") == 0).head(1).to_dicts()
    if not rows:
        return "unablated: not evaluated yet"
    (row,) = rows
    return f"unablated: Top-1 {percent(row['top1'], 1)}, CE {number(row['ce'], 3)} nats"


def _alt(
    panels: Sequence[str], rows: Mapping[str, list[dict[str, object]]], drawn: Sequence[str]
) -> str:
    """Return the curves' ends, in words."""
    metric = "ce" if "ce" in drawn else drawn[0]
    said = []
    for panel in panels[:6]:
        losses = [row for row in rows[panel] if row["metric"] == metric]
        furthest = max((float(str(row["share"])) for row in losses), default=0)
        ends = [
            f"{row['method']} {change(float(str(row['mean'])), 2)}"
            for row in losses
            if row["share"] == furthest and row["mean"] is not None
        ]
        said.append(
            f"{panel}: at {percent(furthest)} held, {METRIC_NAME[metric]} changes by"
            f" {listed(ends)} {UNIT[metric]}"
        )
    names = listed([METRIC_NAME[m] for m in drawn])
    return f"Line charts of the change of {names} against the share held. {'; '.join(said)}."
