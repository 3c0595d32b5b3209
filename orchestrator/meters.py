"""Meters: what the story of a running driver adds up to at a moment.

Cells answered and left, what was set aside, the pace of every stage, and what each
worker holds, does and gets through. It is arithmetic over events and nothing else:
so it is the same whether the driver keeps it while it tells them
(`orchestrator.live`) or somebody else reads them afterwards (`orchestrator.course`),
and the scheduler knows nothing of it.

A pace is over the last ten minutes of the story by the driver's clock, or since the
stage began where that is later: it falls when a run stands still, and ends with the stage. Work
is counted when it ends, so a pace is rough while calls take minutes. The time left takes all of a
stage as equal; it is too short where a sweep learns from its answers what else to read.

Tokens are those whose answer was scored, or which were counted, once for every cell;
an image is one. They are credited to the worker that began the task last, so a task
that two workers did counts for one of them. A worker that is given up while it has
nothing to do, because its machine left, is not told of: it stays until the end.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.events import BEGIN

WINDOW = 600.0
"""Seconds of the story that a pace is over."""
SHORTEST = 1.0
"""Seconds of the story from which on there is a pace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePace:
    """How one stage gets on, in tasks; for `evaluate`, in cells."""

    left: int
    """Not ended, as far as the driver knows."""
    rate: float | None
    """Ended a minute; None before there is any."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the rest has ended at this rate; None where that is not known."""
        return 60 * max(self.left, 0) / self.rate if self.rate else None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReading:
    """How one worker gets on."""

    number: int
    model: str
    """What it holds or is loading."""
    ready: bool
    """Whether it has loaded that."""
    doing: str
    """Label of what it does now; empty where it waits."""
    tokens: int
    """What it got through since the driver began."""
    tokens_per_second: float | None
    """Over the last ten minutes; None before its first task has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Where a driver is at a moment."""

    seconds: float
    """Since the driver began on the tasks."""
    cells_found: int
    """Answered before it began."""
    cells_done: int
    """Answered since."""
    cells_left: int
    """Not answered yet, as far as is known."""
    failures: int
    """Tasks that were set aside."""
    blocked: int
    """Tasks that are not tried because of these."""
    retries: int
    workers_lost: int
    """Times that a worker was lost."""
    stages: Mapping[str, StagePace]
    workers: Sequence[WorkerReading]
    """Those that hold a model or are loading one, in order of number."""

    @property
    def workers_ready(self) -> int:
        """Workers that have a model loaded."""
        return sum(worker.ready for worker in self.workers)

    def numbers(self) -> dict[str, float]:
        """Return what can be drawn over time, by name; what is not known yet is left out."""
        evaluated = self.stages.get("evaluate")
        speeds = [w.tokens_per_second for w in self.workers if w.tokens_per_second is not None]
        named = {
            "cells/done": self.cells_found + self.cells_done,
            "cells/left": self.cells_left,
            "cells/per_minute": None if evaluated is None else evaluated.rate,
            "tasks/failed": self.failures,
            "tasks/blocked": self.blocked,
            "tasks/retried": self.retries,
            "workers/ready": self.workers_ready,
            "workers/lost": self.workers_lost,
            "tokens_per_second/all": sum(speeds) if speeds else None,
        }
        named |= {f"tokens_per_second/{w.number}": w.tokens_per_second for w in self.workers}
        return {name: float(value) for name, value in named.items() if value is not None}


class _Ends:
    """What ended of late, and since when there is anything to end."""

    def __init__(self) -> None:
        self.since, self.any = 0.0, False
        self.recent = deque[tuple[float, int]]()

    def ended(self, time: float, amount: int) -> None:
        self.any = True
        self.recent.append((time, amount))
        while self.recent[0][0] < time - WINDOW:
            self.recent.popleft()

    def per_second(self, now: float) -> float | None:
        start = max(now - WINDOW, self.since)
        if not self.any or now - start < SHORTEST:
            return None
        return sum(amount for time, amount in self.recent if time >= start) / (now - start)


class _Worker:
    """What a worker holds and got through."""

    def __init__(self, model: str, tokens: int) -> None:
        self.model, self.tokens, self.ready = model, tokens, False
        self.ends = _Ends()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Begun:
    stage: str
    label: str
    cells: tuple[str, ...]
    worker: int | None

    @property
    def size(self) -> int:
        return max(1, len(self.cells))


class Meters:
    """Keeps count of a driver's story: `hear` every event, `read` at any moment."""

    def __init__(self) -> None:
        """Have heard nothing."""
        self.under_way: dict[str, _Begun] = {}
        """By file, what was started and has not ended."""
        self.latest = 0.0
        """When the last event was told, in seconds since 1970 by the driver's clock."""
        self._reset({}, {})

    def _reset(self, left: Mapping[str, int], found: Mapping[str, int]) -> None:
        self.under_way.clear()
        self._began = self.latest
        self._left = dict(left)
        self._ends: dict[str, _Ends] = {}
        self._workers: dict[int, _Worker] = {}
        self._found, self._done = found.get("evaluate", 0), 0
        self._counts = dict.fromkeys(("failed", "blocked", "retried", "lost"), 0)

    def hear(self, event: Mapping[str, object]) -> None:
        """Count one event; what it does not know, or finds damaged, it takes no notice of."""
        self.latest = time = max(self.latest, seconds(event))
        file, cells = str(event.get("file")), names(event.get("cells"))
        stage = "evaluate" if cells else str(event.get("stage", ""))
        worker = _number(event.get("worker"))
        kind = event.get("event")
        if kind in self._counts:
            self._counts[str(kind)] += 1
        match kind:
            case told if told == BEGIN:
                self._reset(_amounts(event.get("left")), _amounts(event.get("found")))
            case "added":
                self._left[stage] = self._left.get(stage, 0) + max(1, len(cells))
            case "started" | "hedged":
                label = str(event.get("label", ""))
                self._start(
                    file, _Begun(stage=stage, label=label, cells=cells, worker=worker), time
                )
            case "retried":
                self.under_way.pop(file, None)
            case "done" | "failed" | "blocked":
                begun = self.under_way.pop(file, None)
                if begun is None and kind == "done":
                    return
                begun = begun or _Begun(stage=stage, label="", cells=cells, worker=None)
                self._left[begun.stage] = self._left.get(begun.stage, 0) - begun.size
                if kind == "done":
                    self._end(begun, time, _number(event.get("tokens")) or 0)
            case "loading" if worker is not None:
                held = self._workers.get(worker)
                model = str(event.get("model", ""))
                self._workers[worker] = _Worker(model, held.tokens if held else 0)
            case "ready" if worker in self._workers:
                self._workers[worker].ready = True
            case "lost" | "retired" if worker is not None:
                self._workers.pop(worker, None)

    def _start(self, file: str, begun: _Begun, time: float) -> None:
        self.under_way[file] = begun
        ends = self._ends.setdefault(begun.stage, _Ends())
        ends.since = ends.since or time
        if (worker := self._held(begun)) is not None:
            worker.ends.since = worker.ends.since or time

    def _end(self, begun: _Begun, time: float, tokens: int) -> None:
        self._ends[begun.stage].ended(time, begun.size)
        self._done += len(begun.cells)
        if (worker := self._held(begun)) is not None:
            worker.tokens += tokens
            worker.ends.ended(time, tokens)

    def _held(self, begun: _Begun) -> _Worker | None:
        return None if begun.worker is None else self._workers.get(begun.worker)

    def _pace(self, stage: str, now: float) -> StagePace:
        left, ends = self._left.get(stage, 0), self._ends.get(stage)
        if ends is not None and ends.recent and left <= 0:
            now = ends.recent[-1][0]  # it has ended, and does not stand still
        speed = None if ends is None else ends.per_second(now)
        return StagePace(left=left, rate=None if speed is None else 60 * speed)

    def read(self, now: float = 0.0) -> Reading:
        """Return where the driver is at `now`, in seconds since 1970, or at the latest event."""
        now = max(now, self.latest)
        doing: dict[int, str] = {}
        for begun in self.under_way.values():  # what a worker was sent first it does first
            if begun.worker is not None:
                doing.setdefault(begun.worker, begun.label)
        return Reading(
            seconds=now - self._began if self._began else 0.0,
            cells_found=self._found,
            cells_done=self._done,
            cells_left=max(0, self._left.get("evaluate", 0)),
            failures=self._counts["failed"],
            blocked=self._counts["blocked"],
            retries=self._counts["retried"],
            workers_lost=self._counts["lost"],
            stages={
                stage: self._pace(stage, now) for stage in self._left.keys() | self._ends.keys()
            },
            workers=[
                WorkerReading(
                    number=number,
                    model=worker.model,
                    ready=worker.ready,
                    doing=doing.get(number, ""),
                    tokens=worker.tokens,
                    tokens_per_second=worker.ends.per_second(now),
                )
                for number, worker in sorted(self._workers.items())
            ],
        )


def seconds(event: Mapping[str, object]) -> float:
    """Return when an event was told, in seconds since 1970; 0 where it does not say."""
    time = event.get("time")
    return float(time) if isinstance(time, (int, float)) and 0 < time < 2**40 else 0.0


def names(value: object) -> tuple[str, ...]:
    """Return the cells that an event names; none where it only counts them."""
    return tuple(str(name) for name in value) if isinstance(value, list) else ()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**62 else None


def _amounts(value: object) -> dict[str, int]:
    told = value if isinstance(value, dict) else {}
    return {str(stage): _number(n) or 0 for stage, n in told.items()}
