"""Waiting: tasks that come after others, and what they wait for.

A task is its file: it may run when all files that it reads are there, and when its own is
there, others may. A file can also be found to be gone again (`undone`); whoever reads it
then waits once more.
"""

from collections import defaultdict, deque
from collections.abc import Iterable

from orchestrator.tasks import Task


class Load:
    """The cost of some tasks: a running sum that is exactly 0 when none is left."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.count = 0
        self.cost = 0.0

    def add(self, task: Task) -> None:
        """One more."""
        self.count += 1
        self.cost += task.cost

    def remove(self, task: Task) -> None:
        """One less."""
        self.count -= 1
        self.cost = self.cost - task.cost if self.count else 0.0  # sums of floats leave crumbs


class Queues:
    """The tasks that may run and were not sent."""

    def __init__(self) -> None:
        """Begin with none."""
        self.free: deque[Task] = deque()
        """Those without a model."""
        self._tasks: dict[str, deque[Task]] = defaultdict(deque)
        self._load: dict[str, Load] = defaultdict(Load)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.free or any(self._tasks.values()))

    def of(self, model: str) -> deque[Task]:
        """Return those of a model, by label; what is taken out is to be told (`taken`)."""
        return self._tasks[model]

    def cost(self, model: str) -> float:
        """Return the cost of those of a model, by label."""
        return self._load[model].cost

    def put(self, task: Task, first: bool = False) -> None:
        """One more, the last of its queue unless it is to be the first."""
        queue = self.free if task.model is None else self._tasks[task.model.label]
        (queue.appendleft if first else queue.append)(task)
        if task.model is not None:
            self._load[task.model.label].add(task)

    def taken(self, task: Task) -> None:
        """One of a model was taken out."""
        assert task.model is not None
        self._load[task.model.label].remove(task)

    def take_all(self, model: str) -> list[Task]:
        """Take out all of a model, by label."""
        self._load.pop(model, None)
        return list(self._tasks.pop(model, ()))


class Waiting:
    """The tasks of a graph that may not run yet."""

    def __init__(self, done: Iterable[str]) -> None:
        """Begin with the files that are there."""
        self._done = set(done)
        self._tasks: dict[str, Task] = {}
        self._needs: dict[str, set[str]] = {}
        self._followers: dict[str, list[str]] = defaultdict(list)
        self._ahead: dict[str, Load] = defaultdict(Load)

    def __len__(self) -> int:
        """Return how many tasks wait."""
        return len(self._tasks)

    @property
    def tasks(self) -> Iterable[Task]:
        """The tasks that wait."""
        return self._tasks.values()

    def ahead(self, model: str) -> float:
        """Return the cost of what waits of a model, by label."""
        return self._ahead[model].cost

    def admit(self, task: Task) -> bool:
        """Take a task in; return whether it may run now, and so does not wait."""
        missing = {file for file in task.after if file not in self._done}
        if not missing:
            return True
        self._tasks[task.file], self._needs[task.file] = task, missing
        if task.model is not None:
            self._ahead[task.model.label].add(task)
        for file in missing:
            self._followers[file].append(task.file)
        return False

    def done(self, task: Task) -> list[Task]:
        """Note that a task is done; return those that may run now because of it."""
        if not task.cells:  # nobody reads answers, and there may be a million of them
            self._done.add(task.file)
        released = []
        for file in self._followers.pop(task.file, ()):
            needs = self._needs.get(file)
            if needs is not None:
                needs.discard(task.file)
                if not needs:
                    released.append(self.take(file))
        return released

    def undone(self, file: str) -> None:
        """Note that a file is gone."""
        self._done.discard(file)

    def next_reader(self, file: str) -> str | None:
        """Return the file of the first task that waits for a file, None if none does."""
        return next(iter(self._followers.get(file, ())), None)

    def block(self, file: str) -> list[Task]:
        """Take out what comes after a file, near or far, and return it."""
        blocked, files = list[Task](), [file]
        while files:
            for follower in self._followers.pop(files.pop(), ()):
                if follower in self._needs:
                    blocked.append(self.take(follower))
                    files.append(follower)
        return blocked

    def take_all(self, model: str) -> list[Task]:
        """Take out all tasks of a model, by label."""
        tasks = [t for t in self._tasks.values() if t.model is not None and t.model.label == model]
        return [self.take(task.file) for task in tasks]

    def take(self, file: str) -> Task:
        """Take a task out."""
        task = self._tasks.pop(file)
        del self._needs[file]
        if task.model is not None:
            self._ahead[task.model.label].remove(task)
        return task
