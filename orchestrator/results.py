"""Results: a run folder's tables as Polars frames, and the derived ones made anew.

Reading needs nothing but files, so it works while a sweep is running and from
another machine. What is not there yet is an empty frame with the right columns.
"""

import io
from collections.abc import Sequence

import polars as pl
import yaml

from orchestrator import aggregate
from orchestrator.store import Store
from orchestrator.tables import SCHEMAS


def table(store: Store, kind: str) -> pl.LazyFrame:
    """Return a table of the run by name: `results`, `statistics`, `cells`, …"""
    files = [kind + ".parquet"] if store.exists(kind + ".parquet") else store.files(kind)
    if not files:
        schema = SCHEMAS.get(kind)
        empty = pl.from_arrow(schema.empty_table()) if schema is not None else pl.DataFrame()
        assert isinstance(empty, pl.DataFrame)
        return empty.lazy()
    return pl.scan_parquet([store.path(f) for f in files], missing_columns="insert")


def aggregated(store: Store, declared: Sequence[tuple[str, str]]) -> None:
    """Write `summary`, `contrasts` and `curves` from the cells and results that are there.

    Raises DifferingAnswersError where two answers to one cell differ.
    """
    cells, results = table(store, "cells"), table(store, "results")
    data = [store.path(f) for f in store.files("data")]
    texts = [f for f in data if "bytes" in pl.read_parquet_schema(f)]
    sizes = pl.scan_parquet(texts).select("model", "data", "sequence", "bytes") if texts else None
    made = {
        "summary": aggregate.summary(cells, results, sizes),
        "contrasts": aggregate.contrasts(cells, results, declared),
        "curves": aggregate.curves(cells, results),
    }
    for name, frame in made.items():
        content = io.BytesIO()
        frame.write_parquet(content)
        store.replace(f"{name}.parquet", content.getvalue())


def notes(store: Store) -> list[str]:
    """Return what a reader of the summary must be told, a sentence each."""
    summary = table(store, "summary").collect()
    said = [] if summary.is_empty() else aggregate.notes(summary, table(store, "results"))
    return [*said, *_shortages(store)]


def _shortages(store: Store) -> list[str]:
    """Return where a source held less than the sweep asked of it."""
    if not store.exists("sweep.yaml"):
        return []
    asked = yaml.safe_load(store.path("sweep.yaml").read_text())["data"]
    said = []
    for file in store.files("data"):
        rows = pl.scan_parquet(store.path(file)).group_by("model", "data", "role").len().collect()
        for model, data, role, count in rows.sort("role").iter_rows():
            wanted = asked.get(data, {}).get(role, {}).get("sequences")
            if wanted is not None and count < wanted:
                said.append(
                    f"{model} on {data}: {count} sequences to {role} were found where {wanted} were"
                    " asked for."
                )
    return said


def declared(store: Store) -> list[tuple[str, str]]:
    """Return the contrasts that a run's sweep declares."""
    spec = yaml.safe_load(store.path("sweep.yaml").read_text())
    return [(a, b) for a, b in spec["contrasts"]]
