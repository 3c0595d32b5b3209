"""Densities: what neurons do, and where the constants they are held at lie.

After the paper's figure 1. A row per model and site: three extreme neurons, each on the
axis of its own activations, and the average of every layer on a standardised
one. `activations` says how they are chosen and averaged.
"""

from collections.abc import Sequence

import altair as alt
import numpy as np

from orchestrator.report.activations import Activations, Average, Density
from orchestrator.report.figures import Figure, Rows, Spec, below, beside, part
from orchestrator.report.style import Encoding
from orchestrator.report.words import listed

WIDTH, HEIGHT = 190, 150

Data = dict[str, Rows]
_FILL, _EDGE = "#d9d9d9", "#8a8a8a"


def densities(panels: Sequence[tuple[str, Activations]], methods: Sequence[str]) -> Figure | None:
    """Return the densities of labelled panels; None when nothing is collected yet."""
    shown = [(label, a.interesting(), a.average()) for label, a in panels if a.collected]
    if not shown:
        return None
    marked = {
        name
        for _, neurons, average in shown
        for name in [*average.marks, *(m for neuron in neurons for m in neuron.marks)]
    }
    names = [name for name in methods if name in marked]
    if not names:  # constants by position have no one place to be marked at
        return None
    look = Encoding(names=names, among=methods)
    data: Data = {}
    rows = [
        beside(
            [
                *(_neuron(data, f"{row}-{i}", neuron, look) for i, neuron in enumerate(neurons)),
                _average(data, f"{row}-average", average, look),
            ],
            title=label,
            spacing=24,
        )
        for row, (label, neurons, average) in enumerate(shown)
    ]
    return Figure(
        name="densities",
        chart=below(rows, spacing=26),
        data=data,
        caption=(
            "Densities of activations, unablated, on collection data, with the constants that the"
            " methods hold at. First three columns: the neuron whose mean and peak lie furthest"
            " apart, the one with most of a second hump, and the one with the heaviest tails; each"
            " on the axis of its own activations, cut at the 0.1 % and 99.9 % quantiles or at the"
            " furthest constant. They are extremes, not typical. Last column: the average density"
            " of each layer (darker: deeper), every neuron standardised by its own mean and s.d.;"
            " points are the medians over all neurons of where a constant lies, bars the quartiles."
            " After the paper’s Figure 1."
        ),
        alt="Histograms of single neurons’ activations and averages of layers, with"
        f" {listed(names)} marked. "
        + "; ".join(
            f"{label}: {listed([f'{n.title}, {n.reason}' for n in neurons])}"
            for label, neurons, _ in shown
        )
        + ".",
    )


def _neuron(data: Data, name: str, density: Density, look: Encoding) -> Spec:
    names = look.names
    edges, heights = density.edges, density.heights
    marks = {m: v for m, v in density.marks.items() if m in names and np.isfinite(v)}
    room = 0.02 * (edges[-1] - edges[0])
    low = min([edges[0], *(v - room for v in marks.values())])
    high = max([edges[-1], *(v + room for v in marks.values())])
    data[name] = [
        {"x": float(x), "height": float(h)} for x, h in zip(edges, [*heights, 0.0], strict=True)
    ]
    data[f"{name}/marks"] = [
        {"x": v, "method": m, "y": _row(names.index(m)), "foot": HEIGHT, "tip": f"{m}: {v:.3g}"}
        for m, v in marks.items()
    ]
    x = alt.X(
        "x:Q",
        title=None,
        scale=alt.Scale(domain=[float(low), float(high)], nice=False, zero=False),
        axis=alt.Axis(tickCount=4, grid=False, labelBound=True, format="~g"),
    )
    marked = alt.Chart(alt.NamedData(name=f"{name}/marks")).encode(
        x=x, y=_pixels(), color=look.colour
    )
    chart = alt.layer(
        alt.Chart(alt.NamedData(name=name), width=WIDTH, height=HEIGHT)
        .mark_area(interpolate="step-after", color=_FILL, line={"color": _EDGE, "strokeWidth": 0.8})
        .encode(x=x, y=_height(float(heights.max()), names)),
        alt.layer(
            marked.mark_rule(strokeWidth=1.8).encode(
                y2="foot:Q",
                strokeDash=look.dash,
            ),
            marked.mark_point(filled=True, size=52, opacity=1).encode(
                shape=look.shape, description="tip:N"
            ),
        ),
        title=_title(density.title, density.reason),
    ).resolve_scale(y="independent")
    return part(chart)


def _average(data: Data, name: str, average: Average, look: Encoding) -> Spec:
    names = look.names
    middles = (average.edges[:-1] + average.edges[1:]) / 2
    last = max(len(average.heights) - 1, 1)
    data[name] = [
        {"x": float(x), "height": float(h), "depth": layer / last, "layer": layer}
        for layer, heights_B in enumerate(average.heights)
        for x, h in zip(middles, heights_B, strict=True)
    ]
    data[f"{name}/marks"] = [
        {
            "x": middle,
            "low": low,
            "high": high,
            "method": m,
            "y": _row(names.index(m)),
            "tip": f"{m}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f} s.d. from the"
            " mean",
        }
        for m, (low, middle, high) in average.marks.items()
        if m in names
    ]
    scale = alt.Scale(domain=[-4, 4], nice=False)
    x = alt.X("x:Q", title=None, scale=scale, axis=alt.Axis(values=[-4, -2, 0, 2, 4], grid=False))
    marked = alt.Chart(alt.NamedData(name=f"{name}/marks")).encode(y=_pixels(), color=look.colour)
    depth = alt.Scale(domain=[0, 1], range=["#c4c4c4", "#404040"])
    top = max((float(h.max()) for h in average.heights), default=1.0)
    chart = alt.layer(
        alt.Chart(alt.NamedData(name=name), width=WIDTH, height=HEIGHT)
        .mark_line(strokeWidth=1.1)
        .encode(
            x=x,
            y=_height(top, names),
            detail="layer:O",
            stroke=alt.Stroke("depth:Q", legend=None, scale=depth),
        ),
        alt.layer(
            marked.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"),
            marked.mark_point(filled=True, size=52, opacity=1).encode(
                x=x, shape=look.shape, description="tip:N"
            ),
        ),
        title=_title("average of each layer", "s.d. from the neuron’s mean"),
    ).resolve_scale(y="independent")
    return part(chart)


def _row(place: int) -> float:
    """Return how far below the panel's top the constants of one method are marked, in pixels."""
    return 5 + 10 * place


def _pixels() -> alt.Y:
    scale = alt.Scale(domain=[0, HEIGHT], reverse=True, nice=False, zero=True)
    return alt.Y("y:Q", axis=None, title=None, scale=scale)


def _height(top: float, names: Sequence[str]) -> alt.Y:
    """Return the axis of densities: they stay below the rows of constants."""
    free = 1 - _row(len(names)) / HEIGHT
    scale = alt.Scale(domain=[0, top / max(free, 0.3)], nice=False)
    return alt.Y("height:Q", title=None, axis=None, scale=scale)


def _title(text: str, below: str) -> alt.TitleParams:
    return alt.TitleParams(text, subtitle=below, fontSize=12, fontWeight="normal", offset=6)
