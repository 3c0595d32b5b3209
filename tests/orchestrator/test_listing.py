"""A run folder says what its sweep, its cells and its tasks are."""

from pathlib import Path

import pytest

from orchestrator import listing
from orchestrator.calls import rounds_of
from orchestrator.plan import Plan, with_cells
from orchestrator.store import Store
from tests.orchestrator import planned


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Return a plan of two models, of which only the masked one has several rounds."""
    planned.documents(tmp_path)
    models = {"a/b": planned.facts(), "m": planned.facts("masked", window=24, d_model=4)}
    planned.know(monkeypatch, models)
    evaluation = {"batch_tokens": 32}
    return planned.make(tmp_path, models=["a/b", "m"], evaluation=evaluation, fractions=[0, 0.5, 1])


def test_the_plan_lists_every_task_and_then_every_cell(plan: Plan) -> None:
    table = listing.plan_table(plan).to_pylist()
    tasks = [
        {
            **{key: getattr(t, key) for key in ("name", "stage", "kind", "label", "file")},
            "model": t.arguments["model"],
            "rounds": None,
        }
        for t in plan.tasks
    ]
    cells = [
        {
            **{"name": c.name, "stage": "evaluate", "kind": "cell", "label": c.label},
            **{"model": c.model, "file": f"executions/{c.model.replace('/', '-')}"},
            "rounds": rounds_of(plan, c.ref),
        }
        for c in plan.cells.values()
    ]
    assert table == [*tasks, *cells]
    assert rounds_of(plan, plan.models["m"]) > 1


def test_a_plan_of_no_cells_lists_its_tasks(plan: Plan) -> None:
    table = listing.plan_table(with_cells(plan, ()))
    assert table.column("name").to_pylist() == [t.name for t in plan.tasks]


def test_what_is_written_can_be_read_and_is_written_over(plan: Plan, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run")
    listing.write_plan(with_cells(plan, ()), store)
    listing.write_plan(plan, store)
    assert store.table("cells.parquet").to_pylist() == plan.rows.to_pylist()
    assert store.table("plan.parquet").num_rows == len(plan.tasks) + len(plan.cells)
    assert (store.root / "sweep.yaml").read_text().startswith("name:")
    assert listing.cells_table(plan) is plan.rows
