"""Batches hold every sequence once, windows every token once, and corruption is a matter of seeds.

Shapes: S sequences, T positions, H x W x C pixels.
"""

from dataclasses import replace
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.data import batches, causal_targets, corrupt, windows
from workers.messages import NOT_SCORED, Sequences

SPECIALS = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}
VOCABULARY = 60


def texts(lengths: list[int]) -> Sequences:
    """Return texts of these lengths, whose numbers are 10, 13, 16, …"""
    rng = np.random.default_rng(0)
    return Sequences(
        sequence=10 + 3 * np.arange(len(lengths)),
        inputs=tuple(rng.integers(5, VOCABULARY, n) for n in lengths),
        targets=tuple(rng.integers(5, VOCABULARY, n) for n in lengths),
        marks=tuple(rng.integers(1, 4, n).astype(np.uint8) for n in lengths),
    )


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(20, 90))
def test_every_text_is_in_one_batch_padded_on_the_right_within_the_size(
    lengths: list[int], tokens: int
) -> None:
    sequences = texts(lengths)
    assert sequences.marks is not None
    seen = []
    for batch in batches(sequences, tokens=tokens, pad=1):
        assert batch.attended is not None
        assert batch.marks is not None
        assert batch.inputs.size <= tokens
        assert batch.inputs.shape == batch.targets.shape == batch.attended.shape
        assert batch.attended.any(axis=0).all()  # no wider than its longest
        for s, number in enumerate(batch.sequence):
            i = int((number - 10) // 3)
            seen.append(i)
            n = lengths[i]
            assert batch.inputs[s, :n].tolist() == sequences.inputs[i].tolist()
            assert batch.targets[s, :n].tolist() == sequences.targets[i].tolist()
            assert (batch.inputs[s, n:] == 1).all()
            assert (batch.targets[s, n:] == NOT_SCORED).all()
            assert batch.marks[s, :n].tolist() == sequences.marks[i].tolist()
            assert not batch.marks[s, n:].any()
            assert batch.attended[s].tolist() == [True] * n + [False] * (len(batch.attended[s]) - n)
    assert sorted(seen) == list(range(len(lengths)))


def test_texts_without_marks_make_batches_without() -> None:
    bare = replace(texts([4, 4]), marks=None)
    assert [batch.marks for batch in batches(bare, tokens=12)] == [None]


def test_texts_go_by_length_and_then_by_number() -> None:
    made = batches(texts([4, 2, 4, 2, 4]), tokens=8)
    assert [batch.sequence.tolist() for batch in made] == [[13, 19], [10, 16], [22]]
    assert [batch.inputs.shape for batch in made] == [(2, 2), (2, 4), (1, 4)]


def cut(lengths: list[int], tokens: int) -> list[list[int]]:
    """Return the lengths of the texts of every batch."""
    attended = [batch.attended for batch in batches(texts(lengths), tokens=tokens)]
    return [a.sum(axis=1).tolist() for a in attended if a is not None]


def padding(cuts: list[list[int]]) -> tuple[int, int]:
    """Return how many positions of all batches are padding, and how many there are."""
    fed = sum(len(batch) * max(batch) for batch in cuts)
    return fed - sum(sum(batch) for batch in cuts), fed


lengths = st.lists(st.integers(1, 130), min_size=1, max_size=60) | st.lists(
    st.sampled_from([1, 19, 20, 64]), min_size=1, max_size=60
)


@given(lengths, st.integers(130, 4000))
def test_less_than_a_twentieth_of_what_is_fed_is_padding(lengths: list[int], tokens: int) -> None:
    wasted, fed = padding(cut(lengths, tokens))
    assert 20 * wasted < fed


@given(lengths, st.integers(130, 4000), st.randoms(use_true_random=False))
def test_the_order_in_which_sequences_come_does_not_matter(
    lengths: list[int], tokens: int, random: Random
) -> None:
    some = texts(lengths)
    assert some.marks is not None
    turned = list(range(len(lengths)))
    random.shuffle(turned)
    other = Sequences(
        sequence=some.sequence[turned],
        inputs=tuple(some.inputs[i] for i in turned),
        targets=tuple(some.targets[i] for i in turned),
        marks=tuple(some.marks[i] for i in turned),
    )
    one, two = batches(some, tokens=tokens), batches(other, tokens=tokens)
    for a, b in zip(one, two, strict=True):
        for name in ("sequence", "inputs", "attended", "targets", "marks"):
            assert np.array_equal(getattr(a, name), getattr(b, name))


def fewest(lengths: list[int], tokens: int) -> int:
    """Return the fewest batches with which less than 5 % is padding, by trying every cut."""
    ascending, least = sorted(lengths), len(lengths)
    for places in product([False, True], repeat=len(lengths) - 1):
        at = [0, *(i for i, here in enumerate(places, 1) if here), len(lengths)]
        cuts = [ascending[a:b] for a, b in pairwise(at)]
        wasted, fed = padding(cuts)
        if 20 * wasted < fed and all(len(c) * max(c) <= tokens for c in cuts):
            least = min(least, len(cuts))
    return least


def test_there_are_hardly_more_batches_than_the_bound_on_padding_costs() -> None:
    rng = np.random.default_rng(0)
    found = least = 0
    for _ in range(60):
        lengths = rng.integers(1, rng.integers(2, 42), rng.integers(1, 10)).tolist()
        tokens = int(rng.integers(41, 200))
        found += len(cut(lengths, tokens))
        least += fewest(lengths, tokens)
    assert least <= found <= 1.05 * least


def test_a_few_ragged_tails_cost_one_batch_more() -> None:
    tails = [31, 60, 94, 121, 177, 203, 240, 298, 333, 391, 448, 500]
    windows_and_tails = cut([*[512] * 52, *tails], 8192)
    assert len(windows_and_tails) == 5  # 64 windows of 512 fill 4
    assert cut([512] * 64, 8192) == [[512] * 16] * 4


def test_texts_of_one_length_are_put_apart_by_size_alone() -> None:
    assert [len(batch) for batch in cut([30] * 10, 125)] == [4, 4, 2]


def test_nothing_makes_no_batches() -> None:
    assert batches(texts([]), tokens=8) == ()


def test_a_text_longer_than_a_batch_may_be_is_named() -> None:
    with pytest.raises(ValueError, match="Sequence 13 has 9 positions, and a batch may have 8"):
        batches(texts([3, 9]), tokens=8)


def test_images_are_grouped_by_the_positions_they_become() -> None:
    rng = np.random.default_rng(0)
    images = Sequences(
        sequence=np.arange(5),
        inputs=tuple(rng.integers(0, 256, (8, 8, 1), dtype=np.uint8) for _ in range(5)),
        targets=tuple(np.array([i]) for i in range(5)),
    )
    made = batches(images, tokens=11, positions_each=5)
    assert [batch.sequence.tolist() for batch in made] == [[0, 1], [2, 3], [4]]
    assert made[0].attended is None
    assert made[0].marks is None
    assert made[0].inputs.dtype == np.uint8
    assert np.array_equal(made[1].inputs[0], images.inputs[2])
    assert made[1].targets.tolist() == [[2], [3]]
    with pytest.raises(ValueError, match="Sequence 0 has 5 positions, and a batch may have 4"):
        batches(images, tokens=4, positions_each=5)


@given(
    st.integers(0, 50),
    st.integers(3, 12),
    st.sampled_from([None, 0]),
    st.sampled_from([None, 2]),
)
def test_windows_put_together_are_the_document(
    n: int, length: int, bos: int | None, eos: int | None
) -> None:
    document = np.arange(100, 100 + n)
    cut = windows(document, length=length, bos=bos, eos=eos, shortest=1)
    inner = []
    for i, window in enumerate(cut):
        assert len(window) <= length
        assert len(window) == length or i == len(cut) - 1  # only the last may be shorter
        assert bos is None or window[0] == bos
        assert eos is None or window[-1] == eos
        inner += window[bos is not None : len(window) - (eos is not None)].tolist()
    assert inner == document.tolist()


def test_a_last_window_that_is_too_short_is_dropped_specials_counted() -> None:
    document = np.arange(10, 20)
    assert [len(w) for w in windows(document, length=6, bos=0, eos=2, shortest=1)] == [6, 6, 4]
    assert [len(w) for w in windows(document, length=6, bos=0, eos=2, shortest=4)] == [6, 6, 4]
    assert [len(w) for w in windows(document, length=6, bos=0, eos=2, shortest=5)] == [6, 6]


def test_a_window_with_room_for_specials_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="Ask for at least 3"):
        windows(np.arange(9), length=2, bos=0, eos=2, shortest=1)


@given(st.integers(0, 200), st.integers(2, 40), st.integers(1, 40), st.booleans())
def test_windows_with_a_stride_begin_every_so_many_tokens_and_end_with_the_document(
    count: int, length: int, stride: int, opened: bool
) -> None:
    ids, room = np.arange(10, 10 + count), length - opened
    bos = 1 if opened else None
    if stride > room:
        with pytest.raises(ValueError, match=f"Ask for a stride from 1 to {room}"):
            windows(ids, length=length, bos=bos, eos=None, shortest=0, stride=stride)
        return
    cut = windows(ids, length=length, bos=bos, eos=None, shortest=0, stride=stride)
    assert bool(cut) == bool(count)
    for i, window in enumerate(cut):
        expected = ids[i * stride : i * stride + room]
        assert window.tolist() == [*([1] * opened), *expected]
        last = i == len(cut) - 1
        assert (10 + count - 1 in expected) == last  # no window after it has anything new


def test_a_token_that_an_earlier_window_scored_is_not_scored_again() -> None:
    ids = np.array([5, 6, 7, 8])
    assert causal_targets(ids).tolist() == [6, 7, 8, NOT_SCORED]
    assert causal_targets(ids, 1).tolist() == [6, 7, 8, NOT_SCORED]
    assert causal_targets(ids, 3).tolist() == [NOT_SCORED, NOT_SCORED, 8, NOT_SCORED]


def test_a_causal_target_is_the_next_token() -> None:
    assert causal_targets(np.array([0, 7, 8, 9])).tolist() == [7, 8, 9, NOT_SCORED]
    assert causal_targets(np.array([5])).tolist() == [NOT_SCORED]


def corrupted(
    input_T: NDArray[np.int64], *, seed: int = 0, sequence: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str | None]]:
    """Corrupt with the specials and the vocabulary of these tests."""
    found = corrupt(input_T, seed=seed, sequence=sequence, specials=SPECIALS, vocabulary=VOCABULARY)
    return found[0], found[1], list(found[2])


@given(st.lists(st.integers(0, VOCABULARY - 1), max_size=80), st.integers(0, 99), st.integers(0, 9))
@settings(deadline=None)
def test_corruption_hides_ordinary_tokens_and_scores_what_it_chose(
    tokens: list[int], seed: int, sequence: int
) -> None:
    input_T = np.array(tokens, dtype=np.int64)
    before = input_T.copy()
    seen_T, target_T, kind_T = corrupted(input_T, seed=seed, sequence=sequence)
    assert np.array_equal(input_T, before)

    ordinary = sum(token > 4 for token in tokens)
    chosen = [t for t, kind in enumerate(kind_T) if kind is not None]
    assert len(chosen) == min(ordinary, max(1, (3 * ordinary + 10) // 20))
    for t, kind in enumerate(kind_T):
        if kind is None:
            assert (seen_T[t], target_T[t]) == (tokens[t], NOT_SCORED)
            continue
        assert tokens[t] > 4
        assert target_T[t] == tokens[t]
        if kind == "mask":
            assert seen_T[t] == SPECIALS["mask"]
        elif kind == "random":
            assert 4 < seen_T[t] < VOCABULARY
        else:
            assert seen_T[t] == tokens[t]


def test_corruption_depends_on_seed_and_sequence_and_not_on_the_tokens() -> None:
    one, other = np.arange(5, 45), np.arange(45, 5, -1)
    kinds = corrupted(one, seed=3, sequence=8)[2]
    assert corrupted(other, seed=3, sequence=8)[2] == kinds
    assert corrupted(one, seed=3, sequence=9)[2] != kinds
    assert corrupted(one, seed=4, sequence=8)[2] != kinds


def test_eight_in_ten_are_masked_one_is_random_and_one_is_kept() -> None:
    kinds = [kind for seed in range(300) for kind in corrupted(np.full(100, 9), seed=seed)[2]]
    assert sum(kind is not None for kind in kinds) == 300 * 15
    share = {kind: kinds.count(kind) / 4500 for kind in ("mask", "random", "kept")}
    assert share == pytest.approx({"mask": 0.8, "random": 0.1, "kept": 0.1}, abs=0.03)


def test_every_position_and_every_random_token_has_its_chance() -> None:
    made = [corrupted(np.full(20, 9), seed=seed) for seed in range(1500)]
    chosen_T = np.sum([target_T != NOT_SCORED for _, target_T, _ in made], axis=0)
    assert (abs(chosen_T - 225) < 70).all()  # five standard deviations of a fair draw
    drawn = {
        int(seen_T[t]) for seen_T, _, kind_T in made for t in range(20) if kind_T[t] == "random"
    }
    assert drawn == set(range(5, VOCABULARY))


def test_a_tokenizer_without_a_mask_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['bos'\] and none for `mask`"):
        corrupt(np.arange(9), seed=0, sequence=0, specials={"bos": 0}, vocabulary=9)


def test_corruption_is_the_same_on_every_run_and_machine() -> None:
    seen_T, target_T, kind_T = corrupted(np.arange(5, 45), seed=1, sequence=2)
    chosen = np.flatnonzero(target_T != NOT_SCORED)
    assert [(int(t), int(seen_T[t]), kind_T[t]) for t in chosen] == GOLDEN


GOLDEN = [
    (5, 4, "mask"),
    (12, 4, "mask"),
    (16, 7, "random"),
    (17, 4, "mask"),
    (23, 4, "mask"),
    (37, 4, "mask"),
]
