"""Results: a run folder's tables as Polars frames, and the derived ones made anew.

`open` is the door for notebooks (`orchestrator.opened`), `table` the files of one table
(`orchestrator.frames`).

Reading needs nothing but files, so it works while a sweep is running and from
another machine. What is not there yet is an empty frame with the right columns.
"""

import io
import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import polars as pl
import pyarrow as pa

from orchestrator import aggregate
from orchestrator.frames import asked, damaged, derived, table
from orchestrator.names import data_file
from orchestrator.opened import NotInRunError, Run, open
from orchestrator.pairs import Precision
from orchestrator.seals import BLANK, KEY
from orchestrator.sidebyside import SideBySide, side_by_side
from orchestrator.stopping import Visits, left_out, visits
from orchestrator.stops import Reading, reading, stops, unfinished
from orchestrator.store import Store

__all__ = [
    "NotInRunError",
    "Run",
    "SideBySide",
    "aggregated",
    "asked",
    "compare_runs",
    "damaged",
    "declared",
    "metrics",
    "notes",
    "open",
    "table",
    "unread",
]

P = ParamSpec("P")
T = TypeVar("T")


def _told(read: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Have a damaged file of the run told as one."""

    @wraps(read)
    def told(store: Store, /, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return read(store, *arguments, **named)
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            raise damaged(store, str(error)) from error

    return told


@_told
def aggregated(
    store: Store, declared: Sequence[tuple[str, str]], metrics: Sequence[str] = ("top1", "ce")
) -> None:
    """Write the derived tables (`frames.MADE`, `stops`) from the cells and results that are there.

    Raises DifferingAnswersError where two answers to one cell differ, ScratchError where the folder
    for temporary files is full.
    """
    for name, frame in derived(store, declared, metrics):
        _write(store, name, frame)
    read = _reading(store)
    if read is not None:
        _write(store, "stops", stops(read))
    else:
        store.delete("stops.parquet")  # of an earlier version of the sweep


def _write(store: Store, name: str, frame: pl.DataFrame) -> None:
    content = io.BytesIO()
    frame.write_parquet(content, metadata={KEY.decode(): BLANK.decode()})
    store.replace(f"{name}.parquet", content.getvalue())


def compare_runs(a: Run | str | Path | Store, b: Run | str | Path | Store) -> SideBySide:
    """Return how run b differs from run a, with intervals; each a run folder, URI or opened run.

    `differences`, `contrasts` and `baselines` are frames, in nats and shares as in the tables;
    `pairings` say how documents are paired (`orchestrator.sidebyside`). Raises StoreError where
    there is no run, DifferingAnswersError where one contradicts itself.
    """
    runs = [run if isinstance(run, Run) else open(run) for run in (a, b)]
    return side_by_side(runs[0].store, runs[1].store)


@_told
def unread(store: Store) -> set[str]:
    """Return the cells of a run that are to be read further, or have no answer at all.

    A cell is read in all rounds of its model, or as far as `precision` needs it.
    """
    planned = table(store, "plan").filter(pl.col("kind") == "cell").select("name", "rounds")
    wanted = dict(planned.collect().iter_rows())
    parts = table(store, "executions").select("cell", "rounds").collect()
    there: dict[str, set[int]] = {}
    for cell, rounds in parts.iter_rows():
        # An earlier version did not know of rounds, and answered all of a cell at once.
        there.setdefault(cell, set()).update(
            range(wanted.get(cell) or 0) if rounds is None else rounds
        )
    lacking = {
        cell
        for cell, rounds in wanted.items()
        if cell not in there or len(there[cell]) < (rounds or 0)
    }
    read = _reading(store) if lacking else None
    if read is None:
        return lacking
    return {*left_out(lacking, read.judge.every), *unfinished(read, lacking)}


def _reading(store: Store) -> Reading | None:
    """Return how far the cells of a run have been read; None where every cell reads all."""
    said, cells = asked(store), table(store, "cells")
    if said.get("precision") is None:
        return None
    precision = Precision.model_validate(said["precision"])
    sources = dict(cells.select("model", "data").unique().collect().iter_rows())
    planned = table(store, "plan").filter(pl.col("kind") == "cell").select("model", "rounds")
    rounds = dict(planned.unique().collect().iter_rows())

    def seen(model: str) -> Visits:
        file = data_file(model, sources[model])
        data = store.table(file, ["document", "role", "target"])
        return visits(data, said["seeds"]["visits"], rounds[model])

    pairs = precision.contrast or [(a, b) for a, b in said["contrasts"]]
    return reading(cells, table(store, "results"), seen, pairs, precision)


@_told
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
    return [*said, *_uncompiled(store), *_shortages(store)]


def _uncompiled(store: Store) -> list[str]:
    """Return why a model that was to be compiled ran as it is."""
    told = table(store, "executions").select("versions").unique().collect()["versions"]
    said = {json.loads(versions).get("compiled", "yes") for versions in told.drop_nulls()}
    return sorted(said - {"yes"})


def _shortages(store: Store) -> list[str]:
    """Return where a source held less than the sweep asked of it."""
    sources = asked(store).get("data", {})
    said = []
    for path in store.paths(store.files("data")):
        rows = pl.scan_parquet(path, glob=False).group_by("model", "data", "role").len().collect()
        for model, data, role, count in rows.sort("role").iter_rows():
            wanted = sources.get(data, {}).get(role, {}).get("sequences")
            if wanted is not None and count < wanted:
                said.append(
                    f"{model} on {data}: {count} sequences to {role} were found where {wanted} were"
                    " asked for."
                )
    return said


def metrics(store: Store) -> list[str]:
    """Return the metrics that a run's sweep compares its cells by."""
    return list(_said(store, "evaluation")["metrics"])


def declared(store: Store) -> list[tuple[str, str]]:
    """Return the contrasts that a run's sweep declares."""
    return [(a, b) for a, b in _said(store, "contrasts")]


def _said(store: Store, key: str) -> Any:
    said = asked(store)
    if key not in said:
        raise damaged(store, f"sweep.yaml does not say `{key}`")
    return said[key]
