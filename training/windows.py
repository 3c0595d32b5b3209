"""Windows: what a text model is fed, in training and in measuring.

A window is cut from one document and never crosses into the next. Every window
starts with `<s>`; RoBERTa's also end with `</s>`. What is left of a document at
its end makes a short window, padded on the right and masked there. For measuring,
the cuts fall at multiples of the window's length from the start of the document.
For training, the first cut is at random in every epoch, so that a token is met at
every position and short windows are met as often as they are later.

Shapes: W windows of L tokens.
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

BOS, PAD, EOS, UNK, MASK = range(5)
SPECIALS = 5
WINDOW = {"opt": 128, "mistral": 128, "roberta": 64}  # tokens, `<s>` and `</s>` included
IGNORED = -100  # the target of a position that is not scored

Tokens = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One line of the frozen corpus."""

    document: str
    split: str
    text: str


def read_corpus(path: Path) -> list[Document]:
    """Return the documents of the frozen corpus in the order of the file."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]


def tokens_of(folder: Path, documents: list[Document]) -> list[Tokens]:
    """Return the tokens of each document, with no special ones among them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = tokenizer.encode_batch([d.text for d in documents], add_special_tokens=False)
    return [np.array(one.ids, dtype=np.int64) for one in encoded]


def cut(document: Tokens, first: int, window: int, *, closed: bool) -> list[Tokens]:
    """Return a document's windows; the first one ends after `first` tokens of text."""
    room = window - 1 - closed
    starts = [0, *range(first, len(document), room)] if first else range(0, len(document), room)
    ends = [*starts[1:], len(document)]
    rows = []
    for start, end in zip(starts, ends, strict=True):
        row = np.full(window, PAD, dtype=np.int64)
        row[0] = BOS
        row[1 : 1 + end - start] = document[start:end]
        if closed:
            row[1 + end - start] = EOS
        rows.append(row)
    return rows


def fixed_windows(documents: list[Tokens], window: int, *, closed: bool) -> Tokens:
    """Return the windows on which a model is measured, shape (W, L)."""
    return np.stack([row for d in documents for row in cut(d, 0, window, closed=closed)])


def epoch(
    documents: list[Tokens], window: int, random: np.random.Generator, *, closed: bool
) -> Tokens:
    """Return one epoch of windows, cut afresh and shuffled, shape (W, L)."""
    room = window - 1 - closed
    firsts = random.integers(0, room, size=len(documents))
    rows = [
        row
        for document, first in zip(documents, firsts, strict=True)
        for row in cut(document, min(int(first), len(document)), window, closed=closed)
    ]
    tokens_WL = np.stack(rows)
    return tokens_WL[random.permutation(len(tokens_WL))]


def corrupt(tokens_WL: Tokens, random: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Return (input, target) for masked language modelling, BERT's 15 % and 80/10/10."""
    chosen_WL = (random.random(tokens_WL.shape) < 0.15) & (tokens_WL >= SPECIALS)
    kind_WL = random.random(tokens_WL.shape)
    noise_WL = random.integers(SPECIALS, 2048, size=tokens_WL.shape)
    input_WL = np.where(chosen_WL & (kind_WL < 0.8), MASK, tokens_WL)
    input_WL = np.where(chosen_WL & (kind_WL >= 0.9), noise_WL, input_WL)
    return input_WL, np.where(chosen_WL, tokens_WL, IGNORED)
