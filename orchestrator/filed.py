"""Filed: the digest of the files that a source consists of, and which files a folder holds.

The digest of one file is that of its bytes, so a copy under another name is the same
source. Where there are more, their paths count too: in a folder of images they say the
class, in a folder of tables the split.

Hashing reads everything. The digest of a large file is kept (`workers.digests`); that of a
folder of many small ones is kept here, under the identities of all: paths, sizes, inodes and
times. A file that changed within the last seconds is never believed to be settled.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from workers import digests

WORTH_KEEPING = 64 * 2**20
"""Bytes of a folder below which reading it is as quick as asking."""


def digest(files: Sequence[Path], identity: str) -> str:
    """Return the SHA-256, hexadecimal, of files, their places in a folder and an identity.

    Raises OSError where a file cannot be read.
    """
    if len(files) < 2 and not identity:
        # Named so since the first version; one file needs no name to be told from others.
        own = [bytes.fromhex(digests.of_file(file)) for file in files]
        return hashlib.sha256(b"".join(own)).hexdigest()
    told = f"{_folder(files)}\0{identity}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(told).hexdigest()


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names; what begins with a dot is none.

    Raises OSError where a folder cannot be read.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from walk(Path(entry.path))
        elif entry.is_file():  # no device and no pipe
            yield Path(entry.path)


def saved(files: Sequence[Path]) -> list[Path]:
    """Return the files without what `datasets` keeps beside a set that it saved (`cache-*.arrow`).

    Where a `state.json` lists the files of a set, those of its folder are the set. Raises
    ValueError where one of them is gone.
    """
    listed: dict[Path, set[str]] = {}
    for state in (file for file in files if file.name == "state.json"):
        with suppress(ValueError, KeyError, TypeError):  # somebody else's
            told = json.loads(state.read_bytes())["_data_files"]
            listed[state.parent] = {one["filename"] for one in told}
    for folder, names in listed.items():
        gone = next((name for name in sorted(names) if not (folder / name).is_file()), None)
        if gone is not None:
            raise ValueError(f"{folder / 'state.json'} lists {gone!r}, which is not there")
    return [
        file
        for file in files
        if not (file.name.endswith(".arrow") and file.parent in listed)
        or file.name in listed[file.parent]
    ]


def _folder(files: Sequence[Path]) -> str:
    if len(files) < 2:
        return "".join(map(digests.of_file, files))
    top = os.path.commonpath(files)
    stats = [file.stat() for file in files]
    seen = hashlib.sha256()
    for file, stat in zip(files, stats, strict=True):
        told = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        seen.update(f"{file}\0{told}\n".encode("utf-8", "surrogateescape"))
    place = digests.cache() / "folders" / seen.hexdigest()[:32]
    if (kept := digests.kept(place)) is not None:
        return kept
    total = hashlib.sha256()
    for file in files:
        name = os.path.relpath(file, top)
        total.update(f"{name}\0{digests.of_file(file)}\n".encode("utf-8", "surrogateescape"))
    newest = max(max(s.st_mtime_ns, s.st_ctime_ns) for s in stats)
    settled = time.time_ns() - newest > digests.SETTLED
    same = [(f.stat().st_size, f.stat().st_mtime_ns) for f in files] == [
        (s.st_size, s.st_mtime_ns) for s in stats
    ]
    if settled and same and sum(s.st_size for s in stats) > WORTH_KEEPING:
        digests.keep(place, total.hexdigest())
    return total.hexdigest()
