"""Copies: what a node has fetched of an object store, and what it has put there.

They lie in a folder of the user's own beside other temporary files, and all
processes of the node share them: of many that want an object one fetches it, and
the others wait for it (one that dies meanwhile lets the next). A copy's name has
the object's version (its ETag, or its size and time), so a file that was deleted
and made anew is never mistaken for the one before, and nothing needs to be invalidated. A copy is
written beside its name and renamed, so no process meets half of one.

Copies are what temporary files are: they may be deleted at any time while no
sweep runs, and nothing else bounds them.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from stat import S_ISDIR
from typing import TypeAlias

from orchestrator.files import StoreError, hidden

Info: TypeAlias = Mapping[str, object]
"""What a store says of an object: its size in bytes and, by names of its own, its version."""

_VERSION = ("ETag", "etag", "generation", "md5Hash")
_BYTES = 8
"""Of a version in the name of a copy, which has two digits for each."""
_TIME = ("LastModified", "last_modified", "mtime", "created")


class Copies:
    """The copies of one store's objects on this node."""

    def __init__(self, root: Path) -> None:
        """Keep copies in a folder, made when it is needed."""
        self.root = root
        self._known: dict[str, Path] = {}

    @classmethod
    def of(cls, uri: str) -> "Copies":
        """Return the copies of the store at a URI.

        Raises StoreError where the user's folder of copies is not the user's alone.
        """
        return cls(_own() / _digest(uri))

    def beside(self, file: str) -> Path:
        """Return where a copy can be written before it is kept."""
        place = self.root / file
        place.parent.mkdir(parents=True, exist_ok=True)
        return hidden(place)

    def keep(self, file: str, info: Info, beside: Path) -> None:
        """Make a written file the copy of an object's version."""
        beside.replace(self._at(file, info))

    def has(self, file: str, info: Info) -> Path | None:
        """Return the copy of an object's version; None if there is none."""
        copy = self._at(file, info)
        # After a crash of the machine a copy may be short.
        with suppress(FileNotFoundError):
            if copy.stat().st_size == info["size"]:
                self._known[file] = copy
                return copy
        return None

    def known(self, file: str) -> Path | None:
        """Return the copy that this process had last, of whichever version."""
        copy = self._known.get(file)
        return copy if copy is not None and copy.exists() else None

    @contextmanager
    def alone(self, file: str) -> Iterator[None]:
        """Keep this node's other processes and threads from fetching an object meanwhile.

        There are few locks, so others may wait that want something else; a lock ends with its
        process, and whoever holds one takes no other.
        """
        locks = self.root.with_name(f"{self.root.name}.locks")
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / _digest(file)[:2]).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def forget(self, file: str) -> None:
        """Delete the copies of all versions of an object."""
        self._known.pop(file, None)
        place = self.root / file
        # Other objects' names may end in this one's: a version has a fixed length.
        for copy in place.parent.glob(f"{'[0-9a-f]' * 2 * _BYTES}-{escape(place.name)}"):
            copy.unlink(missing_ok=True)

    def _at(self, file: str, info: Info) -> Path:
        place = self.root / file
        return place.with_name(f"{version(info)}-{place.name}")


def version(info: Info) -> str:
    """Return what tells this content of an object from any other it had or will have."""
    named = next((str(info[k]).strip('"') for k in _VERSION if info.get(k)), None)
    changed = next((str(info[k]) for k in _TIME if info.get(k)), None)
    return _digest(f"{info['size']} {named or changed}")


def _own() -> Path:
    """Return this user's folder of copies, which no other user can read or change."""
    folder = Path(tempfile.gettempdir()) / f"peaksweep-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StoreError(
            f"{folder} is to hold copies of objects, but is no folder of this user alone; remove it"
            " or set TMPDIR to another folder"
        )
    return folder


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).hexdigest()
