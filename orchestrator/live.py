"""Live: a run's numbers while it runs, for whoever draws them.

The story is heard in the driver's thread and added up there (`orchestrator.meters`), which
costs microseconds. Every few seconds a thread of its own hands what it adds up to on:
to the cluster's metrics (`orchestrator.telemetry`) and to trackers that were asked for
(`orchestrator.trackers`). So a server that is slow delays no task.

Whoever raises is told of once, in the story (`untracked`), and handed nothing more: a sweep
never ends because nobody could watch it. That a tracker cannot begin is another matter: it
was asked for, nothing has been computed, and the user can mend it, so that refuses the run.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock, Thread

import polars as pl

from orchestrator.meters import Meters, Reading
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.pulse import Pulse
from orchestrator.trackers import Tracker

SECONDS = 5.0
"""Between two readings that are handed on."""
PATIENCE = 30.0
"""Seconds that a tracker may take to end what it is at; then the run goes on without it."""
HURRY = 2.0
"""The same where the run is ended from outside: a cluster's jobs have three seconds."""

Sink = Callable[[Reading], None]
"""Takes readings; called from a thread, never twice at once."""


class Live:
    """Hears a run's story and hands on what it adds up to."""

    def __init__(self, trackers: Sequence[Tracker] = (), *, seconds: float = SECONDS) -> None:
        """Have trackers logged to, and whoever is `feeding` told, every so many seconds."""
        self._seconds = seconds
        self._trackers = {f"{type(t).__name__} {n}": t for n, t in enumerate(trackers, 1)}
        self._sinks: dict[str, Sink] = {}
        """Who is handed readings; whoever raises is taken out."""
        self._meters, self._counting = Meters(), Lock()
        self._handing = Lock()
        """Held by who calls a sink or a tracker."""
        self._wrong: list[tuple[str, str]] = []
        self._tell: Callable[..., None] = lambda event, **details: None

    def hear(self, event: Mapping[str, object]) -> None:
        """Count an event of the story, and tell there of trackers that failed since the last."""
        with self._counting:
            self._meters.hear(event)
        self._complain()

    @contextmanager
    def begun(
        self, name: str, config: Mapping[str, object], tell: Callable[..., None]
    ) -> Iterator[None]:
        """Have readings handed on while this lasts; `tell` writes into the story.

        Raises SpecError if a tracker cannot begin.
        """
        self._tell = tell
        try:
            for who, tracker in self._trackers.items():
                _begin(tracker, name, config)
                self._sinks[who] = partial(_log, tracker)
        except SpecError:
            _within(HURRY, partial(self._close, finished=False))
            raise
        pulse, finished = Pulse(self._seconds, self._beat), False
        try:
            yield
            finished = True
        finally:
            patience = PATIENCE if finished else HURRY
            if not (pulse.stop(patience) and _within(patience, partial(self._end, finished))):
                self._silent()
            with suppress(*() if finished else (Exception,)):  # it would hide why the run ends
                self._complain()

    @contextmanager
    def feeding(self, name: str, sink: Sink) -> Iterator[None]:
        """Hand readings to somebody else as well while this lasts, and never after."""
        self._sinks[name] = sink
        try:
            yield
            self._beat()
        finally:
            self._sinks.pop(name, None)
            if self._handing.acquire(timeout=PATIENCE):  # it may be at work with its last
                self._handing.release()

    def tables(self, tables: Mapping[str, pl.DataFrame]) -> None:
        """Have the trackers log tables that are complete."""
        if not _within(PATIENCE, partial(self._log_tables, tables)):
            self._silent()
        self._complain()

    def read(self) -> Reading:
        """Return where the run is now."""
        with self._counting:
            return self._meters.read(time.time())

    def _log_tables(self, tables: Mapping[str, pl.DataFrame]) -> None:
        for who, tracker in self._trackers.items():
            for name, frame in tables.items():
                self._try(who, partial(tracker.table, name, frame))

    def _end(self, finished: bool) -> None:
        self._beat()  # the last numbers
        self._close(finished=finished)

    def _beat(self) -> None:
        reading = self.read()
        for who, sink in list(self._sinks.items()):
            self._try(who, partial(sink, reading))

    def _try(self, who: str, act: Callable[[], None]) -> None:
        if not self._handing.acquire(timeout=PATIENCE):
            self._silent()
            return
        try:
            if who in self._sinks:
                act()
        except Exception as error:  # a library of somebody else's may raise what it likes
            self._wrong.append((who, f"{type(error).__name__}: {error}"))
            del self._sinks[who]
        finally:
            self._handing.release()

    def _close(self, *, finished: bool) -> None:
        for who, tracker in self._trackers.items():
            self._try(who, partial(tracker.close, finished=finished))

    def _silent(self) -> None:
        self._wrong.append((", ".join(self._sinks), f"no answer in {PATIENCE:g} s"))

    def _complain(self) -> None:
        while self._wrong:
            who, error = self._wrong.pop()
            self._tell("untracked", tracker=who, error=error)


def _begin(tracker: Tracker, name: str, config: Mapping[str, object]) -> None:
    try:
        tracker.begin(name, config)
    except Exception as error:
        said = f"{type(tracker).__name__} cannot begin ({type(error).__name__}: {error})"
        raise SpecError(
            [Mistake(path="--track", message=f"{said}; mend that, or run without it")]
        ) from error


def _within(seconds: float, act: Callable[[], None]) -> bool:
    """Return whether something was done in time; what takes longer goes on, and nobody waits."""
    thread = Thread(target=act, name="peaksweep-trackers", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _log(tracker: Tracker, reading: Reading) -> None:
    tracker.log(reading.numbers(), int(reading.seconds))
