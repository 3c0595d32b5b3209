"""Course: what the story of a running driver says that files alone cannot.

Which tasks were started and not ended since, how many cells are answered a
minute, for how long the rest will take at this rate, and what every stage and every
worker gets through (`orchestrator.meters`). All is by the driver's own clock: so it is
the same from every machine, and a rate falls when a run stands still.

The time left is that of the calls the driver knows of, all cells taken as equal.
It is rough where models differ in size, unknown before the first cells are
answered, and too short where a sweep learns from its answers what else to read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.meters import Meters, Reading, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a driver gets on."""

    running: frozenset[str]
    """Files of tasks and names of cells that are under way."""
    rate: float | None
    """Cells a minute; None before there is one."""
    seconds_left: float | None
    """Seconds until its cells are answered; None where that is not known."""
    reading: Reading
    """Its stages and workers."""


def course(story: Iterable[Mapping[str, object]], began: float, now: float) -> Course:
    """Return how a driver gets on, from the story, when it began and when it was last seen to live.

    Times are in seconds since 1970 by the driver's clock, as the events' are. What was told before
    it began is an earlier driver's.
    """
    meters = Meters()
    for event in story:
        if not 0 < seconds(event) < began - 0.001:  # events' times are rounded
            meters.hear(event)
    reading = meters.read(now)
    evaluated = reading.stages.get("evaluate")
    cells = (begun.cells for begun in meters.under_way.values())
    return Course(
        running=frozenset(meters.under_way).union(*cells),
        rate=None if evaluated is None else evaluated.rate,
        seconds_left=None if evaluated is None else evaluated.seconds_left,
        reading=reading,
    )
