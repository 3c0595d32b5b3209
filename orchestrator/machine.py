"""Machine: who a process is, such that another can tell whether it still lives.

A process number alone says little: numbers are given again, and every container
and every host has its own. A process is *known* by the boot of its machine, the
namespace its number belongs to, and the moment it was started, which `/proc`
counts in ticks since the boot. Two processes that share the first two see each
other's `/proc`, so either knows at once whether the other lives, however it was
ended. Of a process elsewhere, and where there is no `/proc`, nothing is known.

A process that was killed but not yet taken note of by its parent (a zombie)
does no more work and counts as dead. One that is stopped lives.
"""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

HIDDEN = "hidden"
"""What is known of the start of a process of another user, where `/proc` shows only one's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A process, and what it can know of others."""

    host: str
    """What people call the machine."""
    pid: int
    boot: str
    """Names the boot of the machine; empty where that is not known."""
    space: str
    """Names the namespace that process numbers belong to; empty where that is not known."""
    born: Callable[[int], str | None]
    """When the process of a number was started, None if there is none that lives."""

    def told(self) -> dict[str, object]:
        """Return who this process is, as JSON."""
        return {
            "host": self.host,
            "pid": self.pid,
            "boot": self.boot,
            "space": self.space,
            "born": self.born(self.pid),
        }

    def lives(self, other: Mapping[str, object]) -> bool | None:
        """Whether the process that told of itself lives; None where that cannot be known here."""
        pid = other.get("pid")
        if not self.boot or not self.space or not isinstance(pid, int):
            return None
        if (other.get("boot"), other.get("space")) != (self.boot, self.space):
            return None
        born = self.born(pid)
        return None if born == HIDDEN else born is not None and born == other.get("born")


def here() -> Machine:
    """Return this process."""
    proc = Path("/proc")
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        space = str((proc / "self/ns/pid").readlink())
    except OSError:
        boot = space = ""  # no such system, or not shown: nothing is known of others then
    return Machine(host=socket.gethostname(), pid=os.getpid(), boot=boot, space=space, born=_born)


def _born(pid: int) -> str | None:
    """Return the start of a process in ticks since the boot, None if it is dead."""
    try:
        # The name in brackets may hold spaces and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return HIDDEN if _exists(pid) else None
    if len(fields) < 20:
        return HIDDEN
    return None if fields[0] in "ZXx" else fields[19]


def _exists(pid: int) -> bool:
    """Whether there is a process of this number, though `/proc` does not show it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False  # one's own is shown: this one was started a moment ago, and is another
