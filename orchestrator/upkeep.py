"""Upkeep: what a run folder says about itself, and what no longer counts in it.

A folder is worked on again and again: after an interruption, after an edit of
the sweep, for its statistics first and for its cells later. Each time it is
brought in line with the whole sweep, whichever part of it is done next: one
plan, one version of every table.
"""

from collections.abc import Callable

import pyarrow as pa

from orchestrator import resume
from orchestrator.calls import rounds_of
from orchestrator.names import slug
from orchestrator.plan import Plan
from orchestrator.store import Store, parquet, rows
from orchestrator.tables import SCHEMAS
from orchestrator.written import as_yaml

LABELLED = ("donors", "selections", "statistics", "centres")
"""Folders of tables that have one version each, and say which source they are of."""


def tidy(made: Plan, store: Store, tell: Callable[..., None]) -> None:
    """Take out of the run folder what no longer counts, and tell of it."""
    found = resume.left(made, store)
    for file in found.broken:
        tell("broken", file=file)
    for file in found.stale:
        tell("stale", file=file)
        store.delete(file)
    # Tables of an earlier version of the sweep would stand beside this one's under the same names.
    named = {task.file for task in made.tasks}
    for kind in LABELLED:
        for file in set(store.files(kind)) - named:
            tell("superseded", file=file)
            store.delete(file)
    _relabelled(made, store, tell)
    # Results without an execution, as a crash between the two commits leaves them, don't count.
    kept = {resume.results_of(f) for f in store.files("executions")}
    for file in set(store.files("results")) - kept:
        store.delete(file)


def _relabelled(made: Plan, store: Store, tell: Callable[..., None]) -> None:
    """Forget tables that call their source by a name the sweep has changed since."""
    for task in made.tasks:
        if task.file.split("/")[0] in LABELLED and store.exists(task.file):
            labels = store.table(task.file, ["data"]).column("data").slice(0, 1).to_pylist()
            if labels and labels[0] != task.arguments["data_name"]:
                tell("superseded", file=task.file)
                store.delete(task.file)


def write_plan(made: Plan, store: Store) -> None:
    """Write what the run folder says about itself."""
    store.replace("sweep.yaml", as_yaml(made.spec).encode())
    store.replace("cells.parquet", parquet(cells_table(made)))
    store.replace("plan.parquet", parquet(_plan_table(made)))


def cells_table(made: Plan) -> pa.Table:
    """Return the cells table of a plan."""
    columns = {c: [r[c] for r in made.rows] for c in SCHEMAS["cells"].names}
    return rows("cells", columns, len(made.rows))


def _plan_table(made: Plan) -> pa.Table:
    """Return one row per task; a cell is a task whose file is any part of its model's."""
    tasks: list[tuple[object, ...]] = [
        (t.name, t.stage, t.kind, t.label, t.arguments["model"], t.file, None) for t in made.tasks
    ]
    rounds = {model: rounds_of(made, ref) for model, ref in made.models.items()}
    tasks += [
        (
            c.name,
            "evaluate",
            "cell",
            c.label,
            c.model,
            f"executions/{slug(c.model)}",
            rounds[c.model],
        )
        for c in made.cells.values()
    ]
    names = SCHEMAS["plan"].names
    return rows("plan", dict(zip(names, zip(*tasks, strict=True), strict=True)), len(tasks))
