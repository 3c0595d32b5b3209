"""Partials: what one shard of collection leaves, and every merge of them, as files.

Not public tables but the working state of collection: windows from the pilot,
histograms of one or more shards, fixed counts for the published peak. They are
Arrow files (one row per neuron, stratum- and layer-major), exact to the last
bit, so an interrupted collection resumes and anyone may look.

Counts are most of a partial, and almost always small. They are stored in four
bytes where all of them fit and in eight otherwise, and are eight again when
they are read. Which of the two has to be known before the first row is written,
so a file carries a bound on its counts (`most`), and a merge adds the bounds.

What belongs to a file rather than to its rows is in the schema's metadata, so
that a partial of no rows keeps it too.

Shapes: R rows (neurons of all layers), W rows of a subset, B bins, K shards, M moments.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.store import Store, arrow
from workers.histogram import MOMENTS, FixedCounts, Histogram
from workers.windows import Windows

Rows: TypeAlias = pa.Table | pa.RecordBatch
"""All rows of a file, or one block of them."""

_SHARDS, _BINS, _MOST = b"peaksweep.shards", b"peaksweep.bins", b"peaksweep.most"
_PILOT = b"peaksweep.pilot"
_ROW = "row"
_PER_ROW = tuple(
    field.name
    for field in fields(Histogram)
    if field.name not in ("windows", "shards", "counts", "moments")
)
"""Fields of a histogram with one number per row, stored as they are."""


def from_windows(
    windows: Windows,
    rows: NDArray[np.intp] | None = None,
    pilot: Sequence[int] | None = None,
) -> pa.Table:
    """Return windows as a table, with what they are about and what they were made from.

    `rows` (W,): the rows of a model whose windows they are, if not of all; a column. `pilot`: the
    sequences of the sample, which are only recorded.
    """
    columns = {"exponent": pa.array(windows.exponent), "first": pa.array(windows.first)}
    if rows is not None:
        columns[_ROW] = pa.array(np.asarray(rows, np.int64))
    recorded = {} if pilot is None else {_PILOT: list(pilot)}
    return _table(columns, {_BINS: windows.bins, **recorded})


def to_windows(table: Rows) -> Windows:
    """Return the windows that a table holds."""
    return Windows(
        exponent=_column(table, "exponent"), first=_column(table, "first"), bins=_said(table, _BINS)
    )


def rows_of(table: pa.Table) -> NDArray[np.intp]:
    """Return the rows (W,) of a model that a table of windows is about, where it says so."""
    return np.asarray(_column(table, _ROW), np.intp)


def from_histogram(histogram: Histogram, most: int | None = None) -> pa.Table:
    """Return a histogram of at least one shard as a table.

    No count may be above `most`, which is looked up if None; raises pyarrow.ArrowInvalid if one is
    and does not fit.
    """
    if most is None:
        most = int(histogram.counts.max(initial=0))
    shards, rows, moments = histogram.moments.shape
    moments_RKM = histogram.moments.transpose(1, 0, 2).reshape(rows, shards * moments)
    columns = {
        "exponent": pa.array(histogram.windows.exponent),
        "first": pa.array(histogram.windows.first),
        **{name: pa.array(getattr(histogram, name)) for name in _PER_ROW},
        "counts": _counts(histogram.counts, most),
        "moments": _lists(pa.array(moments_RKM.reshape(-1)), shards * moments),
    }
    bins = histogram.windows.bins
    return _table(columns, {_SHARDS: list(histogram.shards), _BINS: bins, _MOST: most})


def to_histogram(table: Rows) -> Histogram:
    """Return the histogram that a table holds, in memory of its own."""
    lent = _histogram(table, _column)
    return replace(lent, counts=lent.counts.astype(np.int64, copy=False))


def lent_histogram(table: Rows) -> Histogram:
    """Return the histogram that a table holds, where it lies: read-only, its counts narrow."""
    return _histogram(table, _lent)


def _histogram(table: Rows, column: Callable[[Rows, str], NDArray[Any]]) -> Histogram:
    shards, bins = shards_of(table.schema), _said(table, _BINS)
    moments_RKM = column(table, "moments").reshape(table.num_rows, len(shards), len(MOMENTS))
    return Histogram(
        windows=Windows(
            exponent=column(table, "exponent"), first=column(table, "first"), bins=bins
        ),
        shards=shards,
        counts=column(table, "counts").reshape(table.num_rows, bins),
        moments=np.ascontiguousarray(moments_RKM.transpose(1, 0, 2)),
        **{name: column(table, name) for name in _PER_ROW},
    )


def ends(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest finite value of every row of a histogram, (R,) each."""
    return _column(table, "minimum"), _column(table, "maximum")


def from_fixed(fixed: FixedCounts, most: int | None = None) -> pa.Table:
    """Return fixed counts as a table; `most` is that of `from_histogram`."""
    if most is None:
        most = int(fixed.counts.max(initial=0))
    columns = {
        "low": pa.array(fixed.low),
        "high": pa.array(fixed.high),
        "counts": _counts(fixed.counts, most),
    }
    bins = fixed.counts.shape[1]
    return _table(columns, {_SHARDS: list(fixed.shards), _BINS: bins, _MOST: most})


def to_fixed(table: Rows) -> FixedCounts:
    """Return the fixed counts that a table holds, in memory of their own."""
    bins = _said(table, _BINS)
    return FixedCounts(
        low=_column(table, "low"),
        high=_column(table, "high"),
        shards=shards_of(table.schema),
        counts=_lent(table, "counts").reshape(table.num_rows, bins).astype(np.int64),
    )


def rows(store: Store, file: str, start: int = 0, stop: int | None = None) -> Histogram:
    """Return the rows of a histogram from `start` to `stop`, or to the end.

    Nothing else of the file is read. Raises IndexError if it has fewer rows.
    """
    table = store.table(file)
    stop = table.num_rows if stop is None else stop
    if not 0 <= start <= stop <= table.num_rows:
        raise IndexError(
            f"{file} has {table.num_rows} rows, and rows {start} to {stop} were asked for: it was"
            " counted for other layers or strata. Delete it to have it made again."
        )
    return to_histogram(table.slice(start, stop - start))


def commit(store: Store, file: str, table: pa.Table, recipe: str) -> bool:
    """Commit a partial unless it is there; return whether this call did it."""
    return store.commit(file, arrow(table, recipe))


def shards_of(schema: pa.Schema) -> tuple[int, ...]:
    """Return the shards that the file of a schema holds, ascending."""
    return tuple(json.loads(schema.metadata[_SHARDS]))


def most_of(schemas: Sequence[pa.Schema]) -> int:
    """Return a number that no count of the merged files of these schemas is above."""
    return sum(json.loads(schema.metadata[_MOST]) for schema in schemas)


def _table(columns: dict[str, pa.Array], metadata: dict[bytes, object]) -> pa.Table:
    said = {key: json.dumps(value).encode() for key, value in metadata.items()}
    return pa.table(columns).replace_schema_metadata(said)


def _said(table: Rows, key: bytes) -> int:
    return int(json.loads(table.schema.metadata[key]))


def _counts(counts_RB: NDArray[np.int64], most: int) -> pa.Array:
    narrow = pa.int32() if most <= np.iinfo(np.int32).max else pa.int64()
    flat = pa.array(np.ascontiguousarray(counts_RB).reshape(-1))
    return _lists(flat.cast(narrow), counts_RB.shape[1])


def _lists(flat: pa.Array, size: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(flat, size)


def _column(table: Rows, column: str) -> NDArray[Any]:
    return np.array(_lent(table, column))  # a copy: Arrow's memory is read-only


def _lent(table: Rows, column: str) -> NDArray[Any]:
    """Return a column, lists one after the other, in the table's memory if it is in one piece."""
    array = table.column(column)
    if isinstance(array, pa.ChunkedArray):
        # Combining copies, also where there is nothing to combine.
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return np.asarray(array.to_numpy())
