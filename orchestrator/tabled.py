"""Tabled: rows from files of this machine, a few at a time.

JSON lines (also compressed: `.jsonl.gz`, `.jsonl.zst`, `.jsonl.bz2`), Parquet, Arrow (files and
streams, also what `datasets` saves), and plain texts. What cannot be read is yielded as
`Broken` in its place: a line, a text, or a whole file that is none of its format. A table that
breaks off says how many rows are lost, and each is `Broken`; lines and streams do not say, so
they are refused, lest most of a file be lost as one row.

Texts have no rows. In a folder each file is a document. A single file is cut where a blank
line ends a paragraph, once `PASSAGE` bytes have come together: without cuts it would be one
document, which cannot be both collected and evaluated. Passages of one book are more alike
than documents of a corpus, so their intervals are too narrow; prefer a corpus.

Memory: one line or text of at most `LONGEST` bytes; of Parquet a page of every wanted column
and a batch of rows, of Arrow a batch alone. Writers seldom part a row group of images into
pages, so count with a row group.
"""

import io
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.documents import Broken, SourceError
from orchestrator.rows import Row

LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2", ".json.gz", ".json.zst")
FORMATS: Mapping[str, tuple[str, ...]] = {
    "JSON lines": LINES,
    "Parquet": (".parquet",),
    "Arrow": (".arrow",),
    "texts": (".txt",),
}
"""The formats and their endings."""
LONGEST = 2**25
"""Bytes of a line: a text of 32 MiB is more than all windows of a sweep. One line is read at a
time, so this also bounds what a file without line ends costs."""
PASSAGE = 4096
"""Bytes that a passage of a single text has at least."""
BATCH = 64
"""Rows taken from a table at once: they may be images."""


def format_of(name: str) -> str | None:
    """Return the format that a file's name says; None for others."""
    low = name.lower()
    return next((f for f, endings in FORMATS.items() if low.endswith(endings)), None)


def rows(
    file: Path, *, prefix: str, split: str | None, columns: Sequence[str] | None
) -> Iterator[Row | Broken]:
    """Yield the rows of one file; their names begin with `prefix`.

    `columns` are those of a table that are wanted; JSON lines give all. Raises OSError
    where a file cannot be read, which is not the same as being broken.
    """
    match format_of(file.name):
        case "JSON lines":
            return _lines(file, prefix, split)
        case "Parquet" | "Arrow":
            return _batches(file, prefix, split, columns)
        case _:
            return _passages(file, prefix, split)


def schema(file: Path) -> pa.Schema:
    """Return the columns of a Parquet or Arrow file.

    Raises SourceError for a file that is neither.
    """
    try:
        if format_of(file.name) == "Parquet":
            return pq.read_schema(file)
        with _arrow(file) as reader:
            return reader.schema
    except (pa.ArrowException, OSError) as error:
        _raise_real(error)
        raise SourceError(f"{file} is no {format_of(file.name)} file ({_said(error)})") from None


def classes(found: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the names of classes that `datasets` wrote into a schema, by column."""
    try:
        told = json.loads((found.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in told.items()
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def whole_text(file: Path, prefix: str, split: str | None) -> Iterator[Row | Broken]:
    """Yield the one row of a text file that is a document."""
    if file.stat().st_size > LONGEST:
        yield Broken(where=str(file), why=_too_long("text; cut it into several files"))
        return
    yield _decoded(file.read_bytes(), prefix, split, str(file))


def first_columns(file: Path, lines: int = 100) -> tuple[str, ...]:
    """Return the keys that the first lines of a JSON-lines file have, in their order."""
    keys: dict[str, None] = {}
    with closing(_lines(file, "", None)) as found:
        for _, row in zip(range(lines), found, strict=False):
            if isinstance(row, Row):
                keys |= dict.fromkeys(row.values)
    return tuple(keys)


def _lines(file: Path, prefix: str, split: str | None) -> Generator[Row | Broken]:
    number = 0
    with _opened(file) as lines:
        while True:
            try:
                line = lines.readline(LONGEST + 1)
                number += 1
                where = f"{file}, line {number}"
                if len(line) > LONGEST:
                    _pass_over(lines, line)
                    yield Broken(where=where, why=_too_long("line; cut the text into several"))
                    continue
            except (pa.ArrowException, OSError, EOFError) as error:
                _raise_real(error)
                if number:
                    raise SourceError(_broken_off(f"{file}, after line {number}", error)) from None
                yield Broken(where=f"{file}, after line {number}", why=_said(error))
                return
            if not line:
                return
            if line.strip():
                yield _parsed(line, f"{prefix}line-{number}", split, where)


def _parsed(line: bytes, name: str, split: str | None, where: str) -> Row | Broken:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Broken(where=where, why=f"expected a JSON object ({_said(error)})")
    if not isinstance(values, dict):
        return Broken(where=where, why=f"expected a JSON object, found {repr(values)[:60]}")
    return Row(name=name, split=split, where=where, values=values)


def _pass_over(lines: BinaryIO, line: bytes) -> None:
    """Read to the end of a line in pieces."""
    while line and not line.endswith(b"\n"):
        line = lines.readline(2**20)


def _opened(file: Path) -> BinaryIO:
    """Open a file, which may be compressed as its name says."""
    how = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(file.suffix.lower())
    if how is None:
        return file.open("rb")
    return io.BufferedReader(pa.input_stream(str(file), compression=how), 2**18)


def _batches(
    file: Path, prefix: str, split: str | None, columns: Sequence[str] | None
) -> Iterator[Row | Broken]:
    number, read = 0, _parquet if format_of(file.name) == "Parquet" else _ipc
    try:
        for batch in read(file, columns):
            for values in _plain(batch):
                number += 1
                where = f"{file}, row {number}"
                if isinstance(values, UnicodeDecodeError):
                    yield Broken(where=where, why=f"it is not UTF-8 text ({_said(values)})")
                    continue
                yield Row(name=f"{prefix}row-{number}", split=split, where=where, values=values)
    except (pa.ArrowException, OSError) as error:
        _raise_real(error)
        whole = _row_count(file)
        if whole is None and number:
            raise SourceError(_broken_off(f"{file}, after row {number}", error)) from None
        if whole is None:
            yield Broken(where=f"{file}, after row 0", why=_said(error))
        for lost in range(number, whole or 0):
            yield Broken(where=f"{file}, row {lost + 1}", why=_said(error))


def _plain(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Yield the rows of a batch, a few at once; one that is not UTF-8 costs no other."""
    for start in range(0, batch.num_rows, BATCH):
        some = batch.slice(start, BATCH)
        try:
            yield from some.to_pylist()
        except UnicodeDecodeError:
            for row in range(some.num_rows):
                try:
                    yield from some.slice(row, 1).to_pylist()
                except UnicodeDecodeError as error:
                    yield error


def _row_count(file: Path) -> int | None:
    """Return the rows that a table says it has; None where it does not say, or not any more."""
    try:
        if format_of(file.name) == "Parquet":
            return int(pq.read_metadata(file).num_rows)
        with _arrow(file) as reader:
            return int(reader.count_rows()) if hasattr(reader, "count_rows") else None
    except (pa.ArrowException, OSError) as error:
        _raise_real(error)
        return None


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    # A buffer has columns read in pieces, not row groups whole.
    with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as opened:
        have = None if columns is None else [c for c in columns if c in opened.schema_arrow.names]
        yield from opened.iter_batches(batch_size=BATCH, columns=have, use_threads=False)


def _ipc(file: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    with _arrow(file) as reader:
        have = None if columns is None else [c for c in columns if c in reader.schema.names]
        if isinstance(reader, pa.RecordBatchFileReader):
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        for batch in batches:
            yield batch if have is None else batch.select(have)


def _arrow(file: Path) -> Any:
    """Open an Arrow file of either kind, mapped into memory."""
    mapped = pa.memory_map(str(file))
    kind = mapped.read(6)
    mapped.seek(0)
    return pa.ipc.open_file(mapped) if kind == b"ARROW1" else pa.ipc.open_stream(mapped)


def _passages(file: Path, prefix: str, split: str | None) -> Iterator[Row | Broken]:
    """Yield a text in passages that end where a paragraph does."""
    held, start = bytearray(), 1
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(LONGEST + 1):
            number += 1
            if len(held) + len(line) > LONGEST:
                where = f"{file}, lines {start} to {number}"
                _pass_over(lines, line)
                yield Broken(where=where, why=_too_long("paragraph; part it by blank lines"))
                held, start = bytearray(), number + 1
                continue
            held += line
            if not line.strip() and len(held) >= PASSAGE:
                where = f"{file}, lines {start} to {number}"
                yield _decoded(bytes(held), f"{prefix}line-{start}", split, where)
                held, start = bytearray(), number + 1
    if held.strip():
        where = f"{file}, lines {start} to {number}"
        yield _decoded(bytes(held), f"{prefix}line-{start}", split, where)


def _decoded(content: bytes, name: str, split: str | None, where: str) -> Row | Broken:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Broken(where=where, why=f"it is not UTF-8 text ({_said(error)})")
    return Row(name=name, split=split, where=where, values={"text": text})


def _too_long(what: str) -> str:
    return f"it has more than {LONGEST >> 20} MiB in one {what}"


def _broken_off(where: str, error: Exception) -> str:
    return (
        f"{where}: it breaks off ({_said(error)}), and how many rows are lost is not known; get the"
        " whole file, or take it out"
    )


def _raise_real(error: Exception) -> None:
    """Raise what a disk or a network said, which says nothing of the content."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
