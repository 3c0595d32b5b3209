"""Fixed scales: peaks at three bandwidths, and whether the choice between them matters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.counted import bits, count
from workers.estimators import SCALES, fixed_scales, peak_at, smooth
from workers.windows import Windows

law = settings(max_examples=50, deadline=None)

TOKENS = 100_000


def test_fixed_scales_are_smooth_at_bandwidths_in_units_of_the_spread():
    values = np.random.default_rng(0).gamma(3, size=(TOKENS, 8))
    h = count(values)
    spread = smooth(h).bandwidth / 0.9 * TOKENS ** (1 / 7)
    scales = fixed_scales(h)
    for row, scale in zip(scales.values, SCALES, strict=True):
        np.testing.assert_allclose(row, peak_at(h, scale * spread), rtol=1e-12)
    assert np.abs(scales.values - 2).max() < 0.5
    assert bits(peak_at(h, smooth(h).bandwidth)) == bits(smooth(h).value)


@pytest.mark.parametrize("tokens", [10_000, 100_000])
@pytest.mark.parametrize("draw", ["normal", "gumbel", "logistic"])
def test_one_broad_mode_is_stable_however_far_the_finest_peak_wanders(tokens, draw):
    values = getattr(np.random.default_rng(0), draw)(0, 1, (tokens, 100))
    scales = fixed_scales(count(values))
    assert scales.stable.mean() >= 0.98
    if tokens == 10_000:
        assert np.ptp(scales.values, axis=0).max() > 0.3


def test_a_spike_that_only_the_finer_scales_see_is_not_stable():
    rng = np.random.default_rng(0)
    for spike in (0.0, 0.01 * rng.standard_normal(TOKENS)):
        values = np.where(rng.random(TOKENS) < 0.05, spike, rng.normal(1, 1, TOKENS))
        scales = fixed_scales(count(values))
        assert not scales.stable
        assert abs(scales.values[0, 0]) < 0.05
        assert abs(scales.values[2, 0] - 1) < 0.2


def test_a_spike_that_every_scale_sees_is_stable():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(TOKENS) < 0.5, 0, rng.normal(1, 1, TOKENS))
    scales = fixed_scales(count(values))
    assert scales.stable
    assert (scales.values == 0).all()


def test_a_constant_is_stable_and_a_row_without_a_peak_is_not():
    values = np.full((100, 3), 0.25)
    values[:, 1] = np.nan
    values[:50, 2] = 10.0
    windows = Windows(exponent=np.full(3, -4, np.int32), first=np.full(3, -128), bins=256)
    scales = fixed_scales(count(values, windows))
    assert scales.stable.tolist() == [True, False, True]
    assert (scales.values[:, 0] == 0.25).all()
    assert np.isnan(scales.values[:, 1]).all()


@law
@given(
    st.lists(st.integers(0, 30), min_size=16, max_size=16).filter(any),
    st.integers(-20, 4),
    st.integers(0, 10),
)
def test_fixed_scales_obey_the_rules_of_smooth(counts, first, zeros):
    windows = Windows(exponent=np.zeros(1, np.int32), first=np.array([first]), bins=16)
    values = np.repeat(first + np.arange(16) + 0.5, counts)
    h = count(np.concatenate([values, np.zeros(zeros)]), windows)
    scales = fixed_scales(h)
    assert (scales.values >= h.minimum).all()
    assert (scales.values <= h.maximum).all()
    if np.ptp(scales.values) <= smooth(h).bandwidth / 100:  # the coarsest is wider than that
        assert scales.stable
