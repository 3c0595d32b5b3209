"""A run folder that is worked on again, after edits and accidents (in one process)."""

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

from orchestrator import sweep
from orchestrator.cases import Cases
from orchestrator.store import Store, parquet
from tests.sweeps import answers, written
from workers.actor import Replica

SMALL = """
name: small
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 20}
methods: [zero, mean]
fractions: [0.5]
seeds: 1
contrasts: [[zero, mean]]
statistics: {shards: 2}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return sweep.run(written(tmp_path, SMALL), out=tmp_path / "run", local=True).run


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
    other = sweep.run(written(tmp_path, SMALL), out=tmp_path / "other", local=True).run
    assert answers(run).equals(answers(other), null_equal=True)


def test_a_changed_constant_makes_its_cells_stale(run: Path) -> None:
    (centres,) = (
        f for f in run.glob("centres/**/*.parquet") if pl.read_parquet(f)["method"][0] == "mean"
    )
    table = pl.read_parquet(centres)
    centres.unlink()
    table.with_columns(pl.col("value") + 1).write_parquet(centres)
    assert again(run).computed == 3  # the part holds the other cells too


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
