"""Sources: documents as they come, before any model sees them.

A source yields documents (texts, or images with their class) in a fixed order,
each with a name that is unique in the source. The document is the cluster of
all statistics: collection and evaluation never share one, and standard errors
treat the windows of one document as correlated.

A source also has a digest, so that the names of everything made from it change
when it changes.

A user's own file is used whole or not at all. A line that is no document is not
left out, because what then is measured would depend on what was wrong with it;
all lines are looked at, and the refusal names the first and says how many.
"""

import csv
import gzip
import hashlib
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers import zoo

DIGITS_SHAPE = (8, 8, 1)
"""(H, W, C) of the bundled digits."""


LONGEST_LINE = 2**25
"""Bytes of a line: a text of 32 MiB is more than all windows of a sweep. One line is read at a
time, so this also bounds what a file without line ends costs."""


class SourceError(ValueError):
    """A source that cannot be read as it is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of a source."""

    name: str
    split: str | None
    """As the source says it; None when it has no splits."""
    text: str | None = None
    image: NDArray[np.uint8] | None = None
    """(H, W, C) pixels."""
    target: int | None = None
    """Class of the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where documents come from."""

    kind: Literal["text", "images"]
    files: tuple[Path, ...]
    splits: tuple[str, ...]
    """Splits that the source itself names; empty when it has none."""
    read: Callable[[], Iterator[Document]]
    checked_by_reading: bool = False
    """Whether its content is a user's, and so may be wrong."""

    def digest(self) -> str:
        """Return the SHA-256 over the source's files."""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as content:
                total.update(hashlib.file_digest(content, "sha256").digest())
        return total.hexdigest()


def find(source: str, *, base: Path, text: str = "text", document: str | None = None) -> Source:
    """Return the source of this name; a relative path starts at `base`.

    Raises SourceError saying what was found and what to write.
    """
    if source == "zoo:text":
        file = zoo.TEXT
        return Source(
            kind="text", files=(file,), splits=("train", "test"), read=lambda: _corpus(file)
        )
    if source == "zoo:digits":
        file = zoo.DIGITS
        return Source(
            kind="images", files=(file,), splits=("train", "test"), read=lambda: _digits(file)
        )
    if source.startswith("zoo:"):
        raise SourceError(f"unknown bundled source {source!r}. Known: zoo:text, zoo:digits")
    if source.startswith("hf:"):
        raise SourceError(
            f"{source!r}: data sets of a hub are designed but not built yet; use a JSON-lines file"
        )
    if not source.endswith(".jsonl"):
        raise SourceError(
            f"found {source!r}, expected zoo:text, zoo:digits or a JSON-lines file (name.jsonl)"
        )
    path = (base / source).absolute()
    try:
        if not path.is_file():  # no device and no pipe either
            raise SourceError(f"there is no file {path}; paths are relative to the sweep file")
        with path.open("rb"):
            pass
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); mend that") from None
    return Source(
        kind="text",
        files=(path,),
        splits=(),
        read=lambda: _json_lines(path, text, document),
        checked_by_reading=True,
    )


def _corpus(file: Path) -> Iterator[Document]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Document(name=row["document"], split=row["split"], text=row["text"])


def _digits(file: Path) -> Iterator[Document]:
    with gzip.open(file, "rt", newline="") as lines:
        for i, row in enumerate(csv.DictReader(lines)):
            counts = np.array([int(v) for k, v in row.items() if k.startswith("pixel")])
            # 0 to 16 becomes 0 to 255, as the bundled model was trained.
            grey = np.floor(counts * (255 / 16) + 0.5).astype(np.uint8)
            yield Document(
                name=f"digit-{i:04d}",
                split=row["split"],
                image=grey.reshape(DIGITS_SHAPE),
                target=int(row["label"]),
            )


def _json_lines(file: Path, text: str, document: str | None) -> Iterator[Document]:
    joined: dict[str, list[str]] = {}
    wrong, first = 0, ""
    number = 0
    with file.open("rb") as lines:
        while line := lines.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise SourceError(
                    f"{file}, line {number}: it has more than {LONGEST_LINE >> 20} MiB; cut the"
                    " text into several lines, under one name if `document` gives the key of names"
                )
            if not line.strip():
                continue
            try:
                name, content = _row(line, text, document)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                wrong += 1
                first = first or f"line {number}: {_expected(text, document)} ({_said(error)})"
                continue
            joined.setdefault(name or f"line-{number}", []).append(content)
    if wrong:
        more = f"; {wrong} lines in all cannot be used, of {number}" if wrong > 1 else ""
        raise SourceError(f"{file}, {first}{more}. Mend them or take them out")
    if joined and not any(part.strip() for parts in joined.values() for part in parts):
        raise SourceError(f"{file}: all of its {len(joined)} documents are blank")
    for name, parts in joined.items():
        yield Document(name=name, split=None, text="\n\n".join(parts))


def _row(line: bytes, text: str, document: str | None) -> tuple[str | None, str]:
    """Return a line's document, if it names one, and its text."""
    row = json.loads(line.decode())
    content, name = row[text], row[document] if document else None
    if not isinstance(content, str):
        raise TypeError(f"{text!r} is not a text")
    if document and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise TypeError(f"{document!r} is {name!r}, not a name")
    named = None if name is None else str(name)
    for written in (content, named or ""):
        written.encode()  # half of a pair (`\\ud800`) is a text to JSON, and to nothing else
    return named, content


def _expected(text: str, document: str | None) -> str:
    return f"expected a JSON object with {text!r}" + (f" and {document!r}" if document else "")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
