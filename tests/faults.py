"""Faults on purpose: gates that hold a task until it is hit, a small cluster, drivers to kill.

A driver is a process of its own, `python -m orchestrator run …`, so that anything can be
done to it. A gate holds one task of a stage (`tests/gates`), so that a fault hits what it is
meant to hit, every time, however fast or slow the machine is.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from ray.cluster_utils import Cluster

from orchestrator import ray_cluster
from tests.processes import alive
from tests.sweeps import answers, assert_same, command

SPEC = """
name: faulty
models: [zoo:vit, zoo:opt]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 12}
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 16}
    evaluate: {split: test, sequences: 8}
methods: [zero, mean, resample]
fractions: [0.5]
seeds: 2
contrasts: [[mean, zero]]
statistics: {shards: 4}
cluster: {patience_seconds: 60, ready_seconds: 120}
"""
"""A sweep of two models with every stage; about two seconds of work."""

STORE = 80 * 2**20
"""Bytes of a node's object store: about the least that Ray allows."""
HEALTH = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
"""A cluster with these gives a silent node up in about ten seconds, not in a minute."""


class Gates:
    """Closes gates, and says who was caught at them."""

    def __init__(self, folder: Path) -> None:
        """Have gates in a folder, all open."""
        self._folder = folder

    def environment(self) -> dict[str, str]:
        """Return what a process must have in its environment to stop at the gates."""
        return {
            "PEAKSWEEP_GATES": str(self._folder),
            "PYTHONPATH": str(Path(__file__).parent / "gates"),
        }

    def close(self, stage: str, do: str = "hold", **more: object) -> None:
        """Close the gate of a stage; see `tests/gates`."""
        beside = self._folder / f"{stage}.closing"
        beside.write_text(json.dumps({"do": do, **more}))
        beside.rename(self._folder / f"{stage}.json")

    def caught(self, stage: str) -> int:
        """Wait until a task is caught at a gate; return its process."""
        return int(until(lambda: self.held(stage), f"a task of {stage} to be caught"))

    def held(self, stage: str) -> int | None:
        """Return the process that is held at a gate, if one is."""
        found = [p.suffix[1:] for p in self._folder.glob(f"{stage}.*")]
        return next((int(f) for f in found if f.isdigit() and alive(int(f))), None)

    def release(self, stage: str) -> None:
        """Let go on who is held at a gate; a gate that was closed again stays closed."""
        for file in self._folder.glob(f"{stage}.[0-9]*"):
            file.unlink()

    def open(self) -> None:
        """Open all gates and let go on who was caught."""
        for file in self._folder.iterdir():
            file.unlink(missing_ok=True)


def until(found: Callable[[], object], what: str, seconds: float = 120) -> str:
    """Wait until a function returns something that is true; return that as text."""
    end = time.monotonic() + seconds
    while not (it := found()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.02)
    return str(it)


class Nodes:
    """A cluster of three nodes: a head that holds no replica, and two that hold one each."""

    def __init__(self, environment: Mapping[str, str], **system: object) -> None:
        """Start it, with what its processes are to have in their environment."""
        self._environment = {
            **environment,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._system = {**HEALTH, **system}
        ray_cluster.listen_on_loopback()
        with self._in_environment():
            self.cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "object_store_memory": STORE,
                    "include_dashboard": False,
                    "_system_config": self._system,
                },
            )
        self.workers = [self.add(), self.add()]

    @contextlib.contextmanager
    def _in_environment(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            yield

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self):  # type: ignore[no-untyped-def]
        """Have another node join."""
        with self._in_environment():
            return self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def raylet(self, node) -> int:  # type: ignore[no-untyped-def]
        """Return the process of a node that starts its others."""
        return int(node.all_processes["raylet"][0].process.pid)

    def heal(self) -> None:
        """Replace nodes that were killed or stopped, so that two live again."""
        for node in list(self.workers):
            if not alive(self.raylet(node)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.raylet(node), signal.SIGKILL)
                with contextlib.suppress(Exception):
                    self.cluster.remove_node(node, allow_graceful=False)
                self.workers.remove(node)
        while len(self.workers) < 2:
            self.workers.append(self.add())

    def shutdown(self) -> None:
        self.cluster.shutdown()


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """A driver under way."""

    process: subprocess.Popen[bytes]
    run: Path
    said: Path
    """What it says."""

    def ends(self, code: int = 0) -> None:
        """Wait until it ends, and assert how."""
        assert self.process.wait(timeout=300) == code, self.said.read_text()[-6000:]

    def kill(self, how: int = signal.SIGKILL) -> None:
        os.kill(self.process.pid, how)
        self.process.wait(timeout=60)


@contextlib.contextmanager
def driving(
    spec: Path, run: Path, *more: str | Path, environment: Mapping[str, str]
) -> Iterator[Driver]:
    """Have a driver at work on a run folder; if it still is at the end it is killed."""
    run.parent.mkdir(parents=True, exist_ok=True)
    said = run.parent / f"{run.name}.said"
    kept = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with said.open("ab") as file:
        process = subprocess.Popen(
            command("run", spec, "--out", run, *more),
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**kept, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **environment},
        )
    try:
        yield Driver(process=process, run=run, said=said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def story(run: Path, event: str | None = None, **like: object) -> list[dict[str, object]]:
    """Return the events of a run so far, or those with this name and these details."""
    try:
        lines = (run / "events.jsonl").read_text().split("\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the driver is writing it
            found.append(json.loads(line))
    wanted = {**like, **({} if event is None else {"event": event})}
    return [e for e in found if all(e.get(k) == v for k, v in wanted.items())]


def assert_undisturbed(run: Path, undisturbed: Path) -> None:
    """Assert that a run ended as if nothing had happened: nothing lost, nothing twice."""
    rows = answers(run).select("cell", "sequence")
    assert not rows.is_duplicated().any()
    nominal = pl.read_parquet(run / "cells.parquet")["cell"]
    assert set(nominal) == set(rows["cell"])
    assert not list(run.glob("failures/*.json"))
    assert_same(undisturbed, run)
