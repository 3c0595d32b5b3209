"""Partials come back from their files to the last bit, so merging them is merging memory."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import partials, store
from orchestrator.store import Store
from tests.orchestrator.partial_results import bits, fixed, histograms, plain, windows
from workers.histogram import FixedCounts, Histogram
from workers.windows import Windows

law = settings(max_examples=25, deadline=None)
numbers = count()


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Have files written in blocks of two rows, so that a few rows are several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BLOCK_ROWS", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("run"))


def written(run: Store, table: pa.Table) -> str:
    file = f"partials/{next(numbers)}.arrow"
    assert partials.commit(run, file, table, "name")
    assert run.whole(file)
    assert run.recipe(file) == "name"
    return file


def through_a_file(run: Store, table: pa.Table) -> pa.Table:
    return run.table(written(run, table))


@law
@given(made=st.integers(0, 5).flatmap(windows))
def test_windows_come_back_to_the_last_bit(run: Store, made: Windows) -> None:
    table = through_a_file(run, partials.from_windows(made))
    assert bits(partials.to_windows(table)) == bits(made)


@law
@given(data=st.data(), made=st.integers(0, 5).flatmap(windows))
def test_windows_of_some_rows_say_which(run: Store, data: st.DataObject, made: Windows) -> None:
    size = made.first.size
    chosen = data.draw(st.sets(st.integers(0, 99), min_size=size, max_size=size))
    rows_W = np.array(sorted(chosen), np.intp)
    table = through_a_file(run, partials.from_windows(made, rows=rows_W))
    assert bits(partials.to_windows(table)) == bits(made)
    assert partials.rows_of(table).tolist() == rows_W.tolist()
    assert partials.rows_of(table).dtype == np.intp


def test_windows_record_the_sample_they_were_made_from(run: Store) -> None:
    made = Windows(exponent=np.zeros(1, np.int32), first=np.zeros(1, np.int64), bins=4)
    table = through_a_file(run, partials.from_windows(made, pilot=[3, 1, 2]))
    assert table.schema.metadata[b"peaksweep.pilot"] == b"[3, 1, 2]"


@law
@given(made=histograms())
def test_a_histogram_comes_back_to_the_last_bit(run: Store, made: list[Histogram]) -> None:
    table = through_a_file(run, partials.from_histogram(made[0]))
    assert bits(partials.to_histogram(table)) == bits(made[0])
    low, high = partials.ends(table)
    assert low.tobytes() == made[0].minimum.tobytes()
    assert high.tobytes() == made[0].maximum.tobytes()


@law
@given(made=fixed())
def test_fixed_counts_come_back_to_the_last_bit(run: Store, made: list[FixedCounts]) -> None:
    table = through_a_file(run, partials.from_fixed(made[0]))
    assert bits(partials.to_fixed(table)) == bits(made[0])


@law
@given(data=st.data(), made=histograms())
def test_some_rows_of_a_file_are_those_rows(
    run: Store, data: st.DataObject, made: list[Histogram]
) -> None:
    (whole,), size = made, made[0].windows.first.size
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    file = written(run, partials.from_histogram(whole))
    found = partials.rows(run, file, start, stop)
    assert found.counts.tobytes() == whole.counts[start:stop].tobytes()
    assert found.moments.tobytes() == whole.moments[:, start:stop].tobytes()
    assert found.minimum.tobytes() == whole.minimum[start:stop].tobytes()
    assert found.windows.first.tobytes() == whole.windows.first[start:stop].tobytes()
    assert found.shards == whole.shards
    assert bits(partials.rows(run, file)) == bits(whole)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (-1, 2), (3, 2)])
def test_rows_that_a_file_has_not_are_refused(run: Store, start: int, stop: int) -> None:
    file = written(run, partials.from_histogram(plain(np.zeros((3, 4), np.int64))))
    with pytest.raises(IndexError, match="has 3 rows, and rows"):
        partials.rows(run, file, start, stop)


@pytest.mark.parametrize(
    ("largest", "stored"), [(2**31 - 1, pa.int32()), (2**31, pa.int64()), (2**62, pa.int64())]
)
def test_counts_are_stored_as_narrow_as_all_of_them_fit(
    run: Store, largest: int, stored: pa.DataType
) -> None:
    counts_RB = np.zeros((5, 4), np.int64)
    counts_RB[4, 1] = largest  # in the last block of the file
    table = through_a_file(run, partials.from_histogram(plain(counts_RB)))
    assert table.schema.field("counts").type == pa.list_(stored, 4)
    back = partials.to_histogram(table).counts
    assert back.dtype == np.int64
    assert np.array_equal(back, counts_RB)
    assert partials.most_of([table.schema]) == largest


def test_a_bound_that_does_not_hold_is_an_error_and_not_a_wrong_count() -> None:
    counts_RB = np.full((1, 4), 2**31)
    with pytest.raises(pa.ArrowInvalid, match="not in range"):
        partials.from_histogram(plain(counts_RB), most=7)


def test_reading_some_rows_leaves_the_rest_of_the_file_alone(run: Store) -> None:
    size, bins = 4096, 64
    counts_RB = np.arange(size * bins, dtype=np.int64).reshape(size, bins)
    file = written(run, partials.from_histogram(plain(counts_RB)))
    before = pa.total_allocated_bytes()
    table = run.table(file)
    assert pa.total_allocated_bytes() - before < counts_RB.size  # it lies in the file
    assert table.slice(7, 1).column("counts").to_pylist() == [counts_RB[7].tolist()]


def test_what_comes_back_can_be_written_to(run: Store) -> None:
    # Arrow's memory is read-only, and whoever adds counts in place would find out late.
    table = through_a_file(run, partials.from_histogram(plain(np.zeros((2, 4), np.int64))))
    back = partials.to_histogram(table)
    back.counts[0, 0] += 1
    back.minimum[0] = 1
    back.moments[0, 0, 0] = 1
    assert back.counts.sum() == 1
    assert partials.to_histogram(table).counts.sum() == 0
