"""Deadlines: when a task has taken so long that something must be wrong with where it runs.

A machine that went silent, a driver of a device that hangs, a network that was cut: none of
these raises. Ray takes a minute to give up a machine and never gives up a process that
merely hangs. So every task has a deadline, and it is generous: `TIMES` what tasks of its
kind took so far for what they cost, or, before any ended, what the budget's arithmetic
expects, and never less than the sweep's `cluster.patience_seconds`. Twice the time is given
whenever a deadline was too short, so a task that is really slow is done in the end.
"""

from collections import Counter, defaultdict, deque
from statistics import median

from orchestrator.tasks import Task, rough_seconds

TIMES = 20.0
"""Times of what is expected that a task may take."""
PREPARED = 1e5
"""Positions of data that are prepared a second, roughly: what such tasks cost."""
REMEMBERED = 33
"""Tasks of a kind, the last ones, whose median is what is expected."""


class Deadlines:
    """How long tasks may take; all times in seconds."""

    def __init__(self, patience: float) -> None:
        """Give every task `patience` at least."""
        self.patience = patience
        self._took: dict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=REMEMBERED)
        )
        self._median: dict[tuple[str, str], float] = {}
        self._over = Counter[str]()

    def took(self, task: Task, seconds: float) -> None:
        """Learn from a task that is done."""
        if task.cost > 0:
            self._took[_alike(task)].append(seconds / task.cost)
            self._median.pop(_alike(task), None)

    def expected(self, task: Task) -> float | None:
        """Return how long a task should take; None where nothing is known of its like."""
        like = _alike(task)
        if like in self._took:
            if like not in self._median:  # asked far more often than it changes
                self._median[like] = median(self._took[like])
            return self._median[like] * task.cost
        if task.model is not None:
            return rough_seconds(task.cost, task.model.device) / task.model.shards
        return task.cost / PREPARED if task.kind == "data" else None

    def of(self, task: Task) -> float:
        """Return how long a task may take."""
        expected = self.expected(task) or 0.0
        return max(self.patience, TIMES * expected) * 2.0 ** self._over[task.file]

    def passed(self, task: Task) -> None:
        """Note that a deadline has passed, and was perhaps too short."""
        self._over[task.file] += 1

    def forget(self, task: Task) -> None:
        """Forget a task that is done or set aside."""
        self._over.pop(task.file, None)


def _alike(task: Task) -> tuple[str, str]:
    return task.kind, task.model.label if task.model else ""
