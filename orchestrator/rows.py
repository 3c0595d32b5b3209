"""Rows: from what tables hold, of whatever format, to documents.

A reader yields rows in a fixed order, as mappings of plain values; here the columns that a
sweep names are taken from them, rows that it did not ask for are passed over, and what does
not fit is `Broken`. So a JSON-lines file, a Parquet file and a data set of a hub with the
same rows are the same documents.

A row is a document unless a column names documents: then the texts of one name are one
document, in the order of the rows. That costs a first pass over the names, and of the texts
only those are held whose document has not ended.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from orchestrator import pixels
from orchestrator.documents import GIVEN_UP, Broken, Document, Kind, Reading, SourceError

NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "text": ("text",),
    "images": ("image", "label"),
    "pairs": ("input", "answer"),
}
"""Fields of a `Reading` that name columns without which there is no document."""
OPTIONAL: Mapping[Kind, tuple[str, ...]] = {"text": (), "images": (), "pairs": ("donor", "wrong")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a table."""

    name: str
    """Unique in the source."""
    split: str | None
    where: str
    """File and line, or row, for people."""
    values: Mapping[str, Any]
    """By column, as JSON has them; bytes too."""
    opened: Callable[[str], bytes] | None = None
    """Reads a file that an image names, or raises ValueError; None where names are not followed."""


Rows: TypeAlias = Callable[[], Iterator[Row | Broken]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows, and what is known of them before they are read."""

    rows: Rows
    columns: tuple[str, ...] | None
    """None where each row may have its own."""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of columns that hold classes as numbers, the names of the classes."""


class _Misfit(ValueError):
    """A value that is not what its column should hold."""


def kind_of(columns: Sequence[str], reading: Reading) -> Kind:
    """Return what rows with these columns are, which the sweep may say itself.

    Raises SourceError where columns are missing, with those that are there.
    """
    kinds: tuple[Kind, ...] = ("text", "images", "pairs")
    told = (reading.kind,) if reading.kind else kinds
    for kind in told:
        if all(_there(getattr(reading, key), columns) for key in NEEDED[kind]):
            _check_filters(columns, reading)
            return kind
    wanted = " or ".join(
        " and ".join(f"{getattr(reading, key)!r} ({key})" for key in NEEDED[kind]) for kind in told
    )
    raise SourceError(
        f"found the columns {', '.join(map(repr, columns)) or 'none'}, expected {wanted}; name the"
        " columns in the sweep file (`text: body`, say)"
    )


def needed(columns: Sequence[str], reading: Reading, kind: Kind) -> list[str]:
    """Return the columns that must be read, of those there are."""
    keys = (*NEEDED[kind], *OPTIONAL[kind])
    wanted = [getattr(reading, key) for key in keys] + list(reading.where)
    wanted += [reading.document] if reading.document else []
    tops = {name if name in columns else name.split(".")[0] for name in wanted}
    return [column for column in columns if column in tops]


def documents(
    table: Table, reading: Reading, kind: Kind, classes: Mapping[str, int] | None = None
) -> Iterator[Document | Broken]:
    """Yield the documents of a table's rows, in their order, and what is broken where it stands.

    `classes` numbers the classes of images whose labels are words.
    """
    if kind == "text" and reading.document is not None:
        yield from _joined(table, reading)
        return
    for row in _asked(table, reading):
        if isinstance(row, Broken):
            yield row
            continue
        try:
            yield _MADE[kind](row, reading, classes or {})
        except _Misfit as error:
            yield Broken(where=row.where, why=str(error))


def _asked(table: Table, reading: Reading) -> Iterator[Row | Broken]:
    """Yield the rows that have the values the sweep asks for.

    Raises SourceError where no row has a column that it names.
    """
    wanted = {path: {_key(v) for v in values} for path, values in reading.where.items()}
    unmet: dict[str, str] = dict.fromkeys(wanted, "")
    whole = 0
    for row in table.rows():
        if isinstance(row, Broken):
            yield row
            continue
        keep = True
        for path, allowed in wanted.items():
            try:
                value = _value(row.values, path)
            except _Misfit as error:
                unmet |= {path: unmet[path] or f"{row.where}: {error}"} if path in unmet else {}
                keep = False
                continue
            unmet.pop(path, None)
            keep = keep and not allowed.isdisjoint(_keys(value, table.names.get(path)))
        whole += 1
        if unmet and whole == GIVEN_UP:
            break
        if keep:
            yield row
    if unmet and whole:
        path, said = next(iter(unmet.items()))
        raise SourceError(f"none of {whole} rows has the column {path!r} of `where` (first {said})")


def _keys(value: object, names: Sequence[str] | None) -> set[str]:
    """Return the ways a sweep file may write a value: a class by its number or its name."""
    found = {_key(value)}
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        found.add(_key(names[value]))
    return found


def _key(value: object) -> str:
    """Return one spelling of equal values: 1 is 1.0 and not True, a date is its text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def _joined(table: Table, reading: Reading) -> Iterator[Document | Broken]:
    """Yield a document per name, when the last row of its name was met."""
    left: Counter[tuple[str | None, str]] = Counter()
    for row in _named(table, reading):
        if isinstance(row, tuple):
            left[row[0]] += 1
    parts: dict[tuple[str | None, str], list[str]] = {}
    for found in _named(table, reading):
        if isinstance(found, Broken):
            yield found
            continue
        key, text = found
        parts.setdefault(key, []).append(text)
        left[key] -= 1
        if not left[key]:
            yield Document(name=key[1], split=key[0], text="\n\n".join(parts.pop(key)))


def _named(table: Table, reading: Reading) -> Iterator[tuple[tuple[str | None, str], str] | Broken]:
    column = reading.document
    assert column is not None
    for row in _asked(table, reading):
        if isinstance(row, Broken):
            yield row
            continue
        try:
            name = _value(row.values, column)
            if isinstance(name, bool) or not isinstance(name, (str, int)):
                raise _Misfit(f"{column!r} is {_short(name)}, not a name")
            yield (row.split, _whole(str(name), column)), _text(row, reading.text)
        except _Misfit as error:
            yield Broken(where=row.where, why=str(error))


def _text_document(row: Row, reading: Reading, classes: Mapping[str, int]) -> Document:
    return Document(name=row.name, split=row.split, text=_text(row, reading.text))


def _image_document(row: Row, reading: Reading, classes: Mapping[str, int]) -> Document:
    held = _value(row.values, reading.image)
    content = held.get("bytes") if isinstance(held, Mapping) else held
    path = held.get("path") if isinstance(held, Mapping) else None
    if not isinstance(content, bytes) and (row.opened is None or not isinstance(path, str)):
        more = f"; it only names the file {path!r}" if path else ""
        raise _Misfit(f"{reading.image!r} holds no bytes of an image{more}")
    label = _value(row.values, reading.label)
    if isinstance(label, str):
        if label not in classes:
            why = "is not in `labels`" if classes else "has no number; give a `labels` file"
            raise _Misfit(f"the class {label!r} {why}")
        label = classes[label]
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        raise _Misfit(f"{reading.label!r} is {_short(label)}, not the number of a class")
    try:
        if not isinstance(content, bytes):
            assert row.opened is not None
            content = row.opened(str(path))
        image_HWC = pixels.decoded(content)
    except ValueError as error:
        raise _Misfit(str(error)) from None
    return Document(name=row.name, split=row.split, image=image_HWC, target=label)


def _pair_document(row: Row, reading: Reading, classes: Mapping[str, int]) -> Document:
    made = Document(
        name=row.name,
        split=row.split,
        text=_text(row, reading.input),
        answer=_text(row, reading.answer),
    )
    if _has(row, reading.donor):
        made = replace(made, donor=_text(row, reading.donor))
    if _has(row, reading.wrong):
        wrong = _value(row.values, reading.wrong)
        several = wrong if isinstance(wrong, list) else [wrong]
        if not all(isinstance(w, str) for w in several):
            raise _Misfit(f"{reading.wrong!r} is {_short(wrong)}, not a text or a list of texts")
        made = replace(made, wrong=tuple(_whole(w, reading.wrong) for w in several))
    return made


_MADE: Mapping[Kind, Callable[[Row, Reading, Mapping[str, int]], Document]] = {
    "text": _text_document,
    "images": _image_document,
    "pairs": _pair_document,
}


def _text(row: Row, column: str) -> str:
    found = _value(row.values, column)
    if not isinstance(found, str):
        raise _Misfit(f"{column!r} is {_short(found)}, not a text")
    return _whole(found, column)


def _whole(text: str, column: str) -> str:
    try:
        text.encode()  # half of a pair (`\ud800`) is a text to JSON, and to nothing else
    except UnicodeEncodeError:
        raise _Misfit(f"{column!r} has half of a surrogate pair, which is no character") from None
    return text


def _value(values: Mapping[str, Any], path: str) -> Any:
    """Return a row's value of a column, or of one within mappings, as `meta.subset`."""
    if path in values:
        return values[path]
    here: Any = values
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            there = ", ".join(repr(key) for key in list(values)[:12])
            raise _Misfit(f"expected {path!r}; found {there or 'nothing'}")
        here = here[part]
    return here


def _has(row: Row, column: str) -> bool:
    try:
        return _value(row.values, column) is not None
    except _Misfit:
        return False


def _short(value: object) -> str:
    return repr(value)[:60]


def _there(path: str, columns: Sequence[str]) -> bool:
    return path in columns or ("." in path and path.split(".")[0] in columns)


def _check_filters(columns: Sequence[str], reading: Reading) -> None:
    named = [*reading.where, *([reading.document] if reading.document else [])]
    lost = [path for path in named if not _there(path, columns)]
    if lost:
        raise SourceError(
            f"there is no column {lost[0]!r}; the columns are {', '.join(map(repr, columns))}"
        )
