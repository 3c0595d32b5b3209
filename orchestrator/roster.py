"""The roster: which worker holds which model, which it should hold next, and who has room.

Workers come and go with the machines they are on. A worker is retired when there is no room
for it any more, and used again when there is. One that is retired for good, because it was
lost too often or memory ran out, takes its room along: from then on there is one fewer.

All that is asked in every turn is kept up to date as things change, and nothing is counted
over all workers: there may be thousands.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice

from orchestrator.tasks import Task

IN_FLIGHT = 2
"""Tasks sent to a worker at once: the second is there when the first ends."""
REST = 60.0
"""Seconds that a worker rests at most before it loads again, when it was lost while it loaded."""
LOOK_AHEAD = 64
"""Tasks of a queue that are looked at for the one to be taken next."""


class Worker:
    """What the scheduler knows of one worker."""

    def __init__(self, number: int) -> None:
        """A worker without a model."""
        self.number = number
        self.model = ""
        self.loading = False
        self.proven = False
        """Whether its process has been ready, with whatever model."""
        self.retired = False
        self.losses = 0
        """Times it was lost since it last did a task, each at another one."""
        self.lost_at = ""
        """File of the task it was lost at last."""
        self.tasks: list[Task] = []
        """In flight, in the order they were sent."""
        self.joined_by: str | None = None
        """File of what will read the file of the task it was sent last."""
        self.since = 0.0
        """When it began what it is at: loading, or the first of its tasks."""
        self.rest = 0.0
        """When it may be told to load again: after it was lost while it loaded, not at once."""
        self.warned = False
        """Whether the first of its tasks has passed its deadline."""

    @property
    def ready(self) -> bool:
        """Whether it can be sent a task."""
        return bool(self.model) and not self.loading


class Roster:
    """The workers of a pool."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin without workers."""
        self.workers: list[Worker] = []
        self._clock = clock
        self._active = self._fewer = self._wanted = 0
        self._held, self._ready = Counter[str](), Counter[str]()
        self._room: dict[str, tuple[dict[int, Worker], ...]] = {}
        self._idle: dict[int, Worker] = {}
        self._open: dict[str, None] = {}
        self._joined = Counter[str]()

    def resize(self, count: int) -> list[Worker]:
        """Have as many workers as there is room for; return those that are not used any more.

        Only workers that have nothing to do can be done without.
        """
        # However many were retired for good, one is tried as long as there is room for one.
        count = self._wanted = max(count - self._fewer, min(count, 1))
        while self._active < count:
            worker = next((w for w in self.workers if w.retired), None)
            if worker is None:
                worker = Worker(len(self.workers))
                self.workers.append(worker)
            worker.retired = False
            self._active += 1
            self._idle[worker.number] = worker
        gone = []
        while self._active > count and self._idle:  # those that hold nothing go first
            gone.append(min(self._idle.values(), key=lambda w: (bool(w.model), -w.number)))
            self.retire(gone[-1])
        return gone

    def retire(self, worker: Worker, *, for_good: bool = False) -> None:
        """Use a worker that has no task no more."""
        self.vacate(worker)
        worker.retired = True
        worker.losses = 0
        self._active -= 1
        self._fewer += for_good
        del self._idle[worker.number]

    @property
    def active(self) -> int:
        """Workers that are used."""
        return self._active

    @property
    def crowded(self) -> bool:
        """Whether more workers are used than there is room for."""
        return self._active > self._wanted

    @property
    def open(self) -> list[str]:
        """Models of which some worker can be sent a task."""
        return list(self._open)

    @property
    def ready(self) -> int:
        """Workers that can be sent tasks."""
        return self._ready.total()

    def one_fewer_helps(self, model: str, loading: bool) -> bool:
        """Whether there may be memory for a model, loaded or not, with one worker fewer.

        If nobody else holds it, it may be too large; or the memory is taken by others for a while.
        """
        return self._active > 1 and (not loading or self._held[model] > 0)

    @property
    def loading(self) -> int:
        """Workers that load a model."""
        return self._held.total() - self._ready.total()

    @property
    def coming(self) -> bool:
        """Whether a worker loads a model, and nothing says that it will not get ready."""
        return any(w.loading and not w.losses for w in self.workers)

    @property
    def idle(self) -> list[Worker]:
        """Workers that neither load nor have a task, and need not rest."""
        now = self._clock()
        return [w for w in self._idle.values() if w.rest <= now]

    @property
    def busy(self) -> Iterable[Worker]:
        """Workers that load or have tasks."""
        return (w for w in self.workers if w.loading or w.tasks)

    def held(self, model: str) -> int:
        """Return how many workers hold a model or load it."""
        return self._held[model]

    def holders(self, model: str) -> int:
        """Return how many workers hold a model and are ready."""
        return self._ready[model]

    def roomy(self, model: str, queued: int, without: set[int]) -> Worker | None:
        """Return a worker that can be sent a task of a model, one that has none if there is.

        The last tasks, fewer than workers, are shared out rather than hoarded.
        """
        none, some = self._room.get(model, ({}, {}))
        found = next((w for n, w in none.items() if n not in without), None)
        if found is None and queued >= self._ready[model]:
            found = next((w for n, w in some.items() if n not in without), None)
        return found

    def other(self, worker: Worker) -> Worker | None:
        """Return another worker that can be sent a task of the same model."""
        return self.roomy(worker.model, self._ready[worker.model], {worker.number})

    def assign(self, worker: Worker, model: str) -> None:
        """It was told to load a model."""
        self._forget_model(worker)
        worker.model, worker.loading, worker.since = model, True, self._clock()
        self._held[model] += 1
        self._idle.pop(worker.number, None)

    def loaded(self, worker: Worker) -> float:
        """It has the model; return the seconds that took."""
        seconds = self.waited(worker)
        worker.loading, worker.proven = False, True
        self._ready[worker.model] += 1
        self._idle[worker.number] = worker
        self._seat(worker)
        return seconds

    def began(self, worker: Worker, task: Task) -> None:
        """It was sent a task."""
        if not worker.tasks:
            worker.since = self._clock()
            self._idle.pop(worker.number, None)
        worker.tasks.append(task)
        self._seat(worker)

    def ended(self, worker: Worker, task: Task) -> float:
        """It is rid of a task; return the seconds since it began what it was at."""
        seconds = self._clock() - worker.since
        worker.tasks = [t for t in worker.tasks if t.file != task.file]
        worker.since, worker.warned = self._clock(), False
        if not worker.tasks:
            self._idle[worker.number] = worker
        self._seat(worker)
        return seconds

    def vacate(self, worker: Worker) -> None:
        """It is gone, with its model and its tasks."""
        self._forget_model(worker)
        self._part(worker)
        worker.model, worker.loading, worker.tasks, worker.joined_by = "", False, [], None
        worker.warned = worker.proven = False
        self._idle[worker.number] = worker

    def warn(self, worker: Worker) -> None:
        """The first of its tasks has passed its deadline; it is sent no more until that ends."""
        worker.warned = True
        self._seat(worker)

    def lost(self, worker: Worker) -> list[Task]:
        """It is gone, and not because it was told to; return what it was at."""
        tasks = worker.tasks
        at = tasks[0].file if tasks else ""
        worker.losses += not at or at != worker.lost_at
        worker.lost_at = at
        if worker.loading:
            worker.rest = self._clock() + min(2.0**worker.losses, REST)
        self.vacate(worker)
        return tasks

    def waited(self, worker: Worker) -> float:
        """Return the seconds since it was told to load, 0 if it is not loading."""
        return self._clock() - worker.since if worker.loading else 0.0

    def _forget_model(self, worker: Worker) -> None:
        if worker.model:
            self._held[worker.model] -= 1
            self._ready[worker.model] -= worker.ready
            for seats in self._room.get(worker.model, ()):
                seats.pop(worker.number, None)
            self._reopen(worker.model)

    def _seat(self, worker: Worker) -> None:
        """Note how much room a ready worker has."""
        if worker.model not in self._room:
            self._room[worker.model] = tuple({} for _ in range(IN_FLIGHT))
        for taken, seats in enumerate(self._room[worker.model]):
            if taken == len(worker.tasks) and not worker.warned:
                seats[worker.number] = worker
            else:
                seats.pop(worker.number, None)
        self._reopen(worker.model)

    def _reopen(self, model: str) -> None:
        if any(self._room.get(model, ())):
            self._open[model] = None
        else:
            self._open.pop(model, None)

    def take(
        self,
        worker: Worker,
        queue: deque[Task],
        next_reader: Callable[[str], str | None],
        avoids: Callable[[Task, int], bool],
    ) -> Task | None:
        """Take a worker's next task out of the queue of its model; None if it is to take none.

        What is merged together is best written by one worker, so that it lies on one node: a worker
        goes on with what will be read together with its last file, or else begins what no other
        worker is at. `next_reader` gives what waits for a file, and `avoids` tells what some
        worker has tried in vain, and another should.
        """
        best: tuple[tuple[bool, bool], int, str | None] | None = None
        own = worker.joined_by
        for at, task in enumerate(islice(queue, LOOK_AHEAD)):
            if avoids(task, worker.number):
                continue
            joins = next_reader(task.file)
            others = self._joined[joins] - (joins == own) if joins is not None else 0
            rank = (joins is None or joins != own, others > 0)
            if best is None or rank < best[0]:
                best = rank, at, joins
            if not rank[0] or (own is None and not rank[1]):  # none can be better
                break
        if best is None:
            return None
        _, at, joins = best
        task = queue[at]
        del queue[at]
        self._part(worker)
        if joins is not None:
            self._joined[joins] += 1
        worker.joined_by = joins
        return task

    def _part(self, worker: Worker) -> None:
        if worker.joined_by is not None:
            self._joined[worker.joined_by] -= 1
            if not self._joined[worker.joined_by]:
                del self._joined[worker.joined_by]
