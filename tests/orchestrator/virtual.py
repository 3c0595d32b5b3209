"""A pool in virtual time: a thousand workers and hours of work in seconds, without sleeping.

Time stands still while the scheduler thinks and jumps to the next thing that happens while it
waits. Tasks take log-normal times; processes die, hang, load in silence, are slow; machines
join and leave; tasks raise, hang or take all memory; files vanish. All of it is drawn from a
seed. The scheduler is given `pool.now` as its clock.

Workers are processes on machines: a process that is to be started when all machines are full
is pending, maybe for ever, as on a cluster. `workers` says what there is room for, `lag`
seconds late.

At every call the pool checks what no scheduler may do: begin a task before what it comes
after, on a worker that holds another model, with more in flight than agreed, twice on one
worker, again after it was done, or twice at once before its patience has passed.
"""

import heapq
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from orchestrator.pool import Done, Event, Lost, Raised, Ready
from orchestrator.roster import IN_FLIGHT
from orchestrator.tasks import Task, with_needs
from tests.orchestrator import scripted
from workers.messages import ModelRef

SLOW = 50.0
"""Times as long as it should that a straggler takes."""
FOR_EVER = 100_000.0
"""Seconds without any event after which the scheduler waits in vain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mishaps:
    """What goes wrong; shares are of what is begun, and drawn each time."""

    life: float = math.inf
    """Mean seconds that a process lives; exponential."""
    slow: float = 0.0
    """Share of tasks that take `SLOW` times as long."""
    stuck: float = 0.0
    """Share of tasks on which a process hangs."""
    silent: float = 0.0
    """Share of loads that never end."""
    poison: frozenset[str] = frozenset()
    """Tasks that always raise, by file."""
    touchy: frozenset[str] = frozenset()
    """Tasks that raise the first time."""
    deadly: frozenset[str] = frozenset()
    """Tasks that always end their process."""
    greedy: frozenset[str] = frozenset()
    """Tasks whose process is always ended because memory ran out."""
    endless: frozenset[str] = frozenset()
    """Tasks that never end."""
    vanishing: frozenset[str] = frozenset()
    """Files that are gone when they are first read."""
    spoilt: frozenset[str] = frozenset()
    """Models that cannot be loaded."""
    room: tuple[tuple[float, int], ...] = ()
    """Changes of what there is room for: (when, processes from then on)."""
    lag: float = 0.0
    """Seconds until the pool knows of such a change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """That a worker was told to load a model, and what spoke for it."""

    at: float
    worker: int
    model: str
    holders: int
    """Workers that held it or were loading it."""
    known: bool
    """Whether a load of this model had ended before."""
    queued: int
    """Tasks of this model that were neither done nor in flight."""
    seconds: float
    """What these take together on average."""


class _Process:
    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.placed = self.running = self.gone = self.stuck = False
        self.model: ModelRef | None = None
        self.loading: ModelRef | None = None
        self.tasks: deque[Task] = deque()
        self.begun = 0.0
        """When the first of its tasks was."""


class VirtualPool:
    """See above. `mean` gives a task's mean time and `load_seconds` a model's loading time."""

    def __init__(
        self,
        plan: Iterable[Task],
        *,
        workers: int,
        mean: Callable[[Task], float],
        load_seconds: Callable[[str], float],
        spare: int = 2,
        sigma: float = 1.0,
        mishaps: Mishaps | None = None,
        patience: float = 300.0,
        grain: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Have room for `workers`; what happens within `grain` seconds is told together."""
        self.workers = self._room = workers
        self.spare, self.sigma, self.patience, self.grain = spare, sigma, patience, grain
        self.mean, self.load_seconds = mean, load_seconds
        self.mishaps, self.draw = mishaps or Mishaps(), Random(seed)
        self.plan = list(plan)
        self.files: set[str] = set()
        """Files that are there."""
        self.made: Counter[str] = Counter()
        self.tried: defaultdict[str, list[int | None]] = defaultdict(list)
        """Workers that a task was begun on, in order."""
        self.sent: Counter[int] = Counter()
        """Tasks that each worker was sent."""
        self.loads: list[Load] = []
        self.ready: set[int] = set()
        """Workers that have been ready once."""
        self.events = 0
        self.most_ready = 0
        self.all_ready: tuple[float, float, float] | None = None
        """Time, busy and possible seconds when all workers had been ready; so for `tail`."""
        self.tail: tuple[float, float, float] | None = None
        self._ready_to_be = workers
        self._time = self._busy = self._possible = self._quiet = 0.0
        self._running = self._placed = 0
        self._vanished: set[str] = set()
        self._unsent = {t.file for t in self.plan}
        self._queued: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        for task in self.plan:
            self._queue(task, 1)
        self._heap: list[tuple[float, int, Callable[[], list[Event]]]] = []
        self._serial = 0
        self._processes: dict[int, _Process] = {}
        self._pending: deque[_Process] = deque()
        self._holding: Counter[str] = Counter()
        self._loaded: set[str] = set()
        self._copies: defaultdict[str, list[tuple[float, int | None]]] = defaultdict(list)
        self._free: Counter[str] = Counter()
        for when, count in self.mishaps.room:
            self._at(when, lambda count=count: self._resize(count))
            self._at(when + self.mishaps.lag, lambda count=count: self._announce(count))

    def now(self) -> float:
        """Return the time in seconds, from 0."""
        return self._time

    @property
    def busy_share(self) -> float:
        """Time that processes were at tasks, of all from when all were ready until the tail."""
        assert self.all_ready is not None
        assert self.tail is not None
        return (self.tail[1] - self.all_ready[1]) / (self.tail[2] - self.all_ready[2])

    def mend(self, task: Task) -> list[Task]:
        """Return what makes the files that a task reads and that are gone."""
        needed = with_needs(self.plan, [f for f in task.after if f not in self.files], self.files)
        return [t for t in self.plan if t.file in needed]

    # What the scheduler calls.

    def load(self, worker: int, ref: ModelRef) -> None:
        process = self._processes.get(worker)
        label = ref.label
        self.loads.append(
            Load(
                at=self._time,
                worker=worker,
                model=label,
                holders=self._holding[label],
                known=label in self._loaded,
                queued=self._queued[label],
                seconds=self._seconds[label],
            )
        )
        if process is None:
            process = self._processes[worker] = _Process(worker)
            self._pending.append(process)
        assert not process.tasks, "a model is changed under a task"
        assert process.loading is None, "a worker is told to load while it loads"
        if process.model is not None:
            self._holding[process.model.label] -= 1
        process.model, process.loading = None, ref
        self._holding[label] += 1
        if process.placed:
            self._begin_load(process)
        else:
            self._seat()

    def send(self, worker: int, task: Task) -> None:
        process = self._processes[worker]
        assert task.model is not None
        assert process.model == task.model, f"{task.file} is sent to who does not hold its model"
        assert all(t.file != task.file for t in process.tasks), f"{task.file} is there twice"
        self._start(task, worker)
        process.tasks.append(task)
        assert len(process.tasks) <= IN_FLIGHT, "too much is in flight"
        self.sent[worker] += 1
        if len(process.tasks) == 1:
            self._begin(process)

    def submit(self, task: Task) -> None:
        assert task.model is None
        self._start(task, None)
        self.tried[task.file].append(None)
        if not self._hangs(task):
            self._free[task.file] += 1
            alone = [f for f in self._free if not self.made[f] and len(self._copies[f]) == 1]
            assert len(alone) <= self.spare, "too much runs at once"
            self._at(self._time + self._takes(task), lambda: self._end(None, task))

    def wait(self, seconds: float) -> Sequence[Event]:
        assert seconds > 0
        until = self._time + seconds
        events: list[Event] = []
        while self._heap and self._heap[0][0] <= until:
            at, _, act = heapq.heappop(self._heap)
            self._pass(at)
            if told := act():
                if not events:
                    until = min(until, at + self.grain)
                events += told
                if not self.grain:
                    break
        self.events += len(events)
        self._quiet = 0.0 if events else self._quiet + seconds
        assert self._quiet < FOR_EVER, "the scheduler waits for nothing"
        if not events:
            self._pass(until)
        return events

    def stop(self, worker: int) -> None:
        process = self._processes.get(worker)
        if process is not None:
            self._kill(process)

    def says(self) -> str:
        return f"One worker asks for 1 place; there are {self._room}."

    def close(self) -> None:
        self._heap.clear()

    # What happens.

    def _at(self, when: float, act: Callable[[], list[Event]]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, act))

    def _pass(self, until: float) -> None:
        passed = max(0.0, until - self._time)
        self._busy += passed * self._running
        self._possible += passed * self._room
        self._time += passed

    def _queue(self, task: Task, step: int) -> None:
        if task.model is not None:
            self._queued[task.model.label] += step
            self._seconds[task.model.label] += step * self.mean(task)  # type: ignore[assignment]

    def _start(self, task: Task, worker: int | None) -> None:
        assert all(self.made[f] for f in task.after), f"{task.file} is begun too early"
        assert task.file not in self.files, f"{task.file} is done again"
        copies = self._copies[task.file]
        if copies:
            early = self._time - self._since(*copies[0]) < self.patience
            assert self.made[task.file] or not early, (
                f"{task.file} is done twice at once, and not because it hangs"
            )
        else:
            self._queue(task, -1)
        copies.append((self._time, worker))
        self._unsent.discard(task.file)
        if self.tail is None and self.all_ready is not None and len(self._unsent) < self._room:
            self.tail = self._time, self._busy, self._possible

    def _since(self, sent: float, worker: int | None) -> float:
        """Return when what a copy of a task waits for, or the copy itself, was begun."""
        return sent if worker is None else self._processes[worker].begun

    def _hangs(self, task: Task) -> bool:
        return task.file in self.mishaps.endless or self._happens(self.mishaps.stuck)

    def _happens(self, share: float) -> bool:
        return share > 0 and self.draw.random() < share

    def _takes(self, task: Task) -> float:
        centre = math.log(self.mean(task)) - self.sigma**2 / 2  # so that the mean is the mean
        seconds = self.draw.lognormvariate(centre, self.sigma)
        return seconds * (SLOW if self._happens(self.mishaps.slow) else 1.0)

    def _begin(self, process: _Process) -> None:
        task = process.tasks[0]
        self.tried[task.file].append(process.worker)
        process.begun = self._time
        process.stuck = process.stuck or self._hangs(task)
        if not process.stuck:
            process.running = True
            self._running += 1
            self._at(self._time + self._takes(task), lambda: self._end(process, task))

    def _end(self, process: _Process | None, task: Task) -> list[Event]:
        if process is not None:
            if process.gone:
                return []
            if task.file in self.mishaps.deadly | self.mishaps.greedy:
                greedy = task.file in self.mishaps.greedy
                return self._lose(process, f"killed by {task.file}", memory=greedy)
            process.running = False
            self._running -= 1
            process.tasks.popleft()
        else:
            self._free -= Counter([task.file])
        self._left(task, None if process is None else process.worker)
        event = self._outcome(task, None if process is None else process.worker)
        if process is not None and process.tasks:
            self._begin(process)
        return [event]

    def _outcome(self, task: Task, worker: int | None) -> Event:
        for file in task.after:
            if file in self.mishaps.vanishing and file not in self._vanished:
                self._vanished.add(file)
                self.files.discard(file)
        error, attempt = "", len(self.tried[task.file])
        if gone := [f for f in task.after if self.made[f] and f not in self.files]:
            error = f"{gone[0]} is gone"
        elif task.file in self.mishaps.poison or (
            task.file in self.mishaps.touchy and attempt == 1
        ):
            error = "ValueError('bad')"
        if error:
            return Raised(
                worker=worker, task=task, error=error, traceback="where", storage=bool(gone)
            )
        if task.file not in self.files:
            self.files.add(task.file)
            self.made[task.file] += 1
        return Done(worker=worker, task=task, summary={})

    def _left(self, task: Task, worker: int | None) -> None:
        """A copy of a task is no longer under way."""
        copies = self._copies[task.file]
        copies.remove(next(c for c in copies if c[1] == worker))
        if not copies:
            del self._copies[task.file]
            self._queue(task, 1 if task.file not in self.files else 0)

    def _begin_load(self, process: _Process) -> None:
        if not self._happens(self.mishaps.silent):
            assert process.loading is not None
            seconds = self.load_seconds(process.loading.label)
            self._at(self._time + seconds, lambda ref=process.loading: self._hold(process, ref))

    def _hold(self, process: _Process, ref: ModelRef) -> list[Event]:
        if process.gone:
            return []
        if ref.label in self.mishaps.spoilt:
            return self._lose(process, f"{ref.label} is spoilt")
        process.model, process.loading = ref, None
        self._loaded.add(ref.label)
        self.ready.add(process.worker)
        if self.all_ready is None and len(self.ready) >= self._ready_to_be:
            self.all_ready = self._time, self._busy, self._possible
        return [Ready(worker=process.worker)]

    def _seat(self) -> None:
        while self._pending and self._placed < self._room:
            process = self._pending.popleft()
            if process.gone:
                continue
            process.placed = True
            self._placed += 1
            if self.mishaps.life < math.inf:
                life = self.draw.expovariate(1 / self.mishaps.life)
                self._at(self._time + life, lambda p=process: self._lose(p, "its machine died"))
            self._begin_load(process)

    def _lose(self, process: _Process, reason: str, *, memory: bool = False) -> list[Event]:
        if process.gone:
            return []
        self._kill(process)
        return [Lost(worker=process.worker, reason=reason, memory=memory)]

    def _kill(self, process: _Process) -> None:
        process.gone = True
        self._running -= process.running
        self._placed -= process.placed
        del self._processes[process.worker]
        held = process.loading or process.model
        if held is not None:
            self._holding[held.label] -= 1
        for task in process.tasks:
            self._left(task, process.worker)
        process.tasks.clear()
        self._seat()

    def _resize(self, count: int) -> list[Event]:
        self._room = count
        there = [p for p in self._processes.values() if p.placed]
        lost = self.draw.sample(there, max(0, len(there) - count))
        events = [e for p in lost for e in self._lose(p, "its machine left")]
        self._seat()
        return events

    def _announce(self, count: int) -> list[Event]:
        self.workers = count
        return []


def cells(count: int, models: int, seed: int = 0, file: str = "t{}") -> list[Task]:
    """Return cells on models, some of which have several times as many as others.

    `file` has a place for the number of a task.
    """
    draw = Random(seed)
    names = [f"m{i}" for i in range(models)]
    shares = [draw.lognormvariate(0, 0.5) for _ in names]
    like = {name: scripted.task("like", name) for name in names}
    owners = draw.choices(names, shares, k=count)
    return [replace(like[m], file=file.format(i), cells=(f"t{i}",)) for i, m in enumerate(owners)]
