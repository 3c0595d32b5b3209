"""Small parts become few, and whatever happens meanwhile every answer stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from orchestrator import calls, compaction, names, resume, values
from orchestrator.answers import DifferingAnswersError, distinct
from orchestrator.compaction import twin
from orchestrator.plan import Plan
from orchestrator.store import Store, StoreError, Writer, parquet, rows
from orchestrator.tasks import Task
from orchestrator.upkeep import tidy
from tests.orchestrator import planned
from tests.orchestrator.test_resume import do

SEQUENCES = 5


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    monkeypatch.setattr(compaction, "FEWEST", 2)
    return planned.make(tmp_path, fractions=[0.5])


@pytest.fixture
def store(plan: Plan, tmp_path: Path) -> Store:
    """A run folder in which everything is answered."""
    store = Store.open(tmp_path / "run").at(3)
    finish(plan, store)
    return store


class Story(list[tuple[str, dict[str, Any]]]):
    """What was told."""

    def __call__(self, event: str, **details: Any) -> None:
        self.append((event, details))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [details for said, details in self if said == event]


def answers(cells: list[str], loss: float = 1.5) -> pa.Table:
    count = len(cells) * SEQUENCES
    columns = {
        "cell": [cell for cell in cells for _ in range(SEQUENCES)],
        "document": [f"document {i}" for i in range(SEQUENCES)] * len(cells),
        "sequence": [*range(SEQUENCES)] * len(cells),
        "loss": [loss, float("nan"), *[loss + i for i in range(SEQUENCES - 2)]] * len(cells),
        "round": 0, "tokens": 9, "top1": 3, "top10": 5, "nan": 0,
    }  # fmt: skip
    return rows("results", columns, count)


def evaluate(plan: Plan, store: Store, task: Task, loss: float = 1.5) -> None:
    """Pretend to do a call."""
    assert task.model is not None
    asked = calls.filled(plan, task).arguments
    facts, cells = task.model.facts, list(asked["cells"])
    columns = {
        "cell": cells,
        "statistics_digest": [values.digest(facts, a, store, {}) for a in asked["cells"].values()],
        "rounds": [asked["asked"]] * len(cells),
        "seconds": 0.5,
    }
    store.commit(task.file, parquet(answers(cells, loss), task.name))
    store.commit(twin(task.file), parquet(rows("executions", columns, len(cells)), task.name))


def finish(plan: Plan, store: Store) -> list[Task]:
    tasks = resume.left(plan, store).tasks
    for task in tasks:
        if task.cells:
            evaluate(plan, store, task)
        else:
            do(store, task)
    return [task for task in tasks if task.cells]


def table(store: Store, kind: str) -> pl.DataFrame:
    frame = pl.concat(pl.DataFrame(pl.from_arrow(store.table(f))) for f in store.files(kind))
    return frame.sort(frame.columns[0], "sequence" if kind == "results" else "cell")


def read(store: Store) -> pl.DataFrame:
    """Return the answers as a reader sees them."""
    return distinct(table(store, "results").lazy()).collect().sort("cell", "sequence")


def test_small_parts_become_one_with_the_same_rows(plan: Plan, store: Store) -> None:
    before, executions, told = read(store), table(store, "executions"), Story()
    parts = store.files("executions")
    assert len(parts) > 2
    assert compaction.compact(store, told) == len(parts)
    (joined,) = store.files("results")
    assert store.files("executions") == [twin(joined)]
    assert told == [("joined", {"file": joined, "parts": len(parts), "rows": before.height})]
    assert read(store).equals(before)
    assert table(store, "executions").equals(executions)
    assert all(store.sound(file) and store.epoch_of(file) == 3 for file in (joined, twin(joined)))
    left = resume.left(plan, store)
    assert left.tasks == ()
    assert left.answered == set(plan.cells)
    assert compaction.compact(store, told) == 0


def test_a_part_says_what_it_was_made_of_and_under_which_epochs(store: Store) -> None:
    parts = store.files("executions")
    compaction.compact(store.at(8), Story())
    (joined,) = store.files("executions")
    told = json.loads(store.schema(joined).metadata[b"peaksweep.sources"])
    assert told["sources"] == parts
    assert told["epochs"] == {"3": len(parts)}
    assert store.epoch_of(joined) == 8


def test_few_parts_are_left_alone(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = store.files("results")
    monkeypatch.setattr(compaction, "FEWEST", len(files) + 1)
    assert compaction.compact(store, Story()) == 0
    monkeypatch.setattr(compaction, "FEWEST", 2)
    monkeypatch.setattr(compaction, "SMALL", 10)  # bytes
    assert compaction.compact(store, Story()) == 0
    assert store.files("results") == files


def test_a_part_has_about_as_many_rows_as_it_should(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, parts = read(store), len(store.files("results"))
    monkeypatch.setattr(compaction, "ROWS", 1)  # so that every part is large enough
    assert compaction.compact(store, Story()) == 0
    monkeypatch.setattr(compaction, "ROWS", before.height // 2 + 1)
    compaction.compact(store, Story())
    assert 1 < len(store.files("results")) < parts
    assert read(store).equals(before)


def test_later_parts_are_joined_with_what_is_small_still(plan: Plan, store: Store) -> None:
    compaction.compact(store, Story())
    (first,) = store.files("results")
    store.commit("results/a/part.x.parquet", parquet(answers(["x"])))
    late = rows("executions", {"cell": ["x"], "rounds": [[0]], "statistics_digest": ""}, 1)
    store.commit("executions/a/part.x.parquet", parquet(late))
    before = read(store)
    assert compaction.compact(store, Story()) == 2
    (second,) = store.files("results")
    assert second != first
    assert read(store).equals(before)


class Crashing(Store):
    """A run folder whose n-th change raises, before or after it was made."""

    __slots__ = ()
    left = 0
    after = False

    def _step(self, change: Callable[[], Any]) -> Any:
        Crashing.left -= 1
        if Crashing.left == 0 and not Crashing.after:
            raise StoreError("crash")
        made = change()
        if Crashing.left == 0:
            raise StoreError("crash")
        return made

    def commit(self, file: str, content: bytes | Writer) -> bool:
        return bool(self._step(lambda: super(Crashing, self).commit(file, content)))

    def delete(self, file: str) -> None:
        self._step(lambda: super(Crashing, self).delete(file))


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_moment_loses_nothing(plan: Plan, store: Store, after: bool) -> None:
    before, executions = read(store), table(store, "executions")
    parts = len(store.files("results"))
    steps = 2 + 2 * parts
    for moment in range(1, steps + 1):
        folder = store.root.parent / f"{after} {moment}"
        shutil.copytree(store.root, folder)
        crashed = Store.open(folder)
        Crashing.left, Crashing.after = moment, after
        with pytest.raises(StoreError, match="crash"):
            compaction.compact(Crashing(folder), Story())
        assert read(crashed).equals(before)  # whoever reads now
        assert resume.left(plan, crashed).tasks == ()
        there = tidy(plan, crashed, Story())
        assert resume.left(plan, crashed, there).tasks == ()
        compaction.compact(crashed, Story())
        assert len(crashed.files("results")) == len(crashed.files("executions")) == 1
        assert table(crashed, "results").equals(before.select(table(crashed, "results").columns))
        assert table(crashed, "executions").equals(executions)
        assert resume.left(plan, crashed).answered == set(plan.cells)
    Crashing.left = steps + 1
    compaction.compact(Crashing(store.root), Story())  # so many steps it were


def test_an_answer_that_is_there_twice_is_kept_once(plan: Plan, store: Store) -> None:
    before = read(store)
    for file in store.files("results")[:1]:
        for part in (file, twin(file)):
            store.commit(part.replace("part.", "part.again"), store.path(part).read_bytes())
    compaction.compact(store, Story())
    assert table(store, "results").equals(before.select(table(store, "results").columns))


def other(store: Store, source: str) -> str:
    """Commit another answer to the cells of a part; return its file."""
    cells = store.table(twin(source), ["cell"])["cell"].to_pylist()
    file = source.replace("part.", "part.other")
    store.commit(file, parquet(answers(cells, 1.5000001)))
    store.commit(twin(file), store.path(twin(source)).read_bytes())
    return file


def test_parts_that_differ_are_not_joined_and_both_are_named(plan: Plan, store: Store) -> None:
    source, told = store.files("results")[0], Story()
    wrong = other(store, source)
    compaction.compact(store, told)
    assert told.of("differing") == [{"files": sorted([source, wrong])}]
    assert len(store.files("results")) == 3
    assert {source, wrong} < set(store.files("results"))
    with pytest.raises(DifferingAnswersError):
        read(store)


@pytest.mark.parametrize("differs", [False, True])
def test_a_source_that_comes_back_goes_only_if_it_says_the_same(
    plan: Plan, store: Store, differs: bool
) -> None:
    source = next(t for t in resume.left(plan, Store.open(store.root / "none")).tasks if t.cells)
    compaction.compact(store, Story())
    (joined,) = store.files("results")
    evaluate(plan, store, source, 2.5 if differs else 1.5)  # by a worker that was given up
    told = Story()
    tidy(plan, store, told)
    assert store.exists(source.file) == store.exists(twin(source.file)) == differs
    if differs:
        assert told == [("differing", {"files": [source.file, joined]})]
        with pytest.raises(DifferingAnswersError):
            read(store)
    else:
        assert [event for event, _ in told] == ["superseded"] * 2


def test_a_damaged_part_is_not_made_to_look_sound(plan: Plan, store: Store) -> None:
    file = store.files("results")[0]
    flip(store, file)
    compaction.compact(store, Story())
    assert file in store.files("results")
    tidy(plan, store, Story())
    assert len(store.files("results")) == 1
    assert len(resume.left(plan, store).tasks) == 1


def flip(store: Store, file: str) -> None:
    """Flip a bit in the middle of a file."""
    path = store.path(file)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def test_only_stale_cells_of_a_joined_part_are_asked_again(plan: Plan, store: Store) -> None:
    whole = read(store)
    compaction.compact(store, Story())
    (joined,) = store.files("executions")
    centres = next(t for t in plan.tasks if t.kind == "centres")
    users = {name for name in plan.cells if centres.file in plan.cells.after(name)}
    assert 0 < len(users) < len(plan.cells)
    moved = store.table(centres.file)
    moved = moved.set_column(
        moved.schema.get_field_index("value"), "value", pa.array([9.5] * len(moved))
    )
    store.replace(centres.file, parquet(moved, centres.name))
    assert resume.there(plan, store).stale == {joined: users}
    copy = Store.open(shutil.copytree(store.root, store.root.parent / "copy"))
    Crashing.left, Crashing.after = 3, False  # both parts are there, the old one as well
    with pytest.raises(StoreError):
        tidy(plan, Crashing(copy.root), Story())
    for one in (store, copy):
        told = Story()
        there = tidy(plan, one, told)
        assert one is copy or told == [("stale", {"file": joined, "cells": len(users)})]
        assert there.answered.keys() == set(plan.cells) - users
        assert {c for t in resume.left(plan, one, there).tasks for c in t.cells} == users
        assert read(one).equals(whole.filter(~pl.col("cell").is_in(list(users))))
        finish(plan, one)
        assert resume.left(plan, one).tasks == ()
        assert read(one).equals(whole)


def test_answers_of_another_version_are_neither_counted_nor_lost(
    plan: Plan, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = read(store)
    monkeypatch.setattr(names, "ALGORITHM", {**names.ALGORITHM, "cell": 999})
    new = planned.make(tmp_path, fractions=[0.5])
    assert not set(new.cells) & set(plan.cells)
    there = tidy(new, store, Story())
    left = resume.left(new, store, there)
    assert not left.answered
    assert {t.stage for t in left.tasks} == {"evaluate"}
    finish(new, store)
    compaction.compact(store, Story())
    assert tidy(new, store, Story()).answered.keys() >= set(new.cells)
    assert read(store).filter(pl.col("cell").is_in(list(plan.cells))).equals(old)
    monkeypatch.undo()
    planned.know(monkeypatch, {"a": planned.facts()})
    assert resume.left(planned.make(tmp_path, fractions=[0.5]), store).tasks == ()


def test_parts_without_the_columns_of_today_stay_as_they_are(plan: Plan, store: Store) -> None:
    old = store.files("executions")[0]
    store.replace(old, parquet(store.table(old).drop_columns(["rounds"])))
    compaction.compact(store, Story())
    assert old in store.files("executions")
    assert twin(old) in store.files("results")
    assert old in resume.there(plan, store).aside


UNREADABLE = b"PAR1" + bytes(200) + b"PAR1"


def test_unreadable_parts_are_not_joined_and_stop_nothing(plan: Plan, store: Store) -> None:
    first, second = store.files("executions")[:2]
    store.path(first).write_bytes(UNREADABLE)
    store.path(twin(second)).write_bytes(UNREADABLE)
    compaction.compact(store, Story())
    assert {first, second} < set(store.files("executions"))
    (joined,) = set(store.files("executions")) - {first, second}
    for part in (joined, twin(joined)):
        store.path(part).write_bytes(UNREADABLE)
        compaction.sweep_up(store, Story())
        assert compaction.without(store, joined, ["x"]) is None
        assert store.exists(twin(joined))
    tidy(plan, store, Story())
    assert store.files("executions") == store.files("results") == []


class Vanishing(Store):
    """A run folder in which another deletes a part once it was read through."""

    __slots__ = ()

    def sound(self, file: str) -> bool:
        found = Store.sound(self, file)
        if file.startswith("results/"):
            self.delete(file)
        return found


def test_parts_that_vanish_while_they_are_joined_are_skipped(plan: Plan, store: Store) -> None:
    copy = Store.open(shutil.copytree(store.root, store.root.parent / "copy"))
    assert compaction.compact(Vanishing(copy.root), Story()) == 0
    compaction.compact(store, Story())
    (joined,) = store.files("executions")
    vanishing = Vanishing(store.root)
    assert compaction.without(vanishing, joined, ["x"]) is None
    assert store.files("executions") == [joined]


@pytest.mark.parametrize("calls_before", [1, 2, 3])
def test_who_has_lost_the_lease_deletes_no_part(store: Store, calls_before: int) -> None:
    before = {*store.files("results"), *store.files("executions")}
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == calls_before:
            raise StoreError("taken over")

    with pytest.raises(StoreError, match="taken over"):
        compaction.compact(store, Story(), check)
    assert before <= {*store.files("results"), *store.files("executions")}
