"""Marks of the heat maps: a cell's colour, its dot and its cross.

Colour says how much; what is not clear of zero has a dot and what is not there a cross, so
neither is read off a shade. Blue and orange, both darker with distance from white at zero.
"""

from dataclasses import dataclass

import altair as alt

from orchestrator.report.figures import Spec, part
from orchestrator.report.words import METRIC_NAME, UNIT

_ORANGES = ("#f6f5f1", "#fcd9ad", "#f2a04c", "#c4610c", "#7a3504")
_BLUES = ("#f6f5f1", "#cbe0ee", "#7db5d8", "#2f7db5", "#0a4379")
_WIDTH = 124
_TALL, _LEAST, _MOST = 200, 3.5, 15
"""Height of a printed map; of its rows at least and at most, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Colours of maps that are to be compared."""

    low: float
    high: float
    """The ends, equally far from zero, or zero at one of them."""
    worse: int
    """The sign of damage: 1 where the metric grows with it."""

    def colour(self, metric: str, legend: alt.Legend) -> alt.Color:
        """Return the field `value` as colours."""
        above, below = (_ORANGES, _BLUES) if self.worse > 0 else (_BLUES, _ORANGES)
        colours = [*below[::-1], *above[1:]]
        reach = max(-self.low, self.high)
        steps = [reach * (i / len(below[1:]) - 1) for i in range(len(colours))]
        there = [i for i, step in enumerate(steps) if self.low <= step <= self.high]
        scale = alt.Scale(
            type="linear",
            domain=[steps[i] for i in there],
            range=[colours[i] for i in there],
            clamp=True,
            nice=False,
        )
        unit = f" ({UNIT[metric]})" if UNIT.get(metric) else ""
        title = f"{METRIC_NAME.get(metric, metric)}{unit}"
        return alt.Color("value:Q", title=title, scale=scale, legend=legend)


def still_map(metric: str, scale: Scale, layers: int, *, first: bool) -> Spec:
    """Return a printed map without its data and title; the first of a row names the layers."""
    height = layers * min(max(_TALL / max(layers, 1), _LEAST), _MOST)
    legend = alt.Legend(
        gradientLength=max(min(height, 120), 60), gradientThickness=10, tickCount=4, titleLimit=90
    )
    chart = _map("", metric, scale, legend, labelled=first)
    return part(chart.properties(width=_WIDTH, height=height))


def live_map(metric: str, scale: Scale) -> Spec:
    """Return a live map, its data called `rows`."""
    legend = alt.Legend(
        orient="top", gradientLength=150, gradientThickness=10, tickCount=4, titleLimit=200
    )
    return part(_map("rows", metric, scale, legend))


def _map(
    data: str, metric: str, scale: Scale, legend: alt.Legend, *, labelled: bool = True
) -> alt.LayerChart | alt.FacetChart:
    x = alt.X(
        "fraction:O",
        title="fraction",
        axis=alt.Axis(
            format="~%",
            labelAngle=0,
            labelOverlap="greedy",
            labelSeparation=3,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y(
        "layer:O",
        title="layer" if labelled else None,
        sort="descending",
        axis=alt.Axis(labels=labelled, labelOverlap="greedy", ticks=False, domain=False),
    )
    base = alt.Chart(alt.NamedData(name=data)).encode(x=x, y=y)
    there = base.transform_filter("isValid(datum.value)")
    unclear = there.transform_filter("datum.clear != 'yes'")
    absent = base.transform_filter("!isValid(datum.value)")
    return alt.layer(
        there.mark_rect(aria=False).encode(color=scale.colour(metric, legend)),
        unclear.mark_point(
            aria=False,
            filled=True,
            size=16,
            color="#111111",
            opacity=1,
            stroke="#ffffff",
            strokeWidth=0.7,
        ),
        absent.mark_text(aria=False, text="×", color="#767676", fontSize=11),
        view=alt.ViewBackground(stroke="#bbbbbb"),
    )
