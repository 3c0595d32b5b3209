"""Tabular: from columns to a table, and from tables to the bytes of a file.

Tables that people read are Parquet, small and compressed. Partials are Arrow
files, which hold arrays as memory does: nothing to decode, so that joining them
costs little more than adding. They are written in blocks of rows, so that they
can be read one block at a time. Both say in their metadata which work made them
(the recipe) and have room for a seal, which is filled in at commit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import seals
from orchestrator.tables import SCHEMAS

RECIPE = b"peaksweep.recipe"
"""Key of a table's metadata that holds the name of the work that made it."""
BLOCK_ROWS = 2048
"""Rows of one block of an Arrow file: of histograms of 256 bins 2 MB, twice that when they are
added up. Smaller blocks cost more in calls than they save in memory."""

Writer = Callable[[Path], None]
"""Writes a file at the path it is given."""


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
    sink = pa.BufferOutputStream()
    pq.write_table(_marked(table, recipe), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def arrow(tables: pa.Table | Iterable[pa.Table], recipe: str = "") -> Writer:
    """Return what writes an Arrow file that records its recipe's name.

    Of many tables of one schema the rows follow each other. Each is taken when the one before is
    written, so they need not be in memory together.
    """

    def write(place: Path) -> None:
        given = iter([tables] if isinstance(tables, pa.Table) else tables)
        first = next(given)
        schema = _marked(first, recipe).schema
        none = pa.RecordBatch.from_pylist([], schema)  # so that a file has a block, if an empty one
        with pa.OSFile(str(place), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in chain([first], given):
                named = table.replace_schema_metadata(schema.metadata)
                for batch in named.to_batches(max_chunksize=BLOCK_ROWS) or [none]:
                    writer.write_batch(batch)

    return write


def _marked(table: pa.Table, recipe: str) -> pa.Table:
    """Return a table that says who made it and has a blank seal; one it was read with goes."""
    known = table.schema.metadata or {}
    return table.replace_schema_metadata({**known, RECIPE: recipe.encode(), seals.KEY: seals.BLANK})
