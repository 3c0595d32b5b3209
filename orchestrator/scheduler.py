"""The scheduler: who does what next.

It owns all policy. A task may run when the tasks it comes after are done, so
one model's cells are evaluated while another's activations are still counted.
Tasks on a model wait in that model's queue; every worker holds one model and
has two tasks in flight, so that it never waits for the driver. A worker whose
model has nothing left to do takes the model with the most work left per worker.

What goes wrong is expected, and each mishap has one answer:

    a task raises          tried again, on another worker if there is one; then set aside
    what it reads is gone  made again first
    a call of many cells   taken apart first, so that one bad cell takes none along
    a worker is lost       its tasks go back to the queue, and it is started again
    memory ran out         the same with one replica fewer, or a smaller call; then set aside
    a task hangs           done by another worker as well; then its worker is stopped
    no worker gets ready   the end: `PoolError` says what was asked and what there is

What depends on a task that was set aside (a `Failure`) is not tried; all else is done.
Nothing is kept of a task that is done: it is the run folder that remembers.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from orchestrator.deadlines import Deadlines
from orchestrator.placement import Placement
from orchestrator.pool import Done, Event, Lost, Pool, PoolError, Queued, Raised, Ready, never_ready
from orchestrator.roster import Roster, Worker
from orchestrator.setbacks import Listener, Setbacks
from orchestrator.store import StoreError
from orchestrator.tasks import Failure, Task
from orchestrator.trials import ATTEMPTS, LOSSES, Trials
from orchestrator.underway import InFlight, Unplaced
from orchestrator.waiting import Queues, Waiting

LOOK_SECONDS = 1.0  # between two looks at deadlines


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
        without: Callable[[Sequence[str]], Sequence[Task]] = lambda cells: [],
        fill: Callable[[Task], Task] = lambda task: task,
        mend: Callable[[Task], Sequence[Task]] = lambda task: [],
        command: Callable[[Task], str] = lambda task: "",
        listen: Listener = lambda event, task, details: None,
        tell: Callable[..., None] = lambda event, **details: None,
        tick: Callable[[], None] = lambda: None,
        ready_seconds: float = 300.0,
        patience_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to run `tasks`; the files they read must be theirs or in `done`.

        `split` takes a task apart into smaller ones, if it can; `more` says what is to be done
        besides when a task is done, `without` when cells are given up; `fill` completes a task that
        is sent; `mend` returns what makes the files that a task reads and that are gone; `command`
        says how to do a task by hand; `tell` hears of workers; `tick` is called in every turn.
        """
        self.pool, self.more, self.fill, self.listen = pool, more, fill, listen
        self.tell, self.tick, self.ready_seconds, self.clock = tell, tick, ready_seconds, clock
        self._waiting, self._queues, self._free = Waiting(done), Queues(), Unplaced(clock)
        self._trials, self._flying = Trials(), InFlight()
        self._setbacks = Setbacks(
            self._waiting,
            self._trials,
            split=split,
            mend=mend,
            command=command,
            without=without,
            release=self._queues.put,
            admit=self._admit,
            listen=listen,
        )
        self._deadlines, self._roster = Deadlines(patience_seconds), Roster(clock)
        self._placement = Placement(self._roster, self._deadlines, self._trials)
        self._looked, self._ready_at, self._last = clock(), clock(), ""
        for task in tasks:
            self._admit(task)

    @property
    def failures(self) -> list[Failure]:
        """What was set aside."""
        return self._setbacks.failures

    def run(self) -> list[Failure]:
        """Run until nothing is left that can be done; return what failed.

        Raises PoolError if no worker gets ready, StoreError if nothing can be written, `tick`'s.
        """
        while self._busy():
            self.tick()
            for worker in self._roster.resize(self.pool.workers):
                self.pool.stop(worker.number)
                self.tell("retired", worker=worker.number, reason="there is no room for it")
            self._fill()
            for event in self.pool.wait(LOOK_SECONDS):
                self._handle(event)
            self._look()
        return self.failures

    def _admit(self, task: Task) -> None:
        if task.model is not None:
            self._placement.know(task.model)
        if self._waiting.admit(task):
            self._queues.put(task)

    def _busy(self) -> bool:
        busy = bool(self._flying or self._queues)
        if not busy and self._waiting:
            names = ", ".join(sorted(t.label for t in self._waiting.tasks)[:3])
            raise RuntimeError(f"tasks wait for something that is not in the plan: {names}")
        return busy

    def _fill(self) -> None:
        while self._queues.free and len(self._free) < self.pool.spare:
            self._start(self._queues.free.popleft(), None)
        self._place()
        avoids = self._placement.avoids
        for model in self._roster.open:
            queue, without = self._queues.of(model), set[int]()
            while queue:
                worker = self._roster.roomy(model, len(queue), without)
                if worker is None:
                    break
                task = self._roster.take(worker, queue, self._waiting.next_reader, avoids)
                if task is None:
                    without.add(worker.number)
                else:
                    self._queues.taken(task)
                    self._start(task, worker)

    def _start(self, task: Task, worker: Worker | None, event: str = "started") -> None:
        self._flying.more(task)
        self.listen(event, task, {} if worker is None else {"worker": worker.number})
        if worker is None:
            self._free.began(task)
            self.pool.submit(self.fill(task))
        else:
            self._roster.began(worker, task)
            self.pool.send(worker.number, self.fill(task))

    def _place(self) -> None:
        """Have idle workers hold the models that have the most work left per worker.

        Work that waits for other tasks counts too: so models are loaded while their
        data is prepared, and a worker stays while its model's counts are merged.
        """
        self._placement.hope, work = bool(self._flying or self._queues.free), None
        for worker in self._roster.idle:
            if work is None:  # at first, and when somebody else has taken some on
                work = self._placement.work(self._queues, self._waiting)
            if not work:
                return
            if self._placement.stays(worker, self._queues, self._waiting):
                continue
            model = self._placement.choose(worker, work)
            if model is not None:
                self._roster.assign(worker, model)
                work = None
                self.tell("loading", worker=worker.number, model=model)
                self.pool.load(worker.number, self._placement.refs[model])

    def _handle(self, event: Event) -> None:
        match event:
            case Ready(worker=number):
                worker = self._roster.workers[number]
                seconds = self._roster.loaded(worker)
                self._placement.loaded(worker.model, seconds)
                self.tell("ready", worker=number, model=worker.model, seconds=seconds)
            case Queued(worker=number):
                self._ready_at = self._roster.workers[number].since = self.clock()
            case Done(worker=number, task=task, summary=summary):
                seconds = self._leave(number, task, done=True)
                if number is not None:
                    self._roster.workers[number].losses = 0
                self._deadlines.took(task, seconds)
                copies = self._flying.none(task)
                if copies < 2:  # a copy that goes on has the time it was given
                    self._deadlines.forget(task)
                if copies:
                    self._finish(task, summary)
                else:  # hedged, and done by another before
                    self.tell("late", file=task.file, worker=number)
            case Raised(worker=number, task=task):
                self._leave(number, task, done=event.differs)
                self._raised(event)
            case Lost(worker=number):
                self._lose(self._roster.workers[number], event.reason, event.memory)

    def _leave(self, number: int | None, task: Task, *, done: bool) -> float:
        self._ready_at = self.clock()
        if number is not None:
            return self._roster.ended(self._roster.workers[number], task)
        return self._free.ended(task, last=done or self._flying.of(task) <= 1)

    def _finish(self, task: Task, summary: dict[str, object]) -> None:
        self._setbacks.forget(task)
        for released in self._waiting.done(task):
            self._queues.put(released)
        self.listen("done", task, summary)
        for another in self.more(task):
            self.listen("added", another, {})
            self._admit(another)

    def _raised(self, event: Raised) -> None:
        if event.differs:
            self._flying.none(event.task)
            self._setbacks.raised(event)
        elif self._flying.less(event.task) == 0:  # else a copy of it is under way, or was done
            if event.lost:
                self._setbacks.lost(event.task, event.error, event.memory, running=True)
            elif not event.storage:
                self._setbacks.raised(event)
            elif not self._setbacks.mended(event.task, event.error):
                raise StoreError(f"{event.task.label}: {event.error}")

    def _lose(self, worker: Worker, reason: str, memory: bool, *, silent: bool = False) -> None:
        model, loading = worker.model, worker.loading
        # A process that never said anything may not have started, for want of room.
        blamed = loading and not self._roster.crowded and (worker.proven or not silent)
        tasks = self._roster.lost(worker)
        self._last = f" The last was lost: {reason}"
        self.tell("lost", worker=worker.number, model=model, reason=reason)
        fewer = memory and self._roster.one_fewer_helps(model, loading)
        tries = LOSSES if memory else ATTEMPTS
        if blamed and not fewer and self._placement.unloadable(model, tries):
            worker.losses = 0  # the model is at fault
            self._give_up(model, reason)
        for place, task in enumerate(tasks):
            copies = self._flying.less(task)
            if copies > 0 and place == 0:
                self._trials.lost(task, memory)
            elif copies == 0:
                whole = self._setbacks.lost(task, reason, memory, running=place == 0)
                fewer = fewer and (place > 0 or whole)
        if fewer or (worker.losses > LOSSES and not (loading and memory)):
            self.tell("retired", worker=worker.number, reason=reason)
            self._roster.retire(worker, for_good=True)
            if not self._roster.active:
                raise PoolError(f"no worker is left, the last lost {LOSSES + 1} times: {reason}")

    def _give_up(self, model: str, reason: str) -> None:
        """Set aside all that is left of a model that cannot be loaded; the others go on."""
        if left := self._queues.take_all(model) + self._waiting.take_all(model):
            self._setbacks.fail(left[0], f"{model} cannot be loaded: {reason}", others=left[1:])

    def _look(self) -> None:
        """Look for what takes too long: workers that do not get ready, tasks that hang."""
        now = self.clock()
        if self._roster.ready or self._free:
            self._ready_at = now
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        if now - self._ready_at > self.ready_seconds:
            raise never_ready(self.ready_seconds, self.pool.says() + self._last)
        for worker in list(self._roster.busy):
            if not worker.loading:
                self._hurry(worker, now)
            elif self._roster.ready and self._roster.waited(worker) > self.ready_seconds:
                self._stop(worker, f"not ready with {worker.model} in {self.ready_seconds:g} s")
        for task, taken in self._free.taking():
            if taken > self._deadlines.of(task):
                self._deadlines.passed(task)
                if self._trials.lost(task, memory=False):
                    self._start(task, None, "hedged")
                else:
                    self._free.ended(task, last=True)
                    self._flying.none(task)
                    self._setbacks.fail(task, f"it had not ended in {taken:.0f} s")

    def _hurry(self, worker: Worker, now: float) -> None:
        """Have a task that hangs done by another worker as well; then stop the one it hangs on."""
        task, taken = worker.tasks[0], now - worker.since
        if taken > self._deadlines.of(task):
            if worker.warned:
                self._stop(worker, f"{task.label} had not ended in {taken:.0f} s")
                return
            self._roster.warn(worker)
            self._deadlines.passed(task)
        if worker.warned:
            for task in worker.tasks:  # what stands behind it hangs as well
                other = self._roster.other(worker)
                copies = self._flying.of(task)
                if other and copies == 1 and self._trials.hedged(task, copies):
                    self._start(task, other, "hedged")

    def _stop(self, worker: Worker, reason: str) -> None:
        self.pool.stop(worker.number)
        self._lose(worker, reason, memory=False, silent=True)
