"""Windows: they hold nearly all values, little else, and are never finer than the dtype."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.counted import count, tensor
from workers.collect import windows_from
from workers.histogram import quantile
from workers.windows import Lattice, Sample, place

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LATTICES = [
    Lattice(name="float32", mantissa=23, smallest=-126),
    Lattice(name="float16", mantissa=10, smallest=-14),
    Lattice(name="bfloat16", mantissa=7, smallest=-126),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_piloted_window_holds_nearly_all_values_and_is_mostly_filled(dtype):
    rng = np.random.default_rng(0)
    shapes = (
        rng.normal(size=(40_000, 3)),
        rng.gamma(3, size=(40_000, 3)),
        rng.standard_t(2, (40_000, 3)),
    )
    values = tensor(np.concatenate(shapes, axis=1) * np.tile([1e-2, 1, 30], 3), dtype)
    h = count(values)
    assert ((h.below + h.above) <= 0.01 * h.finite).all()
    used_R = (quantile(h, 0.995) - quantile(h, 0.005)) / h.windows.width
    assert (used_R > 256 / 4).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, -0.3, 1e-30, 60_000.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_constant_has_a_window_around_it_as_fine_as_the_dtype(constant, dtype):
    values = tensor(np.full(100, constant), dtype)
    windows = windows_from([values])
    exact = values[0, 0].item()
    assert windows.start < exact < windows.start + 256 * windows.width
    spacing = torch.finfo(dtype).eps * max(abs(exact), torch.finfo(dtype).tiny)
    if exact:
        assert spacing / 2 <= windows.width <= 4 * spacing


def test_a_window_is_made_for_the_values_that_are_not_exactly_zero():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((4096, 1)) < 0.95, 0, np.abs(rng.normal(size=(4096, 1))))
    h = count(values)
    assert h.zeros > 3700
    assert h.windows.width < 0.05
    assert h.above + h.below <= 5


finite = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(finite, min_size=4, max_size=4),
    st.floats(0, 2.0**100),
    st.sampled_from(LATTICES),
    st.sampled_from([4, 64, 256]),
)
def test_a_window_covers_its_sample_and_is_never_finer_than_the_dtype(
    quantiles, std, lattice, bins
):
    low, quarter, three, high = (np.array([v]) for v in sorted(quantiles))
    sample = Sample(low=low, quarter=quarter, three_quarters=three, high=high, std=np.array([std]))
    windows = place(sample, lattice, bins)
    start, end = windows.start[0], windows.start[0] + bins * windows.width[0]
    assert start <= low[0] <= high[0] <= end
    inner = max(abs(start + windows.width[0]), abs(end - windows.width[0]))
    _, exponent = np.frexp(inner)
    assert windows.exponent[0] >= max(exponent - 1, lattice.smallest) - lattice.mantissa


@pytest.mark.parametrize("bins", [255, 2, 512])
def test_a_number_of_bins_that_makes_no_sense_is_refused(bins):
    with pytest.raises(ValueError, match=f"{bins} bins.*even number from 4 to 256"):
        windows_from([tensor([1.0, 2.0], torch.bfloat16)], bins)


def test_the_spacing_of_a_dtype_is_the_distance_to_the_next_number():
    for lattice, dtype in zip(LATTICES, DTYPES, strict=True):
        limits = torch.finfo(dtype)
        one, nothing = (2.0 ** lattice.spacing(np.array([m]))[0] for m in (1.5, 0.0))
        assert torch.tensor(1 + one, dtype=dtype).item() == 1 + one
        assert torch.tensor(1 + one / 4, dtype=dtype).item() == 1
        assert nothing == limits.smallest_normal * limits.eps
