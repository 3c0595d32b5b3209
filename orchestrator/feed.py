"""Feed: from the rows of a data table to what a model is fed and scored on.

The tables say what is fed and what the targets are. Here it is decided which
targets are scored, and scored positions are marked where a metric looks at
some of them alone. Neither changes what is fed.

Shapes: S sequences, T positions, H x W x C pixels.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.data import batches
from workers.messages import (
    MASKED,
    NOT_SCORED,
    RARE,
    Batch,
    Counted,
    Donors,
    ModelFacts,
    Sequences,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Which positions of a text are scored, of those that have a target.

    The rules are applied in the order of the fields. A text may be left with no
    scored position. An image has one target, which is always scored.
    """

    skip_first: int = 0
    """Positions at the start of every sequence that are left out."""
    without: tuple[int, ...] = ()
    """Token ids that are left out wherever they are the target."""
    last: int | None = None
    """How many are scored, from the end of every sequence; None for all."""


EVERY = Scored()
"""Every position that has a target."""


def sequences(
    table: pa.Table, *, common: frozenset[int] | None = None, scored: Scored = EVERY
) -> Sequences:
    """Return the rows of a data table as the workers' message, ascending by number.

    A scored position is marked `RARE` where its target is none of the `common`
    tokens (nowhere without `common`), and `MASKED` where it was fed `<mask>`.
    """
    table = table.sort_by("sequence")
    number_S: NDArray[np.int64] = table.column("sequence").to_numpy().astype(np.int64)
    if "image" in table.column_names:
        shapes = table.column("shape").to_pylist()
        images = zip(_lists(table.column("image")), shapes, strict=True)
        targets = table.column("target").to_pylist()
        return Sequences(
            sequence=number_S,
            inputs=tuple(
                np.asarray(_there(pixels), np.uint8).reshape(shape) for pixels, shape in images
            ),
            targets=tuple(np.asarray([target], np.int64) for target in targets),
        )
    inputs = tuple(_there(ids).astype(np.int64) for ids in _lists(table.column("input")))
    all_targets = [_there(ids).astype(np.int64) for ids in _lists(table.column("target"))]
    targets_S = tuple(_scored(target_T, scored) for target_T in all_targets)
    kinds = table.column("kind").to_pylist()
    marks = (
        _marks(all_T, target_T, kind, common)
        for all_T, target_T, kind in zip(all_targets, targets_S, kinds, strict=True)
    )
    wrong = None
    if "wrong" in table.column_names:
        wrong = tuple(_there(ids).astype(np.int64) for ids in _lists(table.column("wrong")))
    return Sequences(
        sequence=number_S, inputs=inputs, targets=targets_S, marks=tuple(marks), wrong=wrong
    )


def _lists(column: pa.ChunkedArray) -> Iterator[NDArray[Any] | None]:
    """Yield the values of every list of a column without making Python numbers of them."""
    for scalar in column:
        yield None if scalar.values is None else scalar.values.to_numpy(zero_copy_only=False)


def _there(values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None  # a data table has no nulls here
    return values


def _scored(target_T: NDArray[np.int64], scored: Scored) -> NDArray[np.int64]:
    """Return the targets, NOT_SCORED where they are left out."""
    kept_T = target_T != NOT_SCORED
    kept_T[: scored.skip_first] = False
    kept_T &= ~np.isin(target_T, scored.without)
    if scored.last is not None:
        at = np.flatnonzero(kept_T)
        kept_T[at[: max(0, len(at) - scored.last)]] = False
    return np.where(kept_T, target_T, NOT_SCORED)


def _marks(
    all_T: NDArray[np.int64],
    target_T: NDArray[np.int64],
    kinds: Sequence[str] | None,
    common: frozenset[int] | None,
) -> NDArray[np.uint8]:
    """Return the marks of a text's positions; `kinds` has one for each of all its targets."""
    marks_T = np.zeros(len(target_T), np.uint8)
    if common is not None:
        marks_T[~np.isin(target_T, list(common))] |= RARE
    if kinds is not None:
        at = np.flatnonzero(all_T != NOT_SCORED)
        marks_T[at[np.array([kind == "mask" for kind in kinds], np.bool_)]] |= MASKED
    marks_T[target_T == NOT_SCORED] = 0
    return marks_T


def batched(
    table: pa.Table,
    facts: ModelFacts,
    tokens: int,
    *,
    common: frozenset[int] | None = None,
    scored: Scored = EVERY,
) -> tuple[Batch, ...]:
    """Return the rows of a data table as batches of at most so many positions."""
    return batches(
        sequences(table, common=common, scored=scored),
        tokens=tokens,
        pad=facts.specials.get("pad", 0),
        positions_each=facts.window if facts.modality == "image" else None,
    )


def common_tokens(table: pa.Table, n: int = 50, *, without: Collection[int] = ()) -> frozenset[int]:
    """Return the n most common tokens of the collected texts; of equal counts the smaller ids.

    Tokens are counted as the text has them: what was hidden from a masked model
    counts as the token it was. Ids in `without` are not counted. Name the special
    tokens there that are no text (bos, eos, pad, mask): windows begin and end with
    them, so they would take places although none is ever a target.
    """
    collected = table.filter(pc.equal(table.column("role"), "collect"))
    token = _flat(collected.column("input"))
    if collected.column("kind").null_count < collected.num_rows:
        target = _flat(collected.column("target"))
        token = np.where(target == NOT_SCORED, token, target)
    found, counts = np.unique(token[~np.isin(token, list(without))], return_counts=True)
    return frozenset(found[np.lexsort((found, -counts))][:n].tolist())


def _flat(column: pa.ChunkedArray) -> NDArray[np.int64]:
    flat: NDArray[np.int64] = pc.list_flatten(column).to_numpy().astype(np.int64)
    return flat


def donated(own: Sequences, donors: pa.Table, fed: Sequence[Batch], pad: int) -> Donors:
    """Return what the donors are fed, row by row and shape by shape as the receivers `fed`.

    `own` are all sequences of the data.
    """
    inputs = dict(zip(own.sequence.tolist(), own.inputs, strict=True))
    given: dict[tuple[int, int], NDArray[Any]] = {}
    position: dict[int, int] = {}
    columns = (donors.column(c).to_pylist() for c in ("sequence", "draw", "donor", "row"))
    for number, draw, donor, row, made in zip(
        *columns, _lists(donors.column("input")), strict=True
    ):
        given[number, draw] = inputs[donor] if made is None else made
        if row is not None:
            position[number] = row
    draws = 1 + max((draw for _, draw in given), default=0)
    return Donors(
        passes=tuple(
            tuple(
                _given(batch, {n: given[n, draw] for n in batch.sequence.tolist()}, pad)
                for batch in fed
            )
            for draw in range(draws)
        ),
        rows=tuple(
            np.array([position[n] for n in batch.sequence.tolist()], np.int64) for batch in fed
        )
        if position
        else None,
    )


def _given(receivers: Batch, donors: Mapping[int, NDArray[Any]], pad: int) -> Batch:
    """Return the batch of the donors of a batch, by number: as wide, and attended where it is."""
    filled = np.full_like(receivers.inputs, pad)
    for i, number in enumerate(receivers.sequence.tolist()):
        donor = donors[number]
        if receivers.attended is None:
            filled[i] = donor.reshape(filled[i].shape)  # pixels lie flat in the table
        else:
            filled[i, : len(donor)] = donor
    return Batch(
        sequence=receivers.sequence,
        inputs=filled,
        attended=receivers.attended,
        targets=np.full_like(receivers.targets, NOT_SCORED),
    )


def counted(told: Mapping[str, Any]) -> Counted:
    """Return which positions are counted, from a task's arguments."""
    return Counted(
        skip_first=told["skip_first"],
        without=tuple(told["without"]),
        by=told["by"],
        starts=tuple(told["starts"]),
    )


def told(scored: Mapping[str, Any]) -> Scored:
    """Return which positions are scored, from a task's arguments."""
    return Scored(
        skip_first=scored["skip_first"], without=tuple(scored["without"]), last=scored["last"]
    )
