"""What runs in a process of the cluster: a host as an actor, and tasks without a model.

Whatever goes wrong with a task comes back as a value, with its traceback and the
last lines that the process wrote to its standard error: log lines, warnings,
whatever a library prints. An exception could not be trusted to travel: many cannot
be pickled, and Ray would wrap those in errors of its own. So the only exceptions that the
driver sees are Ray's, and they mean that a process or a machine is gone.

Libraries are imported here when the process needs them, never in the driver.
"""

import os
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import ray

from orchestrator.footprint import MARGIN
from orchestrator.store import Store, StoreError, Writer
from orchestrator.tasks import Differing, Task
from workers.messages import ModelRef

LINES = 40
"""Lines of a process's standard error that are kept of it."""
_TAIL_BYTES = 2**15

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a process says when a task is done."""

    summary: dict[str, object]
    node: str
    """Where its file was written: Ray's name of the machine."""
    size: int
    """Bytes of its file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What a process says when a task, or the loading of a model, raised."""

    error: str
    traceback: str
    log: str
    """Last lines that the process wrote to its standard error."""
    storage: bool
    """Whether the run folder could not be written or read."""
    differs: bool
    """Whether the task was done before, with another answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A process's place among those that hold a model together (`orchestrator.ray_group`)."""

    rank: int
    size: int
    meeting: str
    """Path of the file in which they meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Silent(Store):
    """A run folder for all ranks but the first, which commits what they have computed together."""

    def commit(self, file: str, content: bytes | Writer) -> bool:
        """Commit nothing."""
        return True


class Actor:
    """A host as Ray sees it."""

    def __init__(self, store: Store, worker: str) -> None:
        """Start without a model."""
        self._store, self._worker = store, worker
        self._seat: Seat | None = None

    def load(self, ref: ModelRef, seat: Seat | None = None) -> Trouble | None:
        """Load a model in place of the one before; with a seat, a share of it, with others."""

        def act() -> None:
            if not hasattr(self, "_host"):
                from orchestrator.host import Host

                if seat is not None:
                    from workers import sharding

                    sharding.join(seat.rank, seat.size, seat.meeting, ref.device)
                    if seat.rank > 0:
                        self._store = Silent(self._store.place, self._store.epoch)
                    self._seat = seat
                self._host = Host(self._store, self._worker)
                context = ray.get_runtime_context()
                share = context.get_assigned_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
                if ref.device == "cuda" and 0 < share < 1:  # others are on the same GPU
                    self._host.replica.keep_to(share, MARGIN)
            self._host.load(ref)

        return attempt(act)

    def lacks(self, ref: ModelRef) -> str | Trouble:
        """Return Ray's name of this machine if it would download the model; nothing if not."""

        def act() -> str:
            from orchestrator import inspection

            return ray.get_runtime_context().get_node_id() if inspection.lacks(ref) else ""

        return attempt(act)

    def do(self, task: Task) -> Answer | Trouble:
        """Do a task on the loaded model."""

        def act() -> Answer:
            if self._seat is not None:
                from workers import sharding

                sharding.ranks().in_step()  # a rank that failed at the task before comes first
            summary = self._host.do(task)
            if self._seat is not None and self._seat.rank > 0:
                return Answer(summary=summary, node="", size=0)
            return _answer(task, self._store, summary)

        return attempt(act)

    def sees(self) -> dict[str, str | None]:
        """Return what this process may use, as its environment says."""
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        return {"pid": str(os.getpid()), **{n: os.environ.get(n) for n in names}}


def do(task: Task, store: Store) -> Answer | Trouble:
    """Do a task without a model."""

    def act() -> Answer:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves every GPU visible to such a task
        from orchestrator import stages

        return _answer(task, store, stages.do(task, store))

    return attempt(act)


def attempt(act: Callable[[], T]) -> T | Trouble:
    """Return what a function returns, or what it raised as a value that can always travel.

    A library that asks the process to exit is answered like one that raises.
    """
    try:
        return act()
    except (Exception, SystemExit) as error:
        return Trouble(
            error=_said(error),
            traceback="".join(traceback.format_exception(error)),
            log=last_lines(2),
            storage=isinstance(error, StoreError),
            differs=isinstance(error, Differing),
        )


def last_lines(descriptor: int) -> str:
    """Return the last lines that this process wrote to a descriptor, if that is a file.

    Ray gives every process such a file; what native code prints is in it too.
    """
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - no path of its own
            file.seek(max(0, status.st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    own = (":job_id:", ":actor_name:", ":task_name:")  # Ray's marks
    return "\n".join([line for line in text.splitlines() if not line.startswith(own)][-LINES:])


def _answer(task: Task, store: Store, summary: dict[str, object]) -> Answer:
    node = ray.get_runtime_context().get_node_id()
    return Answer(summary=summary, node=node, size=store.size(task.file))


def _said(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # somebody's own class, and it has an error of its own
        return type(error).__name__
