"""Pulls: which machines may download a model's weights now.

A model that is named by a hub id is downloaded once per machine, into the hub's cache there; all
processes of the machine find it, and those that come meanwhile wait for the one at it. A
thousand machines that join together would all ask the hub at once, so `MOST` of them download
at a time, and the others wait their turn in the order they came.

The driver counts, because it alone hears of every process that is gone: whoever is lost with its
turn gives it back by that, and there is no lease that could run out. A machine that downloads
lets its other workers begin too: they share what comes.
"""

import time
from collections.abc import Callable

from workers.messages import ModelRef

MOST = 16
"""Machines that download at once."""
TOLD_SECONDS = 10.0
"""How often it is told who waits."""


class Pulls:
    """The turns of workers to download."""

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        """Let so many machines download at once."""
        self._most, self._clock, self._told = most, clock, clock()
        self._waiting: dict[int, tuple[str, ModelRef]] = {}
        self._at_it: dict[int, str] = {}

    def wants(self, worker: int, machine: str, ref: ModelRef) -> None:
        """A worker on a machine lacks a model's weights."""
        self._waiting[worker] = machine, ref

    def begins(self) -> list[tuple[int, ModelRef]]:
        """Return the workers whose turn it is now, with what they are to load."""
        busy, turn = set(self._at_it.values()), []
        for worker, (machine, ref) in list(self._waiting.items()):
            if machine in busy or len(busy) < self._most:
                busy.add(machine)
                self._at_it[worker] = machine
                del self._waiting[worker]
                turn.append((worker, ref))
        return turn

    def over(self, worker: int) -> None:
        """A worker has its model, or is gone."""
        self._waiting.pop(worker, None)
        self._at_it.pop(worker, None)

    def patient(self) -> list[int]:
        """Return the workers that wait, if that was not told for a while."""
        if self._clock() < self._told + TOLD_SECONDS:
            return []
        self._told = self._clock()
        return list(self._waiting)
