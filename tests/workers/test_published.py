"""The published estimators: what their formulas find in the raw values, with their faults."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from tests.workers.counted import CPU, count, tensor
from workers.counting import FixedCounter
from workers.estimators import smooth
from workers.histogram import FixedCounts
from workers.published import PUBLISHED, kde, paper, shifted

law = settings(max_examples=30, deadline=None)


def centre(low: torch.Tensor, high: torch.Tensor, bins: int, number: torch.Tensor) -> torch.Tensor:
    return low + (high - low) / bins * (number + 0.5)


def histc(values_P: torch.Tensor, bins: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    return torch.histc(values_P, bins=bins, min=low.item(), max=high.item())


def in_bins(bins: int) -> Callable[..., torch.Tensor]:
    def peak(values_P: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return centre(low, high, bins, histc(values_P, bins, low, high).argmax())

    return peak


def coarse_then_fine(values_P: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    width = (high - low) / 100
    left = low + width * histc(values_P, 100, low, high).argmax()
    fine = histc(values_P, 100, left, left + width).argmax()
    return centre(left, left + width, 100, fine)


def of_two_resolutions(
    values_P: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    coarse, fine = (histc(values_P, bins, low, high) for bins in (1_000, 10_000))
    mean = (coarse.repeat_interleave(10) + fine) / 2
    return centre(low, high, 10_000, mean.argmax())


def with_a_kernel(values_P: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    kernel = torch.exp(-0.5 * torch.linspace(-5 // 2, 5 // 2, 5) ** 2)
    row = histc(values_P, 100, low, high).view(1, 1, -1)
    padded = torch.nn.functional.pad(row, (2, 2), mode="replicate")
    found = torch.nn.functional.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))
    return centre(low, high, 100, found.view(-1).argmax())


def with_scipy(values_P: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    density = stats.gaussian_kde(values_P.numpy(), bw_method=0.1)
    places = np.linspace(low.item(), high.item(), 1000)
    return torch.tensor(places[density(places).argmax()])


RAW = {
    "paper": in_bins(100),
    "paper_global": in_bins(100),
    "paper_coarse_fine": coarse_then_fine,
    "paper_averaged": of_two_resolutions,
    "paper_smoothed": with_a_kernel,
    "paper_layer": in_bins(1_000),
    "paper_kde": with_scipy,
}
"""What each does with a neuron's activations and its ends."""


def recounted(name: str, values: torch.Tensor) -> FixedCounts:
    """Count values, (P, N), in the bins that an estimator takes."""
    h, of = count(values), PUBLISHED[name]
    low, high = h.minimum, h.maximum
    if of.ends == "of all neurons":
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    counter = FixedCounter(low, high, bins=of.bins, device=CPU)
    counter.add(values)
    return counter.counts(0)


def activations(dtype: torch.dtype, neurons: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(3000, neurons, generator=generator)
    scale = torch.logspace(-2, 1, neurons)
    return torch.cat([normal * scale, normal.exp(), normal.relu()], dim=1).to(dtype)


def test_every_published_estimator_is_checked_against_its_formula():
    assert list(RAW) == list(PUBLISHED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RAW)
def test_counts_give_what_the_published_formula_gives_on_the_raw_values(name, dtype):
    values = activations(dtype)
    found = PUBLISHED[name].peak(recounted(name, values))
    raw = values.float()
    low, high = raw.amin(0), raw.amax(0)
    if PUBLISHED[name].ends == "of all neurons":
        low, high = low.min().expand_as(low), high.max().expand_as(high)
    expected = [RAW[name](*one).item() for one in zip(raw.T, low, high, strict=True)]
    rounding = 1e-6 * (high - low).numpy()  # of float32; a peak near 0 has more of it
    near = np.abs(found - expected) <= rounding
    # An activation on the edge of a bin may be rounded to either side of it.
    assert near.mean() >= (1 if PUBLISHED[name].bins == 100 else 0.9)


def test_with_the_ends_of_all_neurons_most_have_one_and_the_same_peak():
    values = activations(torch.float32, neurons=12)
    own, over_all = (PUBLISHED[n].peak(recounted(n, values)) for n in ("paper", "paper_global"))
    assert np.unique(over_all.round(6)).size < np.unique(own.round(6)).size / 3


def test_paper_takes_the_centre_of_the_first_fullest_bin():
    fixed = FixedCounts(
        low=np.array([0.0, -10.0, np.inf]),
        high=np.array([100.0, 10.0, -np.inf]),
        shards=(0,),
        counts=np.zeros((3, 100), np.int64),
    )
    fixed.counts[0, [3, 7]] = 5
    fixed.counts[1, [0, 99]] = [5, 6]
    np.testing.assert_allclose(paper(fixed), [3.5, 9.9, np.nan])


# --- laws ----------------------------------------------------------------------------------------

every = pytest.mark.parametrize("name", PUBLISHED)


def between(counts_RB: NDArray[np.int64], low: float = -1, high: float = 1) -> FixedCounts:
    ends = (np.full(len(counts_RB), float(end)) for end in (low, high))
    return FixedCounts(
        **dict(zip(("low", "high"), ends, strict=True)), shards=(0,), counts=counts_RB
    )


@st.composite
def few(draw: st.DrawFn, bins: int) -> NDArray[np.int64]:
    """Draw rows of counts that are zero but in a few bins."""
    counts_RB = np.zeros((draw(st.integers(1, 3)), bins), np.int64)
    for row in counts_RB:
        places = draw(st.lists(st.integers(0, bins - 1), min_size=1, max_size=8))
        row[places] = draw(hnp.arrays(np.int64, len(places), elements=st.integers(1, 1000)))
    return counts_RB


@every
@law
@given(data=st.data(), scale=st.sampled_from([0.25, 8.0]), shift=st.integers(-4, 4))
def test_a_row_has_its_own_peak_between_its_ends_in_any_unit(name, data, scale, shift):
    of = PUBLISHED[name]
    counts_RB = data.draw(few(of.bins))
    peaks = of.peak(between(counts_RB))
    assert (np.abs(peaks) <= 1).all()
    alone = np.concatenate([of.peak(between(row[None])) for row in counts_RB])
    np.testing.assert_array_equal(peaks, alone)
    moved = of.peak(between(counts_RB, shift - scale, shift + scale))
    np.testing.assert_allclose(moved, shift + scale * peaks, atol=1e-12)


@every
def test_a_constant_is_its_own_peak_and_nothing_has_none(name):
    of = PUBLISHED[name]
    counts_RB = np.zeros((2, of.bins), np.int64)
    counts_RB[0, 0] = 7
    ends = np.array([0.3, np.inf])
    fixed = replace(between(counts_RB), low=ends, high=np.array([0.3, -np.inf]))
    np.testing.assert_array_equal(of.peak(fixed), [0.3, np.nan])


# --- what is wrong with them ---------------------------------------------------------------------


def expected_counts(phase: float, bins: int = 100) -> NDArray[np.int64]:
    """Return a normal density without any noise; its mode is `phase` bins above the middle."""
    place_B = np.arange(bins) + 0.5 - bins / 2 - phase
    return np.round(1e9 * np.exp(-0.5 * (place_B / 12) ** 2)).astype(np.int64)


def test_the_smoothed_peak_is_four_tenths_of_a_bin_too_low():
    phases = np.linspace(-0.5, 0.5, 101)[:-1]
    counts_RB = np.stack([expected_counts(phase) for phase in phases])
    bins_off = (shifted(between(counts_RB, -50, 50)) - phases).mean()
    assert abs(bins_off + 0.39) < 0.02
    assert abs((paper(between(counts_RB, -50, 50)) - phases).mean()) < 0.02


def test_the_kernel_density_sees_a_smooth_mode_to_the_distance_of_its_places():
    counts_RB = np.stack([np.repeat(expected_counts(phase), 100) for phase in (-0.3, 0.2)])
    np.testing.assert_allclose(kde(between(counts_RB, -50, 50)), [-0.3, 0.2], atol=0.06)


def drawn(name: str, rng: np.random.Generator) -> tuple[NDArray[np.float64], float, float]:
    """Return samples (30,000, 8), the true mode, and the s.d. (Student's t: scale)."""
    shape = (30_000, 8)
    match name:
        case "normal":
            return rng.standard_normal(shape), 0, 1
        case "Student t, 2":
            return rng.standard_t(2, shape), 0, 1
        case _:
            return rng.gamma(3, size=shape), 2, 3**0.5


@pytest.mark.parametrize("name", [n for n in PUBLISHED if PUBLISHED[n].ends == "of each neuron"])
@pytest.mark.parametrize("of", ["normal", "gamma 3", "Student t, 2"])
def test_each_of_them_errs_more_than_smooth_does(name, of):
    values, mode, sd = drawn(of, np.random.default_rng(1))
    counted = recounted(name, tensor(values))
    errors = [smooth(count(values)).value - mode, PUBLISHED[name].peak(counted) - mode]
    least, theirs = (float(np.sqrt(np.mean(e**2))) / sd for e in errors)
    assert least < 0.06
    assert theirs > 1.2 * least
