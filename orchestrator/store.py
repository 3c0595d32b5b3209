"""The store: a run folder, and the one way anything gets into it.

Done is a fact on disk. A file is committed whole or not at all, and never over
another: it is written beside its place under a name of its own, then linked to
its name, which fails if the name is taken. So a process may be killed at any
moment, two may do the same work at once, and a reader never meets half a file.
What a file says is recorded in its name or its recipe, so deleting it is how to
have it made again.

Tables that people read are Parquet, small and compressed. Partials are Arrow
files, which hold arrays as memory does: nothing to decode, so that joining them
costs little more than adding. They are written in blocks of rows, and read
where they lie, whole (`table`) or one block at a time (`block`).

Nothing is forced to the disk (that was measured to take 0.1 s a file): should
the whole machine crash, a file may be cut short. `whole` tells, and such a file
counts as missing.

Folders are local for now. Object stores need another commit (a conditional
put) and are refused by name rather than half supported.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.tables import SCHEMAS

PARQUET, ARROW = ".parquet", ".arrow"
_MAGIC = {PARQUET: b"PAR1", ARROW: b"ARROW1"}
"""What every file of a kind begins and ends with."""
RECIPE = b"peaksweep.recipe"
"""Key of a table's metadata that holds the name of the work that made it."""
BLOCK_ROWS = 2048
"""Rows of one block of an Arrow file: of histograms of 256 bins 2 MB, twice that when they are
added up. Smaller blocks cost more in calls than they save in memory."""

Writer = Callable[[Path], None]
"""Writes a file at the path it is given."""


class StoreError(OSError):
    """The run folder cannot be used: not a folder, not writable, or full."""


@dataclass(frozen=True, slots=True)
class Store:
    """A run folder."""

    root: Path

    @classmethod
    def open(cls, where: str | Path) -> "Store":
        """Return the store at a local folder, made if it is not there.

        Raises StoreError if it cannot be made or written, or is not local.
        """
        text = str(where).removeprefix("file://")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
            raise StoreError(
                f"found the run folder {where}, expected a local folder: object stores are designed"
                " but not built yet; give a folder that all nodes share"
            )
        root = Path(text).absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"the run folder {root} cannot be written ({error.strerror}); choose another with"
                " --out"
            ) from error
        return cls(root)

    def path(self, file: str) -> Path:
        """Return the absolute path of a file of the run."""
        return self.root / file

    def exists(self, file: str) -> bool:
        """Whether a file has been committed."""
        return self.path(file).exists()

    def whole(self, file: str) -> bool:
        """Whether a Parquet or Arrow file is there from its first byte to its last.

        Raises StoreError if that cannot be told: what cannot be read now is not cut short.
        """
        path, magic = self.path(file), _MAGIC[Path(file).suffix]
        try:
            if path.stat().st_size < 2 * len(magic):
                return False
            with path.open("rb") as content:
                head = content.read(len(magic))
                content.seek(-len(magic), os.SEEK_END)
                return head == content.read() == magic
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error

    def commit(self, file: str, content: bytes | Writer) -> bool:
        """Commit a file, or what a writer writes, unless it is there; return whether this did it.

        Raises StoreError if the disk is full or the folder read-only, and what the writer raises.
        """
        place = self.path(file)
        beside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                beside.write_bytes(content)
            else:
                content(beside)
            try:
                os.link(beside, place)
            except FileExistsError:
                return False
            return True
        except OSError as error:
            reason = error.strerror or error  # Arrow's errors may have no number
            raise StoreError(f"{place} cannot be written: {reason}") from error
        finally:
            with suppress(OSError):  # where nothing can be written there is nothing to tidy
                beside.unlink(missing_ok=True)

    def replace(self, file: str, content: bytes) -> None:
        """Write a file over an older one in one step: for what is derived from others."""
        place = self.path(file)
        beside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)
            beside.replace(place)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise StoreError(f"{place} cannot be written: {error.strerror}") from error

    def delete(self, file: str) -> None:
        """Forget a file, so that it is made again."""
        self.path(file).unlink(missing_ok=True)

    def files(self, folder: str, ending: str | tuple[str, ...] = (PARQUET, ARROW)) -> list[str]:
        """Return the committed files under a folder of the run, sorted; tables, unless told."""
        found = (
            path.relative_to(self.root).as_posix()
            for path in self.path(folder).rglob("*.*")
            if path.name.endswith(ending) and not path.name.startswith(".")
        )
        return sorted(found)

    def table(self, file: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table of the run; that of an Arrow file lies in the file, not in memory."""
        if file.endswith(PARQUET):
            return pq.ParquetFile(self.path(file)).read(columns=columns)
        table = self._mapped(file).read_all()
        return table if columns is None else table.select(columns)

    def block(self, file: str, number: int) -> pa.RecordBatch:
        """Return one block of rows of an Arrow file; it lies in the file, not in memory."""
        return self._mapped(file).get_batch(number)

    def blocks(self, file: str) -> int:
        """Return the number of blocks of an Arrow file."""
        return int(self._mapped(file).num_record_batches)

    def schema(self, file: str) -> pa.Schema:
        """Return the columns and the metadata of a table of the run."""
        parquet_ = file.endswith(PARQUET)
        return pq.read_schema(self.path(file)) if parquet_ else self._mapped(file).schema

    def _mapped(self, file: str) -> pa.ipc.RecordBatchFileReader:
        return pa.ipc.open_file(pa.memory_map(str(self.path(file))))

    def recipe(self, file: str) -> str:
        """Return the name of the work that made a table."""
        return str((self.schema(file).metadata or {}).get(RECIPE, b"").decode())

    def read_json(self, file: str) -> dict[str, object]:
        """Return a JSON file of the run; empty if it is not there."""
        path = self.path(file)
        if not path.exists():
            return {}
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}


def rows(kind: str, columns: Mapping[str, object], length: int) -> pa.Table:
    """Return a table of this kind (`orchestrator.tables`) from columns.

    A column is a sequence of `length` values, an Arrow array, or one value for
    all rows; columns that are left out are null. Raises KeyError for a column
    that the table does not have.
    """
    schema = SCHEMAS[kind]
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise KeyError(f"table {kind!r} has no columns {sorted(unknown)}")
    return pa.table(list(_arrays(schema, columns, length)), schema=schema)


def _arrays(
    schema: pa.Schema, columns: Mapping[str, object], length: int
) -> Iterator[pa.Array | pa.ChunkedArray]:
    for field in schema:
        value = columns.get(field.name)
        if value is None:
            yield pa.nulls(length, field.type)
        elif isinstance(value, (str, int, float, bool)):
            yield pa.repeat(pa.scalar(value, field.type), length)
        elif isinstance(value, (pa.Array, pa.ChunkedArray)):
            yield value.cast(field.type)
        else:
            yield pa.array(value, field.type)


def parquet(table: pa.Table, recipe: str = "") -> bytes:
    """Return a table as the bytes of a Parquet file that records its recipe's name."""
    metadata = {**(table.schema.metadata or {}), RECIPE: recipe.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def arrow(tables: pa.Table | Iterable[pa.Table], recipe: str = "") -> Writer:
    """Return what writes an Arrow file that records its recipe's name.

    Of many tables of one schema the rows follow each other. Each is taken when the one before is
    written, so they need not be in memory together.
    """

    def write(place: Path) -> None:
        given = iter([tables] if isinstance(tables, pa.Table) else tables)
        first = next(given)
        metadata = {**(first.schema.metadata or {}), RECIPE: recipe.encode()}
        schema = first.schema.with_metadata(metadata)
        none = pa.RecordBatch.from_pylist([], schema)  # so that a file has a block, if an empty one
        with pa.OSFile(str(place), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in chain([first], given):
                named = table.replace_schema_metadata(metadata)
                for batch in named.to_batches(max_chunksize=BLOCK_ROWS) or [none]:
                    writer.write_batch(batch)

    return write
