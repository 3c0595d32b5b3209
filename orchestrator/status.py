"""Status: where a run stands, from its files alone.

Right at any moment and from any machine that sees the folder: nothing is asked
of the process that runs the sweep, nothing is written or taken, and nothing is
believed that is not a file. What is under way, how fast and for how long is the
one thing that files cannot prove; it is read from the story while a driver holds
the folder's lease (`orchestrator.course`, `orchestrator.lease`).

A folder may be damaged: cut short by a full disk, half copied, edited by hand.
What can be told of it is told, and a damaged record of a failure is told as one.
Without the plan, or without the answers, nothing can be: that is a StoreError
which names the file and says what to do.

The plan of many cells is read as columns, and of the answers only who was
answered; files of tasks are looked at at both ends.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from orchestrator.course import Course, course
from orchestrator.events import events
from orchestrator.lease import Clock, Holder, holder
from orchestrator.machine import Machine
from orchestrator.meters import Reading
from orchestrator.results import unread
from orchestrator.resume import FOLDERS, MEANS
from orchestrator.store import Store, StoreError
from orchestrator.tasks import STAGES

PLAN = "plan.parquet"
AGAIN = "run the same command again: what is missing or damaged is made anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """How far one stage is, in tasks; for `evaluate`, in cells."""

    stage: str
    done: int
    running: int
    missing: int
    """Neither done, running nor failed."""
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureStatus:
    """What failed, as its record tells it."""

    label: str
    why: str
    attempts: int | None
    """Times it was tried; None where the record does not say."""
    command: str
    """Does it again in one process; empty where the record does not say."""
    record: str
    """File of the run folder with the traceback and the last lines of its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Where a run stands."""

    run: str
    stages: tuple[StageStatus, ...]
    """Empty before the run is planned."""
    failures: tuple[FailureStatus, ...]
    holder: Holder | None = None
    """Who drives it now; None if nobody does."""
    since: float | None = None
    """When that driver began, in seconds since 1970 by its clock."""
    rate: float | None = None
    """Cells it answers a minute; None before there are any."""
    seconds_left: float | None = None
    """Seconds until the rest is answered at this rate; None where that is not known."""
    reading: Reading | None = None
    """What the driver's story adds up to: its stages' pace and its workers; None without one."""

    @property
    def driver(self) -> int | None:
        """Number of the process that drives it, None if none does."""
        return None if self.holder is None else self.holder.pid

    @property
    def finished(self) -> bool:
        """Whether everything is done."""
        left = any(s.running or s.missing or s.failed for s in self.stages)
        return bool(self.stages) and not left


def status(
    run: str | Path, *, clock: Clock | None = None, machine: Machine | None = None
) -> Status:
    """Return where the run in a folder stands; `run` is a folder or a URI.

    Raises StoreError if there is no run in it, or if what tells of it is damaged.
    """
    store = Store.of(run)  # not opened: that would make the folder, and try to write
    try:
        held = holder(store, clock=clock, machine=machine)
        if not store.exists(PLAN):
            return _unplanned(store, str(run), held)
        failures = {file: _record(store, file) for file in store.files("failures", ".json")}
        story = events(store, latest=True) if held is not None else ()
        on = None if held is None else course(story, held.started, held.beat)
        return Status(
            run=str(run),
            stages=_stages(store, on, failures),
            failures=tuple(_failure(file, record) for file, record in failures.items()),
            holder=held,
            since=None if held is None else held.started,
            rate=None if on is None else on.rate,
            seconds_left=None if on is None else on.seconds_left,
            reading=None if on is None else on.reading,
        )
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{store.uri} cannot be read: {error.strerror or error}") from error


def _unplanned(store: Store, run: str, held: Holder | None) -> Status:
    if held is None:
        raise StoreError(
            f"{run} holds no run (no {PLAN}); give a folder made by `run` or `collect`"
        )
    return Status(run=run, stages=(), failures=(), holder=held, since=held.started)


def _stages(
    store: Store, on: Course | None, failures: Mapping[str, Mapping[str, object]]
) -> tuple[StageStatus, ...]:
    plan = _plan(store)
    running: Set[str] = set() if on is None else on.running
    failed = {str(f["file"]) for f in failures.values() if "file" in f}
    failed |= {str(cell) for f in failures.values() for cell in _list(f.get("cells"))}
    cells, tasks = plan.filter("cell"), plan.filter(~pl.col("cell"))
    there = {file for kind in FOLDERS for file in store.files(kind)}
    whole = {file for file in there.intersection(tasks["key"]) if store.whole(file)}
    lacking = _unread(store) if cells.height else set()
    made = (
        pl.when("cell")
        .then(~_among(lacking) & ~_among(running))
        .otherwise(_among(whole))
        .alias("made")
    )
    told = plan.with_columns(made)
    # A partial that is gone is not missed once all that is made from it is there.
    unfinished = set(told.filter(~pl.col("means") & ~pl.col("made"))["model"])
    spared = pl.col("means") & ~_among(unfinished, "model")
    done = (pl.col("made") | spared).alias("done")
    here, wrong = _among(running), _among(failed)
    counts = (
        told.with_columns(done)
        .unique(("stage", "key"))
        .group_by("stage")
        .agg(
            pl.col("done").sum(),
            (~pl.col("done") & here).sum().alias("running"),
            (~pl.col("done") & ~here & wrong).sum().alias("failed"),
            (~pl.col("done") & ~here & ~wrong).sum().alias("missing"),
        )
    )
    found = {row["stage"]: row for row in counts.iter_rows(named=True)}
    return tuple(StageStatus(**found[stage]) for stage in STAGES if stage in found)


def _among(names: Set[str], column: str = "key") -> pl.Expr:
    return pl.col(column).is_in(pl.Series(list(names), dtype=pl.String).implode())


def _plan(store: Store) -> pl.DataFrame:
    """Return the plan's rows: stage, model, `cell` (or a task), `means` (to an end) and `key`.

    The key is what stands for a row: a task's file, a cell's name.
    """
    try:
        table = store.table(PLAN, ["name", "stage", "kind", "model", "file"])
        table.validate(full=True)  # Polars believes what it is given
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        cell = (pl.col("kind") == "cell").fill_null(value=False)
        return frame.select(
            pl.col("stage").cast(pl.String),
            pl.col("model").cast(pl.String).fill_null(""),
            cell.alias("cell"),
            pl.col("kind").is_in(MEANS).fill_null(value=False).alias("means"),
            pl.when(cell).then("name").otherwise("file").cast(pl.String).fill_null("").alias("key"),
        )
    except Exception as error:  # whatever its readers raise of bytes that are no such table
        raise StoreError(
            f"{PLAN} of {store.uri} cannot be read ({_short(error)}); {AGAIN}"
        ) from error


def _unread(store: Store) -> set[str]:
    """Return the cells that are not answered, or not far enough."""
    try:
        return unread(store)
    except StoreError:
        raise
    # Damaged tables make their readers raise what they like; Polars may panic, in its words.
    except (Exception, pl.exceptions.PanicException) as error:
        raise StoreError(
            f"the answers of {store.uri} cannot be read ({_short(error)}); {AGAIN}"
        ) from error


def _short(error: BaseException) -> str:
    """Return the first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _record(store: Store, file: str) -> Mapping[str, object]:
    """Return the record of a failure; empty if it was damaged."""
    try:
        return store.read_json(file)
    except StoreError:
        return {}


def _failure(file: str, record: Mapping[str, object]) -> FailureStatus:
    if "label" not in record or "error" not in record:
        why = "its record is damaged; delete it, and run the same command again"
        return FailureStatus(label=file, why=why, attempts=None, command="", record=file)
    attempts = record.get("attempts")
    return FailureStatus(
        label=str(record["label"]),
        why=str(record["error"]),
        attempts=attempts if isinstance(attempts, int) else None,
        command=str(record.get("command") or ""),
        record=file,
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
