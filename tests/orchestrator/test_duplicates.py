"""What is nearly a collected document is found, and what merely resembles one is not."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from orchestrator.duplicates import SPAN, Pictures, Texts, difference_hash, runs

WORDS = [a + b for a in ("ba", "ko", "mi", "tu", "re", "so", "lan", "zip") for b in "aeioudrstn"]


def words(count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def text(count: int = 300, seed: int = 0) -> str:
    return " ".join(words(count, seed))


@given(st.text())
def test_a_text_is_a_duplicate_of_itself_and_of_nothing_that_was_not_collected(own: str) -> None:
    assert Texts([own]).share(own) == 1.0
    assert not Texts([]).has(own)


def test_case_spaces_and_punctuation_make_no_difference() -> None:
    assert Texts([text()]).share(text().upper().replace(" ", ",\n  ") + "!") == 1.0


def test_a_version_with_a_few_other_words_is_a_duplicate_and_another_text_is_not() -> None:
    seen = Texts([text(seed=1), text(seed=2)])
    changed = words(300, 1)
    for i in range(0, 300, 40):
        changed[i] = "otherwise"
    assert seen.has(" ".join(changed))
    assert seen.share(text(seed=3)) < 0.02


def test_an_excerpt_is_a_duplicate_and_a_long_text_that_quotes_is_not() -> None:
    quoted = text(60, seed=1)
    assert Texts([text(100, 4) + quoted + text(100, 5)]).has(quoted)
    assert not Texts([quoted]).has(text(100, 4) + quoted + text(100, 5))


def test_a_text_put_together_from_collected_ones_is_a_duplicate() -> None:
    assert Texts([text(40, seed=i) for i in range(6)]).has(" ".join(text(40, i) for i in range(6)))


def test_writing_without_spaces_is_compared_too() -> None:
    point = random.Random(0).choices(range(0x4E00, 0x5E00), k=200)
    chinese = "".join(map(chr, point))
    assert Texts([chinese]).has(chinese[:150] + "。")
    assert not Texts([chinese]).has("".join(map(chr, point[::-1])))


@given(st.text(max_size=SPAN), st.text(max_size=SPAN))
def test_texts_shorter_than_a_run_are_compared_as_a_whole(one: str, other: str) -> None:
    alike = np.array_equal(runs(one), runs(other))
    assert Texts([one]).has(other) == alike
    if "".join(filter(str.isalnum, one)) != "".join(filter(str.isalnum, other)):
        return  # case and width may still make them one
    assert alike


def test_runs_are_the_same_on_every_machine() -> None:
    # A change here changes what is evaluated: raise the `ALGORITHM` of data.
    made = runs("The same text has always the same runs, wherever it is looked at.")
    assert made[:4].tolist() == [27211561, 71937583, 144652715, 557179712]


def photograph(seed: int, size: int = 96) -> NDArray[np.uint8]:
    """Return a picture with the spectrum of photographs: rough at every scale."""
    draw = np.random.default_rng(seed)
    scale = np.fft.fftfreq(size)
    reach = np.hypot(scale[:, None], scale[None])
    reach[0, 0] = 1
    planes = []
    for _ in range(3):
        wave = np.fft.ifft2(np.fft.fft2(draw.normal(size=(size, size))) / reach).real
        planes.append((wave - wave.min()) / (wave.max() - wave.min()))
    mixed = np.stack(planes, axis=2) * 0.3 + planes[0][:, :, None] * 0.7
    return (255 * mixed).astype(np.uint8)


def coded(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def test_a_photograph_that_was_coded_or_scaled_anew_is_a_duplicate() -> None:
    seen = Pictures(photograph(i) for i in range(20))
    for i in range(20):
        assert seen.has(coded(photograph(i), 75))
        assert seen.has(scaled(photograph(i), 224))
        assert seen.has(np.clip(photograph(i) * 0.9 + 12, 0, 255).astype(np.uint8))


def test_of_many_photographs_no_two_are_duplicates() -> None:
    bits = [difference_hash(photograph(i)) for i in range(60)]
    pairs = [
        int(np.bitwise_count(a ^ b).sum())
        for i, a in enumerate(bits)
        for b in bits[:i]
        if a is not None and b is not None
    ]
    assert len(pairs) == 60 * 59 // 2
    assert min(pairs) > 60


@pytest.mark.parametrize("size", [8, 96])
def test_pictures_without_detail_are_duplicates_only_byte_for_byte(size: int) -> None:
    flat = np.full((size, size, 3), 200, np.uint8)
    flat[1, 2] = 0
    other = flat.copy()
    other[3, 4] = 0
    seen = Pictures([flat])
    assert seen.has(flat.copy())
    assert not seen.has(other)


def test_where_near_ones_are_kept_only_equal_ones_are_found() -> None:
    seen = Pictures([photograph(0)], nearly=False)
    assert seen.has(photograph(0))
    assert not seen.has(coded(photograph(0), 95))
