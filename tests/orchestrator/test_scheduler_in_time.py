"""The scheduler against a pool that takes time: who waits for what, and for how long."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.pool import Done, Event, Lost, Raised, Ready
from orchestrator.scheduler import Scheduler
from orchestrator.tasks import Failure, Task
from orchestrator.trials import LOSSES
from tests.orchestrator.scripted import task
from workers.messages import ModelRef


class TimedPool:
    """Does what a table of (seconds, outcome) says, in virtual time; everything else at once."""

    spare = 1

    def __init__(self, workers: int, ends: Callable[[int | None, str], tuple[float, str]]) -> None:
        self.workers, self.ends, self.now = workers, ends, 0.0
        self.due: list[tuple[float, Event]] = []
        self.sent: list[tuple[int | None, str]] = []
        self.blocks = False
        """Whether a wait lasts until something happens, as in a process that does it itself."""

    def _end(self, worker: int | None, what: str, outcomes: dict[str, Event]) -> None:
        self.sent.append((worker, what))
        seconds, outcome = self.ends(worker, what)
        self.due.append((self.now + seconds, outcomes[outcome]))

    def load(self, worker: int, ref: ModelRef) -> None:
        lost = Lost(worker=worker, reason="broken")
        self._end(worker, f"load {ref.name}", {"done": Ready(worker=worker), "lost": lost})

    def send(self, worker: int | None, task: Task) -> None:
        raised = Raised(worker=worker, task=task, error="bad", traceback="")
        outcomes: dict[str, Event] = {
            "done": Done(worker=worker, task=task, summary={}),
            "raise": raised,
            "killed": replace(raised, lost=True),
        }
        self._end(worker, task.name, outcomes)

    def submit(self, task: Task) -> None:
        self.send(None, task)

    def wait(self, seconds: float) -> Sequence[Event]:
        self.due.sort(key=lambda one: one[0])
        late = self.due and self.due[0][0] > self.now + seconds
        if not self.due or (late and not self.blocks):
            self.now += seconds
            assert self.now < 5000, "it hangs"
            return []
        at, event = self.due.pop(0)
        self.now = max(self.now, at)
        return [event]

    def stop(self, worker: int) -> None:
        """Nothing to end."""

    def says(self) -> str:
        return "There is one."

    def close(self) -> None:
        """Nothing to end."""


def timed(tasks: Sequence[Task], pool: TimedPool) -> list[Failure]:
    return Scheduler(tasks, [], pool, clock=lambda: pool.now).run()


def test_a_task_that_raised_goes_back_where_no_other_worker_can_load_its_model() -> None:
    tried: list[int | None] = []

    def ends(worker: int | None, what: str) -> tuple[float, str]:
        if what == "load a" and worker != 0:
            return 1.0, "lost"
        if what == "t":
            tried.append(worker)
            return 1.0, "raise" if len(tried) == 1 else "done"
        return (200.0 if what == "u" else 1.0), "done"

    assert timed([task("t", "a"), task("u", "b")], TimedPool(3, ends)) == []
    assert tried == [0, 0]


def test_workers_may_be_late_while_a_task_without_a_model_goes_on() -> None:
    """In one process a model is loaded when the task before it has ended."""

    def ends(_: int | None, what: str) -> tuple[float, str]:
        return {"data": (1400.0, "done"), "load a": (1400.1, "done")}.get(what, (1.0, "done"))

    pool = TimedPool(1, ends)
    pool.blocks = True
    assert timed([task("data"), task("t", "a", ["data"])], pool) == []


def test_a_task_without_a_model_survives_two_processes_and_not_three() -> None:
    for deaths, failed in ((LOSSES - 1, 0), (LOSSES, 1)):
        left = [deaths]

        def ends(_: int | None, what: str, left: list[int] = left) -> tuple[float, str]:
            left[0] -= 1
            return 1.0, "killed" if left[0] >= 0 else "done"

        assert len(timed([task("merge")], TimedPool(1, ends))) == failed
