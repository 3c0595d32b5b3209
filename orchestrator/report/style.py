"""Style: how a method looks, the same in every figure.

Colours are Okabe and Ito's, which people with any of the common colour
blindnesses can tell apart; each method has its own dashes and point shape too,
so a figure survives a black-and-white printer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
INK = "#222222"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colour, dashes (pixels drawn, pixels left out, …) and point shape."""

    colour: str
    dash: Sequence[int]
    shape: str


_KNOWN = {
    "zero": Look(colour="#000000", dash=(2, 2), shape="circle"),
    "mean": Look(colour="#0072B2", dash=(1, 0), shape="square"),
    "peak (smooth)": Look(colour="#D55E00", dash=(1, 0), shape="triangle-up"),
    "peak (paper)": Look(colour="#E69F00", dash=(6, 3), shape="diamond"),
    "resample (dataset)": Look(colour="#009E73", dash=(8, 3, 2, 3), shape="cross"),
}
_OTHERS = (
    Look(colour="#CC79A7", dash=(1, 0), shape="triangle-down"),
    Look(colour="#56B4E9", dash=(4, 2), shape="triangle-right"),
    Look(colour="#882255", dash=(6, 3), shape="triangle-left"),
    Look(colour="#767676", dash=(2, 3), shape="stroke"),
)


def looks(names: Sequence[str]) -> list[Look]:
    """Return a look per name: a known method's own, the rest in turn."""
    others = [name for name in names if name not in _KNOWN]
    return [
        _KNOWN[name] if name in _KNOWN else _OTHERS[others.index(name) % len(_OTHERS)]
        for name in names
    ]


def colour(names: Sequence[str]) -> alt.Scale:
    """Return the scale from names to colours."""
    return alt.Scale(domain=list(names), range=[look.colour for look in looks(names)])


def dash(names: Sequence[str]) -> alt.Scale:
    """Return the scale from names to dashes."""
    return alt.Scale(domain=list(names), range=[list(look.dash) for look in looks(names)])


def shape(names: Sequence[str]) -> alt.Scale:
    """Return the scale from names to point shapes."""
    return alt.Scale(domain=list(names), range=[look.shape for look in looks(names)])


def legend(columns: int) -> alt.Legend:
    """Return the one legend of a figure: a row above it."""
    return alt.Legend(
        title=None,
        orient="top",
        direction="horizontal",
        columns=columns,
        symbolSize=110,
        symbolOpacity=1,
        symbolStrokeWidth=0,
    )


CONFIG = {
    "font": FONT,
    "background": "white",
    "padding": 6,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12.5,
        "titleFontWeight": "normal",
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "tickSize": 4,
        "gridColor": "#e8e8e8",
        "labelPadding": 4,
        "titlePadding": 8,
    },
    "legend": {"labelFontSize": 13, "labelColor": INK, "labelLimit": 320},
    "title": {
        "anchor": "start",
        "fontSize": 14,
        "fontWeight": "bold",
        "color": INK,
        "subtitleFontSize": 12.5,
        "subtitleColor": "#444444",
        "subtitlePadding": 3,
        "offset": 10,
    },
}
"""Vega-Lite's configuration: fonts, inks and lines of every figure."""
