"""A sweep on separate hosts, one of which is cut off in the middle and one of which comes later.

The hosts are network namespaces (`tests/hosts.py`): a store that speaks S3, a head that holds no
replica, two workers, and a third worker that joins. Ray is started on each by `ray start` with a
token and with Ray's own settings; the sweep is submitted by `ray job submit` on the head. Nothing
is shared by way of files but the environment and the gates of the test (`tests/faults.py`).

    pytest -m slow tests/test_hosts.py --log-cli-level=INFO

tells how long each step takes. They need root and `ip netns`. Where whoever runs them may make no
namespaces they are skipped with the reason, under CI too: a build machine often may not.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.needed import absent
from tests.faults import STORE, Gates, assert_undisturbed, until
from tests.hosts import PROGRAMS, Host, Network, Refused, network
from tests.planted import PLANTED, assert_nowhere
from tests.processes import title
from tests.sweeps import peaksweep, written

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
PORT, DASHBOARD, AGENT, S3 = 6379, 8265, 52365, 9000
RUN = "s3://bucket/run"
SPEC = """
name: hosts
models: [zoo:opt, zoo:mistral, zoo:roberta, zoo:vit]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 16}
    evaluate: {split: test, sequences: 8}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 12}
methods: [zero, mean, peak, peak(paper), {resample: {source: dataset}}]
fractions: [0, 0.5, 1]
seeds: 2
contrasts: [[peak, mean], [peak, zero], [peak, peak(paper)]]
statistics: {shards: 2}
cluster: {patience_seconds: 10}
"""
"""The demonstration's kinds of models, data and methods; a cut cable is not waited for longer."""

BUCKET = """
import sys, time, fsspec
for _ in range(100):
    try:
        fsspec.filesystem("s3").mkdir(sys.argv[1])
        break
    except Exception as error:
        last = error
        time.sleep(0.2)
else:
    raise last
"""
FETCH = "import sys, fsspec; fsspec.filesystem('s3').get(*sys.argv[1:], recursive=True)"
ALIVE = """
import sys, time, ray
address, *wanted = sys.argv[1:]
for _ in range(100):
    try:
        ray.init(address, log_to_driver=False, configure_logging=False)
        break
    except Exception as error:
        last = error
        time.sleep(0.5)
else:
    raise last
while set(wanted) - {n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}:
    time.sleep(0.2)
"""
ASK = """
import json, sys, urllib.error, urllib.request
url, words = sys.argv[1], json.loads(sys.argv[2])
body = json.dumps({"entrypoint": "true"}).encode() if sys.argv[3] == "POST" else None
asked = urllib.request.Request(url, data=body, headers=words, method=sys.argv[3])
try:
    print(urllib.request.urlopen(asked, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
except urllib.error.URLError as error:
    print(type(error.reason).__name__)
"""

PROBE = """
import http.client, sys
host, *ports = sys.argv[1:]
for port in ports:
    for page in ("api/jobs/", "api/job_agent/jobs/", "api/local_raylet_healthz", "logs"):
        asked = http.client.HTTPConnection(host, int(port), timeout=5)
        try:
            asked.request("GET", "/" + page)
            answer = asked.getresponse()
            body = answer.read(6).decode() if answer.status == 200 else ""
            print(page, port, answer.status, body)
        except (http.client.HTTPException, OSError) as error:
            print(page, port, type(error).__name__)
"""
HEALTH = "api/local_raylet_healthz"
CALL = """
import sys, grpc
host, token, *ports = sys.argv[1:]
services = ("NodeInfoGcsService/GetAllNodeInfo", "InternalKVGcsService/InternalKVKeys",
    "NodeManagerService/GetNodeStats", "ObjectManagerService/Pull", "ReporterService/GetTraceback")
for port in ports:
    for service in services:
        channel = grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)])
        call = channel.unary_unary(f"/ray.rpc.{service}")
        try:
            call(b"", timeout=5, metadata=[("authorization", f"Bearer {token}")] if token else None)
            print(service, "OK")
        except grpc.RpcError as error:
            print(service, error.code().name)
"""
"""Asks every port for one call of each of Ray's services; most ports have one of them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A head and its workers, and what programs must know to find them."""

    network: Network
    gates: Gates
    environment: Mapping[str, str]

    def on(self, name: str) -> Host:
        return self.network.hosts[name]

    def python(self, name: str, script: str, *arguments: str, **more: str) -> str:
        """Run a script on a host; return what it prints."""
        words = [sys.executable, "-c", script, *arguments]
        ended = self.on(name).run(words, {**self.environment, **more})
        assert ended.returncode == 0, ended.stderr[-3000:]
        return ended.stdout.strip()

    def join(self, name: str) -> Host:
        """Connect another host, and have it join."""
        host = self.network.host(name)
        words = (f"--address={self.on('head').address}:{PORT}", "--num-cpus=1")
        host.start(_ray(host, *words), self.environment)
        return host

    def wait_for(self, *names: str) -> None:
        """Wait until these hosts, and the head, are all of the cluster."""
        wanted = {self.on(name).address for name in ("head", *names)}
        self.python("head", ALIVE, f"{self.on('head').address}:{PORT}", *wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What was left of a sweep that was submitted, cut and joined."""

    run: Path
    """A copy of the run folder."""
    code: int
    """What `ray job submit` ended with."""
    said: str
    """What it said."""
    cut: Host
    joined: Host


def _ray(host: Host, *words: str) -> list[str]:
    return [
        *(str(BIN / "ray"), "start", "--block", f"--node-ip-address={host.address}"),
        *(f"--temp-dir={host.folder}", f"--object-store-memory={STORE}", "--disable-usage-stats"),
        *words,
    ]


class Steps:
    """Tells how long each step has taken."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        log.info("%5.1f s  %s", now - self._began, what)
        self._began = now


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        absent(f"{missing} of the package iproute2 is not there")
    try:
        with network() as made:
            yield made
    except Refused as refusal:
        pytest.skip(str(refusal))


@pytest.fixture(scope="module")
def cluster(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A store, a head and two workers, as they are before anything is submitted."""
    steps = Steps()
    gates = Gates(tmp_path_factory.mktemp("gates"))
    store, head = hosts.host("store"), hosts.host("head")
    environment = {
        **PLANTED,
        **gates.environment(),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "AWS_ENDPOINT_URL": f"http://{store.address}:{S3}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    made = Cluster(network=hosts, gates=gates, environment=environment)
    store.start([BIN / "moto_server", "-H", store.address, "-p", str(S3)], environment)
    beginning = _ray(
        head,
        *("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=true"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD}"),
    )
    head.start(beginning, environment)
    made.python("head", BUCKET, "bucket")
    steps.done("a store")
    until(lambda: PORT in {port for _, port in head.listening()}, "the head")
    steps.done("a head")
    made.join("one")
    made.join("two")
    made.wait_for("one", "two")
    steps.done("two workers")
    return made


@pytest.fixture(scope="module")
def shown(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Submit the sweep, cut one worker while it evaluates, have another join, wait for the end."""
    steps, gates, head = Steps(), cluster.gates, cluster.on("head")
    folder = tmp_path_factory.mktemp("submitted")
    written(folder, SPEC)
    gates.close("evaluate")
    submitted = head.start(_submit(folder, "run", "sweep.yaml", "--out", RUN), cluster.environment)
    held = gates.caught("evaluate")
    cut = next(cluster.on(name) for name in ("one", "two") if held in cluster.on(name).processes())
    steps.done(f"submitted, until a cell is evaluated on host {cut.name}")

    gates.close("evaluate", always=True)  # who comes next waits until the new host is at work
    cut.cut()
    joined = cluster.join("three")
    until(
        lambda: any(title(p).startswith("ray::Actor") for p in joined.processes()),
        "a replica on the host that joined",
        seconds=300,
    )
    steps.done("one host cut off, until another has joined and holds a model")
    gates.open()
    said = head.folder / "said"
    try:
        code = submitted.wait(timeout=480)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the sweep does not end:\n{said.read_text()[-6000:]}")
    steps.done("the rest of the sweep")

    run = folder / "run"
    cluster.python("head", FETCH, f"{RUN}/", f"{run}/")
    return Shown(run=run, code=code, said=said.read_text(), cut=cut, joined=joined)


def _submit(folder: Path, *arguments: str) -> list[str]:
    where = (f"--address=http://127.0.0.1:{DASHBOARD}", f"--working-dir={folder}")
    job = ("python", "-m", "orchestrator", *arguments)
    return [str(BIN / "ray"), "job", "submit", *where, "--", *job]


def test_a_sweep_that_lost_a_host_and_got_another_has_the_tables_of_one_process(
    shown: Shown, tmp_path: Path
) -> None:
    assert shown.code == 0, shown.said[-6000:]
    story = [
        json.loads(line)
        for file in sorted(shown.run.glob("events/*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    lost = {e["worker"] for e in story if e["event"] == "lost"}
    loaded = {e["worker"] for e in story if e["event"] == "ready"}
    assert lost  # the replica that was cut off; on a busy machine perhaps another
    assert len(loaded) >= 3  # two, and the one on the host that joined
    local = tmp_path / "local"
    assert peaksweep("run", written(tmp_path, SPEC), "--out", local, "--local").returncode == 0
    assert_undisturbed(shown.run, local)


def test_no_secret_is_in_the_run_folder_the_logs_or_what_was_said(
    cluster: Cluster, shown: Shown
) -> None:
    """Environments of all hosts had them, and the bucket's keys were used."""
    logs = cluster.network.folder
    assert list(logs.glob("head/session_*/logs/job-driver-*.log"))
    assert assert_nowhere([shown.run, logs, shown.said]) > 100_000


def _bearer(token: str) -> str:
    return json.dumps({"Authorization": f"Bearer {token}", "Content-Type": "application/json"})


def test_who_does_not_have_the_token_is_refused(cluster: Cluster) -> None:
    jobs = f"http://127.0.0.1:{DASHBOARD}/api/jobs/"
    token = PLANTED["RAY_AUTH_TOKEN"]
    for how in ("GET", "POST"):
        said = [
            cluster.python("head", ASK, jobs, words, how)
            for words in ("{}", _bearer(token[:-1]), _bearer(token))
        ]
        assert said == ["401", "403", "200"], how
    head = f"{cluster.on('head').address}:{PORT}"
    for other in ({"RAY_AUTH_TOKEN": token[:-1]}, {"RAY_AUTH_MODE": "disabled"}):
        status = [str(BIN / "ray"), "status", "--address", head]
        ended = cluster.on("store").run(status, {**cluster.environment, **other})
        assert ended.returncode == 1
        assert "AuthenticationError" in ended.stderr


def test_without_the_token_other_hosts_see_nothing_but_numbers_and_health(
    cluster: Cluster,
) -> None:
    """The dashboard is on the loopback alone; every other port of the head is asked."""
    head, stranger = cluster.on("head"), cluster.on("store")
    listening = head.listening()
    assert [a for a, port in listening if port == DASHBOARD] == ["127.0.0.1"]
    ports = {str(port) for address, port in listening if address != "127.0.0.1"}
    words = [sys.executable, "-c", PROBE, head.address, *ports]
    said = [line.split(" ", 2) for line in stranger.run(words, {}).stdout.splitlines()]
    assert {port for _, port, _ in said} == ports
    told = [(page, answer) for page, _, answer in said if answer.startswith("200")]
    assert all("# HELP" in answer for page, answer in told if page != HEALTH), told
    assert ["api/job_agent/jobs/", str(AGENT), "401 "] in said


def test_without_the_token_no_service_of_ray_does_anything(cluster: Cluster) -> None:
    head, stranger = cluster.on("head"), cluster.on("store")
    ports = {str(port) for address, port in head.listening() if address != "127.0.0.1"}
    answers = {}
    for token in (PLANTED["RAY_AUTH_TOKEN"], PLANTED["RAY_AUTH_TOKEN"][:-1], ""):
        words = [sys.executable, "-c", CALL, head.address, token, *ports]
        said = stranger.run(words, {}).stdout.splitlines()
        answers[token] = {line.split()[0]: set[str]() for line in said}
        for line in said:
            service, code = line.split()
            answers[token][service].add(code)
    right, wrong, none = answers.values()
    assert all("OK" in codes for codes in right.values()), right
    for refused in (wrong, none):
        assert all("UNAUTHENTICATED" in codes for codes in refused.values()), refused
        assert not any("OK" in codes for codes in refused.values()), refused
