"""Scratch: tables too large for memory, in files without a name.

What is made of the answers of a sweep needs them several times and in other orders than they
were written in. `Spill` takes frames as they come and gives back those of one bucket; `Matrix`
is a matrix of float64 of which some rows are asked for at a time. Where there is little, both
keep it in memory.

The files lie in the folder for temporary files (`TMPDIR`, else /tmp) and have no name there:
whatever ends the process, however it ends, frees them, and nobody finds half of one. Reads
are reads, never maps, so memory is what was asked for.

Weak where that folder is itself in memory, as some systems mount it: then this saves
nothing, and `TMPDIR` should name a disk.

Shapes: C rows, G columns, H of them that are kept; `...` any axes.
"""

import io
import os
import tempfile
import weakref
from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 2**21
"""How many rows of a table, or numbers of a matrix, are taken at once. Rows of answers are worth
about 120 bytes each, and are copied twice while they are sorted."""


class ScratchError(OSError):
    """The folder for temporary files is full, or cannot be written."""


class _File:
    """A file without a name."""

    def __init__(self) -> None:
        try:
            content = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 – closed by the finalizer
        except OSError as error:
            raise _refused(error) from error
        self._number, self.size = content.fileno(), 0
        weakref.finalize(self, content.close)

    def write(self, content: bytes | memoryview, start: int) -> None:
        view = memoryview(content).cast("B")
        self.size = max(self.size, start + len(view))
        while view:
            try:
                done = os.pwrite(self._number, view, start)
            except OSError as error:
                raise _refused(error) from error
            view, start = view[done:], start + done

    def read(self, into: memoryview, start: int) -> None:
        view = into.cast("B")
        while view:
            done = os.preadv(self._number, [view], start)
            if not done:
                raise ScratchError(f"a temporary file ends before byte {start}, expected more")
            view, start = view[done:], start + done


def _refused(error: OSError) -> ScratchError:
    return ScratchError(
        f"a temporary file cannot be written under {tempfile.gettempdir()} ({error.strerror});"
        " tables of many answers need room there, some 60 to 100 bytes per row of `results`: free"
        " some, or set TMPDIR to a folder on a larger disk"
    )


class Spill:
    """Frames of one schema, by the number of their bucket."""

    def __init__(self, *, filed: bool) -> None:
        """Hold nothing yet; `filed` says whether frames go to a file."""
        self._file = _File() if filed else None
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._frames: dict[int, list[pl.DataFrame]] = {}

    def add(self, bucket: int, frame: pl.DataFrame) -> None:
        """Take in rows of a bucket. Raises ScratchError."""
        if self._file is None:
            self._frames.setdefault(bucket, []).append(frame)
            return
        content = io.BytesIO()
        frame.write_ipc(content, compression="lz4")
        place = self._file.size, content.tell()
        self._file.write(content.getbuffer(), place[0])
        self._places.setdefault(bucket, []).append(place)

    @property
    def buckets(self) -> list[int]:
        """Buckets that have a row, ascending."""
        return sorted({*self._places, *self._frames})

    def take(self, bucket: int) -> pl.DataFrame:
        """Return the rows of a bucket, in no order that matters, and forget them."""
        frames = self._frames.pop(bucket, [])
        for start, length in self._places.pop(bucket, []):
            assert self._file is not None
            content = bytearray(length)
            self._file.read(memoryview(content), start)
            frames.append(pl.read_ipc(io.BytesIO(content)))
        return pl.concat(frames, rechunk=True)


class Matrix:
    """Numbers, (C, G), that are written by runs of rows and read by rows."""

    def __init__(self, rows: int, columns: int, *, filed: bool) -> None:
        """Make a matrix that is yet to be written; `filed` says whether it goes to a file."""
        self.rows, self._columns = rows, columns
        self._file = _File() if filed else None
        self._values = np.empty((0 if filed else rows, columns))
        self._kept_G: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, values_CG: Floats) -> "Matrix":
        """Return a matrix in memory."""
        made = cls(0, values_CG.shape[1], filed=False)
        made.rows, made._values = len(values_CG), values_CG
        return made

    @property
    def filed(self) -> bool:
        """Whether it lies in a file."""
        return self._file is not None

    @property
    def columns(self) -> int:
        """Columns that are kept, H; all where none was chosen."""
        return self._columns if self._kept_G is None else int(self._kept_G.sum())

    def choose(self, kept_G: NDArray[np.bool_]) -> "Matrix":
        """Return these numbers with some of the columns, (C, H)."""
        made = Matrix(0, self._columns, filed=False)
        made.rows, made._file, made._values = self.rows, self._file, self._values
        made._kept_G = kept_G
        return made

    def write(self, start: int, values_XG: Floats) -> None:
        """Write rows, from row `start` on. Raises ScratchError."""
        if self._file is None:
            self._values[start : start + len(values_XG)] = values_XG
        elif values_XG.size:
            content = np.ascontiguousarray(values_XG)
            self._file.write(content.data, start * self._columns * content.itemsize)

    def blocks(self) -> Iterator[Integers]:
        """Yield runs of rows of about `BLOCK` numbers; no row is alone if there are others.

        Sums over the columns of two rows or more run column by column, those of a single one
        in pairs (numpy): with two at least a sum is the same to the last bit in any block.
        """
        size = max(2, BLOCK // max(self._columns, 1))
        starts = list(range(0, max(self.rows - 1, 1), size))
        for start, stop in zip(starts, [*starts[1:], self.rows], strict=True):
            yield np.arange(start, stop)

    def __getitem__(self, rows: Integers) -> Floats:
        """Return rows, (..., H); −1 is the last one."""
        values = self._values[rows] if self._file is None else self._read(rows)
        return values if self._kept_G is None else values[..., self._kept_G]

    def _read(self, rows: Integers) -> Floats:
        assert self._file is not None
        distinct_X, place = np.unique(rows % max(self.rows, 1), return_inverse=True)
        values_XG = np.empty((len(distinct_X), self._columns))
        width = self._columns * values_XG.itemsize
        if width:
            # Rows that follow each other are read at once.
            ends = np.flatnonzero(np.diff(distinct_X) != 1) + 1
            runs = zip([0, *ends.tolist()], [*ends.tolist(), len(distinct_X)], strict=True)
            for start, stop in runs if len(distinct_X) else ():
                self._file.read(values_XG[start:stop].data, int(distinct_X[start]) * width)
        if rows.shape == distinct_X.shape and (place.ravel() == np.arange(len(place))).all():
            return values_XG
        return values_XG[place.reshape(rows.shape)]
