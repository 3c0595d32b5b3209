"""The Ray pool: workers as actors, tasks without a model as Ray tasks.

One actor per GPU, or per CPU where there are none, each a `Host` of its own. An
actor is pinned by what it asks of Ray: with one GPU it sees that GPU and no
other. Ray is told to restart and retry nothing: the scheduler owns that policy,
and a second owner would do work twice.

Data travels as files of the run folder, and between processes only what a task
says when it is done. So nothing fills Ray's object store, and nothing spills. A
task without a model goes to the node that wrote most of what it reads, because
there the files are still in memory; it goes elsewhere if that node is gone or
has as many tasks near their files as CPUs.

Without an address a cluster is started on this machine, on loopback alone and
without a dashboard; it ends with the process. Inside a Ray job, or with an
address, the cluster that is there is used.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.budget import Demand
from orchestrator.pool import Done, Event, Lost, PoolError, Raised, Ready
from orchestrator.store import Store, StoreError
from orchestrator.tasks import Task
from workers.messages import ModelRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Where a file was written."""

    node: str
    """Ray's name of the machine."""
    size: int
    """Bytes."""


Answer = tuple[dict[str, object], Written]
"""What a process says when a task is done: its summary, and where its file was written."""


class Actor:
    """A host as Ray sees it. Its imports are heavy and happen in its own process."""

    def __init__(self, store: Store, worker: str) -> None:
        """Start without a model."""
        from orchestrator.host import Host  # torch: not in the driver

        self._store, self._host = store, Host(store, worker)

    def load(self, ref: ModelRef) -> None:
        """Load a model in place of the one before."""
        self._host.load(ref)

    def do(self, task: Task) -> Answer:
        """Do a task on the loaded model."""
        return self._host.do(task), _written(task, self._store)

    def sees(self) -> dict[str, str | None]:
        """Return what this process may use, as its environment says."""
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        return {"pid": str(os.getpid()), **{n: os.environ.get(n) for n in names}}


def _do(task: Task, store: Store) -> Answer:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves every GPU visible to a task without one
    from orchestrator import stages

    return stages.do(task, store), _written(task, store)


def _written(task: Task, store: Store) -> Written:
    node = ray.get_runtime_context().get_node_id()
    return Written(node=node, size=store.path(task.file).stat().st_size)


def homes(files: Iterable[str], written: Mapping[str, Written]) -> list[str]:
    """Return the nodes that wrote any of these files, those that wrote most bytes first."""
    sizes: Counter[str] = Counter()
    for one in (written[file] for file in files if file in written):
        sizes[one.node] += one.size
    return sorted(sizes, key=lambda node: (-sizes[node], node))


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster: the one at `address`, the job's own, or one started here.

    Raises PoolError if there is none at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    if address is None:
        listen_on_loopback()
        ray.init(
            address="local", include_dashboard=False, configure_logging=False, log_to_driver=False
        )
    else:
        try:
            ray.init(address=address, configure_logging=False, log_to_driver=False)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            raise PoolError(f"no Ray cluster answers at {address}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place, with another exit code
    try:
        yield
    finally:
        ray.shutdown()


def listen_on_loopback() -> None:
    """Have the cluster that is started next listen on 127.0.0.1 and nowhere else.

    Ray listens on every interface, whatever address it is given; the switch that
    keeps laptops from forming clusters is the only thing that changes that. It is
    read when Ray is imported, so the constant is set too. One process, one choice.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def cluster() -> dict[str, float]:
    """Return what the connected cluster has in all: CPU, GPU, memory in bytes.

    `node_memory` is that of its largest node.
    """
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    total = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    return {**total, "node_memory": max((n.get("memory", 0.0) for n in nodes), default=0.0)}


class RayPool:
    """A pool on the connected cluster."""

    def __init__(self, store: Store, *, workers: int, spare: int, demand: Demand) -> None:
        """Have `workers` actors at most, each asking for `demand`."""
        self.workers = workers
        self.spare = spare
        self._store, self._demand = store, demand
        self._actors: dict[int, ActorHandle[Actor]] = {}
        self._pending: dict[ray.ObjectRef[Any], tuple[int | None, Task | None]] = {}
        self._written: dict[str, Written] = {}
        self._cpus = {
            n["NodeID"]: max(1, int(n["Resources"].get("CPU", 0)))
            for n in ray.nodes()  # type: ignore[no-untyped-call]
        }
        self._near: dict[ray.ObjectRef[Any], str] = {}
        """Tasks under way that were sent to a node because it wrote what they read."""
        self._class = ray.remote(Actor)
        # No CPU of their own: on a small machine the actors hold them all.
        self._task = ray.remote(num_cpus=0, max_retries=0)(_do)

    def load(self, worker: int, ref: ModelRef) -> None:
        """Have a worker load a model, starting its actor if there is none."""
        if worker not in self._actors:
            self._actors[worker] = self._class.options(  # type: ignore[assignment]
                num_cpus=self._demand.cpus,
                num_gpus=self._demand.gpus,
                max_restarts=0,
                max_task_retries=0,
            ).remote(self._store, f"worker-{worker}")
        self._pending[self._actors[worker].load.remote(ref)] = (worker, None)

    def send(self, worker: int, task: Task) -> None:
        """Send a task to a worker's actor."""
        self._pending[self._actors[worker].do.remote(task)] = (worker, task)

    def submit(self, task: Task) -> None:
        """Start a task without a model, near what it reads."""
        nodes = homes(task.after, self._written)
        busy = Counter(self._near.values())
        node = next((n for n in nodes if busy[n] < self._cpus.get(n, 1)), None)
        place: str | NodeAffinitySchedulingStrategy = "SPREAD" if nodes else "DEFAULT"
        if node is not None:
            place = NodeAffinitySchedulingStrategy(node, soft=True)
        ref = self._task.options(scheduling_strategy=place).remote(task, self._store)
        self._pending[ref] = (None, task)
        if node is not None:
            self._near[ref] = node

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has ended since the last call."""
        if not self._pending:
            return []
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        # Whatever else is ready comes along: a loop per event would look at all refs each time.
        more, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        return [e for ref in dict.fromkeys([*ready, *more]) if (e := self._event(ref)) is not None]

    def _event(self, ref: ray.ObjectRef[Any]) -> Event | None:
        if ref not in self._pending:  # its worker was lost a moment ago
            return None
        worker, task = self._pending.pop(ref)
        self._near.pop(ref, None)
        try:
            answer = ray.get(ref)
        except RayActorError as error:
            assert worker is not None
            return self._lost(worker, str(error).splitlines()[0])
        except RayTaskError as error:
            if task is None:
                assert worker is not None
                return self._lost(worker, repr(error.cause))
            return Raised(
                worker=worker,
                task=task,
                error=repr(error.cause),
                traceback=str(error),
                storage=isinstance(error.cause, StoreError),
            )
        except RayError as error:  # the process of a task without a model died
            if worker is not None:
                return self._lost(worker, str(error).splitlines()[0])
            assert task is not None
            return Raised(worker=None, task=task, error=repr(error), traceback=str(error))
        if task is None:
            assert worker is not None
            return Ready(worker=worker)
        summary, self._written[task.file] = answer
        return Done(worker=worker, task=task, summary=summary)

    def _lost(self, worker: int, reason: str) -> Lost:
        self.stop(worker)
        return Lost(worker=worker, reason=reason)

    def stop(self, worker: int) -> None:
        """Kill a worker's actor: one that is merely unavailable may still be alive."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            ray.kill(actor)
        self._pending = {r: (w, t) for r, (w, t) in self._pending.items() if w != worker}

    def sees(self, worker: int) -> dict[str, str | None]:
        """Return the process, devices and threads of a worker, as its environment says."""
        return dict(ray.get(self._actors[worker].sees.remote()))

    def close(self) -> None:
        """Kill every actor."""
        for worker in list(self._actors):
            self.stop(worker)
        self._pending.clear()
