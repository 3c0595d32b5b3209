"""Submitting: what travels, what is refused, and a sweep's life as a job."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import luggage, ray_folders, ray_jobs, submit
from orchestrator.files import StoreError
from orchestrator.luggage import packed
from orchestrator.mistakes import SpecError
from orchestrator.pool import PoolError
from orchestrator.ray_jobs import Job
from orchestrator.spec import parse
from orchestrator.specfile import raw
from orchestrator.store import Store
from orchestrator.terminal import CommandError
from tests.faults import Gates, story, until
from tests.processes import descendants
from tests.sweeps import SMALL, assert_same, command, peaksweep, written

BIN = Path(sys.executable).parent
NOWHERE = "http://127.0.0.1:9"
"""An address where nobody listens."""


def packing(file: Path, *, code: bool = True) -> luggage.Luggage:
    return packed(file, parse(raw(file)), code=code)


def sweep(folder: Path, text: str) -> Path:
    """Return a sweep file with these lines on top of what each must have."""
    folder.mkdir(parents=True, exist_ok=True)
    return written(folder, f"methods: [zero]\n{text}\n")


def mistakes(file: Path) -> str:
    with pytest.raises(SpecError) as caught:
        packing(file)
    return str(caught.value)


def job(state: str, code: int | None = None, **more: str) -> Job:
    said = {"id": "toy-1", "run": "/shared/toy", "name": "toy", "message": "", **more}
    return Job(state=state, code=code, started=0.0, **said)


# What travels


def test_a_file_behind_a_link_is_the_one_that_run_would_read(tmp_path: Path) -> None:
    real = tmp_path / "real" / "sweeps"
    real.mkdir(parents=True)
    sweep = written(real, SMALL)
    (tmp_path / "link").symlink_to(real)
    one, other = packing(sweep), packing(tmp_path / "link" / sweep.name)
    assert one.files == other.files
    assert one.digest == other.digest


def test_the_code_that_runs_here_travels_and_nothing_beside_it(tmp_path: Path) -> None:
    taken = packing(written(tmp_path, SMALL))
    assert {"orchestrator/cli.py", "workers/evaluate.py"} <= taken.code.keys()
    assert any(place.startswith("workers/zoo/") for place in taken.code)
    assert {place.split("/")[0] for place in taken.code} == {"orchestrator", "workers"}
    assert not [p for p in taken.code if "__pycache__" in p or "/." in p]
    assert packing(written(tmp_path, SMALL), code=False).code == {}


def test_of_the_folder_around_a_sweep_only_what_it_names_travels(tmp_path: Path) -> None:
    for other in (".git/config", "runs/old/plan.parquet", ".venv/bin/python", "notes.txt"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    assert packing(written(tmp_path, SMALL)).files == {"sweep/sweep.yaml": tmp_path / "sweep.yaml"}


def test_files_that_a_sweep_names_keep_their_places_beside_it(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "units.npy").write_bytes(b"units")
    (tmp_path / "mine" / "prompts").mkdir(parents=True)
    (tmp_path / "mine" / "prompts" / "a.jsonl").write_text("{}")
    (tmp_path / "mine" / "prompts" / ".hidden").write_text("")
    file = sweep(
        tmp_path / "mine",
        "models: [zoo:opt]\ndata: {pairs: {source: prompts}}\n"
        "selections: [explicit(../lists/units.npy)]",
    )
    taken = packing(file, code=False)
    assert sorted(taken.files) == [
        "sweep/lists/units.npy",
        "sweep/mine/prompts/a.jsonl",
        "sweep/mine/sweep.yaml",
    ]
    assert taken.sweep == "sweep/mine/sweep.yaml"
    taken.lay_out(tmp_path / "there")
    assert (tmp_path / "there" / "sweep/mine/../lists/units.npy").read_bytes() == b"units"


def test_a_jobs_id_depends_on_what_the_user_wrote(tmp_path: Path) -> None:
    (tmp_path / "units.npy").write_bytes(b"one")
    file = sweep(tmp_path, "models: [zoo:opt]\nselections: [explicit(units.npy)]")
    before = packing(file).digest
    assert packing(file, code=False).digest == before
    (tmp_path / "units.npy").write_bytes(b"two")
    assert packing(file).digest != before


def test_absolute_paths_and_hub_ids_stay_where_they_are(tmp_path: Path) -> None:
    file = sweep(
        tmp_path,
        "models: [/shared/models/mine, {id: owner/name, revision: abc}, zoo:opt]\n"
        "data: {mine: {source: /shared/data}, pile: {source: pile}}",
    )
    assert packing(file).needs == ("/shared/data", "/shared/models/mine")


@pytest.mark.parametrize(
    ("text", "where", "cure"),
    [
        ("models: [models/a/b]", "models[0].id", "hub id with its revision"),
        ("models: [./mine]", "models[0].id", "at the same absolute path"),
        ("models: [there/is]", "models[0].id", "models are not sent"),
        ("models: [zoo:opt]\ndata: {d: {source: gone.jsonl}}", "data.d.source", "no file"),
        ("models: [zoo:opt]\ndata: {d: {source: ~/d.jsonl}}", "data.d.source", "home"),
        ("models: [zoo:opt]\nselections: [explicit(gone.npy)]", "selections[0]", "no file"),
        ("models: [zoo:opt]\nstore: runs/store", "store", "all nodes share"),
    ],
)
def test_what_nodes_cannot_see_is_refused_with_its_cure(
    tmp_path: Path, text: str, where: str, cure: str
) -> None:
    (tmp_path / "there" / "is").mkdir(parents=True)
    said = mistakes(sweep(tmp_path, text))
    assert where in said
    assert cure in said


def test_too_much_is_refused_with_what_is_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(luggage, "LARGEST", 50 * 10**6)
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.truncate(60 * 10**6)
    said = mistakes(sweep(tmp_path, "models: [zoo:opt]\ndata: {d: {source: large.jsonl}}"))
    assert "large.jsonl (60 MB)" in said
    assert "all nodes have it at the same absolute path" in said
    assert "--no-code" not in said
    monkeypatch.setattr(luggage, "LARGEST", 10**6)
    assert "--no-code" in mistakes(written(tmp_path, SMALL))


# What is refused before a cluster is asked


def submitted(file: Path, out: str | None = "/shared/runs/toy") -> submit.Submitted:
    return submit.submit(file, out=out, address=NOWHERE)


@pytest.mark.parametrize(
    ("out", "cure"),
    [
        (None, "thrown away"),
        ("runs/toy", "absolute path that all nodes share"),
        ("s3://key:secret@bucket/run", "from their environment"),
        ("s3://key:sla/sh/secret@bucket/run", "from their environment"),
        ("simplecache::s3://key:secret@bucket/run", "from their environment"),
    ],
)
def test_a_run_folder_that_nodes_cannot_have_is_refused(
    tmp_path: Path, out: str | None, cure: str
) -> None:
    with pytest.raises(SpecError, match=f"--out: .*{cure}") as caught:
        submitted(written(tmp_path, SMALL), out)
    assert "secret@" not in str(caught.value)


def test_a_missing_sweep_file_is_told_before_the_cluster_is_asked(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="give the path of a sweep file"):
        submitted(tmp_path / "none.yaml")


def test_where_no_cluster_answers_it_is_said_how_to_reach_one(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"No Ray job server answers at .*ssh -N -o"):
        submitted(written(tmp_path, SMALL))


def test_the_address_of_a_driver_is_not_that_of_the_dashboard() -> None:
    with pytest.raises(CommandError, match=r"found the address '10\.0\.0\.1:6379'; expected"):
        ray_jobs.Server("10.0.0.1:6379")


# The exit code


def test_the_run_folder_says_how_a_sweep_ended(tmp_path: Path) -> None:
    Store.open(tmp_path).commit(submit.record("toy-1"), b'{"code": 4, "ended": 20.0}')
    ended = job("FAILED", 1, run=str(tmp_path))
    assert submit.code_of(replace(ended, started=10.0)) == 4
    # The job of an earlier cluster, which had the same id.
    assert submit.code_of(replace(ended, started=30.0)) == 1


def test_where_the_run_folder_is_not_to_be_seen_ray_does() -> None:
    assert submit.code_of(job("FAILED", 5)) == 5
    assert submit.code_of(job("SUCCEEDED", 0)) == 0
    assert submit.code_of(job("STOPPED")) == 143


def test_a_job_that_never_got_to_its_sweep_is_the_clusters_fault() -> None:
    with pytest.raises(PoolError, match="ended before the sweep began: no disk"):
        submit.code_of(job("FAILED", message="no disk"))


# Folders on nodes


class TwoNodes:
    """Answers as two machines would of which the second has disks of its own."""

    def __init__(self, here: Path, there: Path) -> None:
        self.here, self.there = str(here), str(there)

    def __call__(self, folders: Sequence[str], needs: Sequence[str], token: str):  # type: ignore[no-untyped-def]
        there, needed = (
            [path.replace(self.here, self.there) for path in paths] for paths in (folders, needs)
        )
        return {
            "10.0.0.1": ("0", *ray_folders._look(folders, needs, token, "0")),
            "10.0.0.2": ("1", *ray_folders._look(there, needed, token, "1")),
        }


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ray_folders, "SEEN", 0.0)
    monkeypatch.setattr(ray_folders, "_answers", TwoNodes(tmp_path / "a", tmp_path / "b"))
    (tmp_path / "a").mkdir()
    return tmp_path


def test_a_run_folder_that_one_node_has_alone_is_refused_and_left_as_it_was(two: Path) -> None:
    with pytest.raises(StoreError, match=r"not one for all 2 nodes \(10\.0\.0\.2: it does not see"):
        ray_folders.check([str(two / "a" / "run")])
    assert list((two / "a").iterdir()) == []


def test_a_folder_that_a_node_reads_from_a_copy_is_not_shared(two: Path) -> None:
    """What the driver writes is there by mirroring, what the node writes does not come back."""
    mirrored = two / "b" / "run" / "shared"
    (two / "b" / "run").mkdir(parents=True)
    (two / "a" / "run" / "shared").mkdir(parents=True)
    write = Store.commit

    def mirroring(store: Store, file: str, content: bytes) -> bool:
        made = write(store, file, content)
        if store.root == two / "a" / "run":
            shutil.copytree(two / "a" / "run" / "shared", mirrored, dirs_exist_ok=True)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "commit", mirroring)
        with pytest.raises(StoreError, match=r"10\.0\.0\.2: what it writes is not seen here"):
            ray_folders.check([str(two / "a" / "run")])


def test_a_shared_run_folder_is_taken_and_no_token_stays(two: Path) -> None:
    (two / "run").mkdir()
    ray_folders.check([str(two / "run")], [str(two)])
    assert list((two / "run").iterdir()) == []


def test_a_model_that_one_node_lacks_is_named_with_the_node(two: Path) -> None:
    (two / "a" / "model").mkdir()
    with pytest.raises(SpecError, match=r"model: is missing on 1 of 2 nodes \(10\.0\.0\.2\)"):
        ray_folders.check([str(two / "run")], [str(two / "a" / "model"), str(two)])


# A sweep's life

PORT, DASHBOARD, AGENT = 26579, 28375, 28475
ADDRESS = f"http://127.0.0.1:{DASHBOARD}"
BROKEN = '''
"""A method that fails."""

from workers.plugins import Method


class Broken(Method):
    """No value at all."""

    name = "broken"

    def replace(self, x_STN, *, layer, site, statistics, parameters, sequence_S, seed):
        """Fail."""
        raise ValueError("broken")


METHODS = [Broken()]
'''


class Cluster:
    """A head on loopback that wants a token, and the client of it."""

    def __init__(self, gates: Gates, session: str) -> None:
        self.gates = gates
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "PLANTED_SECRET": secrets.token_hex(16),
            **gates.environment(),
        }
        self.environment.pop("RAY_ADDRESS", None)
        self.session = Path(session)
        client = {k: v for k, v in self.environment.items() if k != "PLANTED_SECRET"}
        self.head = subprocess.Popen(
            [
                *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
                *(f"--port={PORT}", "--node-ip-address=127.0.0.1", "--include-dashboard=true"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD}"),
                *(f"--dashboard-agent-listen-port={AGENT}", "--temp-dir", session),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=client,
            start_new_session=True,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command of the client."""
        return subprocess.Popen(
            [*command(*arguments), "--address", ADDRESS],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def __call__(self, *arguments: str | Path) -> tuple[int, str]:
        """Return how a command of the client ended, and what it said."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=600)
        return process.returncode, said


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    session = tempfile.mkdtemp(prefix="ray-")  # short: sockets' paths have a limit
    made = Cluster(Gates(tmp_path_factory.mktemp("gates")), session)
    yield made
    for process in (*descendants(made.head.pid), made.head.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    made.head.wait(timeout=60)
    shutil.rmtree(session, ignore_errors=True)


def answering(cluster: Cluster, *arguments: str | Path) -> tuple[int, str]:
    """Return how a command ended, once the dashboard answers."""
    for _ in range(60):
        code, said = cluster(*arguments)
        if "No Ray job server answers" not in said:
            return code, said
    raise AssertionError(said)


@pytest.mark.slow
def test_a_submitted_sweep_outlives_its_client_is_stopped_by_name_and_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    spec, run = written(tmp_path, SMALL), tmp_path / "life"
    assert answering(cluster, "logs", "life")[0] == 2
    cluster.gates.close("collect")
    client = cluster.start("submit", spec, "--out", run)
    try:
        until(lambda: cluster.gates.held("collect"), "a task of the job", seconds=240)
    finally:
        client.kill()
        said, _ = client.communicate()

    code, said = cluster("status", "life")
    assert code == 0, said
    assert re.search(r"job life-[0-9a-f]{8}-1: running", said)
    assert f"{run}: running" in said
    code, said = cluster("submit", spec, "--out", run)
    assert code == 4
    assert "is being worked on by the job life-" in said
    code, said = cluster("stop", "life")
    assert code == 0
    assert "Nothing is lost" in said
    cluster.gates.open()
    code, said = cluster("logs", str(run))
    assert "Interrupted. Nothing is lost: to go on, run the same again: peaksweep submit" in said

    code, said = cluster("submit", spec, "--out", run)
    assert code == 0, said
    assert "3 cells computed now" in said
    assert len(story(run, "begin")) == 2
    codes = [Store.of(run).read_json(f)["code"] for f in Store.of(run).files("jobs", ".json")]
    assert codes[-1] == 0
    assert peaksweep("run", spec, "--out", tmp_path / "local", "--local").returncode == 0
    assert_same(tmp_path / "local", run)


@pytest.mark.slow
def test_a_sweep_with_a_failed_cell_ends_with_its_own_code(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A method of the user's own travels, and what it raises is 1, as `run` would have it."""
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    text = SMALL.replace("[zero, mean]", "[zero, broken]").replace("[[zero, mean]]", "[]")
    spec, run = written(tmp_path, text), tmp_path / "fails"
    code, said = answering(cluster, "submit", spec, "--out", run, "--plugin", plugin)
    assert code == 1, said
    assert "ValueError('broken')" in said
    assert cluster("logs", "fails", "--follow")[0] == 1
    seen = (f.read_bytes() for f in cluster.session.rglob("*") if f.is_file())
    secret = cluster.environment["PLANTED_SECRET"].encode()
    assert not any(secret in content for content in seen)


@pytest.mark.slow
def test_a_wrong_token_is_told_in_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    answering(cluster, "logs", "nobody")
    before = cluster.environment
    cluster.environment = {**before, "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    try:
        code, said = cluster("submit", written(tmp_path, SMALL), "--out", tmp_path / "run")
    finally:
        cluster.environment = before
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "does not take this token; set RAY_AUTH_MODE=token" in said
    assert before["RAY_AUTH_TOKEN"] not in said
