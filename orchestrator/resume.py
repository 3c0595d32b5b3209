"""Resume: what a run folder already answers, and so what is left to do.

Nothing but files is looked at. A task is done when its file is there; a cell is
done when a committed execution names it. What is left is the difference, found
by name, so it does not matter who did the rest, when, on how many workers or in
which order.

Partials are means to an end: they are made again only if something that needs
them is missing.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from orchestrator import values
from orchestrator.cells import Cell
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.names import canonical, slug
from orchestrator.pace import Pace
from orchestrator.plan import Plan
from orchestrator.store import Store
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What there is and what is left."""

    done: frozenset[str]
    """Files of the plan's tasks that are there."""
    tasks: tuple[Task, ...]
    """Tasks to run, evaluations among them."""
    answered: frozenset[str]
    """Cells of the plan that are answered, as far as is asked now."""
    pace: Pace
    """Says which evaluations follow when some are done."""
    stale: tuple[str, ...]
    """Files of results that were made with constants other than those now in the run folder."""
    broken: tuple[str, ...]
    """Files that were cut short; they have been deleted, and are made again."""


def left(plan: Plan, store: Store) -> Left:
    """Return what of a plan is left to do in a run folder; files cut short are deleted.

    Raises SpecError if the folder holds data of the same name made otherwise.
    """
    broken = [f for kind in (*FOLDERS, *_PARTS) for f in store.files(kind) if not store.whole(f)]
    for file in broken:
        store.delete(file)
    present = {f for kind in FOLDERS for f in store.files(kind)}
    _same_data(plan, store, present)
    done = {t.file for t in plan.tasks if t.file in present}
    answered, files, stale = _answered(plan, store)
    pace = Pace(plan, store, answered, files)
    missing = [plan.cells[name] for name in pace.unanswered]
    needed = _needed(plan, done, missing)
    tasks = [t for t in plan.tasks if t.file in needed]
    return Left(
        done=frozenset(done),
        tasks=(*tasks, *pace.begin()),
        answered=frozenset(plan.cells.keys() - pace.unanswered),
        pace=pace,
        stale=stale,
        broken=tuple(broken),
    )


FOLDERS = ("data", "donors", "selections", "partials", "statistics", "centres")
"""Where tasks that are no evaluations commit their files."""
_PARTS = ("results", "executions")


def _same_data(plan: Plan, store: Store, present: Collection[str]) -> None:
    mistakes = [
        Mistake(
            path=f"data.{task.arguments['data_name']}",
            message=f"{store.root} holds {task.file} made from another recipe (source, split,"
            " number of sequences, window or masking seed); name the data otherwise or choose"
            " another folder with --out",
        )
        for task in plan.tasks
        if task.kind == "data" and task.file in present and store.recipe(task.file) != task.name
    ]
    if mistakes:
        raise SpecError(mistakes)


def _needed(plan: Plan, done: Collection[str], missing: Iterable[Cell]) -> set[str]:
    """Return the files to make: what is missing, and what that is made from."""
    wanted = [t.file for t in plan.tasks if t.kind not in MEANS]
    wanted += [file for cell in missing for file in cell.after]
    return with_needs(plan.tasks, wanted, done)


def _answered(plan: Plan, store: Store) -> tuple[dict[str, set[int]], list[str], tuple[str, ...]]:
    """Return the rounds in which cells are answered, and the files with the answers.

    And the files whose constants have changed since.
    """
    answered: dict[str, set[int]] = defaultdict(set)
    files: list[str] = []
    stale: list[str] = []
    digests: dict[str, str] = {}
    for model in plan.models.values():
        for file in store.files(f"executions/{slug(model.name)}"):
            if not store.exists(results_of(file)):
                stale.append(file)  # its results are gone
                continue
            if "rounds" not in store.schema(file).names:
                continue  # of an earlier version: it answers cells of other names
            table = store.table(file, ["cell", "statistics_digest", "rounds"]).to_pydict()
            found = list(zip(table["cell"], table["statistics_digest"], strict=True))
            if all(_fresh(plan, store, digests, *pair) for pair in found):
                files.append(results_of(file))
                for cell, rounds in zip(table["cell"], table["rounds"], strict=True):
                    answered[cell].update(rounds)
            else:
                stale.append(file)
    return answered, files, tuple(stale)


def results_of(executions: str) -> str:
    """Return the part of `results` that stands beside a part of `executions`."""
    return executions.replace("executions/", "results/", 1)


def _fresh(plan: Plan, store: Store, digests: dict[str, str], cell: str, recorded: str) -> bool:
    known = plan.cells.get(cell)
    if known is None:
        return True
    a = known.arguments
    if not a or not all(store.exists(file) for file in values.files(a["value"])):
        return True  # made again from the same names, it will be compared next time
    key = canonical([a["sites"], a["value"]])
    if key not in digests:
        digests[key] = values.digest(known.ref.facts, a, store, {})
    return digests[key] == recorded
