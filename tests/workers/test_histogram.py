"""Histograms: split anywhere, merged in any way, the same to the last bit; and read rightly."""

import copy
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.counted import CPU, bits, count, recount, tensor
from workers.counting import Counter
from workers.histogram import (
    FixedCounts,
    Histogram,
    MergeError,
    empty,
    merge,
    merge_fixed,
    overlaid,
    quantile,
    stacked,
    summarise,
)
from workers.windows import Windows

Part = TypeVar("Part", Histogram, FixedCounts)

law = settings(max_examples=50, deadline=None)

PER_ROW = [f.name for f in fields(Histogram) if f.name not in ("windows", "shards", "moments")]

ROWS = 3
WINDOWS = Windows(exponent=np.array([-1, -3, 4], np.int32), first=np.array([-4, 3, -2]), bins=8)
BYHAND = Windows(exponent=np.array([0], np.int32), first=np.array([-2]), bins=4)

number = st.floats(width=32) | st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e30, -1e-30])
token = st.tuples(*[number] * ROWS)
shards_of_tokens = st.lists(st.lists(token, max_size=6), min_size=1, max_size=7)


def counted(shards: list[list[tuple[float, ...]]]) -> list[Histogram]:
    return [
        count(tensor(np.reshape(tokens, (-1, ROWS))), WINDOWS, shard=shard)
        for shard, tokens in enumerate(shards)
    ]


def merged_somehow(
    parts: list[Part], join: Callable[[list[Part]], Part], data: st.DataObject
) -> Part:
    """Merge by a tree of random shape, in random order."""
    parts = data.draw(st.permutations(parts))
    while len(parts) > 1:
        fan_in = data.draw(st.integers(2, len(parts)))
        parts = data.draw(st.permutations([join(parts[:fan_in]), *parts[fan_in:]]))
    return parts[0]


@law
@given(shards_of_tokens, st.data())
def test_merging_gives_the_same_bits_in_any_order_and_by_any_tree(shards, data):
    parts = counted(shards)
    assert bits(merged_somehow(parts, merge, data)) == bits(merge(parts))


@law
@given(shards_of_tokens)
def test_merged_shards_equal_one_pass_over_all_of_them(shards):
    merged = merge(counted(shards))
    (once,) = counted([[token for tokens in shards for token in tokens]])
    for name in Histogram.__dataclass_fields__:
        if name not in ("shards", "moments"):
            assert bits(getattr(merged, name)) == bits(getattr(once, name)), name
    np.testing.assert_array_equal(
        merged.moments, np.concatenate([part.moments for part in counted(shards)])
    )


@law
@given(st.lists(token, max_size=30), st.integers(1, 16), st.integers(1, 8), st.data())
def test_any_number_of_workers_counts_as_one_pass_would(tokens, shards, workers, data):
    """Tokens are dealt to shards and shards to workers, who merge theirs; then these are merged."""
    dealt = data.draw(st.lists(st.integers(0, shards - 1), min_size=30, max_size=30))
    mine = [
        [t for t, shard in zip(tokens, dealt, strict=False) if shard == k] for k in range(shards)
    ]
    parts = counted(mine)
    worker = data.draw(st.lists(st.integers(0, workers - 1), min_size=shards, max_size=shards))
    left = [
        merged_somehow(held, merge, data)
        for w in range(workers)
        if (held := [part for part, at in zip(parts, worker, strict=True) if at == w])
    ]
    merged = merged_somehow(left, merge, data)
    assert bits(merged) == bits(merge(parts))
    (once,) = counted([tokens])
    for name in Histogram.__dataclass_fields__:
        if name not in ("shards", "moments"):
            assert bits(getattr(merged, name)) == bits(getattr(once, name)), name


@law
@given(shards_of_tokens)
def test_every_value_is_counted_exactly_once(shards):
    h = merge(counted(shards))
    tokens = sum(len(tokens) for tokens in shards)
    np.testing.assert_array_equal(h.finite + h.nan + h.pos_inf + h.neg_inf, tokens)


@law
@given(shards_of_tokens, st.data())
def test_statistics_do_not_depend_on_how_the_shards_were_merged(shards, data):
    with np.errstate(all="ignore"):  # squares of 3e38 are within range, their ratios may not be
        one, other = (merged_somehow(counted(shards), merge, data) for _ in range(2))
        assert bits(summarise(one)) == bits(summarise(other))
        assert bits(quantile(one, 0.3)) == bits(quantile(other, 0.3))


@law
@given(shards_of_tokens)
def test_the_empty_histogram_changes_nothing(shards):
    h = merge(counted(shards))
    assert bits(merge([empty(WINDOWS), h])) == bits(merge([h, empty(WINDOWS)])) == bits(h)


@law
@given(shards_of_tokens)
def test_merging_leaves_its_arguments_alone(shards):
    parts = counted(shards)
    before = bits(copy.deepcopy(merge(parts))), [bits(part) for part in parts]
    merged = merge(parts)
    merged.counts[:] = -1
    merged.zeros[:] = -1
    merged.minimum[:] = -1
    merged.moments[:] = -1
    assert (bits(merge(parts)), [bits(part) for part in parts]) == before


def test_a_shard_delivered_twice_is_refused_by_its_number():
    parts = counted([[], [], [], []])
    with pytest.raises(MergeError, match=r"Shards \[2\] are in more than one of the parts"):
        merge([merge(parts[:3]), merge(parts[2:])])


@law
@given(shards_of_tokens, st.data())
def test_a_second_delivery_is_refused_wherever_in_the_tree_it_comes(shards, data):
    parts = counted(shards)
    again = data.draw(st.sampled_from(parts))
    with pytest.raises(MergeError, match=rf"Shards \[{again.shards[0]}\]"):
        merged_somehow([*parts, again], merge, data)


def test_a_merge_holds_one_part_at_a_time():
    alive: list[weakref.ref[np.ndarray]] = []

    def parts() -> Iterator[Histogram]:
        for shard in range(5):
            assert not any(counts() is not None for counts in alive)
            part = count(np.ones((4, ROWS)), WINDOWS, shard=shard)
            alive.append(weakref.ref(part.counts))
            yield part
            del part

    assert merge(parts()).finite.tolist() == [20] * ROWS
    assert len(alive) == 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int32])
def test_counts_that_come_as_narrow_integers_do_not_overflow_when_merged(dtype):
    most = np.iinfo(dtype).max
    made = count(np.ones((4, ROWS)), WINDOWS)
    full = np.full(made.counts.shape, most, dtype)
    parts = [replace(made, shards=(k,), counts=full, zeros=full[:, 0]) for k in range(3)]
    merged = merge(iter(parts))
    assert merged.counts.dtype == merged.zeros.dtype == np.int64
    assert (merged.counts == 3 * int(most)).all()
    assert (merged.zeros == 3 * int(most)).all()
    assert (full == most).all()


def test_counts_beyond_2_to_the_32_are_added_exactly():
    made = count(np.ones((4, ROWS)), WINDOWS)
    large = np.full(
        made.counts.shape, 2**53 + 1, np.int64
    )  # no float64 could hold the sum's last 1
    merged = merge([replace(made, shards=(k,), counts=large) for k in range(7)])
    assert (merged.counts == 7 * (2**53 + 1)).all()


def test_histograms_of_different_windows_are_not_merged():
    moved = Windows(exponent=WINDOWS.exponent, first=WINDOWS.first + 1, bins=8)
    with pytest.raises(MergeError, match="different windows"):
        merge([empty(WINDOWS), empty(moved)])


def test_merging_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


def upper_and_lower(parts: list[Histogram]) -> list[list[Histogram]]:
    """The rows of parts counted over WINDOWS, cut into row 0 and rows 1 and 2."""
    made = []
    for rows in (slice(0, 1), slice(1, 3)):
        made.append(
            [
                replace(
                    part,
                    windows=part.windows.taken(rows),
                    moments=part.moments[:, rows],
                    **{name: getattr(part, name)[rows] for name in PER_ROW},
                )
                for part in parts
            ]
        )
    return made


@law
@given(shards_of_tokens)
def test_stacking_rows_and_merging_shards_may_be_done_in_either_order(shards):
    parts = counted(shards)
    upper, lower = upper_and_lower(parts)
    merged_first = stacked([merge(upper), merge(lower)])
    stacked_first = merge([stacked(pair) for pair in zip(upper, lower, strict=True)])
    assert bits(merged_first) == bits(stacked_first) == bits(merge(parts))


def test_rows_of_different_shards_or_bins_are_not_stacked():
    (one,), (other,) = counted([[]]), counted([[], []])[1:]
    with pytest.raises(MergeError, match=r"shards \[0\] and of shards \[1\]"):
        stacked([one, other])
    with pytest.raises(ValueError, match=r"Windows of \[4, 8\] bins"):
        stacked([one, count([1.0], BYHAND)])
    with pytest.raises(ValueError, match="Windows of no bins"):
        stacked([])


@law
@given(shards_of_tokens, st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))
def test_laying_rows_over_and_merging_shards_may_be_done_in_either_order(shards, again):
    rows = np.flatnonzero(again)
    wide = Windows(exponent=WINDOWS.exponent + 2, first=WINDOWS.first - 9, bins=8).taken(rows)
    parts = counted(shards)
    recounted = []
    for shard, tokens in enumerate(shards):
        values = np.ascontiguousarray(np.reshape(tokens, (-1, ROWS))[:, rows])
        recounted.append(count(values, wide, shard=shard) if rows.size else empty(wide, (shard,)))
    before = [bits(part) for part in (*parts, *recounted)]
    merged_first = overlaid(merge(parts), rows, merge(recounted))
    overlaid_first = merge(
        [overlaid(part, rows, new) for part, new in zip(parts, recounted, strict=True)]
    )
    assert bits(merged_first) == bits(overlaid_first)
    assert [bits(part) for part in (*parts, *recounted)] == before
    old, new = merge(parts), merge(recounted)
    kept = np.setdiff1d(np.arange(ROWS), rows)
    for name in PER_ROW:
        assert bits(getattr(merged_first, name)[rows]) == bits(getattr(new, name)), name
        assert bits(getattr(merged_first, name)[kept]) == bits(getattr(old, name)[kept]), name
    assert bits(merged_first.moments[:, rows]) == bits(new.moments)
    assert bits(merged_first.moments[:, kept]) == bits(old.moments[:, kept])
    assert merged_first.windows.taken(rows).same(wide)


def test_rows_that_do_not_fit_are_not_laid_over():
    (base,) = counted([[]])
    one = WINDOWS.taken(slice(0, 1))
    for rows in ([0, 1], [3], [-1]):
        with pytest.raises(ValueError, match="rows are to replace"):
            overlaid(base, np.array(rows), empty(one, (0,)))
    with pytest.raises(ValueError, match="rows are to replace"):
        overlaid(base, np.array([1, 0]), empty(WINDOWS.taken(slice(0, 2)), (0,)))
    with pytest.raises(MergeError, match=r"shards \[0\] and of shards \[4\]"):
        overlaid(base, np.array([0]), empty(one, (4,)))
    with pytest.raises(ValueError, match="Rows of 4 bins"):
        overlaid(base, np.array([0]), empty(BYHAND, (0,)))


def test_values_at_first_positions_have_a_mean_of_their_own():
    values = tensor([[1.0, 5.0], [3.0, np.nan], [np.inf, 7.0]])
    windows = WINDOWS.taken(slice(0, 2))
    parts = []
    for shard in range(2):
        counter = Counter(windows, CPU)
        counter.add(tensor(np.full((10, 2), 100.0)))
        counter.add_first(values * (shard + 1))
        parts.append(counter.histogram(shard))
    m = summarise(merge(parts))
    assert merge(parts).firsts.tolist() == [4, 4]
    assert m.first.tolist() == [(1 + 3 + 2 + 6) / 4, (5 + 7 + 10 + 14) / 4]
    assert m.mean.tolist() == [100, 100]
    assert np.isnan(summarise(count([1.0, 2.0])).first).all()


fixed_counts = st.lists(st.lists(st.integers(0, 2**60), min_size=4, max_size=4), min_size=1)


@law
@given(fixed_counts.filter(lambda rows: len(rows) < 8), st.data())
def test_fixed_counts_merge_in_any_order_and_by_any_tree(rows, data):
    ends = {"low": np.array([0.0, 1.0]), "high": np.array([1.0, 2.0])}
    parts = [
        FixedCounts(**ends, shards=(shard,), counts=np.reshape(row, (2, 2)))
        for shard, row in enumerate(rows)
    ]
    merged = merged_somehow(parts, merge_fixed, data)
    assert merged.shards == tuple(range(len(rows)))
    assert bits(merged) == bits(merge_fixed(parts))
    np.testing.assert_array_equal(merged.counts.ravel(), np.sum(rows, axis=0))


def test_fixed_counts_of_one_shard_twice_or_of_other_ends_are_refused():
    one = recount([0.0, 1.0], count([0.0, 1.0]), shard=5)
    other = recount([0.0, 2.0], count([0.0, 2.0]), shard=6)
    with pytest.raises(MergeError, match=r"Shards \[5\]"):
        merge_fixed([one, one])
    with pytest.raises(MergeError, match="different ends"):
        merge_fixed([one, other])


def test_what_is_counted_where_in_a_case_done_by_hand():
    values = [-9, -2, -1.5, -0.0, 0, 0.5, 1, 1.99, 2, 7, np.nan, np.inf, np.inf, -np.inf]
    h = count(values, BYHAND)
    assert h.counts.tolist() == [[2, 0, 1, 2]]  # [-2, -1), [-1, 0), [0, 1), [1, 2)
    assert (h.zeros, h.below, h.above) == (2, 1, 2)
    assert (h.nan, h.pos_inf, h.neg_inf) == (1, 2, 1)
    assert (h.positive, h.minimum, h.maximum) == (5, -9, 7)
    assert h.moments.shape == (1, 1, 6)
    assert h.moments[0, 0, 0] == float(np.float32(1.99)) + 0.5 + 1 + 2 + 7 - 9 - 2 - 1.5


# Many of these values lie outside the window, some rows have none inside.
some = st.lists(st.floats(-5, 5, width=32) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)


@law
@given(some, st.floats(0, 1), st.integers(-9, 5), st.integers(-3, 1))
def test_a_quantile_lies_in_the_bin_of_the_true_one(values, q, first, exponent):
    windows = Windows(exponent=np.array([exponent], np.int32), first=np.array([first]), bins=4)
    (found,) = quantile(count(values, windows), q)
    true = sorted(values)[max(math.ceil(q * len(values)), 1) - 1]
    start, width = windows.start[0], windows.width[0]
    if true == 0:
        assert found == 0
    elif start <= true < start + 4 * width:
        assert abs(found - true) <= width
    elif true < start:
        assert min(values) <= found <= start
    else:
        assert start + 4 * width <= found <= max(values)
    assert found == 0 or np.sign(found) == np.sign(true) or abs(found - true) <= width


def test_the_median_of_many_values_is_good_to_a_bin():
    values = np.random.default_rng(0).gamma(3, size=(20_000, 5)).astype(np.float32)
    h = count(values)
    for q in (0.01, 0.25, 0.5, 0.9):
        true = np.quantile(values, q, axis=0, method="inverted_cdf")
        assert (np.abs(quantile(h, q) - true) <= h.windows.width).all()


def test_a_quantile_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"quantile of 1\.5"):
        quantile(empty(WINDOWS), 1.5)


@pytest.mark.parametrize("offset", [0.0, -1000.0])
def test_moments_equal_those_of_the_values_even_far_from_zero(offset):
    values = (np.random.default_rng(1).gamma(2, size=(30_000, 4)) + offset).astype(np.float32)
    shards = np.array_split(values, 7)
    windows = count(values).windows
    m = summarise(merge([count(part, windows, shard=k) for k, part in enumerate(shards)]))
    wide = values.astype(np.float64)
    d = wide - wide.mean(axis=0)
    std = d.std(axis=0)
    np.testing.assert_array_equal(m.count, len(values))
    # Blocks may be summed in float32, about a point near their mean (`workers.counting`).
    np.testing.assert_allclose(m.mean, wide.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(m.std, std, rtol=1e-6)
    np.testing.assert_allclose(m.rms, np.sqrt((wide**2).mean(axis=0)), rtol=1e-7)
    np.testing.assert_allclose(m.abs_mean, np.abs(wide).mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(m.positive, (wide > 0).mean(axis=0))
    np.testing.assert_allclose(m.skewness, (d**3).mean(axis=0) / std**3, rtol=1e-5)
    np.testing.assert_allclose(m.kurtosis, (d**4).mean(axis=0) / std**4 - 3, rtol=1e-5)


def test_a_constant_has_exactly_its_own_mean_and_no_spread():
    m = summarise(count(np.full(1000, 0.1, np.float32)))
    constant = float(np.float32(0.1))
    assert (m.mean[0], m.std[0], m.rms[0], m.abs_mean[0]) == (constant, 0, constant, constant)
    assert np.isnan([m.skewness[0], m.kurtosis[0]]).all()


def test_a_row_without_finite_values_has_no_statistics():
    h = count([np.nan, np.inf])
    m = summarise(h)
    assert m.count == 0
    assert np.isnan([m.mean, m.std, m.rms, m.abs_mean, m.positive, m.skewness]).all()
    assert np.isnan(quantile(h, 0.5)).all()
    assert (h.minimum, h.maximum) == (np.inf, -np.inf)
