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
    "median": Look(colour="#56B4E9", dash=(4, 2), shape="triangle-right"),
    "noise": Look(colour="#999933", dash=(2, 3), shape="triangle-left"),
    "marginal": Look(colour="#882255", dash=(6, 3), shape="triangle-down"),
    "nearest_peak": Look(colour="#CC79A7", dash=(1, 0), shape="triangle-down"),
}
_OTHERS = (
    Look(colour="#767676", dash=(1, 0), shape="triangle-down"),
    Look(colour="#332288", dash=(5, 2), shape="circle"),
    Look(colour="#44AA99", dash=(2, 2), shape="square"),
    Look(colour="#AA4499", dash=(8, 3, 2, 3), shape="diamond"),
    Look(colour="#8C564B", dash=(1, 0), shape="triangle-up"),
    Look(colour="#6B8E23", dash=(4, 2), shape="cross"),
    Look(colour="#CC6677", dash=(6, 3), shape="triangle-right"),
)
_LINE = 900
"""Width of a row of a legend, in pixels."""
_LETTER, _SYMBOL = 7.2, 42
"""About how wide a letter of a legend is, and a symbol with the space around it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How the methods of a figure look."""

    names: Sequence[str]
    """The methods that the figure shows."""
    among: Sequence[str]
    """Every method of the run, so that one looks the same in each figure."""

    @property
    def looks(self) -> list[Look]:
        """A look per name: a known method's own, the rest in turn."""
        others = [name for name in self.among if name not in _KNOWN]
        return [
            _KNOWN[name] if name in _KNOWN else _OTHERS[others.index(name) % len(_OTHERS)]
            for name in self.names
        ]

    @property
    def colour(self) -> alt.Color:
        """The field `method` as colours, with the figure's legend."""
        colours = alt.Scale(domain=list(self.names), range=[look.colour for look in self.looks])
        return alt.Color("method:N", scale=colours, legend=legend(self.names))

    @property
    def shape(self) -> alt.Shape:
        """The field `method` as point shapes, with the figure's legend."""
        shapes = alt.Scale(domain=list(self.names), range=[look.shape for look in self.looks])
        return alt.Shape("method:N", scale=shapes, legend=legend(self.names))

    @property
    def dash(self) -> alt.StrokeDash:
        """The field `method` as dashes."""
        dashes = [list(look.dash) for look in self.looks]
        scale = alt.Scale(domain=list(self.names), range=dashes)
        return alt.StrokeDash("method:N", scale=scale, legend=None)


def legend(names: Sequence[str]) -> alt.Legend:
    """Return the one legend of a figure: rows above it, as many names in each as have room."""
    widest = max((len(name) for name in names), default=1) * _LETTER + _SYMBOL
    return alt.Legend(
        title=None,
        orient="top",
        direction="horizontal",
        columns=max(min(len(names), int(_LINE / widest)), 1),
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
