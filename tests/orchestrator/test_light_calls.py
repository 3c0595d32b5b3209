"""A call that waits says which cells it is of; what a worker is told is put in when it is sent."""

from pathlib import Path

import pytest

from orchestrator import calls
from orchestrator.plan import Plan
from tests.orchestrator import planned


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    return planned.make(tmp_path, fractions=[0, 0.5, 1], seeds={"masks": 6, "donors": 2})


def test_a_call_that_waits_is_light(plan: Plan) -> None:
    every = calls.calls(plan, {name: [0] for name in plan.cells})
    assert len(every) > 3
    assert len({id(task.arguments) for task in every if not plan.cells.donors(task.cells[0])}) == 1
    assert not any({"cells", "executions"} & task.arguments.keys() for task in every)


def test_a_call_is_filled_with_what_its_cells_are_told(plan: Plan) -> None:
    for task in calls.calls(plan, {name: [0] for name in plan.cells}):
        sent = calls.filled(plan, task)
        assert sent.arguments["cells"] == {c: plan.cells[c].arguments for c in task.cells}
        assert sent.arguments["executions"] == task.file.replace("results", "executions", 1)
        assert task.arguments.items() <= sent.arguments.items()
        assert (sent.name, sent.cells, sent.after) == (task.name, task.cells, task.after)
        assert calls.filled(plan, sent) == sent
        cells = [plan.cells[name] for name in task.cells]
        again = calls.call(plan, cells, [0])
        assert (again.name, again.arguments) == (sent.name, sent.arguments)
        assert set(task.after) == {file for cell in cells for file in cell.after}


def test_tasks_of_no_cells_are_sent_as_they_are(plan: Plan) -> None:
    assert all(calls.filled(plan, task) is task for task in plan.tasks)


def test_the_parts_of_a_call_are_light_too(plan: Plan) -> None:
    (whole, *_) = calls.calls(plan, {name: [0] for name in plan.cells})
    for task in (whole, calls.filled(plan, whole)):
        parts = calls.split(plan, task)
        assert [part.cells for part in parts] == [(cell,) for cell in whole.cells]
        assert not any("cells" in part.arguments for part in parts)
        assert {calls.filled(plan, part).name for part in parts} == {
            calls.call(plan, [plan.cells[name]], [0]).name for name in whole.cells
        }
