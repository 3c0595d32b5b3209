"""Upkeep: what no longer counts in a run folder goes away, and is told of.

A folder is worked on again and again: after an interruption, after an edit of
the sweep, for its statistics first and for its cells later. Each time it is
brought in line with the whole sweep, whichever part of it is done next: one
plan, one version of every table. Every step stands by itself, so a crash between
two of them leaves the rest to the next time.

What is committed is never written over, so what is damaged has to go before it is
made again. Answers and tables are read through for that, byte by byte. Partials are
large and are needed once; only those are read that something missing is made from.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from orchestrator import compaction, resume
from orchestrator.compaction import twin
from orchestrator.plan import Plan
from orchestrator.resume import There
from orchestrator.store import Store
from orchestrator.tables import lasting

LABELLED = ("donors", "selections", "statistics", "centres")
"""Folders of tables that have one version each, and say which source they are of."""
AGE = 3600.0
"""Seconds after which a file that was being written is taken to be a dead writer's. One that lives
after all finds its file gone, and writes it again."""
READERS = 16
"""Files that are read through at a time: most of it is waiting."""
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}|\.probe-.+")
"""Names of files that are being written (`orchestrator.store`)."""

Tell = Callable[..., None]


def tidy(made: Plan, store: Store, tell: Tell, check: compaction.Check = lambda: None) -> There:
    """Take out of the run folder what no longer counts, tell of it, and return what there is.

    Nobody else may work on the folder: `check`, called in every step, raises where another may.
    What is told: `broken`, `orphaned` (one of a part's twins alone), `stale` (made with other
    constants), `superseded`, `left` (by a dead writer) and `differing`, which stays, since it is
    not known which of two answers is right.
    """
    check()
    _abandoned(store, tell)
    tables = [f for kind in resume.FOLDERS if kind != "partials" for f in store.files(kind)]
    parts = [f for kind in resume.PARTS for f in store.files(kind)]
    _unsound(store, [*tables, *parts], tell, check)
    check()
    _alone(store, tell)
    check()
    compaction.sweep_up(store, tell, check)
    there = resume.there(made, store, checked=True)
    check()
    if there.broken:  # sound, but no executions
        for part in sorted(there.broken):
            _forget(store, part, "broken", tell)
        _alone(store, tell)
        there = resume.there(made, store, checked=True)
    for part, cells in sorted(there.stale.items()):
        tell("stale", file=part, cells=len(cells))
        if compaction.is_joined(part):
            compaction.without(store, part, cells)
        else:
            store.delete(part)
            store.delete(twin(part))
    if there.stale:  # a joined part's other cells count again
        there = resume.there(made, store, checked=True)
    check()
    # Tables of an earlier version of the sweep would stand beside this one's under the same names.
    named = {task.file for task in made.tasks}
    for kind in LABELLED:
        for file in set(store.files(kind)) - named:
            _forget(store, file, "superseded", tell)
    _relabelled(made, store, tell)
    check()
    _partials(made, store, tell, check)
    return there


def _forget(store: Store, file: str, why: str, tell: Tell) -> None:
    tell(why, file=file)
    store.delete(file)


def _abandoned(store: Store, tell: Tell) -> None:
    """Forget what writers began and did not end; object stores keep no such thing."""
    if not store.local:
        return
    for path in sorted(store.root.rglob(".*")):
        file = path.relative_to(store.root).as_posix()
        if _UNFINISHED.fullmatch(path.name):
            with suppress(FileNotFoundError):  # its writer ends now
                if time.time() - path.stat().st_mtime > AGE:
                    _forget(store, file, "left", tell)


def _unsound(store: Store, files: Sequence[str], tell: Tell, check: compaction.Check) -> None:
    """Forget what is cut short or has a bit flipped."""
    with ThreadPoolExecutor(READERS) as readers:
        for file, sound in zip(files, readers.map(partial(_sound, store), files), strict=True):
            if not sound:
                check()  # reading them all takes long
                _forget(store, file, "broken", tell)


def _sound(store: Store, file: str) -> bool:
    """Whether a table is as it was committed, and one of its folder's kind."""
    try:
        return store.sound(file) and lasting(file) <= set(store.schema(file).names)
    except FileNotFoundError:
        return False


def _alone(store: Store, tell: Tell) -> None:
    """Forget parts without their twins, as a crash between two commits leaves them.

    An execution without results proves nothing, and stands in the way of the next.
    """
    parts = {f for kind in resume.PARTS for f in store.files(kind)}
    for part in sorted(parts):
        if twin(part) not in parts:
            _forget(store, part, "orphaned", tell)


def _relabelled(made: Plan, store: Store, tell: Tell) -> None:
    """Forget tables that call their source by a name the sweep has changed since, or by none."""
    for task in made.tasks:
        if task.file.split("/")[0] in LABELLED and store.exists(task.file):
            try:
                table = store.table(task.file, ["data"])
            except FileNotFoundError:
                continue  # gone meanwhile
            labels = table["data"].slice(0, 1).to_pylist() if table.column_names else [None]
            if any(label != task.arguments["data_name"] for label in labels):
                _forget(store, task.file, "superseded", tell)


def _partials(made: Plan, store: Store, tell: Tell, check: compaction.Check) -> None:
    """Forget damaged partials that something missing is made from, however indirectly."""
    makes = {task.file: task for task in made.tasks}
    present = {file for kind in resume.FOLDERS for file in store.files(kind)}
    wanted = [task.file for task in made.tasks if task.kind not in resume.MEANS]
    seen = set(wanted)
    while wanted:
        file = wanted.pop()
        if file in present:
            if not file.startswith("partials/") or store.sound(file):
                continue
            check()
            _forget(store, file, "broken", tell)
        more = set(makes[file].after) - seen
        wanted += more
        seen |= more
