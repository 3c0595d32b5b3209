"""Trials: how often what went wrong is tried again, and where.

A task that raises is tried again on another worker where there is one: if it raises there
too, it is the task. A task whose worker was lost while it ran may have been unlucky, so it
is tried more often; one whose worker was ended because memory ran out is tried once more,
with one replica fewer. Then a task is set aside.
"""

from collections import Counter, defaultdict

from orchestrator.tasks import Task

ATTEMPTS = 2
"""Times a task may raise, and times memory may run out while it runs."""
LOSSES = 3
"""Times a task may be running on a worker that is lost, and a worker be lost in a row."""

MEMORY = (
    "memory ran out while it ran, also with one replica fewer: ask for fewer replicas"
    " (--workers), or less at once (`evaluation.batch_tokens`, `evaluation.logits_bytes`; these"
    " are part of what cells are, so all are computed anew)"
)


class Trials:
    """What has gone wrong with which task, so far."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._raised, self._lost, self._memory = Counter[str](), Counter[str](), Counter[str]()
        self._mended = Counter[str]()
        self._tried: dict[str, set[int]] = defaultdict(set)

    def raised(self, task: Task, worker: int | None) -> bool:
        """Note that a task raised; return whether it may be tried again."""
        self._raised[task.file] += 1
        if worker is not None:
            self._tried[task.file].add(worker)
        return self._raised[task.file] < ATTEMPTS

    def mended(self, task: Task) -> bool:
        """Note that what a task reads is made again; return whether it may be."""
        self._mended[task.file] += 1
        return self._mended[task.file] < ATTEMPTS

    def lost(self, task: Task, memory: bool) -> bool:
        """Note that a task's worker was lost while it ran; return whether it may be tried again."""
        if memory:
            self._memory[task.file] += 1
            return self._memory[task.file] < ATTEMPTS
        self._lost[task.file] += 1
        return self._lost[task.file] < LOSSES

    def hedged(self, task: Task, copies: int) -> bool:
        """Return whether there may be one more copy of a task that hangs.

        Each copy may end as a lost worker, and there is an end to those.
        """
        return self._lost[task.file] + copies < LOSSES

    def times(self, task: Task) -> int:
        """Return how often a task has gone wrong."""
        return self._raised[task.file] + self._lost[task.file] + self._memory[task.file]

    @property
    def any(self) -> bool:
        """Whether any task that is not done has raised on a worker."""
        return bool(self._tried)

    def tried(self, task: Task) -> int:
        """Return on how many workers a task has raised."""
        return len(self._tried.get(task.file, ()))

    def vain(self, task: Task, worker: int) -> bool:
        """Whether a task has raised on a worker."""
        return worker in self._tried.get(task.file, ())

    def forget(self, task: Task) -> None:
        """Forget a task that is done or set aside."""
        for counts in (self._raised, self._lost, self._memory, self._mended, self._tried):
            counts.pop(task.file, None)
