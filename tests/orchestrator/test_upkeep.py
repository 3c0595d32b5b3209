"""What no longer counts in a run folder goes away, and nothing else."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator import resume, upkeep
from orchestrator.compaction import twin
from orchestrator.plan import Plan
from orchestrator.store import Store, StoreError, parquet
from orchestrator.upkeep import tidy
from tests.orchestrator import planned
from tests.orchestrator.test_compaction import Story, evaluate, finish, flip, read
from tests.orchestrator.test_resume import cut_short, do


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    usual = {"methods": ["zero", "mean", "resample"], "fractions": [0.5]}
    return lambda **changes: planned.make(tmp_path, **{**usual, **changes})


@pytest.fixture
def plan(make: Callable[..., Plan]) -> Plan:
    return make()


@pytest.fixture
def store(plan: Plan, tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "run")
    finish(plan, store)
    return store


def everything(store: Store) -> dict[str, bytes]:
    files = (path for path in store.root.rglob("*") if path.is_file())
    return {path.relative_to(store.root).as_posix(): path.read_bytes() for path in files}


def test_of_a_finished_folder_nothing_is_taken(plan: Plan, store: Store) -> None:
    before, told = everything(store), Story()
    there = tidy(plan, store, told)
    assert told == []
    assert everything(store) == before
    assert there == resume.there(plan, store)


@pytest.mark.parametrize("damage", [flip, cut_short])
@pytest.mark.parametrize("kind", ["data", "donors", "selections", "statistics", "centres"])
def test_a_damaged_table_goes_and_is_made_again(
    plan: Plan, store: Store, kind: str, damage: Callable[[Store, str], None]
) -> None:
    before, told = everything(store), Story()
    file = next(t.file for t in plan.tasks if t.file.startswith(kind))
    damage(store, file)
    there = tidy(plan, store, told)
    assert told == [("broken", {"file": file})]
    left = resume.left(plan, store, there)
    assert [t.file for t in left.tasks] == [file]
    do(store, left.tasks[0])
    assert everything(store) == before


@pytest.mark.parametrize("damage", [flip, cut_short])
@pytest.mark.parametrize("kind", ["results", "executions"])
def test_a_damaged_part_goes_with_its_twin_and_its_cells_are_asked_again(
    plan: Plan, store: Store, kind: str, damage: Callable[[Store, str], None]
) -> None:
    whole, told = read(store), Story()
    file = store.files(kind)[0]
    damage(store, file)
    there = tidy(plan, store, told)
    assert told == [("broken", {"file": file}), ("orphaned", {"file": twin(file)})]
    (task,) = resume.left(plan, store, there).tasks
    assert set(task.cells) == set(plan.cells) - there.answered.keys()
    evaluate(plan, store, task)
    assert read(store).equals(whole)


def test_a_damaged_partial_is_read_only_when_something_needs_it(plan: Plan, store: Store) -> None:
    told = Story()
    shard = next(t for t in plan.tasks if t.kind == "collect")
    flip(store, shard.file)
    tidy(plan, store, told)
    assert told == []
    made = [t for t in plan.tasks if t.kind in ("merge", "statistics")]
    for task in made:
        store.delete(task.file)
    there = tidy(plan, store, told)
    assert told == [("broken", {"file": shard.file})]
    left = {t.file for t in resume.left(plan, store, there).tasks}
    assert left == {shard.file, *(t.file for t in made)}


def test_what_a_damaged_partial_is_made_from_is_looked_at_too(plan: Plan, store: Store) -> None:
    told = Story()
    pilot, shard = (next(t for t in plan.tasks if t.kind == k) for k in ("pilot", "collect"))
    assert pilot.file in shard.after
    for task in (pilot, shard):
        flip(store, task.file)
    for task in plan.tasks:
        if task.kind in ("merge", "statistics"):
            store.delete(task.file)
    tidy(plan, store, told)
    assert {d["file"] for d in told.of("broken")} == {pilot.file, shard.file}


def test_what_dead_writers_left_goes_after_an_hour(plan: Plan, store: Store) -> None:
    long_ago = time.time() - 2 * upkeep.AGE
    beside = ".part.0.parquet." + "0" * 32
    left = [f"results/a/{beside}", f".probe-{'1' * 32}"]
    kept = ["results/a/.part.1.parquet." + "2" * 32, ".mine", ".notes/x.txt"]
    for file in (*left, *kept):
        store.path(file).parent.mkdir(exist_ok=True)
        store.path(file).write_bytes(b"half")
    for file in (*left, *kept[1:]):
        os.utime(store.path(file), (long_ago, long_ago))
    told = Story()
    tidy(plan, store, told)
    assert sorted(d["file"] for d in told.of("left")) == sorted(left)
    assert not any(store.exists(file) for file in left)
    assert all(store.exists(file) for file in kept)


def test_tables_of_an_earlier_sweep_go(make: Callable[..., Plan], store: Store) -> None:
    fewer, told = make(methods=["zero", "mean"]), Story()
    tidy(fewer, store, told)
    gone = [d["file"] for d in told.of("superseded")]
    assert gone
    assert all(file.startswith("donors/") for file in gone)
    assert resume.left(fewer, store).tasks == ()


def test_a_source_that_is_called_otherwise_has_its_tables_made_again(
    make: Callable[..., Plan], store: Store
) -> None:
    source = {"source": "documents.jsonl", "document": "name"}
    renamed, told = make(data={"words": source}), Story()
    tidy(renamed, store, told)
    assert {d["file"].split("/")[0] for d in told.of("superseded")} == set(upkeep.LABELLED)


def test_a_folder_that_was_moved_goes_on_without_computing(plan: Plan, store: Store) -> None:
    half = Store.open(store.root.parent / "half")
    tasks = resume.left(plan, half).tasks
    for task in tasks:
        if not task.cells:
            do(half, task)
    calls = [t for t in tasks if t.cells]
    evaluate(plan, half, calls[0])
    for there, lacking in ((store, []), (half, calls[1:])):
        moved = Store.open(there.root.rename(there.root.with_name(f"[moved] {there.root.name}")))
        told = Story()
        found = tidy(plan, moved, told)
        assert told == []
        left = resume.left(plan, moved, found)
        assert sorted(c for t in left.tasks for c in t.cells) == sorted(
            c for t in lacking for c in t.cells
        )
        assert all(t.cells for t in left.tasks)


@pytest.mark.parametrize("kind", [*upkeep.LABELLED, "results", "executions"])
def test_what_is_whole_but_unreadable_goes_and_is_made_again(
    plan: Plan, store: Store, kind: str
) -> None:
    file = store.files(kind)[0]
    store.path(file).write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    told = Story()
    there = tidy(plan, store, told)
    assert told.of("broken") == [{"file": file}]
    assert not store.exists(file)
    left = resume.left(plan, store, there)
    assert len(left.tasks) == 1


@pytest.mark.parametrize("cell", [pa.array([None, None], pa.string()), pa.array([[1], [2]])])
def test_a_sound_part_that_is_no_executions_goes_with_its_twin(
    plan: Plan, store: Store, cell: pa.Array
) -> None:
    whole, told = read(store), Story()
    file = store.files("executions")[0]
    store.replace(file, parquet(pa.table({"cell": cell})))
    there = tidy(plan, store, told)
    assert told == [("broken", {"file": file}), ("orphaned", {"file": twin(file)})]
    (task,) = resume.left(plan, store, there).tasks
    evaluate(plan, store, task)
    assert read(store).equals(whole)


def test_what_cannot_be_read_now_is_not_taken_for_damaged(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise OSError("Too many open files (os error 24)")

    before = everything(store)
    monkeypatch.setattr(resume, "_read", busy)
    with pytest.raises(StoreError, match=r"cannot be read: Too many open files"):
        tidy(plan, store, Story())
    assert everything(store) == before


def test_every_step_asks_whether_the_folder_is_still_held(plan: Plan, store: Store) -> None:
    calls: list[int] = []
    tidy(plan, store, Story(), lambda: calls.append(0))
    flip(store, store.files("results")[0])
    before = everything(store)
    for last in range(1, len(calls) + 1):
        asked: list[int] = []

        def check(asked: list[int] = asked, last: int = last) -> None:
            asked.append(0)
            if len(asked) == last:
                raise StoreError("taken over")

        with pytest.raises(StoreError, match="taken over"):
            tidy(plan, store, Story(), check)
        if last <= 2:
            assert everything(store) == before
    assert len(calls) >= 6


def test_a_table_that_vanishes_while_it_is_looked_at_is_skipped(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Story()
    exists = Store.exists

    def vanishing(self: Store, file: str) -> bool:
        found = exists(self, file)
        if found and file.startswith("centres/"):
            self.delete(file)
        return found

    monkeypatch.setattr(Store, "exists", vanishing)
    tidy(plan, store, told)
    assert told == []
