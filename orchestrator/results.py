"""Results: a run folder's tables as Polars frames, and the derived ones made anew.

Reading needs nothing but files, so it works while a sweep is running and from
another machine. What is not there yet is an empty frame with the right columns.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from orchestrator import aggregate
from orchestrator.buckets import FILE
from orchestrator.names import data_file
from orchestrator.pairs import Precision
from orchestrator.seals import BLANK, KEY
from orchestrator.sections import Scored
from orchestrator.stopping import Visits, left_out, visits
from orchestrator.stops import Reading, reading, stops, unfinished
from orchestrator.store import Store, StoreError
from orchestrator.tables import SCHEMAS

P = ParamSpec("P")
T = TypeVar("T")


def table(store: Store, kind: str, *, file: str | None = None) -> pl.LazyFrame:
    """Return a table of the run by name: `results`, `statistics`, `cells`, …

    `file`: name of a column that says in which file of this machine a row stands.
    """
    files = [kind + ".parquet"] if store.exists(kind + ".parquet") else store.files(kind)
    schema = SCHEMAS.get(kind)
    empty = pl.from_arrow(schema.empty_table()) if schema is not None else pl.DataFrame()
    assert isinstance(empty, pl.DataFrame)
    paths = store.paths(files)
    if not paths:
        return empty.lazy()
    # Parts of an earlier version may lack a column that others have.
    known = None if schema is None else empty.schema
    return pl.scan_parquet(
        paths,
        schema=known,
        missing_columns="insert",
        extra_columns="ignore",
        include_file_paths=file,
        glob=False,  # a folder's name may have brackets
    )


def _told(read: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Have a damaged file of the run told as one."""

    @wraps(read)
    def told(store: Store, /, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return read(store, *arguments, **named)
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            raise _damaged(store, str(error)) from error

    return told


@_told
def aggregated(
    store: Store, declared: Sequence[tuple[str, str]], metrics: Sequence[str] = ("top1", "ce")
) -> None:
    """Write the derived tables (`DERIVED`) from the cells and results that are there.

    Raises DifferingAnswersError where two answers to one cell differ, ScratchError where the folder
    for temporary files is full.
    """
    cells, results = table(store, "cells"), table(store, "results", file=FILE)
    # One after the other, so that not all of them are in memory at once.
    for name, frame in aggregate.tables(
        cells, results, declared, metrics=metrics, documents_bytes=_bytes(store)
    ):
        _write(store, name, frame)
    _write(store, "deletions", aggregate.deletions(cells, table(store, "executions")))
    read = _reading(store)
    if read is not None:
        _write(store, "stops", stops(read))
    else:
        store.delete("stops.parquet")  # of an earlier version of the sweep


def _write(store: Store, name: str, frame: pl.DataFrame) -> None:
    content = io.BytesIO()
    frame.write_parquet(content, metadata={KEY.decode(): BLANK.decode()})
    store.replace(f"{name}.parquet", content.getvalue())


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
    asked, cells = _asked(store), table(store, "cells")
    if asked.get("precision") is None:
        return None
    precision = Precision.model_validate(asked["precision"])
    sources = dict(cells.select("model", "data").unique().collect().iter_rows())
    planned = table(store, "plan").filter(pl.col("kind") == "cell").select("model", "rounds")
    rounds = dict(planned.unique().collect().iter_rows())

    def seen(model: str) -> Visits:
        file = data_file(model, sources[model])
        data = store.table(file, ["document", "role", "target"])
        return visits(data, asked["seeds"]["visits"], rounds[model])

    pairs = precision.contrast or [(a, b) for a, b in asked["contrasts"]]
    return reading(cells, table(store, "results"), seen, pairs, precision)


def _bytes(store: Store) -> pl.LazyFrame | None:
    """Return how many bytes of text each sequence stands for; None where there is no text.

    Also None where the sweep scores some positions only: their loss is not that of the bytes.
    """
    if _positions(store) not in (None, Scored().model_dump()):
        return None
    data = store.paths(store.files("data"))
    texts = [f for f in data if "bytes" in pq.read_schema(f).names]
    if not texts:
        return None
    columns = ("model", "data", "sequence", "bytes")  # tables of pairs have more than others
    return pl.concat([pl.scan_parquet(text, glob=False).select(columns) for text in texts])


def _positions(store: Store) -> object:
    """Return what the sweep file says of which positions are scored; None without one."""
    return _asked(store).get("evaluation", {}).get("positions")


def _asked(store: Store) -> Mapping[str, Any]:
    """Return the sweep file as it was resolved; nothing where there is none.

    Raises StoreError if it is damaged.
    """
    if not store.exists("sweep.yaml"):
        return {}
    try:
        asked = yaml.safe_load(store.read("sweep.yaml"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _damaged(store, f"sweep.yaml: {error}") from error
    if not isinstance(asked, dict):
        raise _damaged(store, "sweep.yaml is no resolved sweep file")
    return asked


def _damaged(store: Store, why: str) -> StoreError:
    said = why.strip().splitlines()[0]
    return StoreError(
        f"the run folder {store.uri} cannot be read ({said}); run the same sweep again, which makes"
        " damaged files anew"
    )


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
    asked = _asked(store).get("data", {})
    said = []
    for path in store.paths(store.files("data")):
        rows = pl.scan_parquet(path, glob=False).group_by("model", "data", "role").len().collect()
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
    return list(_said(store, "evaluation")["metrics"])


def declared(store: Store) -> list[tuple[str, str]]:
    """Return the contrasts that a run's sweep declares."""
    return [(a, b) for a, b in _said(store, "contrasts")]


def _said(store: Store, key: str) -> Any:
    asked = _asked(store)
    if key not in asked:
        raise _damaged(store, f"sweep.yaml does not say `{key}`")
    return asked[key]
