"""What is left to do is what no file answers, and nothing else."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import calls, resume, values
from orchestrator.compaction import twin
from orchestrator.mistakes import SpecError
from orchestrator.plan import Plan, with_cells
from orchestrator.resume import Left
from orchestrator.store import Store, arrow, parquet, rows
from orchestrator.tasks import Task
from tests.orchestrator import planned

MEANS = {
    "pilot", "collect", "widen", "again", "under", "recount", "merge", "merge_fixed", "generate",
    "norms", "probe", "effects",
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "models": ["a"],
    "methods": ["mean", "noise", "optimal(steps=10)", "resample(generated)"],
    "selections": ["random", "score(wanda, low)", "regression(masks=90)"],
    "seeds": 1,
    "fractions": [0.5, 1],
}
"""A sweep with a task of nearly every kind."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked", heads=3)})
    return lambda **changes: planned.make(tmp_path, **{"models": ["a", "m"], **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


def table_of(task: Task, value: float = 0.5) -> pa.Table:
    """Return a table such as a task of this kind leaves, with made-up numbers."""
    a = task.arguments
    data = a.get("data_name")
    if task.kind in ("centres", "learn"):
        # Of 3 layers of as many neurons as each site has.
        many = {"attn_pre_out": 30, "mlp_mid": 60}
        return pa.concat_tables(
            rows("centres", {"data": data, "site": site, "value": np.full(n, value)}, n)
            for site, n in many.items()
            if site in (a.get("sites") or [a["site"]])
        )
    if task.kind == "donors":
        columns = {"data": data, "sequence": [5], "donor": [int(value * 2)], "input": [None]}
        return rows("donors", columns, 1)
    if task.kind == "statistics":
        places = [(i, n) for i in range(a["start"], a["stop"]) for n in range(a["neurons"])]
        columns = {
            "data": data,
            "site": a["site"],
            "stratum": "all",
            "layer": [layer for layer, _ in places],
            "neuron": [neuron for _, neuron in places],
            "mean": value,
            "std": 1.0,
        }
        return rows("statistics", columns, len(places))
    if task.kind == "selection":
        return rows("selections", {"data": data, "score": [[value]]}, 1)
    return pa.table({"x": [value], "data": [data]})


def do(store: Store, task: Task) -> None:
    """Pretend to do a task: commit a file in its place."""
    if task.kind != "evaluate":
        write = arrow if task.file.endswith(".arrow") else parquet
        store.commit(task.file, write(table_of(task), task.name))
        return
    assert task.model is not None
    facts, cells = task.model.facts, task.arguments["cells"]
    digests = [values.digest(facts, told, store, {}) for told in cells.values()]
    asked = [task.arguments["asked"]] * len(cells)
    columns = {"cell": list(cells), "statistics_digest": digests, "rounds": asked}
    executions = rows("executions", columns, len(cells))
    store.commit(task.file, parquet(rows("results", {"cell": list(cells)}, len(cells)), task.name))
    store.commit(task.arguments["executions"], parquet(executions, task.name))


def do_all(plan: Plan, store: Store, tasks: Iterable[Task]) -> None:
    waiting = [calls.filled(plan, task) for task in tasks]
    for task in [t for t in waiting if t.kind != "evaluate"]:
        do(store, task)
    for task in [t for t in waiting if t.kind == "evaluate"]:
        do(store, task)


def kinds(left: Left) -> set[str]:
    return {t.kind for t in left.tasks}


def cells_of(left: Left) -> list[str]:
    return [c for t in left.tasks for c in t.cells]


def test_of_an_empty_folder_everything_is_left(make: Callable[..., Plan], store: Store) -> None:
    plan = make()
    left = resume.left(plan, store)
    assert [t for t in left.tasks if t.kind != "evaluate"] == list(plan.tasks)
    assert sorted(cells_of(left)) == sorted(plan.cells)
    assert not left.done
    assert not left.answered


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"basis": {"rotate": 1}}])
def test_of_a_finished_folder_nothing_is_left(
    make: Callable[..., Plan], store: Store, changes: dict[str, Any]
) -> None:
    plan = make(**changes)
    do_all(plan, store, resume.left(plan, store).tasks)
    left = resume.left(plan, store)
    assert left.tasks == ()
    assert left.answered == plan.cells.keys()
    assert left.done == {t.file for t in plan.tasks}
    there = resume.there(plan, store)
    assert not any((there.broken, there.orphaned, there.stale, there.aside))
    assert resume.left(plan, store, there).tasks == ()


def test_only_cells_without_an_answer_are_asked_for(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make()
    left = resume.left(plan, store)
    calls = [t for t in left.tasks if t.kind == "evaluate"]
    do_all(plan, store, [t for t in left.tasks if t.kind != "evaluate"] + calls[::2])
    again = resume.left(plan, store)
    assert again.answered == {c for call in calls[::2] for c in call.cells}
    assert sorted(cells_of(again)) == sorted(plan.cells.keys() - again.answered)


def test_a_cell_with_results_but_no_execution_is_not_answered(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make()
    left = resume.left(plan, store)
    do_all(plan, store, left.tasks)
    call = next(t for t in left.tasks if t.kind == "evaluate")
    store.delete(twin(call.file))  # killed between the two commits
    assert sorted(cells_of(resume.left(plan, store))) == sorted(call.cells)


def test_a_larger_sweep_asks_for_the_new_cells_alone(
    make: Callable[..., Plan], store: Store
) -> None:
    small = make(seeds=1, fractions=[0.5])
    do_all(small, store, resume.left(small, store).tasks)
    large = make(seeds=2)
    left = resume.left(large, store)
    assert left.answered == small.cells.keys()
    assert kinds(left) == {"selection", "evaluate"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("data", True),
        ("donors", True),
        ("selection", True),
        ("statistics", True),
        ("centres", True),
        ("learn", True),
        ("pilot", False),
        ("collect", False),
        ("recount", False),
        ("merge", False),
        ("merge_fixed", False),
        ("generate", False),
        ("norms", False),
        ("probe", False),
        ("effects", False),
    ],
)
def test_deleting_a_file_brings_back_exactly_its_work(
    make: Callable[..., Plan], store: Store, kind: str, expected: bool
) -> None:
    plan = make(**{**EVERYTHING, "methods": [*EVERYTHING["methods"], "peak(paper)"]})
    do_all(plan, store, resume.left(plan, store).tasks)
    task = next(t for t in plan.tasks if t.kind == kind)
    store.delete(task.file)
    left = resume.left(plan, store)
    assert [t.file for t in left.tasks] == ([task.file] if expected else [])


def test_partials_are_made_again_when_something_that_needs_them_is_missing(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make(models=["a"], statistics={"shards": 3})
    do_all(plan, store, resume.left(plan, store).tasks)
    for task in plan.tasks:
        if task.kind in MEANS:
            store.delete(task.file)
    assert resume.left(plan, store).tasks == ()
    store.delete(next(t.file for t in plan.tasks if t.kind == "statistics"))
    assert kinds(resume.left(plan, store)) == {
        "statistics", "merge", "again", "widen", "collect", "pilot",
    }  # fmt: skip


def test_what_a_selection_builds_on_is_made_again_with_it(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make(**EVERYTHING)
    do_all(plan, store, resume.left(plan, store).tasks)
    for task in plan.tasks:
        if task.kind in MEANS:
            store.delete(task.file)
    order = next(t for t in plan.tasks if t.arguments.get("rule") == "regression")
    store.delete(order.file)
    again = resume.left(plan, store).tasks
    assert [t.kind for t in again] == ["probe"] * 4 + ["effects", "selection"]


def cut_short(store: Store, file: str) -> None:
    """Leave of a file what a crash of the whole machine may leave."""
    content = store.path(file).read_bytes()
    store.replace(file, content[: len(content) * 2 // 3])


@pytest.mark.parametrize("kind", ["data", "donors", "selection", "statistics", "centres", "learn"])
def test_a_file_that_was_cut_short_is_made_again(
    make: Callable[..., Plan], store: Store, kind: str
) -> None:
    plan = make(methods=["mean", "resample", "optimal(steps=10)"], seeds=1)
    do_all(plan, store, resume.left(plan, store).tasks)
    task = next(t for t in plan.tasks if t.kind == kind)
    cut_short(store, task.file)
    assert resume.there(plan, store).broken == {task.file}
    left = resume.left(plan, store)
    assert left.done == {t.file for t in plan.tasks} - {task.file}
    assert left.tasks == (task,)
    assert store.exists(task.file)  # looking changes nothing
    store.delete(task.file)
    do_all(plan, store, left.tasks)
    assert resume.left(plan, store).tasks == ()


def test_a_partial_that_was_cut_short_is_made_again_once_it_is_needed(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make(models=["a"], methods=["mean"])
    do_all(plan, store, resume.left(plan, store).tasks)
    shard = next(t for t in plan.tasks if t.kind == "collect")
    cut_short(store, shard.file)
    assert resume.there(plan, store).broken == {shard.file}
    assert resume.left(plan, store).tasks == ()
    first = next(t for t in plan.tasks if t.kind == "merge")
    for task in (first, next(t for t in plan.tasks if t.kind == "statistics")):
        store.delete(task.file)
    assert [t.kind for t in resume.left(plan, store).tasks] == ["collect", "merge", "statistics"]


@pytest.mark.parametrize("part", ["executions", "results"])
@pytest.mark.parametrize("how", [cut_short, Store.delete])
def test_a_call_of_which_one_part_is_gone_or_cut_short_is_made_again(
    make: Callable[..., Plan], store: Store, part: str, how: Callable[[Store, str], None]
) -> None:
    plan = make()
    calls = [t for t in resume.left(plan, store).tasks if t.kind == "evaluate"]
    do_all(plan, store, resume.left(plan, store).tasks)
    call = calls[0]
    file, other = (call.file, twin(call.file))[:: 1 if part == "results" else -1]
    how(store, file)
    there = resume.there(plan, store)
    assert there.broken == ({file} if how is cut_short else set())
    assert there.orphaned == {other}
    left = resume.left(plan, store, there)
    assert sorted(cells_of(left)) == sorted(call.cells)
    assert left.answered == plan.cells.keys() - set(call.cells)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_is_deleted_comes_back_and_nothing_more(
    make: Callable[..., Plan], tmp_path: Path, data: st.DataObject
) -> None:
    methods = ["zero", "peak(paper)", "noise", "resample(generated)", "optimal(steps=10)"]
    selections = ["random", "score(wanda, low)", "regression(masks=90)"]
    plan = make(models=["a"], methods=methods, selections=selections, seeds=1, fractions=[0.5])
    store = Store.open(tempfile.mkdtemp(dir=tmp_path))  # one for every example
    every = resume.left(plan, store).tasks
    do_all(plan, store, every)
    for i in data.draw(st.sets(st.integers(0, len(every) - 1))):
        task = every[i]
        store.delete(task.file)
        if task.kind == "evaluate":
            store.delete(twin(task.file))
    left = resume.left(plan, store)
    have = {t.file for t in plan.tasks if store.exists(t.file)}
    files = {t.file for t in left.tasks}
    needed_by_something = {n for t in left.tasks for n in t.after}
    for task in plan.tasks:
        if task.file in have:
            assert task.file not in files
        elif task.kind in MEANS:
            assert (task.file in files) == (task.file in needed_by_something)
        else:
            assert task.file in files
    for task in left.tasks:  # what it needs is there, or is made first
        assert set(task.after) <= left.done | files
    do_all(plan, store, left.tasks)
    assert resume.left(plan, store).tasks == ()


def changed(plan: Plan, store: Store, kind: str) -> str:
    """Put other numbers in the place of one table of values; return its file."""
    task = next(t for t in plan.tasks if t.kind == kind)
    store.replace(task.file, parquet(table_of(task, 1.5), task.name))
    return task.file


@pytest.mark.parametrize("kind", ["centres", "donors", "statistics", "learn"])
def test_answers_made_with_other_numbers_are_stale(
    make: Callable[..., Plan], store: Store, kind: str
) -> None:
    plan = make(models=["a"], methods=["zero", "mean", "resample", "noise", "optimal(steps=10)"])
    do_all(plan, store, resume.left(plan, store).tasks)
    file = changed(plan, store, kind)
    there = resume.there(plan, store)
    left = resume.left(plan, store, there)
    users = {n for n, c in plan.cells.items() if file in c.after}
    assert users
    assert users <= set(cells_of(left))
    in_stale_files = {
        cell for f in there.stale for cell in store.table(f, ["cell"])["cell"].to_pylist()
    }
    assert users == {cell for cells in there.stale.values() for cell in cells}
    assert set(cells_of(left)) == in_stale_files
    assert left.answered == plan.cells.keys() - in_stale_files


def test_a_stale_part_that_is_forgotten_is_made_again_and_then_fresh(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make(models=["a"])
    do_all(plan, store, resume.left(plan, store).tasks)
    assert changed(plan, store, "centres")
    left = resume.left(plan, store)
    for file in resume.there(plan, store).stale:
        store.delete(file)
        store.delete(twin(file))
    do_all(plan, store, left.tasks)
    assert resume.left(plan, store).tasks == ()
    assert not resume.there(plan, store).stale


def test_answers_of_other_sweeps_in_the_folder_are_left_alone(
    make: Callable[..., Plan], store: Store
) -> None:
    large, small = make(), make(seeds=1, fractions=[0.5])
    do_all(large, store, resume.left(large, store).tasks)
    left = resume.left(small, store)
    assert left.tasks == ()
    assert left.answered == small.cells.keys()


def test_a_plan_of_some_cells_asks_for_those_alone(make: Callable[..., Plan], store: Store) -> None:
    plan = make(models=["a"])
    some = list(plan.cells)[:2]
    left = resume.left(with_cells(plan, some), store)
    assert sorted(cells_of(left)) == sorted(some)


def test_data_of_the_same_name_made_otherwise_is_refused(
    make: Callable[..., Plan], store: Store
) -> None:
    do_all(make(), store, resume.left(make(), store).tasks)
    texts = {"source": "documents.jsonl", "document": "name", "evaluate": {"sequences": 3}}
    with pytest.raises(SpecError) as caught:
        resume.left(make(data={"texts": texts}), store)
    assert {m.path for m in caught.value.mistakes} == {"data.texts"}
    assert len(caught.value.mistakes) == 2
    assert "choose another folder with --out" in str(caught.value)


def test_a_file_that_another_models_task_of_the_same_name_has_made_is_still_missing(
    make: Callable[..., Plan], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = {"a": planned.facts(), "b": planned.facts(digest="other weights")}
    planned.know(monkeypatch, alike)
    plan = make(models=["a", "b"])
    for task in plan.tasks:
        if not task.file.startswith("selections/b"):
            do(store, task)
    missing = {t.file for t in plan.tasks if t.file.startswith("selections/b")}
    assert missing
    assert missing <= {t.file for t in resume.left(plan, store).tasks}


def test_the_answers_do_not_depend_on_how_cells_were_grouped(
    make: Callable[..., Plan], store: Store
) -> None:
    plan = make(models=["a"])
    do_all(plan, store, [t for t in resume.left(plan, store).tasks if t.kind != "evaluate"])
    for call in calls.calls(plan, {name: [0] for name in reversed(list(plan.cells))}):
        do_all(plan, store, calls.split(plan, call))
    assert resume.left(plan, store).tasks == ()
    assert json.dumps(sorted(resume.left(plan, store).answered)) == json.dumps(sorted(plan.cells))
