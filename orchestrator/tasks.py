"""Tasks: the unit of work, of retrying and of being done.

A task is a small value that says everything a process needs to do it: which
kind of work, on which model if any, and the files it reads and writes inside
the run folder. It is done when its file exists, and it comes after the tasks
that commit the files it reads; so a plan is a graph of files, and the scheduler
needs no notion of stages, which are for people.

A name is a recipe's, and two models may share one (the same mask, the same
zero). Within a run folder a task is its file.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workers.messages import ModelRef

Stage = Literal["prepare", "collect", "reduce", "learn", "evaluate"]
STAGES: tuple[Stage, ...] = ("prepare", "collect", "reduce", "learn", "evaluate")


FLOPS = {"cpu": 3e10, "cuda": 1e14}
"""Typical floating-point operations a second of one replica: one core; one GPU in bf16."""


def rough_seconds(cost: float, device: str) -> float:
    """Return the time of a forward pass over so many parameters x positions, roughly."""
    return 2 * cost / FLOPS[device]  # a multiplication and an addition


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One piece of work, named by its recipe."""

    name: str
    stage: Stage
    kind: str
    """Which function does it: a key of `orchestrator.stages`."""
    label: str
    """What people read, for example `zoo:opt counts of shard 3`."""
    file: str
    """Where its answer is committed, relative to the run folder."""
    model: ModelRef | None
    """The model that must be loaded where it runs; None when any process will do."""
    after: tuple[str, ...] = ()
    """Files it reads: it comes after the tasks that commit them."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """JSON-like arguments of its kind, written by `orchestrator.graph` and read by one function."""
    cells: tuple[str, ...] = ()
    """Cells that it answers; only for `evaluate`."""
    cost: float = 1.0
    """Rough work, in parameters x positions; only ratios matter."""


class Differing(RuntimeError):
    """A task was done twice, with different answers (law 4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A task that could not be done, as a value; written to `record`."""

    task: str
    file: str
    """What it would have committed."""
    label: str
    stage: str
    error: str
    """Last line of the traceback."""
    traceback: str
    attempts: int
    log: str = ""
    """Last lines that its process logged or printed before."""
    command: str = ""
    """What does the same again in one process, without Ray."""
    cells: tuple[str, ...] = ()
    """Cells that stay without an answer because of it."""
    blocked: int = 0
    """Tasks that were not tried because they come after it."""

    @property
    def record(self) -> str:
        """File of the run folder that tells of it: the path of what is missing, flattened."""
        return f"failures/{self.file.rpartition('.')[0].replace('/', '.')}.json"


def with_needs(
    tasks: Iterable[Task], wanted: Iterable[str], done: Collection[str] = ()
) -> set[str]:
    """Return the files to make for some wanted ones: those, and what they are made from.

    What is `done` is not made, and nothing is made for its sake.
    """
    makes = {task.file: task for task in tasks}
    left, needed = list(wanted), set[str]()
    while left:
        file = left.pop()
        if file not in needed and file not in done:
            needed.add(file)
            left += makes[file].after
    return needed
