"""Frames: every table of a run folder by name, as a lazy Polars frame.

A run folder is Parquet files, and whoever asks a question of it needs to know which of them make
a table: `summary` is one file, `results` thousands, `data` has other columns for texts than for
images. This module is that knowledge, in one place: queries, the Python door
(`orchestrator.results.open`), the report and the command line all read through it.

    plan, cells                                 what was asked for
    data, donors, selections, centres,          what the forward passes were given
    statistics
    results, executions                         what they answered
    summary, contrasts, curves, areas,          made of the answers, anew whenever asked
    deletions, stops

Asking for a table lists its files, and fetches them where the run lies in an object store; nothing
is done for tables that are not asked for, and no row is read before the frame is collected. What is
not there yet is an empty frame with the right columns. A derived table that the run has not written
yet, because it is still going on, is computed from the answers that are there.

An answer counts where its part of `executions` is there too, and once, however many parts
hold it (`orchestrator.compaction` says how that comes about). Files that are not whole are left
out.

Weak where a run joins its small parts at the very moment: a frame made before names files that are
gone after, and collecting it says so. Make the frame again. And a derived table that the run has
written stays as it is while the run goes on with a larger sweep, until it ends again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
import pyarrow as pa
import yaml

from orchestrator import aggregate
from orchestrator.buckets import FILE
from orchestrator.compaction import twin
from orchestrator.sections import Scored
from orchestrator.stops import SCHEMA as STOPS
from orchestrator.store import Store, StoreError
from orchestrator.tables import SCHEMAS

MADE: Final = ("summary", "contrasts", "curves", "areas", "deletions")
"""Tables that are made of `cells`, `results` and `executions` alone."""
NAMES: Final = (
    *("plan", "cells", "data", "donors", "selections", "statistics", "centres"),
    *("results", "executions", *MADE, "stops"),
)
"""Every table of a run, in the order of its making."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames(Mapping[str, pl.LazyFrame]):
    """The tables of a run by name; a table's files are looked for when it is asked for."""

    store: Store
    _made: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> pl.LazyFrame:
        """Return a table; raises KeyError for a name not in `NAMES`, and what `frames` says."""
        if name not in NAMES:
            raise KeyError(name)
        try:
            return self._found(name)
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            raise damaged(self.store, str(error)) from error

    def _found(self, name: str) -> pl.LazyFrame:
        if name == "data":
            return _data(self.store)
        if name == "results":
            return _results(self.store)
        if name in (*MADE, "stops") and not self.store.exists(f"{name}.parquet"):
            if name == "stops":
                return pl.LazyFrame(schema=STOPS)
            if not self._made:  # one reading of the answers makes all
                self._made.update(derived(self.store))
            return self._made[name].lazy()
        return table(self.store, name)

    def __iter__(self) -> Iterator[str]:
        """Go through the names of all tables, there yet or not."""
        return iter(NAMES)

    def __len__(self) -> int:
        """Return the number of tables."""
        return len(NAMES)


def frames(store: Store) -> Frames:
    """Return every table of a run by name; nothing is read yet.

    Looking a table up raises DifferingAnswersError where a cell was answered twice, differently,
    and StoreError where the folder cannot be read.
    """
    return Frames(store=store)


def table(store: Store, kind: str, *, file: str | None = None) -> pl.LazyFrame:
    """Return the files of a table as they lie there: `statistics`, `cells`, …

    `file`: name of a column that says in which file of this machine a row stands.
    """
    files = [kind + ".parquet"] if store.exists(kind + ".parquet") else store.files(kind)
    schema = SCHEMAS.get(kind)
    return _scan(store, files, schema, file)


def _scan(
    store: Store, files: Sequence[str], schema: pa.Schema | None, file: str | None = None
) -> pl.LazyFrame:
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


def _results(store: Store) -> pl.LazyFrame:
    """Return the answers that count, each once."""
    executed = table(store, "executions").select("cell", "rounds")
    there = {twin(part) for part in store.files("executions")}
    rows = _scan(
        store, [part for part in store.files("results") if part in there], SCHEMAS["results"]
    )
    # A list without a round, and null of earlier versions, are one row each.
    often = executed.explode("rounds").group_by("cell", "rounds").len().filter(pl.col("len") > 1)
    twice = often.select("cell").unique().collect()["cell"].to_list()
    if not twice:
        return rows
    repeated = pl.col("cell").is_in(twice)
    return pl.concat([rows.filter(~repeated), aggregate.distinct(rows.filter(repeated))])


def _data(store: Store) -> pl.LazyFrame:
    """Return what models are fed, texts and images in one table; `target` is a list in both."""
    files = [file for file in store.files("data") if store.whole(file)]
    pictures = [file for file in files if "image" in store.schema(file).names]
    texts = _scan(store, [file for file in files if file not in pictures], SCHEMAS["pairs"])
    images = _scan(store, pictures, SCHEMAS["images"])
    of_one = pl.concat_list(pl.col("target").cast(pl.Int32))
    return pl.concat([texts, images.with_columns(target=of_one)], how="diagonal")


def derived(
    store: Store,
    declared: Sequence[tuple[str, str]] | None = None,
    metrics: Sequence[str] | None = None,
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the tables of `MADE` with their names, from the cells and results that are there.

    The contrasts and metrics are those of the run's sweep file, unless given. Raises
    DifferingAnswersError where two answers to one cell differ, ScratchError where the folder for
    temporary files is full.
    """
    said = asked(store)
    if declared is None:
        declared = [(a, b) for a, b in said.get("contrasts", [])]
    if metrics is None:
        metrics = list(said.get("evaluation", {}).get("metrics", ("top1", "ce")))
    cells, results = table(store, "cells"), table(store, "results", file=FILE)
    # One after the other, so that not all of them are in memory at once.
    yield from aggregate.tables(
        cells, results, declared, metrics=metrics, documents_bytes=_bytes(store)
    )
    yield "deletions", aggregate.deletions(cells, table(store, "executions"))


def _bytes(store: Store) -> pl.LazyFrame | None:
    """Return how many bytes of text each sequence stands for; None where there is no text.

    Also None where the sweep scores some positions only: their loss is not that of the bytes.
    """
    positions = asked(store).get("evaluation", {}).get("positions")
    if positions not in (None, Scored().model_dump()):
        return None
    files = [f for f in store.files("data") if store.whole(f)]
    texts = [f for f in files if "bytes" in store.schema(f).names]
    if not texts:
        return None
    columns = ("model", "data", "sequence", "bytes")
    return _scan(store, texts, SCHEMAS["pairs"]).select(columns)


def asked(store: Store) -> Mapping[str, Any]:
    """Return the sweep file as it was resolved; nothing where there is none.

    Raises StoreError if it is damaged.
    """
    if not store.exists("sweep.yaml"):
        return {}
    try:
        said = yaml.safe_load(store.read("sweep.yaml"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise damaged(store, f"sweep.yaml: {error}") from error
    if not isinstance(said, dict):
        raise damaged(store, "sweep.yaml is no resolved sweep file")
    return said


def damaged(store: Store, why: str) -> StoreError:
    """Return the error that says a file of the run is damaged, and what to do."""
    said = why.strip().splitlines()[0]
    return StoreError(
        f"the run folder {store.uri} cannot be read ({said}); run the same sweep again, which makes"
        " damaged files anew"
    )
