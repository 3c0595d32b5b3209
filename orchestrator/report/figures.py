"""Figures: charts drawn once, as SVG for the page and as SVG and PNG files.

Charts are Vega-Lite, drawn here without a browser or a network. The page
embeds the SVG itself, so it needs no script: it prints, opens from a disk and
shows the same everywhere. A point's description becomes its tooltip.

Panels are Altair's; they are set side by side and below each other as plain
Vega-Lite, and their data are kept apart under a name, because Altair copies a
chart with all that is in it each time it is put into another (a figure of
sixteen panels took ten seconds, and takes less than one).
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import vl_convert

from orchestrator.report.html import Element, tag
from orchestrator.report.style import CONFIG
from orchestrator.store import Store

Spec = Mapping[str, object]
"""A piece of Vega-Lite."""

Rows = list[dict[str, object]]

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_LONG = re.compile(r"-?\d+\.\d{3,}(e-?\d+)?")
_ID = re.compile(r'\bid="([^"]+)"')
_REFERENCE = re.compile(r'(\bid="|url\(#)([^")]+)')
_GEOMETRY = ("d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height")


def part(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    """Return a chart as a part of a figure."""
    spec: dict[str, object] = chart.to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def of(data: str, panel: Spec, *, title: Sequence[str] = ()) -> Spec:
    """Return a panel that draws the data of this name, under these lines."""
    head = {"text": list(title), "fontSize": 12, "fontWeight": "normal", "offset": 6}
    return {**panel, "data": {"name": data}} | ({"title": head} if title else {})


def beside(panels: Sequence[Spec], *, title: str, subtitle: str = "", spacing: int) -> Spec:
    """Return panels side by side under one title."""
    heading = {"text": title} | ({"subtitle": subtitle} if subtitle else {})
    return {"hconcat": list(panels), "spacing": spacing, "title": heading}


def below(rows: Sequence[Spec], *, spacing: int) -> Spec:
    """Return rows below each other, with one legend."""
    return {"vconcat": list(rows), "spacing": spacing, "resolve": _ONE_LEGEND}


def wrapped(panels: Sequence[Spec], *, columns: int, spacing: int) -> Spec:
    """Return panels in rows of `columns`, with one legend."""
    return {
        "concat": list(panels),
        "columns": columns,
        "spacing": spacing,
        "resolve": _ONE_LEGEND,
    }


_ONE_LEGEND = {"scale": dict.fromkeys(("color", "shape", "strokeDash"), "shared")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A chart with its words."""

    name: str
    """Name of its files, without ending."""
    chart: Spec
    data: Mapping[str, Rows]
    """What its panels draw, by the names they call it."""
    caption: str
    alt: str
    """What it shows, for people who can't see it."""

    def draw(self, run: Store, numbered: int) -> Element:
        """Put the figure's SVG and PNG into a run's report; return it as an element of the page."""
        spec = {**self.chart, "datasets": self.data, "config": CONFIG}
        svg = _renumbered(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
        run.replace(f"report/{self.name}.svg", svg.encode())
        run.replace(f"report/{self.name}.png", vl_convert.svg_to_png(svg, scale=2))
        label = f"Figure {numbered}"
        return tag(
            "figure",
            _inline(svg, self.name, f"{label}. {self.alt}"),
            tag(
                "figcaption",
                tag("b", f"{label}. "),
                f"{self.caption} ",
                tag("a", "SVG", href=f"{self.name}.svg"),
                " · ",
                tag("a", "PNG", href=f"{self.name}.png"),
            ),
            id=f"figure-{self.name}",
        )


def _renumbered(svg: str) -> str:
    """Return an SVG whose ids are counted from its own start, not from the process's."""
    ids = {name: f"clip{i}" for i, name in enumerate(dict.fromkeys(_ID.findall(svg)))}
    return _REFERENCE.sub(lambda m: f"{m[1]}{ids.get(m[2], m[2])}", svg)


def _inline(svg: str, name: str, description: str) -> Element:
    """Return an SVG text as an element of an HTML page.

    Its namespace goes (HTML implies it), its ids get the figure's name, its
    width becomes the page's, coordinates lose digits that no screen has, and
    described points get a tooltip.
    """
    root = ET.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        for key in _GEOMETRY:
            if key in element.attrib:
                element.set(key, _LONG.sub(_rounded, element.attrib[key]))
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.attrib['id']}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("#", f"#{name}-"))
        told = element.attrib.pop("aria-label", "")
        if element.attrib.pop("aria-roledescription", "") == "point" and told:
            element.insert(0, tag("title", told))
        for key in ("role", "aria-hidden"):
            element.attrib.pop(key, None)
    natural = root.attrib.pop("width")
    root.attrib.pop("height")
    root.set("style", f"max-width: {natural}px")
    root.set("role", "img")
    root.set("aria-label", description)
    return root


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
