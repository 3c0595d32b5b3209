"""The Ray pool: workers as actors, tasks without a model as Ray tasks.

One actor per GPU, or per CPU where there are none, each a `Host` of its own; a sharded
model has several, which are one worker here (`orchestrator.ray_group`). An
actor is pinned by what it asks of Ray: with one GPU it sees that GPU and no
other. Ray is told to restart and retry nothing: the scheduler owns that policy,
and a second owner would do work twice.

There are as many workers as fit on the machines that are alive now, so machines that
join are used and those that leave are not waited for. Whatever Ray says of a process
that died, a machine that left or an answer that went with it becomes an event;
the scheduler looks for the committed file. Nothing here waits for a process that
may never answer: one that hangs is killed from outside.

Data travels as files of the run folder, and between processes only what a task
says when it is done. So nothing fills Ray's object store, and nothing spills. A
task without a model goes to the node that wrote most of what it reads, because
there the files are still in memory; it goes to the least busy one if that node is
gone or has as many tasks as CPUs, and never where the same task is under way already.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator import inspection, pulls, ray_actor
from orchestrator.budget import Demand
from orchestrator.pool import Done, Event, Lost, Queued, Raised, Ready
from orchestrator.ray_actor import Answer, Trouble
from orchestrator.ray_cluster import (
    Node,
    asks_and_has,
    killed_for_memory,
    leaving_out,
    nodes,
    signals_wait,
)
from orchestrator.ray_group import Call, Group
from orchestrator.ray_growth import Growth
from orchestrator.store import Store
from orchestrator.tasks import Task
from workers.messages import ModelRef

LOOK_SECONDS = 1.0
"""How long a look at the cluster's nodes is believed."""

SLICE_SECONDS = 0.2
"""How long Ray is waited for at once; signals are heeded in between."""


class RayPool:
    """A pool on the connected cluster."""

    def __init__(
        self,
        store: Store,
        *,
        most: int | None,
        spare: int,
        demand: Demand,
        memory: int = 0,
        grow: int = 0,
        downloads: int = pulls.MOST,
    ) -> None:
        """Have as many actors as fit, `most` at most, each asking for `demand`.

        And for `memory` bytes of its machine's memory. That is Ray's bookkeeping, no limit.
        Where fewer than `grow` fit, machines are asked for of the cluster's autoscaler. So many
        machines at most download weights at once.
        """
        self.spare = spare
        self._store, self._most, self._demand, self._memory = store, most, demand, memory
        self._groups: dict[int, Group] = {}
        self._calls: dict[ray.ObjectRef[Any], Call] = {}
        """What a worker's processes were asked; as long as one of them has not answered."""
        self._pending: dict[ray.ObjectRef[Any], tuple[int | None, Task | None]] = {}
        self._wrote: dict[str, Answer] = {}
        self._places: dict[ray.ObjectRef[Any], str] = {}
        """Nodes that tasks without a model were sent to, while they are under way."""
        self._pulls = pulls.Pulls(downloads)
        self._lacks: dict[ray.ObjectRef[Any], ModelRef] = {}
        """What workers are to load that say first whether their machine has the weights."""
        self._grow, self._growth = grow, Growth(demand, memory)
        self._nodes: list[Node] = []
        self._looked = -LOOK_SECONDS
        # No CPU of their own: on a small machine the actors hold them all.
        self._task = ray.remote(num_cpus=0, max_retries=0)(ray_actor.do)

    @property
    def workers(self) -> int:
        """Actors that fit on the nodes that are alive, and not more than were asked for."""
        fitting = sum(node.holds(self._demand, self._memory) for node in self._alive())
        return fitting if self._most is None else min(self._most, fitting)

    def says(self) -> str:
        """Return what one worker asks for and what each node has."""
        asked = f" {self._grow} workers are asked of the autoscaler." if self._grow else ""
        return asks_and_has(self._demand, self._memory) + asked

    def load(self, worker: int, ref: ModelRef) -> None:
        """Have a worker load a model, starting its actors if there are none, or too few."""
        if worker in self._groups and self._groups[worker].size != ref.shards:
            self.stop(worker)
        if worker not in self._groups:
            unfit = [node for node in self._alive() if node.refuses(self._demand)]
            self._groups[worker] = Group(
                *(self._store, f"worker-{worker}", self._demand, self._memory, ref.shards),
                leaving_out(unfit),
            )
        if not inspection.downloads(ref):
            self._await(self._groups[worker].load(ref), worker, None)
            return
        lacks = self._groups[worker].lacks(ref)
        self._lacks[lacks], self._pending[lacks] = ref, (worker, None)

    def send(self, worker: int, task: Task) -> None:
        """Send a task to a worker's actors."""
        self._await(self._groups[worker].do(task), worker, task)

    def _await(self, call: Call, worker: int, task: Task | None) -> None:
        self._calls |= dict.fromkeys(call.refs, call)
        self._pending |= dict.fromkeys(call.refs, (worker, task))

    def submit(self, task: Task) -> None:
        """Start a task without a model, near what it reads."""
        place = self._place(task)
        near = None if place is None else NodeAffinitySchedulingStrategy(place, soft=True)
        ref = self._task.options(scheduling_strategy=near).remote(task, self._store)
        self._pending[ref] = (None, task)
        if place is not None:
            self._places[ref] = place

    def _place(self, task: Task) -> str | None:
        """Return the node for a task without a model, None if no other than Ray can say."""
        busy = Counter(self._places.values())
        at_it = {
            self._places[ref]
            for ref, (_, other) in self._pending.items()
            if ref in self._places and other is not None and other.file == task.file
        }
        open_to = {n.id: n.cpus for n in self._alive() if n.id not in at_it}
        near = [n for n in homes(task.after, self._wrote) if busy[n] < open_to.get(n, 0)]
        return next(iter(near), min(open_to, key=lambda n: busy[n] / open_to[n], default=None))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has ended since the last call."""
        for worker, model in self._pulls.begins():
            self._await(self._groups[worker].load(model), worker, None)
        if queued := self._pulls.patient():
            return [Queued(worker=worker) for worker in queued]
        if not self._pending:
            time.sleep(seconds)  # nothing can happen but that a machine joins
            return []
        until = time.monotonic() + seconds
        while True:
            with signals_wait():
                events = self._ended(min(SLICE_SECONDS, max(0.0, until - time.monotonic())))
            if events or time.monotonic() >= until:
                return events

    def _ended(self, seconds: float) -> list[Event]:
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        if not ready:
            return self._broken()
        # Whatever else is ready comes along: a loop per event would look at all refs each time.
        more, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        found = [self._event(ref) for ref in dict.fromkeys([*ready, *more])]
        return [*(event for event in found if event is not None), *self._broken()]

    def _event(self, ref: ray.ObjectRef[Any]) -> Event | None:
        if ref not in self._pending:  # its worker was lost a moment ago
            return None
        worker, task = self._pending.pop(ref)
        self._places.pop(ref, None)
        try:
            said: Answer | Trouble | str | None = ray.get(ref)
        except Exception as error:  # Ray's: what tasks raise comes as a value
            return self._gone(worker, task, error)
        if (model := self._lacks.pop(ref, None)) is not None:
            assert worker is not None
            if isinstance(said, str) and said:
                self._pulls.wants(worker, said, model)
            else:  # it is there, or loading will say what is wrong
                self._await(self._groups[worker].load(model), worker, None)
            return None
        answer = None if isinstance(said, str) else said
        if (call := self._calls.pop(ref, None)) is not None:
            if not call.hear(ref, answer):
                return None
            answer = call.answer
        if isinstance(answer, Answer):
            assert task is not None
            if not task.cells:  # nobody reads answers but people
                self._wrote[task.file] = answer
            return Done(worker=worker, task=task, summary=answer.summary)
        if answer is None:
            assert worker is not None
            self._pulls.over(worker)
            return Ready(worker=worker)
        if task is None:
            assert worker is not None
            self.stop(worker)
            return Lost(worker=worker, reason=answer.error)
        return Raised(
            worker=worker,
            task=task,
            error=answer.error,
            traceback=answer.traceback,
            storage=answer.storage,
            differs=answer.differs,
            log=answer.log,
        )

    def _gone(self, worker: int | None, task: Task | None, error: Exception) -> Event:
        """Tell of a process that is gone, or of an answer that cannot be had."""
        memory = isinstance(error, OutOfMemoryError)
        if worker is None:
            assert task is not None
            return Raised(
                worker=None,
                task=task,
                error=why(error),
                traceback=str(error),
                # A task that could not be started raises: what it needs cannot be imported, say.
                lost=not isinstance(error, RayTaskError),
                memory=memory,
            )
        if isinstance(error, RayActorError) and error.actor_id is not None:
            memory = killed_for_memory(error.actor_id)
        self.stop(worker)
        return Lost(worker=worker, reason=why(error), memory=memory)

    def _broken(self) -> list[Event]:
        """Tell of workers one of whose processes raised, while others wait for it for ever."""
        found = {}
        for ref, call in self._calls.items():
            if (trouble := call.broken) is not None:
                worker, _ = self._pending[ref]
                assert worker is not None
                found[worker] = Lost(worker=worker, reason=f"one of its processes: {trouble.error}")
        for worker in found:
            self.stop(worker)
        return list(found.values())

    def stop(self, worker: int) -> None:
        """Kill a worker's actors without waiting: one that is merely unavailable may be alive."""
        group = self._groups.pop(worker, None)
        if group is not None:
            group.kill()
        self._pulls.over(worker)
        self._pending = {r: (w, t) for r, (w, t) in self._pending.items() if w != worker}
        self._calls = {r: call for r, call in self._calls.items() if r in self._pending}
        self._lacks = {r: model for r, model in self._lacks.items() if r in self._pending}

    def sees(self, worker: int, rank: int = 0) -> dict[str, str | None]:
        """Return the process, devices and threads of a worker, as its environment says."""
        return dict(ray.get(self._groups[worker].sees(rank)))

    def close(self) -> None:
        """Kill every actor, without waiting for any, and ask for no machines any more."""
        for worker in list(self._groups):
            self.stop(worker)
        self._pending.clear()
        self._growth.close()

    def _alive(self) -> list[Node]:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._nodes, self._looked = nodes(), time.monotonic()
            fitting = sum(node.holds(self._demand, self._memory) for node in self._nodes)
            self._growth.ask(self._grow - fitting)
        return self._nodes


def homes(files: Iterable[str], wrote: Mapping[str, Answer]) -> list[str]:
    """Return the nodes that wrote any of these files, those that wrote most bytes first."""
    sizes: Counter[str] = Counter()
    for one in (wrote[file] for file in files if file in wrote):
        sizes[one.node] += one.size
    return sorted(sizes, key=lambda node: (-sizes[node], node))


def why(error: Exception) -> str:
    """Return in a sentence what Ray says of a process, machine or answer that is gone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if isinstance(error, OutOfMemoryError):
        told = next((x for x in lines if x.startswith("OOM kill reason: ")), lines[0])
        said = f"its machine ran out of memory: {told.removeprefix('OOM kill reason: ')}"
    elif isinstance(error, RayActorError):
        marks = ("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:")
        told = " ".join(x for x in lines[1:] if not x.startswith(marks)) or lines[0]
        said = told.partition(" Some common causes")[0]
    else:
        said = lines[0]
    return f"{said} ({type(error).__name__})"
