"""Pulse: something small that is done every few seconds, whatever the rest is at.

A driver waits for workers, plans and reads files; meanwhile others want to see
that it lives. A pulse does its work in a daemon thread, so it never keeps a
process from ending, and it ends before the process does where it can.

It assumes that the work returns soon and catches what may go wrong; what it
does not catch ends the pulse. A thread needs the interpreter's lock now and
then: a call that holds it for long delays the pulse by as much.
"""

import threading
from collections.abc import Callable


class Pulse:
    """Does its work once every `seconds`, for the first time after so long."""

    def __init__(self, seconds: float, work: Callable[[], None]) -> None:
        """Begin."""
        self._seconds, self._work = seconds, work
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peaksweep-pulse", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._work()

    def stop(self, patience: float = 2.0) -> bool:
        """End; return whether the work has ended too, after at most `patience` seconds."""
        self._ended.set()
        self._thread.join(patience)
        return not self._thread.is_alive()
