"""Sources: documents as they come, before any model sees them.

A source yields documents (texts, or images with their class) in a fixed order,
each with a name that is unique in the source. The document is the cluster of
all statistics: collection and evaluation never share one, and standard errors
treat the windows of one document as correlated.

A source also has a digest, so that the names of everything made from it change
when it changes.
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
    if not path.is_file():
        raise SourceError(f"there is no file {path}; paths are relative to the sweep file")
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
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
                content = row[text]
                name = str(row[document]) if document else f"line-{number}"
            except (ValueError, KeyError, TypeError) as error:
                raise SourceError(
                    f"{file}, line {number}: expected a JSON object with {text!r}"
                    + (f" and {document!r}" if document else "")
                    + f" ({type(error).__name__}: {error})"
                ) from error
            if not isinstance(content, str):
                raise SourceError(f"{file}, line {number}: {text!r} is not a text")
            joined.setdefault(name, []).append(content)
    for name, parts in joined.items():
        yield Document(name=name, split=None, text="\n\n".join(parts))
