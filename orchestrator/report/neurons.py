"""Neurons: an explorer of single neurons, searched, sorted and drawn one by one.

A reader asks of one neuron: what does it do, and where do the constants lie that it is held at? The
answer is its histogram with every method's centre on it, the interval of its peak, and the peaks at
fixed scales, which say whether the peak depends on how closely one looks.

The page carries at most `NEURONS` of a run in about `BYTES` at most, whatever the model (`carried`
says which), and says so, and how any other is asked for. `neurons.js` is what a reader meets.
Nothing of it is on paper: a still figure (`densities`) shows three neurons of each model there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from orchestrator.labels import OWN
from orchestrator.report.activations import Activations
from orchestrator.report.carried import BINS, CUT, SCALES, Collection, carry, collections, shares
from orchestrator.report.html import Element, tag
from orchestrator.report.live import compiled, payload
from orchestrator.report.read import Run
from orchestrator.report.settings import in_turn
from orchestrator.report.style import Encoding
from orchestrator.report.words import count, percent

NEURONS = 6000
"""Neurons that a page carries at most, of all its collections together."""
BYTES = 2_500_000
"""What they may take of the page."""
EACH, PER_METHOD = 330, 12
"""Bytes that a neuron takes at most, and for each constant of it; measured, then rounded up."""
COLLECTIONS = 48
"""Collections that a page carries at most: of every model and site the first, then the second, …"""
PEAK = "peak (smooth)"
"""The estimator of the table's peaks; it is marked whether or not the sweep holds at it."""

_GREY = "#555555"


def explorer(run: Run, collected: Mapping[str, Activations]) -> list[Element]:
    """Return the explorer: words, the place it is built at and its data; nothing if there is none.

    `collected` has the models and sites by the names that the page calls them, in its order. The
    same run gives the same bytes. Raises StoreError if the tables cannot be read.
    """
    every = collections(run.store, collected)
    if not every:
        return []
    shown = in_turn(every, COLLECTIONS)
    fits = min(NEURONS, BYTES // (EACH + PER_METHOD * len(run.methods)))
    given = shares([collection.neurons for collection in shown], fits)
    found = [
        carry(run.store, collection, most)
        for collection, most in zip(shown, given, strict=True)
        if most
    ]
    look = _looks(run.methods, [mark for one in found for mark in one.centres])
    data = {
        "collections": [asdict(one) for one in found],
        "marks": list(look.names),
        "peak": PEAK,
        "scales": list(SCALES.items()),
        "chart": compiled(_chart(look), legend=False),
    }
    left = sum(map(len, every)) - len(shown)
    off = tag("p", "The explorer needs scripts, which are off here.", class_="note")
    return [
        tag("p", said(shown, sum(given), left)),
        tag("div", off, id="neurons", class_="screen"),
        tag("p", "Any neuron, with its whole histogram, is asked for by"),
        tag("pre", question(shown[0]), tabindex="0"),
        tag("p", "where RUN is the folder of this run."),
        payload("neurons", data),
    ]


def said(shown: Sequence[Collection], given: int, left: int) -> str:
    """Return which neurons are on the page, in words."""
    whole = sum(collection.neurons for collection in shown)
    if given == whole:
        text = f"{count(whole, 'neuron')}: all whose activations were collected"
        text += ", of the collections that are here." if left else "."
    else:
        text = (
            f"{given:,} of {count(whole, 'neuron')}. Where a layer does not fit, it is here with"
            " its most extreme neurons by the distance of mean and peak, by modes and by kurtosis,"
            " and with an evenly spaced sample of the others: the first rows by these three"
            " headings are extremes of the whole layer, all else is a sample."
        )
    if left:
        text += f" {count(left, 'collection')} more, of other axes or strata, are in the tables."
    return (
        f"{text} The most extreme of many neurons are partly so by chance. A histogram is cut where"
        f" {percent(CUT, 2)} of the values lie beyond, has at most {BINS} bins, and shows heights"
        " to within 1/255 of the tallest; exact zeros are not in its bins. Peaks at h are those of"
        " the density smoothed over that share of the neuron’s spread (its s.d. or, if less, its"
        " interquartile range over 1.349)."
    )


def question(collection: Collection) -> str:
    """Return the command that asks for one neuron of a collection, as a shell takes it."""
    named = {k: v for k, v in collection.where.items() if k != "dtype" and (k, v) != ("basis", OWN)}
    own = [f"{k} = '{v.replace(_QUOTE, _QUOTE * 2)}'" for k, v in named.items()]
    lines = [
        "SELECT head, mean, std, peak,",
        "  bin_start, bin_width, counts FROM statistics",
        f"WHERE layer = {min(collection.sizes)} AND neuron = 0 AND cell IS NULL",
        *(f"  AND {' AND '.join(own[i : i + 2])}" for i in range(0, len(own), 2)),
    ]
    sql = "\n".join(lines)
    for sign in '\\"$`':
        sql = sql.replace(sign, f"\\{sign}")
    return f'peaksweep query RUN --format json "{sql}"'


_QUOTE = "'"


def _looks(methods: Sequence[str], marked: Sequence[str]) -> Encoding:
    there = dict.fromkeys([PEAK, *marked])
    names = [method for method in methods if method in there]
    names += [mark for mark in there if mark not in names]
    return Encoding(names=names, among=[*methods, *(n for n in names if n not in methods)])


def _chart(look: Encoding) -> dict[str, object]:
    """Return a neuron's chart: below its histogram, above it a line for each mark.

    Rows have a `part`: bin (`x` to `x2`, `height` up to 1), centre, scale, or interval of a `mark`.
    """
    names = [*look.names, *SCALES.values()]
    more = len(SCALES)
    domain = {"domain": names}
    colour = domain | {"range": [*(one.colour for one in look.looks), *[_GREY] * more]}
    dash = domain | {"range": [*(list(one.dash) for one in look.looks), *[[1, 0]] * more]}
    shape = domain | {"range": [*(one.shape for one in look.looks), *["circle"] * more]}
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"nice": False, "zero": False},
        "axis": {"title": "activation", "grid": False, "tickCount": 6, "labelBound": True},
    }
    mark = {"field": "mark", "type": "nominal", "legend": None}
    hue = {"color": mark | {"scale": colour}}
    tracks = {
        "field": "mark",
        "type": "nominal",
        "sort": names,
        "scale": {"range": [4, {"expr": f"height - {FOOT + 8}"}], "type": "point", "padding": 0.5},
        "axis": {"title": None, "domain": False, "ticks": False, "grid": True, "labelLimit": 150},
    }
    height = {
        "field": "height",
        "type": "quantitative",
        "axis": None,
        "scale": {"domain": [0, 1], "range": [{"expr": "height"}, {"expr": f"height - {FOOT}"}]},
    }
    whole = {key: value for key, value in height.items() if key != "field"} | {"datum": 1}
    told = {"tooltip": {"field": "told"}, "description": {"field": "told"}}
    bins = {
        "transform": [_of("bin")],
        "mark": {
            "type": "area",
            "interpolate": "step-after",
            "color": "#8f8f8f",
            "fillOpacity": 0.4,
            "line": {"color": "#8f8f8f", "strokeWidth": 1},
        },
        "encoding": {"x": x, "y": height},
    }
    looked_at = {  # what a pointer finds of a bin: all of its height
        "transform": [_of("bin"), {"filter": "isValid(datum.x2)"}],
        "mark": {"type": "rect", "opacity": 0},
        "encoding": {"x": x, "x2": {"field": "x2"}, "y": whole, "y2": {"datum": 0}, **told},
    }
    rules = {
        "transform": [_of("centre")],
        "mark": {"type": "rule", "strokeWidth": 1.8},
        "encoding": {"x": x, **hue, "strokeDash": mark | {"scale": dash}},
    }
    interval = {
        "transform": [_of("interval")],
        "mark": {"type": "rule", "strokeWidth": 7, "opacity": 0.45},
        "encoding": {"x": x, "x2": {"field": "x2"}, "y": tracks, **hue, **told},
    }
    centres = {
        "transform": [_of("centre")],
        "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
        "encoding": {"x": x, "y": tracks, **hue, "shape": mark | {"scale": shape}, **told},
    }
    scales = {
        "transform": [_of("scale")],
        "mark": {"type": "point", "filled": False, "size": 55, "opacity": 1, "stroke": _GREY},
        "encoding": {"x": x, "y": tracks, **told},
    }
    return {
        "layer": [{"layer": [bins, looked_at]}, rules, {"layer": [interval, centres, scales]}],
        "resolve": {"scale": {"y": "independent"}},
    }


FOOT = 150
"""Height of the histogram under the lines of marks, in pixels."""


def _of(part: str) -> dict[str, str]:
    return {"filter": f"datum.part === '{part}'"}
