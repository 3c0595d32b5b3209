"""Statistics alone, and shared between runs (in one process)."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from orchestrator import local_pool, sweep
from orchestrator.local_pool import LocalPool
from orchestrator.pool import PoolError
from orchestrator.status import status
from orchestrator.tasks import Task
from tests.sweeps import answers, assert_same, events, executions, written

SMALL = """
name: small
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 20}
methods: [zero, mean, peak, resample]
fractions: [0.5]
seeds: 1
contrasts: [[peak, mean]]
statistics: {shards: 4}
"""
SHARED = SMALL + "store: common\n"
PUBLIC = ("summary", "contrasts", "curves")


def begun(run: Path) -> set[object]:
    """Return the folders of what was started in a run, once or more."""
    return {str(e["file"]).split("/")[0] for e in events(run, "started")}


def collect(folder: Path, text: str, run: str) -> sweep.Collected:
    ended = sweep.collect(written(folder, text), out=folder / run, local=True)
    assert not ended.failures
    return ended


def do(folder: Path, text: str, run: str) -> sweep.Outcome:
    ended = sweep.run(written(folder, text), out=folder / run, local=True)
    assert not ended.failures
    return ended


@pytest.fixture(scope="module", autouse=True)
def unreported() -> Iterator[None]:
    """Draw no figures: seconds of every run, and not what is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "report", lambda store: store.root / "report" / "index.html")
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run that shares nothing."""
    return Path(do(tmp_path_factory.mktemp("alone"), SMALL, "run").run)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, and a run `first` whose statistics are in it."""
    folder = tmp_path_factory.mktemp("home")
    assert collect(folder, SHARED, "first").fetched == 0
    return folder


@pytest.fixture(scope="module")
def first(home: Path) -> Path:
    return home / "first"


def test_a_collection_makes_the_statistics_of_a_run_and_nothing_beyond(
    first: Path, alone: Path
) -> None:
    mine, theirs = (
        pl.read_parquet(run / "statistics" / "**" / "*.parquet") for run in (first, alone)
    )
    assert mine.equals(theirs, null_equal=True)
    assert begun(first) == {"data", "partials", "statistics"}
    for none in ("donors", "selections", "centres", "results", "executions"):
        assert not (first / none).exists()
    for none in PUBLIC:  # which the report is drawn from
        assert not (first / f"{none}.parquet").exists()


def test_the_status_of_a_collection_says_that_no_cell_is_answered(first: Path) -> None:
    found = status(first)
    stages = {s.stage: s for s in found.stages}
    cells = pl.read_parquet(first / "cells.parquet")["cell"].n_unique()
    assert (stages["evaluate"].done, stages["evaluate"].missing) == (0, cells)
    assert (stages["collect"].missing, stages["collect"].failed) == (0, 0)
    assert stages["collect"].done > 0
    assert not found.finished


def test_a_second_collection_finds_all_of_it(tmp_path: Path) -> None:
    before = collect(tmp_path, SMALL, "run")
    assert before.found == 0
    after = collect(tmp_path, SMALL, "run")
    assert (after.computed, after.found) == (0, before.computed)


def test_a_run_goes_on_from_a_collection_in_its_folder(tmp_path: Path, alone: Path) -> None:
    run = Path(collect(tmp_path, SMALL, "run").run)
    before = {p: p.stat().st_mtime_ns for p in run.glob("statistics/**/*.parquet")}
    done = len(events(run, "started"))
    do(tmp_path, SMALL, "run")
    again = events(run, "started")[done:]
    assert {str(e["file"]).split("/")[0] for e in again} == {
        "donors",
        "selections",
        "centres",
        "results",
    }
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_same(run, alone)
    assert status(run).finished


def test_a_collection_takes_nothing_out_of_a_folder_that_holds_more(
    tmp_path: Path, alone: Path
) -> None:
    run = Path(do(tmp_path, SMALL, "run").run)
    assert collect(tmp_path, SMALL, "run").computed == 0
    assert_same(run, alone)
    assert status(run).finished


def test_a_run_finds_the_statistics_of_another_by_name(home: Path, alone: Path) -> None:
    ended = do(home, SHARED, "second")
    fetched = {str(e["file"]) for e in events(Path(ended.run), "fetched")}
    assert ended.fetched == len(fetched)
    assert begun(Path(ended.run)) == {"donors", "selections", "centres", "results"}
    # The centres are made of the merged counts: nothing below these is needed.
    assert not [f for f in fetched if "collect." in f or "pilot." in f]
    assert_same(Path(ended.run), alone)


def test_a_collection_needs_none_of_the_counts_that_its_statistics_were_made_of(
    home: Path, first: Path
) -> None:
    ended = collect(home, SHARED, "third")
    assert (ended.computed, ended.found) == (0, 0)
    assert not (Path(ended.run) / "partials").exists()
    theirs = {p.relative_to(first) for p in first.glob("statistics/**/*.parquet")}
    mine = {p.relative_to(Path(ended.run)) for p in Path(ended.run).glob("statistics/**/*.parquet")}
    assert mine == theirs
    assert all((Path(ended.run) / p).samefile(first / p) for p in mine)


def test_statistics_are_found_whatever_the_data_is_called(home: Path, alone: Path) -> None:
    ended = do(home, SHARED.replace("  digits:", "  pictures:"), "renamed")
    assert begun(Path(ended.run)) == {"donors", "selections", "centres", "results"}
    for kind in ("data", "statistics"):
        mine, theirs = (
            pl.read_parquet(run / kind / "**" / "*.parquet") for run in (Path(ended.run), alone)
        )
        assert mine["data"].unique().to_list() == ["pictures"]
        assert mine.drop("data").equals(theirs.drop("data"), null_equal=True)
    assert answers(Path(ended.run)).equals(answers(alone), null_equal=True)
    assert (
        executions(Path(ended.run))
        .drop("statistics_digest")
        .equals(executions(alone).drop("statistics_digest"), null_equal=True)
    )


def test_other_counts_are_not_found_under_these_names(home: Path) -> None:
    ended = collect(home, SHARED.replace("shards: 4", "shards: 4, bins: 512"), "finer")
    counts = pl.read_parquet(Path(ended.run) / "statistics" / "**" / "*.parquet")["counts"]
    assert counts.list.len().unique().to_list() == [512]
    assert {Path(str(e["file"])).parts[0] for e in events(Path(ended.run), "fetched")} == {"data"}


class BrokenOffError(Exception):
    """Something that nobody foresaw."""


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the work break off when it is about to count its third shard."""
    send, counts = LocalPool.send, []

    def sent(pool: LocalPool, worker: int, task: Task) -> None:
        if task.kind == "collect":
            counts.append(task.file)
            if len(counts) == 3:  # two are sent at once
                raise BrokenOffError
        send(pool, worker, task)

    monkeypatch.setattr(local_pool.LocalPool, "send", sent)
    yield
    monkeypatch.undo()


def test_what_a_collection_counted_that_broke_off_is_found_by_another(
    tmp_path: Path, stopping: None, monkeypatch: pytest.MonkeyPatch, alone: Path
) -> None:
    with pytest.raises(BrokenOffError):
        collect(tmp_path, SHARED, "stopped")
    monkeypatch.undo()
    whole = collect(tmp_path, SMALL, "unshared")
    ended = collect(tmp_path, SHARED, "other")
    counted = {str(e["file"]) for e in events(tmp_path / "stopped", "done")}
    assert any("collect." in file for file in counted)
    assert {str(e["file"]) for e in events(Path(ended.run), "fetched")} <= counted
    assert ended.computed == whole.computed - len(counted)
    mine, theirs = (tables_of_statistics(run) for run in (Path(ended.run), alone))
    assert mine.equals(theirs, null_equal=True)


def tables_of_statistics(run: Path) -> pl.DataFrame:
    return pl.read_parquet(run / "statistics" / "**" / "*.parquet")


def test_a_run_that_needs_other_counts_publishes_them_beside_the_others(
    home: Path, alone: Path
) -> None:
    text = SHARED.replace("resample]", "peak(paper)]")
    before = set((home / "common" / "partials").iterdir())
    ended = do(home, text, "paper")
    assert {
        Path(str(e["file"])).name.split(".")[0] for e in events(Path(ended.run), "started")
    } >= {"recount"}
    added = set((home / "common" / "partials").iterdir()) - before
    assert {p.name.split(".")[0] for p in added} == {"recount", "merge_fixed"}
    assert do(home, text, "paper again").fetched > 0
    assert begun(home / "paper again") == {"selections", "centres", "results"}
    kept = pl.col("method") == "mean"
    mine, theirs = (
        pl.read_parquet(r / "curves.parquet").filter(kept) for r in (Path(ended.run), alone)
    )
    assert mine.equals(theirs, null_equal=True)


def test_what_this_machine_cannot_hold_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_pool, "machine", lambda: {"CPU": 1, "memory": 2.0**20})
    with pytest.raises(PoolError, match=r"one replica of zoo:vit needs .* GiB"):
        sweep.collect(written(tmp_path, SMALL), out=tmp_path / "run", local=True)
    assert not (tmp_path / "run" / "partials").exists()
