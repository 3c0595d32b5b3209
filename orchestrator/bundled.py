"""Bundled: the two sources that come with the project, small enough to read in a second.

`zoo:text` are pages of the Python documentation, `zoo:digits` the 8 x 8 digits that
scikit-learn has; both have the split that the bundled models were trained by. They are
what a first sweep and most tests run on. Their form is ours, so nothing in them is broken.

Shapes: H height, W width, C channels.
"""

import csv
import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orchestrator.documents import Document, Source, SourceError
from workers import zoo

DIGITS_SHAPE = (8, 8, 1)
"""(H, W, C) of the bundled digits."""


def source(name: str) -> Source:
    """Return the bundled source of this name; raises SourceError for any other."""
    splits = ("train", "test")
    if name == "zoo:text":
        return Source(kind="text", files=(zoo.TEXT,), splits=splits, read=lambda: _corpus(zoo.TEXT))
    if name == "zoo:digits":
        file = zoo.DIGITS
        return Source(kind="images", files=(file,), splits=splits, read=lambda: _digits(file))
    raise SourceError(f"unknown bundled source {name!r}. Known: zoo:text, zoo:digits")


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
