"""Marks of the forest plot: how a pair of methods is drawn, on paper and live.

Declared pairs are filled squares with thick intervals, exploratory ones hollow circles with thin
ones: shape, filling and line say what colour says too. On paper the pairs are named once per
setting and the numbers stand beside the intervals; live, a chart may be narrow, so name and
numbers stand above the interval.
"""

from collections.abc import Sequence

import altair as alt

from orchestrator.report import style
from orchestrator.report.figures import Spec, part
from orchestrator.report.words import METRIC_NAME, UNIT

DECLARED, EXPLORATORY = "declared", "exploratory"
KINDS = (DECLARED, EXPLORATORY)
LINE = 36
"""Height of a pair in a live chart, in pixels."""

BESIDE = 156
"""Room for the numbers between two printed panels, in pixels."""
_WIDTH, _STEP = 196, 19
_COLOURS = ("#0072B2", "#767676")


def still_panel(metric: str, pairs: Sequence[str], *, first: bool) -> Spec:
    """Return a metric of a setting without its data; the first of a row names the pairs.

    A row beyond the axis has an `arrow` and where it stands, `edge`, in place of its numbers,
    which are printed as `numbers` whatever is drawn.
    """
    labels = alt.Axis(labels=first, ticks=False, domain=False, grid=True, labelLimit=240)
    y = alt.Y("pair:N", sort=list(pairs), title=None, axis=labels)
    base = alt.Chart(alt.NamedData(name=""), width=_WIDTH, height=_STEP * len(pairs))
    ink = alt.Color("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(_COLOURS)))
    ink = ink.legend(None)
    zero = base.mark_rule(color=style.INK, strokeWidth=1).encode(x=alt.XDatum(0))
    words = base.mark_text(align="left", fontSize=10.5)
    arrows = base.mark_text(fontSize=15, fontWeight="bold", dy=-1)
    return part(
        alt.layer(
            zero,
            *_marks(base, metric, y),
            arrows.encode(y=y, x=alt.X("edge:Q"), text="arrow:N", color=ink),
            words.encode(y=y, x=alt.value(_WIDTH + 8), text="numbers:N", color=ink),
        )
    )


def live_panel(metric: str, pairs: Sequence[str]) -> Spec:
    """Return the chart of a metric, its data called `rows`."""
    scale = alt.Scale(type="point", padding=0.6)
    y = alt.Y("pair:N", sort=list(pairs), axis=None, scale=scale)
    base = alt.Chart(alt.NamedData(name="rows"))
    words = base.mark_text(align="left", baseline="bottom", dy=-8, fontSize=12, color=style.INK)
    said = words.encode(y=y, x=alt.value(0), text="said:N")
    zero = base.mark_tick(orient="vertical", size=16, thickness=1, color=style.INK, opacity=1)
    zero = zero.encode(y=y, x=alt.XDatum(0))  # no line, which would cross the words
    return part(alt.layer(zero, *_marks(base, metric, y), said))


def _marks(base: alt.Chart, metric: str, y: alt.Y) -> tuple[alt.Chart, alt.Chart]:
    """Return the intervals and the points."""
    unit = f" ({UNIT[metric]})" if UNIT.get(metric) else ""
    title = f"difference in {METRIC_NAME.get(metric, metric)}{unit}"
    axis = alt.Axis(tickCount=5, domain=False, ticks=False)
    kinds = list(KINDS)
    legend = style.legend(kinds)
    stroke = alt.Stroke("kind:N", scale=alt.Scale(domain=kinds, range=list(_COLOURS)))
    width = alt.StrokeWidth("kind:N", scale=alt.Scale(domain=kinds, range=[2.4, 1.2]), legend=None)
    fills = alt.Scale(domain=kinds, range=[_COLOURS[0], "transparent"])
    shapes = alt.Scale(domain=kinds, range=["square", "circle"])
    scale = alt.Scale(zero=True, nice=False, padding=8)
    x = alt.X("low:Q", title=title, axis=axis, scale=scale)
    return (
        base.mark_rule(clip=True).encode(
            y=y, x=x, x2="high:Q", stroke=stroke.legend(legend), strokeWidth=width
        ),
        base.mark_point(size=52, opacity=1, strokeWidth=1.4, clip=True).encode(
            y=y,
            x=alt.X("estimate:Q"),
            stroke=stroke.legend(legend),
            fill=alt.Fill("kind:N", scale=fills, legend=legend),
            shape=alt.Shape("kind:N", scale=shapes, legend=legend),
            description="tip:N",
        ),
    )
