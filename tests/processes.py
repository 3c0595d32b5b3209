"""What the operating system says of a process and of those it started."""

from collections.abc import Iterator
from pathlib import Path

LISTENING = "0A"


def descendants(pid: int) -> set[int]:
    """Return the processes started by a process, directly or not, that are alive."""
    parents = dict(_parents())
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # it ended a moment ago
                continue
            yield int(folder.name), int(text.rsplit(")", 1)[1].split()[1])


def title(pid: int) -> str:
    """Return the command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def listening(pid: int) -> set[str]:
    """Return the addresses (hexadecimal, without port) on which a process accepts connections."""
    try:
        inodes = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return set()
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].split(":")[0])
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and runs: it has not ended, and nobody has stopped it."""
    return _state(pid) not in ("", "Z", "T")


def _state(pid: int) -> str:
    """Return the letter of a process's state, empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
