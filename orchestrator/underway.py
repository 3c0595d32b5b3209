"""Under way: what was sent and has not ended.

A task that hangs is done by another worker as well, so there can be several copies of one;
what comes of the first that ends counts. Of tasks without a model nobody else knows since
when they run: workers are in the `roster`, and these have none.
"""

from collections.abc import Callable

from orchestrator.tasks import Task


class InFlight:
    """How many copies of each task are under way."""

    def __init__(self) -> None:
        """Begin with none."""
        self._copies: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._copies)

    def of(self, task: Task) -> int:
        """Return how many there are of a task."""
        return self._copies.get(task.file, 0)

    def more(self, task: Task) -> None:
        """One more."""
        self._copies[task.file] = self.of(task) + 1

    def less(self, task: Task) -> int:
        """One less; return how many are left, -1 if the task was not under way any more."""
        left = self.none(task) - 1
        if left > 0:
            self._copies[task.file] = left
        return left

    def none(self, task: Task) -> int:
        """None counts any more, whatever goes on; return how many there were."""
        return self._copies.pop(task.file, 0)


class Unplaced:
    """Tasks without a model that are under way, and since when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with none."""
        self._clock = clock
        self._since: dict[str, tuple[Task, float]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._since)

    def began(self, task: Task) -> None:
        """One more, or another copy of one."""
        self._since[task.file] = task, self._clock()

    def ended(self, task: Task, *, last: bool) -> float:
        """One less, if it is the last copy; return the seconds since it began."""
        _, since = self._since.get(task.file, (task, self._clock()))
        if last:
            self._since.pop(task.file, None)
        return self._clock() - since

    def taking(self) -> list[tuple[Task, float]]:
        """Return what is under way, with the seconds since it began."""
        return [(task, self._clock() - since) for task, since in self._since.values()]
