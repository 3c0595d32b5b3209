"""Listing: what a run folder says about itself: the sweep, its cells and its tasks.

    sweep.yaml       the sweep with every default filled in
    cells.parquet    a row per point of the sweep, which names its cell
    plan.parquet     a row per task, and per cell

All of it is derived from the plan, so it is written over when the sweep was edited.
"""

import pyarrow as pa

from orchestrator.calls import rounds_of
from orchestrator.names import slug
from orchestrator.plan import Plan
from orchestrator.store import Store, parquet, rows
from orchestrator.written import as_yaml


def write_plan(made: Plan, store: Store) -> None:
    """Write what the run folder says about itself. Raises StoreError."""
    store.replace("sweep.yaml", as_yaml(made.spec).encode())
    store.replace("cells.parquet", parquet(cells_table(made)))
    store.replace("plan.parquet", parquet(plan_table(made)))


def cells_table(made: Plan) -> pa.Table:
    """Return the cells table of a plan, one row per point."""
    return made.rows


def plan_table(made: Plan) -> pa.Table:
    """Return one row per task; a cell is a task whose file is any part of its model's."""
    columns = {
        "name": [t.name for t in made.tasks],
        "stage": [t.stage for t in made.tasks],
        "kind": [t.kind for t in made.tasks],
        "label": [t.label for t in made.tasks],
        "model": [t.arguments["model"] for t in made.tasks],
        "file": [t.file for t in made.tasks],
    }
    cells = made.cells.table()
    number = cells.column("model").combine_chunks().dictionary_encode()
    models = [made.models[model] for model in number.dictionary.to_pylist()]
    folders = pa.array([f"executions/{slug(ref.name)}" for ref in models], pa.string())
    rounds = pa.array([rounds_of(made, ref) for ref in models], pa.int64())
    more = {name: cells.column(name) for name in ("name", "model", "label")}
    more |= {"file": folders.take(number.indices), "rounds": rounds.take(number.indices)}
    more |= {"stage": "evaluate", "kind": "cell"}
    tasks = rows("plan", columns, len(made.tasks))
    return pa.concat_tables([tasks, rows("plan", more, len(cells))])
