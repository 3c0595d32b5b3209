"""A sweep of sharded models on Ray: the numbers of whole ones, whoever is killed meanwhile."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import ray

from orchestrator import ray_pool
from orchestrator.budget import Demand
from orchestrator.pool import Lost, Ready
from orchestrator.ray_cluster import listen_on_loopback
from orchestrator.ray_pool import RayPool
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.faults import Gates, assert_undisturbed, driving, story
from tests.orchestrator import bundled
from tests.sweeps import answers, executions, peaksweep, written

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

WHOLE = """
name: sharded
models: [zoo:opt, zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 12}
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 16}
    evaluate: {split: test, sequences: 8}
methods: [zero, mean, peak, resample, noise]
sites: [attn_pre_out, mlp_mid]
fractions: [0.5, 1]
seeds: 1
contrasts: [[mean, zero]]
statistics: {shards: 2}
evaluation: {metrics: [top1, ce, kl]}
"""
SHARDED = WHOLE.replace(
    "[zoo:opt, zoo:vit]", "[{id: zoo:opt, shards: 2}, {id: zoo:vit, shards: 2}]"
)
POINT = ["model", "site", "method", "parameters", "fraction", "seed"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    ended = peaksweep("run", written(folder, WHOLE), "--out", folder / "run", "--local")
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    ended = peaksweep("run", written(folder, SHARDED), "--out", folder / "run")
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


def test_every_cell_has_a_name_of_its_own_and_the_whole_models_numbers(
    whole: Path, sharded: Path
) -> None:
    one, other = (pl.read_parquet(run / "summary.parquet") for run in (whole, sharded))
    assert not set(one["cell"]) & set(other["cell"])
    both = one.join(other, on=POINT, how="inner", suffix="_sharded", nulls_equal=True)
    assert both.height == one.height == other.height
    assert (both["tokens"] == both["tokens_sharded"]).all()
    # The constants differ by a bin's rounding at most, the forward pass by a few ulps.
    np.testing.assert_allclose(both["ce_sharded"], both["ce"], rtol=2e-3)
    bare = both.filter(pl.col("fraction") == 0)
    np.testing.assert_allclose(bare["ce_sharded"], bare["ce"], rtol=1e-5)


def test_every_cell_held_what_the_whole_models_cell_held(whole: Path, sharded: Path) -> None:
    for run in (whole, sharded):
        assert (executions(run)["told"] == executions(run)["held"]).all()
    told = [sorted(executions(run)["told"]) for run in (whole, sharded)]
    assert told[0] == told[1]


def test_counts_differ_only_where_an_activation_is_at_an_edge(whole: Path, sharded: Path) -> None:
    row = ["model", "site", "layer", "neuron"]
    one, other = (
        pl.read_parquet(run / "statistics" / "**" / "*.parquet").sort(row)
        for run in (whole, sharded)
    )
    assert (one["count"] == other["count"]).all()
    np.testing.assert_allclose(other["mean"], one["mean"], atol=1e-4)
    same = (one["bin_width"] == other["bin_width"]) & (one["bin_start"] == other["bin_start"])
    assert same.mean() > 0.98
    here, there = (np.stack(table.filter(same)["counts"].to_list()) for table in (one, other))
    assert np.abs(here - there).sum() <= 2 * (here.sum() // 1000 + 1)


@pytest.mark.parametrize("stage", ["collect", "evaluate"])
def test_a_process_of_a_group_that_is_killed_costs_nothing_but_time(
    stage: str, sharded: Path, tmp_path: Path
) -> None:
    gates = Gates(tmp_path / "gates")
    (tmp_path / "gates").mkdir()
    gates.close(stage)
    spec = written(tmp_path, SHARDED)
    with driving(spec, tmp_path / "run", environment=gates.environment()) as driver:
        os.kill(gates.caught(stage), signal.SIGKILL)
        driver.ends()
    assert len(story(tmp_path / "run", "lost")) == 1
    assert_undisturbed(tmp_path / "run", sharded)
    assert answers(tmp_path / "run").height


def test_a_group_starts_sees_and_fails_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "SLICE_SECONDS", 0.1)
    listen_on_loopback()
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    pool = RayPool(Store.open(tmp_path), most=None, spare=1, demand=Demand(cpus=1, gpus=1, ranks=2))
    try:
        assert pool.workers == 1
        ref = replace(bundled.vit(), shards=2)
        pool.load(0, ref)
        assert wait_for(pool) == Ready(worker=0)
        seen = [pool.sees(0, rank) for rank in range(2)]
        assert {s["CUDA_VISIBLE_DEVICES"] for s in seen} == {"0", "1"}
        os.kill(int(seen[1]["pid"] or 0), signal.SIGKILL)
        pool.send(0, norms(ref))
        lost = wait_for(pool)
        assert isinstance(lost, Lost)
        assert "died" in lost.reason
        pool.load(0, ref)
        assert wait_for(pool) == Ready(worker=0)
        pool.load(0, replace(ref, shards=1))  # in place of the group
        assert wait_for(pool) == Ready(worker=0)
    finally:
        pool.close()
        ray.shutdown()


def norms(ref: object) -> Task:
    return Task(
        name="norms",
        stage="collect",
        kind="norms",
        label="norms",
        file="partials/norms.arrow",
        model=ref,  # type: ignore[arg-type]
        arguments={"site": "attn_pre_out"},
    )


def wait_for(pool: RayPool) -> object:
    for _ in range(60):
        if found := pool.wait(1.0):
            (event,) = found
            return event
    raise AssertionError("nothing happened in a minute")
