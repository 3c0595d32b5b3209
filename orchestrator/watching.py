"""Watching: a run's status again and again, until it ends or somebody has seen enough.

On a terminal it is one screen that changes: how far every stage is and how fast, what every
worker holds and does, and what failed. Elsewhere (a pipe, a job's log) it is a line
whenever something has changed, or with `--json` an object.

It reads the run folder and asks nobody, so it works from any machine and may be stopped and
begun at any time. Reading is paced by what it costs: at most half of the time goes into it. A
folder that is read while its files are joined may for a moment seem damaged; only what stays so
is told.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.amounts import counted, duration
from orchestrator.meters import StagePace, WorkerReading
from orchestrator.standing import failure_lines, state
from orchestrator.status import StageStatus, Status, status
from orchestrator.store import StoreError

SECONDS = 2.0
"""Between two looks at least."""
TRIES = 3
"""Looks in a row that may fail."""
FAILURES = 4
"""Failures on the screen at most; `peaksweep status` tells more."""
OTHERS = 9
"""Lines of the screen that are neither stages, nor failures, nor workers."""


def watch(
    run: str,
    console: Console,
    *,
    as_json: bool = False,
    look: Callable[[str], Status] = status,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run's status until nobody drives it or it is finished, or until Ctrl-C.

    Raises StoreError if there is no run, or if it cannot be read three times in a row.
    """
    try:
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False) as live:
                for found in _looks(run, look, sleep):
                    live.update(screen(found, console.height), refresh=True)
            return
        last = ""
        for found in _looks(run, look, sleep):
            said = json.dumps(asdict(found)) if as_json else line(found)
            if said != last:
                console.print(said, markup=False, highlight=False, soft_wrap=True)
            last = said
    except SystemExit as error:
        if error.code != 130:  # to have seen enough is no interruption
            raise


def _looks(
    run: str, look: Callable[[str], Status], sleep: Callable[[float], None]
) -> Iterator[Status]:
    seen, failed = False, 0
    while True:
        began = time.monotonic()
        try:
            found = look(run)
        except StoreError:
            failed += 1
            if not seen or failed == TRIES:
                raise
        else:
            seen, failed = True, 0
            yield found
            if found.finished or found.holder is None:
                return
        sleep(max(SECONDS, time.monotonic() - began))


def line(found: Status) -> str:
    """Return a status as one line: the stage that is under way, and how fast it goes."""
    stages = [s for s in found.stages if s.running] or [s for s in found.stages if s.missing]
    said = [f"{s.stage} {s.done:,}/{_all(s):,}" for s in stages]
    if found.failures:
        said.append(counted(len(found.failures), "failure"))
    return "; ".join([state(found), *said])


def screen(found: Status, height: int) -> RenderableType:
    """Return a status as a screen of so many lines: stages with bars, workers, failures."""
    parts: list[RenderableType] = [Text(f"{found.run}: {state(found)}")]
    if found.stages:
        parts += [Text(), _stages(found)]
    workers = [] if found.reading is None else list(found.reading.workers)
    if workers:
        told = min(len(found.failures), FAILURES)
        room = max(1, height - OTHERS - len(found.stages) - 2 * told)
        parts += [Text(), _workers(workers[:room])]
        if len(workers) > room:
            parts.append(Text(f"… and {counted(len(workers) - room, 'more worker')}", style="dim"))
    if found.failures:
        parts.append(Text())
    for failure in found.failures[-FAILURES:]:
        for said in failure_lines(failure):
            said.no_wrap, said.overflow = True, "ellipsis"  # `peaksweep status` has all of it
            parts.append(said)
    rest = len(found.failures) - FAILURES
    if rest > 0:
        parts.append(Text(f"{counted(rest, 'more failure')}: peaksweep status {found.run}"))
    return Group(*parts)


def _stages(found: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("stage", "", "done", "running", "failed", "a minute", "left"):
        left = column in ("stage", "")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    paces = {} if found.reading is None else found.reading.stages
    for stage in found.stages:
        open_ = stage.done < _all(stage)
        table.add_row(
            Text(stage.stage, style="bold" if stage.running else ""),
            ProgressBar(
                total=max(1, _all(stage)),
                completed=stage.done,
                width=30,
                complete_style="cyan",
                finished_style="green",
            ),
            f"{stage.done:,}/{_all(stage):,}",
            f"{stage.running:,}" if stage.running else "",
            Text(f"{stage.failed:,}" if stage.failed else "", style="red"),
            *(_pace(stage, paces.get(stage.stage)) if open_ else ("", "")),
        )
    return table


def _pace(stage: StageStatus, pace: StagePace | None) -> tuple[str, str]:
    """Return how many a minute, and how long for the rest."""
    if pace is None or pace.rate is None:
        return "", ""
    rate = f"{pace.rate:,.{0 if pace.rate >= 10 else 1}f}"
    waits = not (stage.running or stage.missing) or pace.seconds_left is None
    return rate, "" if waits else duration(pace.seconds_left or 0.0)


def _workers(workers: list[WorkerReading]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("worker", justify="right")
    table.add_column("model", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("at work on", no_wrap=True, overflow="ellipsis")
    for worker in workers:
        speed = worker.tokens_per_second
        doing = worker.doing if worker.ready else "is being loaded"
        table.add_row(
            str(worker.number),
            worker.model,
            "" if speed is None else f"{speed:,.0f}",
            Text(doing or "waits", style="" if doing and worker.ready else "dim"),
        )
    return table


def _all(stage: StageStatus) -> int:
    return stage.done + stage.running + stage.missing + stage.failed
