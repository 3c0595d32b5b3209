"""A whole sweep, on real Ray and without it, undisturbed and killed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from orchestrator import sweep
from tests.processes import descendants, listening, title
from tests.sweeps import answers, assert_same, command, peaksweep, written
from tests.test_calls import CLIPPED, MIXED

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def undisturbed(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy sweep in one process, without Ray."""
    run = tmp_path_factory.mktemp("local") / "run"
    ended = peaksweep("run", spec, "--out", run, "--local")
    assert ended.returncode == 0, ended.stderr
    return run


@pytest.fixture(scope="module")
def on_two(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    ended = peaksweep("run", spec, "--out", run, "--workers", "2")
    assert ended.returncode == 0, ended.stderr
    return run


def test_the_toy_sweep_has_the_names_and_numbers_it_always_had(
    undisturbed: Path, spec: Path
) -> None:
    """Numbers that change without a new `ALGORITHM` version, or names without a reason, fail here.

    After a change that is meant, raise the version in `orchestrator.names` and write the file anew.
    """
    golden = json.loads((Path(__file__).parent / "golden" / "toy.json").read_text())
    assert sorted({t.name for t in sweep.plan(spec).tasks}) == golden["tasks"]
    sums = (
        answers(undisturbed).group_by("cell").agg(pl.col("tokens", "top1", "top10", "loss").sum())
    )
    assert set(sums["cell"]) == set(golden["cells"])
    for cell, tokens, top1, top10, loss in sums.iter_rows():
        assert [tokens, top1, top10] == golden["cells"][cell][:3]
        assert loss == pytest.approx(golden["cells"][cell][3], rel=1e-6)


def events(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().split("\n") if line]


def test_two_ray_workers_give_the_numbers_of_one_process(undisturbed: Path, on_two: Path) -> None:
    workers = pl.read_parquet(on_two / "executions" / "**" / "*.parquet")["worker"].unique()
    assert set(workers) == {"worker-0", "worker-1"}
    assert_same(undisturbed, on_two)


@pytest.mark.slow
def test_one_ray_worker_gives_the_numbers_of_one_process(
    undisturbed: Path, spec: Path, tmp_path: Path
) -> None:
    ended = peaksweep("run", spec, "--out", tmp_path / "run", "--workers", "1")
    assert ended.returncode == 0, ended.stderr
    assert_same(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_cells_of_every_kind_have_the_same_numbers_on_one_worker_and_on_two(tmp_path: Path) -> None:
    spec = written(tmp_path, MIXED)
    how = {"local": ["--local"], "one": ["--workers", "1"], "two": ["--workers", "2"]}
    for name, options in how.items():
        ended = peaksweep("run", spec, "--out", tmp_path / name, "--plugin", CLIPPED, *options)
        assert ended.returncode == 0, ended.stderr
    assert_same(tmp_path / "local", tmp_path / "one")
    assert_same(tmp_path / "local", tmp_path / "two")


def test_a_second_run_finds_everything_done(on_two: Path, spec: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in on_two.rglob("results/**/*.parquet")}
    ended = peaksweep("run", spec, "--out", on_two)
    assert ended.returncode == 0, ended.stderr
    assert "\n0 cells computed now" in ended.stdout
    assert {p: p.stat().st_mtime_ns for p in on_two.rglob("results/**/*.parquet")} == before


def start(spec: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("run", spec, "--out", run, *more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_parts(driver: subprocess.Popen[bytes], run: Path, parts: int) -> None:
    """Wait until a driver has committed so many parts of results, and is still at work."""
    until = time.monotonic() + 300
    while len(list(run.glob("executions/**/*.parquet"))) < parts:
        assert driver.poll() is None, "the sweep ended before it could be disturbed"
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_driver_killed_half_way_is_gone_on_from(
    undisturbed: Path, spec: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    driver = start(spec, run, "--workers", "2")
    wait_for_parts(driver, run, 2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(2)  # its workers, if they live on, may commit what they have in hand
    before = {p: p.stat().st_mtime_ns for p in run.glob("results/**/*.parquet")}
    cells = set(pl.read_parquet(run / "executions" / "**" / "*.parquet")["cell"])
    assert cells

    ended = peaksweep("run", spec, "--out", run, "--workers", "2")

    assert ended.returncode == 0, ended.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    begins = [e for e in events(run) if e["event"] == "begin"]
    found = begins[-1]["found"]
    assert isinstance(found, dict)
    assert found["evaluate"] >= len(cells)
    again = [e for e in events(run)[events(run).index(begins[-1]) :] if e["event"] == "started"]
    assert not cells & {c for e in again for c in e.get("cells", [])}  # type: ignore[attr-defined]
    assert_same(undisturbed, run)


@pytest.mark.slow
def test_killed_actors_cost_nothing_but_time(undisturbed: Path, spec: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = start(spec, run, "--workers", "2")
    wait_for_parts(driver, run, 1)
    actors = [p for p in descendants(driver.pid) if title(p).startswith("ray::Actor")]
    assert actors
    for actor in actors:  # all, so that at least one has work in hand
        os.kill(actor, signal.SIGKILL)
    assert driver.wait(timeout=300) == 0
    assert any(e["event"] == "retried" for e in events(run))
    assert answers(run).select(pl.struct("cell", "sequence").is_duplicated().any()).item() is False
    assert_same(undisturbed, run)


@pytest.mark.slow
def test_everything_that_a_local_ray_listens_on_is_loopback(spec: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = start(spec, run, "--workers", "1")
    wait_for_parts(driver, run, 1)
    processes = descendants(driver.pid)
    heard = {title(p).split()[0]: listening(p) for p in processes if listening(p)}
    dashboards = [title(p) for p in processes if "dashboard/dashboard.py" in title(p)]
    os.kill(driver.pid, signal.SIGTERM)
    assert driver.wait(timeout=60) == 143
    assert len(heard) >= 2  # the control store and the raylet at least
    assert set().union(*heard.values()) <= LOOPBACK, heard
    # Ray keeps a head process for jobs and events; it must not serve pages.
    assert all("--modules-to-load" in t or "--minimal" in t for t in dashboards), dashboards
