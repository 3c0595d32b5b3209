"""The pool: where tasks run, as far as the scheduler can tell.

A pool has workers, each a process that can hold one model at a time, and room for
some tasks that need no model. How many workers there can be may change while it
runs: machines come and go. It starts what it is told to start and reports what
happens; it decides nothing. There are two: `ray_pool` on a cluster, and `local_pool`
in this process, which most tests use. Whatever the pool, the numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.tasks import Task
from workers.messages import ModelRef


class PoolError(RuntimeError):
    """The cluster cannot do what is asked: no such device, not enough memory, never ready."""


class SilentError(PoolError):
    """No cluster answers where one was looked for; its sentence is whole by itself."""


def never_ready(seconds: float, said: str) -> PoolError:
    """Return the error for a pool of which no worker was ready in so many seconds."""
    return PoolError(
        f"no worker was ready in {seconds:g} s. {said} Ask for less, add machines, or raise"
        " `cluster.ready_seconds` if loading a model takes longer"
    )


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
    differs: bool = False
    """Whether another answer to the same is there already (`orchestrator.tasks.Differing`)."""
    log: str = ""
    """Last lines that its process logged or printed before."""
    lost: bool = False
    """Whether its process ended instead: it did not raise."""
    memory: bool = False
    """Whether that was because the machine's memory ran out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A worker is gone, with its model and whatever it was doing."""

    worker: int
    reason: str
    memory: bool = False
    """Whether it was ended because the machine's memory ran out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A worker waits for its turn to download its model: that is no time that loading takes."""

    worker: int


Event = Ready | Done | Raised | Lost | Queued


class Pool(Protocol):
    """Where tasks run. Workers are numbered from 0."""

    spare: int
    """Tasks without a model that may run at once."""

    @property
    def workers(self) -> int:
        """Models that can be held at once, as things stand; asked in every turn."""

    def load(self, worker: int, ref: ModelRef) -> None:
        """Have a worker load a model, in a process of its own; Ready or Lost follows."""

    def send(self, worker: int, task: Task) -> None:
        """Have a worker do a task on its model; Done, Raised or Lost follows."""

    def submit(self, task: Task) -> None:
        """Have a task without a model done anywhere; Done or Raised follows."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has happened, waiting at most so long for something to happen."""

    def stop(self, worker: int) -> None:
        """End a worker's process, if it has one; what it was doing is not reported.

        Never waits: a process that hangs, or whose machine is silent, is stopped too.
        """

    def says(self) -> str:
        """Return what one worker asks for, and what there is, in words."""

    def close(self) -> None:
        """End everything."""
