"""The roster: which worker holds which model, and which it should hold next."""

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import islice

from orchestrator.tasks import Task

LOOK_AHEAD = 64
"""Tasks of a queue that are looked at for the one to be taken next."""


class Worker:
    """What the scheduler knows of one worker."""

    def __init__(self, number: int) -> None:
        """A worker without a model."""
        self.number = number
        self.model = ""
        self.loading = False
        self.losses = 0
        """Times it was lost since it last did a task."""
        self.tasks: list[Task] = []
        """In flight, in the order they were sent."""
        self.joined_by: int | None = None
        """What will read the file of the task it was sent last."""
        self._since = 0.0

    @property
    def ready(self) -> bool:
        """Whether it can be sent a task."""
        return bool(self.model) and not self.loading

    def assign(self, model: str) -> None:
        """It was told to load a model."""
        self.model, self.loading, self._since = model, True, time.monotonic()

    def loaded(self) -> None:
        """It has the model."""
        self.loading = False

    def vacate(self) -> None:
        """It is gone, with its model and its tasks."""
        self.model, self.loading, self.tasks = "", False, []

    def waited(self) -> float:
        """Return the seconds since it was told to load, 0 if it is not loading."""
        return time.monotonic() - self._since if self.loading else 0.0


class Roster:
    """The workers of a pool."""

    def __init__(self, count: int) -> None:
        """Begin with workers that hold nothing."""
        self.workers = [Worker(i) for i in range(count)]

    def holders(self, model: str) -> int:
        """Return how many workers hold a model and are ready."""
        return sum(w.model == model and w.ready for w in self.workers)

    def take(
        self, worker: Worker, queue: deque[Task], followers: Mapping[str, Sequence[int]]
    ) -> Task:
        """Take a worker's next task out of the queue of its model, which is not empty.

        What is merged together is best written by one worker, so that it lies on one node: a worker
        goes on with what will be read together with its last file, or else begins what no other
        worker is at. `followers` are the tasks that read a file.
        """
        others = {w.joined_by for w in self.workers if w is not worker}
        joins = [next(iter(followers.get(t.file, ())), None) for t in islice(queue, LOOK_AHEAD)]
        ranks = [(j is None or j != worker.joined_by, j is not None and j in others) for j in joins]
        at = min(range(len(ranks)), key=ranks.__getitem__)  # the first of the best
        task = queue[at]
        del queue[at]
        worker.joined_by = joins[at]
        return task

    def next_model(
        self, worker: Worker, work: Mapping[str, float], open_to_more: Mapping[str, bool]
    ) -> str | None:
        """Return the model with the most work left per worker, None if there is none to take.

        `work` is what is left of each model, and `open_to_more` whether a model that
        somebody holds already has enough waiting to be worth joining.
        """
        held = Counter(w.model for w in self.workers if w is not worker and w.model)
        candidates = {
            model: left / (1 + held[model])
            for model, left in work.items()
            if left > 0 and (not held[model] or open_to_more[model])
        }
        return max(candidates, key=lambda m: candidates[m], default=None)
