"""Peaks: near the true mode whatever the distribution, and decided where it is a matter of rule."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.workers.counted import bits, count, recount
from workers.estimators import half_sample, smooth
from workers.histogram import Histogram, merge
from workers.published import paper
from workers.windows import Windows

law = settings(max_examples=50, deadline=None)

REPETITIONS, TOKENS = 8, 100_000


def drawn(name: str) -> tuple[NDArray[np.float64], float, float]:
    """Return samples (TOKENS, REPETITIONS), the true mode, and the s.d. (Student's t: scale)."""
    rng, shape = np.random.default_rng(0), (TOKENS, REPETITIONS)
    normal = rng.standard_normal(shape)
    match name:
        case "normal":
            return normal, 0, 1
        case "Laplace":
            return rng.laplace(size=shape), 0, 2**0.5
        case "Student t, 2":
            return rng.standard_t(2, shape), 0, 1
        case "gamma 3":
            return rng.gamma(3, size=shape), 2, 3**0.5
        case "log-normal .5":
            return np.exp(normal / 2), np.exp(-0.25), 0.604
        case "bimodal .6/.4":
            second = 2 + rng.standard_normal(shape) / 2
            return np.where(rng.random(shape) < 0.6, normal / 2 - 1, second), -1, 1.55
        case _:
            spike = 0.5 + 0.05 * rng.standard_normal(shape)
            return np.where(rng.random(shape) < 0.3, spike, normal), 0.5, 0.87


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


# About twice the errors measured over many repetitions: (smooth, half_sample).
MISSES = {
    "normal": (0.06, 0.22),
    "Laplace": (0.01, 0.05),
    "Student t, 2": (0.03, 0.14),
    "gamma 3": (0.065, 0.18),
    "log-normal .5": (0.055, 0.14),
    "bimodal .6/.4": (0.01, 0.09),
    "spike + broad": (0.01, 0.07),
}


@pytest.mark.parametrize("name", MISSES)
def test_an_estimate_from_100_000_values_lies_near_the_true_mode(name):
    values, mode, sd = drawn(name)
    h = count(values)
    for estimates, most in zip((smooth(h).value, half_sample(h)), MISSES[name], strict=True):
        assert rms(estimates - mode) / sd < most


@pytest.mark.parametrize(
    ("name", "share"),
    [("normal", 0.5), ("Student t, 2", 0.05), ("gamma 3", 1), ("log-normal .5", 1)],
)
def test_smooth_misses_by_less_than_paper_and_by_far_with_heavy_tails(name, share):
    values, mode, _ = drawn(name)
    h = count(values)
    assert rms(smooth(h).value - mode) < share * rms(paper(recount(values, h)) - mode)


def test_the_bandwidth_is_the_declared_one():
    values, _, _ = drawn("gamma 3")
    quarters = np.quantile(values, [0.25, 0.75], axis=0)
    spread = np.minimum(values.std(axis=0), np.diff(quarters, axis=0)[0] / 1.349)
    expected = 0.9 * spread * TOKENS ** (-1 / 7)
    np.testing.assert_allclose(smooth(count(values)).bandwidth, expected, rtol=0.01)


# --- atoms of exact zeros ---------------------------------------------------------------------


@pytest.mark.parametrize("off", [0.3, 0.5, 0.9, 0.999])
def test_a_unit_that_is_mostly_off_has_its_peak_at_exactly_zero(off):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(20_000) < off, 0, np.abs(rng.normal(size=20_000)))
    h = count(values)
    peaks = smooth(h)
    assert peaks.value == 0
    assert half_sample(h) == 0 or off < 0.5
    assert peaks.mode_values[0][0] == 0
    assert abs(peaks.mode_weights[0][0] - off) < 0.02


def test_an_atom_beside_a_bulk_wins_once_the_bandwidth_is_narrow_enough():
    rng = np.random.default_rng(0)
    for share, at_zero in ((0.05, False), (0.15, True)):
        values = np.where(rng.random(TOKENS) < share, 0, rng.normal(1, 1, TOKENS))
        peaks = smooth(count(values))
        assert peaks.value == 0 if at_zero else abs(peaks.value - 1) < 0.1
        assert sorted(np.round(peaks.mode_values[0]).tolist()) == [0, 1]
        assert 0 in peaks.mode_values[0]


@pytest.mark.parametrize(("share", "expected"), [(0.03, 10), (0.6, 0)])
def test_an_atom_far_outside_the_window_is_weighed_like_any_other(share, expected):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(20_000) < share, 0, rng.normal(10, 1, 20_000))
    h = count(values)
    assert h.windows.start > 0
    assert abs(smooth(h).value - expected) < 0.2
    assert abs(half_sample(h) - expected) < 0.5


def test_a_few_exact_zeros_are_values_like_any_others():
    values = np.random.default_rng(0).normal(0.1, 1, TOKENS)
    values[:500] = 0
    peaks = smooth(count(values))
    assert 0 not in peaks.mode_values[0]
    assert abs(peaks.value) < 0.2
    assert abs(peaks.mode_weights[0].sum() - 1) < 0.001


# --- degenerate rows --------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, -0.0, 0.1, -3e-20, 7e20])
def test_a_constant_is_its_own_peak(constant):
    values = np.full(1000, constant, np.float32)
    h = count(values)
    peaks = smooth(h)
    for value in (peaks.value, half_sample(h), paper(recount(values, h))):
        assert value == float(np.float32(constant))
    assert peaks.bandwidth == 0
    assert peaks.mode_weights[0].tolist() == [1]


def test_a_row_with_nothing_in_its_window_has_no_peak_and_disturbs_no_other():
    windows = Windows(exponent=np.full(4, -4, np.int32), first=np.full(4, -128), bins=256)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 4))
    values[:, 1] = np.nan
    values[:, 2] += 1000
    values[:4000, 3], values[4000:, 3] = 0, 1000
    h = count(values, windows)
    peaks = smooth(h)
    for estimate in (peaks.value, half_sample(h)):
        assert abs(estimate[0]) < 0.5
        assert np.isnan(estimate[1:3]).all()
        assert estimate[3] == 0
    assert [len(modes) for modes in peaks.mode_values] == [1, 0, 0, 1]
    assert np.isnan(paper(recount(values, h))[1])


def test_two_values_far_apart_are_two_modes():
    values = np.repeat([-5.0, 3.0], [700, 300])
    h = count(values)
    peaks = smooth(h)
    np.testing.assert_allclose(peaks.mode_values[0], [-5, 3], atol=h.windows.width[0])
    np.testing.assert_allclose(peaks.mode_weights[0], [0.7, 0.3])
    assert abs(half_sample(h) + 5) <= h.windows.width


# --- rules, on counts made by hand ------------------------------------------------------------


def made(counts: object, *, first: int = -8, zeros: int = 0) -> Histogram:
    """Return a histogram with these counts in bins of width 1, values at the bins' centres."""
    row_B = np.asarray(counts, np.int64)
    at_B = first + np.arange(row_B.size) + 0.5
    windows = Windows(exponent=np.zeros(1, np.int32), first=np.array([first]), bins=row_B.size)
    values = np.concatenate([np.repeat(at_B, row_B), np.zeros(zeros)])
    return count(values, windows)


def spikes(*places: float) -> list[int]:
    counts = np.zeros(16, np.int64)
    for place in places:
        counts[int(place + 7.5)] = 100
    return counts.tolist()


def test_a_tie_goes_to_the_place_nearest_zero():
    for places, nearest in (((-6.5, 4.5), 4.5), ((-3.5, 5.5), -3.5)):
        h = made(spikes(*places))
        assert abs(smooth(h).value - nearest) < 0.01
        assert half_sample(h) == nearest


def test_a_tie_at_equal_distances_goes_to_the_lower():
    h = made(spikes(-4.5, 4.5))
    assert abs(smooth(h).value + 4.5) < 0.01
    assert half_sample(h) == -4.5


def test_of_two_nearly_equal_modes_both_are_kept_with_their_weights():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(TOKENS) < 0.505, -2, 2) + rng.normal(0, 0.5, TOKENS)
    peaks = smooth(count(values))
    assert abs(abs(peaks.value[0]) - 2) < 0.1
    np.testing.assert_allclose(np.sort(peaks.mode_values[0]), [-2, 2], atol=0.1)
    np.testing.assert_allclose(peaks.mode_weights[0], 0.5, atol=0.01)


def test_a_lone_outlier_is_no_mode():
    peaks = smooth(made([0, 0, 0, 50, 90, 120, 90, 50, 0, 0, 0, 0, 0, 0, 0, 1]))
    assert len(peaks.mode_values[0]) == 1


row_of_counts = st.lists(st.integers(0, 30), min_size=16, max_size=16).filter(any)


@law
@given(row_of_counts, st.integers(-20, 4), st.integers(0, 10))
def test_modes_are_within_the_data_and_weigh_at_most_one_together(counts, first, zeros):
    h = made(counts, first=first, zeros=zeros)
    peaks = smooth(h)
    assert peaks.mode_values[0][0] == peaks.value[0]
    assert (peaks.mode_values[0] >= h.minimum).all()
    assert (peaks.mode_values[0] <= h.maximum).all()
    assert peaks.mode_weights[0].sum() <= 1 + 1e-12


@law
@given(row_of_counts)
def test_smoothing_equals_the_sum_of_kernels_written_out(counts):
    h = made(counts)
    peaks = smooth(h)
    if peaks.bandwidth == 0:
        return
    distance = np.subtract.outer(np.arange(16), np.arange(16))
    density = np.exp(-0.5 * (distance / peaks.bandwidth) ** 2) @ counts
    b = int(density.argmax())
    found = int(np.clip(np.floor(peaks.value[0]), -8, 7)) + 8
    assert density[found] > (1 - 1e-6) * density[b] or abs(found - b) == 1
    if 0 < b < 15 and np.partition(density, -2)[-2] < (1 - 1e-6) * density[b]:
        left, middle, right = density[b - 1 : b + 2]
        vertex = b - 7.5 + 0.5 * (right - left) / (2 * middle - left - right)
        np.testing.assert_allclose(peaks.value[0], np.clip(vertex, h.minimum, h.maximum), atol=1e-6)


@law
@given(row_of_counts, st.integers(-20, 4))
def test_the_half_sample_mode_equals_a_search_written_out(counts, first):
    low, high = 0, 16
    while high - low > 1:
        mass = sum(counts[low:high])
        halves = [
            (end - start, -sum(counts[start:end]), abs(2 * first + start + end), start, end)
            for start in range(low, high)
            for end in range(start + 1, high + 1)
            if 2 * sum(counts[start:end]) >= mass
        ]
        low, high = min(halves)[3:]
    assert half_sample(made(counts, first=first)) == first + low + 0.5


def only(h: Histogram, r: int) -> Histogram:
    """Return one row of a histogram; counted anew, its moments could differ in the last bits."""
    row = np.array([r])
    parts = {
        field.name: getattr(h, field.name)[row]
        for field in fields(h)
        if field.name not in ("windows", "shards", "moments")
    }
    return replace(h, windows=h.windows.taken(row), moments=h.moments[:, row], **parts)


@settings(max_examples=20, deadline=None)
@given(st.lists(row_of_counts, min_size=2, max_size=6), st.integers(-8, 8))
def test_a_row_does_not_depend_on_the_rows_beside_it_nor_on_the_unit_of_measure(rows, power):
    counts_RB = np.asarray(rows, np.int64)
    values = [np.repeat(np.arange(16) - 7.5, row) for row in counts_RB]
    longest = max(map(len, values))
    values_PR = np.full((longest, len(rows)), np.nan)
    for r, column in enumerate(values):
        values_PR[: len(column), r] = column
    exponent, first = np.zeros(len(rows), np.int32), np.full(len(rows), -8)
    together = count(values_PR, Windows(exponent=exponent, first=first, bins=16))
    scaled = count(
        values_PR * 2.0**power, Windows(exponent=exponent + np.int32(power), first=first, bins=16)
    )
    alone = [only(together, r) for r in range(len(rows))]
    assert bits(smooth(together).value) == bits(np.concatenate([smooth(h).value for h in alone]))
    assert bits(half_sample(together)) == bits(np.concatenate([half_sample(h) for h in alone]))
    np.testing.assert_allclose(smooth(scaled).value, smooth(together).value * 2.0**power)


def test_peaks_do_not_depend_on_how_the_data_was_split():
    values = np.random.default_rng(0).gamma(3, size=(9000, 4))
    windows = count(values).windows
    thirds = [count(part, windows, shard=k) for k, part in enumerate(np.split(values, 3))]
    one, other = merge(thirds), merge([thirds[2], merge(thirds[:2])])
    assert bits(smooth(one).value) == bits(smooth(other).value)
