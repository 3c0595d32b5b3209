"""Where a run stands, from files alone and at any moment."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.lock import locked
from orchestrator.status import StageStatus, Status, status
from orchestrator.store import Store, StoreError, parquet, rows
from orchestrator.tables import SCHEMAS
from orchestrator.tasks import STAGES

TASKS = [
    ("t-data", "prepare", "data", "data/a/texts.parquet"),
    ("t-mask", "prepare", "selection", "selections/a/selection.1.parquet"),
    ("t-shard", "collect", "collect", "partials/a/collect.2.parquet"),
    ("t-merge", "reduce", "merge", "partials/a/merge.3.parquet"),
    ("t-mean", "reduce", "centres", "centres/a/centres.4.parquet"),
    ("t-table", "reduce", "statistics", "statistics/a/statistics.5.parquet"),
]
FILES = {name: file for name, _, _, file in TASKS}
CELLS = [f"c{i}" for i in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run that is planned and not begun: six tasks and six cells."""
    return begun(tmp_path / "run")


def begun(folder: Path) -> Store:
    store = Store.open(folder)
    plan = [(n, s, k, f"label of {n}", "a", f, None) for n, s, k, f in TASKS]
    plan += [(c, "evaluate", "cell", f"label of {c}", "a", "executions/a", 1) for c in CELLS]
    names = SCHEMAS["plan"].names
    columns = dict(zip(names, zip(*plan, strict=True), strict=True))
    store.replace("plan.parquet", parquet(rows("plan", columns, len(plan))))
    return store


def finish(store: Store, *names: str) -> None:
    for name, file in FILES.items():
        if name in names:
            store.commit(file, parquet(pa.table({"x": [1]})))
    if cells := [n for n in names if n in CELLS]:
        part = f"executions/a/part.{'-'.join(cells)}.parquet"
        store.commit(part, parquet(rows("executions", {"cell": cells}, len(cells))))


def told(store: Store, *events: dict[str, object] | str) -> None:
    with store.path("events.jsonl").open("a") as file:
        for event in events:
            file.write(event if isinstance(event, str) else json.dumps(event) + "\n")


def started(name: str, cells: Sequence[str] = ()) -> dict[str, object]:
    """Return what is told of a task, or of a call: its file is of no row of the plan."""
    about: dict[str, object] = {"event": "started", "file": FILES.get(name, name)}
    return {**about, "cells": list(cells)} if cells else about


def counts(store: Store) -> dict[str, tuple[int, int, int, int]]:
    """Return (done, running, missing, failed) per stage."""
    found = status(store.root)
    return {s.stage: (s.done, s.running, s.missing, s.failed) for s in found.stages}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"holds no run .*; give a folder made by `run` or `collect`"
    ):
        status(tmp_path)
    with pytest.raises(StoreError, match="holds no run"):
        status(tmp_path / "none")


def test_of_a_run_that_is_only_planned_everything_is_missing(store: Store) -> None:
    assert counts(store) == {
        "prepare": (0, 0, 2, 0),
        "collect": (0, 0, 1, 0),
        "reduce": (0, 0, 3, 0),
        "evaluate": (0, 0, 6, 0),
    }
    assert status(store.root).driver is None


def test_done_is_what_has_a_file_and_for_cells_an_execution(store: Store) -> None:
    finish(store, "t-data", "t-mean", "c1", "c4")
    finish(store, "c4")  # twice answered is answered once
    store.commit("results/a/part.parquet", b"results without an execution prove nothing")
    assert counts(store) == {
        "prepare": (1, 0, 1, 0),
        "collect": (0, 0, 1, 0),
        "reduce": (1, 0, 2, 0),
        "evaluate": (2, 0, 4, 0),
    }


def test_a_file_that_was_cut_short_counts_as_missing(store: Store) -> None:
    finish(store, "t-data", "c1")
    for file in (FILES["t-data"], "executions/a/part.c1.parquet"):
        store.replace(file, store.path(file).read_bytes()[:-9])
    assert counts(store)["prepare"] == (0, 0, 2, 0)
    assert counts(store)["evaluate"] == (0, 0, 6, 0)


def test_a_run_is_finished_when_everything_has_a_file(store: Store) -> None:
    finish(store, *FILES)
    finish(store, *CELLS[:5])
    assert not status(store.root).finished
    finish(store, CELLS[5])
    assert status(store.root).finished


def test_what_failed_is_told_with_the_cells_it_takes_along(store: Store) -> None:
    failure = {
        "task": "t-mean",
        "file": FILES["t-mean"],
        "label": "a centres mean",
        "error": "NoCentreError('x')",
        "cells": ["c0", "c1"],
    }
    store.replace("failures/t-mean.json", json.dumps(failure).encode())
    finish(store, "c1")  # answered after all, by another
    found = counts(store)
    assert found["reduce"] == (0, 0, 2, 1)
    assert found["evaluate"] == (1, 0, 4, 1)
    assert status(store.root).failures == ("a centres mean: NoCentreError('x')",)


def test_what_runs_is_told_only_while_a_driver_holds_the_folder(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"), started("call", ["c0", "c1"]))
    assert counts(store)["evaluate"] == (0, 0, 6, 0)
    with locked(store):
        assert status(store.root).driver == os.getpid()
        assert counts(store)["prepare"] == (0, 1, 1, 0)
        assert counts(store)["evaluate"] == (0, 2, 4, 0)


@pytest.mark.parametrize("end", ["done", "failed", "retried", "blocked"])
def test_what_ended_runs_no_longer(store: Store, end: str) -> None:
    told(store, {"event": "begin"}, started("t-data"), started("call", ["c0"]))
    told(store, {"event": end, "file": "call"})
    with locked(store):
        assert counts(store)["evaluate"] == (0, 0, 6, 0)
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def test_what_an_earlier_driver_had_begun_runs_no_longer(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"), {"event": "begin"}, started("t-mask"))
    with locked(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def test_a_file_proves_more_than_the_story(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"))
    finish(store, "t-data")
    with locked(store):
        assert counts(store)["prepare"] == (1, 0, 1, 0)


def test_a_story_that_ends_within_a_line_is_read_as_far_as_it_goes(store: Store) -> None:
    whole = json.dumps(started("t-mask"))
    told(store, {"event": "begin"}, started("t-data"), whole[: len(whole) // 2])
    with locked(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)
    told(store, "\n", {"event": "done", "file": FILES["t-data"]}, started("t-mask"))
    with locked(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def test_a_run_without_a_story_has_a_status_all_the_same(store: Store) -> None:
    with locked(store):
        assert counts(store)["prepare"] == (0, 0, 2, 0)


def test_a_run_whose_partials_were_deleted_afterwards_is_still_finished(store: Store) -> None:
    finish(store, *FILES, *CELLS)
    store.delete(FILES["t-shard"])
    assert status(store.root).finished
    store.delete(FILES["t-mean"])  # which is made from it
    assert counts(store)["collect"] == (0, 0, 1, 0)
    assert counts(store)["reduce"] == (2, 0, 1, 0)


def test_of_two_models_with_a_task_of_one_name_each_has_its_own(store: Store) -> None:
    columns = {
        "name": ["order", "order"], "stage": ["prepare"] * 2, "kind": ["selection"] * 2,
        "model": ["a", "b"], "file": ["selections/a/1.parquet", "selections/b/1.parquet"],
    }  # fmt: skip
    store.replace("plan.parquet", parquet(rows("plan", columns, 2)))
    store.commit("selections/b/1.parquet", parquet(pa.table({"x": [1]})))
    assert counts(store)["prepare"] == (1, 0, 1, 0)
    failure = {"file": "selections/a/1.parquet", "label": "a", "error": "bad"}
    store.replace("failures/order.json", json.dumps(failure).encode())
    assert counts(store)["prepare"] == (1, 0, 0, 1)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_at_any_moment_the_counts_add_up_to_the_plan(tmp_path: Path, data: st.DataObject) -> None:
    store = begun(Path(tempfile.mkdtemp(dir=tmp_path)))  # one for every example
    names = [*FILES, *CELLS]
    finish(store, *data.draw(st.lists(st.sampled_from(names), unique=True)))
    story = "".join(
        json.dumps({**started(name, [name]), "event": event}) + "\n"
        for event, name in data.draw(
            st.lists(
                st.tuples(st.sampled_from(["started", "done", "begin"]), st.sampled_from(names))
            )
        )
    )
    told(store, story[: data.draw(st.integers(0, len(story)))])  # killed while writing
    with locked(store):
        found = status(store.root)
    assert [s.stage for s in found.stages] == [s for s in STAGES if s != "learn"]  # none of it
    totals = {s.stage: s.done + s.running + s.missing + s.failed for s in found.stages}
    assert totals == {"prepare": 2, "collect": 1, "reduce": 3, "evaluate": 6}


def test_finished_needs_every_stage() -> None:
    def of(**left: int) -> Status:
        stage = StageStatus(
            stage="prepare", **{"done": 1, "running": 0, "missing": 0, "failed": 0, **left}
        )
        return Status(run="r", driver=None, stages=(stage,), failures=())

    assert of().finished
    assert not any(of(**{left: 1}).finished for left in ("running", "missing", "failed"))
