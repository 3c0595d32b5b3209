"""Histograms: counted apart, joined anywhere, the same to the last bit.

A shard of the data leaves one `Histogram` (`workers.counts` says what is in it),
and histograms are joined by `merge`: integers are added, and every result is the
same to the last bit whatever the number of workers, the shape of the merge tree
or the order of arrival. `empty` is the identity.

A histogram carries the shards it holds, because a retried task delivers the same
shard twice, and adding it twice would be wrong unnoticed. Floating-point sums do
not add up the same in every order, so moments stay apart per shard.

`merge` joins shards of the same rows. Two other ways to put histograms together
leave the shards alone: `stacked` puts rows of other layers, strata or neurons
below each other, `overlaid` puts rows that were counted again in the place of
the old ones.

Counts may come as narrow integers, as files hold them; what is joined is int64.

Shapes: R rows, B bins, K shards, M moment sums, W rows that replace others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workers.counts import MOMENTS, FixedCounts, Histogram
from workers.summaries import Moments, quantile, summarise
from workers.windows import Windows
from workers.windows import stacked as stacked_windows

__all__ = [  # one vocabulary, whichever module it is written in
    "MOMENTS",
    "FixedCounts",
    "Histogram",
    "MergeError",
    "Moments",
    "Windows",
    "empty",
    "merge",
    "merge_fixed",
    "overlaid",
    "quantile",
    "stacked",
    "summarise",
]

_ADDED = ("counts", "zeros", "below", "above", "nan", "pos_inf", "neg_inf", "positive", "firsts")
"""What is added when shards are joined: integers, so in any order."""
_PER_ROW = (*_ADDED, "minimum", "maximum")
"""All that has one entry per row in front; moments have the shard in front."""


class MergeError(ValueError):
    """Partial results cannot be joined: a shard came twice, or the bins or the shards differ."""


def empty(windows: Windows, shards: tuple[int, ...] = ()) -> Histogram:
    """Return a histogram of nothing: of no shard, the identity of `merge`, or of these shards."""
    rows = windows.first.size
    none_R = np.zeros(rows, np.int64)
    return Histogram(
        windows=windows,
        shards=shards,
        counts=np.zeros((rows, windows.bins), np.int64),
        zeros=none_R,
        below=none_R,
        above=none_R,
        nan=none_R,
        pos_inf=none_R,
        neg_inf=none_R,
        positive=none_R,
        firsts=none_R,
        minimum=np.full(rows, np.inf),
        maximum=np.full(rows, -np.inf),
        moments=np.zeros((len(shards), rows, len(MOMENTS))),
    )


def merge(parts: Iterable[Histogram]) -> Histogram:
    """Join histograms of different shards; equal, bit for bit, to having counted them together.

    Parts are taken one at a time and left as they are: with an iterator, one part
    and the total are in memory, and the moments, which stay apart. Raises
    MergeError if a shard is in two parts or if windows differ, ValueError if there
    are no parts.
    """
    shards: list[int] = []
    moments: list[NDArray[np.float64]] = []
    total: dict[str, NDArray[np.int64]] = {}
    low_R = high_R = np.empty(0)
    windows: Windows | None = None
    for part in parts:
        if windows is None:
            windows = part.windows
            total = {name: np.array(getattr(part, name), np.int64) for name in _ADDED}
            low_R, high_R = np.array(part.minimum), np.array(part.maximum)
        else:
            _refuse_second_delivery(shards, part.shards)
            if not windows.same(part.windows):
                raise MergeError(
                    f"Histograms of shards {sorted(shards)} and {list(part.shards)} were counted"
                    " in different windows. Collect all shards with the windows of one pilot."
                )
            for name, sum_ in total.items():
                sum_ += getattr(part, name)
            low_R, high_R = np.minimum(low_R, part.minimum), np.maximum(high_R, part.maximum)
        shards += part.shards
        moments.append(np.array(part.moments))  # a copy: a view would keep the part's file open
        del part  # or it would be in memory beside the next
    if windows is None:
        raise ValueError(_NOTHING)
    order = np.argsort(shards, kind="stable")
    return Histogram(
        windows=windows,
        shards=tuple(sorted(shards)),
        minimum=low_R,
        maximum=high_R,
        moments=np.concatenate(moments)[order.astype(np.intp)],
        **total,
    )


def merge_fixed(parts: Iterable[FixedCounts]) -> FixedCounts:
    """Join fixed counts of different shards, one part at a time; raises as `merge` does."""
    total: FixedCounts | None = None
    shards: list[int] = []
    for part in parts:
        if total is None:
            total = replace(part, counts=np.array(part.counts, np.int64))
        else:
            _refuse_second_delivery(shards, part.shards)
            alike = np.array_equal(total.low, part.low) and np.array_equal(total.high, part.high)
            if not alike or total.counts.shape != part.counts.shape:
                raise MergeError(
                    f"Fixed counts of shards {sorted(shards)} and {list(part.shards)} lie between"
                    " different ends. Recount all shards between the minima and maxima of one"
                    " merge."
                )
            np.add(total.counts, part.counts, out=total.counts)
        shards += part.shards
        del part
    if total is None:
        raise ValueError(_NOTHING)
    return replace(total, shards=tuple(sorted(shards)))


def stacked(parts: Iterable[Histogram]) -> Histogram:
    """Return the rows of all parts, one part after the other: layers, or strata, of one model.

    Raises MergeError if the parts are of different shards, ValueError if there are
    none or if their numbers of bins differ.
    """
    stack = list(parts)
    windows = stacked_windows([part.windows for part in stack])
    for part in stack:
        _refuse_other_shards(stack[0], part)
    rows = {name: np.concatenate([getattr(part, name) for part in stack]) for name in _PER_ROW}
    moments_KRM = np.concatenate([part.moments for part in stack], axis=1)
    return Histogram(windows=windows, shards=stack[0].shards, moments=moments_KRM, **rows)


def overlaid(base: Histogram, rows_W: NDArray[np.intp], wide: Histogram) -> Histogram:
    """Return `base` with the rows `rows_W`, ascending, replaced by the W rows of `wide`.

    Both are of the same shards: the same data, counted in two windows. Nothing of
    either is changed. Raises MergeError where shards differ, ValueError where rows
    or numbers of bins do not fit.
    """
    _refuse_other_shards(base, wide)
    count, rows = wide.windows.first.size, base.windows.first.size
    ascending = rows_W.size < 2 or bool((np.diff(rows_W) > 0).all())
    if (
        rows_W.shape != (count,)
        or not ascending
        or (count and not 0 <= rows_W[0] <= rows_W[-1] < rows)
    ):
        raise ValueError(
            f"{count} rows are to replace {rows_W.size} of {rows}; expected one row for each,"
            f" ascending, from 0 to {rows - 1}. Give the rows that were counted again."
        )
    if base.windows.bins != wide.windows.bins:
        raise ValueError(
            f"Rows of {wide.windows.bins} bins are to replace rows of {base.windows.bins}. Count"
            " again with as many bins as before."
        )
    made = {name: np.array(getattr(base, name)) for name in _PER_ROW}
    for name, array in made.items():
        array[rows_W] = getattr(wide, name)
    moments_KRM, exponent_R = np.array(base.moments), np.array(base.windows.exponent)
    first_R = np.array(base.windows.first)
    moments_KRM[:, rows_W] = wide.moments
    exponent_R[rows_W], first_R[rows_W] = wide.windows.exponent, wide.windows.first
    windows = Windows(exponent=exponent_R, first=first_R, bins=base.windows.bins)
    return Histogram(windows=windows, shards=base.shards, moments=moments_KRM, **made)


_NOTHING = "There is nothing to merge; give at least one part (`empty` will do)."


def _refuse_second_delivery(had: Sequence[int], shards: Sequence[int]) -> None:
    twice = sorted(set(had) & set(shards))
    if twice:
        raise MergeError(
            f"Shards {twice} are in more than one of the parts to be merged. Each must be counted"
            " once: leave out the second delivery."
        )


def _refuse_other_shards(one: Histogram, other: Histogram) -> None:
    if one.shards != other.shards:
        raise MergeError(
            f"Rows of shards {list(one.shards)} and of shards {list(other.shards)} are to be put"
            " into one table. All rows of a table are counted over the same data: merge first."
        )
