"""Heat: damage per layer and fraction, where a sweep holds one layer at a time.

A map per method: a column per fraction, a row per layer (the first at the bottom, as in the
model), a colour for the change against the unablated model. `layers` draws the largest fraction
alone, where methods can be told apart to the eye; here one sees where in the model, and from
how much on, damage begins. Beside the methods stand the declared differences of two methods:
in which layers is the peak better than the mean?

White is zero in every map, orange is damage and blue its opposite, which every eye can tell
apart; darker is more, so a map of one sign survives grey paper. A dot marks a cell whose
interval includes zero, or that has none; a cross one that is not there. All maps of a row share
their scale, and only these: compare methods, not models, by colour.

Weak where layers interact: a layer whose loss breaks nothing may matter with another. Intervals
are pointwise, and among hundreds of cells some miss zero by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import polars as pl

from orchestrator.report.figures import Figure, Rows, Spec, of
from orchestrator.report.heat_marks import Scale, live_map, still_map
from orchestrator.report.layered import DAMAGE, DIFFERENCE, KEYS, layered_cells
from orchestrator.report.live import Choice, Live
from orchestrator.report.read import Run
from orchestrator.report.words import (
    COSTS,
    METRIC_NAME,
    change,
    decimals,
    metric_said,
    percent,
)

CELLS, ROWS = 2000, 4800
"""Cells that are printed at most, and those of the live figure."""
PRINTED, GROUPS = 6, 16
"""Rows of maps that are printed at most, and those of the live figure."""
LAYERS, FRACTIONS = 48, 12
"""Rows and columns of a map at most, from the first to the last at even steps."""
COLUMNS = 5
"""Maps beside each other, printed."""

Group = tuple[str, str, str]
"""Family, kind and metric: what shares a scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Maps:
    """What a figure draws, in printed units."""

    cells: pl.DataFrame
    """A row per cell: `KEYS`, value, low, high, clear."""
    groups: Sequence[Group]
    maps: int
    left: int
    """Maps that are left out."""
    thinned: bool
    """Whether layers or fractions of a map are left out."""

    def of(self, group: Group) -> pl.DataFrame:
        """Return the cells of one family, kind and metric."""
        family, kind, metric = group
        return self.cells.filter(family=family, kind=kind, metric=metric)


def heat(run: Run) -> Figure | None:
    """Return a map per method of damage by layer and fraction; None without single layers."""
    cells = layered_cells(run)
    return None if cells is None else _still(_bounded(cells, CELLS, PRINTED))


def heat_live(run: Run) -> Live | None:
    """Return the same with all groups of layers that there is room for, to be chosen from."""
    cells = layered_cells(run)
    if cells is None:
        return None
    found = _bounded(cells, ROWS, GROUPS)
    families = list(dict.fromkeys(family for family, _, _ in found.groups))
    rows = found.cells.with_columns(
        chart=pl.concat_str("family", "kind", "metric", separator="|"),
        metric=pl.col("metric").replace_strict({m: metric_said(m) for m in METRIC_NAME}),
        layer=pl.col("layer").cast(pl.Int64),
    )
    tall = max(found.of(group)["layer"].n_unique() for group in found.groups)
    said = dict.fromkeys(metric_said(metric) for _, _, metric in found.groups)
    return Live(
        still=_still(_bounded(cells, CELLS, PRINTED)),
        charts={"|".join(g): live_map(g[2], _scale(g, found.of(g))) for g in found.groups},
        by="chart",
        rows=rows.to_dicts(),
        choices=[
            Choice(field="metric", label="Metric", values=list(said)),
            Choice(field="kind", label="Shown", values=[DAMAGE, DIFFERENCE]),
            Choice(
                field="family",
                label="Setting",
                values=families,
                every="all settings",
                first=families[0],
            ),
        ],
        facets=["family", "name"] if len(families) > 1 else ["name"],
        columns={
            "family": "setting",
            "name": "method or difference",
            "layer": "layer",
            "fraction": "fraction",
            "metric": "metric",
            "value": "change",
            "low": "95 % from",
            "high": "to",
            "clear": "clear of zero",
        },
        shares=["fraction"],
        height=min(max(14 * tall, 150), 420),
    )


def _bounded(cells: pl.DataFrame, room: int, many: int) -> _Maps:
    """Return as many groups as there is room for, families in turn and CE first.

    Of a first one that is too large by itself as many maps as there is room for, at least one.
    """
    kept = pl.concat(
        [
            own.filter(
                pl.col("layer").is_in(_spaced(own["layer"], LAYERS)),
                pl.col("fraction").is_in(_spaced(own["fraction"], FRACTIONS)),
            )
            for own in cells.partition_by("family", maintain_order=True)
        ]
    )
    order = {metric: i for i, metric in enumerate(dict.fromkeys(kept["metric"]))}
    sizes = kept.group_by(KEYS[:4], maintain_order=True).len().rows()
    maps: dict[Group, list[tuple[str, int]]] = {}
    for family, kind, metric, name, size in sizes:
        maps.setdefault((family, kind, metric), []).append((name, size))
    by_family: dict[str, list[Group]] = {}
    for group in sorted(maps, key=lambda g: (order[g[2]], g[1] != DAMAGE)):
        by_family.setdefault(group[0], []).append(group)
    place = {family: i for i, family in enumerate(dict.fromkeys(kept["family"]))}
    families = sorted(by_family, key=place.__getitem__)
    taken: list[tuple[str, ...]] = []
    groups: list[Group] = []
    for turn in zip_longest(*(by_family[family] for family in families)):
        for group in turn:
            if group is None or len(groups) == many:
                continue
            whole = sum(size for _, size in maps[group])
            if whole > room and groups:
                room = 0  # what comes later is less wanted, however small
                continue
            fit = max(room // max(size for _, size in maps[group]), 1)
            taken += [(*group, name) for name, _ in maps[group][:fit]]
            groups.append(group)
            room -= whole
    chosen = pl.DataFrame(taken, schema=list(KEYS[:4]), orient="row")
    return _Maps(
        cells=chosen.join(kept, on=KEYS[:4], maintain_order="left"),
        groups=sorted(groups, key=lambda g: place[g[0]]),
        maps=len(taken),
        left=len(sizes) - len(taken),
        thinned=kept.height < cells.height,
    )


def _spaced(values: pl.Series, many: int) -> list[float]:
    """Return at most so many of the values, from the first to the last at even steps."""
    found = values.unique().sort().to_list()
    if len(found) <= many:
        return found
    step = (len(found) - 1) / (many - 1)
    return [found[round(i * step)] for i in range(many)]


def _scale(group: Group, cells: pl.DataFrame) -> Scale:
    """Return the colours of one family, kind and metric."""
    _, kind, metric = group
    values = cells["value"].drop_nulls()
    clear = cells.filter(pl.col("clear") == "yes")["value"]
    reach = max((abs(float(v)) for v in values), default=0.0) or 1.0
    both = bool((clear > 0).any() and (clear < 0).any())
    worse = 1 if metric in COSTS else -1
    if both or kind == DIFFERENCE:
        return Scale(low=-reach, high=reach, worse=worse)
    down = float(values.sum()) < 0
    return Scale(low=-reach if down else 0, high=0 if down else reach, worse=worse)


def _still(found: _Maps) -> Figure:
    data: dict[str, Rows] = {}
    rows: list[Spec] = []
    for group in found.groups:
        cells = found.of(group)
        scale = _scale(group, cells)
        names = cells["name"].unique(maintain_order=True).to_list()
        tall = cells["layer"].n_unique()
        drawn = {first: still_map(group[2], scale, tall, first=first) for first in (True, False)}
        maps: list[Spec] = []
        for name in names:
            key = f"{len(rows)}-{len(maps)}"
            own = cells.filter(name=name)
            data[key] = own.select("layer", "fraction", "value", "clear").to_dicts()
            first = len(maps) % COLUMNS == 0
            maps.append(of(key, drawn[first], title=[name]))
        what = "change" if group[1] == DAMAGE else "declared differences in the change"
        rows.append(
            {
                "concat": maps,
                "columns": COLUMNS,
                "spacing": {"row": 14, "column": 16},
                "title": {"text": f"{group[0]}: {what} of {metric_said(group[2])}", "fontSize": 13},
                "resolve": {"scale": {"color": "shared"}},
            }
        )
    apart = {"resolve": {"scale": {"color": "independent"}}}
    return Figure(
        name="heat",
        chart={"vconcat": rows, "spacing": 22, **apart},
        data=data,
        caption=_caption(found),
        alt="Heat maps by layer and fraction: "
        + "; ".join(_largest(found, g) for g in found.groups),
    )


def _largest(found: _Maps, group: Group) -> str:
    """Return the largest change of a group, in words."""
    family, kind, metric = group
    row = found.of(group).drop_nulls("value").sort(pl.col("value").abs(), descending=True).head(1)
    if not row.height:
        return f"{family}, {metric_said(metric)}: nothing yet"
    (top,) = row.to_dicts()
    ends = [top["value"] if top[key] is None else top[key] for key in ("low", "high")]
    most = change(top["value"], decimals(*ends))
    return (
        f"{family}, {kind} in {metric_said(metric)}: at most {most}"
        f" ({top['name']}, layer {top['layer']}, {percent(top['fraction'])})"
    )


def _caption(found: _Maps) -> str:
    kinds = {kind for _, kind, _ in found.groups}
    there = found.cells
    absent = there.filter(pl.col("clear") == "not there").height
    parts = [
        "Layer against fraction: the change against the unablated model where that fraction of the"
        " units of this one layer is chosen, a map per method, as the mean over masks.",
        "Beside them the declared differences of two methods." if DIFFERENCE in kinds else "",
        "A dot: the pointwise 95 % interval over documents and masks includes zero, or there is"
        " none.",
        f"A cross: {absent:,} cells that are not there, or whose two sides hold different shares."
        if absent
        else "",
        "White is zero, orange worse and blue better; maps of one row share their scale.",
        f"Of more than {LAYERS} layers or {FRACTIONS} fractions some are shown, at even steps."
        if found.thinned
        else "",
        f"Printed are {found.maps:,} maps of {found.maps + found.left:,}; all are in the tables"
        " curves.parquet and contrasts.parquet."
        if found.left
        else "",
    ]
    return " ".join(p for p in parts if p)
