"""Cutting: from documents to windows, and which of them are taken.

A window is what a model is fed at once. A document is cut into windows from its start, so
each is of one document alone. Nothing is packed: texts of unlike lengths are fed in batches of
their own (`workers.data.batches`), so that short documents cost less than 5 % of padding and
none of them sees another.

A sweep may ask for the start of every document alone (`truncate`), or, for what is scored, for
windows that overlap (`stride`). Every token is then scored once, in the first window that
shows it: with windows of 1,024 and a stride of 512, all but a document's first tokens are
scored with at least 512 tokens before them, as long texts are scored by the perplexity of
sliding windows. With a `context`, tokens with fewer positions before them are not scored at all.
The bytes of a window are those of the tokens that are new in it and have their context, so bits
per byte stay bits per byte. (A document's last window is left out where it is shorter than
`SHORTEST`, with a stride as without.)

What is collected is never cut with an overlap: a position would be counted twice.

Windows are taken in turns, one per document, so that few windows still mean many documents.

Shapes: T positions of a window.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.documents import Document
from orchestrator.sections import SHORTEST
from workers.data import windows
from workers.tokenising import Encoding, encode

AT_ONCE = 64
"""Documents tokenised together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One sequence before it has a number."""

    document: str
    input: NDArray[np.int64]
    """(T,) token ids."""
    bytes: int
    """UTF-8 bytes of the text that is new in it."""
    first: int = 0
    """Position of the first token that may be scored."""


def cut(
    told: Mapping[str, Any], documents: Iterable[Document], *, scored: bool
) -> Iterator[list[Window]]:
    """Yield every document's windows, tokenising a few documents at a time.

    `told` are a task's arguments; `scored` windows overlap and have context as it says. What is
    new in a window counts with all its bytes, whichever of its tokens have a target.
    """
    left = iter(documents)
    one = _cutter(told, scored)
    while some := list(islice(left, AT_ONCE)):
        encodings = encode(Path(told["folder"]), [d.text or "" for d in some])
        for document, encoding in zip(some, encodings, strict=True):
            yield one(document.name, encoding)


def _cutter(told: Mapping[str, Any], scored: bool) -> Callable[[str, Encoding], list[Window]]:
    """Return what cuts one document's tokens."""
    bos, eos = told["specials"].get("bos"), told["specials"].get("eos")
    opening = bos if told["bos"] == "every_window" else None
    closing = eos if told["modality"] == "masked" else None
    before = int(opening is not None)
    room = told["window"] - before - (closing is not None)
    stride = (told.get("stride") if scored else None) or room
    context = (told.get("context") if scored else None) or 0
    # A bos for the first window alone is cut like a token of the text, one of no bytes.
    ahead = np.array([bos] if told["bos"] == "first" and bos is not None else [], np.int64)

    def one(name: str, encoding: Encoding) -> list[Window]:
        ids = np.concatenate([ahead, encoding.ids])
        ids = ids[:room] if told.get("truncate") else ids
        made = windows(
            ids,
            length=told["window"],
            bos=opening,
            eos=closing,
            shortest=SHORTEST,
            stride=stride,
        )
        # Where each token of the document begins, in bytes; the last number is the text's end.
        bytes_at = np.concatenate([np.zeros(len(ahead) + 1, np.int64), encoding.ends])
        new, found = 0, []
        for i, input_T in enumerate(made):
            start = i * stride
            end = start + len(input_T) - before - (closing is not None)
            new = max(new, start + context - before)
            if new < end:
                size = int(bytes_at[end] - bytes_at[new])
                first = new - start + before if new > start else 0
                found.append(Window(document=name, input=input_T, bytes=size, first=first))
                new = end
        return found

    return one


def in_turns(windows_of: Iterable[Sequence[Window]], limit: int) -> list[Window]:
    """Return `limit` windows at most, taken one per document in turns.

    Documents are looked at only as long as the first turn needs more of them.
    """
    first: list[Sequence[Window]] = []
    for made in windows_of:
        if made:
            first.append(made)
        if len(first) == limit:
            break
    longest = max(map(len, first), default=0)
    return [w[i] for i in range(longest) for w in first if i < len(w)][:limit]
