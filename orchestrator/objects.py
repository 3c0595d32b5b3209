"""Objects: a run folder in an object store, by any driver of fsspec.

An object appears whole, at once, when its last byte has arrived; it cannot be
linked or renamed. What makes a commit create-only is the condition of the put
(S3's `If-None-Match: *`, Google's generation 0): of many who put one name, one
is answered yes. fsspec says it as `mode="create"`. Whether a store keeps to it is
tried when a folder is opened, and one that does not is refused; so is a driver
that looks first and writes then, which two can do at once.

A put that is tried again because its answer was lost finds its own object and is
told that the name is taken. So False means that the file is there, not that
another made it; who has to know writes who he is into the file.

Files are read from the node's `copies`; what is committed here is kept as one, not
fetched.

Options come from the environment as the drivers take them (`AWS_ENDPOINT_URL`,
`FSSPEC_S3_…`). Connections do not survive a fork, so every process makes its own.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import fsspec
from fsspec.asyn import AsyncFileSystem

from orchestrator.copies import Copies, Info, version
from orchestrator.files import StoreError, both_ends

_ONE = threading.RLock()
"""Drivers that are not asynchronous are used by one thread at a time: few expect more."""
_TURNS = 6
"""How often something is tried that another's doing can spoil."""
_AT_ONCE = 8
"""Files fetched at once."""
_TAKEN, _CONFLICT = ("PreconditionFailed", "412"), ("ConditionalRequestConflict",)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Extras of the package, by the beginning of a URI."""


class ObjectFiles:
    """A run folder in an object store."""

    def __init__(self, uri: str) -> None:
        """Connect this process to a store.

        Raises StoreError where its driver is not installed or not known.
        """
        self.uri = uri.rstrip("/")
        self._fs, base = _connected(self.uri)
        self._base = base.rstrip("/")
        self._copies = Copies.of(self.uri)
        self._alone = nullcontext() if isinstance(self._fs, AsyncFileSystem) else _ONE

    @property
    def root(self) -> Path:
        """The folder of this node's copies."""
        return self._copies.root

    def probe(self) -> None:
        """Try whether files can be put here, and whether a name that is taken stays so.

        Raises StoreError if not.
        """
        if _looks_first(self._fs):
            first = second = True
        else:
            name = f".probe-{uuid.uuid4().hex}"
            try:
                first, second = self._create(name, b"1"), self._create(name, b"2")
                self.delete(name)
            except OSError as error:
                raise StoreError(
                    f"the run folder {self.uri} cannot be written ({error}); choose another with"
                    " --out"
                ) from error
        if not first or second:
            raise StoreError(
                f"the run folder {self.uri} cannot be used: the store does not refuse to put a file"
                " under a name that is taken, so two could spoil each other's work; choose a local"
                " folder or a store with conditional writes (S3, Google Cloud Storage) with --out"
            )

    def where(self, file: str) -> str:
        """Return the file's URI."""
        return f"{self.uri}/{file}"

    def beside(self, file: str) -> Path:
        """Return a name among the copies."""
        return self._copies.beside(file)

    def commit(self, file: str, beside: Path) -> bool:
        """Put a file if its name is free; what was put is kept as a copy."""
        if not self._create(file, beside.read_bytes()):
            return False
        with suppress(FileNotFoundError):  # deleted since
            info = self._info(file)
            if info["size"] == beside.stat().st_size:
                self._copies.keep(file, info, beside)
        return True

    def replace(self, file: str, beside: Path) -> None:
        """Put a file over an older one."""
        with self._told("written", file):
            self._fs.pipe_file(self._path(file), beside.read_bytes())

    def find(self, file: str) -> Path:
        """Return the copy of a file's version of now, fetched if it is not there."""
        return self._fetched(file, self._info(file))

    def known(self, file: str) -> Path:
        """Return the copy of the version that this process found last."""
        return self._copies.known(file) or self.find(file)

    def found(self, files: Sequence[str]) -> list[Path]:
        """Return the copies of many files: one listing of each folder, some fetched at once."""
        infos: dict[str, Info] = {}
        for folder in {file.split("/")[0] for file in files if "/" in file}:
            infos |= self._listing(folder)

        def one(file: str) -> Path | None:
            try:
                return self._fetched(file, infos.get(file) or self._info(file))
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [copy for copy in pool.map(one, files) if copy is not None]

    def read(self, file: str) -> bytes:
        """Return an object's content, without a copy."""
        with self._told("read", file):
            return bytes(self._fs.cat_file(self._path(file)))

    def ends(self, file: str, length: int) -> tuple[bytes, bytes]:
        """Return the first and last bytes: of the copy if there is one, else no more is fetched."""
        info = self._info(file)
        copy, size = self._copies.has(file, info), int(str(info["size"]))
        if copy is not None:
            with suppress(FileNotFoundError):  # another process takes it away now
                return both_ends(copy, length)
        if size < 2 * length:  # a range of nothing cannot be asked for
            content = self.read(file)
            return content[:length], content[length:]
        with self._told("read", file):
            head = self._fs.cat_file(self._path(file), start=0, end=length)
            tail = self._fs.cat_file(self._path(file), start=size - length, end=size)
        return bytes(head), bytes(tail)

    def size(self, file: str) -> int:
        """Return an object's bytes."""
        return int(str(self._info(file)["size"]))

    def exists(self, file: str) -> bool:
        """Whether there is such an object."""
        try:
            self._info(file)
        except FileNotFoundError:
            return False
        return True

    def delete(self, file: str) -> None:
        """Delete an object and its copies on this node."""
        with suppress(FileNotFoundError), self._told("deleted", file):
            self._fs.rm_file(self._path(file))
        self._copies.forget(file)

    def listed(self, folder: str) -> list[str]:
        """Return the objects under a folder: one listing, however deep they lie."""
        return list(self._listing(folder))

    def _listing(self, folder: str) -> dict[str, Info]:
        with suppress(FileNotFoundError), self._told("listed", folder):
            found = self._fs.find(self._path(folder), detail=True)
            return {path.removeprefix(f"{self._base}/"): i for path, i in found.items()}
        return {}

    def _path(self, file: str) -> str:
        return f"{self._base}/{file}"

    def _info(self, file: str) -> Info:
        with self._told("read", file):
            info: Info = self._fs.info(self._path(file))
        if info["type"] != "file":
            raise FileNotFoundError(self.where(file))
        return info

    def _fetched(self, file: str, info: Info) -> Path:
        for _ in range(_TURNS):
            copy = self._copies.has(file, info)
            if copy is not None:
                return copy
            with self._copies.alone(file):
                if self._copies.has(file, info) is None:  # nobody fetched it while we waited
                    info = self._download(file, info)
        raise StoreError(f"{self.where(file)} cannot be read: it changes while it is fetched")

    def _download(self, file: str, info: Info) -> Info:
        """Fetch an object, and keep the copy if it was of one version; return the one of now."""
        beside = self.beside(file)
        try:
            with self._told("read", file):
                self._fs.get_file(self._path(file), str(beside))
            now = self._info(file)
            if version(now) == version(info) and beside.stat().st_size == info["size"]:
                self._copies.keep(file, info, beside)
            return now
        finally:
            beside.unlink(missing_ok=True)

    def _create(self, file: str, content: bytes) -> bool:
        for turn in range(_TURNS):
            try:
                with self._told("written", file):
                    self._fs.pipe_file(self._path(file), content, mode="create")
                return True
            except OSError as error:
                if isinstance(error, FileExistsError) or _says(error, _TAKEN):
                    return False
                if not _says(error, _CONFLICT) or turn == _TURNS - 1:
                    raise
                time.sleep(0.1 * 2**turn)  # another is putting the same name: who, is not settled
        return False

    @contextmanager
    def _told(self, act: str, file: str) -> Iterator[None]:
        """Let a driver work, and say what it could not do: each has errors of its own."""
        with self._alone:
            try:
                yield
            except (FileNotFoundError, FileExistsError, StoreError):
                raise
            except Exception as error:
                raise StoreError(f"{self.where(file)} cannot be {act}: {_short(error)}") from error


def _connected(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return a driver that remembers no listings, and the path of a URI in its store."""
    scheme = uri.split(":")[0]
    try:
        fs, base = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        cure = f"pip install 'peaksweep[{extra}]'" if extra else f"install it: {error}"
        raise StoreError(
            f"the run folder {uri} needs a driver that is not installed; {cure}"
        ) from None
    except Exception as error:  # each driver has errors of its own
        raise StoreError(
            f"the run folder {uri} cannot be used ({_short(error)}); give a local folder or a URI"
            " that fsspec knows, such as s3://bucket/folder"
        ) from error
    return fs, str(base)


def _short(error: Exception) -> str:
    """Return the first line of what a driver says; some go on for pages."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _looks_first(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether a driver has no conditional put of its own, but what fsspec does in its place."""
    generic = type(fs).pipe_file is fsspec.AbstractFileSystem.pipe_file
    return generic and not isinstance(fs, AsyncFileSystem)


def _says(error: BaseException | None, codes: Sequence[str]) -> bool:
    """Whether an error, or one that it came from, has one of these codes of a store."""
    while error is not None:
        response = getattr(error, "response", None)
        told = response.get("Error", {}) if isinstance(response, Mapping) else {}
        if str(told.get("Code")) in codes or str(getattr(error, "code", None)) in codes:
            return True
        error = error.__cause__
    return False
