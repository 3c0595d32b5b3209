"""Layers: which layer matters, where a sweep holds one layer at a time.

Each single layer is a panel of its own in the tables. Here those that differ in nothing but
the layer stand together: damage against the layer, at the largest share held, one line per
method. Differences between layers are exploratory, and a layer whose loss breaks nothing by
itself may still matter together with another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from orchestrator.report.curves import VALUES, metrics
from orchestrator.report.figures import Figure, Rows, Spec, part, wrapped
from orchestrator.report.html import Child, Element, columns, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import MANY, PANEL, label, left_out
from orchestrator.report.style import Encoding
from orchestrator.report.tables import heading, with_interval
from orchestrator.report.words import (
    METRIC_NAME,
    NBSP,
    SCALE,
    change,
    decimals,
    interval,
    listed,
    method_name,
    metric_said,
    percent,
)

WIDTH, HEIGHT = 372, 200
FAMILIES = 8
"""Groups of layers that are shown at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    """Single layers that differ in nothing else."""

    label: str
    fraction: float
    """The largest of the sweep, at which they are shown."""
    share: float
    """Units held at that fraction over all units of the model."""
    complement: bool
    """Whether all but the layer's chosen units are held."""
    rows: pl.DataFrame
    """Changes at that share: curves with `layer` and `name`, a row per layer, method, metric."""


def single_layers(run: Run) -> pl.DataFrame:
    """Return the panels of single layers, with `layer` and `family`: the label of all that differ
    in nothing but the layer.
    """
    layered = run.settings.filter("layered").with_columns(layer=pl.col("layers").cast(pl.Int64))
    rest = [column for column in PANEL if column != "layers"]
    first = layered.unique(rest, maintain_order=True)
    labels = [label(run.settings, {**row, "layers": None}) for row in first.to_dicts()]
    named = first.select(rest).with_columns(family=pl.Series(labels, dtype=pl.String))
    return layered.join(named, on=rest, how="left", maintain_order="left")


def _families(run: Run) -> Iterator[_Family]:
    for block in single_layers(run).partition_by("family", maintain_order=True):
        rows = run.curves.filter(
            pl.col("panel").is_in(block["panel"]), pl.col("metric").str.starts_with("d_")
        )
        if not rows.height:
            continue
        points = run.cells.filter(pl.col("panel").is_in(block["panel"]))
        largest = points.filter(pl.col("fraction") == pl.col("fraction").max())
        shares = largest.select(
            "panel", largest_share=pl.col("units_held") / pl.col("units_total")
        ).unique("panel", maintain_order=True)
        at = rows.join(shares, on="panel", maintain_order="left").filter(
            (pl.col("held_share") - pl.col("largest_share")).abs() < 1e-9
        )
        if not at.height:
            continue
        names = [method_name(m, p) for m, p in at.select("method", "parameters").rows()]
        first = block.row(0, named=True)
        yield _Family(
            label=str(first["family"]),
            fraction=float(largest["fraction"][0]),
            share=float(at["held_share"][0]),
            complement=bool(first["complement"]),
            rows=at.with_columns(
                pl.Series("name", names, dtype=pl.String), layer=pl.col("layers").cast(pl.Int64)
            ).sort("layer", maintain_order=True),
        )


def by_layer(run: Run) -> Figure | None:
    """Return the damage per layer, a panel per setting and metric; None without single layers."""
    families = list(_families(run))
    if not families:
        return None
    there = {name for family in families for name in family.rows["name"]}
    look = Encoding(names=[n for n in run.methods if n in there], among=run.methods)
    data: dict[str, Rows] = {}
    charts = []
    drawn = [m for m in metrics(run) if m != "kl"]
    for family in families[:FAMILIES]:
        for metric in drawn:
            rows = _rows(family, metric, look.names)
            if rows:
                name = f"{len(data)}"
                data[name] = rows
                charts.append(_chart(name, family.label, metric, look))
    left = len(families) - FAMILIES
    return Figure(
        name="layers",
        chart=wrapped(charts, columns=2, spacing=34),
        data=data,
        caption=(
            f"Damage per layer: the change against the unablated model where {_held(families)},"
            " as the mean over masks; bars are pointwise 95 % intervals over documents and masks."
            f" {left_out(left, 'curves') if left > 0 else ''}"
        ).strip(),
        alt="Change of "
        + listed([METRIC_NAME[m] for m in drawn])
        + " by layer, a line per method; the numbers are in the table below.",
    )


def _held(families: Sequence[_Family]) -> str:
    """Return what is held, in words."""
    but = {True: "all but these of the whole model", False: "no others"}
    others = listed([but[c] for c in sorted({family.complement for family in families})])
    fractions = listed([percent(f) for f in sorted({family.fraction for family in families})])
    return f"{fractions} of the units of this one layer are chosen and " + (
        "held" if others == but[False] else f"{others} are held"
    )


def _rows(family: _Family, metric: str, names: Sequence[str]) -> Rows:
    scale = SCALE[metric]
    rows: Rows = []
    for found in family.rows.filter(pl.col("metric") == f"d_{metric}").to_dicts():
        if found["mean"] is None:
            continue
        ends = [None if found[k] is None else found[k] * scale for k in ("low", "high")]
        low, high = ends
        places = 2 if low is None or high is None else decimals(low, high)
        # Side by side, not on top of each other.
        aside = 0.07 * (names.index(found["name"]) - (len(names) - 1) / 2)
        rows.append(
            {
                "method": found["name"],
                "layer": found["layer"] + max(min(aside, 0.35), -0.35),
                "mean": found["mean"] * scale,
                "low": low,
                "high": high,
                "tip": f"{found['name']}, layer {found['layer']}:"
                f" {change(found['mean'] * scale, places)} {interval(low, high, places)}",
            }
        )
    return rows


def _chart(name: str, title: str, metric: str, look: Encoding) -> Spec:
    x = alt.X(
        "layer:Q",
        title="layer",
        scale=alt.Scale(nice=False, zero=False, padding=14),
        axis=alt.Axis(grid=False, tickMinStep=1, format="d"),
    )
    base = alt.Chart(alt.NamedData(name=name), width=WIDTH, height=HEIGHT)
    base = base.encode(x=x, color=look.colour)
    title_y = f"change of {metric_said(metric)}"
    y = alt.Y("mean:Q", title=title_y, axis=VALUES)
    chart = alt.layer(
        base.mark_line(strokeWidth=1, opacity=0.5).encode(y=y, strokeDash=look.dash),
        base.mark_rule(strokeWidth=1.4).encode(
            y=alt.Y("low:Q", title=title_y, axis=VALUES), y2="high:Q"
        ),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            y=y, shape=look.shape, description="tip:N"
        ),
        title=alt.TitleParams(title, fontSize=12.5, fontWeight="normal", limit=WIDTH),
    )
    return part(chart)


def layers_tables(run: Run) -> list[Element]:
    """Return a table per metric, changes per layer and method; all but the first folded away."""
    asked = sorted(run.metrics, key=lambda metric: metric != "ce")
    found = [(metric, _table(run, metric)) for metric in asked]
    made = [(metric, element) for metric, element in found if element is not None]
    return [element for _, element in made[:1]] + [
        tag("details", tag("summary", f"{METRIC_NAME[metric]} per layer"), element)
        for metric, element in made[1:]
    ]


def _table(run: Run, metric: str) -> Element | None:
    families = list(_families(run))
    if not any(f"d_{metric}" in family.rows["metric"] for family in families):
        return None
    there = {name for family in families for name in family.rows["name"]}
    names = [name for name in run.methods if name in there]
    bodies, left = [], 0
    for family in families[:FAMILIES]:
        rows = family.rows.filter(pl.col("metric") == f"d_{metric}")
        layers = rows["layer"].unique(maintain_order=True).to_list()
        found = {(r["layer"], r["name"]): r for r in rows.to_dicts()}
        lines = [heading(family.label, f"{percent(family.share, 1)} held", 1 + len(names))]
        for layer in layers[:MANY]:
            cells: list[Child] = [
                with_interval(found.get((layer, name), {}), "mean", SCALE[metric]) for name in names
            ]
            lines.append(row(f"layer{NBSP}{layer}", *cells))
        left += max(len(layers) - MANY, 0)
        bodies.append(tag("tbody", *lines))
    left += sum(f.rows["layer"].n_unique() for f in families[FAMILIES:])
    caption = (
        f"Damage per layer: change of {metric_said(metric)} with its pointwise 95 % interval over"
        f" documents and masks. {left_out(left, 'curves')}"
    ).strip()
    return table(caption, [columns("held", *names)], bodies, kind="stacked")
