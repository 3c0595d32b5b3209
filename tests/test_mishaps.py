"""What goes wrong in the middle of a sweep, in one process: set aside, made again, or told."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from orchestrator import stages, sweep
from orchestrator.host import Host
from orchestrator.results import table
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.sweeps import SMALL, answers, assert_same, events, peaksweep, written


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    return Path(sweep.run(written(folder, SMALL), out=folder / "run", local=True).run)


def spoilt(cell: str) -> Callable[[Host, Task], dict[str, object]]:
    """Return a host's way to do tasks that never answers one cell."""
    do = Host.do

    def spoil(host: Host, task: Task) -> dict[str, object]:
        if cell in task.cells:
            raise ValueError(f"poison in {cell}")
        return do(host, task)

    return spoil


def test_a_cell_that_always_raises_is_set_aside_and_alone_tried_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = pl.read_parquet(undisturbed / "cells.parquet")
    (cell,) = cells.filter(pl.col("method") == "mean", pl.col("fraction") > 0)["cell"]
    spec, run = written(tmp_path, SMALL), tmp_path / "run"
    with monkeypatch.context() as m:
        m.setattr(Host, "do", spoilt(cell))
        ended = sweep.run(spec, out=run, local=True)
    (failure,) = ended.failures
    assert (failure.cells, failure.attempts, failure.blocked) == ((cell,), 2, 0)
    assert "poison in" in failure.traceback
    others = answers(undisturbed).filter(pl.col("cell") != cell)
    assert answers(run).equals(others)  # the rest is done
    recorded = json.loads((run / failure.record).read_text())
    words = shlex.split(recorded["command"])
    assert words[:2] == ["peaksweep", "run"]
    again = peaksweep(*words[1:])  # does it by hand: nothing is wrong with it here
    assert again.returncode == 0, again.stderr
    assert "1 cells computed now" in again.stdout
    assert not list((run / "failures").glob("*"))
    assert_same(run, undisturbed)


def test_what_failed_and_was_done_since_is_not_told_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do, spec, run = Host.do, written(tmp_path, SMALL), tmp_path / "run"

    def poisoned(host: Host, task: Task) -> dict[str, object]:
        if task.stage == "evaluate":
            raise ValueError("poison")
        return do(host, task)

    with monkeypatch.context() as m:
        m.setattr(Host, "do", poisoned)
        assert len(sweep.run(spec, out=run, local=True).failures) == 3  # one by one
    assert len(list((run / "failures").glob("*"))) == 3
    assert not sweep.run(spec, out=run, local=True).failures  # in one call, of another name
    assert not list((run / "failures").glob("*"))


def test_a_partial_that_is_lost_before_it_is_merged_is_counted_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, do = [], stages.do

    def losing(task: Task, store: Store) -> dict[str, object]:
        if task.kind == "merge" and not lost:
            lost.append(task.after[-1])
            store.delete(lost[0])
        return do(task, store)

    monkeypatch.setattr(stages, "do", losing)
    run = Path(sweep.run(written(tmp_path, SMALL), out=tmp_path / "run", local=True).run)
    (told,) = events(run, "retried")
    assert told["made_again"] == lost
    assert_same(run, undisturbed)


def test_a_partial_with_a_flipped_bit_is_counted_again_where_it_cannot_be_read(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped, do = [], stages.do

    def flipping(task: Task, store: Store) -> dict[str, object]:
        if task.kind == "merge" and not flipped:
            flipped.append(task.after[0])
            path = store.path(task.after[0])
            content = bytearray(path.read_bytes())
            content[-20] ^= 0x40  # in the footer, where it is noticed when it is read
            path.write_bytes(content)
        return do(task, store)

    monkeypatch.setattr(stages, "do", flipping)
    run = Path(sweep.run(written(tmp_path, SMALL), out=tmp_path / "run", local=True).run)
    (told,) = events(run, "retried")
    assert told["made_again"] == flipped
    assert_same(run, undisturbed)


def test_a_loss_that_is_no_number_is_a_value_with_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator import values

    order = values.order

    def broken(*arguments: Any) -> Any:
        made = order(*arguments)
        holds = []
        for hold in made.holds:
            if np.any(hold.value.values):  # the means, not the zeros
                value = replace(hold.value, values=np.full_like(hold.value.values, 1e37))
                hold = replace(hold, value=value)  # so that logits overflow
            holds.append(hold)
        return replace(made, holds=tuple(holds))

    monkeypatch.setattr(values, "order", broken)
    ended = sweep.run(written(tmp_path, SMALL), out=tmp_path / "run", local=True)
    assert [f.error for f in ended.failures] == []
    found = table(Store.of(Path(ended.run)), "results").collect()
    assert found["nan"].sum() > 0
