"""A pool that does nothing but what a script says, in an order that a generator draws.

It checks what no scheduler may do: start a task before those it comes after, on a
worker that holds another model, twice at once, or again after it was done.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from orchestrator.pool import Done, Event, Lost, Raised, Ready
from orchestrator.roster import IN_FLIGHT
from orchestrator.tasks import Task
from tests.orchestrator import planned
from workers.messages import ModelRef

Outcome = Literal["done", "raise", "lose"]
Script = Callable[[Task, int], Outcome]
"""(task, which attempt at it, from 1) to what happens."""


PATIENCE = 100
"""Waits in a row, of a second each, in which nothing happens: workers may rest."""


class StuckError(AssertionError):
    """The scheduler waits and nothing is under way."""


def model(name: str) -> ModelRef:
    """Return a model; `a'` is `a` in rotated axes, another model under the same name."""
    plain = name.removesuffix("'")
    return ModelRef(
        name=plain,
        folder=plain,
        dtype="float32",
        device="cpu",
        threads=1,
        facts=planned.facts(),
        basis=None if plain == name else 1,
    )


def task(
    name: str,
    on: str | None = None,
    after: Sequence[str] = (),
    cells: Sequence[str] = (),
    cost: float = 1.0,
) -> Task:
    return Task(
        name=name,
        stage="evaluate" if cells else "prepare",
        kind="any",
        label=f"label of {name}",
        file=name,
        model=None if on is None else model(on),
        after=tuple(after),
        cells=tuple(cells),
        cost=cost,
    )


def split(whole: Task) -> Sequence[Task]:
    """Take a call of many cells apart, as `orchestrator.resume` does."""
    if len(whole.cells) < 2:
        return [whole]
    parts = [task(f"{whole.name}/{c}", None, whole.after, [c]) for c in whole.cells]
    return [replace(part, model=whole.model) for part in parts]


def all_done(_: Task, __: int) -> Outcome:
    return "done"


class ScriptedPool:
    """See above; `order` is the seed of the order in which things happen."""

    def __init__(
        self, *, workers: int = 1, spare: int = 1, script: Script = all_done, order: int = 0
    ) -> None:
        self.workers, self.spare, self.script = workers, spare, script
        self.draw = Random(order)
        self.done: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.loads: list[tuple[int, str]] = []
        self.most_in_flight = self.most_free = 0
        self.slow_to_load = False
        self.unloadable: set[str] = set()
        self.now = 0.0
        self.in_vain = 0
        self._loading: dict[int, ModelRef] = {}
        self._holding: dict[int, ModelRef] = {}
        self._sent: dict[int, list[Task]] = {i: [] for i in range(workers)}
        self._free: list[Task] = []

    def load(self, worker: int, ref: ModelRef) -> None:
        assert not self._sent[worker], "a model is changed under a task"
        assert worker not in self._loading
        self._holding.pop(worker, None)
        self._loading[worker] = ref
        self.loads.append((worker, ref.label))

    def send(self, worker: int, task: Task) -> None:
        assert task.model is not None
        assert self._holding.get(worker) == task.model
        self._start(task)
        self._sent[worker].append(task)
        self.most_in_flight = max(self.most_in_flight, len(self._sent[worker]))
        assert self.most_in_flight <= IN_FLIGHT

    def submit(self, task: Task) -> None:
        assert task.model is None
        self._start(task)
        self._free.append(task)
        self.most_free = max(self.most_free, len(self._free))
        assert self.most_free <= self.spare

    def _start(self, task: Task) -> None:
        under_way = [t.file for tasks in (*self._sent.values(), self._free) for t in tasks]
        assert task.file not in under_way, f"{task.file} is started twice"
        assert task.file not in self.done, f"{task.file} is done again"
        assert set(task.after) <= set(self.done), f"{task.file} is started too early"

    def wait(self, seconds: float) -> Sequence[Event]:
        assert seconds > 0
        self.now += seconds
        if self.slow_to_load and self._loading:
            return []
        events: list[Event] = []
        for _ in range(self.draw.randint(1, 3)):
            if possible := self._possible():
                events.append(self.draw.choice(possible)())
        self.in_vain = 0 if events else self.in_vain + 1
        if self.in_vain > PATIENCE:
            raise StuckError("nothing is under way and the scheduler waits")
        return events

    def _possible(self) -> list[Callable[[], Event]]:
        moves: list[Callable[[], Event]] = [lambda w=w: self._ready(w) for w in self._loading]
        moves += [
            lambda w=w: self._end(w, self._sent[w][0]) for w, sent in self._sent.items() if sent
        ]
        return moves + [lambda t=t: self._end(None, t) for t in self._free]

    def _ready(self, worker: int) -> Event:
        model = self._loading.pop(worker)
        if model.label in self.unloadable:
            return Lost(worker=worker, reason=f"{model.label} is spoilt")
        self._holding[worker] = model
        return Ready(worker=worker)

    def _end(self, worker: int | None, task: Task) -> Event:
        self.attempts[task.file] += 1
        outcome = self.script(task, self.attempts[task.file])
        if outcome == "lose" and worker is not None:
            self._sent[worker].clear()
            del self._holding[worker]
            return Lost(worker=worker, reason="killed")
        (self._free if worker is None else self._sent[worker]).remove(task)
        if outcome == "done":
            self.done.append(task.file)
            return Done(worker=worker, task=task, summary={"of": task.file})
        return Raised(worker=worker, task=task, error="ValueError('bad')", traceback="where")

    def stop(self, worker: int) -> None:
        self._sent[worker].clear()

    def says(self) -> str:
        return "One worker asks for 1 CPU; there is none."

    def close(self) -> None:
        self._free.clear()
