"""The store: a run folder, and the one way anything gets into it.

Done is a fact on disk. A file is committed whole or not at all, and never over
another: of many who commit one name, one does. So a process may be killed at any
moment, two may do the same work at once, and a reader never meets half a file.
What a file says is recorded in its name or its recipe, so deleting it is how to
have it made again.

Where the folder is decides how: `files` for folders of this machine or of a
share, `objects` for object stores. Everything is read from a file of this
machine (`path`), for object stores from a copy on the node. Arrow files are read
where they lie, whole (`table`) or one block of rows at a time (`block`).

A store has an epoch, that of the driver it works for, and puts it into the seal
of every table with the checksum of the file (`seals`). Nothing is forced to the
disk (that was measured to take 0.1 s a file): should the whole machine crash, a
file may be cut short, and disks flip bits. `whole` notices the one cheaply,
`sound` both by reading it all. Such a file counts as missing.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import seals
from orchestrator.files import Files, LocalFiles, StoreError, both_ends, elsewhere, refused
from orchestrator.seals import ARROW, MAGIC, PARQUET
from orchestrator.tables import lasting
from orchestrator.tabular import BLOCK_ROWS, RECIPE, Writer, arrow, parquet, rows

__all__ = [
    "ARROW",
    "BLOCK_ROWS",
    "PARQUET",
    "RECIPE",
    "Store",
    "StoreError",
    "Writer",
    "arrow",
    "parquet",
    "rows",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Store:
    """A run folder. It holds no connection, so it can be sent to other processes."""

    place: Path | str
    """An absolute path, or the URI of a folder in an object store."""
    epoch: int = 0
    """Of the driver that this works for; 0 for none."""

    @classmethod
    def of(cls, where: "str | Path | Store") -> "Store":
        """Return the store at a place, as it is: nothing is made, nothing tried."""
        if isinstance(where, Store):
            return where
        if elsewhere(str(where)):
            return cls(str(where).rstrip("/"))
        return cls(Path(str(where).removeprefix("file://")).absolute())

    @classmethod
    def open(cls, where: str | Path) -> "Store":
        """Return the store at a folder or a URI that fsspec knows, made if it is not there.

        Raises StoreError if it cannot be made or written, if the URI's driver is not installed, or
        if an object store would put a file over another that has its name.
        """
        store = cls.of(where)
        store._files.probe()
        return store

    def at(self, epoch: int) -> "Store":
        """Return this store for the driver of an epoch."""
        return replace(self, epoch=epoch)

    @property
    def uri(self) -> str:
        """What people are told of where it is: an absolute path, or a URI."""
        return str(self.place)

    @property
    def root(self) -> Path:
        """The folder; of an object store the one with the copies of this node."""
        return self._files.root

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine, or one that machines share."""
        return isinstance(self.place, Path)

    @property
    def _files(self) -> Files:
        if isinstance(self.place, Path):
            return LocalFiles(self.place)
        return _objects(self.place, os.getpid())

    def where(self, file: str) -> str:
        """Return what people are told of where a file is: an absolute path, or a URI."""
        return self._files.where(file)

    def path(self, file: str) -> Path:
        """Return where on this machine a file can be read; in a local store also where it will lie.

        In an object store that is a copy, fetched if need be; raises FileNotFoundError there.
        """
        return self._files.find(file)

    def paths(self, files: Sequence[str]) -> list[Path]:
        """Return where on this machine these tables can be read, without those not whole.

        Many are fetched at once from an object store. Raises StoreError as `whole` does.
        """
        there, found = [], self._files.found(files)
        if not self.local and not all(path.exists() for path in found):
            found = self._files.found(files)  # another process has taken copies away meanwhile
        for path in found:
            with self._reading(path.name):
                there += [path] if _whole(path) else []
        return there

    def exists(self, file: str) -> bool:
        """Whether a file has been committed."""
        return self._files.exists(file)

    def size(self, file: str) -> int:
        """Return a file's bytes; raises FileNotFoundError."""
        return self._files.size(file)

    def whole(self, file: str) -> bool:
        """Whether a Parquet or Arrow file is there from its first byte to its last; cheap.

        Raises StoreError if that cannot be told: what cannot be read now is not cut short.
        """
        magic = MAGIC[Path(file).suffix]
        with self._reading(file):
            return self._files.ends(file, len(magic)) == (magic, magic)
        return False

    def sound(self, file: str) -> bool:
        """Whether every byte of a table is there as it was committed; reads all of it.

        A file without a seal is to be readable, with the columns that its folder's tables always
        had. Raises StoreError as `whole` does.
        """
        columns = lasting(file)
        with self._reading(file):
            return self._read(file, lambda path: _whole(path) and seals.intact(path, columns))
        return False

    def epoch_of(self, file: str) -> int | None:
        """Return the epoch under which a table was committed; None where none is recorded."""
        with self._reading(file):
            return self._read(file, seals.epoch_of)
        return None

    def _read(self, file: str, read: Callable[[Path], T], *, known: bool = False) -> T:
        """Read a file from where it can be read; from where it was last, if it is `known`."""
        find = self._files.known if known else self._files.find
        try:
            return read(find(file))
        except FileNotFoundError:  # it is gone, or another process has taken the node's copy away
            return read(self._files.find(file))

    @contextmanager
    def _reading(self, file: str) -> Iterator[None]:
        # What is asked of a file that is not there is answered after the block.
        with _told(self.where(file), "read"), suppress(FileNotFoundError):
            yield

    def commit(self, file: str, content: bytes | Writer) -> bool:
        """Commit a file, or what a writer writes, unless it is there; return whether this did it.

        Raises StoreError if the disk is full or the folder read-only, and what the writer raises.
        """
        return self._put(file, content, self._files.commit)

    def replace(self, file: str, content: bytes) -> None:
        """Write a file over an older one in one step: for what is derived from others."""
        self._put(file, content, self._files.replace)

    def _put(self, file: str, content: bytes | Writer, act: Callable[[str, Path], object]) -> bool:
        by_way = "" if self.local else f" (by way of {self.root}, which TMPDIR sets)"
        with _told(self.where(file) + by_way, "written"):
            beside = self._files.beside(file)
            try:
                if isinstance(content, bytes):
                    beside.write_bytes(content)
                else:
                    content(beside)
                if file.endswith((PARQUET, ARROW)):
                    seals.stamp(beside, self.epoch)
                return bool(act(file, beside))
            finally:
                with suppress(OSError):  # where nothing can be written there is nothing to tidy
                    beside.unlink(missing_ok=True)

    def delete(self, file: str) -> None:
        """Forget a file, so that it is made again."""
        with _told(self.where(file), "deleted"):
            self._files.delete(file)

    def files(self, folder: str, ending: str | tuple[str, ...] = (PARQUET, ARROW)) -> list[str]:
        """Return the committed files under a folder of the run, sorted; tables, unless told."""
        with _told(self.where(folder), "read"):
            found = self._files.listed(folder)
        return sorted(f for f in found if f.endswith(ending) and not Path(f).name.startswith("."))

    def table(self, file: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table of the run; that of an Arrow file lies in the file, not in memory."""
        if file.endswith(PARQUET):
            return self._read(file, lambda path: pq.ParquetFile(path).read(columns=columns))
        table = self._read(file, _mapped).read_all()
        return table if columns is None else table.select(columns)

    def block(self, file: str, number: int) -> pa.RecordBatch:
        """Return one block of rows of an Arrow file; it lies in the file, not in memory.

        Of a file that was looked at before: an object store is not asked again for every block.
        """
        return self._read(file, _mapped, known=True).get_batch(number)

    def blocks(self, file: str) -> int:
        """Return the number of blocks of an Arrow file."""
        return int(self._read(file, _mapped, known=True).num_record_batches)

    def schema(self, file: str) -> pa.Schema:
        """Return the columns and the metadata of a table; StoreError where it cannot be read."""
        try:
            if file.endswith(PARQUET):
                return self._read(file, pq.read_schema)
            return self._read(file, _mapped).schema
        except FileNotFoundError:
            raise
        except OSError as error:  # Arrow's, of a table that is whole at both its ends alone
            raise refused(self.where(file), "read", error) from error

    def recipe(self, file: str) -> str:
        """Return the name of the work that made a table."""
        return str((self.schema(file).metadata or {}).get(RECIPE, b"").decode())

    def read(self, file: str) -> bytes:
        """Return the content of a small file as it is now; raises FileNotFoundError."""
        return self._files.read(file)

    def read_json(self, file: str) -> dict[str, object]:
        """Return a JSON file of the run; empty if it is not there or no JSON of ours.

        Raises StoreError if it cannot be read.
        """
        content: object = None
        with self._reading(file), suppress(ValueError, RecursionError):  # the latter if very deep
            content = json.loads(self.read(file))
        return content if isinstance(content, dict) else {}


@contextmanager
def _told(place: str, act: str) -> Iterator[None]:
    """Say in a sentence what could not be done to a file or folder."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise refused(place, act, error) from error


@lru_cache
def _objects(uri: str, process: int) -> Files:
    """Return this process's connection to an object store."""
    from orchestrator.objects import ObjectFiles  # its libraries are for those who use one

    return ObjectFiles(uri)


def _whole(path: Path) -> bool:
    magic = MAGIC[path.suffix]
    return both_ends(path, len(magic)) == (magic, magic)


def _mapped(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))
