"""Compaction: many small parts of a run folder become few, and no answer is ever missing.

Every call commits a part of `results` and its twin in `executions`. A million cells leave a
hundred thousand of them, and what is quick to write is slow to list and to open. So where a
model has many small parts, about a million rows of them become one:

    1 commit the joined results       2 commit the joined executions
    3 delete the source executions    4 delete the source results

in this order, so whatever the moment at which it ends, every answer is there at least once.
After step 1 the new part has no twin, does not count and is deleted (`sweep_up`). After step 2
it counts, and what is left of its sources, which stand in its metadata, goes away. In between
an answer is there twice, and whoever reads drops exact copies (`answers.distinct`). A new part
is named by its sources, so doing it again makes the same part.

Nothing is dropped unseen. Two parts that answer one cell differently are not joined, and a
source that comes back, as when a worker that was given up commits after all, goes away only
if each of its rows is in the part. Such parts stay as they are for the reader, who refuses them.
Damaged parts are not joined either: a new checksum would make them look sound.

One part's rows are in memory at a time, some hundred megabytes, however many there are.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from orchestrator.names import canonical, hashed
from orchestrator.store import Store, parquet
from orchestrator.tables import SCHEMAS

ROWS = 1_000_000
"""Rows of results that make a part."""
BYTES = 64 << 20
"""Bytes of sources that make a part, if they have fewer rows."""
SMALL = 8 << 20
"""Bytes of results below which a part is small."""
FEWEST = 64
"""Small parts of a model below which nothing is done."""
JOINED = "joined."
"""What the file name of a joined part begins with."""
_SOURCES = b"peaksweep.sources"
"""Key of a part's metadata with what it was made of."""
_KEY = ["cell", "sequence"]

Tell = Callable[..., None]
Check = Callable[[], None]
"""Raises StoreError if another may work on the folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Parts that become one."""

    parts: list[str]
    """Of `executions`."""
    executions: list[pa.Table]
    results: list[pa.Table]


def twin(part: str) -> str:
    """Return the part of `results` beside a part of `executions`, or the other way round."""
    folder, _, rest = part.partition("/")
    return f"{'results' if folder == 'executions' else 'executions'}/{rest}"


def compact(store: Store, tell: Tell, check: Check = lambda: None) -> int:
    """Join the small parts of every model that has many; return how many went into others.

    No one else may write the folder's parts meanwhile: `check` raises where another may. It is
    called before each batch, and before what was joined is deleted.
    """
    check()
    sweep_up(store, tell, check)
    there = set(store.files("results"))
    small: dict[str, list[str]] = {}
    for part in store.files("executions"):
        with suppress(FileNotFoundError):
            if twin(part) in there and store.size(twin(part)) < SMALL:
                small.setdefault(part.rpartition("/")[0], []).append(part)
    return sum(
        _joined(store, batch, tell, check)
        for parts in small.values()
        if len(parts) >= FEWEST
        for batch in _batches(store, parts)
    )


def _batches(store: Store, parts: Iterable[str]) -> Iterator[_Batch]:
    """Yield parts that are joined together; damaged ones and those of earlier versions are not."""
    batch = _Batch(parts=[], executions=[], results=[])
    rows = size = 0
    for part in parts:
        executions, results = _read(store, part), _read(store, twin(part))
        if executions is None or results is None:
            continue
        if not (_current(executions, "executions") and _current(results, "results")):
            continue
        batch.parts.append(part)
        batch.executions.append(executions)
        batch.results.append(results)
        rows += len(results)
        with suppress(FileNotFoundError):
            size += store.size(twin(part))
        if rows >= ROWS or size >= BYTES:
            yield batch
            for taken in (batch.parts, batch.executions, batch.results):
                taken.clear()  # whoever joined them may hold the batch still
            rows = size = 0
    if batch.parts:
        yield batch


def _read(store: Store, file: str) -> pa.Table | None:
    """Return a table; None if it is damaged, or gone meanwhile."""
    with suppress(FileNotFoundError):
        return store.table(file) if store.sound(file) else None
    return None


def _current(table: pa.Table, kind: str) -> bool:
    return bool(table.schema.equals(SCHEMAS[kind], check_metadata=False))


def _joined(store: Store, batch: _Batch, tell: Tell, check: Check) -> int:
    """Make one part of several; return of how many."""
    check()
    apart = _differing(batch.results)
    if apart:
        tell("differing", files=[twin(batch.parts[i]) for i in apart])
    kept = [i for i in range(len(batch.parts)) if i not in apart]
    if len(kept) < 2:
        return 0
    sources = [batch.parts[i] for i in kept]
    results = pa.concat_tables(batch.results[i] for i in kept)
    if _repeated(results):
        results = _frame(results).unique(maintain_order=True).to_arrow()
    executions = pa.concat_tables(batch.executions[i] for i in kept)
    made = _commit(store, sources, results, executions, what=sources)
    check()
    for file in (*sources, *map(twin, sources)):
        store.delete(file)
    tell("joined", file=twin(made), parts=len(sources), rows=len(results))
    return len(sources)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table.replace_schema_metadata(None))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _repeated(results: pa.Table) -> bool:
    return bool(_frame(results.select(_KEY)).n_unique() < len(results))


def _differing(tables: Sequence[pa.Table]) -> list[int]:
    """Return which of some tables of results disagree with another on a (cell, sequence)."""
    every = pa.concat_tables(tables)
    if not _repeated(every):
        return []
    of = pl.Series("of", [i for i, table in enumerate(tables) for _ in range(len(table))], pl.Int64)
    frame = _frame(every)
    distinct = frame.unique()
    wrong = distinct.filter(pl.struct(_KEY).is_duplicated()).select(_KEY).unique()
    return sorted(set(frame.with_columns(of).join(wrong, on=_KEY, how="semi")["of"]))


def _commit(
    store: Store,
    sources: Sequence[str],
    results: pa.Table,
    executions: pa.Table,
    *,
    what: object,
    fewer: bool = False,
) -> str:
    """Commit a part and its twin; return the part of `executions`.

    `what` names it: the same of the same is the same. `fewer` says that it has not all rows of its
    sources. Whatever has its name without a twin is of an attempt that ended before it counted.
    """
    folder = sources[0].rpartition("/")[0]
    name = hashed(canonical(what).encode())
    made = f"{folder}/{JOINED}{name}.parquet"
    epochs = Counter(str(store.epoch_of(part)) for part in sources)
    about = {"sources": sources, "fewer": fewer, "epochs": dict(sorted(epochs.items()))}
    metadata = {_SOURCES: canonical(about).encode()}
    if store.exists(twin(made)) and not store.exists(made):
        store.delete(twin(made))
    for file, table in ((twin(made), results), (made, executions)):
        schema = SCHEMAS[file.partition("/")[0]].with_metadata(metadata)
        plain = table.replace_schema_metadata(None).cast(schema.remove_metadata())
        store.commit(file, parquet(plain.cast(schema), name))
    return made


def without(store: Store, part: str, cells: Collection[str]) -> str | None:
    """Take some cells out of a joined part, by another in its place; return that one, if any.

    `part` is of `executions`. A crash leaves the old one, or both. One that is gone meanwhile, or
    damaged, is left as it is.
    """
    answers, about = _read(store, twin(part)), _read(store, part)
    if answers is None or about is None or not _current(answers, "results"):
        return None
    out = pl.col("cell").is_in(sorted(cells))
    results, executions = _frame(answers).filter(~out), _frame(about).filter(~out)
    made = None
    if not executions.is_empty():
        what = {"of": part, "without": sorted(cells)}
        tables = results.to_arrow(), executions.to_arrow()
        made = _commit(store, [part], *tables, what=what, fewer=True)
    store.delete(part)
    store.delete(twin(part))
    return made


def is_joined(part: str) -> bool:
    """Whether a part was made of others."""
    return part.rpartition("/")[2].startswith(JOINED)


def sweep_up(store: Store, tell: Tell, check: Check = lambda: None) -> None:
    """Finish what an earlier compaction began: what it left behind goes away."""
    executions, results = (set(store.files(kind)) for kind in ("executions", "results"))
    for part in sorted(filter(is_joined, executions | results)):
        if twin(part) not in executions | results:
            tell("orphaned", file=part)
            store.delete(part)
    for part in sorted(filter(is_joined, executions)):
        if twin(part) in results:
            _without_sources(store, part, executions | results, tell, check)


def _without_sources(
    store: Store, part: str, there: Collection[str], tell: Tell, check: Check
) -> None:
    sources, fewer = _made_of(store, part)
    found = [s for s in sources if s in there or twin(s) in there]
    if not found:
        return
    # Read through only now, as there is something to lose: a run has many parts, and few sources.
    joined = _read(store, twin(part)) if store.sound(part) else None
    if joined is None or not _current(joined, "results"):
        return  # the sources are all there is
    check()
    for source in found:
        answers = twin(source)
        table = _read(store, answers) if answers in there and not fewer else None
        if table is not None and not _within(table, joined):
            tell("differing", files=[answers, twin(part)])
            continue
        for file in (source, answers):
            if file in there:
                tell("superseded", file=file)
                store.delete(file)


def _made_of(store: Store, part: str) -> tuple[list[str], bool]:
    """Return the sources of a joined part, and whether it has fewer rows than they.

    None of a part that is gone meanwhile, or that says nothing one can read.
    """
    try:
        about = json.loads((store.schema(part).metadata or {}).get(_SOURCES, b"{}"))
        return [s for s in about["sources"] if isinstance(s, str)], bool(about["fewer"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return [], False


def _within(results: pa.Table, joined: pa.Table) -> bool:
    """Whether a table has all rows of another."""
    if not _current(results, "results"):
        return False
    rows, every = _frame(results).unique(), _frame(joined)
    mine = every.filter(pl.col("cell").is_in(rows["cell"].unique().implode()))
    return pl.concat([mine, rows]).unique().height == mine.height
