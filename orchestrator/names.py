"""Names: what a piece of work is called, before anything runs.

A name is a hash of a *recipe*: everything that changes the answer, and nothing
else. Recipes contain the names of the work they build on, so a name stands for
its whole history, and two people who ask for the same thing get the same name.
Nothing here depends on the order of work, on the number of workers or on what
was computed before; that is what makes resuming a comparison of names.

`ALGORITHM` holds a version per kind of work. Raise it when a change makes the
kind's numbers different: old answers then keep their old names and are not
mistaken for new ones. A golden test fails when numbers change without it.
"""

import hashlib
import json
import re
from collections.abc import Mapping

ALGORITHM: Mapping[str, int] = {
    "data": 1,
    "donors": 2,
    "generate": 1,
    "selection": 2,
    "norms": 1,
    "probe": 2,
    "effects": 1,
    "pilot": 3,
    "collect": 3,
    "widen": 1,
    "again": 2,
    "merge": 2,
    "recount": 3,
    "merge_fixed": 2,
    "under": 2,
    "statistics": 3,
    "centres": 3,
    "learn": 2,
    "cell": 3,
}

LENGTH = 24
"""Hexadecimal digits of a name: 96 bits, one collision in 1e16 among a million names."""

LONGEST = 100
"""Characters of a path component made from a text."""


def canonical(value: object) -> str:
    """Return `value` as JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def name(kind: str, recipe: Mapping[str, object]) -> str:
    """Return the name of a piece of work of this kind, `LENGTH` hexadecimal digits.

    Raises KeyError for a kind without an entry in `ALGORITHM`.
    """
    return hashed(spelled(kind, recipe).encode())


def spelled(kind: str, recipe: Mapping[str, object]) -> str:
    """Return the text of which a piece of work's name is the hash; raises what `name` does."""
    return canonical({"kind": kind, "algorithm": ALGORITHM[kind], **recipe})


def hashed(text: bytes) -> str:
    """Return the name that stands for a text."""
    return hashlib.sha256(text).hexdigest()[:LENGTH]


def data_file(model: str, data: str) -> str:
    """Return the file of a run folder with the sequences of a source as a model is fed them."""
    return f"data/{slug(model)}/{slug(data)}.parquet"


def slug(text: str) -> str:
    """Return `text` as one path component: `zoo:opt` becomes `zoo-opt`.

    Never empty, never hidden, never a way out of a folder; two texts may share
    a slug, which the plan refuses.
    """
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unnamed"
    if len(short) <= LONGEST:
        return short
    kept = short[-LONGEST + 13 :].lstrip(".-")
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
