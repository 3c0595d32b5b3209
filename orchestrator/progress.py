"""Progress: a sweep told while it runs.

On a terminal there is one bar per stage with its rate and the time it will
take; elsewhere (a job's log, a pipe) one JSON line per event. Either way every
event is also a line of the run folder's story (`orchestrator.events`).

People are told first: where the disk is full, the story cannot be written, and
that must not keep an error from being told.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text

from orchestrator.events import BEGIN, Events
from orchestrator.store import Store, StoreError
from orchestrator.tasks import STAGES, Task

SIZED = ("added", "started", "failed", "blocked")
"""Events that name the cells of their task; others follow one that did."""


class _Rate(ProgressColumn):
    """Things done a second."""

    def render(self, task: Bar) -> Text:
        """Return the rate, empty before there is one."""
        return Text("" if not task.speed else f"{task.speed:.1f}/s", style="dim")


class Story:
    """Tells what happens, as a context manager; `listen` is the scheduler's listener."""

    def __init__(
        self,
        store: Store,
        console: Console,
        heard: Callable[[Mapping[str, object]], None] = lambda event: None,
    ) -> None:
        """Tell it on a console and in a run folder; raises StoreError if that is not writable.

        `heard` is called with every event, after it was written.
        """
        self._console, self._heard = console, heard
        self._events = Events(store)
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:>9}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Start the bars."""
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Stop the bars, and write what is left; an error on the way is the one that is told."""
        if self._live:
            self._progress.stop()
        try:
            self._events.close()
        except StoreError:
            if kind is None:
                raise

    def begin(self, left: Iterable[Task], done: dict[str, int]) -> None:
        """Say how much of each stage there is, and how much was there before."""
        totals = dict.fromkeys(STAGES, 0)
        for task in left:
            totals[task.stage] += _size(task)
        self.say(BEGIN, left=totals, found=done)
        if self._live:
            for stage, amount in totals.items():
                found = done.get(stage, 0)
                note = f"{found} found" if found else ""
                if amount or found:
                    self._bars[stage] = self._progress.add_task(
                        stage, total=amount, note=note, start=False
                    )

    def listen(self, event: str, task: Task, details: dict[str, object]) -> None:
        """Tell one event of the scheduler."""
        bar = self._bars.get(task.stage)
        if bar is not None:
            if event == "added":
                self._grow(bar, _size(task))
            if event == "started":
                self._progress.start_task(bar)
                self._progress.update(bar, note=task.label)
            if event in ("done", "failed", "blocked"):
                self._progress.advance(bar, _size(task))
        if event in ("retried", "failed") and self._live:
            said = escape(f"{task.label}: {details.get('error')}")
            self._progress.console.print(f"[yellow]{event}[/] {said}")
        about: dict[str, object] = {"file": task.file, "stage": task.stage, "label": task.label}
        if event in SIZED and task.cells:
            about["cells"] = list(task.cells)
        self.say(event, **about, **details)

    def _grow(self, bar: TaskID, amount: int) -> None:
        total = next(t.total for t in self._progress.tasks if t.id == bar)
        self._progress.update(bar, total=(total or 0) + amount)

    def remark(self, said: str) -> None:
        """Tell people a sentence; elsewhere than on a terminal the lines of the story tell it."""
        if self._live:
            self._progress.console.print(escape(said), highlight=False, soft_wrap=True)

    def say(self, event: str, **details: object) -> None:
        """Write one line of the story; raises StoreError if that cannot be done."""
        told = {"time": round(time.time(), 3), "event": event, **details}
        line = json.dumps(told, default=str)
        if not self._live:
            with suppress(OSError):  # whoever listened has gone; the run goes on
                self._console.file.write(line + "\n")
                self._console.file.flush()
        self._events.write(line)
        self._heard(told)


def _size(task: Task) -> int:
    return max(1, len(task.cells))


def console() -> Console:
    """Return the console that progress is told on: standard error, so that output stays clean."""
    return Console(file=sys.stderr)
