"""The scheduler: who does what next.

It owns all policy. A task may run when the tasks it comes after are done, so
one model's cells are evaluated while another's activations are still counted.
Tasks on a model wait in that model's queue; every worker holds one model and
has two tasks in flight, so that it never waits for the driver. A worker whose
model has nothing left to do takes the model with the most work left per worker.

What goes wrong is expected. A task that raises is tried once more, elsewhere if
possible, and then set aside as a `Failure`; a call of many cells is taken apart
first, so that one bad cell does not take its neighbours along. When a worker is
lost its tasks go back to the queue and it is started again, a bounded number of
times. What depends on a failed task is not tried.

Nothing here is remembered: what is done is what the run folder holds.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from orchestrator.pool import Done, Event, Lost, Pool, PoolError, Raised, Ready
from orchestrator.tasks import Failure, Task

IN_FLIGHT = 2
"""Tasks sent to a worker at once: the second is there when the first ends."""
ATTEMPTS = 2
"""Times a task may raise."""
LOSSES = 3
"""Times a task may be in flight on a worker that is lost, and a worker be lost in a row."""

Listener = Callable[[str, Task, dict[str, object]], None]
"""Called with (what happened, task, details): started, done, retried, failed, blocked."""


class Scheduler:
    """Runs a graph of tasks on a pool, once."""

    def __init__(
        self,
        tasks: Iterable[Task],
        done: Iterable[str],
        pool: Pool,
        *,
        split: Callable[[Task], Sequence[Task]] = lambda task: [task],
        listen: Listener = lambda event, task, details: None,
        ready_seconds: float = 300.0,
    ) -> None:
        """Prepare to run `tasks`; those they come after must be among them or in `done`.

        `split` takes a task that raised apart into smaller ones, if it can.
        """
        self.pool, self.split, self.listen = pool, split, listen
        self.ready_seconds = ready_seconds
        self.failures: list[Failure] = []
        self._done = set(done)
        self._waiting: dict[int, Task] = {}
        self._needs: dict[int, set[str]] = {}
        self._followers: dict[str, list[int]] = defaultdict(list)
        self._queues: dict[str, deque[Task]] = defaultdict(deque)
        self._free: deque[Task] = deque()
        self._running_free = 0
        self._raised: dict[str, int] = defaultdict(int)
        self._losses: dict[str, int] = defaultdict(int)
        self._workers = [_Worker(i) for i in range(pool.workers)]
        for task in tasks:
            self._admit(task)

    def run(self) -> list[Failure]:
        """Run until nothing is left that can be done; return what failed.

        Raises PoolError if workers cannot be made ready.
        """
        while self._busy():
            self._fill()
            for event in self.pool.wait(1.0):
                self._handle(event)
            self._watch()
        return self.failures

    def _admit(self, task: Task) -> None:
        missing = {name for name in task.after if name not in self._done}
        if not missing:
            self._release(task)
            return
        key = id(task)
        self._waiting[key], self._needs[key] = task, missing
        for name in missing:
            self._followers[name].append(key)

    def _release(self, task: Task) -> None:
        if task.model is None:
            self._free.append(task)
        else:
            self._queues[task.model.name].append(task)

    def _busy(self) -> bool:
        queued = self._free or any(self._queues.values())
        in_flight = self._running_free or any(w.tasks for w in self._workers)
        if not queued and not in_flight and self._waiting:
            names = ", ".join(sorted(t.label for t in self._waiting.values())[:3])
            raise RuntimeError(f"tasks wait for something that is not in the plan: {names}")
        return bool(queued or in_flight)

    def _fill(self) -> None:
        while self._free and self._running_free < self.pool.spare:
            task = self._free.popleft()
            self._running_free += 1
            self.listen("started", task, {})
            self.pool.submit(task)
        for worker in self._workers:
            if not worker.tasks and not worker.loading:
                self._place(worker)
            if worker.ready:
                queue = self._queues[worker.model]
                while queue and len(worker.tasks) < IN_FLIGHT and self._fair(worker, queue):
                    task = queue.popleft()
                    worker.tasks.append(task)
                    self.listen("started", task, {"worker": worker.number})
                    self.pool.send(worker.number, task)

    def _fair(self, worker: "_Worker", queue: deque[Task]) -> bool:
        """Whether the last tasks of a queue are shared out rather than hoarded."""
        sharing = sum(w.model == worker.model and w.ready for w in self._workers)
        return not worker.tasks or len(queue) >= sharing

    def _place(self, worker: "_Worker") -> None:
        """Have an idle worker hold the model that has the most work left per worker."""
        if worker.model and self._queues[worker.model]:
            return
        holders: dict[str, int] = defaultdict(int)
        for other in self._workers:
            if other is not worker and other.model:
                holders[other.model] += 1
        work = {m: sum(t.cost for t in q) / (1 + holders[m]) for m, q in self._queues.items() if q}
        # A model that another worker holds is worth joining only for more than one more task.
        open_to = {
            m: w for m, w in work.items() if not holders[m] or len(self._queues[m]) > IN_FLIGHT
        }
        if not open_to:
            return
        model = max(open_to, key=lambda m: open_to[m])
        ref = self._queues[model][0].model
        assert ref is not None
        worker.assign(model)
        self.pool.load(worker.number, ref)

    def _handle(self, event: Event) -> None:
        match event:
            case Ready(worker=number):
                self._workers[number].ready_now()
            case Done(worker=number, task=task, summary=summary):
                self._leave(number, task)
                if number is not None:
                    self._workers[number].losses = 0
                self._finish(task)
                self.listen("done", task, summary)
            case Raised(worker=number, task=task, error=error, traceback=text):
                self._leave(number, task)
                self._retry(task, error, text)
            case Lost(worker=number, reason=reason):
                self._lose(self._workers[number], reason)

    def _leave(self, number: int | None, task: Task) -> None:
        if number is None:
            self._running_free -= 1
        else:
            self._workers[number].tasks.remove(task)

    def _finish(self, task: Task) -> None:
        self._done.add(task.name)
        for key in self._followers.pop(task.name, ()):
            needs = self._needs.get(key)
            if needs is None:
                continue
            needs.discard(task.name)
            if not needs:
                del self._needs[key]
                self._release(self._waiting.pop(key))

    def _retry(self, task: Task, error: str, text: str) -> None:
        self._raised[task.name] += 1
        parts = self.split(task)
        if len(parts) > 1:
            self.listen("retried", task, {"error": error, "parts": len(parts)})
            for part in parts:
                self._release(part)
        elif self._raised[task.name] < ATTEMPTS:
            self.listen("retried", task, {"error": error})
            self._release(task)
        else:
            self._fail(task, error, text, self._raised[task.name])

    def _fail(self, task: Task, error: str, text: str, attempts: int) -> None:
        blocked = self._block(task)
        failure = Failure(
            task=task.name,
            label=task.label,
            stage=task.stage,
            error=error,
            traceback=text,
            attempts=attempts,
            cells=tuple(c for t in (task, *blocked) for c in t.cells),
            blocked=len(blocked),
        )
        self.failures.append(failure)
        self.listen("failed", task, {"error": error, "blocked": len(blocked), "attempts": attempts})
        for follower in blocked:
            self.listen("blocked", follower, {"by": task.label})

    def _block(self, task: Task) -> list[Task]:
        """Take what comes after a task, near or far, out of the plan, and return it."""
        blocked = []
        for key in self._followers.pop(task.name, ()):
            follower = self._waiting.pop(key, None)
            self._needs.pop(key, None)
            if follower is not None:
                blocked += [follower, *self._block(follower)]
        return blocked

    def _lose(self, worker: "_Worker", reason: str) -> None:
        tasks, worker.losses = list(worker.tasks), worker.losses + 1
        worker.vacate()
        if worker.losses > LOSSES:
            raise PoolError(f"worker {worker.number} was lost {LOSSES} times in a row: {reason}")
        for task in tasks:
            self._losses[task.name] += 1
            if self._losses[task.name] < LOSSES:
                self.listen("retried", task, {"error": reason})
                self._release(task)
            else:
                self._retry_lost(task, reason)

    def _retry_lost(self, task: Task, reason: str) -> None:
        parts = self.split(task)
        if len(parts) > 1:
            for part in parts:
                self._release(part)
        else:
            self._fail(task, f"its worker was lost {LOSSES} times: {reason}", "", LOSSES)

    def _watch(self) -> None:
        for worker in self._workers:
            if worker.loading and time.monotonic() - worker.since > self.ready_seconds:
                raise PoolError(
                    f"worker {worker.number} was not ready with {worker.model} after"
                    f" {self.ready_seconds:g} s; see what the cluster has and what the plan asks,"
                    " or raise `cluster.ready_seconds`"
                )


class _Worker:
    """What the scheduler knows of one worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.model = ""
        self.loading = False
        self.since = 0.0
        self.losses = 0
        self.tasks: list[Task] = []

    @property
    def ready(self) -> bool:
        return bool(self.model) and not self.loading

    def assign(self, model: str) -> None:
        self.model, self.loading, self.since = model, True, time.monotonic()

    def ready_now(self) -> None:
        self.loading = False

    def vacate(self) -> None:
        self.model, self.loading, self.tasks = "", False, []
