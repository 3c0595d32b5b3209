"""How fast is the reduction beside a plain addition, and how much memory does it take?

64 partials of the size that one site of OPT-1.3B leaves (49,152 neurons x 256 bins; one shard each)
are written to a temporary folder and joined, from files to the committed file of their sum, in
these ways, each a few times:

    tree        merges of 8, through the Ray pool and the scheduler, on a local Ray of two CPUs
    flat        one merge of 64 through the same pool
    tree, 3     the tree on a `ray.cluster_utils.Cluster` of three nodes of one CPU on this machine,
                as if the shards of one merge had been counted on one node
    tree, here  the tree in this process, one task after the other
    flat, here  one merge of 64 in this process

against `numpy`: as many additions of int64 arrays of the same shape, in memory, on one core. Bytes
per second are those of the counts as int64, whatever the files take, over the whole time. Ray's
processes are started before the clock is, by a first run, whose time is told beside.

Peak memory is the kernel's high-water mark (VmHWM, mapped files included) of a process of its own
that does nothing but import what a task needs and one merge of 8, 16 or 64 parts; and the largest
of the Ray processes that ran the trees. `imports` is that of such a process before it merges.

Run: python -m benchmarks.reduce [PARTIALS]. It needs 4 GB of disk. The last line is the table as
JSON: `over_numpy_add` per way, `peak_bytes` per number of parts.

Shapes: R rows, B bins.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from orchestrator import partials, ray_cluster, ray_pool
from orchestrator.budget import Demand
from orchestrator.draft import FAN_IN
from orchestrator.local_pool import LocalPool
from orchestrator.pool import Pool
from orchestrator.ray_actor import Answer
from orchestrator.ray_pool import RayPool
from orchestrator.scheduler import Scheduler
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.processes import descendants, title
from workers.histogram import MOMENTS, Histogram, empty
from workers.windows import Windows

ROWS, BINS = 49_152, 256
DISTINCT = 4
"""Different arrays of counts; more would only take longer to draw."""
REPEATS = 5
SEED = 0


def histograms() -> Iterator[Histogram]:
    """Yield histograms that need four bytes a count, of shards 0, 1, …"""
    rng = np.random.default_rng(SEED)
    windows = Windows(exponent=np.zeros(ROWS, np.int32), first=np.zeros(ROWS, np.int64), bins=BINS)
    for shard in range(DISTINCT):
        none = empty(windows, (shard,))
        fields = {name: getattr(none, name) for name in none.__slots__}
        fields["counts"] = rng.integers(0, 2**16, (ROWS, BINS))
        fields["moments"] = rng.standard_normal((1, ROWS, len(MOMENTS)))
        yield Histogram(**fields)


def leaves(store: Store, made: Sequence[Histogram], count: int) -> list[str]:
    """Write partials of `count` shards; return their files."""
    files = []
    for shard in range(count):
        one = made[shard % len(made)]
        fields = {name: getattr(one, name) for name in one.__slots__}
        fields["shards"] = (shard,)
        files.append(f"partials/shard.{shard}.arrow")
        partials.commit(store, files[-1], partials.from_histogram(Histogram(**fields)), "shard")
    return files


def merges(parts: Sequence[str], fan_in: int) -> list[Task]:
    """Return the tasks that join these files, the root last."""
    tasks: list[Task] = []
    while len(parts) > 1:
        groups = [parts[i : i + fan_in] for i in range(0, len(parts), fan_in)]
        level = [
            Task(
                name=f"merge.{len(tasks) + i}",
                stage="reduce",
                kind="merge",
                label=f"merge {len(tasks) + i} of {len(group)}",
                file=f"partials/merge.{fan_in}.{len(tasks) + i}.arrow",
                model=None,
                after=tuple(group),
                arguments={"parts": list(group)},
            )
            for i, group in enumerate(groups)
        ]
        tasks += level
        parts = [task.file for task in level]
    return tasks


def timed(pool: Pool, store: Store, tasks: Sequence[Task], done: Sequence[str]) -> float:
    """Return the seconds it takes to do the tasks; their files are gone from the start."""
    for task in tasks:
        store.delete(task.file)
    start = time.perf_counter()
    failures = Scheduler(tasks, done, pool).run()
    seconds = time.perf_counter() - start
    if failures:
        raise RuntimeError(failures[0].traceback)
    return seconds


def added(arrays: Sequence[NDArray[np.int64]], count: int) -> float:
    """Return the seconds of `count` plain additions."""
    total_RB = np.ones((ROWS, BINS), np.int64)  # not zeros, whose memory is not there yet
    start = time.perf_counter()
    for i in range(count):
        np.add(total_RB, arrays[i % len(arrays)], out=total_RB)
    return time.perf_counter() - start


@contextmanager
def local_ray(store: Store) -> Iterator[RayPool]:
    """Have a pool on a Ray of two CPUs on this machine's loopback."""
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        yield RayPool(store, most=0, spare=2, demand=Demand(cpus=1, gpus=0))
    finally:
        ray.shutdown()


@contextmanager
def three_nodes(store: Store) -> Iterator[RayPool]:
    """Have a pool on a Ray of three nodes of one CPU, all on this machine's loopback."""
    cluster = Cluster()
    try:
        for _ in range(3):
            cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=2**27)
        ray.init(address=cluster.address, configure_logging=False, log_to_driver=False)
        yield RayPool(store, most=0, spare=3, demand=Demand(cpus=1, gpus=0))
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def high_water(pid: int) -> int:
    """Return the most bytes of memory a process has had so far; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0][1]) * 1024 if found else 0


def ray_peak() -> int:
    """Return the largest high-water mark of the Ray processes that run tasks."""
    found = descendants(os.getpid())
    return max((high_water(p) for p in found if title(p).startswith("ray::")), default=0)


ONE = """
import json, sys
from pathlib import Path
from orchestrator import stages
from orchestrator.store import Store
from orchestrator.tasks import Task

def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")][0]

before = high_water()
stages.do(Task(model=None, **json.loads(sys.argv[2])), Store.open(sys.argv[1]))
print(json.dumps([before, high_water()]))
"""
"""A program that does one task and prints its high-water marks before and after."""


def peak(store: Store, parts: Sequence[str]) -> tuple[int, int]:
    """Return the high-water marks of a process of its own before and after one merge."""
    (task,) = merges(parts, len(parts))
    store.delete(task.file)
    fields = ("name", "stage", "kind", "label", "file", "arguments")
    said = json.dumps({name: getattr(task, name) for name in fields})
    command = [sys.executable, "-c", ONE, str(store.root), said]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    store.delete(task.file)
    before, after = json.loads(done.stdout)
    return before, after


def check(store: Store, root: str, arrays: Sequence[NDArray[np.int64]], count: int) -> None:
    """Raise AssertionError if a merged file does not hold the sum of all partials."""
    used = Counter(i % len(arrays) for i in range(count))
    found = partials.to_histogram(store.table(root))
    assert np.array_equal(found.counts, sum(used[i] * a for i, a in enumerate(arrays)))
    assert found.shards == tuple(range(count))


def settle(pool: RayPool, store: Store, files: Sequence[str]) -> None:
    """Have the pool believe that the parts of one merge were written on one node, in turns."""
    nodes = sorted(pool._cpus)
    for i, file in enumerate(files):
        node = nodes[i // FAN_IN % len(nodes)]
        pool._wrote[file] = Answer(summary={}, node=node, size=store.size(file))


def at_home(pool: RayPool, tasks: Sequence[Task]) -> int:
    """Return how many merges ran on the node that wrote most of what they read."""
    nodes = [pool._wrote[task.file].node for task in tasks]
    best = [ray_pool.homes(task.after, pool._wrote)[0] for task in tasks]
    return sum(one == other for one, other in zip(nodes, best, strict=True))


def main(count: int) -> None:
    """Print what each way takes, then the same as one line of JSON."""
    ray_cluster.listen_on_loopback()
    os.environ |= {"RAY_worker_niceness": "0"}  # by default 15: its workers give way to all else
    with tempfile.TemporaryDirectory(prefix="reduce-") as folder:
        store = Store.open(folder)
        made = list(histograms())
        arrays = [h.counts for h in made]
        files = leaves(store, made, count)
        os.sync()  # so that nothing is still being written when the clock starts
        del made
        logical = count * ROWS * BINS * 8
        on_disk = store.path(files[0]).stat().st_size
        load = os.getloadavg()[0]
        print(
            f"{count} partials of {on_disk / 1e6:.1f} MB, {logical / count / 1e6:.1f} MB as int64"
        )
        tree, flat = merges(files, FAN_IN), merges(files, count)
        plain: list[float] = []
        seconds: dict[str, list[float]] = {}
        firsts: dict[str, float] = {}

        def measure(name: str, pool: Pool, tasks: Sequence[Task], first: bool) -> None:
            if first:
                firsts[name] = timed(pool, store, tasks, files)
            seconds[name] = []
            for _ in range(REPEATS):
                plain.append(added(arrays, count))
                seconds[name].append(timed(pool, store, tasks, files))
            check(store, tasks[-1].file, arrays, count)
            rate = logical / statistics.median(seconds[name]) / 1e9
            said = ", ".join(f"{s:.2f}" for s in seconds[name])
            print(f"{name:12s} {rate:6.2f} GB/s   seconds {said}", flush=True)

        measure("tree, here", LocalPool(store), tree, False)
        measure("flat, here", LocalPool(store), flat, False)
        peaks: dict[str, int] = {}
        with local_ray(store) as pool:
            measure("tree", pool, tree, True)
            peaks["tree"] = ray_peak()
            measure("flat", pool, flat, False)
        with three_nodes(store) as pool:
            settle(pool, store, files)
            measure("tree, 3", pool, tree, True)
            peaks["tree, 3"] = ray_peak()
            near = at_home(pool, tree)
        before = 0
        for parts in (8, 16, 64):
            if parts <= count:
                before, peaks[str(parts)] = peak(store, files[:parts])
        numpy = logical / statistics.median(plain)
        print(f"numpy        {numpy / 1e9:6.2f} GB/s")
        print(
            "memory, MB:", {"imports": before // 10**6} | {k: v // 10**6 for k, v in peaks.items()}
        )
        print(f"of {len(tree)} merges on three nodes {near} ran where their parts were written")
        medians = {name: logical / statistics.median(s) for name, s in seconds.items()}
        print(
            json.dumps(
                {
                    "partials": count,
                    "partial_bytes": on_disk,
                    "numpy_add_bytes_per_second": round(numpy),
                    "bytes_per_second": {k: round(v) for k, v in medians.items()},
                    "over_numpy_add": {k: round(v / numpy, 3) for k, v in medians.items()},
                    "first_seconds": {k: round(v, 2) for k, v in firsts.items()},
                    "peak_bytes": peaks,
                    "imports_bytes": before,
                    "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
                    "merges_at_home": [near, len(tree)],
                }
            )
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 64)
