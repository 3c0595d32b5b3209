"""Partials: what one shard of collection leaves, and every merge of them, as files.

Not public tables but the working state of collection: windows from the pilot,
histograms of one or more shards, fixed counts for the published peak. They are
Parquet all the same (one row per neuron, layer-major), exact to the last bit,
so an interrupted collection resumes and anyone may look.

Shapes: R rows (neurons of all layers), B bins, K shards, M moments.
"""

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.histogram import FixedCounts, Histogram
from workers.windows import Windows

_SHARDS = b"peaksweep.shards"
_COUNTED = ("zeros", "below", "above", "nan", "pos_inf", "neg_inf", "positive")


def _lists(array_RB: NDArray[np.int64] | NDArray[np.float64]) -> pa.Array:
    flat = np.ascontiguousarray(array_RB).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), array_RB.shape[1])


def _matrix(table: pa.Table, column: str) -> NDArray[np.float64]:
    array = table.column(column).combine_chunks()
    return np.asarray(array.flatten().to_numpy().reshape(table.num_rows, -1))


def _column(table: pa.Table, column: str) -> NDArray[np.float64]:
    return np.array(table.column(column).to_numpy())  # a copy: Arrow's memory is read-only


def from_windows(windows: Windows) -> pa.Table:
    """Return windows as a table of (exponent, first), bins in every row."""
    bins = pa.repeat(windows.bins, windows.first.size)
    return pa.table(
        {"exponent": pa.array(windows.exponent), "first": pa.array(windows.first), "bins": bins}
    )


def to_windows(table: pa.Table) -> Windows:
    """Return the windows that a table holds."""
    return Windows(
        exponent=_column(table, "exponent").astype(np.int32),
        first=_column(table, "first").astype(np.int64),
        bins=int(table.column("bins")[0].as_py()),
    )


def from_histogram(histogram: Histogram) -> pa.Table:
    """Return a histogram as a table; its shards are metadata."""
    columns = {c: pa.array(getattr(histogram, c)) for c in (*_COUNTED, "minimum", "maximum")}
    moments_KRM = histogram.moments
    rows = histogram.windows.first.size
    table = from_windows(histogram.windows)
    for name, array in columns.items():
        table = table.append_column(name, array)
    table = table.append_column("counts", _lists(histogram.counts))
    table = table.append_column(
        "moments", _lists(moments_KRM.transpose(1, 0, 2).reshape(rows, moments_KRM.size // rows))
    )
    return table.replace_schema_metadata({_SHARDS: json.dumps(histogram.shards).encode()})


def to_histogram(table: pa.Table) -> Histogram:
    """Return the histogram that a table holds."""
    shards = tuple(json.loads(table.schema.metadata[_SHARDS]))
    rows = table.num_rows
    moments_KRM = _matrix(table, "moments").reshape(rows, len(shards), -1).transpose(1, 0, 2)
    counted = {c: _column(table, c).astype(np.int64) for c in _COUNTED}
    return Histogram(
        windows=to_windows(table),
        shards=shards,
        counts=_matrix(table, "counts").astype(np.int64),
        moments=np.ascontiguousarray(moments_KRM),
        minimum=_column(table, "minimum"),
        maximum=_column(table, "maximum"),
        **counted,
    )


def from_fixed(fixed: FixedCounts) -> pa.Table:
    """Return fixed counts as a table; their shards are metadata."""
    table = pa.table(
        {
            "low": pa.array(fixed.low),
            "high": pa.array(fixed.high),
            "counts": _lists(fixed.counts),
        }
    )
    return table.replace_schema_metadata({_SHARDS: json.dumps(fixed.shards).encode()})


def to_fixed(table: pa.Table) -> FixedCounts:
    """Return the fixed counts that a table holds."""
    return FixedCounts(
        low=_column(table, "low"),
        high=_column(table, "high"),
        shards=tuple(json.loads(table.schema.metadata[_SHARDS])),
        counts=_matrix(table, "counts").astype(np.int64),
    )
