"""What clusters do to a sweep, done on purpose: every run ends with the undisturbed run's tables.

All on real Ray with the same three nodes, except where a fault needs a cluster of its own.
Each fault is made where it is meant to be, by gates (`tests/faults.py`), and the story
(`events.jsonl`) is asked whether it really happened.
"""

import json
import multiprocessing
import os
import random
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import ray
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from rich.console import Console

from orchestrator import sweep
from tests.faults import SPEC, Driver, Gates, Nodes, assert_undisturbed, driving, story, until
from tests.processes import alive, descendants, title
from tests.sweeps import peaksweep, written

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

ONE_MODEL = SPEC.replace("models: [zoo:vit, zoo:opt]", "models: [zoo:vit]").replace(
    "shards: 4", "shards: 8"
)
"""With so many shards that two replicas hold the model."""
HASTY = ONE_MODEL.replace("patience_seconds: 60", "patience_seconds: 5")
GIB = 2**30


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    return Gates(tmp_path_factory.mktemp("gates"))


@pytest.fixture(autouse=True)
def gates_are_open_again(gates: Gates) -> Iterator[None]:
    yield
    gates.open()


@pytest.fixture(scope="module")
def cluster(gates: Gates) -> Iterator[Nodes]:
    nodes = Nodes(gates.environment())
    yield nodes
    nodes.shutdown()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The cluster, with two nodes for replicas, whatever happened to it before."""
    cluster.heal()
    return cluster


def _swept(spec: Path, run: Path) -> None:
    with Path(os.devnull).open("w") as nowhere:
        sweep.run(spec, out=run, local=True, told=Console(file=nowhere))


def in_process(folder: Path, text: str) -> Path:
    _swept(written(folder, text), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_process(tmp_path_factory.mktemp("undisturbed"), SPEC)


@pytest.fixture(scope="module")
def undisturbed_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of one model."""
    return in_process(tmp_path_factory.mktemp("undisturbed-one"), ONE_MODEL)


@pytest.fixture
def drive(nodes: Nodes, gates: Gates, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Start drivers on the cluster: `with drive(SPEC, "--workers", "1") as driver:`."""

    def start(text: str, *more: str | Path):  # type: ignore[no-untyped-def]
        where = ("--address", nodes.address)
        spec, run = written(tmp_path, text), tmp_path / "run"
        return driving(spec, run, *where, *more, environment=gates.environment())

    return start


def test_killed_processes_cost_nothing_but_time(drive, gates: Gates, undisturbed: Path) -> None:
    """An actor while it counts and while it evaluates, a task's process while it merges."""
    stages = ("collect", "reduce", "evaluate")
    for stage in stages:
        gates.close(stage)
    with drive(SPEC, "--workers", "1") as driver:
        hit = {}
        while len(hit) < len(stages):
            for stage in stages:
                if stage not in hit and (held := gates.held(stage)):
                    hit[stage] = held
                    assert title(held).startswith("ray::")
                    os.kill(held, signal.SIGKILL)
            assert driver.process.poll() is None, driver.said.read_text()
            time.sleep(0.02)
        driver.ends()
    again = {e["stage"] for e in story(driver.run, "retried")}
    assert again == set(stages)
    assert len(story(driver.run, "lost")) == 2
    assert_undisturbed(driver.run, undisturbed)


def test_a_node_that_dies_is_not_waited_for_and_one_that_joins_is_used(
    drive, gates: Gates, nodes: Nodes, undisturbed: Path
) -> None:
    gates.close("evaluate")
    with drive(SPEC) as driver:
        held = gates.caught("evaluate")
        (dying,) = (n for n in nodes.workers if held in descendants(nodes.raylet(n)))
        gates.close("evaluate")  # the next one waits until the new node is there
        os.kill(nodes.raylet(dying), signal.SIGKILL)
        until(lambda: story(driver.run, "lost"), "the loss to be noticed")
        nodes.heal()
        joined = nodes.workers[-1]
        until(
            lambda: any(
                title(p).startswith("ray::Actor") for p in descendants(nodes.raylet(joined))
            ),
            "a replica on the new node",
        )
        gates.open()
        driver.ends()
    assert_undisturbed(driver.run, undisturbed)


@pytest.fixture
def both(gates: Gates) -> Callable[[Driver], None]:
    """Holds a driver's counting until two replicas have its model."""
    gates.close("collect", label="counts of shard")

    def ready(driver: Driver) -> None:
        gates.caught("collect")
        time.sleep(3)  # so long that what is left seems to be worth another replica
        gates.close("collect", label="counts of shard")
        gates.release("collect")
        until(lambda: len(story(driver.run, "ready")) == 2, "the second replica")
        gates.open()

    return ready


def test_a_task_that_hangs_is_done_by_another_replica(
    drive, gates: Gates, both: Callable[[Driver], None], undisturbed_one: Path
) -> None:
    with drive(HASTY) as driver:
        both(driver)
        gates.close("evaluate")
        held = gates.caught("evaluate")
        os.kill(held, signal.SIGSTOP)
        gates.open()
        driver.ends()
    assert story(driver.run, "hedged", stage="evaluate")
    assert_undisturbed(driver.run, undisturbed_one)
    until(lambda: not title(held), "the process that hung to be gone")


def test_a_host_that_goes_silent_is_not_waited_for(
    drive, gates: Gates, nodes: Nodes, undisturbed_one: Path
) -> None:
    gates.close("evaluate")
    with drive(HASTY) as driver:
        held = gates.caught("evaluate")
        (silent,) = (n for n in nodes.workers if held in descendants(nodes.raylet(n)))
        stopped = [nodes.raylet(silent), *descendants(nodes.raylet(silent))]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        gates.open()
        try:
            driver.ends()
        finally:
            for process in stopped:
                os.kill(process, signal.SIGKILL)
    assert_undisturbed(driver.run, undisturbed_one)


def test_partial_counts_that_are_gone_or_spoilt_are_made_again(
    drive, gates: Gates, undisturbed_one: Path
) -> None:
    gates.close("reduce", label="merge of")
    with drive(ONE_MODEL, "--workers", "1") as driver:
        gates.caught("reduce")
        gone, spoilt = sorted(driver.run.glob("partials/**/collect.*"))[:2]
        gone.unlink()
        flipped = bytearray(spoilt.read_bytes())
        flipped[len(flipped) // 2] ^= 1
        spoilt.chmod(0o600)
        spoilt.write_bytes(flipped)
        gates.open()
        driver.ends()
    assert_undisturbed(driver.run, undisturbed_one)


MOMENTS = 20
"""Times the driver of one run folder is killed, on Ray and in one process."""


def test_a_driver_killed_at_any_moment_is_gone_on_from(
    drive, tmp_path: Path, undisturbed: Path
) -> None:
    draw = random.Random(6)
    ends = len(story(undisturbed, "done"))
    for moment in sorted(draw.randrange(ends) for _ in range(MOMENTS)):
        with drive(SPEC) as driver:
            lives = partial(alive, driver.process.pid)
            until(partial(_reached, driver.run, moment, lives), "the moment")
            time.sleep(draw.random() * 0.1)
            driver.kill()
    with drive(SPEC) as driver:
        driver.ends()
    assert_undisturbed(driver.run, undisturbed)


def _reached(run: Path, moment: int, lives: Callable[[], bool]) -> bool:
    """Whether so many tasks are done, in all, or the driver has ended."""
    return not lives() or (bool(story(run, "begin")) and len(story(run, "done")) >= moment)


def test_a_driver_killed_at_any_moment_is_gone_on_from_in_one_process(
    tmp_path: Path, undisturbed: Path
) -> None:
    draw, spec, run = random.Random(7), written(tmp_path, SPEC), tmp_path / "run"
    ends = len(story(undisturbed, "done"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orchestrator.sweep", "orchestrator.local_pool"])
    for moment in sorted(draw.randrange(ends) for _ in range(MOMENTS)):
        driver = context.Process(target=_swept, args=(spec, run))
        driver.start()
        until(partial(_reached, run, moment, driver.is_alive), "the moment")
        time.sleep(draw.random() * 0.05)
        driver.kill()
        driver.join()
    _swept(spec, run)
    assert_undisturbed(run, undisturbed)


def test_a_replica_that_cannot_be_placed_is_an_error_that_says_what_there_is(
    drive, nodes: Nodes
) -> None:
    ray.init(address=nodes.address, log_to_driver=False, configure_logging=False)
    try:

        @ray.remote(num_cpus=1)
        class Other:
            def here(self) -> None: ...

        others = [Other.remote() for _ in range(2)]  # another's job has all CPUs
        ray.get([other.here.remote() for other in others])
        with drive(SPEC.replace("ready_seconds: 120", "ready_seconds: 4")) as driver:
            driver.ends(3)
        said = driver.said.read_text()
        assert "no worker was ready in 4 s" in said
        assert "One worker asks for 1 CPU" in said
        assert "1 CPU (0 free)" in said
    finally:
        ray.shutdown()


POISON = '''
"""A method that cannot hold a neuron at 13."""

import sys
from typing import ClassVar

from workers.plugins import Method


class Unlucky(Method):
    """A constant, unless it is 13."""

    name = "unlucky"
    parameters: ClassVar = {"level": 1.0}

    def replace(self, x_STN, *, layer, site, statistics, parameters, sequence_S, seed):
        """Return the constant."""
        if parameters["level"] == 13.0:
            sys.stderr.write("thirteen it is\\n")
            raise ValueError("thirteen")
        return x_STN * 0 + parameters["level"]


METHODS = [Unlucky()]
'''


def test_poison_is_set_aside_with_all_that_is_known_and_the_rest_is_done(
    drive, tmp_path: Path
) -> None:
    plugin = tmp_path / "unlucky.py"
    plugin.write_text(POISON)
    text = ONE_MODEL.replace(
        "methods: [zero, mean, resample]",
        "methods: [zero, mean, unlucky, {unlucky: {level: 13.0}}]",
    ).replace("seeds: 2", "seeds: 1")
    with drive(text, "--plugin", plugin) as driver:
        driver.ends(1)
    (file,) = driver.run.glob("failures/*.json")
    failure = json.loads(file.read_text())
    (cell,) = failure["cells"]
    tried = [e for e in story(driver.run, "started") if cell in e.get("cells", ())]  # type: ignore[operator]
    assert len({e["worker"] for e in tried[-2:]}) == 2
    assert "ValueError('thirteen')" in failure["error"]
    assert 'raise ValueError("thirteen")' in failure["traceback"]
    assert "thirteen it is" in failure["log"]
    answered = set(pl.read_parquet(driver.run / "executions" / "**" / "*.parquet")["cell"])
    assert set(pl.read_parquet(driver.run / "cells.parquet")["cell"]) - answered == {cell}

    words = shlex.split(failure["command"])
    ended = peaksweep(*words[1:])
    assert words[0] == "peaksweep"
    assert ended.returncode == 1, ended.stderr
    assert "ValueError" in ended.stderr
    events = story(driver.run)
    last = max(i for i, e in enumerate(events) if e["event"] == "begin")
    started = [e for e in events[last:] if e["event"] == "started"]
    assert {c for e in started for c in e.get("cells", ())} == {cell}  # type: ignore[attr-defined]


def test_a_replica_ended_for_memory_is_tried_with_one_fewer_and_then_set_aside(
    gates: Gates, tmp_path: Path, undisturbed_one: Path
) -> None:
    used = get_used_memory() + 3 * GIB  # two replicas and Ray itself take about half of that
    threshold = used / get_system_memory()
    nodes = Nodes(
        gates.environment(), memory_usage_threshold=threshold, memory_monitor_refresh_ms=100
    )
    where = ("--address", nodes.address)
    spec, run = written(tmp_path, ONE_MODEL), tmp_path / "run"
    try:
        gates.close("evaluate", "eat")
        with driving(spec, run, *where, environment=gates.environment()) as driver:
            driver.ends()
        assert any("memory" in str(e["reason"]) for e in story(run, "lost"))
        assert_undisturbed(run, undisturbed_one)

        run = tmp_path / "poisoned"
        cell = pl.read_parquet(undisturbed_one / "cells.parquet")["cell"][-1]
        gates.close("evaluate", "eat", cell=cell, always=True)
        with driving(spec, run, *where, environment=gates.environment()) as driver:
            driver.ends(1)
        (file,) = run.glob("failures/*.json")
        failure = json.loads(file.read_text())
        assert failure["cells"] == [cell]
        assert "--workers" in failure["error"]
        gates.open()
        with driving(spec, run, *where, environment=gates.environment()) as driver:
            driver.ends()
        assert_undisturbed(run, undisturbed_one)
    finally:
        nodes.shutdown()


def test_a_driver_killed_with_its_own_cluster_leaves_no_process_behind(
    gates: Gates, tmp_path: Path
) -> None:
    gates.close("collect")
    spec, run = written(tmp_path, ONE_MODEL), tmp_path / "run"
    with driving(spec, run, "--workers", "1", environment=gates.environment()) as driver:
        gates.caught("collect")
        processes = descendants(driver.process.pid)
        assert any("raylet" in title(p) for p in processes)
        driver.kill()
    until(lambda: not any(alive(p) for p in processes), "its processes to end")
