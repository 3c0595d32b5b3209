"""The local pool: the cluster's twin, in this process.

One worker, one task at a time, in the order they were sent. No Ray, no second
process, so a debugger stops where the error is; `run --local` and most tests
use it. Its numbers are those of a cluster.
"""

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence

import torch

from orchestrator import stages
from orchestrator.host import Host
from orchestrator.pool import Done, Event, Lost, PoolError, Raised, Ready
from orchestrator.store import Store, StoreError
from orchestrator.tasks import Differing, Task
from workers.messages import ModelRef


class LocalPool:
    """A pool of one worker: this process."""

    workers = 1
    spare = 1

    def __init__(self, store: Store) -> None:
        """Work on a run folder."""
        self._store = store
        self._host = Host(store, "local")
        self._queue: deque[Callable[[], Event]] = deque()

    def load(self, worker: int, ref: ModelRef) -> None:
        """Queue the loading of a model."""

        def act() -> Event:
            try:
                self._host.load(ref)
            except Exception as error:  # as a cluster would tell it
                return Lost(worker=worker, reason=repr(error))
            return Ready(worker=worker)

        self._queue.append(act)

    def send(self, worker: int, task: Task) -> None:
        """Queue a task on the loaded model."""
        self._queue.append(lambda: _attempt(worker, task, lambda: self._host.do(task)))

    def submit(self, task: Task) -> None:
        """Queue a task without a model."""
        self._queue.append(lambda: _attempt(None, task, lambda: stages.do(task, self._store)))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Do the next thing in the queue."""
        if not self._queue:  # nothing happens unless it is done here
            time.sleep(min(seconds, 0.1))
            return []
        return [self._queue.popleft()()]

    def stop(self, worker: int) -> None:
        """Nothing to end: the process is this one."""

    def says(self) -> str:
        """Return what there is: this process."""
        return "There is one worker, this process."

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()


def _attempt(worker: int | None, task: Task, act: Callable[[], dict[str, object]]) -> Event:
    try:
        return Done(worker=worker, task=task, summary=act())
    except Exception as error:  # whatever a task raises is its failure, not ours
        text = "".join(traceback.format_exception(error))
        return Raised(
            worker=worker,
            task=task,
            error=repr(error),
            traceback=text,
            storage=isinstance(error, StoreError),
            differs=isinstance(error, Differing),
        )


def machine() -> dict[str, float]:
    """Return what this process has, as a cluster would say it: memory in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"CPU": 1, "GPU": float(torch.cuda.is_available()), "memory": float(memory)}


def refuse_missing(device: str) -> None:
    """Raise PoolError if this process has no device of the kind that was asked for."""
    if device == "cuda" and not torch.cuda.is_available():
        raise PoolError(
            "the sweep asks for `cluster.device: cuda`, and this process sees no GPU; ask for cpu,"
            " or leave --local out and use a cluster that has one"
        )
