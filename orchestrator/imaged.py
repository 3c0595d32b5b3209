"""Imaged: rows from a folder of image files.

A folder per class, as ImageNet and most others are laid out: `n01440764/x.jpeg`. Classes are
numbered in the sorted order of their names, which is how the checkpoints of ImageNet number
theirs. That holds for the whole set only: with a class left out, all after it would be
numbered one less. A labels file says the numbers itself, in one of two ways:

    n01440764                     a line per class, in order: the first word is its folder;
    n01443537 goldfish            more words are for people (`LOC_synset_mapping.txt` does)

    val_00000001.JPEG 65          a line per image: its file, and its class as a number
    val_00000002.JPEG,970         or as a word, numbered in sorted order

A row has the columns `image`, `label`, `class` and `file`, so that rows can be chosen by them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.documents import Broken, SourceError
from orchestrator.pixels import SUFFIXES
from orchestrator.rows import Row

COLUMNS = ("image", "label", "class", "file")
LARGEST = 2**28
"""Bytes of an image file that is read."""


def is_image(name: str) -> bool:
    """Return whether a file's name says that it is an image."""
    return name.lower().endswith(SUFFIXES)


def rows(
    folder: Path,
    files: Sequence[tuple[Path, str | None]],
    *,
    by_file: Mapping[str, int],
    classes: Mapping[str, int],
) -> Iterator[Row | Broken]:
    """Yield a row per image of a folder; each comes with its split.

    `by_file` has the classes that a labels file gives to files, `classes` the numbers of folders.
    """
    for file, split in files:
        inside = file.relative_to(folder)
        name = inside.as_posix()
        of = _class(inside, split)
        label = by_file.get(name, by_file.get(file.name)) if by_file else classes.get(of or "")
        if label is None:
            what = f"the class {of!r}" if of and not by_file else "this file"
            yield Broken(where=str(file), why=f"{what} is not in the labels file")
            continue
        if file.stat().st_size > LARGEST:
            yield Broken(where=str(file), why=f"it has more than {LARGEST >> 20} MiB")
            continue
        values = {"image": file.read_bytes(), "label": label, "class": of, "file": name}
        yield Row(name=name, split=split, where=str(file), values=values)


def numbered(
    folder: Path, files: Sequence[tuple[Path, str | None]], labels: Path | None
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the classes of files and those of folders, one of which is empty.

    Raises SourceError where nothing says the class of an image.
    """
    if labels is not None:
        return _listed(labels)
    found = {_class(file.relative_to(folder), split) for file, split in files}
    named = sorted(name for name in found if name is not None)
    if len(named) < len(found):
        loose = next(f for f, split in files if _class(f.relative_to(folder), split) is None)
        raise SourceError(
            f"{loose} lies in no folder of a class; put each class into a folder, or give a file"
            " with the classes in `labels`"
        )
    return {}, {name: i for i, name in enumerate(named)}


def _class(inside: Path, split: str | None) -> str | None:
    """Return the folder that says an image's class, below that of its split."""
    folders = inside.parts[:-1][0 if split is None else 1 :]
    return folders[0] if folders else None


def class_list(labels: Path) -> dict[str, int]:
    """Return the number of every class of a file that lists classes in order.

    Raises SourceError for any other file.
    """
    by_file, classes = _listed(labels)
    if by_file:
        raise SourceError(f"{labels} lists images; a table needs a file that lists its classes")
    return classes


def _listed(labels: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return what a labels file says: classes by file, or by folder."""
    try:
        lines = [line.strip() for line in labels.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the labels file {labels} cannot be read ({error})") from None
    if not lines:
        raise SourceError(f"the labels file {labels} is empty; give a line per class or per image")
    parted = [re.split(r"[\s,]+(?=[^\s,]+$)", line) for line in lines]
    if all(len(parts) == 2 and is_image(parts[0]) for parts in parted):
        said = {parts[0]: parts[1] for parts in parted}
        if all(word.isdecimal() for word in said.values()):
            return {file: int(word) for file, word in said.items()}, {}
        numbers = {word: i for i, word in enumerate(sorted(set(said.values())))}
        return {file: numbers[word] for file, word in said.items()}, {}
    words = [re.split(r"[\s,]", line)[0] for line in lines]
    twice = next((word for i, word in enumerate(words) if word in words[:i]), None)
    if twice is not None:
        raise SourceError(f"the labels file {labels} has the class {twice!r} twice; keep one line")
    return {}, {word: i for i, word in enumerate(words)}
