"""A run folder that is worked on again, after edits and accidents (in one process)."""

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

from orchestrator import sweep
from orchestrator.cases import Cases
from orchestrator.store import Store, parquet
from tests.sweeps import SMALL, answers, written
from workers.actor import Replica


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(sweep.run(written(tmp_path, SMALL), out=tmp_path / "run", local=True).run)


def again(run: Path, text: str = SMALL) -> sweep.Outcome:
    return sweep.run(written(run.parent, text), out=run, local=True)


def test_an_edited_sweep_leaves_one_version_of_every_table(run: Path) -> None:
    before = pl.read_parquet(run / "statistics" / "**" / "*.parquet")
    ended = again(run, SMALL.replace("shards: 2", "shards: 2, bins: 512"))
    assert not ended.failures
    after = pl.read_parquet(run / "statistics" / "**" / "*.parquet")
    assert len(after) == len(before)
    assert after["counts"].list.len().unique().to_list() == [512]


def test_only_what_is_new_in_an_edited_sweep_is_computed(run: Path) -> None:
    ended = again(run, SMALL.replace("[0.5]", "[0.5, 0.75]"))
    assert (ended.computed, ended.found) == (2, 3)


def test_a_changed_contrast_is_made_though_nothing_is_left_to_compute(run: Path) -> None:
    ended = again(run, SMALL.replace("[[zero, mean]]", "[[mean, zero]]"))
    assert ended.computed == 0
    assert set(pl.read_parquet(run / "contrasts.parquet")["a"]) == {"mean"}


def test_results_whose_execution_is_missing_are_made_again(run: Path, tmp_path: Path) -> None:
    for file in run.glob("executions/**/*.parquet"):
        file.unlink()
    assert again(run).computed == 3
    other = Path(sweep.run(written(tmp_path, SMALL), out=tmp_path / "other", local=True).run)
    assert answers(run).equals(answers(Path(other)), null_equal=True)


def test_a_changed_constant_makes_its_cells_stale(run: Path) -> None:
    (centres,) = (
        f for f in run.glob("centres/**/*.parquet") if pl.read_parquet(f)["method"][0] == "mean"
    )
    table = pl.read_parquet(centres)
    centres.unlink()
    table.with_columns(pl.col("value") + 1).write_parquet(centres)
    assert again(run).computed == 3  # the part holds the other cells too


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_was_moved_goes_on_where_it_was(run: Path, finished: bool) -> None:
    whole = answers(run)
    if not finished:
        for kind in ("results", "executions"):
            for file in run.glob(f"{kind}/**/*.parquet"):
                file.unlink()
    tables = {f: f.stat().st_mtime_ns for f in run.glob("statistics/**/*.parquet")}
    moved = run.rename(run.parent / "another place")
    ended = sweep.run(written(run.parent, SMALL), out=moved, local=True)
    assert (ended.computed, ended.found) == ((0, 3) if finished else (3, 0))
    assert not run.exists()
    assert answers(moved).equals(whole, null_equal=True)
    for file, made in tables.items():
        assert (moved / file.relative_to(run)).stat().st_mtime_ns == made


@pytest.mark.parametrize("kind", ["results", "executions", "statistics", "centres", "data"])
def test_a_flipped_bit_is_told_and_made_good(run: Path, kind: str) -> None:
    whole = answers(run)
    file = min(run.glob(f"{kind}/**/*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    ended = again(run)
    assert ended.computed == (3 if kind in ("results", "executions") else 0)
    story = (run / "events.jsonl").read_text()
    assert f'"broken", "file": "{file.relative_to(run)}"' in story
    assert answers(run).equals(whole, null_equal=True)


def test_other_answers_under_the_same_name_are_an_error(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    table = pa.table({"cell": ["c"], "loss": [1.0]})
    store.commit("results/part.parquet", parquet(table))
    cases = Cases(store, "here", Replica())
    task = SimpleNamespace(file="results/part.parquet")
    cases._compare(task, table)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="other answers to the same cells"):
        cases._compare(task, pa.table({"cell": ["c"], "loss": [1.5]}))  # type: ignore[arg-type]


def test_cells_chosen_by_a_condition_are_computed_alone(tmp_path: Path) -> None:
    file = written(tmp_path, SMALL)
    ended = sweep.run(file, out=tmp_path / "run", local=True, only="method = 'zero'")
    assert ended.computed == 2
    ended = sweep.run(file, out=tmp_path / "run", local=True)
    assert (ended.computed, ended.found) == (1, 2)
