"""Seals: how a table knows that no bit of it has changed since it was committed.

A file that was cut short shows at its ends. A flipped bit shows nowhere: Arrow
files have no checksums, and Parquet's are optional and only of pages. So every
table carries a seal among its metadata, text of fixed width:

    peaksweep-seal epoch=0000000012 crc32=9ae0daaf

The epoch is that of the driver under which the file was committed. The CRC-32
is that of all the file's bytes, with its own eight digits taken as zeros; it
notices every error of up to 32 bits in a row and all but one in 2^32 of the
others. It is no signature: who can write the folder can write a seal.

A writer puts the blank seal in; `stamp` fills it in where it lies, in the
finished file, so nothing is written twice. A Parquet file has it once, in the
footer (the copy of the schema beside it is base64, stays blank and is summed as
it is); an Arrow file twice, in its first message and in its footer. Any reader
of such files sees an ordinary entry of the metadata.

Files without a seal, of earlier versions or from other hands, are believed if all
of them can be read. One that mentions a seal but has none to read is not: it was
broken there.
"""

import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

PARQUET, ARROW = ".parquet", ".arrow"
MAGIC = {PARQUET: b"PAR1", ARROW: b"ARROW1"}
"""What every file of a kind begins and ends with."""
KEY = b"peaksweep.seal"
"""Key of a table's metadata that holds the seal."""
BLANK = b"peaksweep-seal epoch=0000000000 crc32=00000000"
"""The seal of a file that has not been committed yet."""

_SEAL = re.compile(rb"peaksweep-seal epoch=(\d{10}) crc32=([0-9a-f]{8})")
_EPOCH, _SUM = BLANK.index(b"=") + 1, BLANK.rindex(b"=") + 1
"""Where the digits of a seal begin."""
_PIECE = 1 << 20
"""Bytes read at once."""


def stamp(path: Path, epoch: int) -> None:
    """Fill in the blank seal of a finished table; a file without a blank one is left as it is.

    So a sealed file that is copied keeps its seal: what was broken before is not sealed anew.
    """
    with path.open("r+b") as file:
        blanks = [at for at, seal in _seals(file) if seal.group() == BLANK]
        if not blanks:
            return
        for at in blanks:
            file.seek(at + _EPOCH)
            file.write(b"%010d" % epoch)
        found = _sum(file, blanks)
        for at in blanks:
            file.seek(at + _SUM)
            file.write(b"%08x" % found)


def intact(path: Path, columns: Collection[str] = ()) -> bool:
    """Whether the seal of a whole table fits all of its bytes.

    One that never had a seal is to be a table that can be read and has these columns.
    """
    with path.open("rb") as file:
        seals = list(_seals(file))
        if not seals:
            return not _mentioned(file) and _readable(path, columns)
        if len({seal.group() for _, seal in seals}) > 1:
            return False
        return _sum(file, [at for at, _ in seals]) == int(seals[0][1].group(2), 16)


def epoch_of(path: Path) -> int | None:
    """Return the epoch under which a whole table was committed; None where it has no seal."""
    with path.open("rb") as file:
        return next((int(seal.group(1)) for _, seal in _seals(file)), None)


def _readable(path: Path, columns: Collection[str]) -> bool:
    """Whether Arrow can read a table to its end, and finds these columns."""
    try:
        with pa.OSFile(str(path)) as source:
            if path.suffix == PARQUET:
                table = pq.ParquetFile(source)
                names = table.schema_arrow.names
                batches = table.iter_batches()
            else:
                table = pa.ipc.open_file(source)
                names = table.schema.names
                batches = (table.get_batch(i) for i in range(table.num_record_batches))
            for batch in batches:
                batch.validate(full=True)
    except (pa.ArrowException, ValueError):
        return False
    except OSError as error:
        if error.errno is not None:  # the disk's; what cannot be decoded has no number
            raise
        return False
    return set(columns) <= set(names)


def _seals(file: BinaryIO) -> Iterator[tuple[int, re.Match[bytes]]]:
    """Yield where in a file each of its seals begins, and the seal."""
    for start, stop in _metadata(file):
        file.seek(start)
        for seal in _SEAL.finditer(file.read(stop - start)):
            yield start + seal.start(), seal


def _metadata(file: BinaryIO) -> list[tuple[int, int]]:
    """Return the parts of a file that hold its metadata; data that read like a seal are none."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(16)
    if head.startswith(MAGIC[ARROW]):
        # Magic and padding, a mark, the length of the first message. At the end the footer's.
        first = 16 + _number(head[12:16])
        footer = size - 10 - _length(file, size - 10)
        return [(0, min(first, footer)), (footer, size)] if footer > 0 else [(0, size)]
    if head.startswith(MAGIC[PARQUET]):
        return [(max(0, size - 8 - _length(file, size - 8)), size)]
    return []


def _length(file: BinaryIO, at: int) -> int:
    file.seek(max(0, at))
    return _number(file.read(4))


def _number(four: bytes) -> int:
    return int.from_bytes(four, "little")


def _sum(file: BinaryIO, seals: Sequence[int]) -> int:
    """Return the CRC-32 of a file, the sums in its seals taken as zeros."""
    found, start = 0, 0
    for at in seals:
        found = zlib.crc32(b"00000000", _part(file, start, at + _SUM, found))
        start = at + _SUM + 8
    return _part(file, start, file.seek(0, 2), found)


def _part(file: BinaryIO, start: int, stop: int, found: int) -> int:
    # Read, not mapped: where a network file system fails, a map ends the process.
    file.seek(start)
    piece = memoryview(bytearray(min(_PIECE, max(0, stop - start))))
    while start < stop:
        count = file.readinto(piece[: stop - start])  # type: ignore[attr-defined]
        if not count:
            break  # cut short under our hands: the sum will not fit
        found = zlib.crc32(piece[:count], found)
        start += count
    return found


def _mentioned(file: BinaryIO) -> bool:
    file.seek(0)
    before = b""
    while piece := file.read(_PIECE):
        if KEY in before + piece or BLANK[:_EPOCH] in before + piece:
            return True
        before = piece[-len(BLANK) :]
    return False
