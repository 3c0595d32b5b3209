"""Query: a question in SQL, asked of the tables of one or more runs.

The language is Polars' SQL, and the tables are those of `orchestrator.frames`, each with one column
more: `run`, the name of the folder, first. So the same question is right for one run and for
twenty. Nothing is read before the question needs it: a table is looked up when the question names
it, and of its files only the columns and rows that the answer is made of are read.

A question reads. It is one SELECT; every other statement is refused before it reaches Polars, and
the tables that Polars is given are scans, which it cannot write to. A folder is never opened for
writing, locked or probed.

A run that is going on can be asked: what is there counts. It joins its small files now and then,
and a scan made before then names files that are gone; the question is then asked again.

Two answers to one question may differ in the last bits of sums of floats, which are added up in
any order, and rows come in any order unless the question says ORDER BY.

Weak where tables are joined: `cells` and `summary` have a row for every nominal point, and points
that hold the same units share a cell. Whoever joins `results` to them by `cell` alone counts some
answers more than once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import TypeVar

import fsspec
import polars as pl

from orchestrator.frames import NAMES, frames
from orchestrator.mistakes import nearest
from orchestrator.store import Store, StoreError

RUN = "run"
"""Column that every table has besides its own: the name of the run."""
TURNS = 3
"""Times a question is asked of a run that takes its files away meanwhile."""

_READS = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(SELECT|WITH)\b", re.IGNORECASE | re.DOTALL)
_TABLE = re.compile(r"(?:relation|table) '(.+?)' (?:was not found|does not exist)")
_COLUMN = re.compile(r"unable to find column \"(.+?)\"(?:; valid columns: \[(.*?)\])?", re.DOTALL)
_OF_TABLE = re.compile(r"no column named '(.+?)' found in table '(.+?)'")
_ALIAS = re.compile(r"no table or struct column named '(.+?)' found")
_COUNTED = 40
"""Columns that are told at most where one is not known."""

T = TypeVar("T")


class QueryError(ValueError):
    """A question that cannot be answered as it is asked; the sentence says what to change."""


def query(runs: str | Path | Sequence[str | Path], sql: str) -> pl.DataFrame:
    """Return the answer to a question; `runs` are folders, URIs or patterns of these.

    Raises QueryError for a question that is none, StoreError where there is no run or it cannot be
    read, DifferingAnswersError where a cell was answered twice, differently.
    """
    words = [runs] if isinstance(runs, str | Path) else runs
    return answer(stores(words), sql, lambda frame: frame.collect(engine="streaming"))


def answer(runs: Mapping[str, Store], sql: str, take: Callable[[pl.LazyFrame], T]) -> T:
    """Return what `take` makes of the answer's lazy frame, for example by collecting it.

    `take` is called again where a run has taken files away meanwhile. Raises what `query` raises.
    """
    for turn in range(TURNS):
        try:
            return take(asked(runs, sql))
        except FileNotFoundError as error:
            if turn == TURNS - 1:
                raise QueryError(
                    f"A file is not there: {_first(error)}. If it is one of the run's, small files"
                    " are being joined: ask again"
                ) from error
        except pl.exceptions.PolarsError as error:
            raise _unanswered(runs, error) from error
    raise AssertionError("unreachable")


def asked(runs: Mapping[str, Store], sql: str) -> pl.LazyFrame:
    """Return a question's answer as a lazy frame, whose columns are known; no row is read.

    Raises QueryError where it is no SELECT, or names a table, column or function that there is not.
    """
    if not _READS.match(sql):
        raise QueryError(
            f"{sql.strip()[:40]!r} is no question: one begins with SELECT, or with WITH and a"
            " SELECT after it; a run's tables are never written"
        )
    known: dict[str, pl.LazyFrame] = {}
    while True:
        try:
            answer = pl.SQLContext(known).execute(sql, eager=False)
            if not _columns_of(answer):
                raise QueryError("The question has no column: name some after SELECT")
            return answer
        except pl.exceptions.PolarsError as error:
            lacking = _TABLE.search(str(error))
            if lacking is None:
                raise _refused(sql, known, error) from error
            known[lacking[1]] = _table(runs, lacking[1])


def _columns_of(answer: pl.LazyFrame) -> list[str]:
    try:
        return answer.collect_schema().names()
    except FileNotFoundError:
        raise
    except OSError as error:  # for example of a URI that the question reads
        raise QueryError(f"A file of the question cannot be read: {_first(error)}") from error


def stores(words: Sequence[str | Path]) -> dict[str, Store]:
    """Return the runs by name, from folders, URIs and patterns (`runs/*`, `s3://bucket/runs/*`).

    A run's name is that of its folder; where two have one, as much of the path as tells them apart.
    A run that is given twice, by whatever path, counts once.
    Of what a pattern finds, folders that hold no run are passed over. Raises QueryError where a
    pattern finds no run, StoreError where a folder that was named holds none.
    """
    found: dict[str, Store] = {}
    for word in map(str, words):
        named = Store.of(word)
        if not has_magic(word) or (named.local and Path(str(named.place)).is_dir()):
            if not _holds(named):
                raise StoreError(
                    f"{word} holds no run (no plan.parquet); give a folder made by `run` or"
                    " `collect`, or a pattern in quotes, which passes over other folders"
                )
            found.setdefault(_folder(named), named)
            continue
        there = [store for store in map(Store.of, _matching(word)) if _holds(store)]
        if not there:
            raise QueryError(f"{word} matches no folder that holds a run")
        for store in there:
            found.setdefault(_folder(store), store)
    names = _names([store.uri for store in found.values()])
    return dict(zip(names, found.values(), strict=True))


def _folder(store: Store) -> str:
    """Return which folder it is, whatever path leads there."""
    return str(Path(str(store.place)).resolve()) if store.local else store.uri


def _holds(store: Store) -> bool:
    return any(store.exists(file) for file in ("plan.parquet", "sweep.yaml", "cells.parquet"))


def _matching(pattern: str) -> list[str]:
    try:
        driver, path = fsspec.core.url_to_fs(pattern)
        return [driver.unstrip_protocol(place) for place in sorted(driver.glob(path))]
    except Exception as error:  # each driver has errors of its own
        raise StoreError(f"{pattern} cannot be looked through: {_first(error)}") from error


def _names(uris: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that differ from each other."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    depth = 1
    while len({tuple(p[-depth:]) for p in parts}) < len(parts):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _table(runs: Mapping[str, Store], name: str) -> pl.LazyFrame:
    """Return a table of all runs, with the column `run`."""
    if name.lower() not in NAMES:
        raise QueryError(
            f"There is no table {name!r}{nearest(name.lower(), NAMES)} Tables: {_NAMES}"
        )
    every = []
    for run, store in runs.items():
        frame = frames(store)[name.lower()]
        every.append(frame.with_columns(pl.lit(run).alias(RUN)).select(RUN, pl.exclude(RUN)))
    # Runs of other versions, or with other metrics, may lack a column: there it is null.
    return pl.concat(every, how="diagonal_relaxed") if len(every) > 1 else every[0]


_NAMES = ", ".join(sorted(NAMES))


def _refused(sql: str, known: Mapping[str, pl.LazyFrame], error: Exception) -> QueryError:
    """Return what a question must change, from what Polars says of it and the tables it names."""
    said = str(error)
    if found := _OF_TABLE.search(said):
        column, table = found.groups()
        return _unknown(column, f"in {table}", _columns(known, table), sql)
    if found := _COLUMN.search(said):
        # What stands there may be columns that the question itself has made.
        there = re.findall(r'"(.*?)"', found[2] or "")
        return _unknown(found[1], f"in {' or '.join(known) or 'the question'}", there, sql, known)
    if found := _ALIAS.search(said):
        return QueryError(
            f"Nothing in the question is called {found[1]!r}{nearest(found[1], tuple(known))}"
            " Before a dot stands a table that FROM or JOIN names, or its AS name"
        )
    return QueryError(f"The question cannot be answered: {_first(error)}")


def _columns(known: Mapping[str, pl.LazyFrame], table: str) -> list[str]:
    """Return the columns of a table, or of all where the name is one that the question gave."""
    frames = [known[table]] if table in known else list(known.values())
    return list(dict.fromkeys(c for frame in frames for c in frame.collect_schema().names()))


def _unknown(
    column: str,
    where: str,
    there: Sequence[str],
    sql: str,
    known: Mapping[str, pl.LazyFrame] | None = None,
) -> QueryError:
    everywhere = list(dict.fromkeys([*there, *(_columns(known, "") if known else ())]))
    told = [c for c in everywhere if not c.startswith("__")]
    near = nearest(column.lower(), told)
    if column in told:
        near = ": a part of the question has the columns that it selects itself, and no more."
    elif f'"{column}"' in sql and near == ".":
        near = f". A text stands in single quotes ('{column}'), a column's name in double ones."
    more = f", … ({len(told) - _COUNTED} more)" if len(told) > _COUNTED else ""
    columns = ", ".join(told[:_COUNTED]) + more
    return QueryError(f"There is no column {column!r} {where}{near} Columns: {columns}")


def _unanswered(runs: Mapping[str, Store], error: Exception) -> ValueError | StoreError:
    """Return what is wrong where the question was understood: a value, or a damaged file."""
    said = _first(error)
    if re.search(r"parquet|out of specification|thrift|decompress", said, re.IGNORECASE):
        where = " or ".join(store.uri for store in runs.values())
        return StoreError(
            f"a file of {where} cannot be read ({said}); run the same sweep again, which makes"
            " damaged files anew"
        )
    return QueryError(f"The question cannot be answered: {said}")


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
