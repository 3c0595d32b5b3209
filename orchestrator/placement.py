"""Placement: which model an idle worker should hold.

A model is worth loading where nobody holds it and there is work, and where so much of it is
left that those who hold it would take longer to get to the last of it than loading takes
here: a replica that is ready when the work is gone helps nobody. Among those, the one with
the most work left per worker comes first. So the cluster spreads over the models as long as
there is enough of each, and gathers on the longest one in the end.
"""

from collections import Counter, deque
from collections.abc import Mapping
from itertools import islice

from orchestrator.deadlines import Deadlines
from orchestrator.roster import IN_FLIGHT, LOOK_AHEAD, Roster, Worker
from orchestrator.tasks import Task
from orchestrator.trials import ATTEMPTS, Trials
from orchestrator.waiting import Queues, Waiting
from workers.messages import ModelRef


class Placement:
    """Chooses models for workers."""

    def __init__(self, roster: Roster, deadlines: Deadlines, trials: Trials) -> None:
        """Know no model yet."""
        self.refs: dict[str, ModelRef] = {}
        """Models by label."""
        self.hope = True
        """Whether anything is under way that may change what can be done."""
        self._roster, self._deadlines, self._trials = roster, deadlines, trials
        self._seconds: dict[str, float] = {}
        self._failed = Counter[str]()

    def know(self, model: ModelRef) -> None:
        """Tell of a model."""
        self.refs.setdefault(model.label, model)

    def loaded(self, model: str, seconds: float) -> None:
        """Tell how long it took to load a model."""
        self._seconds[model] = seconds
        self._failed.pop(model, None)

    def unloadable(self, model: str, tries: int) -> bool:
        """Note that a worker was lost while it loaded a model; return whether to give it up.

        A model that was loaded before is not at fault, and one that others still load may not be.
        """
        self._failed[model] += 1
        hope = model in self._seconds or self._roster.held(model) > 0
        return self._failed[model] >= tries and not hope

    def work(self, queues: Queues, waiting: Waiting) -> dict[str, float]:
        """Return the models that may be worth loading, with the cost of what is left of them.

        Without `hope` only what is queued can be done: waiting for the rest is for ever.
        """
        left = {}
        for model in self.refs:
            queue, cost = queues.of(model), queues.cost(model)
            if queue or (self.hope and waiting.ahead(model)):
                held = self._roster.held(model)
                doubtful = self._failed[model] >= ATTEMPTS  # those who load it shall tell first
                if not held or (queue and not doubtful and self._late(model, queue, cost)):
                    left[model] = cost + waiting.ahead(model)
        return left

    def avoids(self, task: Task, worker: int) -> bool:
        """Whether a task that raised on a worker is to be tried on another: if one is at hand.

        That is one that holds the model; or any, as long as something goes on: it may load it.
        """
        if task.model is None or not self._trials.vain(task, worker):
            return False
        holders = (
            w.number for w in self._roster.workers if w.ready and w.model == task.model.label
        )
        if any(not self._trials.vain(task, number) for number in holders):
            return True
        goes_on = self.hope or self._roster.loading > 0
        return goes_on and (self._roster.ready > 1 or self._roster.coming)

    def has_some(self, worker: Worker, queue: deque[Task]) -> bool:
        """Whether the queue of a worker's model has something for it."""
        return any(not self.avoids(task, worker.number) for task in islice(queue, LOOK_AHEAD))

    def stays(self, worker: Worker, queues: Queues, waiting: Waiting) -> bool:
        """Whether a worker keeps its model: there is work on it for that worker, or there will be.

        What waits for other tasks counts too, so it stays while its model's counts are merged.
        """
        own = worker.model
        if own and self.hope and waiting.ahead(own):
            return True
        return bool(own) and self.has_some(worker, queues.of(own))

    def choose(self, worker: Worker, work: Mapping[str, float]) -> str | None:
        """Return the other model with the most work left per worker, None if there is none."""
        each = {
            model: left / (1 + self._roster.held(model))
            for model, left in work.items()
            if model != worker.model
        }
        return max(each, key=each.__getitem__, default=None)

    def _late(self, model: str, queue: deque[Task], cost: float) -> bool:
        """Whether those who hold a model get to the last of its queue later than one more would."""
        if self._trials.any and self._in_vain(model, queue):
            return True
        held = self._roster.held(model)
        # Those who load it will take a task each: more than tasks would load it for nothing.
        if len(queue) <= max(IN_FLIGHT, held - self._roster.holders(model)):
            return False
        seconds, first = self._seconds.get(model), self._deadlines.expected(queue[0])
        if seconds is None or first is None or not queue[0].cost:
            return len(queue) > held  # nothing is known: a replica for every task at most
        return first * cost / queue[0].cost / held > seconds

    def _in_vain(self, model: str, queue: deque[Task]) -> bool:
        """Whether a task has raised on all that hold its model: another is to try it."""
        held = self._roster.held(model)
        tasks = [t for t in islice(queue, LOOK_AHEAD) if self._trials.tried(t) >= held]
        if not tasks:  # a task is tried on few workers, whatever the number of those
            return False
        holders = [w.number for w in self._roster.workers if w.model == model]
        return any(all(self._trials.vain(t, number) for number in holders) for t in tasks)
