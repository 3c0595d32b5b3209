"""Standing: a status on a terminal.

Who drives the run and how fast is one sentence above the table; what failed is below it, each
with the command that does it again. Print it with `soft_wrap=True`: a line that the terminal
breaks is copied as one.
"""

import time
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.amounts import counted, duration
from orchestrator.status import FailureStatus, Status

FAILURES = 20
"""Failures that are told at most."""
QUIET = 15.0
"""Seconds from which on it is said how long ago a driver was last heard of."""


def status_table(found: Status) -> RenderableType:
    """Return a status as a terminal shows it, to be printed with `soft_wrap=True`."""
    return Group(*_parts(found))


def _parts(found: Status) -> Iterator[RenderableType]:
    yield Text(f"{found.run}: {state(found)}")
    if found.stages:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for column in ("done", "running", "missing", "failed"):
            table.add_column(column, justify="right")
        for stage in found.stages:
            counts = (stage.done, stage.running, stage.missing, stage.failed)
            table.add_row(stage.stage, *(f"{n:,}" for n in counts))
        yield table
    for failure in found.failures[:FAILURES]:
        yield from failure_lines(failure)
    rest = len(found.failures) - FAILURES
    if rest > 0:
        yield Text(f"{counted(rest, 'more failure')} in {found.run}/failures")


def state(found: Status) -> str:
    """Return in words who drives a run, and how fast."""
    held = found.holder
    if held is None and found.finished:
        return "finished"
    if held is None:
        goes_on = "`peaksweep run` with the same sweep and folder goes on"
        return f"not running here or elsewhere; {goes_on}"
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(held.started))
    said = [f"{'running' if found.stages else 'being planned'} (process {held.pid} on {held.host}"]
    said.append(f"since {begun}")
    if held.beat_age > QUIET:
        said.append(f"last heard of {duration(held.beat_age)} ago")
    state = ", ".join(said) + ")"
    if found.rate is not None:
        state += f", {found.rate:,.{0 if found.rate >= 10 else 1}f} cells a minute"
    if found.seconds_left is not None and not found.finished:
        state += f", about {duration(found.seconds_left)} left"
    return f"{state}; finished but for the report" if found.finished else state


def failure_lines(failure: FailureStatus) -> Iterator[Text]:
    """Yield what failed and why, and the command that does it again."""
    tried = "" if failure.attempts is None else f" (tried {_times(failure.attempts)})"
    yield Text.assemble(("failed ", "red"), f"{failure.label}: {failure.why}{tried}")
    if failure.command:
        yield Text(f"  again: {failure.command}")


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
