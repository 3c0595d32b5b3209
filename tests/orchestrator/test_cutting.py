"""Every token of a text is scored once, with as much of the text before it as is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.cutting import Window, cut
from orchestrator.documents import Document
from orchestrator.sections import SHORTEST

BOS, EOS, FIRST = 0, 1, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder whose tokenizer makes one token of every number."""
    place = tmp_path_factory.mktemp("tokenizer")
    words = {"bos": BOS, "eos": EOS, **{str(i): FIRST + i for i in range(300)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="bos"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(place / "tokenizer.json"))
    return place


def windows(
    folder: Path, count: int, *, scored: bool = True, text: str | None = None, **told: Any
) -> list[Window]:
    document = Document(name="d", split=None, text=text or " ".join(map(str, range(count))))
    plain = {"folder": str(folder), "bos": "every_window", "modality": "causal", "window": 32}
    specials = {"bos": BOS, "eos": EOS}
    (made,) = cut({**plain, "specials": specials, **told}, [document], scored=scored)
    return made


def scored(made: list[Window]) -> list[int]:
    """Return the tokens of a document that are new in a window and may be scored, in order."""
    return [int(t) - FIRST for w in made for t in w.input[w.first :] if t >= FIRST]


@given(st.integers(SHORTEST, 290), st.integers(1, 17), st.sampled_from(["every_window", "none"]))
def test_with_a_stride_every_token_is_scored_once_and_every_byte_counted_once(
    folder: Path, count: int, stride: int, bos: str
) -> None:
    # A larger stride would leave last windows too short to be kept.
    made = windows(folder, count, stride=stride, bos=bos)
    assert scored(made) == list(range(count))
    assert sum(w.bytes for w in made) == len(" ".join(map(str, range(count))).encode())
    for window in made[1:]:
        assert window.first >= 32 - stride  # all but the first window's have this much before them


@given(st.integers(SHORTEST, 290), st.integers(1, 16), st.integers(1, 17) | st.none())
def test_a_token_with_too_little_before_it_is_not_scored(
    folder: Path, count: int, context: int, stride: int | None
) -> None:
    if context > 32 - (stride or 1):
        return
    made = windows(folder, count, context=context, stride=stride)
    assert all(max(window.first, 1) >= context for window in made)
    found = scored(made)
    assert len(set(found)) == len(found)
    if stride is not None:  # the first window's first tokens alone: bos is before them
        assert found == list(range(context - 1, count))
    sizes = [len(str(token)) + (token > 0) for token in found]
    assert sum(window.bytes for window in made) == sum(sizes)


def test_what_is_collected_never_overlaps(folder: Path) -> None:
    made = windows(folder, 200, scored=False, stride=5, context=9)
    plain = windows(folder, 200, scored=False)
    assert [w.input.tolist() for w in made] == [w.input.tolist() for w in plain]
    assert scored(made) == list(range(186))  # the last 14 are too few for a window
    assert {w.first for w in made} == {0}


def test_a_document_can_be_cut_off_after_its_first_window(folder: Path) -> None:
    for modality in ("causal", "masked"):
        (window,) = windows(folder, 200, truncate=True, modality=modality)
        assert len(window.input) == 32
        assert window.bytes == len(" ".join(map(str, range(31 - (modality == "masked")))))


def test_a_document_with_no_more_than_the_context_has_no_window(folder: Path) -> None:
    assert windows(folder, 20, context=21) == []
    assert len(windows(folder, 21, context=21)) == 1


def test_windows_of_a_document_hold_no_other(folder: Path) -> None:
    texts = [" ".join(str(100 * i + j) for j in range(40 + i)) for i in range(3)]
    documents = [Document(name=str(i), split=None, text=text) for i, text in enumerate(texts)]
    told = {"folder": str(folder), "bos": "none", "modality": "causal", "window": 20}
    for i, made in enumerate(cut({**told, "specials": {}}, documents, scored=True)):
        tokens = np.concatenate([window.input for window in made])
        assert ((tokens - FIRST) // 100 == i).all()
