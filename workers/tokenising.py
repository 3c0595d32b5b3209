"""Tokenising: from text to token ids, and back to how many bytes they stand for.

The checkpoint's own `tokenizer.json` is read directly, so nothing heavy is
imported and every process makes the same ids. Checkpoints from before there was
such a file (OPT, for one) have `vocab.json` and `merges.txt` instead: from these the
same byte-level byte-pair encoding is put together, as transformers does for GPT-2 and those
that took over its tokenizer. Others wrote files of these names too and split texts in another
way before (Qwen), so they are refused. Special tokens are not added here: where they stand is
decided where windows are cut (`workers.data`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

FILE = "tokenizer.json"
OLD = ("vocab.json", "merges.txt")
"""What byte-level byte-pair encodings were written to before."""
OF_GPT2 = {"gpt2", "gptj", "opt", "roberta"}
"""Values of `model_type` whose tokenizer is GPT-2's, so that these two files say all of it."""


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

    Raises TokenizerError if the folder has neither `tokenizer.json` nor the older files, or they
    cannot be read.
    """
    there = [folder / name for name in (FILE, *OLD) if (folder / name).is_file()]
    seen = tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in there)
    found = _tokenizer(folder, seen).encode_batch(list(texts), add_special_tokens=False)
    return [
        Encoding(ids=np.asarray(one.ids, np.int64), ends=_byte_ends(text, one.offsets))
        for text, one in zip(texts, found, strict=True)
    ]


@lru_cache(maxsize=2)  # one takes a second to read where the vocabulary is large
def _tokenizer(folder: Path, seen: tuple[tuple[str, int, int], ...]) -> Tokenizer:
    """Return a folder's tokenizer; `seen` are its files, so that changed ones are read again."""
    names = {Path(file).name for file, _, _ in seen}
    if (why := unreadable(folder)) is not None:
        raise TokenizerError(why)
    try:
        if FILE in names:
            tokenizer = Tokenizer.from_file(str(folder / FILE))
        else:
            tokenizer = _byte_level(folder)
    except Exception as error:  # the library raises plain ones
        raise TokenizerError(
            f"the tokenizer in {folder} cannot be read ({str(error)[:300]}); restore its files"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def unreadable(folder: Path) -> str | None:
    """Return why the tokenizer in a folder cannot be used, with the cure; None where it can.

    Its files are looked for, and not read through.
    """
    if (folder / FILE).is_file():
        return None
    cure = (
        "save the tokenizer there in its fast form"
        " (`AutoTokenizer.from_pretrained(...).save_pretrained(...)`)"
    )
    if not all((folder / name).is_file() for name in OLD):
        return f"{folder} has no {FILE}, nor {' and '.join(OLD)}; {cure}"
    try:
        kind = _parsed(folder / "config.json").get("model_type")
        more = _parsed(folder / "added_tokens.json").keys() | _decoded(folder)
    except ValueError as error:
        return f"the tokenizer in {folder} cannot be read ({str(error)[:300]}); restore its files"
    if kind not in OF_GPT2:
        return f"{folder} has {' and '.join(OLD)} of a {kind} model, which say too little; {cure}"
    if more - _named(_settings(folder)).keys():
        return f"{folder} has tokens that were added to {OLD[0]}, which say too little; {cure}"
    return None


def _decoded(folder: Path) -> set[str]:
    """Return the tokens that `tokenizer_config.json` lists by number."""
    listed = _parsed(folder / "tokenizer_config.json").get("added_tokens_decoder")
    rows = listed.values() if isinstance(listed, dict) else ()
    return {str(row.get("content")) for row in rows if isinstance(row, dict)}


def _settings(folder: Path) -> list[dict[str, Any]]:
    """Return what is said of an older tokenizer beside its vocabulary."""
    return [_parsed(folder / f) for f in ("special_tokens_map.json", "tokenizer_config.json")]


def _named(said: Sequence[dict[str, Any]]) -> dict[str, AddedToken]:
    """Return the special tokens that have a role, by their text."""
    named = {k: v for one in said for k, v in one.items() if k.endswith("_token")}
    made = [_added(v) for v in named.values() if isinstance(v, (str, dict))]
    return {token.content: token for token in made}


def _byte_level(folder: Path) -> Tokenizer:
    """Return the byte-level byte-pair encoding of a vocabulary and its merges."""
    vocabulary, merges = models.BPE.read_file(*(str(folder / name) for name in OLD))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    said = _settings(folder)
    space = any(bool(one.get("add_prefix_space")) for one in said)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.add_special_tokens(list(_named(said).values()))
    return tokenizer


def _added(said: str | dict[str, Any]) -> AddedToken:
    """Return a special token, which is one token wherever a text has it."""
    if isinstance(said, str):
        return AddedToken(said, special=True, normalized=False)
    kept = {k: bool(said.get(k, False)) for k in ("lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(str(said["content"]), special=True, **kept)


def _parsed(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _byte_ends(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    point = np.frombuffer(text.encode("utf-32-le"), "<u4")
    sizes = 1 + (point > 0x7F).astype(np.int64) + (point > 0x7FF) + (point > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(sizes)])
    ends = np.asarray([end for _, end in offsets], np.int64)
    return bytes_before[np.minimum(ends, len(text))]
