"""Sources: documents as they come, before any model sees them.

A source is named as a sweep file names it: a bundled one (`zoo:text`), a data set of a hub
(`hf:owner/name`), or a file or folder of this machine. From the name and a `Reading` the
same documents come in the same order, on whichever machine asks: `find` is called once to
plan and again by the task that prepares what models are fed.

A source also has a digest, so that the names of everything made from it change when it
changes: of a user's files that of their content, of a hub's set its commit.

Nothing here reads a whole set into memory. What kind of documents there are, and whether the
columns are there, is told from the start of the files; how much of them is broken only by
reading on (`usable`).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator import bundled, filed, hosted, imaged, tabled
from orchestrator.documents import (
    Broken,
    Document,
    Kind,
    Reading,
    Skipped,
    Source,
    SourceError,
    usable,
)
from orchestrator.mistakes import nearest
from orchestrator.names import canonical
from orchestrator.presets import PRESETS
from orchestrator.rows import Row, Table, documents, kind_of, needed

__all__ = [
    "Broken",
    "Document",
    "Kind",
    "Reading",
    "Skipped",
    "Source",
    "SourceError",
    "again",
    "find",
    "usable",
]

DIGITS_SHAPE = bundled.DIGITS_SHAPE
LONGEST_LINE = tabled.LONGEST
"""Bytes of a line of JSON, or of one text."""
_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test")
"""Folders and files that are named so are splits, and come in this order."""
_SPLIT = re.compile(rf"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?![A-Za-z0-9])", re.I)
_EXPECTED = (
    "zoo:text, zoo:digits, a preset (docs/data.md), hf:owner/name, or a file or folder of"
    " JSON lines (.jsonl), Parquet (.parquet), Arrow (.arrow), texts (.txt) or images"
)


def find(
    source: str,
    *,
    base: Path,
    text: str = "text",
    document: str | None = None,
    reading: Mapping[str, object] | None = None,
    fetch: bool = False,
) -> Source:
    """Return the source of this name; a relative path starts at `base`.

    `reading` are the other fields of a `Reading`, as plain values. A hub is asked with
    `fetch` alone; without, a set whose commit is not written is `missing`.

    Raises SourceError saying what was found and what to write.
    """
    how = Reading.of({"text": text, "document": document, **(reading or {})})
    if how.document is not None and how.kind in ("images", "pairs"):
        raise SourceError("`document` joins texts, and these are none; leave it out")
    if source.startswith("zoo:"):
        return bundled.source(source)
    if source.startswith("hf:"):
        return _hosted(source.removeprefix("hf:"), how, fetch)
    try:
        path = (base / Path(source).expanduser()).absolute()
        if path.is_dir():
            return _folder(path, how, base)
        if tabled.format_of(path.name) is None:
            near = nearest(source, tuple(PRESETS))
            raise SourceError(f"found {source!r}{near} Expected {_EXPECTED}")
        if not path.is_file():  # no device and no pipe either
            raise SourceError(f"there is no file {path}; paths are relative to the sweep file")
        with path.open("rb"):
            pass
        return _tables(path.parent, [(path, None)], how, base, cut=True)
    except (OSError, ValueError, RuntimeError) as error:  # too long, not allowed, no such user
        if isinstance(error, SourceError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{source} cannot be read ({reason}); mend that") from None


def again(arguments: Mapping[str, object]) -> Source:
    """Return the source that the arguments of a task of kind `data` name, wherever it runs."""
    fields, reading = arguments["fields"], arguments.get("reading") or {}
    assert isinstance(fields, Sequence)
    assert isinstance(reading, Mapping)
    return find(
        str(arguments["source"]),
        base=Path(str(arguments["base"])),
        text=fields[0],
        document=fields[1],
        reading=reading,
        fetch=True,
    )


def _hosted(name: str, how: Reading, fetch: bool) -> Source:
    hosted.check(name, how)
    kind = how.kind or "text"  # what it holds is only known where it is read
    at = hosted.commit(name, how.revision, fetch=fetch)

    def read(splits: tuple[str, ...] = how.splits) -> Iterator[Document | Broken]:
        commit = at or hosted.commit(name, how.revision, fetch=True)
        assert commit is not None

        def wanted(have: tuple[str, ...]) -> list[str]:
            kind_of(have, replace(how, kind=kind))
            return needed(have, how, kind)

        mine = replace(how, splits=splits)
        yield from documents(hosted.rows(name, commit, mine, wanted), mine, kind)

    return Source(
        kind=kind,
        files=(),
        splits=how.splits,
        read=read,
        identity=hosted.identity(name, at, how),
        streaming=how.streaming,
        read_split=(lambda split: read((split,))) if how.streaming and how.splits else None,
        revision=at,
        missing=None if at else hosted.missing(name, how.revision),
    )


def _folder(folder: Path, how: Reading, base: Path) -> Source:
    """Return the source that a folder is: of images, beside which texts may lie, or of tables."""
    files = filed.saved(list(filed.walk(folder)))
    images = [file for file in files if imaged.is_image(file.name)]
    formats = {f for file in files if (f := tabled.format_of(file.name))}
    if images and how.kind is None and formats - {"texts"}:
        raise SourceError(
            f"{folder} has {' and '.join(sorted(formats))}, and images ({images[0]}); say which are"
            " meant by `kind`, or keep one of them there"
        )
    if images and not (formats and how.kind in ("text", "pairs")):
        return _images(folder, _split(folder, images), how, base)
    if len(formats) > 1:
        raise SourceError(
            f"{folder} has {' and '.join(sorted(formats))}; keep one of them there, or name a file"
        )
    found = [file for file in files if tabled.format_of(file.name)]
    if not found:
        raise SourceError(f"{folder} has none of what can be read; expected {_EXPECTED}")
    return _tables(folder, _split(folder, found), how, base, cut=False)


def _split(folder: Path, files: Sequence[Path]) -> list[tuple[Path, str | None]]:
    """Return the files with the splits that the names right below a folder say, if all do.

    Tables that all lie in one folder of it (`data/`) are named there.
    """
    saved = folder / "dataset_dict.json"  # `datasets` says the splits of what it saves
    tops = [file.relative_to(folder).parts[0] for file in files]
    tables = tabled.format_of(files[0].name) and files[0].parent != folder
    if tables and len(set(tops)) == 1 and not _SPLIT.match(tops[0]):
        return _split(folder / tops[0], files)
    if saved.is_file():
        try:
            told = set(json.loads(saved.read_bytes())["splits"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{saved} does not list its splits ({error})") from None
        names = [top if top in told else None for top in tops]
    else:
        names = [match[1] if (match := _SPLIT.match(top)) else None for top in tops]
    if None in names or len(set(names)) < 2:
        return [(file, None) for file in files]
    return list(zip(files, names, strict=True))


def _ordered(found: Sequence[tuple[Path, str | None]]) -> tuple[str, ...]:
    """Return the splits of files: what is trained on first, what is tested on last."""
    names = sorted({split for _, split in found if split is not None})
    rank = {name: i for i, name in enumerate(_SPLITS)}
    return tuple(sorted(names, key=lambda name: rank.get(name.lower(), len(rank))))


def _labels(how: Reading, base: Path) -> Path | None:
    return None if how.labels is None else (base / Path(how.labels).expanduser()).absolute()


def _identity(
    folder: Path, form: str, files: Sequence[tuple[Path, str | None]], labels: Path | None
) -> str:
    """Return what decides, beside the content of files, which documents they are.

    One file of JSON lines has nothing of it: it is named by its content, as in the first version.
    """
    paths = [file for file, _ in files]
    told: dict[str, object] = {"format": form}
    if len(paths) > 1 or form in ("images", "whole texts"):  # their places name the documents
        told["under"] = os.path.relpath(os.path.commonpath(paths), folder)
    if splits := _ordered(files):
        told["splits"] = list(splits)
    if labels is not None:
        told["labels"] = hashlib.sha256(labels.read_bytes()).hexdigest()
    return "" if told == {"format": "JSON lines"} else canonical(told)


def _images(
    folder: Path, found: Sequence[tuple[Path, str | None]], how: Reading, base: Path
) -> Source:
    if how.kind not in (None, "images"):
        raise SourceError(f"{folder} holds images, and `kind` is {how.kind}; leave it out")
    labels = _labels(how, base)
    by_file, classes = imaged.numbered(folder, found, labels)
    mine = replace(how, kind="images", image="image", label="label")
    kind_of(imaged.COLUMNS, mine)  # for the columns that rows are chosen by
    table = Table(
        rows=lambda: imaged.rows(folder, found, by_file=by_file, classes=classes),
        columns=imaged.COLUMNS,
    )
    return Source(
        kind="images",
        files=tuple(file for file, _ in found),
        splits=_ordered(found),
        read=lambda: documents(table, mine, "images"),
        checked_by_reading=True,
        identity=_identity(folder, "images", found, labels),
    )


def _tables(
    folder: Path, found: Sequence[tuple[Path, str | None]], how: Reading, base: Path, *, cut: bool
) -> Source:
    """Return the source of files of one format; `cut` parts a single text into passages."""
    first = found[0][0]
    columns: tuple[str, ...] | None
    names: Mapping[str, Sequence[str]] = {}
    form = tabled.format_of(first.name) or ""
    whole = form == "texts" and not cut
    match form:
        case "texts":
            how, columns = replace(how, text="text"), ("text",)
            kind = kind_of(columns, how)
        case "JSON lines":
            columns = None
            try:  # the columns of `where` may come later
                told = tabled.first_columns(first)
                kind = how.kind or kind_of(told, replace(how, where={}, document=None))
            except SourceError:
                kind = "text"  # each line says itself what it lacks
        case _:
            schema = tabled.schema(first)
            columns, names = tuple(schema.names), tabled.classes(schema)
            kind = kind_of(columns, how)
    if how.document is not None and kind != "text":
        raise SourceError(f"`document` joins texts, and {first} holds {kind}; leave it out")
    labels = _labels(how, base)
    wanted = None if columns is None else needed(columns, how, kind)

    def rows() -> Iterator[Row | Broken]:
        for file, split in found:
            # One file has no name of its own: a copy under another is the same documents.
            inside = file.relative_to(folder).as_posix()
            if not whole:
                prefix = f"{inside}:" if len(found) > 1 else ""
                yield from tabled.rows(file, prefix=prefix, split=split, columns=wanted)
            else:
                yield from tabled.whole_text(file, inside, split)

    table = Table(rows=rows, columns=columns, names=names)
    classes = imaged.class_list(labels) if labels else None
    return Source(
        kind=kind,
        files=tuple(file for file, _ in found),
        splits=_ordered(found),
        read=lambda: documents(table, how, kind, classes),
        checked_by_reading=True,
        identity=_identity(folder, "whole texts" if whole else form, found, labels),
    )
