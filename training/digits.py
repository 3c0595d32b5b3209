"""The digits: 1,797 handwritten figures of 8 x 8 pixels, and which of them are held out.

The images are those of the scikit-learn wheel (`sklearn/datasets/data/digits.csv.gz`),
in its order. A header is added, and a column that says which split a row is in. Fifty
images of every class are held out: those whose row number has the smallest SHA-256.
The thirteen people who wrote them are not named, so the same hand is on both sides.

A pixel is a count from 0 to 16. As an image it is round(255 / 16 x count), in uint8.

    pip download scikit-learn --no-deps; unzip scikit_learn-*.whl
    python -m training.digits sklearn/datasets/data/digits.csv.gz workers/zoo/digits/digits.csv.gz

Shapes: I images.
"""

import argparse
import csv
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 50  # images of each class
FULL = 16  # the count of a pixel wholly covered
COLUMNS = [*(f"pixel_{row}_{column}" for row in range(8) for column in range(8)), "label", "split"]

Images = NDArray[np.uint8]


def held_out(labels: list[int]) -> set[int]:
    """Return the rows that are held out, the same number of every class."""
    rows = sorted(range(len(labels)), key=lambda row: hashlib.sha256(b"%d" % row).digest())
    return {
        row
        for label in sorted(set(labels))
        for row in [row for row in rows if labels[row] == label][:HELD_OUT]
    }


def freeze(source: Path, target: Path) -> None:
    """Write the images with their split, as bytes that are the same every time."""
    with gzip.open(source, "rt", newline="") as lines:
        rows = list(csv.reader(lines))
    test = held_out([int(row[-1]) for row in rows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows):
        writer.writerow([*row, "test" if number in test else "train"])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))


def read(path: Path, split: str) -> tuple[Images, NDArray[np.int64]]:
    """Return (images as uint8, shape (I, 8, 8); labels, shape (I,)) of a split."""
    with gzip.open(path, "rt", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    counts_I88 = np.array([[int(row[c]) for c in COLUMNS[:64]] for row in rows]).reshape(-1, 8, 8)
    images_I88 = np.floor(counts_I88 * (255 / FULL) + 0.5).astype(np.uint8)
    return images_I88, np.array([int(row["label"]) for row in rows], dtype=np.int64)


def main() -> None:
    """Take the digits out of an unpacked scikit-learn wheel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    freeze(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
