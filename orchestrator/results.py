"""Results: a run folder's tables as Polars frames, and the derived ones made anew.

Reading needs nothing but files, so it works while a sweep is running and from
another machine. What is not there yet is an empty frame with the right columns.
"""

import io
from collections.abc import Sequence

import polars as pl
import yaml

from orchestrator import aggregate
from orchestrator.sections import Scored
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


def aggregated(
    store: Store, declared: Sequence[tuple[str, str]], metrics: Sequence[str] = ("top1", "ce")
) -> None:
    """Write the derived tables (`DERIVED`) from the cells and results that are there.

    Raises DifferingAnswersError where two answers to one cell differ.
    """
    cells, results = table(store, "cells"), table(store, "results")
    sizes = _bytes(store)
    made = {
        "summary": aggregate.summary(cells, results, sizes),
        "contrasts": aggregate.contrasts(
            cells, results, declared, metrics=metrics, documents_bytes=sizes
        ),
        "curves": aggregate.curves(cells, results, metrics=metrics, documents_bytes=sizes),
        "areas": aggregate.areas(cells, results, metrics=metrics, documents_bytes=sizes),
        "deletions": aggregate.deletions(cells, table(store, "executions")),
    }
    for name, frame in made.items():
        content = io.BytesIO()
        frame.write_parquet(content)
        store.replace(f"{name}.parquet", content.getvalue())


def _bytes(store: Store) -> pl.LazyFrame | None:
    """Return how many bytes of text each sequence stands for; None where there is no text.

    Also None where the sweep scores some positions only: their loss is not that of the bytes.
    """
    if _positions(store) not in (None, Scored().model_dump()):
        return None
    data = [store.path(f) for f in store.files("data")]
    texts = [f for f in data if "bytes" in pl.read_parquet_schema(f)]
    if not texts:
        return None
    return pl.scan_parquet(texts).select("model", "data", "sequence", "bytes")


def _positions(store: Store) -> object:
    """Return what the sweep file says of which positions are scored; None without one."""
    if not store.exists("sweep.yaml"):
        return None
    asked = yaml.safe_load(store.path("sweep.yaml").read_text())
    return asked.get("evaluation", {}).get("positions")


def notes(store: Store, *, axes: int = 4) -> list[str]:
    """Return what a reader of the summary must be told, a sentence each.

    A sweep in rotated axes has a sentence per group of curves on what they change: the first
    `axes` are told, and how many more there are.
    """
    summary = table(store, "summary").collect()
    if summary.is_empty():
        return _shortages(store)
    contrasts = table(store, "contrasts").collect()
    more = 0
    if contrasts.width:
        # Of a column without a value the type may be lost.
        contrasts = contrasts.with_columns(pl.col("method").cast(pl.String))
        between = pl.col("method").fill_null("").str.contains(" - ", literal=True)
        whole = pl.col("fraction").is_null() & (pl.col("metric") == "ce")
        turned = contrasts.filter(between & whole)
        more = max(turned.height - axes, 0) if axes else 0
        contrasts = pl.concat([contrasts.filter(~between), turned.head(axes)])
    said = aggregate.notes(summary, table(store, "results"), contrasts if contrasts.width else None)
    if more > 0:
        said.append(
            f"{more:,} more comparisons of methods between own and rotated axes are in"
            " contrasts.parquet, where the basis is null."
        )
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


def metrics(store: Store) -> list[str]:
    """Return the metrics that a run's sweep compares its cells by."""
    spec = yaml.safe_load(store.path("sweep.yaml").read_text())
    return list(spec["evaluation"]["metrics"])


def declared(store: Store) -> list[tuple[str, str]]:
    """Return the contrasts that a run's sweep declares."""
    spec = yaml.safe_load(store.path("sweep.yaml").read_text())
    return [(a, b) for a, b in spec["contrasts"]]
