"""The scheduler: who does what next.

It owns all policy. A task may run when the tasks it comes after are done, so
one model's cells are evaluated while another's activations are still counted.
Tasks on a model wait in that model's queue; every worker holds one model and
has two tasks in flight, so that it never waits for the driver. A worker whose
model has nothing left to do takes the model with the most work left per worker.

What goes wrong is expected. A task that raises is tried once more and then set
aside as a `Failure`; a call of many cells is taken apart first, so that one bad
cell does not take its neighbours along. When a worker is lost its tasks go back
to the queue and it is started again, a bounded number of times. What depends on
a failed task is not tried.

Nothing here is remembered: what is done is what the run folder holds.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from orchestrator.pool import Done, Event, Lost, Pool, PoolError, Raised, Ready
from orchestrator.roster import Roster, Worker
from orchestrator.store import StoreError
from orchestrator.tasks import Failure, Task
from workers.messages import ModelRef

IN_FLIGHT = 2
"""Tasks sent to a worker at once: the second is there when the first ends."""
ATTEMPTS = 2
"""Times a task may raise."""
LOSSES = 3
"""Times a task may be in flight on a worker that is lost, and a worker be lost in a row."""

Listener = Callable[[str, Task, dict[str, object]], None]
"""Called with (what happened, task, details): added, started, done, retried, failed, blocked."""


class Scheduler:
    """Runs a graph of tasks on a pool, once."""

    def __init__(
        self,
        tasks: Iterable[Task],
        done: Iterable[str],
        pool: Pool,
        *,
        split: Callable[[Task], Sequence[Task]] = lambda task: [task],
        more: Callable[[Task], Sequence[Task]] = lambda task: [],
        listen: Listener = lambda event, task, details: None,
        tell: Callable[..., None] = lambda event, **details: None,
        ready_seconds: float = 300.0,
    ) -> None:
        """Prepare to run `tasks`; the files they read must be theirs or in `done`.

        `split` takes a task that raised apart into smaller ones, if it can; `more` says what is
        to be done besides, now that a task is done; `tell` hears what happens to workers.
        """
        self.pool, self.split, self.more, self.listen = pool, split, more, listen
        self.tell, self.ready_seconds = tell, ready_seconds
        self.failures: list[Failure] = []
        self._done = set(done)
        self._refs: dict[str, ModelRef] = {}
        self._waiting: dict[int, Task] = {}
        self._needs: dict[int, set[str]] = {}
        self._followers: dict[str, list[int]] = defaultdict(list)
        self._queues: dict[str, deque[Task]] = defaultdict(deque)
        self._ahead: dict[str, dict[int, float]] = defaultdict(dict)
        self._free: deque[Task] = deque()
        self._running_free = 0
        self._raised, self._losses = Counter[str](), Counter[str]()
        self._unloadable = Counter[str]()
        self._roster = Roster(pool.workers)
        self._workers = self._roster.workers
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
        missing = {file for file in task.after if file not in self._done}
        if not missing:
            self._release(task)
            return
        key = id(task)
        self._waiting[key], self._needs[key] = task, missing
        if task.model is not None:
            self._ahead[task.model.label][key] = task.cost
            self._refs[task.model.label] = task.model
        for file in missing:
            self._followers[file].append(key)

    def _release(self, task: Task) -> None:
        if task.model is None:
            self._free.append(task)
        else:
            self._queues[task.model.label].append(task)
            self._refs[task.model.label] = task.model

    def _busy(self) -> bool:
        busy = self._under_way() or any(self._queues.values())
        if not busy and self._waiting:
            names = ", ".join(sorted(t.label for t in self._waiting.values())[:3])
            raise RuntimeError(f"tasks wait for something that is not in the plan: {names}")
        return busy

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
                    task = self._roster.take(worker, queue, self._followers)
                    worker.tasks.append(task)
                    self.listen("started", task, {"worker": worker.number})
                    self.pool.send(worker.number, task)

    def _fair(self, worker: Worker, queue: deque[Task]) -> bool:
        """Whether the last tasks of a queue are shared out rather than hoarded."""
        return not worker.tasks or len(queue) >= self._roster.holders(worker.model)

    def _place(self, worker: Worker) -> None:
        """Have an idle worker hold the model that has the most work left per worker.

        Work that waits for other tasks counts too: so models are loaded while their
        data is prepared, and a worker stays while its model's counts are merged.
        """
        own, hope = worker.model, self._under_way()
        if own and (self._queues[own] or (self._ahead[own] and hope)):
            return
        # With nothing under way, only what is queued can be done: waiting for the rest is for ever.
        work = {m: self._left(m) for m in self._refs if self._queues[m] or (hope and m != own)}
        more = {m: len(self._queues[m]) > IN_FLIGHT for m in work}
        model = self._roster.next_model(worker, work, more)
        if model is not None:
            worker.assign(model)
            self.tell("loading", worker=worker.number, model=model)
            self.pool.load(worker.number, self._refs[model])

    def _left(self, model: str) -> float:
        """Return the work that is left of a model, queued or waiting."""
        return sum(t.cost for t in self._queues[model]) + sum(self._ahead[model].values())

    def _under_way(self) -> bool:
        """Whether anything runs that may release what waits."""
        return bool(self._free or self._running_free or any(w.tasks for w in self._workers))

    def _handle(self, event: Event) -> None:
        match event:
            case Ready(worker=number):
                worker = self._workers[number]
                self.tell("ready", worker=number, model=worker.model, seconds=worker.waited())
                worker.loaded()
            case Done(worker=number, task=task, summary=summary):
                self._leave(number, task)
                if number is not None:
                    self._workers[number].losses = 0
                self._finish(task)
                self.listen("done", task, summary)
            case Raised(task=task, error=error, storage=True):
                raise StoreError(f"{task.label}: {error}")
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
        self._done.add(task.file)
        for key in self._followers.pop(task.file, ()):
            needs = self._needs.get(key)
            if needs is None:
                continue
            needs.discard(task.file)
            if not needs:
                del self._needs[key]
                self._release(self._take(key))
        for another in self.more(task):
            self.listen("added", another, {})
            self._admit(another)

    def _take(self, key: int) -> Task:
        """Take a task out of those that wait."""
        task = self._waiting.pop(key)
        if task.model is not None:
            del self._ahead[task.model.label][key]
        return task

    def _retry(self, task: Task, error: str, text: str) -> None:
        self._raised[task.file] += 1
        if self._apart(task, error):
            return
        if self._raised[task.file] < ATTEMPTS:
            self.listen("retried", task, {"error": error})
            self._release(task)
        else:
            self._fail(task, error, text, self._raised[task.file])

    def _apart(self, task: Task, error: str) -> bool:
        """Take a task that went wrong apart into smaller ones; return whether that can be done."""
        parts = self.split(task)
        if len(parts) > 1:
            self.listen("retried", task, {"error": error, "parts": len(parts)})
            for part in parts:
                self._release(part)
        return len(parts) > 1

    def _fail(
        self, task: Task, error: str, text: str, attempts: int, others: Sequence[Task] = ()
    ) -> None:
        """Set a task aside, and with it `others` and all that comes after any of them."""
        blocked = [*others, *(b for t in (task, *others) for b in self._block(t))]
        failure = Failure(
            task=task.name,
            file=task.file,
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
        for key in self._followers.pop(task.file, ()):
            if self._needs.pop(key, None) is not None:
                follower = self._take(key)
                blocked += [follower, *self._block(follower)]
        return blocked

    def _lose(self, worker: Worker, reason: str) -> None:
        tasks, model, loading = list(worker.tasks), worker.model, worker.loading
        worker.losses += 1
        worker.vacate()
        self.tell("lost", worker=worker.number, model=model, reason=reason)
        if loading:
            self._unloadable[model] += 1
            if self._unloadable[model] >= ATTEMPTS:
                worker.losses = 0  # the model is at fault
                self._give_up(model, reason)
        if worker.losses > LOSSES:
            times = f"{worker.losses} times in a row"
            raise PoolError(f"worker {worker.number} was lost {times}: {reason}")
        for place, task in enumerate(tasks):
            self._losses[task.file] += place == 0  # only the first was running
            if place or self._losses[task.file] < LOSSES:
                self.listen("retried", task, {"error": reason})
                self._release(task)
                continue
            worker.losses = 0  # the task is at fault
            if not self._apart(task, reason):
                self._fail(task, f"its worker was lost {LOSSES} times: {reason}", "", LOSSES)

    def _give_up(self, model: str, reason: str) -> None:
        """Set aside all that is left of a model that cannot be loaded; the others go on."""
        left = list(self._queues.pop(model, ()))
        for key, task in list(self._waiting.items()):
            if task.model is not None and task.model.label == model:
                del self._needs[key]
                left.append(self._take(key))
        if left:
            self._fail(left[0], f"{model} cannot be loaded: {reason}", "", ATTEMPTS, left[1:])

    def _watch(self) -> None:
        for worker in self._workers:
            if worker.waited() > self.ready_seconds:
                raise PoolError(
                    f"worker {worker.number} was not ready with {worker.model} after"
                    f" {self.ready_seconds:g} s; see what the cluster has and what the plan asks,"
                    " or raise `cluster.ready_seconds`"
                )
