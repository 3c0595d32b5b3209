"""Imaged: rows from a folder of image files.

A folder per class, as ImageNet and most others are laid out: `n01440764/x.jpeg`. Classes are
numbered in the sorted order of their names, which is how the checkpoints of ImageNet number
theirs. That holds for the whole set only: with a class left out, all after it would be
numbered one less, so a folder without images among them is refused. A labels file says the
numbers itself, in one of three ways:

    n01440764                     a line per class, in order: the first word is its folder;
    n01443537 goldfish            more words are for people (`LOC_synset_mapping.txt` does)

    n01440764 7                   a line per class: its folder and its number
    n01443537,3

    val_00000001.JPEG 65          a line per image: its file, and its class as a number
    val_00000002.JPEG,970         or as a word, numbered in sorted order

A row has the columns `image`, `label`, `class` and `file`, so that rows can be chosen by them.
"""

import re
from collections import Counter
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

    Raises SourceError where nothing says the class of an image, or a class has no image.
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
    tops = {folder if split is None else folder / file.relative_to(folder).parts[0]
            for file, split in files}  # fmt: skip
    beside = (one for top in sorted(tops) if top.is_dir() for one in sorted(top.iterdir()))
    for one in beside:
        if one.is_dir() and not one.name.startswith(".") and one.name not in found:
            raise SourceError(
                f"{one} has no images, and as a class would change the numbers of those after it;"
                " put its images there, take it away, or give a file with the classes in `labels`"
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
        content = labels.read_text("utf-8-sig")
        lines = [line.strip() for line in content.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the labels file {labels} cannot be read ({error})") from None
    if not lines:
        raise SourceError(f"the labels file {labels} is empty; give a line per class or per image")
    parted = [re.split(r"[\s,]+(?=[^\s,]+$)", line) for line in lines]
    if all(len(parts) == 2 and is_image(parts[0]) for parts in parted):
        said = {parts[0]: parts[1] for parts in parted}
        numbers = _numbers(labels, list(said.values()))
        if numbers is None:
            numbers = {word: i for i, word in enumerate(sorted(set(said.values())))}
        return {file: numbers[word] for file, word in said.items()}, {}
    words = [re.split(r"[\s,]", line)[0] for line in lines]
    odd = next((word for word in words if is_image(word)), None)
    if odd is not None:
        raise _unlike(labels, f"{odd!r}, an image, where others are none or its class is missing")
    twice = next((word for word, count in Counter(words).items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"the labels file {labels} has the class {twice!r} twice; keep one line")
    # Of two words the second may be a number; of more it ends what is said for people.
    seconds = [
        parts[1] if [word] == parts[:-1] else "" for word, parts in zip(words, parted, strict=True)
    ]
    numbers = _numbers(labels, seconds)
    if numbers is not None:
        return {}, {word: numbers[second] for word, second in zip(words, seconds, strict=True)}
    return {}, {word: i for i, word in enumerate(words)}


def _numbers(labels: Path, words: Sequence[str]) -> dict[str, int] | None:
    """Return the numbers that words say; None where they are no numbers."""
    said = {word: word.isdecimal() for word in words}
    if any(said.values()) and not all(said.values()):
        raise _unlike(labels, "a number after the name on some lines and not on all")
    return {word: int(word) for word in said} if all(said.values()) else None


def _unlike(labels: Path, found: str) -> SourceError:
    return SourceError(
        f"the labels file {labels} has {found}; expected on every line the same: a class and words"
        " about it, in order; a class and its number; or an image and its class"
    )
