"""Setbacks: what is done about a task that went wrong.

It is tried again, with what it reads made again if that is gone; a call of many cells is
taken apart; and what fails all the same is set aside as a `Failure`, with what shows why and
the command that does it again by hand. What comes after it is not tried. How often and where
something is tried again is `orchestrator.trials`.
"""

from collections.abc import Callable, Sequence

from orchestrator.pool import Raised
from orchestrator.tasks import Failure, Task
from orchestrator.trials import LOSSES, MEMORY, Trials
from orchestrator.waiting import Waiting

Listener = Callable[[str, Task, dict[str, object]], None]
"""Called with (what happened, task, details): added, started, hedged, done, retried, failed,
blocked."""


class Setbacks:
    """Handles tasks that are no longer under way and not done."""

    def __init__(
        self,
        waiting: Waiting,
        trials: Trials,
        *,
        split: Callable[[Task], Sequence[Task]],
        mend: Callable[[Task], Sequence[Task]],
        command: Callable[[Task], str],
        release: Callable[..., None],
        admit: Callable[[Task], None],
        without: Callable[[Sequence[str]], Sequence[Task]],
        listen: Listener,
    ) -> None:
        """`without` says what is to be done instead of cells that are given up; `release` queues a
        task that may run, `admit` one whose needs are to be looked at.
        """
        self.failures: list[Failure] = []
        self._making: set[str] = set()
        """Files that are made again."""
        self._failed: set[str] = set()
        self._waiting, self._trials = waiting, trials
        self._split, self._mend, self._command = split, mend, command
        self._release, self._admit, self._listen = release, admit, listen
        self._without = without

    def raised(self, event: Raised) -> None:
        """Try a task that raised again, or set it aside."""
        task, error = event.task, event.error
        if event.differs:  # nothing that is done again could tell which answer is wrong
            self.fail(task, error, text=event.traceback, log=event.log)
        elif not self.mended(task, error):
            again = self._trials.raised(task, event.worker)
            if self._apart(task, error):
                return
            if again:
                self._again(task, error)
            else:
                self.fail(task, error, text=event.traceback, log=event.log)

    def mended(self, task: Task, error: str) -> bool:
        """Have what a task reads made again if it is gone; return whether it was."""
        makers = self._mend(task)
        if not makers or not self._trials.mended(task):
            return False
        if any(maker.file in self._failed for maker in makers):
            return False
        self._listen("retried", task, {"error": error, "made_again": [m.file for m in makers]})
        for maker in makers:
            self._waiting.undone(maker.file)
        for one in (*makers, task):
            if one.file not in self._making:  # another reader may have asked for it already
                self._admit(one)
        self._making.update(maker.file for maker in makers)
        return True

    def forget(self, task: Task) -> None:
        """Forget a task that is done."""
        self._making.discard(task.file)
        self._trials.forget(task)

    def lost(self, task: Task, reason: str, memory: bool, *, running: bool) -> bool:
        """Try a task again whose worker was lost, or set it aside; return if it is tried whole.

        `running`: whether it was, or merely stood behind another.
        """
        again = not running or self._trials.lost(task, memory)
        if running and memory and self._apart(task, reason):  # a smaller call holds less
            return False
        if again:
            # It comes next, so that a worker which is lost at it again is not lost at others too.
            self._again(task, reason, first=running)
        elif not self._apart(task, reason):
            why = MEMORY if memory else f"its worker was lost {LOSSES} times"
            self.fail(task, f"{why}: {reason}")
        return again

    def fail(
        self,
        task: Task,
        error: str,
        *,
        text: str = "",
        log: str = "",
        others: Sequence[Task] = (),
    ) -> None:
        """Set a task aside, and with it `others` and all that comes after any of them."""
        blocked = [*others, *(b for t in (task, *others) for b in self._waiting.block(t.file))]
        failure = Failure(
            task=task.name,
            file=task.file,
            label=task.label,
            stage=task.stage,
            error=error,
            traceback=text,
            attempts=max(1, self._trials.times(task)),
            log=log,
            command=self._command(task),
            cells=tuple(c for t in (task, *blocked) for c in t.cells),
            blocked=len(blocked),
        )
        for one in (task, *blocked):
            self.forget(one)
        self._failed.add(task.file)
        self.failures.append(failure)
        about = {"error": error, "blocked": len(blocked), "attempts": failure.attempts}
        self._listen("failed", task, about)
        for follower in blocked:
            self._listen("blocked", follower, {"by": task.label})
        for another in self._without(failure.cells) if failure.cells else ():
            self._listen("added", another, {})
            self._admit(another)

    def _again(self, task: Task, error: str, *, first: bool = False) -> None:
        self._listen("retried", task, {"error": error})
        self._release(task, first)

    def _apart(self, task: Task, error: str) -> bool:
        """Take a task that went wrong apart into smaller ones; return whether that can be done."""
        parts = self._split(task)
        if len(parts) < 2:
            return False
        self._listen("retried", task, {"error": error, "parts": len(parts)})
        for part in parts:
            self._release(part)
        return True
