"""The shared store: one folder of data, partials and statistics for many run folders.

Work is named by its recipe, and a recipe holds the names of what it builds on,
so a file can be found by name wherever it was made: a second sweep of the same
model on the same data, with other methods or masks, need not count again. In
the store a file lies at `<folder>/<kind>.<name>`, without the model's name:
two checkpoints with the same weights share what they have in common.

A run folder stays complete without its store: what is found is linked (or
copied, where one of the two is on another file system or in an object store)
before anything is planned to be made, and what was made is linked back. Both ways
the commit is create-only, so any number of runs may use a store at once, and both
ways every byte is read and its checksum compared: what broke in one place is not
spread, and a file that broke in the store is taken out of it. Reading so much takes
longer than a run has that is told to stop: one that is interrupted puts nothing
into the store, and does so when it is run again. Two columns are labels and no part
of a name, `model` and `data`; a table that another sweep labelled otherwise is
rewritten on its way in.

Donors, held orders, centres and results are not shared: they are cheap, or the
point of the run. Weak where files are edited in place: a link is the same file,
so such an edit would reach every run (deleting and writing anew does not).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

import pyarrow as pa

from orchestrator.store import Store, StoreError, parquet
from orchestrator.tasks import Task

FOLDERS = ("data", "partials", "statistics")
"""Folders of a run whose files are shared."""
LABELLED = ("data", "statistics")
"""Of these, the ones whose tables hold the names that a sweep gives its model and data."""


def opened(folder: Path | str, run: Store) -> Store:
    """Return the shared store at a folder or a URI, made if it is not there, for a run.

    Raises StoreError if it cannot be made or written, or is the run folder itself.
    """
    store = Store.of(folder)
    if _resolved(store) == _resolved(run):
        raise StoreError(
            f"the shared store {folder} is the run folder itself; name another folder in `store:`"
        )
    try:
        return Store.open(folder)
    except StoreError as error:
        raise StoreError(
            f"the shared store {folder} cannot be written; name another folder in `store:`, or"
            f" leave it out ({error})"
        ) from error


def _resolved(store: Store) -> str:
    return str(store.root.resolve()) if store.local else store.uri


@contextmanager
def sharing(
    tasks: Iterable[Task],
    left: Sequence[Task],
    run: Store,
    store: Store,
    tell: Callable[..., None],
) -> Iterator[list[str]]:
    """Fetch what `left` needs, yield the files of the run that were found; publish in the end.

    `tasks` are all of the plan: whatever of them the run folder has by then is published, also if
    the work raised. Not if it was interrupted (SystemExit, KeyboardInterrupt) or if the run folder
    failed (StoreError): then a later run publishes. `tell` hears of every file: fetched, published.
    """
    found = fetch(left, run, store)
    for file in found:
        tell("fetched", file=file)
    try:
        yield found
    except StoreError:
        raise
    except Exception:
        with suppress(StoreError):  # what ended the work is told, not what came of it
            _publish_all(tasks, run, store, tell)
        raise
    _publish_all(tasks, run, store, tell)


def _publish_all(
    tasks: Iterable[Task], run: Store, store: Store, tell: Callable[..., None]
) -> None:
    for file in publish(tasks, run, store):
        tell("published", file=file)


def fetch(left: Sequence[Task], run: Store, store: Store) -> list[str]:
    """Bring into the run folder what these tasks would make and the store has; return the files.

    `left` is what is left to do, with all that it needs made first. Partials are fetched only as
    far as something needs them that is neither in the run folder nor in the store.
    """
    makes = {task.file: task for task in left}
    wanted = [task.file for task in left if _folder(task) != "partials"]
    seen: set[str] = set()
    found = []
    while wanted:
        file = wanted.pop()
        if file not in makes or file in seen:
            continue
        seen.add(file)
        if _fetched(makes[file], run, store):
            found.append(file)
        else:
            wanted += makes[file].after
    return sorted(found)


def publish(tasks: Iterable[Task], run: Store, store: Store) -> list[str]:
    """Put into the store what the run folder has of these tasks; return the run's files."""
    made = []
    for task in tasks:
        place = placed(task)
        if place is None or (store.exists(place) and store.whole(place)):
            continue
        if not run.sound(task.file):
            continue
        if task.kind == "data" and run.recipe(task.file) != task.name:
            continue  # the one file whose path does not tell how it was made
        _removed_if_broken(store, place)
        if _linked(run, task.file, store, place):
            made.append(task.file)
    return made


def placed(task: Task) -> str | None:
    """Return where a task's file lies in a shared store; None if it is not shared."""
    folder = _folder(task)
    if folder not in FOLDERS:
        return None
    return f"{folder}/{task.kind}.{task.name}{Path(task.file).suffix}"


def _folder(task: Task) -> str:
    return task.file.split("/", 1)[0]


def _fetched(task: Task, run: Store, store: Store) -> bool:
    place = placed(task)
    if place is None or _removed_if_broken(store, place) or not store.exists(place):
        return False
    with suppress(FileNotFoundError):  # another run found it cut short a moment ago
        table = _relabelled(task, store, place)
        if table is None:
            _linked(store, place, run, task.file)
        else:
            run.commit(task.file, parquet(table, task.name))
        return True
    return False


def _removed_if_broken(store: Store, place: str) -> bool:
    """Take a file out of the store if it is cut short or changed; return whether it is."""
    if not store.exists(place) or store.sound(place):
        return False
    with suppress(OSError):  # or else left there unused
        store.delete(place)
    return True


def _relabelled(task: Task, store: Store, place: str) -> pa.Table | None:
    """Return a stored table with this sweep's labels; None if it has them, or has none."""
    if _folder(task) not in LABELLED:
        return None
    labels = {"model": task.arguments["model"], "data": task.arguments["data_name"]}
    stored = store.table(place, list(labels))
    if all(set(stored.column(c).unique().to_pylist()) <= {v} for c, v in labels.items()):
        return None
    table = store.table(place)
    for column, label in labels.items():
        at = table.schema.get_field_index(column)
        values = pa.repeat(pa.scalar(label, table.schema.field(at).type), table.num_rows)
        table = table.set_column(at, table.schema.field(at), values)
    return table


def _linked(given: Store, source: str, into: Store, file: str) -> bool:
    """Link a file into another store, or copy it; return whether it was not there before."""
    here = given.path(source)
    if given.local and into.local:
        place = into.path(file)
        with suppress(OSError):  # the copy will say what is wrong
            place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(here, place)
        except FileExistsError:
            return False
        except OSError:  # another file system, or one without links
            pass
        else:
            return True
    with here.open("rb") as content:
        return into.commit(file, partial(_copied, content))


def _copied(content: BinaryIO, place: Path) -> None:
    with place.open("wb") as copy:
        copyfileobj(content, copy)
