"""Read: what a report needs of a run folder, and nothing that isn't there yet.

A report can be asked for at any time, so every table may be missing: a missing
table is an empty one, and the page says so. Only the columns that the report
uses are read, so a table may grow others.

A *panel* is one setting that is compared with nothing outside itself: a model
on its data, in its dtype, at a site, in units, layers and selection. Its label
is the model's name and whatever else tells it from the model's other panels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs
import yaml

from orchestrator.report.words import method_name

PANEL = ("model", "data", "dtype", "site", "unit", "layers", "selection")
"""Columns that name a panel."""

_SETTING = dict.fromkeys(PANEL, pl.String)
_METHOD = {"method": pl.String, "parameters": pl.String}

_NEEDED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    "cells": _SETTING
    | _METHOD
    | {
        "modality": pl.String,
        "fraction": pl.Float64,
        "seed": pl.Int64,
        "units_held": pl.Int64,
        "units_total": pl.Int64,
        "cell": pl.String,
    },
    "summary": _SETTING
    | _METHOD
    | {
        "fraction": pl.Float64,
        "tokens": pl.Int64,
        "documents": pl.Int64,
        "top1": pl.Float64,
        "top1_se": pl.Float64,
        "ce": pl.Float64,
        "ce_se": pl.Float64,
    },
    "curves": _SETTING
    | _METHOD
    | {
        "metric": pl.String,
        "held_share": pl.Float64,
        "mean": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "band": pl.String,
        "sd_masks": pl.Float64,
        "masks": pl.Int64,
    },
    "contrasts": _SETTING
    | {
        "fraction": pl.Float64,
        "metric": pl.String,
        "a": pl.String,
        "b": pl.String,
        "estimate": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "p_adjusted": pl.Float64,
        "documents": pl.Int64,
        "masks": pl.Int64,
        "declared": pl.Boolean,
    },
    "executions": {
        "cell": pl.String,
        "told": pl.Int64,
        "held": pl.Int64,
        "seconds": pl.Float64,
        "worker": pl.String,
        "device": pl.String,
        "threads": pl.Int64,
    },
    "data": {
        "model": pl.String,
        "data": pl.String,
        "role": pl.String,
        "document": pl.String,
        "sequence": pl.Int64,
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder as a report sees it; a table that isn't there is empty."""

    folder: Path
    panels: Sequence[str]
    """Labels of the panels, in the order of the sweep file."""
    modality: Mapping[str, str]
    """Modality per panel: causal, masked or image."""
    cells: pl.DataFrame
    """Nominal points of the sweep; like `summary`, `curves` and `contrasts` with a `panel`."""
    summary: pl.DataFrame
    curves: pl.DataFrame
    contrasts: pl.DataFrame
    executions: pl.DataFrame
    data: pl.DataFrame
    """model, data, role; documents and sequences, counted."""
    failures: Sequence[Mapping[str, object]]
    """Quarantined tasks, as their files say it."""
    provenance: Mapping[str, object]
    spec: Mapping[str, object]
    """The resolved sweep file."""
    spec_text: str

    @property
    def methods(self) -> list[str]:
        """Full names of the methods, in the order of the sweep file."""
        named = pl.concat([t.select("method", "parameters") for t in (self.cells, self.curves)])
        return [method_name(m, p) for m, p in named.unique(maintain_order=True).rows()]

    @property
    def name(self) -> str:
        """The sweep's name, or the folder's where the sweep file has none."""
        return str(self.spec.get("name") or self.folder.name)


def read_run(folder: Path) -> Run:
    """Return what is in a run folder.

    Raises FileNotFoundError if the folder isn't there, ValueError if a table in
    it lacks a column.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"found no folder at {folder}, expected a run folder as `peaksweep run` leaves it; give"
            " the folder that was named with --out"
        )
    cells = _table(folder, "cells", [folder / "cells.parquet"])
    summary = _table(folder, "summary", [folder / "summary.parquet"])
    labels = _labels(cells if cells.height else summary)
    data = _table(folder, "data", sorted((folder / "data").glob("**/*.parquet")))
    text = _text(folder / "sweep.yaml")
    spec = yaml.safe_load(text)
    return Run(
        folder=folder,
        panels=labels["panel"].to_list(),
        modality=dict(
            labels.join(cells, on=PANEL).unique("panel").select("panel", "modality").rows()
        ),
        cells=cells.join(labels, on=PANEL, maintain_order="left"),
        summary=summary.join(labels, on=PANEL, maintain_order="left"),
        # Bands for whole curves may stand in the same table; figures and tables show these.
        curves=_of_panels(folder, "curves", labels).filter(pl.col("band") == "pointwise"),
        contrasts=_of_panels(folder, "contrasts", labels),
        executions=_table(
            folder, "executions", sorted((folder / "executions").glob("**/*.parquet"))
        ),
        data=data.group_by("model", "data", "role", maintain_order=True).agg(
            documents=pl.col("document").n_unique(), sequences=pl.col("sequence").n_unique()
        ),
        failures=[
            json.loads(file.read_text()) for file in sorted((folder / "failures").glob("*.json"))
        ],
        provenance=json.loads(_text(folder / "provenance.json") or "{}"),
        spec=spec if isinstance(spec, Mapping) else {},
        spec_text=text,
    )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _of_panels(folder: Path, table: str, labels: pl.DataFrame) -> pl.DataFrame:
    rows = _table(folder, table, [folder / f"{table}.parquet"])
    return rows.join(labels, on=PANEL, maintain_order="left")


def _table(folder: Path, table: str, files: Sequence[Path]) -> pl.DataFrame:
    needed = _NEEDED[table]
    frames = []
    for file in files:
        if not file.exists():
            continue
        scan = pl.scan_parquet(file)
        absent = sorted(set(needed) - set(scan.collect_schema().names()))
        if absent:
            raise ValueError(
                f"the table {file.relative_to(folder)} has no column {', '.join(absent)}, which the"
                f" report needs; delete the file and run the sweep again to have it made anew"
            )
        typed = scan.select(pl.col(column).cast(kind) for column, kind in needed.items())
        # What can't be computed is absent, whether its maker wrote null or not-a-number.
        frames.append(typed.with_columns(cs.float().fill_nan(None)).collect())
    return pl.concat(frames) if frames else pl.DataFrame(schema=pl.Schema(needed))


def _labels(points: pl.DataFrame) -> pl.DataFrame:
    """Return one row per panel: its columns, and `panel`, its label."""
    panels = points.select(PANEL).unique(maintain_order=True)
    rest = PANEL[1:]
    labels = []
    for row in panels.to_dicts():
        same_model = panels.filter(pl.col("model") == row["model"])
        differs = [row[column] for column in rest if same_model[column].n_unique() > 1]
        labels.append(" · ".join([row["model"], *differs]))
    return panels.with_columns(panel=pl.Series(labels, dtype=pl.String))
