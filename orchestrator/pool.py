"""The pool: where tasks run, as far as the scheduler can tell.

A pool has a fixed number of workers, each a process that can hold one model at
a time, and room for some tasks that need no model. It starts what it is told to
start and reports what happens; it decides nothing. There are two: `ray_pool` on
a cluster, and `local_pool` in this process, which most tests use. Whatever the
pool, the numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.tasks import Task
from workers.messages import ModelRef


class PoolError(RuntimeError):
    """The cluster cannot do what is asked: no such device, not enough memory, never ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A worker has loaded the model it was told to."""

    worker: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A task's file is committed."""

    worker: int | None
    """None for a task without a model."""
    task: Task
    summary: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Raised:
    """A task raised; nothing of it is committed."""

    worker: int | None
    task: Task
    error: str
    traceback: str
    storage: bool = False
    """Whether the run folder could not be written: no other task will fare better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A worker is gone, with its model and whatever it was doing."""

    worker: int
    reason: str


Event = Ready | Done | Raised | Lost


class Pool(Protocol):
    """Where tasks run. Workers are numbered from 0."""

    workers: int
    """Models that can be held at once."""
    spare: int
    """Tasks without a model that may run at once."""

    def load(self, worker: int, ref: ModelRef) -> None:
        """Have a worker load a model, in a process of its own; Ready or Lost follows."""

    def send(self, worker: int, task: Task) -> None:
        """Have a worker do a task on its model; Done, Raised or Lost follows."""

    def submit(self, task: Task) -> None:
        """Have a task without a model done anywhere; Done or Raised follows."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has happened, waiting at most so long for something to happen."""

    def stop(self, worker: int) -> None:
        """End a worker's process, if it has one; what it was doing is not reported."""

    def close(self) -> None:
        """End everything."""
