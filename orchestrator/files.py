"""Files: how a file gets its name in a folder of this machine, or one that machines share.

Written beside its place under a hidden name of its own, then linked to its
name, which fails if the name is taken: the name appears at once, with all of
the file behind it, and only one of many who try gets it.

Some file systems have no links (Windows shares, some in user space). There the
name is created first, which also only one can do, and the content is copied in
behind it. A reader can then meet half a file, and a crash can leave one; both
show (`Store.whole`, `Store.sound`), so such a file counts as missing and is made
again. That is weaker than a link, and nowhere wrong.

`Files` is what a `Store` needs of a place; `objects` has it for object stores.
"""

import errno
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import copyfileobj
from typing import Protocol

_SCHEME = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:[:/]")
_PASSWORD = re.compile(r"(?:[A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]*://[^/@]*:(?!\d*/)[^@]*@")
"""After the user's name; it may have slashes, and a port is none. URIs can be chained."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV)
"""What file systems say that have no links."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


SECRET = (
    "a password in it, which logs and the run folder would show; write it without: every node"
    " takes what it needs from its environment, such as AWS_SECRET_ACCESS_KEY"
)
"""What is said of a URI that `has_password`."""


class StoreError(OSError):
    """The run folder cannot be used: not a folder, not writable, or full."""


class Files(Protocol):
    """A place of files, which are named by paths relative to it."""

    @property
    def root(self) -> Path:
        """The folder of this machine in which files lie, or copies of them."""

    def probe(self) -> None:
        """Try whether files can be committed here; a folder that is not there is made.

        Raises StoreError if not.
        """

    def where(self, file: str) -> str:
        """Return what people are told of where a file lies."""

    def beside(self, file: str) -> Path:
        """Return where on this machine a file can be written before it gets its name."""

    def commit(self, file: str, beside: Path) -> bool:
        """Give a written file its name unless it is taken; return whether this did it."""

    def replace(self, file: str, beside: Path) -> None:
        """Give a written file its name, in place of an older one, in one step."""

    def find(self, file: str) -> Path:
        """Return where on this machine a file's content of now can be read.

        A file that is not there raises FileNotFoundError here or when it is opened.
        """

    def known(self, file: str) -> Path:
        """Return like `find`, but of a file that was found before what it was then."""

    def found(self, files: Sequence[str]) -> list[Path]:
        """Return `find` of many files, without those that are gone."""

    def read(self, file: str) -> bytes:
        """Return a small file's content; raises FileNotFoundError."""

    def ends(self, file: str, length: int) -> tuple[bytes, bytes]:
        """Return the first bytes of a file and the last, fewer if they would overlap."""

    def size(self, file: str) -> int:
        """Return a file's bytes; raises FileNotFoundError."""

    def exists(self, file: str) -> bool:
        """Whether a file has its name."""

    def delete(self, file: str) -> None:
        """Take a file away; one that is not there is no error."""

    def listed(self, folder: str) -> list[str]:
        """Return the files under a folder, in no order, hidden ones too."""


def elsewhere(where: str) -> bool:
    """Whether a place is named by a URI that is not of this machine's folders."""
    return _SCHEME.match(where) is not None


def has_password(where: str) -> bool:
    """Whether a URI has a password in it, which logs and the run folder would show."""
    return _PASSWORD.match(where) is not None


def refused(place: str, act: str, error: OSError) -> StoreError:
    """Return the error that says what could not be done with a place, why, and the cure."""
    reason = error.strerror or str(error)  # Arrow's errors may have no number
    if error.errno in _FULL or "No space left" in reason:
        reason += "; free some space there or choose another folder: what is done is kept"
    elif error.errno in _FORBIDDEN:
        reason += "; let this user write there or choose another folder"
    return StoreError(f"{place} cannot be {act}: {reason}")


def hidden(place: Path) -> Path:
    """Return a name of its own beside a place; what begins with a dot is no file of a run."""
    return place.with_name(f".{place.name}.{uuid.uuid4().hex}")


def both_ends(path: Path, length: int) -> tuple[bytes, bytes]:
    """Return the first bytes of a file of this machine and the last, which do not overlap."""
    with path.open("rb") as content:
        head = content.read(length)
        content.seek(max(length, content.seek(0, os.SEEK_END) - length))
        return head, content.read()


class LocalFiles:
    """A folder of this machine, or one that machines share."""

    def __init__(self, root: Path) -> None:
        """Name files under a folder, by its absolute path."""
        self.root = root

    def probe(self) -> None:
        """Make the folder, and a file in it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.beside("probe")
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"the run folder {self.root} cannot be written ({error.strerror}); choose another"
                " with --out"
            ) from error

    def where(self, file: str) -> str:
        """Return the absolute path."""
        return str(self.root / file)

    def beside(self, file: str) -> Path:
        """Return a hidden name in the file's folder, which is made.

        Raises FileNotFoundError where the run folder itself has gone: a share that is not mounted
        any more would else be written into the disk below.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, f"the folder {self.root} is gone; bring it back and run again"
            )
        place = self.root / file
        place.parent.mkdir(parents=True, exist_ok=True)
        return hidden(place)

    def commit(self, file: str, beside: Path) -> bool:
        """Link a written file to its name; where there are no links, copy it into its name."""
        place = self.root / file
        try:
            try:
                os.link(beside, place)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _copied(beside, place)
        except FileExistsError:
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder has this name") from None
            return False
        return True

    def replace(self, file: str, beside: Path) -> None:
        """Rename a written file over an older one."""
        beside.replace(self.root / file)

    def find(self, file: str) -> Path:
        """Return the path, whether there is a file or not."""
        return self.root / file

    known = find

    def found(self, files: Sequence[str]) -> list[Path]:
        """Return the paths."""
        return [self.root / file for file in files]

    def read(self, file: str) -> bytes:
        """Return the content."""
        return (self.root / file).read_bytes()

    def ends(self, file: str, length: int) -> tuple[bytes, bytes]:
        """Return the first and last bytes."""
        return both_ends(self.root / file, length)

    def size(self, file: str) -> int:
        """Return the bytes."""
        return (self.root / file).stat().st_size

    def exists(self, file: str) -> bool:
        """Whether the path exists."""
        return (self.root / file).exists()

    def delete(self, file: str) -> None:
        """Unlink the path."""
        (self.root / file).unlink(missing_ok=True)

    def listed(self, folder: str) -> list[str]:
        """Walk a folder; raises OSError where it cannot be read, since nothing would look done."""

        def unread(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        walked = os.walk(self.root / folder, onerror=unread)
        return [
            (Path(at) / name).relative_to(self.root).as_posix()
            for at, _, names in walked
            for name in names
        ]


def _copied(beside: Path, place: Path) -> None:
    """Copy a file into a name that this creates; raises FileExistsError if it is taken."""
    with place.open("xb") as copy:
        try:
            with beside.open("rb") as content:
                copyfileobj(content, copy, 1 << 20)
            copy.flush()
        except BaseException:
            with suppress(OSError):
                place.unlink()
            raise
