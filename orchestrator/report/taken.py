"""Taken: from which layers a rule that ranks over all layers takes its units.

Such a rule may take most of one layer and nothing of another; whether it differs from a rule
that takes the same share of every layer is partly a question of which layers those are. The
figure shows what the forward passes really held, as the mean over seeds.
"""

import altair as alt
import polars as pl

from orchestrator.deletions import held_by_cell
from orchestrator.report import style
from orchestrator.report.figures import Figure, Rows, Spec, part, wrapped
from orchestrator.report.read import Run
from orchestrator.report.settings import in_turn, sites, words
from orchestrator.report.words import listed, number, percent

PANELS = 9
"""Panels of the figure."""
_LABELLED = 12
"""With more layers, a cell of the figure has no room for its number."""


def taken(run: Run) -> Figure | None:
    """Return neurons held per layer for rules over all layers; None where there is no such rule."""
    blocks = in_turn(
        [_blocks(rows) for rows in _held(run).partition_by("model", maintain_order=True)], PANELS
    )
    if not blocks:
        return None
    data: dict[str, Rows] = {}
    charts = []
    said = []
    for i, (title, block) in enumerate(blocks):
        data[str(i)] = _rows(block)
        charts.append(_panel(str(i), title, block["layer"].n_unique()))
        said.append(title)
    whole = sum(len(_blocks(rows)) for rows in _held(run).partition_by("model"))
    left = whole - len(blocks)
    return Figure(
        name="taken",
        chart=wrapped(charts, columns=3, spacing=26),
        data=data,
        caption=(
            "Neurons held in each layer, as the mean over seeds, by rules that rank the units of"
            " all layers together; darker: a larger share of what is held at that fraction. Where"
            " scores are taken again under each method, of the first method."
            + (f" {left:,} more settings are left out." if left else "")
        ),
        alt=f"Heat maps of neurons held by layer and fraction for {listed(said)}.",
    )


def _held(run: Run) -> pl.DataFrame:
    """Return points of rules over all layers with the neurons held in each layer, as executed."""
    points = run.cells.filter(
        pl.col("selection").str.contains(r"global|^regression|^explicit"),
        pl.col("selection") != "random(global)",  # takes the same share of all, give or take
        pl.col("layers") == "all",
        ~pl.col("complement"),
        pl.col("fraction") > 0,
    )
    held = held_by_cell(run.executions.lazy())
    rows = points.join(held, on="cell", maintain_order="left")
    # Methods hold the same units, unless scores are taken again under each of them.
    first = rows.unique("panel", maintain_order=True).select("panel", "method", "parameters")
    return rows.join(first, on=["panel", "method", "parameters"], maintain_order="left")


def _blocks(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Return, per panel and site, what it is called and the neurons held by fraction and layer."""
    found = []
    for panel in rows.partition_by("panel", maintain_order=True):
        parts = sites(panel["site"][0])
        layers = panel["held_by_layer"].list.len()[0] // len(parts)
        for i, one in enumerate(parts):
            block = panel.select(
                "fraction",
                neurons_held=pl.col("held_by_layer").list.slice(i * layers, layers),
                layer=pl.int_ranges(0, layers),
            ).explode("neurons_held", "layer")
            means = block.group_by("fraction", "layer", maintain_order=True).agg(
                pl.col("neurons_held").mean()
            )
            title = panel["panel"][0]
            title = f"{title} · of {words('site', one)}" if len(parts) > 1 else title
            found.append((title, means))
    return found


def _rows(block: pl.DataFrame) -> Rows:
    found = block.with_columns(
        part=(pl.col("neurons_held") / pl.col("neurons_held").sum().over("fraction")).fill_nan(0)
    )
    return [
        {
            "layer": str(row["layer"]),
            "fraction": f"{row['fraction']:g}",
            "order": row["fraction"],
            "part": row["part"],
            "text": number(row["neurons_held"], 0),
            "pale": "white" if row["part"] > 0.45 else style.INK,
            "tip": f"f = {row['fraction']:g}, layer {row['layer']}: {row['neurons_held']:g}"
            f" neurons, {percent(row['part'])} of those held",
        }
        for row in found.sort("fraction", "layer").to_dicts()
    ]


def _panel(name: str, title: str, layers: int) -> Spec:
    base = alt.Chart(alt.NamedData(name=name), width=226, height=alt.Step(20)).encode(
        x=alt.X("layer:O", sort=None, title="layer", axis=alt.Axis(labelAngle=0, ticks=False)),
        y=alt.Y(
            "fraction:O",
            sort=alt.EncodingSortField("order", order="descending"),
            title="fraction",
            axis=alt.Axis(ticks=False),
        ),
    )
    colours = alt.Scale(domain=[0, 0.6], range=["#f4f7fa", "#0b3d66"], clamp=True)
    marks = [base.mark_rect().encode(color=alt.Color("part:Q", scale=colours, legend=None))]
    if layers <= _LABELLED:
        marks.append(
            base.mark_text(fontSize=11).encode(text="text:N", color=alt.Color("pale:N", scale=None))
        )
    lines = title.split(" · ")
    heads = alt.TitleParams(lines, fontSize=12, fontWeight="normal", offset=6)
    return part(alt.layer(*marks, title=heads).resolve_scale(color="independent"))
