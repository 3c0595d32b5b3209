"""Explored: the curves in their live form, mask by mask where a reader asks for it.

The still figures show means over masks. Here a reader chooses the setting, the metric, the
methods, and the mean or one mask. The interval of a mean covers documents and masks; that of one
mask covers documents alone, for that one set of held neurons, which the caption says.

A sweep of many settings has more masks than a page should carry; then the means stand alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from orchestrator.report.curves import Curves, baseline, chart, curve_rows
from orchestrator.report.figures import Rows
from orchestrator.report.live import Choice, Live
from orchestrator.report.read import Run
from orchestrator.report.words import METRIC_NAME, SCALE, UNIT, method_name

MEAN = "mean over masks"
POINTS = 12_000
"""Points of a figure from which on single masks are left out."""
_BY_MASK = (
    " Choose a mask to see it by itself: its interval covers documents alone, for that one set of"
    " held units."
)
_COLUMNS = {
    "method": "method",
    "share": "share held",
    "mean": "change",
    "low": "95 % interval from",
    "high": "to",
    "low_all": "whole curve from",
    "high_all": "whole curve to",
}


def explored(run: Run, curves: Curves) -> Live:
    """Return curves with their controls."""
    panels, metrics, drawn = curves.panels, curves.metrics, curves.drawn
    means = _means(run, panels, metrics)
    masks = _masks(run, panels, metrics) if run.masks else []
    rows = means if len(means) + len(masks) > POINTS else means + masks
    said = {_said(metric): metric for metric in metrics}
    choices = [
        Choice(field="setting", label="Setting", values=list(panels), every="All"),
        Choice(field="metric", label="Metric", values=list(said), every="All"),
        Choice(
            field="mask",
            label="Masks",
            values=[MEAN, *(f"mask {seed}" for seed in run.masks)],
            first=MEAN,
        ),
        Choice(
            field="method",
            label="Methods",
            values=drawn.methods.names,
            several=True,
            looks=drawn.methods,
        ),
    ]
    caption = curves.figure.caption + (_BY_MASK if len(rows) > len(means) else "")
    return Live(
        still=replace(curves.figure, caption=caption),
        charts={name: chart(metric, drawn) for name, metric in said.items()},
        by="metric",
        rows=rows,
        choices=choices,
        facets=("setting", "metric"),
        columns={**_COLUMNS, "mask": "masks"},
        shares=("share",),
        notes={panel: baseline(run, panel) for panel in panels},
    )


def _said(metric: str) -> str:
    unit = f" ({UNIT[metric]})" if UNIT[metric] else ""
    return f"{METRIC_NAME[metric]}{unit}"


def _means(run: Run, panels: Sequence[str], metrics: Sequence[str]) -> Rows:
    found = curve_rows(run)
    keys = ("method", "share", "mean", "low", "high", "low_all", "high_all")
    return [
        {"setting": panel, "metric": _said(str(row["metric"])), "mask": MEAN}
        | {key: row[key] for key in keys}
        for panel in panels
        for metric in metrics
        for row in found.get(panel, [])
        if row["metric"] == metric
    ]


def _masks(run: Run, panels: Sequence[str], metrics: Sequence[str]) -> Rows:
    """Return the points of single masks: those of the summary, with the seed that drew them.

    Where a point has several rows, as with several draws of donors, they are averaged and have no
    interval.
    """
    rows: Rows = []
    points = run.summary.filter(pl.col("panel").is_in(list(panels)), pl.col("seed").is_not_null())
    keys = ("panel", "method", "parameters", "fraction", "seed")
    for metric in metrics:
        ends = [f"d_{metric}{end}" for end in ("", "_low", "_high")]
        if not points.height or ends[0] not in points.columns:
            continue
        single = pl.len() == 1
        found = points.group_by(*keys, maintain_order=True).agg(
            share=(pl.col("units_held") / pl.col("units_total")).first(),
            mean=pl.col(ends[0]).mean(),
            low=pl.when(single).then(pl.col(ends[1]).first()),
            high=pl.when(single).then(pl.col(ends[2]).first()),
        )
        rows += [_point(row, metric) for row in found.drop_nulls("mean").to_dicts()]
    return rows


def _point(row: Mapping[str, object], metric: str) -> dict[str, object]:
    scale = SCALE[metric]
    ends = {key: None if row[key] is None else scale * float(str(row[key])) for key in _ENDS}
    return {
        "setting": row["panel"],
        "metric": _said(metric),
        "mask": f"mask {row['seed']}",
        "method": method_name(str(row["method"]), str(row["parameters"])),
        "share": row["share"],
        **ends,
        "low_all": None,
        "high_all": None,
    }


_ENDS = ("mean", "low", "high")
