"""Read: what a report needs of a run folder, and nothing that isn't there yet.

A report can be asked for at any time, so every table may be missing: a missing
table is an empty one, and the page says so. Only the columns that the report
uses are read, so a table may grow others.

What a panel is and what it is called stands in `settings`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import polars as pl
import polars.selectors as cs
import yaml

from orchestrator import results
from orchestrator.report import settings
from orchestrator.report.settings import PANEL
from orchestrator.report.words import method_name
from orchestrator.store import PARQUET, Store

_SETTING: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(PANEL, pl.String),
    "complement": pl.Boolean,
}
_METHOD = {"method": pl.String, "parameters": pl.String}

_CHANGES = tuple(f"d_{m}{end}" for m in ("top1", "ce") for end in ("", "_low", "_high"))
_FURTHER = ("top10", "kl", "top1_rare", "top1_mask", "ce_mask", "perplexity", "bits_per_byte")
_LATER = ("logit_diff", "choice")
"""Columns of the summary that earlier versions lack; null there."""

_NEEDED: Mapping[str, Mapping[str, type[pl.DataType] | pl.DataType]] = {
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
        **dict.fromkeys(("seed", "units_held", "units_total"), pl.Int64),
        "cell": pl.String,
        "tokens": pl.Int64,
        "documents": pl.Int64,
        **dict.fromkeys(("top1", "top1_se", "ce", "ce_se"), pl.Float64),
        **dict.fromkeys((*_CHANGES, *_FURTHER, *_LATER), pl.Float64),
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
    "areas": _SETTING
    | _METHOD
    | {
        "metric": pl.String,
        **dict.fromkeys(("from_share", "to_share", "area", "low", "high"), pl.Float64),
    },
    "selections": {
        **dict.fromkeys(("model", "data", "site", "unit", "selection", "basis"), pl.String),
        "order": pl.List(pl.Int64),
        **dict.fromkeys(("score", "score_low", "score_high"), pl.List(pl.Float64)),
    },
    "contrasts": _SETTING
    | {
        "method": pl.String,
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
        "reason": pl.String,
    },
    "stops": _SETTING
    | {"fraction": pl.Float64, "seed": pl.Int64, "masking_seed": pl.Int64}
    | dict.fromkeys(("a", "b", "metric"), pl.String)
    | dict.fromkeys(("rounds", "rounds_total", "documents", "documents_total"), pl.Int64)
    | dict.fromkeys(("estimate", "low", "high", "halfwidth"), pl.Float64)
    | {"reached": pl.Boolean},
    "executions": {
        "cell": pl.String,
        "told": pl.Int64,
        "held": pl.Int64,
        "held_by_layer": pl.List(pl.Int64),
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

    store: Store
    settings: pl.DataFrame
    """A row per panel in the order of the sweep file, as `settings.labelled` gives it."""
    modality: Mapping[str, str]
    """Modality per panel: causal, masked or image."""
    cells: pl.DataFrame
    """Nominal points of the sweep; like `summary`, `curves` and `areas` with a `panel`."""
    summary: pl.DataFrame
    curves: pl.DataFrame
    """Pointwise intervals; `low_all` and `high_all` are the ends of the simultaneous band."""
    areas: pl.DataFrame
    contrasts: pl.DataFrame
    """With `panel`, a label without what is compared."""
    stops: pl.DataFrame
    """With `panel`; empty where the sweep asks for no precision."""
    unread: Collection[str]
    """Cells that must be read further for the precision that is asked."""
    effects: pl.DataFrame
    """Rows of `selections` whose scores have intervals."""
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
    def panels(self) -> list[str]:
        """Labels of the panels, in the order of the sweep file."""
        return self.settings["panel"].to_list()

    @property
    def shown(self) -> list[str]:
        """The panels that have a place of their own on the page."""
        return settings.shown(self.settings)

    @property
    def grouped(self) -> bool:
        """Whether some model has several panels, or all of them are single layers."""
        return self.settings["model"].n_unique() < self.settings.height

    @property
    def metrics(self) -> list[str]:
        """Metrics that the sweep asks for."""
        asked = self.spec.get("evaluation")
        found = asked.get("metrics") if isinstance(asked, Mapping) else None
        return [str(m) for m in found] if isinstance(found, list) else ["top1", "ce"]

    @property
    def masks(self) -> list[int]:
        """Seeds of the masks."""
        return [int(seed) for seed in self.cells["seed"].drop_nulls().unique().sort()]

    @property
    def methods(self) -> list[str]:
        """Full names of the methods, in the order of the sweep file."""
        named = pl.concat([t.select("method", "parameters") for t in (self.cells, self.curves)])
        return [method_name(m, p) for m, p in named.unique(maintain_order=True).rows()]

    @property
    def name(self) -> str:
        """The sweep's name, or the folder's where the sweep file has none."""
        return str(self.spec.get("name") or PurePath(self.store.uri).name)


def read_run(where: Path | str | Store) -> Run:
    """Return what is in a run folder.

    Raises FileNotFoundError if the folder isn't there, ValueError if a table in
    it lacks a column.
    """
    store = Store.of(where)
    if store.local and not store.root.is_dir():
        raise FileNotFoundError(
            f"found no folder at {store.uri}, expected a run folder as `peaksweep run` leaves it;"
            " give the folder that was named with --out"
        )
    cells, summary = _table(store, "cells"), _table(store, "summary")
    labels = settings.labelled(cells if cells.height else summary)
    named = labels.select(*PANEL, "panel")
    data = _table(store, "data")
    text = _text(store, "sweep.yaml")
    spec = yaml.safe_load(text)
    return Run(
        store=store,
        settings=labels,
        modality=dict(
            named.join(cells, on=PANEL).unique("panel").select("panel", "modality").rows()
        ),
        cells=cells.join(named, on=PANEL, maintain_order="left"),
        summary=summary.join(named, on=PANEL, maintain_order="left"),
        curves=_banded(_of_panels(store, "curves", named)),
        areas=_of_panels(store, "areas", named),
        contrasts=_about(_table(store, "contrasts"), labels),
        stops=_of_panels(store, "stops", named),
        unread=results.unread(store),
        effects=_table(store, "selections", keep=pl.col("score_low").is_not_null()),
        executions=_table(store, "executions"),
        data=data.group_by("model", "data", "role", maintain_order=True).agg(
            documents=pl.col("document").n_unique(), sequences=pl.col("sequence").n_unique()
        ),
        failures=[store.read_json(file) for file in store.files("failures", ".json")],
        provenance=store.read_json("provenance.json"),
        spec=spec if isinstance(spec, Mapping) else {},
        spec_text=text,
    )


def _text(store: Store, file: str) -> str:
    try:
        return store.read(file).decode("utf-8")
    except FileNotFoundError:
        return ""


def _of_panels(store: Store, table: str, labels: pl.DataFrame) -> pl.DataFrame:
    return _table(store, table).join(labels, on=PANEL, maintain_order="left")


def _banded(curves: pl.DataFrame) -> pl.DataFrame:
    """Return the pointwise rows with the ends of the simultaneous band beside them."""
    keys = ["panel", "method", "parameters", "metric", "held_share"]
    wide = curves.filter(pl.col("band") == "simultaneous").unique(keys, maintain_order=True)
    wide = wide.select(*keys, low_all="low", high_all="high")
    rows = curves.filter(pl.col("band") == "pointwise")
    return rows.join(wide, on=keys, how="left", maintain_order="left")


def _about(contrasts: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Return the contrasts with what each is about, in the order of the panels."""
    columns = [c for c in PANEL if c in contrasts.columns]
    kinds = contrasts.select(columns).unique(maintain_order=True)
    said = [settings.label(labels, row) for row in kinds.to_dicts()]
    kinds = kinds.with_columns(panel=pl.Series(said, dtype=pl.String))
    first = {row["panel"]: i for i, row in enumerate(labels.to_dicts())}
    models = {m: i for i, m in enumerate(labels["model"].unique(maintain_order=True))}
    place = [
        (models.get(str(row["model"]), len(models)), first.get(row["panel"], len(first)))
        for row in kinds.to_dicts()
    ]
    ranks = {p: i for i, p in enumerate(sorted(set(place)))}
    kinds = kinds.with_columns(_place=pl.Series([ranks[p] for p in place], dtype=pl.Int64))
    rows = contrasts.join(kinds, on=columns, how="left", nulls_equal=True, maintain_order="left")
    return rows.sort("_place", maintain_order=True).drop("_place")


def _table(store: Store, table: str, keep: pl.Expr | None = None) -> pl.DataFrame:
    """Return the columns that are needed of a table: of its file, or of all files in its folder."""
    needed, frames = _NEEDED[table], []
    one = f"{table}.parquet"
    for path in store.paths([one] if store.exists(one) else store.files(table, PARQUET)):
        scan = pl.scan_parquet(path, glob=False)
        absent = sorted(set(needed) - set(scan.collect_schema().names()))
        scan = scan.with_columns(pl.lit(None).alias(c) for c in absent if c in _LATER)
        absent = [c for c in absent if c not in _LATER]
        if absent:
            raise ValueError(
                f"the table {path.relative_to(store.root)} has no column {', '.join(absent)}, which"
                " the report needs; delete the file and run the sweep again to have it made anew"
            )
        if keep is not None:
            scan = scan.filter(keep)
        typed = scan.select(pl.col(column).cast(kind) for column, kind in needed.items())
        # What can't be computed is absent, whether its maker wrote null or not-a-number.
        frames.append(typed.with_columns(cs.float().fill_nan(None)).collect())
    return pl.concat(frames) if frames else pl.DataFrame(schema=pl.Schema(needed))
