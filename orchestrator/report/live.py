"""Live: figures that answer, beside the still ones.

A live figure is a still one (what is printed, and shown where scripts are off) with its numbers
and a few small charts' descriptions, so that a reader can choose what is drawn, look at a point,
zoom and take the drawing away. Its charts are Vega-Lite, as the still one's; they are compiled
here, and drawn in the browser by Vega itself, which stands in the page (`runtime`). The
page asks nobody for anything.

What the script does with a live figure is one rule: the rows that the choices keep are parted by
the facets, and each part is drawn by the chart of its kind. Nothing is computed in the browser:
every number that can be shown stands in the tables. `live.js` is that rule.

Numbers keep five significant digits, and words that come again stand once, so a figure of ten
thousand points takes some 300 kB.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

import vl_convert

from orchestrator.report.figures import Figure, Spec
from orchestrator.report.html import Element, tag
from orchestrator.report.style import Encoding
from orchestrator.store import Store

Row = Mapping[str, object]
DIGITS = 5
SCRIPTS = ("live.js", "neurons.js")
"""Our own scripts of a page, in the order of their running."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A control over a field of the rows: a list, or check boxes where several can be kept."""

    field: str
    label: str
    values: Sequence[str]
    """In the order of the control; one that no row has is left out."""
    every: str = ""
    """The text of the entry that keeps all; empty where one has to be chosen."""
    first: str = ""
    """What is chosen at first; else all, or the first of the values."""
    several: bool = False
    looks: Encoding | None = None
    """How the values look, where the check boxes are the figure's legend too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """A figure with a live form."""

    still: Figure
    charts: Mapping[str, Spec]
    """A chart by the value of the rows' field `by`; its data are called `rows`."""
    rows: Sequence[Row]
    """The points. `told`, where a row has it, is what is said of it; else its `columns` are."""
    choices: Sequence[Choice]
    facets: Sequence[str]
    """Fields by whose values the chosen rows are parted into charts; the values are its title."""
    columns: Mapping[str, str]
    """Fields and headings of the table of what is drawn, and of what is said of a point."""
    by: str = ""
    shares: Sequence[str] = ()
    """Fields that are printed in per cent."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What is said of a facet's value, under the title."""
    height: int = 230
    """Of a chart, in pixels; its width is the page's."""

    def draw(self, run: Store, numbered: int) -> Element:
        """Put the still figure's files into a run's report; return both forms as an element."""
        figure = self.still.draw(run, numbered)
        figure.set("class", "live")
        figure.append(payload(self.still.name, self._told()))
        return figure

    def _told(self) -> dict[str, object]:
        looks = any(choice.looks for choice in self.choices)
        return {
            "charts": {
                kind: compiled(spec, legend=not looks) for kind, spec in self.charts.items()
            },
            "by": self.by,
            "rows": columnar(self.rows),
            "choices": [_control(choice, self.rows) for choice in self.choices],
            "facets": list(self.facets),
            "columns": [[name, said] for name, said in self.columns.items()],
            "shares": list(self.shares),
            "notes": dict(self.notes),
            "height": self.height,
        }


class Numbered:
    """Draws figures and numbers them in the order of the page."""

    def __init__(self, store: Store) -> None:
        self._store, self._drawn = store, 0

    def draw(self, figure: Figure | Live | None) -> Sequence[Element]:
        """Return a figure as the next of the page; nothing for none."""
        if figure is None:
            return []
        self._drawn += 1
        return [figure.draw(self._store, self._drawn)]


def _control(choice: Choice, rows: Sequence[Row]) -> dict[str, object]:
    there = {str(row[choice.field]) for row in rows}
    values = [value for value in choice.values if value in there]
    looks = {}
    if choice.looks is not None:
        looks = {
            name: {"colour": look.colour, "dash": list(look.dash), "shape": look.shape}
            for name, look in zip(choice.looks.names, choice.looks.looks, strict=True)
        }
    return {
        "field": choice.field,
        "label": choice.label,
        "values": values,
        "every": choice.every,
        "first": choice.first if choice.first in values else "",
        "several": choice.several,
        "looks": looks,
    }


def compiled(spec: Spec, *, legend: bool = True) -> dict[str, Any]:
    """Return a Vega-Lite chart, whose data are called `rows`, as Vega."""
    config = {"view": {"stroke": None}}
    whole = {"width": 300, "height": 200, **spec, "data": {"name": "rows"}, "config": config}
    made: dict[str, Any] = vl_convert.vegalite_to_vega(whole)
    made.pop("$schema", None)
    if not legend:
        made.pop("legends", None)
    return made


def columnar(rows: Sequence[Row]) -> dict[str, object]:
    """Return rows as columns: numbers rounded, words as numbers of the list they stand in."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: Sequence[object]) -> object:
    if not any(isinstance(value, str) for value in values):
        return [_short(value) for value in values]
    words = {word: i for i, word in enumerate(dict.fromkeys(map(_word, values)))}
    return {"words": list(words), "at": [words[_word(value)] for value in values]}


def _word(value: object) -> str | None:
    return None if value is None else str(value)


def _short(value: object) -> object:
    """Return a number with few digits; what is no finite number is none, as JSON knows none."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    if value != value or value in (float("inf"), float("-inf")):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e9 else short


def payload(name: str, value: object) -> Element:
    """Return data as an element of the page that a script finds by this name.

    The text of a script is no markup, so what could end it is written in another way.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", text, type="application/json", id=f"data-{name}")


@cache
def runtime() -> str:
    """Return Vega and its interpreter as a script that leaves `vegaEmbed`, about 900 kB."""
    return scripted(str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")))


def scripts(names: Iterable[str]) -> list[str]:
    """Return scripts of this package by the names of their files."""
    folder = resources.files("orchestrator.report")
    return [scripted(folder.joinpath(name).read_text(encoding="utf-8")) for name in names]


def scripted(text: str) -> str:
    """Return a script that can stand in a page: nothing in it looks like the end of one."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def scripting() -> dict[str, str]:
    """Return the scripts of a page, and the policy that allows these and nothing else."""
    texts = [runtime(), *scripts(SCRIPTS)]
    digests = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in texts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return {
        "scripts": "\n".join(f"<script>{text}</script>" for text in texts),
        "policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:;"
        f" script-src {allowed}",
    }
