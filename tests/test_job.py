"""A sweep as a Ray job: submitted to a cluster that was there before it."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults import Gates, story
from tests.processes import descendants
from tests.sweeps import assert_same, peaksweep, written

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SPEC = """
name: job
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 20}
methods: [zero, mean, resample]
fractions: [0.5, 1]
seeds: 2
statistics: {shards: 4}
"""
PORT, DASHBOARD, AGENT = 26379, 28265, 28365


def ray(*arguments: str, environment: dict[str, str], timeout: float) -> str:
    ended = subprocess.run(
        [str(BIN / "ray"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
        cwd=ROOT,
    )
    return f"{ended.stdout}\n{ended.stderr}\nexit {ended.returncode}"


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    return Gates(tmp_path_factory.mktemp("gates"))


@pytest.fixture(scope="module")
def cluster(gates: Gates) -> Iterator[dict[str, str]]:
    """A head started on loopback, with the environment that finds it."""
    session = tempfile.mkdtemp(prefix="ray-")  # short: sockets' paths have a limit
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        **gates.environment(),
    }
    environment.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
            *(f"--port={PORT}", "--node-ip-address=127.0.0.1", "--include-dashboard=true"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD}"),
            f"--dashboard-agent-listen-port={AGENT}",  # another cluster may have the usual one
            *("--temp-dir", session, "--disable-usage-stats"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD}"}
    for process in (*descendants(head.pid), head.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    head.wait(timeout=60)
    shutil.rmtree(session, ignore_errors=True)


def submit(cluster: dict[str, str], *arguments: str | Path, how: Sequence[str] = ()) -> str:
    """Submit a sweep as a job, when the dashboard answers; return what it said."""
    words = ["job", "submit", "--working-dir", ".", *how, "--", "python", "-m", "orchestrator"]
    for _ in range(30):
        said = ray(*words, *map(str, arguments), environment=cluster, timeout=400)
        if "Failed to connect" not in said and "No available agent" not in said:
            return said
        time.sleep(1)
    raise AssertionError(said)


def test_a_submitted_sweep_gives_the_numbers_of_a_local_one(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    spec = written(tmp_path, SPEC)
    said = submit(cluster, "run", spec, "--out", tmp_path / "job")
    assert "exit 0" in said, said[-3000:]
    assert "cells computed now" in said
    assert peaksweep("run", spec, "--out", tmp_path / "local", "--local").returncode == 0
    assert_same(tmp_path / "local", tmp_path / "job")


def test_a_job_without_a_folder_is_told_that_it_would_be_lost(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    said = submit(cluster, "run", written(tmp_path, SPEC))
    assert "exit 0" not in said
    assert "working directory" in said
    assert "throws away" in said


def test_a_stopped_job_ends_before_it_is_killed_and_says_how_to_go_on(
    cluster: dict[str, str], gates: Gates, tmp_path: Path
) -> None:
    """Ray sends SIGTERM, and SIGKILL three seconds later: what is said after it was in time."""
    spec, run = written(tmp_path, SPEC), tmp_path / "job"
    gates.close("evaluate")
    said = submit(cluster, "run", spec, "--out", run, how=["--no-wait", "--submission-id", "one"])
    assert "exit 0" in said, said[-3000:]
    gates.caught("evaluate")
    said = ray("job", "stop", "one", environment=cluster, timeout=60)
    assert "exit 0" in said, said[-3000:]
    gates.open()
    said = ray("job", "logs", "one", environment=cluster, timeout=60)
    assert "Interrupted. Nothing is lost" in said, said[-3000:]
    said = ray("job", "status", "one", environment=cluster, timeout=60)
    assert "was stopped" in said, said[-3000:]  # Ray's words for STOPPED: its processes are gone

    said = submit(cluster, "run", spec, "--out", run)
    assert "exit 0" in said, said[-3000:]
    assert len(story(run, "begin")) == 2
    assert peaksweep("run", spec, "--out", tmp_path / "local", "--local").returncode == 0
    assert_same(tmp_path / "local", run)
