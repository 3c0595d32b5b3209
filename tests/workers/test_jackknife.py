"""Jackknife: the same estimators without each shard; intervals are right where theory is."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.stats import t as scipy_student

from tests.workers.counted import bits, count
from workers.estimators import smooth
from workers.histogram import Histogram, MergeError, merge, quantile, summarise
from workers.jackknife import Intervals, intervals, student
from workers.windows import Windows

law = settings(max_examples=30, deadline=None)


def counted(shards: list[NDArray[np.float64]]) -> tuple[Histogram, list[Histogram]]:
    """Count shards of values, (P_g, R) each, into windows piloted by all of them."""
    windows = count(np.concatenate(shards)).windows
    parts = [count(values, windows, shard=g) for g, values in enumerate(shards)]
    return merge(parts), parts


def made(shards: list[NDArray[np.float64]]) -> Intervals:
    total, parts = counted(shards)
    return intervals(total, parts, smooth(total).bandwidth)


def widths(found: Intervals) -> NDArray[np.float64]:
    """Return half widths of mean, median and peak, (3, R)."""
    pairs = [(found.mean_low, found.mean_high), (found.median_low, found.median_high)]
    pairs += [(found.peak_low, found.peak_high)]
    return np.stack([(high - low) / 2 for low, high in pairs])


def unequal(rng: np.random.Generator, shards: int = 16, rows: int = 3) -> list[NDArray[np.float64]]:
    sizes = rng.integers(200, 2000, shards)
    return [rng.normal(rng.normal(0, 0.1, rows), 1, (size, rows)) for size in sizes]


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 15, 16, 63, 255])
def test_the_quantile_of_students_t_is_scipys(degrees):
    assert_allclose(student(degrees), scipy_student.ppf(0.975, degrees), rtol=1e-9)


def test_the_interval_of_a_mean_is_that_of_a_ratio_over_clusters_of_unequal_size():
    shards = unequal(np.random.default_rng(0))
    found = made(shards)
    values = np.concatenate(shards)
    mean, n = values.mean(axis=0), len(values)
    residuals = np.stack([(shard - mean).sum(axis=0) for shard in shards])
    error = np.sqrt(16 / 15 * (residuals**2).sum(axis=0)) / n
    expected = scipy_student.ppf(0.975, 15) * error
    assert_allclose(widths(found)[0], expected, rtol=1e-5)


def test_every_interval_is_centred_on_the_point_estimate():
    total, parts = counted(unequal(np.random.default_rng(0)))
    peaks = smooth(total)
    found = intervals(total, parts, peaks.bandwidth)
    assert_allclose((found.mean_low + found.mean_high) / 2, summarise(total).mean, atol=1e-12)
    assert_allclose((found.median_low + found.median_high) / 2, quantile(total, 0.5), atol=1e-12)
    assert_allclose((found.peak_low + found.peak_high) / 2, peaks.value, atol=1e-12)


def test_deletions_equal_estimates_from_the_other_shards_merged_at_the_same_bandwidth():
    total, parts = counted(unequal(np.random.default_rng(1), shards=5))
    peaks = smooth(total)
    moved = []
    for g, part in enumerate(parts):
        rest = merge(parts[:g] + parts[g + 1 :])
        # The bandwidth is fixed by hand: a kernel of that width, summed over the bins.
        at_RB = rest.windows.start[:, None] + (np.arange(256) + 0.5) * rest.windows.width[:, None]
        grid_RX = peaks.value[:, None] + np.linspace(-0.5, 0.5, 4001)
        peak = [
            grid[(np.exp(-0.5 * ((grid[:, None] - at) / h) ** 2) @ counts).argmax()]
            for grid, at, h, counts in zip(
                grid_RX, at_RB, peaks.bandwidth, rest.counts, strict=True
            )
        ]
        others = np.stack([summarise(rest).mean, quantile(rest, 0.5), np.array(peak)])
        whole = np.stack([summarise(total).mean, quantile(total, 0.5), peaks.value])
        moved.append((1 - part.finite / total.finite) * (whole - others))
    expected = scipy_student.ppf(0.975, 4) * np.sqrt(5 / 4 * np.square(moved).sum(axis=0))
    found = widths(intervals(total, parts, peaks.bandwidth))
    assert_allclose(found[:2], expected[:2], rtol=1e-9)
    assert_allclose(found[2], expected[2], rtol=0.02)  # a parabola through bins, not the summit


@law
@given(st.permutations(range(6)), st.sets(st.integers(1, 5)))
def test_intervals_do_not_depend_on_the_order_of_the_shards(order, cuts):
    total, parts = counted(unequal(np.random.default_rng(2), shards=6, rows=2))
    bandwidth = smooth(total).bandwidth
    one = widths(intervals(total, parts, bandwidth))
    other = widths(intervals(total, (parts[g] for g in order), bandwidth))
    assert_allclose(one, other, rtol=1e-12)
    # Parts that hold several shards are left out together.
    ends = [0, *sorted(cuts), 6]
    groups = [merge(parts[a:b]) for a, b in pairwise(ends)]
    assert np.isfinite(widths(intervals(total, groups, bandwidth))).all() == (len(groups) > 1)


def test_the_width_is_that_of_theory_for_independent_normal_values():
    rng = np.random.default_rng(0)
    found = widths(made([rng.normal(size=(2000, 100)) for _ in range(16)]))
    mean, median, _ = np.sqrt((found**2).mean(axis=1)) / scipy_student.ppf(0.975, 15)
    assert_allclose(mean, 32_000**-0.5, rtol=0.06)
    assert_allclose(median, (np.pi / 2 / 32_000) ** 0.5, rtol=0.12)


def test_correlated_tokens_make_wider_intervals():
    rng = np.random.default_rng(0)
    alone = made([rng.normal(size=(1000, 30)) for _ in range(16)])
    texts = [np.repeat(rng.normal(0, 0.3**0.5, (10, 30)), 100, axis=0) for _ in range(16)]
    alike = made([text + rng.normal(0, 0.7**0.5, text.shape) for text in texts])
    assert (np.median(widths(alike), axis=1) > 1.5 * np.median(widths(alone), axis=1)).all()


# --- where there is little to go by -----------------------------------------------------------


def test_a_row_with_values_in_fewer_than_two_shards_has_no_interval():
    rng = np.random.default_rng(0)
    shards = [rng.normal(size=(500, 3)) for _ in range(4)]
    for shard in shards[1:]:
        shard[:, 0] = np.nan
    for shard in shards:
        shard[:, 1] = np.inf
    found = widths(made(shards))
    assert np.isnan(found[:, :2]).all()
    assert np.isfinite(found[:, 2]).all()
    assert np.isnan(widths(made(shards[:1]))).all()


def test_a_shard_without_values_of_a_row_counts_neither_for_nor_against_it():
    rng = np.random.default_rng(0)
    shards = [rng.normal(size=(500, 1)) for _ in range(5)]
    windows = count(np.concatenate(shards)).windows
    parts = [count(values, windows, shard=g) for g, values in enumerate(shards)]
    none = count(np.full((500, 1), np.nan), windows, shard=5)
    total = merge(parts)
    bandwidth = smooth(total).bandwidth
    without = intervals(total, parts, bandwidth)
    assert bits(intervals(merge([total, none]), [*parts, none], bandwidth)) == bits(without)


def test_a_constant_is_known_exactly():
    found = made([np.full((100, 2), [0.1, 0.0])] * 4)
    assert (widths(found) == 0).all()
    assert_allclose(found.peak_low, np.float32([0.1, 0.0]), rtol=1e-12)


def test_a_peak_at_an_atom_of_zeros_has_no_width_and_the_mean_beside_it_has():
    rng = np.random.default_rng(0)
    shards = [np.maximum(rng.normal(-1, 1, (1000, 1)), 0) for _ in range(8)]
    mean, median, peak = widths(made(shards))[:, 0]
    assert mean > 0
    assert median == peak == 0


def test_an_atom_that_one_shard_brought_is_no_atom_without_it():
    rng = np.random.default_rng(0)
    shards = [rng.normal(2, 1, (1000, 1)) for _ in range(3)]
    shards[1][:] = 0
    found = made(shards)
    moved = np.sqrt(3 / 2) * (2 / 3) * 2  # by 2, from the atom to the bulk, in one of 3 deletions
    assert_allclose(found.peak_high, scipy_student.ppf(0.975, 2) * moved, rtol=0.2)
    assert_allclose(found.peak_low, -found.peak_high)


def test_what_only_one_shard_holds_beside_a_constant_moves_the_interval_by_that_much():
    shards = [np.full((100, 1), 3.0) for _ in range(4)]
    shards[0][:10] = 5.0
    mean, median, peak = widths(made(shards))[:, 0]
    residual = np.array([20 - 5, -5, -5, -5]) / 400
    assert_allclose(mean, scipy_student.ppf(0.975, 3) * np.sqrt(4 / 3 * (residual**2).sum()))
    assert max(median, peak) < 0.1


# --- misuse -----------------------------------------------------------------------------------


def test_shards_that_are_not_the_totals_are_refused():
    total, parts = counted(unequal(np.random.default_rng(0), shards=4))
    bandwidth = smooth(total).bandwidth
    with pytest.raises(MergeError, match=r"\[0, 1, 2\] came to be left out.*\[0, 1, 2, 3\]"):
        intervals(total, parts[:3], bandwidth)
    with pytest.raises(MergeError, match=r"\[0, 0, 1, 2, 3\]"):
        intervals(total, [parts[0], *parts], bandwidth)


def test_shards_counted_in_other_windows_are_refused():
    total, parts = counted(unequal(np.random.default_rng(0), shards=3))
    w = total.windows
    moved = Windows(exponent=w.exponent, first=w.first + 1, bins=w.bins)
    stray = count(np.zeros((5, 3)), moved, shard=2)
    with pytest.raises(MergeError, match=r"Shards \[2\] were counted in other windows"):
        intervals(total, [*parts[:2], stray], smooth(total).bandwidth)
