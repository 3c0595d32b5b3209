"""Settings: which group of curves a number is about, in words.

A *panel* is one group of curves: a model on its data, in its dtype, the axes its heads
are read in, what is held (site, unit, layers, whether the chosen or all but these) and how
the units are chosen. Its label is the model's name and whatever tells the panel from the
model's other panels, so a plain sweep's panels are called by their models alone.

A sweep can have hundreds of panels. A page shows at most `MANY`: the first panel of every
model, then the second, and so on, so that no model crowds out another. Panels of single
layers (`layers: each`) are a curve's worth of numbers together, not a curve each, so they
are *layered* and have a figure of their own.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import polars as pl

from orchestrator.labels import OWN

PANEL = ("model", "data", "dtype", "basis", "site", "unit", "layers", "complement", "selection")
"""Columns that name a panel."""

MANY = 24
"""Panels, or rows of a table with one row per panel, that a page shows at most."""
T = TypeVar("T")

LAYERED = 3
"""With at least so many single layers that differ in nothing else, they are told together."""

_SITE = {"attn_pre_out": "the attention’s output", "mlp_mid": "the MLP’s middle"}
_SHORT = {"attn_pre_out": "attention", "mlp_mid": "MLP"}
_AND = "+"


def site(value: str) -> str:
    """Return a site, or two that are held together, in words."""
    return " and ".join(_SITE.get(part, part) for part in value.split(_AND))


def sites(value: str) -> list[str]:
    """Return the single sites of the column `site`."""
    return value.split(_AND)


def words(column: str, value: str | bool) -> str:
    """Return what one column of a panel says, in as few words as tell panels apart."""
    match column:
        case "basis":
            return "own axes" if value == OWN else f"axes {value}"
        case "site":
            return " and ".join(_SHORT.get(part, part) for part in sites(str(value)))
        case "unit":
            return f"{value}s"
        case "layers":
            if value == "all":
                return "all layers"
            many = "," in str(value)
            return f"layers {str(value).replace(',', ', ')}" if many else f"layer {value}"
        case "complement":
            return "all but the chosen" if value else "the chosen"
        case "selection":
            return {"random": "at random", "random(global)": "at random over layers"}.get(
                str(value), str(value)
            )
    return str(value)


def chosen(selection: str) -> str:
    """Return how units are chosen, from a selection's label."""
    known = {
        "random": "chosen at random in each layer",
        "random(global)": "chosen at random over all layers",
    }
    return known.get(selection, f"chosen by {selection}")


def held(row: Mapping[str, str | bool]) -> str:
    """Return what a panel holds: `neurons of the MLP’s middle, layer 3, chosen by …`."""
    what = f"{words('unit', row['unit'])} of {site(str(row['site']))}"
    if row["complement"]:
        what = f"all but the chosen {what}"
    parts = [what, words("layers", row["layers"]), chosen(str(row["selection"]))]
    if row["basis"] != OWN:
        parts.append(words("basis", row["basis"]))
    return ", ".join(parts)


def labelled(points: pl.DataFrame) -> pl.DataFrame:
    """Return one row per panel in the order of the points.

    Its columns, and `panel` (its label), `short` (what tells it from the model's other panels, a
    line each) and `layered`.
    """
    panels = points.select(PANEL).unique(maintain_order=True)
    labels, short = [], []
    for row in panels.to_dicts():
        lines = [words(c, row[c]) for c in varying(panels, str(row["model"]))]
        labels.append(" · ".join([row["model"], *lines]))
        short.append(lines)
    single = pl.col("layers").str.contains(r"^\d+$")
    alike = pl.len().over([c for c in PANEL if c != "layers"] + ["_single"])
    return (
        panels.with_columns(
            pl.Series("panel", labels, dtype=pl.String),
            pl.Series("short", short, dtype=pl.List(pl.String)),
            _single=single,
        )
        .with_columns(layered=pl.col("_single") & (alike >= LAYERED))
        .drop("_single")
    )


def varying(panels: pl.DataFrame, model: str) -> list[str]:
    """Return the columns that tell a model's panels apart."""
    own = panels.filter(pl.col("model") == model)
    return [column for column in PANEL[1:] if own[column].n_unique() > 1]


def label(panels: pl.DataFrame, row: Mapping[str, object]) -> str:
    """Return what a row of a table is about; a column that is null in it is not said."""
    model = str(row["model"])
    said = [words(c, _plain(row[c])) for c in varying(panels, model) if row.get(c) is not None]
    return " · ".join([model, *said])


def _plain(value: object) -> str | bool:
    return value if isinstance(value, bool) else str(value)


def shown(panels: pl.DataFrame, many: int = MANY) -> list[str]:
    """Return the panels that a page shows, in the order of the sweep; none that is layered."""
    single = panels.filter(~pl.col("layered"))
    by_model = [
        rows["panel"].to_list() for rows in single.partition_by("model", maintain_order=True)
    ]
    return in_turn(by_model, many)


def in_turn(groups: Sequence[Sequence[T]], many: int = MANY) -> list[T]:
    """Return the first of every group, then the second of each, …; `many`, group after group."""
    places = [(turn, i) for i, group in enumerate(groups) for turn in range(len(group))]
    kept = sorted(sorted(places)[:many], key=lambda place: place[::-1])
    return [groups[i][turn] for turn, i in kept]


def left_out(number: int, table: str) -> str:
    """Return where the rest is, in words; nothing if there is none."""
    return f"{number:,} more are in the table {table}.parquet." if number > 0 else ""


def common(panels: pl.DataFrame, model: str) -> str:
    """Return what all panels of a model hold alike, in words."""
    rows = panels.filter(pl.col("model") == model)
    same = {column: rows[column][0] for column in PANEL if rows[column].n_unique() == 1}
    units = words("unit", same["unit"]) if "unit" in same else "units"
    said = [f"{units} of {site(same['site'])}" if "site" in same else units]
    said += [f"in {words('layers', same['layers'])}"] if "layers" in same else []
    said += [chosen(same["selection"])] if "selection" in same else []
    said += ["all but the chosen held"] if same.get("complement") else []
    return ", ".join(said)
