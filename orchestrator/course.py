"""Course: what the story of a running driver says that files alone cannot.

Which tasks were started and not ended since, how many cells are answered a
minute, and for how long the rest will take at this rate. The rate is over the
last ten minutes of the driver's story, by the driver's own clock: so it is the
same from every machine, and it falls when a run stands still.

The time left is that of the calls the driver knows of, all cells taken as equal.
It is rough where models differ in size, unknown before the first cells are
answered, and too short where a sweep learns from its answers what else to read.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.events import BEGIN

WINDOW = 600.0
"""Seconds of the story that the rate is over."""
SHORTEST = 1.0
"""Seconds of the story from which on there is a rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a driver gets on."""

    running: frozenset[str]
    """Files of tasks and names of cells that are under way."""
    rate: float | None
    """Cells a minute; None before there is one."""
    seconds_left: float | None
    """Seconds until its cells are answered; None where that is not known."""


def course(story: Iterable[Mapping[str, object]], began: float, now: float) -> Course:
    """Return how a driver gets on, from the story, when it began and when it was last seen to live.

    Times are in seconds since 1970 by the driver's clock, as the events' are. What was told before
    it began is an earlier driver's.
    """
    under_way: dict[str, tuple[str, ...]] = {}
    answered: deque[tuple[float, int]] = deque()
    left, since = 0, 0.0
    for event in story:
        file, cells, time = str(event.get("file")), _names(event.get("cells")), _time(event)
        if 0 < time < began - 0.001:  # events' times are rounded
            continue
        now = max(now, time)
        match event["event"]:
            case kind if kind == BEGIN:
                under_way.clear()
                answered.clear()
                left, since = _evaluations(event), 0.0
            case "added":
                left += len(cells)
            case "started":
                under_way[file] = cells
                since = since or (time if cells else 0.0)
            case "retried":
                under_way.pop(file, None)
            case "done" | "failed" | "blocked" as kind:
                ended = under_way.pop(file, () if kind == "done" else cells)
                left -= len(ended)
                if kind == "done" and ended:
                    answered.append((time, len(ended)))
    start = max(now - WINDOW, since)
    seconds = now - start
    known = bool(answered) and seconds >= SHORTEST
    rate = 60 * sum(n for time, n in answered if time >= start) / seconds if known else None
    return Course(
        running=frozenset(under_way).union(*under_way.values()),
        rate=rate,
        seconds_left=60 * max(left, 0) / rate if rate else None,
    )


def _names(value: object) -> tuple[str, ...]:
    return tuple(str(name) for name in value) if isinstance(value, list) else ()


def _time(event: Mapping[str, object]) -> float:
    time = event.get("time")
    return float(time) if isinstance(time, (int, float)) and 0 < time < 2**40 else 0.0


def _evaluations(begin: Mapping[str, object]) -> int:
    left = begin.get("left")
    count = left.get("evaluate") if isinstance(left, dict) else 0
    return count if isinstance(count, int) else 0
