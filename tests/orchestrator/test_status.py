"""Where a run stands, from files alone and at any moment."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.lease import Clock, leased
from orchestrator.machine import Machine
from orchestrator.status import FailureStatus, StageStatus, Status, status
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


def begun(folder: str | Path) -> Store:
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


def started(name: str, cells: Sequence[str] = (), at: float = 0.0) -> dict[str, object]:
    """Return what is told of a task, or of a call: its file is of no row of the plan."""
    about: dict[str, object] = {"event": "started", "file": FILES.get(name, name), "time": at}
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
    assert status(store.root).failures == (
        FailureStatus(
            label="a centres mean",
            why="NoCentreError('x')",
            attempts=None,  # of a version that did not say so
            command="",
            record="failures/t-mean.json",
        ),
    )


def test_what_runs_is_told_only_while_a_driver_holds_the_folder(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"), started("call", ["c0", "c1"]))
    assert counts(store)["evaluate"] == (0, 0, 6, 0)
    with leased(store):
        assert status(store.root).driver == os.getpid()
        assert counts(store)["prepare"] == (0, 1, 1, 0)
        assert counts(store)["evaluate"] == (0, 2, 4, 0)


@pytest.mark.parametrize("end", ["done", "failed", "retried", "blocked"])
def test_what_ended_runs_no_longer(store: Store, end: str) -> None:
    told(store, {"event": "begin"}, started("t-data"), started("call", ["c0"]))
    told(store, {"event": end, "file": "call"})
    with leased(store):
        assert counts(store)["evaluate"] == (0, 0, 6, 0)
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def test_what_an_earlier_driver_had_begun_runs_no_longer(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"), {"event": "begin"}, started("t-mask"))
    with leased(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def test_a_file_proves_more_than_the_story(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"))
    finish(store, "t-data")
    with leased(store):
        assert counts(store)["prepare"] == (1, 0, 1, 0)


def test_a_story_that_ends_within_a_line_is_read_as_far_as_it_goes(store: Store) -> None:
    whole = json.dumps(started("t-mask"))
    told(store, {"event": "begin"}, started("t-data"), whole[: len(whole) // 2])
    with leased(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)
    told(store, "\n", {"event": "done", "file": FILES["t-data"]}, started("t-mask"))
    with leased(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def test_a_run_without_a_story_has_a_status_all_the_same(store: Store) -> None:
    with leased(store):
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
    with leased(store):
        found = status(store.root)
    assert [s.stage for s in found.stages] == [s for s in STAGES if s != "learn"]  # none of it
    totals = {s.stage: s.done + s.running + s.missing + s.failed for s in found.stages}
    assert totals == {"prepare": 2, "collect": 1, "reduce": 3, "evaluate": 6}


def elsewhere(pid: int = 7) -> Machine:
    return Machine(host="other", pid=pid, boot="other", space="s", born=lambda pid: "1")


def at(now: float) -> Clock:
    return Clock(wall=lambda: now)


@contextmanager
def driven(store: Store, since: float, now: float) -> Iterator[None]:
    """Have a driver elsewhere that began and beat last at these times."""
    times = [since]
    with leased(store, clock=Clock(wall=lambda: times[0]), machine=elsewhere()) as lease:
        times[0] = now
        lease.beat()
        yield


def test_a_driver_on_another_machine_is_seen_by_its_beat(store: Store) -> None:
    told(store, {"event": "begin"}, started("t-data"))
    with leased(store, clock=at(1000), machine=elsewhere()):
        found = status(store.uri, clock=at(1004))
        assert found.holder is not None
        assert (found.driver, found.holder.host, found.holder.beat_age) == (7, "other", 4.0)
        assert found.since == 1000
        assert [s.running for s in found.stages] == [1, 0, 0, 0]
        late = status(store.uri, clock=at(1031))  # killed, or cut off
        assert late.holder is None
        assert [s.running for s in late.stages] == [0, 0, 0, 0]


def test_a_run_that_is_being_planned_is_told_as_one(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with leased(store):
        found = status(tmp_path)
        assert (found.driver, found.stages, found.finished) == (os.getpid(), (), False)
    with pytest.raises(StoreError, match="holds no run"):
        status(tmp_path)


def test_asking_makes_and_changes_nothing(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        status(tmp_path / "none")
    assert not (tmp_path / "none").exists()

    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    told(store, {"event": "begin"})
    with leased(store, clock=at(1000), machine=elsewhere()):
        before = content()
        status(store.root)
        assert content() == before


def test_the_rate_is_of_the_last_ten_minutes_by_the_drivers_clock(store: Store) -> None:
    names = [f"call {i}" for i in range(40)]
    story: list[dict[str, object]] = [{"event": "begin", "left": {"evaluate": 180}, "time": 1.0}]
    for i, name in enumerate(names):  # four cells a minute
        story += [started(name, [f"{name}-{j}" for j in range(4)], at=1000 + 60 * i)]
        story += [{"event": "done", "file": name, "cells": 4, "time": 1060 + 60 * i}]
    told(store, *story)
    with driven(store, 1.0, 1000 + 60 * 40):
        found = status(store.root, clock=at(1000 + 60 * 40))
        assert found.rate == pytest.approx(44 / 10)  # eleven ends lie within ten minutes
        assert found.seconds_left == pytest.approx(60 * 20 / 4.4)  # of 180 - 160 cells
    with driven(store, 1.0, 1000 + 60 * 45):  # and nothing since
        found = status(store.root, clock=at(1000 + 60 * 45))
        assert found.rate == pytest.approx(24 / 10)
    assert status(store.root).rate is None  # nobody drives


def test_what_is_added_fails_or_is_taken_apart_counts_for_the_time_left(store: Store) -> None:
    two = ["c0", "c1"]
    told(
        store,
        {"event": "begin", "left": {"evaluate": 4}, "time": 100},
        started("pair", two, at=100),
        {"event": "retried", "file": "pair", "parts": 2, "time": 110},
        started("one", ["c0"], at=110),
        started("two", ["c1"], at=110),
        {"event": "done", "file": "one", "time": 130},
        {"event": "failed", "file": "two", "cells": ["c1"], "blocked": 0, "time": 130},
        {"event": "blocked", "file": "next", "cells": ["c2"], "time": 130},
        {"event": "added", "file": "more", "cells": ["c0", "c3"], "time": 160},
    )
    with driven(store, 100, 160):
        found = status(store.root, clock=at(160))
    assert found.rate == pytest.approx(1.0)  # one cell in the minute since the first began
    assert found.seconds_left == pytest.approx(60 * 3)  # 4 - 1 - 1 - 1 + 2 cells


def test_what_a_killed_driver_was_at_does_not_run_while_the_next_looks_at_the_folder(
    store: Store,
) -> None:
    told(store, {"event": "begin", "time": 10}, started("t-data", at=20))
    with driven(store, 10, 20):
        assert status(store.root, clock=at(20)).stages[0].running == 1
    with driven(store, 30, 40):  # and has not begun yet
        assert status(store.root, clock=at(40)).stages[0].running == 0


def test_before_the_first_cell_is_answered_the_time_left_is_unknown(store: Store) -> None:
    told(store, {"event": "begin", "left": {"evaluate": 6}}, started("call", ["c0"]))
    with leased(store):
        found = status(store.root)
    assert (found.rate, found.seconds_left) == (None, None)


def test_a_run_in_an_object_store_is_told_like_any_other() -> None:
    store = begun("memory://status/run")
    store.commit(FILES["t-data"], parquet(pa.table({"x": [1]})))
    begin, mask = json.dumps({"event": "begin"}), json.dumps(started("t-mask"))
    store.replace("events/00000001-000001.jsonl", f"{begin}\n".encode())
    store.replace("events/00000001-000002.jsonl", f"{mask}\n".encode())
    with leased(store):
        found = status(store.uri)
    assert found.driver == os.getpid()
    assert (found.stages[0].done, found.stages[0].running) == (1, 1)


FAILURE = {"file": "f", "label": "a mean", "error": "bad", "attempts": 2, "command": "peaksweep …"}


@pytest.mark.parametrize(
    "record", [b"", b"\x00\xff", b"[1]", b'{"label": "x"}', b'{"error": 1}', b"[" * 99_999]
)
def test_a_damaged_record_of_a_failure_is_told_as_one(store: Store, record: bytes) -> None:
    store.replace("failures/a.json", record)
    store.replace("failures/b.json", json.dumps(FAILURE).encode())
    damaged, whole = status(store.root).failures
    assert damaged.label == "failures/a.json"
    assert damaged.why.startswith("its record is damaged; delete it")
    assert (whole.label, whole.why, whole.attempts, whole.command) == (
        "a mean", "bad", 2, "peaksweep …",
    )  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 40, b"\xff" * 99])
def test_a_damaged_plan_is_told_with_what_to_do(store: Store, content: bytes) -> None:
    store.replace("plan.parquet", content)
    with pytest.raises(StoreError, match=r"plan.parquet of .* cannot be read .*run the same comm"):
        status(store.root)
    other = parquet(pa.table({"name": [1]}))
    store.replace("plan.parquet", other)
    with pytest.raises(StoreError, match=r"plan\.parquet of"):
        status(store.root)


@pytest.mark.parametrize(
    "story", [b"\x00\xff" * 999, b"{" * 99_999, b'{"event": "begin"' + b" " * 2**25, b"1\n[]\n"]
)
def test_a_damaged_story_is_read_around(store: Store, story: bytes) -> None:
    store.replace("events.jsonl", story + b"\n" + json.dumps(started("t-data")).encode() + b"\n")
    with leased(store):
        assert counts(store)["prepare"] == (0, 1, 1, 0)


def damage(content: bytes, how: str, at: float, more: bytes) -> bytes:
    place = int(at * len(content))
    match how:
        case "cut":
            return content[:place]
        case "over":
            return content[:place] + more + content[place + len(more) :]
        case "in":
            return content[:place] + more + content[place:]
        case _:
            return more


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    damages=st.lists(
        st.tuples(
            st.integers(0, 99),
            st.sampled_from(["cut", "over", "in", "all", "gone", "folder"]),
            st.floats(0, 1, exclude_max=True),
            st.binary(max_size=40) | st.sampled_from([b"null", b"[]", b'{"a": 1}', b"PAR1"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_of_a_folder_damaged_in_any_way_a_status_or_a_sentence_is_told(
    tmp_path: Path, damages: list[tuple[int, str, float, bytes]]
) -> None:
    store = begun(Path(tempfile.mkdtemp(dir=tmp_path)))
    finish(store, *FILES, *CELLS[:3])
    store.replace("failures/b.json", json.dumps({**FAILURE, "cells": ["c5"]}).encode())
    told(store, {"event": "begin", "left": {"evaluate": 6}}, started("call", ["c4"]))
    store.replace("sweep.yaml", b"precision: null\nevaluation: {}\n")
    store.replace("cells.parquet", parquet(rows("cells", {"cell": CELLS}, len(CELLS))))
    with leased(store):
        files = sorted(p for p in store.root.rglob("*") if p.is_file())
        for number, how, at, more in damages:
            path = files[number % len(files)]
            if not path.is_file():
                continue
            if how in ("gone", "folder"):
                path.unlink()
                if how == "folder":
                    path.mkdir()
            else:
                path.write_bytes(damage(path.read_bytes(), how, at, more))
        found, said = None, ""
        try:
            found = status(store.root)
        except StoreError as error:
            said = str(error)
    assert found is not None or str(store.root) in said
    if found is not None:
        assert all(s.done + s.running + s.missing + s.failed for s in found.stages)
        json.dumps(asdict(found))


def test_finished_needs_every_stage() -> None:
    def of(**left: int) -> Status:
        stage = StageStatus(
            stage="prepare", **{"done": 1, "running": 0, "missing": 0, "failed": 0, **left}
        )
        return Status(run="r", stages=(stage,), failures=())

    assert of().finished
    assert not any(of(**{left: 1}).finished for left in ("running", "missing", "failed"))
