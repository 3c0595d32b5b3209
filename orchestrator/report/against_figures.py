"""Against, in figures: both runs' curves over each other, and the differences of their areas.

Run A is a solid line with circles, run B a dashed one with triangles, in two of Okabe and Ito's
colours: shape, dashes and colour say the same. Figures are bounded; the tables have all points.
"""

from collections.abc import Callable, Sequence

import altair as alt
import polars as pl

from orchestrator.report import style
from orchestrator.report.against_words import about, row_name, varying
from orchestrator.report.curves import VALUES, share_axis
from orchestrator.report.figures import Figure, Rows, Spec, of, part, wrapped
from orchestrator.report.words import (
    COSTS,
    METRIC_NAME,
    SCALE,
    UNIT,
    change,
    decimals,
    interval,
    method_name,
    metric_said,
    percent,
)

PANELS = 12
"""Curves that are drawn at most: methods of the first settings."""
ROWS = 40
"""Rows of the forest plot at most."""
_WIDTH, _HEIGHT = 246, 170
_RUNS = ("A", "B")
_COLOURS = ("#0072B2", "#D55E00")
_SHAPES = ("circle", "triangle-up")
_DASHES = ([1, 0], [6, 3])
_CURVE = ("model_a", "model_b", "data_a", "data_b", "dtype_a", "dtype_b")


def overlaid(differences: pl.DataFrame, metric: str, name: str) -> Figure | None:
    """Return both runs' curves of the change of a metric, a panel per method and setting."""
    rows = differences.filter(
        pl.col("metric") == f"d_{metric}", pl.col("share_a").is_not_null()
    ).sort("share_a", maintain_order=True)
    apart, told = varying(rows), about(rows)
    blocks = rows.partition_by(*_CURVE, *apart, "method", "parameters", maintain_order=True)
    if not blocks:
        return None
    look = _panel(metric, float(rows["share_a"].max() or 1))  # type: ignore[arg-type]
    shown = sorted(blocks, key=_title)[:PANELS]
    left = len(blocks) - len(shown)
    more = f" The first {len(shown)} of {len(blocks)}." if left else ""
    return Figure(
        name=name,
        chart=wrapped(
            [of(str(i), look, title=_heading(block, told)) for i, block in enumerate(shown)],
            columns=3,
            spacing=26,
        ),
        data={str(i): _points(block, metric) for i, block in enumerate(shown)},
        caption=(
            f"Change of {metric_said(metric)} against the share of units held, run A and run B over"
            " each other, each against its own unablated model, as the mean over masks. Bars: 95 %"
            " intervals of each run by itself; whether the runs differ is not read off their"
            f" overlap but off the differences below.{more}"
        ),
        alt=f"Line charts of the change of {METRIC_NAME[metric]} against the share held, one line"
        " per run. The numbers are in the table below.",
    )


def _title(block: pl.DataFrame) -> tuple[str, ...]:
    row = block.row(0, named=True)
    return row_name(row), method_name(row["method"], row["parameters"])


def _heading(block: pl.DataFrame, told: Callable[[dict[str, object]], str]) -> list[str]:
    row = block.row(0, named=True)
    lines = [method_name(row["method"], row["parameters"]), *told(row).split(" · ")]
    return [line for line in lines if line]


def _points(block: pl.DataFrame, metric: str) -> Rows:
    made: Rows = []
    scale = SCALE[metric]
    for row in block.to_dicts():
        for run, end in zip(_RUNS, "ab", strict=True):
            ends = [row[f"{x}_{end}"] for x in ("value", "low", "high")]
            middle, low, high = (None if x is None else x * scale for x in ends)
            places = 2 if low is None or high is None else decimals(low, high)
            made.append(
                {
                    "share": row[f"share_{end}"],
                    "run": run,
                    **{"mean": middle, "low": low, "high": high},
                    "tip": f"{run}, {percent(row[f'share_{end}'], 1)} held:"
                    f" {METRIC_NAME[metric]} {change(middle, places)} {UNIT[metric]}"
                    f" {interval(low, high, places)}",
                }
            )
    return made


def _panel(metric: str, widest: float) -> Spec:
    unit = f" ({UNIT[metric]})" if UNIT[metric] else ""
    legend = style.legend(_RUNS)
    colour = alt.Scale(domain=list(_RUNS), range=list(_COLOURS))
    base = alt.Chart(alt.NamedData(name=""), width=_WIDTH, height=_HEIGHT).encode(
        x=share_axis((0.0, widest)), color=alt.Color("run:N", scale=colour, legend=legend)
    )
    title = f"change of {METRIC_NAME[metric]}{unit}"
    y = alt.Y("mean:Q", title=title, axis=VALUES)
    dashes = alt.Scale(domain=list(_RUNS), range=[list(d) for d in _DASHES])
    shapes = alt.Scale(domain=list(_RUNS), range=list(_SHAPES))
    return part(
        alt.layer(
            base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(
                y=alt.Y("low:Q", title=title, axis=VALUES), y2="high:Q"
            ),
            base.mark_line(strokeWidth=1.8).encode(
                y=y, strokeDash=alt.StrokeDash("run:N", scale=dashes, legend=None)
            ),
            base.mark_point(filled=True, size=46, opacity=1).encode(
                y=y,
                shape=alt.Shape("run:N", scale=shapes, legend=legend),
                description="tip:N",
            ),
        )
    )


def forest(differences: pl.DataFrame, metric: str, name: str) -> Figure | None:
    """Return the differences of the areas, B − A, a row per method and setting."""
    rows = differences.filter(
        pl.col("metric") == f"d_{metric}",
        pl.col("fraction").is_null(),
        pl.col("low").is_not_null(),
    )
    if rows.is_empty():
        return None
    told, scale = about(rows), SCALE[metric]
    data: Rows = []
    for row in rows.head(ROWS).to_dicts():
        middle, low, high = (row[x] * scale for x in ("estimate", "low", "high"))
        places = decimals(low, high)
        words = [told(row), method_name(row["method"], row["parameters"])]
        label = " · ".join(word for word in words if word)
        numbers = f"{change(middle, places)} {interval(low, high, places)}"
        data.append(
            {"row": label, "mean": middle, "low": low, "high": high, "numbers": numbers}
            | {"tip": f"{label}: {METRIC_NAME[metric]} {numbers} {UNIT[metric]}"}
        )
    more = f" The first {ROWS} of {rows.height}." if rows.height > ROWS else ""
    return Figure(
        name=name,
        chart={**_forest_panel(metric, [str(x["row"]) for x in data]), "data": {"name": "rows"}},
        data={"rows": data},
        caption=(
            f"How far the damage of the runs differs: mean change of {metric_said(metric)} over the"
            " held share, B − A, with its 95 % interval, not adjusted for their number."
            f" {'Above' if metric in COSTS else 'Below'} zero, run B is damaged more.{more}"
        ),
        alt=f"Forest plot of the differences of areas in {METRIC_NAME[metric]}, B minus A. The"
        " numbers are in the table below.",
    )


def _forest_panel(metric: str, order: Sequence[str]) -> Spec:
    unit = f" ({UNIT[metric]})" if UNIT[metric] else ""
    axis = alt.Axis(ticks=False, domain=False, grid=True, labelLimit=360)
    y = alt.Y("row:N", sort=list(order), title=None, axis=axis)
    base = alt.Chart(alt.NamedData(name="rows"), width=360, height=22 * len(order) + 10)
    title = f"B − A: change of {METRIC_NAME[metric]}{unit}"
    x = alt.X("mean:Q", title=title)
    ink = alt.value(_COLOURS[0])
    return part(
        alt.layer(
            base.mark_rule(color=style.INK, strokeWidth=1).encode(x=alt.XDatum(0)),
            base.mark_rule(strokeWidth=2).encode(
                y=y, x=alt.X("low:Q", title=title), x2="high:Q", color=ink
            ),
            base.mark_point(filled=True, size=52, opacity=1, shape="square").encode(
                y=y, x=x, color=ink, description="tip:N"
            ),
            base.mark_text(align="left", fontSize=10.5).encode(
                y=y, x=alt.value(368), text="numbers:N"
            ),
        )
    )
