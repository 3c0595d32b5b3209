"""A thousand GPUs, on paper and in virtual time: what takes the time, the bytes and the money.

The sweep is the paper's (eight methods, eleven fractions, ten masks, 100,000 evaluated tokens) on
four models of 70 billion parameters, eight GPUs a replica, with 1e9 collected tokens. Its plan is
a real one, of made-up checkpoints of published shapes. The scheduler is the real one too; the
cluster is the tests' (`tests.orchestrator.virtual`), in virtual time. A replica is a machine.

What a task takes is arithmetic over `Measured`, which our own benchmarks found, all of them on
CPUs, and `Assumed`, which nobody here measured. No run on an H100 or H200 exists. So seconds are
only as good as `Assumed.flops`; bytes and requests are counted from the plan and from which
machine did what.

    as it is    data are prepared by the sweep itself
    prepared    data were prepared before, so the clock begins with GPUs at work
    spot        prepared, and a GPU is lost every `spot_hours`
    hub         prepared, and weights come from a hub, to as many machines at once as
                `orchestrator.pulls` lets

A process that is lost is replaced at once, and loads its model anew.

Printed for each number of GPUs and way: hours; the share of time that replicas were at tasks;
GPU-hours that were lost with processes; the driver's processor time, in all and, as a share of a
core, were all replicas at calls of constants; bytes and requests of the object store; cost.

    python -m benchmarks.scale [--gpus 8 64 512 4096] [--tokens 1e9] [--ways ...]

The last line is JSON.
"""

import argparse
import asyncio
import heapq
import json
import math
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray

from orchestrator import calls, partials, pulls, ray_cluster
from orchestrator.plan import Plan
from orchestrator.pool import Done, Event
from orchestrator.scheduler import Scheduler
from orchestrator.tasks import Failure, Task
from tests.orchestrator import planned
from tests.orchestrator.virtual import Mishaps, VirtualPool, _Process
from workers.histogram import empty
from workers.messages import ModelFacts
from workers.windows import Windows

RANKS, LAYERS, D_MODEL, HEADS, D_HEAD, BINS, SHARDS = 8, 80, 8192, 64, 128, 256, 64
ROWS = LAYERS * HEADS * D_HEAD
EVALUATED = 100_000
PATIENCE = 7200.0
"""Seconds; with the default of 300, tables of 1e9 tokens are not waited for."""
PART = 50 * 2**20
"""Bytes of a request, as s3fs cuts large objects."""
WAYS = ("as it is", "prepared", "spot", "hub")
SHAPES = {
    "llama-65b": (64, 22016, 32000),
    "llama-2-70b": (8, 28672, 32000),
    "llama-3-70b": (8, 28672, 128256),
    "qwen2.5-72b": (8, 29568, 152064),
}
"""Heads with keys, neurons of the MLP, tokens: from their published `config.json`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on one core of the project's machine; reports are named."""

    prepare: float = 2.1e5
    """Tokens prepared a second (2026-11-24-scale)."""
    table: float = 225e-9
    """Seconds for a token of a data table when a process first reads it, takes a role's rows and
    counts its commonest tokens (the same)."""
    role: float = 5e-9
    """Seconds to take one role's rows again, for each token of the table (the same)."""
    counting: float = 1.05
    """Time of a pass that counts over that of a bare one (2026-11-23-collect)."""
    cell: float = 1.03
    """The same of a cell of constants (2026-11-23-evaluate)."""
    donated: float = 1.08
    """The same of a resampled one."""
    merging: float = 2.0e9
    """Bytes of parts that a merge reads a second (2026-11-23-reduce: 456 MB in 0.23 s)."""
    estimating: float = 20e-6
    """Seconds for a neuron's statistics (2026-11-23-jackknife: 308 µs for 17 estimates)."""
    event: float = 1 / 18_500
    """Driver's seconds for an event (2026-11-23-schedule)."""
    waiting: float = 1.0e-6
    """Driver's seconds in a turn for each answer that is awaited (2026-11-24-scale)."""
    table_bytes: float = 2.9
    """Of a token in a data table's file (the same)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """What nobody here measured; the page says where it is from."""

    flops: float = 4e14
    """Of a GPU a second in bf16: 40 % of what an H100's data sheet says (989e12, dense)."""
    disk: float = 2e9
    """Bytes a second at which a machine reads weights from its own disk."""
    network: float = 1e9
    """Bytes a second between a machine and the object store, or the hub."""
    gpu_hour: float = 3.0
    """Dollars."""
    put: float = 5e-6
    """Dollars a request that writes; one that reads costs `get`."""
    get: float = 4e-7
    gpu_life: float = 50_000.0
    """Hours that a GPU runs between interruptions (419 in 54 days of 16,384)."""
    spot_hours: float = 50.0
    """The same where machines are taken away."""


MEASURED, ASSUMED = Measured(), Assumed()


def facts(name: str) -> ModelFacts:
    """Return the facts of a model of a published shape."""
    keys, mlp, vocabulary = SHAPES[name]
    attention = 2 * D_MODEL * D_HEAD * (HEADS + keys)
    parameters = 2 * vocabulary * D_MODEL + LAYERS * (attention + 3 * D_MODEL * mlp)
    family = "qwen2" if name.startswith("qwen") else "llama"
    return planned.facts(
        **{"family": family, "activation": "silu", "window": 2048, "digest": name, "gated": True},
        **{"layers": LAYERS, "heads": HEADS, "d_head": D_HEAD, "kv_heads": keys},
        **{"d_model": D_MODEL, "d_mlp": mlp, "vocabulary": vocabulary},
        **{"parameters": parameters, "bytes": 2 * parameters},
    )


def made(tokens: float) -> Plan:
    """Return the plan of the sweep, of models that are nowhere."""
    source = {"source": "documents.jsonl", "document": "name", "sequence_length": 2048}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        planned.know(patch, {name: facts(name) for name in SHAPES})
        planned.documents(Path(folder))
        return planned.make(
            Path(folder),
            device="cuda",
            models=[{"id": n, "dtype": "bfloat16", "shards": RANKS} for n in SHAPES],
            data={
                "pile": {
                    **source,
                    "collect": {"tokens": int(tokens)},
                    "evaluate": {"tokens": EVALUATED},
                }
            },
            methods=[
                *("zero", "mean", "peak", "peak(paper)", "resample", "resample(random_tokens)"),
                *("resample(random_characters)", "resample(generated)"),
            ],
            fractions={"start": 0, "stop": 1, "step": 0.1},
            seeds=10,
            statistics={"shards": SHARDS},
            cluster={"device": "cuda"},
        )


def row_bytes(shards: int) -> float:
    """Return the bytes of a neuron in a histogram of so many shards, as it is stored."""
    rows = 16
    windows = Windows(exponent=np.zeros(rows, np.int32), first=np.zeros(rows, np.int64), bins=BINS)
    return partials.from_histogram(empty(windows, tuple(range(shards)))).nbytes / rows


class Costs:
    """Seconds, bytes and requests of the tasks of a plan."""

    def __init__(self, tasks: Sequence[Task], tokens: float) -> None:
        """Know every task by its file."""
        self.tokens, self.tasks = tokens, {t.file: t for t in tasks}
        self._row = {k: row_bytes(k) for k in (1, 8, SHARDS)}
        self._sizes: dict[str, float] = {}

    def shards(self, task: Task) -> int:
        """Return of how many shards a task makes counts."""
        parts = task.arguments.get("parts")
        return 1 if parts is None else sum(self.shards(self.tasks[p]) for p in parts)

    def size(self, file: str) -> float:
        """Return the bytes of a file of the run folder."""
        if file not in self._sizes:
            self._sizes[file] = self._size(self.tasks[file])
        return self._sizes[file]

    def _size(self, task: Task) -> float:
        match task.kind:
            case "data":
                return (self.tokens + EVALUATED) * MEASURED.table_bytes
            case "collect":
                return ROWS * self._row[1]
            case "merge" if self.tasks[task.arguments["parts"][0]].kind != "again":
                return ROWS * self._row[self.shards(task)]
            case "recount" | "merge_fixed":
                return ROWS * 416.0  # 100 counts of 4 bytes, and two ends
            case "pilot" | "centres" | "selection":
                return ROWS * 12.0
            case "statistics":
                return ROWS / LAYERS * self._row[1]
            case "evaluate":
                return len(task.cells) * EVALUATED / 2048 * 110.0
        return 1e4  # second passes are mostly empty

    def forward(self, task: Task, tokens: float) -> float:
        """Return the seconds of a bare pass of a task's model over so many tokens."""
        assert task.model is not None
        return 2 * task.model.facts.parameters * tokens / (RANKS * ASSUMED.flops)

    def seconds(self, task: Task) -> float:
        """Return how long a task takes, reading and writing of the object store included."""
        moved = self.size(task.file) + sum(map(self.size, task.after))
        took, role = moved / ASSUMED.network, self.tokens * MEASURED.role
        match task.kind:
            case "data":  # it reads no file of ours, and writes while nobody waits
                return self.tokens / MEASURED.prepare
            case "collect" | "recount":
                counted = MEASURED.counting * self.forward(task, self.tokens / SHARDS)
                return took + role + counted
            case "pilot" | "again" | "generate":
                return took + role
            case "merge" | "merge_fixed":
                return took + sum(map(self.size, task.after)) / MEASURED.merging
            case "statistics":  # the counts come once to the machine that merged them
                return 1.0 + ROWS / LAYERS * MEASURED.estimating
            case "evaluate":
                donated = any("donors/" in file for file in task.after)
                times = MEASURED.donated if donated else MEASURED.cell
                # Of files that are read, the machine has most.
                return 1.0 + len(task.cells) * times * self.forward(task, EVALUATED)
        return 1.0 + took

    def requests(self, task: Task, fetched: Sequence[str]) -> tuple[int, int]:
        """Return how many requests a task makes that write, and that read; at most."""
        files = 2 if task.cells else 1
        parts = math.ceil(self.size(task.file) / PART)
        written = files * (1 if parts < 3 else parts + 2)
        asked = len(task.after) * (1 if task.model is None else RANKS) + 2 * files
        got = sum(math.ceil(self.size(file) / PART) + 1 for file in fetched)
        return written, asked + got


class Cluster(VirtualPool):
    """Machines of one replica each, which keep copies of what they read, as nodes do."""

    def __init__(self, tasks: Sequence[Task], costs: Costs, *, hub: bool, **how: object) -> None:
        """Weights are on every machine's disk, or with `hub` downloaded in turns."""
        super().__init__(tasks, mean=costs.seconds, load_seconds=self._loads, sigma=0.1, **how)  # type: ignore[arg-type]
        self.costs, self.hub = costs, hub
        self.lost = self.fetched = self.put = self.pulled = 0.0
        """Replica-seconds of tasks not ended; bytes from and to the store; from the hub."""
        self.by_stage: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Bytes and requests of the object store."""
        self.writes = self.reads = 0
        self.at: dict[str, object] = {}
        """Where each file was written."""
        self.has: defaultdict[object, set[str]] = defaultdict(set)
        """Files and models that a machine has."""
        self.spent: Counter[str] = Counter()
        """Replica-seconds of tasks on a model, by kind."""
        self._turns, self._loader = [0.0] * pulls.MOST, 0

    def _loads(self, label: str) -> float:
        """Return the seconds of a load: weights, then the table that every process reads."""
        weights = next(
            t.model.facts.bytes for t in self.plan if t.model is not None and t.model.label == label
        )
        seconds = weights / ASSUMED.disk + self.costs.tokens * MEASURED.table
        if not self.hub or label in self.has[self._loader]:
            return seconds
        self.has[self._loader].add(label)
        self.pulled += weights
        end = max(self.now(), heapq.heappop(self._turns)) + weights / ASSUMED.network
        heapq.heappush(self._turns, end)
        return end - self.now() + seconds

    def _begin_load(self, process: _Process) -> None:
        self._loader = process.worker
        super()._begin_load(process)

    def _kill(self, process: _Process) -> None:
        if process.running:
            self.lost += self.now() - process.begun
        super()._kill(process)

    def _end(self, process: _Process | None, task: Task) -> list[Event]:
        if process is not None and not process.gone:
            self.spent[task.kind] += self.now() - process.begun
        events = super()._end(process, task)
        if any(isinstance(event, Done) for event in events) and task.file not in self.at:
            self._account(task, "cpu" if process is None else process.worker)
        return events

    def _account(self, task: Task, machine: object) -> None:
        if machine == "cpu":  # near most of what it reads, as `ray_pool.homes` says
            near: Counter[object] = Counter()
            for file in task.after:
                near[self.at.get(file, "cpu")] += int(self.costs.size(file))
            machine = max(near, key=lambda n: near[n], default="cpu")
        fetched = [file for file in task.after if file not in self.has[machine]]
        written, read = self.costs.requests(task, fetched)
        self.writes, self.reads = self.writes + written, self.reads + read
        self.fetched += sum(map(self.costs.size, fetched))
        self.put += self.costs.size(task.file)
        self.by_stage[task.stage] += Counter(
            fetched_mb=round(sum(map(self.costs.size, fetched)) / 1e6),
            put_mb=round(self.costs.size(task.file) / 1e6),
            requests=written + read,
        )
        self.at[task.file] = machine
        self.has[machine] |= {*fetched, task.file}


def simulate(
    sweep: Plan,
    gpus: int,
    tokens: float,
    way: str,
    *,
    patience: float = PATIENCE,
    life: float | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, int]], list[Failure]]:
    """Return what a sweep takes on so many GPUs, also by stage, and what was set aside.

    `life`: hours between two losses of a GPU, where it is not the way's.
    """
    every = [*sweep.tasks, *calls.calls(sweep, {name: [0] for name in sweep.cells})]
    costs, replicas = Costs(every, tokens), gpus // RANKS
    there = [t for t in every if t.kind == "data" and way != "as it is"]
    left = [t for t in every if t not in there]
    hours = life or (ASSUMED.spot_hours if way == "spot" else ASSUMED.gpu_life)
    cluster = Cluster(
        every,
        costs,
        hub=way == "hub",
        workers=replicas,
        spare=16 * replicas,
        mishaps=Mishaps(life=3600 * hours / RANKS),
        patience=patience,
        seed=1,
    )
    for task in there:
        cluster.made[task.file], cluster.at[task.file] = 1, "cpu"
        cluster.files.add(task.file)
        cluster._unsent.discard(task.file)
    since = time.process_time()
    scheduler = Scheduler(
        left,
        [t.file for t in there],
        cluster,
        ready_seconds=math.inf,
        patience_seconds=patience,
        clock=cluster.now,
    )
    failures = scheduler.run()
    thought = time.process_time() - since
    span, awaited = cluster.now(), 2 * RANKS * replicas * MEASURED.waiting
    on_models = sum(t.model is not None for t in left)
    constant = next(t for t in every if t.cells and "donors/" not in " ".join(t.after))
    turn = 3 * MEASURED.event + RANKS * awaited
    writes = cluster.writes + span * (1 / 3 + 1 / 5)  # the story, and the lease
    requests = writes * ASSUMED.put + cluster.reads * ASSUMED.get
    numbers = {
        "gpus": float(gpus),
        "hours": span / 3600,
        "busy": cluster._busy / (replicas * span),
        "lost_gpu_hours": cluster.lost * RANKS / 3600,
        "events": cluster.events,
        "events_per_s": cluster.events / span,
        "driver_s": cluster.events * MEASURED.event + on_models * RANKS * awaited,
        "driver_at_most": replicas / costs.seconds(constant) * turn,
        "simulated_s": thought,
        "fetched_tb": cluster.fetched / 1e12,
        "put_tb": cluster.put / 1e12,
        "hub_tb": cluster.pulled / 1e12,
        "writes": writes,
        "reads": cluster.reads,
        "gpu_dollars": gpus * span / 3600 * ASSUMED.gpu_hour,
        "request_dollars": requests,
        **{f"{kind}_gpu_hours": s * RANKS / 3600 for kind, s in sorted(cluster.spent.items())},
    }
    return numbers, {stage: dict(found) for stage, found in cluster.by_stage.items()}, failures


def measure_waiting() -> None:
    """Print what a turn of the driver takes with so many answers awaited, on a local Ray."""

    @ray.remote(num_cpus=0, max_concurrency=20_000)
    class Stub:
        async def hang(self) -> None:
            await asyncio.sleep(3600)

        async def answer(self) -> None:
            """At once."""

    with ray_cluster.connected(None):
        stub = Stub.remote()  # type: ignore[attr-defined]
        awaited: list[ray.ObjectRef[None]] = []
        for count in (128, 1024, 8192):
            awaited += [stub.hang.remote() for _ in range(count - len(awaited))]
            took = []
            for _ in range(7):
                ray.wait([one := stub.answer.remote()])
                since = time.process_time()
                ray.wait([*awaited, one], num_returns=1, timeout=0.1)
                ray.wait([*awaited, one], num_returns=count + 1, timeout=0)
                took.append(time.process_time() - since)
            print(f"{count} awaited: {statistics.median(took) * 1e3:.2f} ms a turn", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each number of GPUs and way, and the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--tokens", type=float, default=1e9)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--measure", action="store_true", help="the driver's wait on Ray, first")
    asked = parser.parse_args(words)
    if asked.measure:
        measure_waiting()
    sweep = made(asked.tokens)
    found: list[dict[str, object]] = []
    print(f"{len(sweep.tasks)} tasks and {len(sweep.cells)} cells of {len(SHAPES)} models")
    for gpus in asked.gpus:
        for way in asked.ways:
            took, stages, failures = simulate(sweep, gpus, asked.tokens, way)
            assert not failures, failures[0].error
            short = {k: float(f"{v:.4g}") for k, v in took.items()}
            found.append({"way": way, **short, "stages": stages})
            print(found[-1], flush=True)
    *_, failures = simulate(sweep, 64, asked.tokens, "as it is", patience=300.0)
    said = failures[0].error if failures else ""
    print(f"with the default patience {len(failures)} tasks are set aside: {said}")
    print(json.dumps({"runs": found, "set_aside_by_default": len(failures), "first": said}))


if __name__ == "__main__":
    main()
