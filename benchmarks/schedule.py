"""What does scheduling cost, and how busy does it keep a cluster?

    busy_1000       in virtual time (`tests.orchestrator.virtual`): 1,000 workers, 20 models, 30,000
                    cells of 20 s on average (log-normal, σ = 1), 30 s to load a model, machines
                    that die after 3 hours on average, 50 that join after 2 minutes and 30 that
                    leave after 5. Share of all time that workers were at cells, from when all had
                    been ready once until fewer cells were left unsent than there were workers;
                    loading is not busy. Also how many events a second the scheduler handles,
                    pool included
    loop_over_bare  on real Ray: cells of 20 ms of computing that commit a small Parquet file each,
                    on two actors. `loop` is the scheduler with the Ray pool, a line of the story
                    for each that starts or is done; `bare` the same calls of the same actors, two
                    in flight for each, in a loop around `ray.wait`, and nothing else. Medians
    two_over_one    on real Ray: the demo's grid with two replicas of one thread against one, from
                    the first cell that starts to the last that is done, as the story tells; models
                    are loaded in this time, statistics were collected before it. One run each

Run: python -m benchmarks.schedule. With `--no-sweep` or `--no-ray` the last one or two are left
out (null). The last line is JSON.
"""

import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from rich.console import Console

from orchestrator import cli, ray_cluster
from orchestrator.budget import Demand
from orchestrator.events import events
from orchestrator.progress import Story
from orchestrator.ray_actor import Answer, Trouble, attempt
from orchestrator.ray_pool import RayPool
from orchestrator.scheduler import Scheduler
from orchestrator.store import Store, parquet
from orchestrator.tasks import Task
from tests.orchestrator.virtual import Mishaps, VirtualPool, cells
from workers.messages import ModelRef

SECONDS = 0.020
CELLS = 300
ROUNDS = 5
SWEEP = ("examples/embedded.yaml",)
TABLE = pa.table({"cell": ["c"] * 64, "loss": np.linspace(0, 1, 64)})


class Stub:
    """An actor that computes for `SECONDS` of its own time and commits a table."""

    def __init__(self, store: Store, worker: str) -> None:
        """Work on a run folder."""
        self._store = store

    def load(self, ref: ModelRef) -> None:
        """Nothing to load."""

    def do(self, task: Task) -> Answer | Trouble:
        """Do a task."""
        return attempt(lambda: self._do(task))

    def _do(self, task: Task) -> Answer:
        until = time.thread_time() + SECONDS
        while time.thread_time() < until:
            pass
        self._store.commit(task.file, parquet(TABLE))
        return Answer(summary={"rows": 64}, node="here", size=0)


def virtual() -> dict[str, float]:
    """Return the busy share of 1,000 workers, and the scheduler's events per second."""
    tasks = cells(30_000, 20)
    pool = VirtualPool(
        tasks,
        workers=1000,
        mean=lambda _: 20.0,
        load_seconds=lambda _: 30.0,
        mishaps=Mishaps(life=10_800.0, room=((120.0, 1050), (300.0, 1020)), lag=5.0),
        seed=1,
    )
    since = time.process_time()
    failures = Scheduler(tasks, [], pool, clock=pool.now).run()
    seconds = time.process_time() - since
    assert not failures
    return {"busy_1000": round(pool.busy_share, 4), "events_per_s": round(pool.events / seconds)}


def loop(store: Store, tasks: Sequence[Task]) -> float:
    """Return the seconds that the scheduler takes for tasks on two actors, loading left out."""
    pool = RayPool(store, most=2, spare=1, demand=Demand(cpus=1, gpus=0))
    pool._class = ray.remote(Stub)
    marks: dict[str, list[float]] = defaultdict(list)
    with Story(store, Console(file=io.StringIO())) as story:

        def listen(event: str, of: Task, details: dict[str, object]) -> None:
            marks[event].append(time.perf_counter())
            story.listen(event, of, details)

        failures = Scheduler(tasks, [], pool, listen=listen, tell=story.say).run()
    pool.close()
    assert not failures
    return _settled(marks["done"])


def bare(store: Store, tasks: Sequence[Task]) -> float:
    """Return the seconds that a loop around `ray.wait` takes for the same."""
    actors = [ray.remote(Stub).options(num_cpus=1).remote(store, "w") for _ in range(2)]
    ray.get([actor.load.remote(tasks[0].model) for actor in actors])
    left, pending, done = list(reversed(tasks)), {}, []
    for actor in actors * 2:
        pending[actor.do.remote(left.pop())] = actor
    while pending:
        (ref,), _ = ray.wait(list(pending), num_returns=1)
        actor = pending.pop(ref)
        answer = ray.get(ref)
        assert isinstance(answer, Answer), answer
        done.append(time.perf_counter())
        if left:
            pending[actor.do.remote(left.pop())] = actor
    for actor in actors:
        ray.kill(actor)
    return _settled(done)


def _settled(done: Sequence[float]) -> float:
    """Return the seconds from a tenth of the tasks to the last tenth: both actors are at work."""
    edge = len(done) // 10
    return done[-edge] - done[edge]


def compared() -> float:
    """Return the median over rounds of the loop's time over that of the bare loop."""
    ratios = []
    tasks = cells(CELLS, 1, file="cells/{}.parquet")
    with ray_cluster.connected(None):
        for turn in range(ROUNDS + 1):
            taken = {}
            for act in (loop, bare) if turn % 2 else (bare, loop):
                with tempfile.TemporaryDirectory() as folder:
                    taken[act.__name__] = act(Store.open(folder), tasks)
            said = ", ".join(f"{name} {s / CELLS / 0.8 * 1e3:.1f} ms" for name, s in taken.items())
            print(f"per cell: {said}{' (warming up)' if not turn else ''}", flush=True)
            if turn:
                ratios.append(taken["loop"] / taken["bare"])
    return statistics.median(ratios)


def sweeps(*replicas: int) -> list[float]:
    """Return the seconds from the first cell that starts to the last that is done, for each."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        _peaksweep("collect", SWEEP[0], "--out", f"{folder}/statistics")
        for count in replicas:
            out = f"{folder}/{count}"
            shutil.copytree(f"{folder}/statistics", out)
            _peaksweep("run", *SWEEP, "--out", out, "--workers", str(count))
            told = [e for e in events(Store.open(out)) if e.get("stage") == "evaluate"]
            seconds = [float(str(e["time"])) for e in told if e["event"] in ("started", "done")]
            taken.append(max(seconds) - min(seconds))
            print(f"{count} replicas: {taken[-1]:.1f} s", flush=True)
    return taken


def _peaksweep(*words: str) -> None:
    try:
        cli.app(list(words))
    except SystemExit as end:
        if end.code:
            raise


def main() -> None:
    """Print what was measured, and the last line as JSON."""
    load = Path("/proc/loadavg").read_text().split()[:3]
    print(f"load of the machine before: {', '.join(load)}", flush=True)
    made: dict[str, float | None] = {"loop_over_bare": None, "two_over_one": None, **virtual()}
    print(made, flush=True)
    if "--no-ray" not in sys.argv:
        made["loop_over_bare"] = round(compared(), 3)
        if "--no-sweep" not in sys.argv:
            two, one = sweeps(2, 1)
            made["two_over_one"] = round(one / two, 3)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
