"""Mistakes: what is wrong with a sweep, said so that it can be mended.

A mistake has a path into the file and a message that says what was found, what
was expected and what to do. They are collected, never first-wins: a `SpecError`
carries all that could be found in one look. What was found may be anything, so
a message is cut in its middle where it is long, and says odd characters by number.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, get_args, get_origin

from pydantic import BaseModel

LONGEST = 1000
"""Characters of a message; the file has the rest."""
MOST = 100
"""Mistakes that are told one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One thing wrong with a sweep file."""

    path: str
    """Where, for example `models[1].dtype`; empty for the file as a whole."""
    message: str
    """What was found, what was expected and what to do."""

    def __post_init__(self) -> None:
        """Keep what can be printed, and the start and the end of what is long."""
        object.__setattr__(self, "path", _printable(self.path))
        object.__setattr__(self, "message", _printable(self.message))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ValueError):
    """A sweep that cannot be run as written; carries every mistake found."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        """Keep the mistakes in the order of the file."""
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = [f"  {m}" for m in mistakes[:MOST]]
        if len(mistakes) > MOST:
            lines.append(f"  … and {len(mistakes) - MOST:,} more")
        super().__init__(f"{count} in the sweep:\n" + "\n".join(lines))


def _printable(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 2 // 3]} … {text[-LONGEST // 3 :]}"
    return text.encode("utf-8", "backslashreplace").decode()  # halves of a pair cannot be printed


def not_yet(what: str, instead: str) -> ValueError:
    """Return the error for what is designed but not built."""
    return ValueError(f"{what} is designed but not built yet; use {instead}")


def one_of(value: str, known: tuple[str, ...], later: tuple[str, ...], what: str) -> str:
    """Return `value` if it is known; else raise ValueError with the nearest known word."""
    if value in known:
        return value
    if value in later:
        raise not_yet(f"{what} {value!r}", "one of " + ", ".join(known))
    raise ValueError(
        f"unknown {what} {value!r}{nearest(value, (*known, *later))} Known: {', '.join(known)}"
    )


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def from_pydantic(
    error: Mapping[str, object], root: type[BaseModel], later: Sequence[str]
) -> Mistake:
    """Return one of pydantic's error details in our words, for a file read as `root`.

    Keys in `later` are designed but not built yet.
    """
    location = error["loc"]
    assert isinstance(location, tuple)
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    context = error.get("ctx")
    detail = context if isinstance(context, Mapping) else {}
    match error["type"]:
        case "extra_forbidden":
            key, known = str(location[-1]), _keys(root, location[:-1])
            message = f"unknown key{nearest(key, known)} Known here: {', '.join(known)}"
            if key in later:
                message = "this key is designed but not built yet; leave it out"
        case "missing":
            message = "is missing; it must be given"
        case "value_error":
            message = str(detail.get("error", error["msg"]))
        case "model_type":
            message = f"found {error.get('input')!r}, expected a mapping (`key: value`)"
        case "too_short":
            message = "is empty; give at least one"
        case _:
            text = str(error["msg"]).replace("tuple", "list")
            message = f"found {error.get('input')!r}; {text[0].lower()}{text[1:]}"
    return Mistake(path=path, message=message)


def _keys(root: type[BaseModel], location: Sequence[object]) -> list[str]:
    """Return the keys allowed at a place of the file, following the types of `root`."""
    here: object = root
    for part in location:
        if isinstance(part, str) and isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation
        else:  # an item of a list or a named entry of a mapping
            here = get_args(here)[-1] if isinstance(part, str) else get_args(here)[0]
        while get_origin(here) is Annotated:
            here = get_args(here)[0]
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []
