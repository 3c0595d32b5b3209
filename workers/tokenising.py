"""Tokenising: from text to token ids, and back to how many bytes they stand for.

The checkpoint's own `tokenizer.json` is read directly, so nothing heavy is
imported and every process makes the same ids. Special tokens are not added
here: where they stand is decided where windows are cut (`workers.data`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


class TokenizerError(ValueError):
    """A checkpoint folder without a tokenizer that can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """The T tokens of one text."""

    ids: NDArray[np.int64]
    """(T,) token ids, no special ones among them."""
    ends: NDArray[np.int64]
    """(T,) bytes of UTF-8 from the start of the text to the end of each token."""


def encode(folder: Path, texts: Sequence[str]) -> list[Encoding]:
    """Return the tokens of every text, by the tokenizer of a checkpoint folder.

    Raises TokenizerError if the folder has no `tokenizer.json`.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(
            f"{folder} has no tokenizer.json; save the tokenizer there in its fast form"
            " (`AutoTokenizer.from_pretrained(...).save_pretrained(...)`)"
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [
        Encoding(ids=np.asarray(one.ids, np.int64), ends=_byte_ends(text, one.offsets))
        for text, one in zip(texts, found, strict=True)
    ]


def _byte_ends(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    point = np.frombuffer(text.encode("utf-32-le"), "<u4")
    sizes = 1 + (point > 0x7F).astype(np.int64) + (point > 0x7FF) + (point > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(sizes)])
    ends = np.asarray([end for _, end in offsets], np.int64)
    return bytes_before[np.minimum(ends, len(text))]
