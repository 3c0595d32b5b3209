"""Widening: what the pilot missed is found, and 99 % of any distribution is inside afterwards."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.workers.counted import count, tensor
from workers.collect import windows_from
from workers.histogram import Histogram, empty, merge, overlaid
from workers.widening import EDGE, poor, wider
from workers.windows import LATTICES, Windows

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT32 = LATTICES["float32"]
TOKENS = 40_000


def both_passes(values_PN: torch.Tensor, windows: Windows) -> Histogram:
    """Count; then count the rows whose window was poor again, in a wider one."""
    lattice = LATTICES[str(values_PN.dtype).removeprefix("torch.")]
    first = count(values_PN, windows)
    rows = poor(first, lattice)
    if not rows.size:
        return first
    windows = wider(first, rows, lattice)
    assert not any(windows.taken([w]).same(first.windows.taken([r])) for w, r in enumerate(rows))
    return overlaid(first, rows, count(values_PN[:, rows].contiguous(), windows))


def piloted(values_PN: torch.Tensor, positions: int = 4096, *, seed: int = 0) -> Histogram:
    """Both passes after a pilot that sees `positions` of the values, drawn by a seed."""
    drawn = np.random.default_rng(seed).permutation(len(values_PN))[:positions]
    return both_passes(values_PN, windows_from([values_PN[np.sort(drawn)]]))


def outside(h: Histogram) -> NDArray[np.float64]:
    return (h.below + h.above) / np.maximum(h.finite, 1)


# A distribution of a few atoms, some heavy, some rare, anywhere: no bound on its tails.
value = st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(-4, 4, width=32)
atoms = st.lists(st.tuples(value, st.sampled_from([1, 2, 9, 40, 300])), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    atoms,
    atoms,
    st.sampled_from([4, 64, 256]),
    st.sampled_from(sorted(DTYPES)),
)
def test_after_the_second_pass_at_most_a_hundredth_of_any_distribution_is_outside(
    of_pilot, of_data, bins, name
):
    largest = torch.finfo(DTYPES[name]).max
    drawn = [np.repeat(*zip(*atoms_, strict=True)) for atoms_ in (of_pilot, of_data)]
    seen, rest = (tensor(np.clip(x, -largest, largest), DTYPES[name]) for x in drawn)
    h = both_passes(rest, windows_from([seen], bins))
    assert h.finite == len(rest)
    assert outside(h) <= 0.01 or h.minimum == h.maximum


@pytest.mark.parametrize("seed", range(3))
def test_mass_far_from_the_first_window_is_found_again_with_its_resolution(seed):
    rng = np.random.default_rng(seed)
    pilot = tensor(rng.normal(0, 1e-3, (500, 3)))
    far = tensor(np.array([[1e4, -3.0, 0.02]]) + rng.normal(0, 1, (TOKENS, 3)) * [[50, 0.1, 1e-4]])
    h = both_passes(far, windows_from([pilot]))
    assert (outside(h) <= 0.01).all()
    assert (np.array([50, 0.1, 1e-4]) / h.windows.width >= 8).all()


def test_two_far_atoms_are_both_inside_whatever_the_pilot_saw_of_them():
    values = tensor(np.repeat([-1e6, 1e6], [TOKENS // 2, TOKENS // 2]))
    h = both_passes(values, windows_from([values[:100]]))
    assert outside(h) == 0
    assert np.flatnonzero(h.counts[0]).size == 2


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize(("bin_", "near"), [(0, True), (4, True), (5, False), (50, False)])
def test_a_fullest_bin_near_an_end_with_values_beyond_it_is_counted_again(bin_, near, mirror):
    windows = Windows(
        exponent=np.array([0], np.int32), first=np.array([0 if mirror > 0 else -100]), bins=100
    )
    inside = [bin_ + 0.5] * 900 + [30.5, 60.5] * 100
    assert not poor(count(mirror * np.array(inside), windows), FLOAT32).size
    assert not poor(count(mirror * np.array([*inside, 101]), windows), FLOAT32).size
    assert poor(count(mirror * np.array([*inside, -1]), windows), FLOAT32).size == near


def test_a_fullest_bin_near_an_end_with_nothing_beyond_it_is_not():
    values = tensor(np.random.default_rng(0).exponential(1, TOKENS))
    windows = Windows(exponent=np.array([-5], np.int32), first=np.array([-2]), bins=256)
    h = count(values, windows)
    assert h.below == 0
    assert h.counts.argmax() < EDGE * 256
    assert not poor(h, FLOAT32).size


@pytest.mark.parametrize(
    "values",
    [[], [7.0] * 50, [0.0] * 50, [np.nan, np.inf, -np.inf], [3e38]],
    ids=["nothing", "constant", "zeros", "not finite", "one"],
)
def test_a_row_without_spread_is_never_poor_wherever_its_window_is(values):
    windows = Windows(exponent=np.array([-3], np.int32), first=np.array([-4]), bins=8)
    h = count(np.array(values), windows)
    assert not poor(h, FLOAT32).size
    wide = wider(h, np.array([0]), FLOAT32)  # asked for all the same, it is a window
    assert wide.first.shape == (1,)


def test_exact_zeros_are_inside_wherever_the_window_is():
    windows = Windows(exponent=np.array([0], np.int32), first=np.array([100]), bins=8)
    assert not poor(count([0.0] * 990 + [104.0] * 9 + [1.0], windows), FLOAT32).size
    assert poor(count([0.0] * 980 + [104.0] * 9 + [1.0] * 11, windows), FLOAT32).size


def test_exactly_a_hundredth_outside_is_not_yet_poor():
    windows = Windows(exponent=np.array([0], np.int32), first=np.array([-4]), bins=8)
    assert not poor(count([1.5] * 99 + [100.0], windows), FLOAT32).size
    assert poor(count([1.5] * 98 + [100.0], windows), FLOAT32).size


def test_only_poor_rows_are_named_and_their_windows_do_not_depend_on_how_shards_were_merged():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (TOKENS, 5))
    values[rng.random((TOKENS, 5)) < [0.5, 0, 0, 0.02, 0.009]] += 1000
    windows = windows_from([tensor(rng.normal(0, 1, (4096, 5)))])
    parts = [count(part, windows, shard=k) for k, part in enumerate(np.array_split(values, 4))]
    h = merge(parts)
    rows = poor(h, FLOAT32)
    assert rows.tolist() == [0, 3]
    other = merge([merge(parts[2:]), merge(parts[:2])])
    assert wider(h, rows, FLOAT32).same(wider(other, rows, FLOAT32))


def test_no_rows_need_no_windows():
    h = empty(Windows(exponent=np.array([0], np.int32), first=np.array([0]), bins=8))
    rows = poor(h, FLOAT32)
    assert rows.shape == wider(h, rows, FLOAT32).first.shape == (0,)


def relu(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.maximum(rng.normal(-1.2816, 1, TOKENS), 0)


def outliers(rng: np.random.Generator) -> NDArray[np.float64]:
    values = rng.normal(0, 1, TOKENS)
    values[::8000] = 1e4
    return values


def plateau_with_outlier(rng: np.random.Generator) -> NDArray[np.float64]:
    """More than half are one value, so the interquartile range says nothing."""
    values = np.where(rng.random(TOKENS) < 0.7, -0.17, rng.normal(0, 0.1, TOKENS))
    values[::8000] = 1e4
    return values


def one_class(rng: np.random.Generator) -> NDArray[np.float64]:
    """Sorted by class: one in ten fires, all of its positions one after the other."""
    values = rng.normal(0, 0.3, TOKENS)
    values[TOKENS * 7 // 10 : TOKENS * 8 // 10] += 5
    return values


# Draw, and the scale of each bulk that must still be resolved.
NEURONS = {
    "normal": (lambda rng: rng.normal(0, 1, TOKENS), 1.349),
    "far from zero": (lambda rng: rng.normal(20, 1, TOKENS), 1.349),
    "relu": (relu, 0.65),
    "student t 2": (lambda rng: rng.standard_t(2, TOKENS), 1.63),
    "1e4 sigma": (outliers, 1.349),
    "plateau": (plateau_with_outlier, 0.1),
    "bimodal": (
        lambda rng: np.where(rng.random(TOKENS) < 0.5, -5, 5) + rng.normal(0, 1, TOKENS),
        1.349,
    ),
    "one class": (one_class, 0.405),
    "log-normal": (lambda rng: rng.lognormal(0, 1.5, TOKENS), 2.4),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", NEURONS)
def test_a_neuron_keeps_a_sensible_window(name, dtype):
    draw, bulk = NEURONS[name]
    values = tensor(draw(np.random.default_rng(1)), DTYPES[dtype])
    h = piloted(values)
    assert outside(h) <= 0.01
    # So many bins over the interquartile range of the bulk, but for what the dtype can tell apart.
    assert bulk / h.windows.width >= (4 if dtype == "bfloat16" and name == "far from zero" else 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("constant", [0.0, 0.7, -1e-6])
def test_a_constant_neuron_keeps_a_window_around_it(constant, dtype):
    values = tensor(np.full(TOKENS, constant), DTYPES[dtype])
    h = piloted(values)
    assert outside(h) == 0
    assert (h.zeros if constant == 0 else h.counts.max()) == TOKENS


@pytest.mark.parametrize("seen", [0.6, 0.7])
def test_a_class_that_the_pilot_never_saw_is_found_by_the_second_pass(seen):
    values = tensor(one_class(np.random.default_rng(2)))
    h = both_passes(values, windows_from([values[: int(seen * TOKENS)]]))
    assert outside(h) <= 0.01
    assert 0.405 / h.windows.width >= 6


def gaps(counts_B: NDArray[np.int64]) -> int:
    """Bins with less than half of the most to their left and to their right: one mode has none."""
    left, right = np.maximum.accumulate(counts_B), np.maximum.accumulate(counts_B[::-1])[::-1]
    most = np.minimum(left, right)
    return int(((counts_B < most / 2) & (most > 100)).sum())


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("mean", [0, 0.3, -1, 8, -100, 2000])
def test_the_lattice_of_a_short_dtype_leaves_no_comb_of_empty_bins(name, mean):
    values = tensor(np.random.default_rng(0).normal(mean, 1, 200_000), DTYPES[name])
    sample = values[:4096]
    assert gaps(piloted(values).counts[0]) == 0
    missed = both_passes(values, windows_from([sample - 100]))  # by the second pass neither
    assert gaps(missed.counts[0]) == 0
    if mean in (-100, 8) and name == "bfloat16":
        finer = windows_from([sample.float()])  # taking the values for float32
        assert gaps(count(values, finer).counts[0]) > 5
