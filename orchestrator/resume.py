"""Resume: what a run folder already answers, and so what is left to do.

Nothing but files is looked at. A task is done when its file is there; a cell is
done when a committed execution names it. What is left is the difference, found
by name, so it does not matter who did the rest, when, on how many workers or in
which order.

`there` reads the folder once; `left` compares a plan with it, or a part of the plan,
and deletes nothing (`orchestrator.upkeep` does). A million cells are a million rows of
columns and one dictionary: rounds are the same few sets for all of them.

Answers were made with constants whose digest stands beside them. Cells of one method at
one site are held at the same constants, so these are looked at once for all cells that
recorded the same digest. Constants of a cell's own are looked at cell by cell.

Partials are means to an end: they are made again only if something that needs
them is missing.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from orchestrator import values
from orchestrator.compaction import twin
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.names import canonical, slug
from orchestrator.pace import Pace
from orchestrator.plan import Plan
from orchestrator.store import Store, StoreError
from orchestrator.tables import SCHEMAS
from orchestrator.tasks import Task, with_needs

MEANS = (
    "pilot",
    "collect",
    "widen",
    "again",
    "under",
    "recount",
    "merge",
    "merge_fixed",
    "generate",
    "norms",
    "probe",
    "effects",
)
"""Kinds of tasks whose files are means to an end."""
FOLDERS = ("data", "donors", "selections", "partials", "statistics", "centres")
"""Where tasks that are no evaluations commit their files."""
PARTS = ("results", "executions")
"""Where evaluations do, in parts that have the same name in both."""
AT_ONCE = 4096
"""Parts that are read together: enough to keep all processors busy."""
_SHARED = [
    *("model", "basis", "site", "unit", "layers", "complement", "selection"),
    *("method", "parameters", "donor_seed", "noise_seed"),
]
"""Columns of the cells table that say which constants a cell is held at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class There:
    """What a run folder holds."""

    broken: frozenset[str]
    """Tables that are cut short, or parts of executions that are no such tables."""
    orphaned: frozenset[str]
    """Parts of `results` or `executions` whose twin is missing or broken."""
    stale: Mapping[str, frozenset[str]]
    """Parts of `executions` that name cells made with constants other than those now in the run
    folder; these cells."""
    aside: frozenset[str]
    """Parts of `executions` that do not count: the above, and those of earlier versions."""
    answered: Mapping[str, frozenset[int]]
    """The rounds in which cells are answered, by the parts that count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What there is of a plan and what is left."""

    done: frozenset[str]
    """Files of the plan's tasks that are there."""
    tasks: tuple[Task, ...]
    """Tasks to run, evaluations among them."""
    answered: frozenset[str]
    """Cells of the plan that are answered, as far as is asked now."""
    pace: Pace
    """Says which evaluations follow when some are done."""


def left(plan: Plan, store: Store, found: There | None = None) -> Left:
    """Return what of a plan is left to do in a run folder.

    `found` is what the folder holds, for this plan or one that this is a part of; it is read
    if it is not given. Raises SpecError if the folder holds data of the same name made otherwise.
    """
    found = there(plan, store) if found is None else found
    present = {f for kind in FOLDERS for f in store.files(kind)} - found.broken
    _same_data(plan, store, present)
    done = {t.file for t in plan.tasks if t.file in present}
    # Only `precision` looks at answers before all of them are there.
    files = [] if plan.spec.precision is None else _counting(plan, store, found)
    pace = Pace(plan, store, found.answered, files)
    needed = _needed(plan, done, pace.unanswered)
    return Left(
        done=frozenset(done),
        tasks=(*(t for t in plan.tasks if t.file in needed), *pace.begin()),
        answered=frozenset(name for name in plan.cells if name not in pace.unanswered),
        pace=pace,
    )


def _same_data(plan: Plan, store: Store, present: Collection[str]) -> None:
    mistakes = [
        Mistake(
            path=f"data.{task.arguments['data_name']}",
            message=f"{store.uri} holds {task.file} made from another recipe (source, split,"
            " number of sequences, window or masking seed); name the data otherwise or choose"
            " another folder with --out",
        )
        for task in plan.tasks
        if task.kind == "data" and task.file in present and store.recipe(task.file) != task.name
    ]
    if mistakes:
        raise SpecError(mistakes)


def _needed(plan: Plan, done: Collection[str], unanswered: Iterable[str]) -> set[str]:
    """Return the files to make: what is missing, and what that is made from."""
    wanted = {t.file for t in plan.tasks if t.kind not in MEANS}
    return with_needs(plan.tasks, wanted | plan.cells.files(unanswered), done)


def _counting(plan: Plan, store: Store, found: There) -> list[str]:
    """Return the parts of `results` with the answers that count."""
    parts = [f for folder in _folders(plan, "executions") for f in store.files(folder)]
    return [twin(f) for f in parts if f not in found.aside]


def _folders(plan: Plan, kind: str) -> list[str]:
    return [f"{kind}/{slug(model.name)}" for model in plan.models.values()]


def there(plan: Plan, store: Store, *, checked: bool = False) -> There:
    """Return what a run folder holds, by reading its executions once.

    With `checked` the caller has just made sure that no file is cut short.
    """
    tables = {f for kind in FOLDERS for f in store.files(kind)}
    parts = {f for kind in PARTS for folder in _folders(plan, kind) for f in store.files(folder)}
    executions = {f for f in parts if f.startswith("executions/")}
    unread = tables | (parts - executions)  # of executions it shows when they are read
    broken = set() if checked else {f for f in unread if not store.whole(f)}
    frame, unreadable = _executions(
        store, sorted(f for f in executions if twin(f) in parts - broken)
    )
    broken |= unreadable
    orphaned = {f for f in parts - broken if twin(f) not in parts or twin(f) in broken}
    earlier = set(frame.filter(pl.col("rounds").is_null())["part"].unique())
    recorded = frame.filter(~pl.col("part").is_in(sorted(earlier)))
    stale = _stale(plan, store, recorded, tables - broken)
    aside = broken | orphaned | earlier | stale.keys()
    counting = frame.filter(~pl.col("part").is_in(sorted(aside)))
    return There(
        broken=frozenset(broken),
        orphaned=frozenset(orphaned),
        stale=stale,
        aside=frozenset(aside & executions),
        answered=_answered(counting),
    )


def _executions(store: Store, parts: list[str]) -> tuple[pl.DataFrame, set[str]]:
    """Return what parts of `executions` say, and those that cannot be read.

    Columns part, cell, digest (of the constants used) and rounds, numbers joined by commas; null
    in parts of earlier versions, which answer cells of other names.
    """
    frames = [_NOTHING]
    unreadable: set[str] = set()
    for i in range(0, len(parts), AT_ONCE):
        some = parts[i : i + AT_ONCE]
        try:
            frames.append(_read(store, some))
        except (*_DAMAGED, OSError):  # one of them is damaged
            for part in some:
                try:
                    frames.append(_read(store, [part]))
                except (*_DAMAGED, FileNotFoundError):
                    unreadable.add(part)
                except StoreError:
                    raise
                except OSError as error:  # whoever takes it for damaged would delete it
                    raise StoreError(f"{store.where(part)} cannot be read: {error}") from error
    frame = pl.concat(frames)
    strange = set(frame.filter(pl.col("cell").is_null())["part"])  # tables of another kind
    return frame.filter(~pl.col("part").is_in(sorted(strange))), unreadable | strange


_DAMAGED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises of bytes that are no such table; of what it cannot read now, OSError."""
_NOTHING = pl.DataFrame(
    schema={"part": pl.String, "cell": pl.String, "digest": pl.String, "rounds": pl.String}
)


def _read(store: Store, parts: list[str]) -> pl.DataFrame:
    paths = store.paths(parts)
    if len(paths) < len(parts):
        raise FileNotFoundError(f"{len(parts) - len(paths)} of {len(parts)} parts are not whole")
    files = {str(path): part for path, part in zip(paths, parts, strict=True)}
    empty = pl.from_arrow(SCHEMAS["executions"].empty_table())
    assert isinstance(empty, pl.DataFrame)
    every = pl.scan_parquet(
        list(files),
        schema=empty.schema,
        missing_columns="insert",
        extra_columns="ignore",
        glob=False,
        include_file_paths="file",
    )
    return every.select(
        pl.col("file").replace_strict(files).alias("part"),
        "cell",
        pl.col("statistics_digest").alias("digest"),
        pl.col("rounds").cast(pl.List(pl.String)).list.join(","),
    ).collect()


def _answered(frame: pl.DataFrame) -> dict[str, frozenset[int]]:
    """Return the rounds of every cell; the same few sets for all of them."""
    sets = {key: frozenset(int(r) for r in key.split(",") if r) for key in frame["rounds"].unique()}
    joined: dict[tuple[frozenset[int], frozenset[int]], frozenset[int]] = {}
    answered: dict[str, frozenset[int]] = {}
    for cell, key in zip(frame["cell"], frame["rounds"], strict=True):
        rounds, before = sets[key], answered.get(cell)
        if before is not None and before is not rounds:
            rounds = joined.setdefault((before, rounds), before | rounds)
        answered[cell] = rounds
    return answered


def _stale(
    plan: Plan, store: Store, frame: pl.DataFrame, tables: Collection[str]
) -> dict[str, frozenset[str]]:
    """Return the cells of every part whose constants have changed since."""
    if frame.is_empty():
        return {}
    own = {t.arguments["cell"] for t in plan.tasks if t.arguments.get("cell") is not None}
    table = pl.from_arrow(plan.rows)
    assert isinstance(table, pl.DataFrame)
    points = (
        table.lazy()
        .filter(pl.col("units_held") > 0)
        .select("cell", shared=pl.struct(_SHARED).hash(0))
        .unique("cell", keep="first")
        .join(pl.LazyFrame({"cell": list(plan.cells)}), on="cell", how="semi")
        .with_columns(own=pl.when(pl.col("cell").is_in(sorted(own))).then("cell"))
        .collect()
    )
    keys = ["shared", "own", "digest"]
    used = frame.join(points, on="cell")
    some = used.group_by(keys).agg(pl.col("cell").first())
    known: dict[str, str | None] = {}
    fresh = [
        _digest(plan, store, known, cell, tables) in (None, digest)
        for cell, digest in zip(some["cell"], some["digest"], strict=True)
    ]
    changed = some.filter(~pl.Series(fresh, dtype=pl.Boolean)).drop("cell")
    stale = used.join(changed, on=keys, nulls_equal=True, how="semi")
    by_part = stale.group_by("part").agg("cell")
    return {part: frozenset(cells) for part, cells in by_part.iter_rows()}


def _digest(
    plan: Plan, store: Store, known: dict[str, str | None], cell: str, tables: Collection[str]
) -> str | None:
    """Return the digest of a cell's constants as they are now; `known` keeps those that are shared.

    None where a table is missing: it is made again from the same names, and compared next time.
    """
    of = plan.cells[cell]
    a = of.arguments
    key = canonical([a["sites"], a["value"]])
    if key not in known:
        there = all(file in tables for file in values.files(a["value"]))
        known[key] = values.digest(of.ref.facts, a, store, {}) if there else None
    return known[key]
