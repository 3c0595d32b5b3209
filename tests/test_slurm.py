"""deploy/slurm.sh: linted, and run with hosts for nodes and scripts for `srun` and `scontrol`.

The hosts are network namespaces (`tests/hosts.py`), Ray is real. What Slurm itself does is played
from its manual: `srun` runs a command on each node that it is told to and passes signals on,
`scontrol` tells the names of the nodes and notes what is queued again.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import until
from tests.hosts import PROGRAMS, Host, Network, Refused, network
from tests.sweeps import SMALL, assert_same, events, peaksweep, written

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "slurm.sh"
BIN = Path(sys.executable).parent
JOB = str(os.getpid())

SRUN = """#!/bin/sh
space={other}
while :; do
    case $1 in
    --nodelist=first) space={first} ;;
    --*) ;;
    *) break ;;
    esac
    shift
done
SLURM_CPUS_ON_NODE=1 exec ip netns exec "$space" "$@"
"""
SCONTROL = """#!/bin/sh
case $1 in
show) printf 'first\\nother\\n' ;;
requeue) echo "$2" >>{folder}/queued ;;
esac
"""


def test_the_script_is_clean() -> None:
    found = subprocess.run(
        [BIN / "shellcheck", SCRIPT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_outside_an_allocation_it_says_how_it_is_used() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    said = subprocess.run(
        [SCRIPT, "sweep.yaml"], env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert "sbatch deploy/slurm.sh SPEC" in said.stderr


FAKES = {
    "scontrol": SCONTROL,
    "srun": "#!/bin/sh\nexec sleep 30\n",
    "peaksweep": """#!/bin/sh
trap 'echo told >>{folder}/said; exit 143' TERM
echo "$@" >{folder}/asked
case $2 in slow) sleep 5 & wait ;; esac
exit ${{2#code}}
""",
    "python": """#!/bin/sh
case $1 in -c) echo secret ;; *) cat >/dev/null ;; esac
""",
}
"""Of everything that a job starts. The sweep ends at once with the code that it is asked for."""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return what starts the script as Slurm does, where everything it starts is played."""
    for name, text in FAKES.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    environment = {
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        **{"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"},
        "PEAKSWEEP_ADDRESS": "10.0.0.1",
    }
    yield lambda *words: subprocess.Popen([SCRIPT, *words], env=environment)
    assert list(tmp_path.glob(".peaksweep*")) == []


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_job_ends_with_the_exit_code_of_its_sweep(
    job: Callable[..., subprocess.Popen[bytes]], code: int, tmp_path: Path
) -> None:
    assert job(f"code{code}", "--out", "/shared/run").wait(timeout=20) == code
    asked = (tmp_path / "asked").read_text()
    assert asked == f"run code{code} --out /shared/run --address 10.0.0.1:20041\n"
    assert not (tmp_path / "queued").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_sweep_is_told_to_end_and_only_a_lack_of_time_queues_it_again(
    job: Callable[..., subprocess.Popen[bytes]], number: signal.Signals, tmp_path: Path
) -> None:
    started = job("slow")
    until((tmp_path / "asked").exists, "the sweep's start", 20)
    started.send_signal(number)
    assert started.wait(timeout=20) == 143
    assert (tmp_path / "said").read_text() == "told\n"
    assert (tmp_path / "queued").exists() == (number == signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Two nodes, the folder they share, and what the job is told of them."""

    first: Host
    other: Host
    folder: Path

    def submit(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start the script on the first node as Slurm does."""
        environment = {
            "PATH": f"{self.folder}:{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "OMP_NUM_THREADS": "1",
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NODELIST": "first,other",
            "SLURM_JOB_NUM_NODES": "2",
        }
        return self.first.start([SCRIPT, *words], environment)

    def said(self) -> str:
        return (self.first.folder / "said").read_text()[-4000:]

    def assert_nothing_is_left(self) -> None:
        until(lambda: not (self.first.processes() | self.other.processes()), "Ray's end", 20)
        assert list((self.folder / "home").glob(".peaksweep*")) == []


@pytest.fixture
def net() -> Iterator[Network]:
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here")
    try:
        with network() as made:
            yield made
    except Refused as refused:
        pytest.skip(str(refused))


@pytest.fixture
def allocation(net: Network, tmp_path: Path) -> Iterator[Allocation]:
    first, other = net.host("first"), net.host("other")
    (tmp_path / "home").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        script = tmp_path / name
        script.write_text(text.format(first=first.space, other=other.space, folder=tmp_path))
        script.chmod(0o755)
    yield Allocation(first=first, other=other, folder=tmp_path)
    shutil.rmtree(f"/tmp/peaksweep-ray-{JOB}", ignore_errors=True)


@pytest.mark.slow
def test_a_job_whose_time_is_over_stops_is_queued_again_and_goes_on(
    allocation: Allocation, tmp_path: Path
) -> None:
    spec, run, queued = written(tmp_path, SMALL), tmp_path / "run", tmp_path / "queued"
    job = allocation.submit(spec, "--out", run)
    story = run / "events.jsonl"
    until(lambda: story.exists() and '"started"' in story.read_text(), "the first task", 300)
    (token,) = (tmp_path / "home").glob(".peaksweep-ray-*/token")
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
    secret = token.read_bytes()
    there = allocation.first.processes() | allocation.other.processes()
    for words in (Path(f"/proc/{p}") / kind for p in there for kind in ("cmdline", "environ")):
        assert not words.exists() or secret not in words.read_bytes(), words

    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=300) == 143, allocation.said()
    assert "Interrupted. Nothing is lost" in allocation.said()
    assert queued.read_text() == f"{JOB}\n"
    allocation.assert_nothing_is_left()

    assert allocation.submit(spec, "--out", run).wait(timeout=300) == 0, allocation.said()
    assert queued.read_text() == f"{JOB}\n"  # this one ended by itself
    allocation.assert_nothing_is_left()
    assert len(events(run, "begin")) == 2
    assert peaksweep("run", spec, "--out", tmp_path / "local", "--local").returncode == 0
    assert_same(tmp_path / "local", run)
