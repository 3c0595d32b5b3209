"""Curves: how Top-1 and CE change with the share of neurons held.

Two figures after the paper's figures 2 and 3 (arXiv 2408.17322), one row per
panel, Top-1 on the left and CE on the right, and one figure of the declared
contrasts, whose differences are often too small to see between two curves.
Bands and bars are 95 % intervals of single points; none covers a whole curve.
"""

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from orchestrator.report import style
from orchestrator.report.figures import Figure, Rows, Spec, below, beside, part, wrapped
from orchestrator.report.read import Run
from orchestrator.report.words import (
    METRIC_NAME,
    SCALE,
    UNIT,
    Metric,
    change,
    decimals,
    interval,
    label_name,
    listed,
    method_name,
    number,
    percent,
)

WIDTH, HEIGHT = 372, 210
_VALUES = alt.Axis(tickCount=5, domain=False, ticks=False, minExtent=38, labelPadding=9)
_METRICS: tuple[Metric, ...] = ("top1", "ce")
_PAIR_LOOKS = (("#AA4499", "circle"), ("#555555", "triangle-up"), ("#999933", "square"))


def changes(run: Run, modalities: Sequence[str], *, name: str, after: str) -> Figure | None:
    """Return the curves of the panels of these modalities; None when there are none yet."""
    rows = _curve_rows(run)
    panels = [p for p in run.panels if run.modality[p] in modalities and p in rows]
    if not panels:
        return None
    methods = list(dict.fromkeys(str(row["method"]) for p in panels for row in rows[p]))
    charts = [
        _panel_of_changes(str(i), panel, baseline(run, panel), methods)
        for i, panel in enumerate(panels)
    ]
    return Figure(
        name=name,
        chart=below(charts, spacing=26),
        data={
            f"{i}-{metric}": [row for row in rows[panel] if row["metric"] == metric]
            for i, panel in enumerate(panels)
            for metric in _METRICS
        },
        caption=(
            "Change of Top-1 (left, percentage points) and of cross-entropy (right, nats) against"
            " the share of neurons held, one curve per method, as the mean over masks. Shaded: 95 %"
            " pointwise bands over documents and masks; each holds at its own held share, none for"
            " a curve as a whole."
            f" Panels have scales of their own. After the paper’s {after}."
        ),
        alt=_alt(panels, rows),
    )


def _curve_rows(run: Run) -> Mapping[str, list[dict[str, object]]]:
    """Return the points to draw, per panel, in printed units."""
    rows: dict[str, list[dict[str, object]]] = {}
    for row in run.curves.sort("held_share", maintain_order=True).to_dicts():
        metric = str(row["metric"])
        if not metric.startswith("d_"):
            continue
        short: Metric = "ce" if metric == "d_ce" else "top1"
        middle, low, high = (
            None if row[key] is None else row[key] * SCALE[short] for key in ("mean", "low", "high")
        )
        method = method_name(row["method"], row["parameters"])
        places = 1 if middle is None or low is None or high is None else decimals(low, high)
        rows.setdefault(row["panel"], []).append(
            {
                "method": method,
                "metric": short,
                "share": row["held_share"],
                "mean": middle,
                "low": low,
                "high": high,
                "tip": f"{method}, {percent(row['held_share'], 1)} held: {METRIC_NAME[short]}"
                f" {change(middle, places)} {UNIT[short]} {interval(low, high, places)}",
            }
        )
    order = run.methods
    return {p: sorted(r, key=lambda row: order.index(str(row["method"]))) for p, r in rows.items()}


def _panel_of_changes(name: str, label: str, unablated: str, methods: Sequence[str]) -> Spec:
    plots = []
    for metric in _METRICS:
        base = alt.Chart(alt.NamedData(name=f"{name}-{metric}"), width=WIDTH, height=HEIGHT).encode(
            x=_held_share(), color=_coloured(methods)
        )
        chart = alt.layer(
            base.mark_area(opacity=0.14).encode(y=_y(metric, "low"), y2="high:Q"),
            base.mark_line(strokeWidth=1.8).encode(
                y=_y(metric, "mean"),
                strokeDash=alt.StrokeDash("method:N", scale=style.dash(methods), legend=None),
            ),
            base.mark_point(filled=True, size=46, opacity=1).encode(
                y=_y(metric, "mean"),
                shape=alt.Shape(
                    "method:N", scale=style.shape(methods), legend=style.legend(len(methods))
                ),
                description="tip:N",
            ),
        )
        plots.append(part(chart))
    return beside(plots, title=label, subtitle=unablated, spacing=34)


def _held_share() -> alt.X:
    return alt.X(
        "share:Q",
        title="neurons held",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1], grid=False),
    )


def _y(metric: Metric, field: str) -> alt.Y:
    return alt.Y(
        f"{field}:Q",
        title=f"change of {METRIC_NAME[metric]} ({UNIT[metric]})",
        axis=_VALUES,
    )


def _coloured(methods: Sequence[str]) -> alt.Color:
    return alt.Color("method:N", scale=style.colour(methods), legend=style.legend(len(methods)))


def baseline(run: Run, panel: str) -> str:
    """Return what the unablated model of a panel scores, in words."""
    rows = run.summary.filter(pl.col("panel") == panel, pl.col("fraction") == 0).head(1).to_dicts()
    if not rows:
        return "unablated: not evaluated yet"
    (row,) = rows
    return f"unablated: Top-1 {percent(row['top1'], 1)}, CE {number(row['ce'], 3)} nats"


def _alt(panels: Sequence[str], rows: Mapping[str, list[dict[str, object]]]) -> str:
    """Return the curves' ends, in words."""
    said = []
    for panel in panels:
        losses = [row for row in rows[panel] if row["metric"] == "ce"]
        furthest = max((float(str(row["share"])) for row in losses), default=0)
        ends = [
            f"{row['method']} {change(float(str(row['mean'])), 2)}"
            for row in losses
            if row["share"] == furthest and row["mean"] is not None
        ]
        said.append(f"{panel}: at {percent(furthest)} held, CE changes by {listed(ends)} nats")
    return f"Line charts of the change of Top-1 and CE against the share held. {'; '.join(said)}."


def differences(run: Run, declared_pairs: Sequence[tuple[str, str]]) -> Figure | None:
    """Return the declared contrasts of CE against the fraction; None when there are none."""
    declared = run.contrasts.filter(
        pl.col("declared"),
        pl.col("metric").is_in(["ce", "d_ce"]),
        *(pl.col(column).is_not_null() for column in ("fraction", "estimate", "low", "high")),
    )
    if not declared.height:
        return None
    pairs = [pair for pair in declared_pairs if pair in set(declared.select("a", "b").rows())]
    names = [f"{label_name(a)} − {label_name(b)}" for a, b in pairs]
    data: dict[str, Rows] = {"zero": [{"zero": 0}]}
    panels = [p for p in run.panels if p in declared["panel"]]
    for i, panel in enumerate(panels):
        values: Rows = []
        data[str(i)] = values
        for row in declared.filter(pl.col("panel") == panel).to_dicts():
            which = pairs.index((row["a"], row["b"]))
            places = decimals(row["low"], row["high"])
            values.append(
                {
                    # Side by side, not on top of each other.
                    "share": row["fraction"] + 0.014 * (which - (len(pairs) - 1) / 2),
                    "pair": names[which],
                    "mean": row["estimate"],
                    "low": row["low"],
                    "high": row["high"],
                    "tip": f"{names[which]} at f = {row['fraction']:g}: CE"
                    f" {change(row['estimate'], places)} nats"
                    f" {interval(row['low'], row['high'], places)}",
                }
            )
    charts = [_panel_of_differences(str(i), panel, names) for i, panel in enumerate(panels)]
    return Figure(
        name="contrasts",
        chart=wrapped(charts, columns=2, spacing=34),
        data=data,
        caption=(
            "The declared contrasts: difference in CE (nats) between two methods that hold the same"
            " neurons, against the fraction held. Above zero, the first method costs more. Bars:"
            " 95 % intervals of each difference over documents and masks (at 100 % there is one"
            " mask, and they cover documents alone), not adjusted for their number."
        ),
        alt=f"Differences in CE with intervals against the fraction held: {listed(names)},"
        f" for {listed(panels)}. The numbers are in the table below.",
    )


def _panel_of_differences(name: str, label: str, names: Sequence[str]) -> Spec:
    looks = [_PAIR_LOOKS[i % len(_PAIR_LOOKS)] for i in range(len(names))]
    legend = style.legend(len(names))
    base = alt.Chart(alt.NamedData(name=name), width=WIDTH, height=HEIGHT - 30).encode(
        x=alt.X(
            "share:Q",
            title="neurons held",
            scale=alt.Scale(domain=[0, 1.04], nice=False),
            axis=alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1], grid=False),
        ),
        color=alt.Color(
            "pair:N",
            scale=alt.Scale(domain=list(names), range=[colour for colour, _ in looks]),
            legend=legend,
        ),
    )
    shape = alt.Shape(
        "pair:N",
        scale=alt.Scale(domain=list(names), range=[shape for _, shape in looks]),
        legend=legend,
    )
    zero = alt.Chart(alt.NamedData(name="zero")).mark_rule(color=style.INK)
    chart = alt.layer(
        zero.encode(y=alt.Y("zero:Q")),
        base.mark_rule(strokeWidth=1.6).encode(
            y=alt.Y("low:Q", title="difference in CE (nats)", axis=_VALUES), y2="high:Q"
        ),
        base.mark_point(filled=True, size=52, opacity=1).encode(
            y=alt.Y("mean:Q"), shape=shape, description="tip:N"
        ),
        title=label,
    )
    return part(chart)
