"""Digests: the SHA-256 of files, kept so that large ones are read once and not once a replica.

A model is named by the digest of its weights, and every replica compares it
before it computes. Reading 14 GB to do that takes ten seconds and more, a
replica; a run of hundreds would read terabytes to learn the same thing. So the
digest of a large file is kept in the user's cache, under the file's identity:
path, inode, size, and the times, in nanoseconds, at which its content and its
inode last changed. A write, a replacement, a restored time stamp, another file
under the same name: each changes one of them, and then the file is read again.

What identity cannot see is not seen: a disk that rots silently gives the digest
of the day it was well. A file that changed within the last seconds is read
again too, because a file system's clock may not tell two quick writes apart,
and one that changes while it is read is never kept.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROVISIONAL = "provisional "
"""How the digest of a model begins whose weights nobody has read: it is known by its
configuration alone (`workers.loading.imagined`)."""
CHUNK = 1 << 22
"""Bytes read at a time."""
WORTH_KEEPING = 1 << 20
"""Bytes below which reading a file is as quick as looking its digest up."""
SETTLED = 2 * 10**9
"""Nanoseconds for which a file must have been left alone before its digest is kept."""
READERS = 4
"""Files read at once; more only make a disk seek."""


def of_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the names and contents of files, in order of name.

    Raises OSError where one cannot be read.
    """
    total = hashlib.sha256()
    ordered = sorted(files)
    with ThreadPoolExecutor(READERS) as readers:
        for file, own in zip(ordered, readers.map(of_file, ordered), strict=True):
            total.update(f"{file.name}\0{own}\n".encode())
    return total.hexdigest()


def of_file(file: Path) -> str:
    """Return the SHA-256 of a file's content, from the cache where its identity is unchanged.

    Raises OSError where it cannot be read.
    """
    before = file.stat()
    if before.st_size < WORTH_KEEPING:
        return _read(file)
    place = _place(file, before)
    if (found := kept(place)) is not None:
        return found
    settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED
    found = _read(file)
    if settled and _identity(file, file.stat()) == _identity(file, before):
        keep(place, found)
    return found


def unread(files: Iterable[Path]) -> int:
    """Return how many bytes `of_files` would read for digests that are not kept."""
    stats = {file: file.stat() for file in files}
    return sum(
        stat.st_size
        for file, stat in stats.items()
        if stat.st_size < WORTH_KEEPING or kept(_place(file, stat)) is None
    )


def cache() -> Path:
    """Return the folder in which what is known of models and files is kept for this user."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "peaksweep"


def kept(place: Path) -> str | None:
    """Return the digest that a file of the cache holds; None where it holds none."""
    try:
        found = place.read_text("ascii")
    except (OSError, ValueError):
        return None
    whole = len(found) == 64 and set(found) <= set("0123456789abcdef")
    return found if whole else None


def keep(place: Path, text: str) -> None:
    """Put a text into the cache, whole or not at all; where it cannot be written, do nothing."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f"{place.name}.{os.getpid()}.{id(text)}")
        beside.write_text(text, "utf-8")
        beside.replace(place)
    except OSError:
        return  # a cache that cannot be written only costs time


def _identity(file: Path, stat: os.stat_result) -> str:
    told = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return "\0".join((str(file.resolve()), *map(str, told)))


def _place(file: Path, stat: os.stat_result) -> Path:
    name = hashlib.sha256(os.fsencode(_identity(file, stat))).hexdigest()
    return cache() / "digests" / name[:32]


def _read(file: Path) -> str:
    own = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            own.update(chunk)
    return own.hexdigest()
