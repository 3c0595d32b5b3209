"""What is fed and scored is what the tables say, row by row; and marks are where they belong.

Shapes: S sequences, T positions.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.feed import EVERY, Scored, batched, common_tokens, counted, donated, sequences
from orchestrator.store import rows
from workers.messages import MASKED, NOT_SCORED, RARE, ModelFacts

PAD = 1


def text(*made: tuple[list[int], list[int], list[str] | None], role: str = "evaluate") -> pa.Table:
    """Return a data table of (input, target, kind), numbered backwards from 10 by threes."""
    return rows(
        "text",
        {
            "role": role,
            "document": "d",
            "sequence": [10 - 3 * i for i in range(len(made))],
            "input": [fed for fed, _, _ in made],
            "target": [target for _, target, _ in made],
            "kind": [kind for _, _, kind in made],
        },
        len(made),
    )


def images(count: int) -> pa.Table:
    return rows(
        "images",
        {
            "role": "evaluate",
            "sequence": list(range(count)),
            "image": [np.arange(12, dtype=np.uint8) + i for i in range(count)],
            "shape": [[2, 3, 2]] * count,
            "target": list(range(count)),
        },
        count,
    )


def facts(**changes: Any) -> ModelFacts:
    values: dict[str, Any] = dict.fromkeys(ModelFacts.__dataclass_fields__, 1)
    return ModelFacts(**{**values, "modality": "causal", "specials": {"pad": PAD}, **changes})


def test_texts_come_by_number_with_their_targets() -> None:
    found = sequences(text(([5, 6, 7], [6, 7, -100], None), ([8, 9], [9, -100], None)))
    assert found.sequence.tolist() == [7, 10]
    assert [i.tolist() for i in found.inputs] == [[8, 9], [5, 6, 7]]
    assert [t.tolist() for t in found.targets] == [[9, -100], [6, 7, -100]]
    assert all(t.dtype == np.int64 for t in (*found.inputs, *found.targets))


def test_a_target_is_rare_when_it_is_none_of_the_common_tokens() -> None:
    table = text(([5, 6, 7, 8], [6, 7, 8, -100], None))
    (mark_T,) = sequences(table, common=frozenset({7})).marks or ()
    assert mark_T.tolist() == [RARE, 0, RARE, 0]
    (unmarked_T,) = sequences(table).marks or ()
    assert unmarked_T.tolist() == [0, 0, 0, 0]


def test_a_position_is_marked_masked_when_it_was_fed_the_mask() -> None:
    target = [-100, 6, -100, 7, 8, -100]
    table = text(([0, 4, 9, 33, 8, 2], target, ["mask", "random", "kept"]))
    (mark_T,) = sequences(table, common=frozenset({7})).marks or ()
    assert mark_T.tolist() == [0, MASKED | RARE, 0, 0, RARE, 0]
    scored = Scored(last=2)
    (mark_T,) = sequences(table, common=frozenset({7}), scored=scored).marks or ()
    assert mark_T.tolist() == [0, 0, 0, 0, RARE, 0]


@given(
    st.lists(st.integers(5, 9) | st.just(NOT_SCORED), max_size=12),
    st.integers(0, 13),
    st.sets(st.integers(5, 9), max_size=3),
    st.none() | st.integers(1, 13),
)
def test_rules_leave_targets_out_and_change_nothing_else(
    target: list[int], skip: int, without: set[int], last: int | None
) -> None:
    table = text(([5] * len(target), target, None))
    scored = Scored(skip_first=skip, without=tuple(without), last=last)
    found = sequences(table, scored=scored, common=frozenset())
    left = [
        t for t, token in enumerate(target)
        if token != NOT_SCORED and t >= skip and token not in without
    ]  # fmt: skip
    left = left if last is None else left[-last:]
    expected = [token if t in left else NOT_SCORED for t, token in enumerate(target)]
    assert found.targets[0].tolist() == expected
    assert found.inputs[0].tolist() == [5] * len(target)
    assert found.marks is not None
    assert np.flatnonzero(found.marks[0]).tolist() == left


def test_a_text_may_be_left_with_nothing_to_score() -> None:
    table = text(([5, 6, 7], [6, 7, -100], None), ([5, 6, 7, 8], [6, 7, 8, -100], None))
    made = batched(table, facts(), 64, common=frozenset(), scored=Scored(skip_first=2))
    assert [(batch.targets != NOT_SCORED).sum() for batch in made] == [0, 1]


def test_batches_carry_marks_and_none_where_padded() -> None:
    full = [8] * 19  # one position of padding among so many is little enough
    table = text(
        ([5, 6, 7, *full], [6, 7, *full, -100], None), ([8, 9, *full], [9, *full, -100], None)
    )
    (batch,) = batched(table, facts(), 64, common=frozenset())
    assert batch.sequence.tolist() == [7, 10]
    assert batch.marks is not None
    assert batch.marks.dtype == np.uint8
    assert batch.marks.tolist() == [[RARE] * 20 + [0, 0], [RARE] * 21 + [0]]
    assert batch.inputs.tolist() == [[8, 9, *full, PAD], [5, 6, 7, *full]]


def test_images_are_scored_whatever_the_rules_and_have_no_marks() -> None:
    many = facts(modality="image", window=5)
    (batch,) = batched(images(3), many, 64, common=frozenset(), scored=Scored(skip_first=9))
    assert batch.marks is None
    assert batch.targets.tolist() == [[0], [1], [2]]
    assert batch.inputs.dtype == np.uint8
    assert batch.inputs[1].ravel().tolist() == list(range(1, 13))


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=4), st.integers(1, 9))
def test_common_tokens_are_the_most_frequent_collected_ones(texts: list[list[int]], n: int) -> None:
    blank = [(ids, [-100] * len(ids), None) for ids in texts]
    loud = text(*[([8] * 99, [-100] * 99, None)])  # evaluated, so it has no say
    table = pa.concat_tables([text(*blank, role="collect"), loud])
    counts = Counter(token for ids in texts for token in ids)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    assert common_tokens(table, n) == frozenset(ranked[:n])
    assert common_tokens(table, n, without=[0, 3]) == frozenset(
        [token for token in ranked if token not in (0, 3)][:n]
    )


def test_a_hidden_token_counts_as_what_it_was() -> None:
    masked = ([0, 4, 4, 33, 7], [-100, 6, 6, 7, 7], ["mask", "mask", "random", "kept"])
    table = text(masked, role="collect")
    assert common_tokens(table, 2) == frozenset({6, 7})


def donors(**columns: Any) -> pa.Table:
    return rows("donors", columns, len(columns["sequence"]))


def test_donors_are_fed_row_by_row_as_wide_as_their_receivers() -> None:
    full = [8] * 19  # so that receivers of unlike lengths are in one batch
    data = text(
        ([5, 6, 7, *full], [6, 7, *full, -100], None),
        ([8, 9, *full], [9, *full, -100], None),
        ([4] * 22, [4] * 22, None),
    )
    fed = batched(data.slice(0, 2), facts(), 64)
    table = donors(
        sequence=[7, 7, 10, 10],
        draw=[1, 0, 0, 1],
        donor=[None, None, 4, 7],
        input=[[11, 12, *full], [13, 14, *full], None, [15, 16, 17, *full]],
    )
    found = donated(sequences(data), table, fed, PAD)
    assert found.rows is None
    assert [[b.inputs.tolist() for b in batches] for batches in found.passes] == [
        [[[13, 14, *full, PAD], [4] * 22]],
        [[[11, 12, *full, PAD], [15, 16, 17, *full]]],
    ]
    for (batch,) in found.passes:
        assert batch.sequence.tolist() == [7, 10]
        assert batch.attended is fed[0].attended
        assert (batch.targets == NOT_SCORED).all()


def test_published_rows_follow_their_sequences_into_every_batch() -> None:
    data = text(
        ([5, 6, 7], [6, 7, -100], None), ([8, 9], [9, -100], None), ([4] * 3, [4] * 3, None)
    )
    fed = batched(data, facts(), 3)
    made = [[1, 2, 3], [1, 2], [1, 2, 3]]
    table = donors(sequence=[4, 7, 10], draw=[0] * 3, input=made, row=[0, 1, -1])
    found = donated(sequences(data), table, fed, PAD)
    assert [batch.sequence.tolist() for batch in fed] == [[7], [4], [10]]
    assert [row.tolist() for row in found.rows or ()] == [[1], [0], [-1]]


def test_pixels_lie_flat_in_the_table_and_are_fed_as_images() -> None:
    data = images(3)
    fed = batched(data, facts(modality="image", window=5), 10)
    table = donors(
        sequence=[0, 1, 2],
        draw=[0] * 3,
        donor=[2, None, 0],
        input=[None, list(range(200, 212)), None],
    )
    found = donated(sequences(data), table, fed, 0)
    flat = [b.inputs.reshape(len(b.inputs), -1).tolist() for b in found.passes[0]]
    first, third = list(range(12)), list(range(2, 14))
    assert flat == [[third, list(range(200, 212))], [first]]
    assert all(b.inputs.dtype == np.uint8 for b in found.passes[0])
    assert found.passes[0][0].inputs.shape == fed[0].inputs.shape


def test_a_receiver_without_a_donor_is_an_error() -> None:
    data = text(([5, 6, 7], [6, 7, -100], None))
    with pytest.raises(KeyError):
        donated(
            sequences(data),
            donors(sequence=[9], draw=[0], donor=[10]),
            batched(data, facts(), 9),
            PAD,
        )


def test_what_is_counted_comes_from_the_arguments() -> None:
    told = {"skip_first": 2, "without": [3, 4], "by": "position", "starts": [0, 5]}
    found = counted(told)
    assert (found.skip_first, found.without, found.by) == (2, (3, 4), "position")
    assert found.starts == (0, 5)


def test_nothing_is_left_out_unless_asked() -> None:
    table = text(([5, 6, 7], [6, 7, -100], None))
    assert sequences(table, scored=EVERY).targets[0].tolist() == [6, 7, -100]
