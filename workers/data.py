"""Data: from token ids to the arrays that a model is fed and scored on.

A document is cut into windows, windows of one length are fed together, and
masked models see a corrupted copy. No window crosses from one document into the next,
so no token ever sees another document's. All of it is numpy, depends on seeds and
sequence numbers only, and is made once: the same batches serve every cell.

Batches have a fixed shape because floating-point sums depend on it. They are
cut from the sequences sorted by length and then number, so the same
sequences always make the same batches, whoever asks.

Padding is computed and thrown away, so little of it is allowed: texts of unlike
lengths are put apart even where one batch would hold them all. That makes more
batches, and small ones are slow, so texts are put apart only as far as is needed.

Shapes: S sequences of a batch, T positions, H x W x C pixels.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.messages import NOT_SCORED, Batch, Sequences

PADDING = 20
"""Less than one in so many of all positions fed is padding."""
_PURPOSE = 2  # keeps this stream apart from others of the same seed (`workers.selection` has 1)

Kind = Literal["mask", "random", "kept"]


def batches(
    sequences: Sequences, *, tokens: int, pad: int = 0, positions_each: int | None = None
) -> tuple[Batch, ...]:
    """Cut sequences into batches of at most `tokens` positions, padding included.

    Texts are sorted by (length, number) and padded on the right with the token
    id `pad`, which no model looks at; targets are NOT_SCORED and marks 0 there.
    Of all positions fed less than 5 % are padding. From the shortest on, a batch
    takes texts while it has no more than `tokens` positions and no more padding than
    a number that is the same for all. That number is searched for by bisection, as
    the largest with which all batches together are within the 5 %: with 0 they
    are, because none has any padding. For a given number no cut has fewer batches.

    Images are taken by number and count `positions_each` positions (patches and
    prefix); they have no padding. Raises ValueError where one sequence alone has
    too many.
    """
    length_S = [len(ids) if positions_each is None else positions_each for ids in sequences.inputs]
    if length_S and max(length_S) > tokens:
        longest = int(np.argmax(length_S))
        raise ValueError(
            f"Sequence {sequences.sequence[longest]} has {length_S[longest]} positions, and a batch"
            f" may have {tokens}. Allow at least as many positions per batch as the longest"
            " sequence has."
        )
    by_length = sorted(range(len(length_S)), key=lambda i: (length_S[i], sequences.sequence[i]))
    groups = [
        by_length[start:stop] for start, stop in _cut([length_S[i] for i in by_length], tokens)
    ]
    if positions_each is None:
        return tuple(_texts(sequences, group, pad) for group in groups)
    return tuple(_images(sequences, group) for group in groups)


def _cut(ascending: list[int], tokens: int) -> list[tuple[int, int]]:
    """Return where to cut sequences of ascending lengths: (start, stop) of every batch."""
    real = sum(ascending)
    allowed = max(0, real - 1) // (PADDING - 1)  # 20 p < p + real, and p a whole number
    within, beyond = 0, allowed + 1
    while beyond - within > 1:
        each = (within + beyond) // 2
        spans = _spans(ascending, tokens, each)
        fed = sum((stop - start) * ascending[stop - 1] for start, stop in spans)
        within, beyond = (each, beyond) if fed - real <= allowed else (within, each)
    return list(_spans(ascending, tokens, within))


def _spans(ascending: list[int], tokens: int, padding: int) -> Iterator[tuple[int, int]]:
    """Yield batches of at most `tokens` positions, of which `padding` at most are padding."""
    start = here = 0
    for i, length in enumerate(ascending):
        # Ascending lengths: the newcomer is the longest, so it sets the width of all.
        more = (i - start) * (length - ascending[i - 1]) if i > start else 0
        if i > start and ((i - start + 1) * length > tokens or here + more > padding):
            yield start, i
            start, here = i, 0
        else:
            here += more
    if ascending:
        yield start, len(ascending)


def _texts(sequences: Sequences, group: list[int], pad: int) -> Batch:
    shape = len(group), max(len(sequences.inputs[i]) for i in group)
    inputs_ST = np.full(shape, pad, dtype=np.int64)
    targets_ST = np.full(shape, NOT_SCORED, dtype=np.int64)
    attended_ST = np.zeros(shape, dtype=np.bool_)
    marks_ST = None if sequences.marks is None else np.zeros(shape, dtype=np.uint8)
    wrong_SW = None if sequences.wrong is None else _ragged([sequences.wrong[i] for i in group])
    for s, i in enumerate(group):
        length = len(sequences.inputs[i])
        inputs_ST[s, :length] = sequences.inputs[i]
        targets_ST[s, :length] = sequences.targets[i]
        attended_ST[s, :length] = True
        if marks_ST is not None and sequences.marks is not None:
            marks_ST[s, :length] = sequences.marks[i]
    return Batch(
        sequence=sequences.sequence[group],
        inputs=inputs_ST,
        attended=attended_ST,
        targets=targets_ST,
        marks=marks_ST,
        wrong=wrong_SW,
    )


def _ragged(lists: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return lists as rows as wide as the longest, NOT_SCORED after the last of each."""
    rows_SW = np.full((len(lists), max(map(len, lists))), NOT_SCORED, dtype=np.int64)
    for row_W, values in zip(rows_SW, lists, strict=True):
        row_W[: len(values)] = values
    return rows_SW


def _images(sequences: Sequences, group: list[int]) -> Batch:
    return Batch(
        sequence=sequences.sequence[group],
        inputs=np.stack([sequences.inputs[i] for i in group]).astype(np.uint8, copy=False),
        attended=None,
        targets=np.stack([sequences.targets[i] for i in group]),
    )


def first(batch: Batch, sequences: int, positions: int | None = None) -> Batch:
    """Return the first sequences of a batch, without marks; of texts the first positions, if any.

    What is tried out on a model needs no more.
    """
    part = (slice(sequences),) if batch.attended is None else (slice(sequences), slice(positions))
    return Batch(
        sequence=batch.sequence[part[:1]],
        inputs=batch.inputs[part],
        attended=None if batch.attended is None else batch.attended[part],
        targets=batch.targets[part],
    )


def windows(
    token_ids: NDArray[np.int64],
    *,
    length: int,
    bos: int | None,
    eos: int | None,
    shortest: int,
    stride: int | None = None,
) -> list[NDArray[np.int64]]:
    """Cut one document's token ids into windows, each (T,) with T ≤ length.

    One begins where the one before ended, so that they do not overlap; with a `stride`,
    every so many tokens, until one reaches the document's end.

    Every window begins with `bos` and ends with `eos`, where these are given;
    they count towards `length` and towards `shortest`, below which a document's
    last window is dropped. A bos that stands at a document's start alone is one
    of its tokens: put it before the others. Raises ValueError where the
    specials leave no room, or the stride would leave tokens out.
    """
    specials = (bos is not None) + (eos is not None)
    if length <= specials:
        raise ValueError(
            f"A window of {length} positions was asked for, and {specials} of them are special"
            f" tokens. Ask for at least {specials + 1}."
        )
    before = [] if bos is None else [bos]
    after = [] if eos is None else [eos]
    room = length - specials
    step = room if stride is None else stride
    if not 0 < step <= room:
        raise ValueError(
            f"A stride of {step} tokens was asked for, and a window holds {room}. Ask for a stride"
            f" from 1 to {room}."
        )
    last = max(1, len(token_ids) - (room - step))  # a window that begins here has nothing new
    cut = (
        np.concatenate([before, token_ids[start : start + room], after]).astype(np.int64)
        for start in range(0, min(last, len(token_ids)), step)
    )
    return [window for window in cut if len(window) >= shortest]


def causal_targets(input_T: NDArray[np.int64], first: int = 0) -> NDArray[np.int64]:
    """Return the next token of every position, shape (T,); the last position is not scored.

    Neither are tokens before position `first`: an earlier window scored them, or they have too
    little before them.
    """
    target_T = np.append(input_T[1:], NOT_SCORED).astype(np.int64)
    target_T[: max(0, first - 1)] = NOT_SCORED
    return target_T


def corrupt(
    input_T: NDArray[np.int64],
    *,
    seed: int,
    sequence: int,
    specials: Mapping[str, int],
    vocabulary: int,
    share: float = 0.15,
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Kind | None]]:
    """Hide tokens as BERT does (Devlin et al., 2019); return input, target and kind, (T,) each.

    Of the n positions that hold no special token, floor(share x n + 1/2) are
    chosen, and one at least. Of these 80 % become the mask, 10 % a random
    token that is no special one, and 10 % stay; each is scored on the token
    it held. The kind of a position that is not scored is None.

    The draw depends on (seed, sequence) alone: not on the batch, not on the
    order, not on the tokens. `specials` are token ids by role; `mask` is needed.
    """
    if "mask" not in specials:
        raise ValueError(
            f"The tokenizer has the special tokens {sorted(specials)} and none for `mask`. A masked"
            " model needs one: name it in tokenizer_config.json."
        )
    special = np.unique(list(specials.values()))
    ordinary = np.setdiff1d(np.arange(vocabulary), special)
    counter = np.array([0, 0, 0, _PURPOSE], dtype=np.uint64)
    key = np.array([seed, sequence], dtype=np.uint64)
    chance_T, fate_T, token_T = np.random.Generator(
        np.random.Philox(key=key, counter=counter)
    ).random((3, len(input_T)))

    eligible = np.flatnonzero(~np.isin(input_T, special))
    wanted = min(len(eligible), max(1, int(np.floor(share * len(eligible) + 0.5))))
    chosen = eligible[np.argsort(chance_T[eligible], kind="stable")[:wanted]]

    corrupted_T = input_T.astype(np.int64)
    target_T = np.full(len(input_T), NOT_SCORED, dtype=np.int64)
    kind_T: list[Kind | None] = [None] * len(input_T)
    target_T[chosen] = input_T[chosen]
    for t in chosen:
        if fate_T[t] < 0.8:
            corrupted_T[t], kind_T[t] = specials["mask"], "mask"
        elif fate_T[t] < 0.9:
            corrupted_T[t], kind_T[t] = ordinary[int(token_T[t] * len(ordinary))], "random"
        else:
            kind_T[t] = "kept"
    return corrupted_T, target_T, kind_T
