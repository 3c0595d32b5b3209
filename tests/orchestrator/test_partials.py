"""Partials come back from their files to the last bit, so merging them is merging memory."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from orchestrator import partials
from orchestrator.store import parquet
from workers.histogram import MOMENTS, FixedCounts, Histogram, merge, merge_fixed
from workers.windows import Windows

law = settings(max_examples=25, deadline=None)
tree = settings(max_examples=12, deadline=None)
COUNTED = ("zeros", "below", "above", "nan", "pos_inf", "neg_inf", "positive")
ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)
EXTREME = st.floats(allow_nan=False) | st.just(np.nan)
"""Of two NaNs a comparison keeps either, so in what is merged all NaNs have the same bits."""


def through_a_file(table: pa.Table) -> pa.Table:
    content = parquet(table, "name")
    return pq.ParquetFile(pa.BufferReader(content)).read()


def bits(value: object) -> list[object]:
    """Return everything a dataclass of arrays holds, so that equal means equal bits."""
    found: list[object] = []
    for field in fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, Windows):
            found += bits(item)
        elif isinstance(item, np.ndarray):
            found.append((field.name, item.dtype.str, item.shape, item.tobytes()))
        else:
            found.append((field.name, item))
    return found


def integers(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[np.int64]]:
    return hnp.arrays(np.int64, shape, elements=st.integers(0, 2**52))


@st.composite
def windows(draw: st.DrawFn, rows: int) -> Windows:
    return Windows(
        exponent=draw(hnp.arrays(np.int32, rows, elements=st.integers(-149, 127))),
        first=draw(hnp.arrays(np.int64, rows, elements=st.integers(-(2**53), 2**53))),
        bins=draw(st.sampled_from([4, 6, 8])),
    )


@st.composite
def histograms(draw: st.DrawFn, parts: int = 1) -> list[Histogram]:
    """Draw histograms of different shards in the same windows."""
    rows, ends = draw(st.integers(1, 3)), EXTREME if parts > 1 else ANY
    placed = draw(windows(rows))
    every = draw(st.permutations(range(2 * parts)))
    made = []
    for i in range(parts):
        shards = tuple(sorted(every[2 * i : 2 * i + draw(st.integers(1, 2))]))
        shape = (len(shards), rows, len(MOMENTS))
        made.append(
            Histogram(
                windows=placed,
                shards=shards,
                counts=draw(integers((rows, placed.bins))),
                moments=draw(hnp.arrays(np.float64, shape, elements=ANY)),
                minimum=draw(hnp.arrays(np.float64, rows, elements=ends)),
                maximum=draw(hnp.arrays(np.float64, rows, elements=ends)),
                **{c: draw(integers((rows,))) for c in COUNTED},
            )
        )
    return made


@st.composite
def fixed(draw: st.DrawFn, parts: int = 1) -> list[FixedCounts]:
    rows, bins = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    low = draw(hnp.arrays(np.float64, rows, elements=ANY))
    high = draw(hnp.arrays(np.float64, rows, elements=st.floats(-1e9, 1e9)))
    low = np.nan_to_num(low)  # two parts are joined only if their ends are equal
    return [
        FixedCounts(low=low, high=high, shards=(i,), counts=draw(integers((rows, bins))))
        for i in range(parts)
    ]


@law
@given(st.integers(1, 5).flatmap(windows))
def test_windows_come_back_to_the_last_bit(made: Windows) -> None:
    table = through_a_file(partials.from_windows(made))
    assert bits(partials.to_windows(table)) == bits(made)


@law
@given(histograms())
def test_a_histogram_comes_back_to_the_last_bit(made: list[Histogram]) -> None:
    table = through_a_file(partials.from_histogram(made[0]))
    assert bits(partials.to_histogram(table)) == bits(made[0])


@law
@given(fixed())
def test_fixed_counts_come_back_to_the_last_bit(made: list[FixedCounts]) -> None:
    table = through_a_file(partials.from_fixed(made[0]))
    assert bits(partials.to_fixed(table)) == bits(made[0])


@tree
@given(histograms(parts=4), st.permutations(range(4)), st.integers(1, 3))
def test_any_tree_of_merges_over_files_gives_the_same_bits(
    made: list[Histogram], order: list[int], cut: int
) -> None:
    def merged(parts: list[Histogram]) -> Histogram:
        tables = [through_a_file(partials.from_histogram(part)) for part in parts]
        return merge([partials.to_histogram(table) for table in tables])

    turned = [made[i] for i in order]
    joined = merged([merged(turned[:cut]), merged(turned[cut:])])
    assert bits(joined) == bits(merge(made))


@tree
@given(fixed(parts=4), st.permutations(range(4)), st.integers(1, 3))
def test_any_tree_of_merges_of_fixed_counts_gives_the_same_bits(
    made: list[FixedCounts], order: list[int], cut: int
) -> None:
    def merged(parts: list[FixedCounts]) -> FixedCounts:
        tables = [through_a_file(partials.from_fixed(part)) for part in parts]
        return merge_fixed([partials.to_fixed(table) for table in tables])

    turned = [made[i] for i in order]
    joined = merged([merged(turned[:cut]), merged(turned[cut:])])
    assert bits(joined) == bits(merge_fixed(made))


def test_what_comes_back_can_be_written_to() -> None:
    # Arrow's memory is read-only, and whoever adds counts in place would find out late.
    rows = 2
    placed = Windows(exponent=np.zeros(rows, np.int32), first=np.zeros(rows, np.int64), bins=4)
    none = np.zeros(rows, np.int64)
    made = Histogram(
        windows=placed,
        shards=(3,),
        counts=np.zeros((rows, 4), np.int64),
        moments=np.zeros((1, rows, len(MOMENTS))),
        minimum=np.zeros(rows),
        maximum=np.zeros(rows),
        **dict.fromkeys(COUNTED, none),
    )
    back = partials.to_histogram(through_a_file(partials.from_histogram(made)))
    back.counts[0, 0] += 1
    back.minimum[0] = 1
    assert back.counts.sum() == 1
