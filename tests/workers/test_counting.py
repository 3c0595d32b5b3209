"""Counting: every value once, in the bin that exact arithmetic says; recounting as histc does."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.counted import CPU, count, tensor
from workers.counting import Counter, FixedCounter
from workers.windows import Windows

law = settings(max_examples=50, deadline=None)

BITS = {torch.float32: np.int32, torch.float16: np.int16, torch.bfloat16: np.int16}


def of_bits(patterns: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers with these bit patterns, (P, 1): subnormals, NaN and infinities too."""
    array = np.array(patterns, np.int64).astype(BITS[dtype])
    return torch.from_numpy(array).view(dtype)[:, None]


@pytest.mark.parametrize("dtype", BITS, ids=str)
@law
@given(data=st.data())
def test_the_index_equals_exact_arithmetic_for_every_number_of_the_dtype(dtype, data):
    pattern = st.integers(0, 2 ** np.iinfo(BITS[dtype]).bits - 1)
    values = of_bits(data.draw(st.lists(pattern, min_size=1, max_size=30)), dtype)
    exact = [Fraction(v) if math.isfinite(v) else None for v in values[:, 0].double().tolist()]
    # The window is put near one of the values, as coarse or as fine as any could need.
    near = data.draw(st.sampled_from([v for v in exact if v is not None] or [Fraction(0)]))
    exponent = data.draw(st.integers(-149, 120))
    index = math.floor(near / Fraction(2) ** exponent)
    first = max(min(index, 2**40), -(2**40)) - data.draw(st.integers(-1, 4))
    windows = Windows(exponent=np.array([exponent], np.int32), first=np.array([first]), bins=4)

    expected = {"counts": [0] * 4, "below": 0, "above": 0, "zeros": 0}
    for value in exact:
        if value is None:
            continue
        b = math.floor(value / Fraction(2) ** exponent) - first
        if value == 0:
            expected["zeros"] += 1
        elif b < 0:
            expected["below"] += 1
        elif b >= 4:
            expected["above"] += 1
        else:
            expected["counts"][b] += 1
    h = count(values, windows)
    found = {name: np.squeeze(getattr(h, name), 0).tolist() for name in expected}
    assert found == expected
    assert h.nan == values.isnan().sum()
    assert (h.pos_inf, h.neg_inf) == ((values == torch.inf).sum(), (values == -torch.inf).sum())


def test_values_beyond_the_range_of_any_integer_are_counted_outside():
    windows = Windows(exponent=np.array([-149], np.int32), first=np.array([-4]), bins=8)
    h = count([3e38, 1.0, -3e38, 2.0**-149, -(2.0**-149), -0.0], windows)
    assert (h.above, h.below, h.zeros) == (2, 1, 1)
    assert h.counts.tolist() == [[0, 0, 0, 1, 0, 1, 0, 0]]


def test_every_neuron_of_every_layer_is_counted_in_its_own_row():
    values = np.arange(24.0).reshape(2, 4, 3)  # two layers, four positions, three neurons
    windows = Windows(exponent=np.zeros(6, np.int32), first=np.arange(0, 12, 2), bins=24)
    counter = Counter(windows, 2, CPU)
    for layer in (1, 0):
        counter.add(layer, tensor(values[layer]))
    h = counter.histogram(7)
    assert h.shards == (7,)
    for row in range(6):
        column = values[row // 3, :, row % 3]
        bins = column[(column != 0) & (column >= 2 * row)] - 2 * row
        assert np.flatnonzero(h.counts[row]).tolist() == bins.tolist()
        assert (h.minimum[row], h.maximum[row]) == (column.min(), column.max())


@law
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=60)
    | st.lists(st.integers(-50, 150), min_size=2, max_size=60),  # these fall on edges
    st.sampled_from(list(BITS)),
)
def test_recounting_equals_histc(values, dtype):
    values_PN = tensor(values, dtype)
    raw = values_PN.float()
    low, high = raw.min().item(), raw.max().item()
    counter = FixedCounter(np.array([low]), np.array([high]), bins=100, layers=1, device=CPU)
    counter.add(0, values_PN)
    found = counter.counts(0).counts[0]
    if low < high:
        expected = torch.histc(raw, bins=100, min=low, max=high)
        assert found.tolist() == expected.tolist()
    else:
        assert found.tolist() == [len(values)] + [0] * 99


def test_recounting_equals_histc_to_the_side_on_which_a_value_at_an_edge_falls():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(400, 6, generator=generator).exp()
    steps = torch.randint(-300, 500, (400, 100), generator=generator) * 0.37  # often at edges
    values = torch.cat([smooth, steps], dim=1)
    low, high = values.amin(0), values.amax(0)
    ends = (low.double().numpy(), high.double().numpy())
    counter = FixedCounter(*ends, bins=100, layers=1, device=CPU)
    counter.add(0, values)
    for n, found in enumerate(counter.counts(0).counts):
        expected = torch.histc(values[:, n], bins=100, min=low[n].item(), max=high[n].item())
        assert found.tolist() == expected.tolist()


def test_recounting_leaves_out_what_is_not_finite():
    values = tensor([np.nan, np.inf, -np.inf, 0.0, 1.0])
    counter = FixedCounter(np.array([0.0]), np.array([1.0]), bins=2, layers=1, device=CPU)
    counter.add(0, values)
    assert counter.counts(0).counts.tolist() == [[1, 1]]
    nothing = FixedCounter(np.array([np.inf]), np.array([-np.inf]), bins=2, layers=1, device=CPU)
    nothing.add(0, values[:3])
    assert nothing.counts(0).counts.tolist() == [[0, 0]]
