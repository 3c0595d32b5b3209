"""Counting: every value once, in the bin that exact arithmetic says; recounting as histc does.

What a CPU counts plainly is counted carefully too, as on a GPU, and must come out alike.
"""

import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.counted import CPU, bits, count, tensor
from workers.collect import windows_from
from workers.counting import Counter, FixedCounter
from workers.histogram import MOMENTS, Histogram, summarise
from workers.tally import BELOW, Tally
from workers.windows import Windows

law = settings(max_examples=50, deadline=None)

BITS = {torch.float32: np.int32, torch.float16: np.int16, torch.bfloat16: np.int16}


def of_bits(patterns: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers with these bit patterns, (P, 1): subnormals, NaN and infinities too."""
    array = np.array(patterns, np.int64).astype(BITS[dtype])
    return torch.from_numpy(array).view(dtype)[:, None]


def both_ways(values: torch.Tensor, windows: Windows) -> tuple[Histogram, bool]:
    """Count as a CPU may and as a GPU must; return the histogram, and if any was counted plainly.

    All but the last bits of moments must be alike.
    """
    chosen, careful = Counter(windows, CPU), Counter(windows, CPU)
    careful._plain = None
    for counter in (chosen, careful):
        counter.add(values)
        counter.add_first(values[:1])
    a, b = chosen.histogram(0), careful.histogram(0)
    for field in fields(Histogram):
        if field.name not in ("windows", "moments"):
            assert bits(getattr(a, field.name)) == bits(getattr(b, field.name)), field.name
    return a, chosen._plain is not None and chosen._plain._positions > 0


def expected(exact: list[Fraction | None], exponent: int, first: int) -> dict[str, object]:
    """Count numbers into four bins by exact arithmetic."""
    counts, found = [0] * 4, {"below": 0, "above": 0, "zeros": 0, "positive": 0}
    for value in exact:
        if value is None:
            continue
        b = math.floor(value / Fraction(2) ** exponent) - first
        found["positive"] += value > 0
        if value == 0:
            found["zeros"] += 1
        elif 0 <= b < 4:
            counts[b] += 1
        else:
            found["below" if b < 0 else "above"] += 1
    return {"counts": counts, **found}


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
    h, _ = both_ways(values, windows)
    told = expected(exact, exponent, first)
    assert {name: np.squeeze(getattr(h, name), 0).tolist() for name in told} == told
    assert h.nan == values.isnan().sum()
    assert (h.pos_inf, h.neg_inf) == ((values == torch.inf).sum(), (values == -torch.inf).sum())


@pytest.mark.parametrize("dtype", BITS, ids=str)
@law
@given(data=st.data())
def test_a_block_that_is_counted_plainly_is_counted_exactly(dtype, data):
    exponent = data.draw(st.integers(-20, 0))
    first = data.draw(st.integers(-(2**22), 2**22) | st.integers(-6, 3))
    # Values at edges, next to them, inside bins, at zero and as near to it as the dtype can be.
    edge = st.integers(first - 2, first + 6).map(lambda index: math.ldexp(index, exponent))
    tiny = st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-24, -(2.0**-24)])
    drawn = data.draw(st.lists(edge | tiny | st.floats(-8, 8), min_size=1, max_size=30))
    values = torch.tensor(drawn, dtype=torch.float64).to(dtype)[:, None]
    values = torch.cat([values, torch.nextafter(values, torch.full_like(values, torch.inf))])
    values = torch.cat([values, -torch.nextafter(-values, torch.full_like(values, torch.inf))])
    values = values[values.double().abs().mul(2.0**-exponent).le(2.0**24)][:, None]
    windows = Windows(exponent=np.array([exponent], np.int32), first=np.array([first]), bins=4)
    h, plainly = both_ways(values, windows)
    assert plainly or not len(values)
    told = expected([Fraction(v) for v in values[:, 0].double().tolist()], exponent, first)
    assert {name: np.squeeze(getattr(h, name), 0).tolist() for name in told} == told


def test_values_beyond_the_range_of_any_integer_are_counted_outside():
    windows = Windows(exponent=np.array([-149], np.int32), first=np.array([-4]), bins=8)
    h = count([3e38, 1.0, -3e38, 2.0**-149, -(2.0**-149), -0.0], windows)
    assert (h.above, h.below, h.zeros) == (2, 1, 1)
    assert h.counts.tolist() == [[0, 0, 0, 1, 0, 1, 0, 0]]


@pytest.mark.parametrize("exponent", [1, 8, 120])
def test_a_value_too_small_to_be_scaled_down_keeps_its_side_of_zero(exponent):
    windows = Windows(exponent=np.array([exponent], np.int32), first=np.array([-2]), bins=4)
    h, plainly = both_ways(tensor([2.0**-149, -(2.0**-149), -(2.0**-149)]), windows)
    assert h.counts.tolist() == [[0, 2, 1, 0]]
    assert not plainly


def test_indices_that_float32_cannot_tell_apart_are_counted_exactly():
    far = -(2**24) + 2
    windows = Windows(exponent=np.full(4, -10, np.int32), first=np.full(4, far), bins=4)
    h, plainly = both_ways(tensor(np.full((2, 4), (far + 1) * 2.0**-10)), windows)
    assert h.counts.tolist() == [[0, 2, 0, 0]] * 4
    assert not plainly


def test_every_neuron_is_counted_in_its_own_row():
    values_PN = np.arange(12.0).reshape(4, 3)
    windows = Windows(exponent=np.zeros(3, np.int32), first=np.arange(0, 6, 2), bins=24)
    h = count(tensor(values_PN), windows, shard=7)
    assert h.shards == (7,)
    for row, column in enumerate(values_PN.T):
        bins = column[(column != 0) & (column >= 2 * row)] - 2 * row
        assert np.flatnonzero(h.counts[row]).tolist() == bins.tolist()
        assert (h.minimum[row], h.maximum[row]) == (column.min(), column.max())


def test_blocks_of_one_batch_may_be_counted_in_different_ways():
    generator = torch.Generator().manual_seed(0)
    neurons, positions = 300, 1500  # seven blocks
    values = torch.randn(positions, neurons, generator=generator)
    values[700, 3], values[701, 4], values[702, 5] = torch.nan, torch.inf, -torch.inf
    values[1400, 6], values[10, 7], values[1300, 9] = 3e38, 0.0, 1e20
    exponent = np.full(neurons, -5, np.int32)
    exponent[8] = -7
    first = np.full(neurons, -128)
    first[:2] = 3, -300  # windows apart from zero
    windows = Windows(exponent=exponent, first=first, bins=256)
    h, plainly = both_ways(values, windows)
    assert plainly
    finite = values.isfinite()
    assert h.finite.tolist() == finite.sum(dim=0).tolist()
    assert h.positive.tolist() == ((values > 0) & finite).sum(dim=0).tolist()
    assert (h.nan[3], h.pos_inf[4], h.neg_inf[5], h.above[6] > 0, h.zeros[7]) == (1, 1, 1, True, 1)
    assert h.maximum[6] == np.float32(3e38)
    assert np.isfinite(h.moments).all()


def samples() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(20_000, 3, generator=generator)
    skewed = torch.empty(20_000, 3).exponential_(generator=generator)
    heavy = normal / torch.rand(20_000, 3, generator=generator)
    return {
        "normal": normal,
        "skewed": skewed,
        "heavy tails": heavy,
        "with an outlier": torch.cat([normal, torch.full((1, 3), 1e4)]),
        "mostly zero": normal.relu() * (skewed > 2),
        "narrow and far": 5 + normal / 1000,
        "drifting": normal + torch.linspace(-3, 3, 20_000)[:, None],
        "tiny": normal * 1e-15,
        "bfloat16": normal.bfloat16(),
    }


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("far", [0, 60], ids=["centred", "far from the window's centre"])
def test_moments_are_those_of_exact_sums(name, far):
    values = samples()[name]
    placed = windows_from([values[:4096]])
    windows = Windows(exponent=placed.exponent, first=placed.first + far, bins=placed.bins)
    counter = Counter(windows, CPU)
    for batch in values.split(6000):
        counter.add(batch)
    assert counter._plain is not None
    assert counter._plain._positions == len(values)
    found = summarise(counter.histogram(0))
    for n, column in enumerate(values.double().T.tolist()):
        mean = math.fsum(column) / len(column)
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column))
        shape = [math.fsum((x - mean) ** k for x in column) / len(column) for k in (3, 4)]
        rms = math.hypot(mean, std)
        assert abs(found.mean[n] - mean) <= 1e-7 * rms
        assert abs(found.mean[n] - mean) <= 1e-6 * std
        assert abs(found.std[n] - std) <= 1e-6 * std
        assert found.abs_mean[n] == pytest.approx(math.fsum(map(abs, column)) / len(column), 1e-6)
        assert found.skewness[n] == pytest.approx(shape[0] / std**3, rel=1e-5, abs=1e-5)
        assert found.kurtosis[n] == pytest.approx(shape[1] / std**4 - 3, rel=1e-5, abs=1e-5)


def test_activations_at_first_positions_are_summed_apart():
    counter = Counter(windows_from([tensor(np.arange(8.0).reshape(4, 2))]), CPU)
    counter.add_first(tensor([[1.5, np.nan], [2.0, np.inf]]))
    counter.add_first(tensor([[-1.0, 4.0]]))
    h = counter.histogram(0)
    assert h.firsts.tolist() == [3, 1]
    assert h.moments[0, :, MOMENTS.index("first")].tolist() == [2.5, 4.0]
    assert not h.finite.any()


def test_counters_are_emptied_before_they_overflow():
    most = 2**31 - 1
    tally = Tally(2, 3, CPU)
    tally._table_NC[:] = torch.tensor([[most - 2, 0, 2], [0, most, 0]])  # planted
    tally._positions = most
    places = torch.tensor([[0, 4], [0, 4], [0, 5]])
    for _ in range(3):
        tally.add(places)
    assert tally.total().tolist() == [[most - 2 + 9, 0, 2], [0, most + 6, 3]]
    tally._positions = most - 2  # and once more, with counters that were emptied before
    tally.add(places)
    assert tally.total().tolist() == [[most - 2 + 12, 0, 2], [0, most + 8, 4]]
    assert tally.total().dtype == np.int64


def test_more_positions_than_a_counter_holds_are_counted_by_a_histogram():
    counter = Counter(Windows(exponent=np.array([0], np.int32), first=np.array([-2]), bins=4), CPU)
    most = 2**31 - 1
    counter._tally._table_NC[0, BELOW + 1 + 3] = most - 1  # planted: all in the last bin
    counter._tally._positions = most - 1
    for _ in range(3):
        counter.add(tensor([1.5, 1.25]))
    h = counter.histogram(0)
    assert h.counts.tolist() == [[0, 0, 0, most + 5]]
    assert h.positive == h.finite == most + 5


def test_on_any_other_device_nothing_is_read_back_while_counting():
    meta = torch.device("meta")  # has no values: whatever waits for one fails
    values = torch.zeros(9, 4, device=meta, dtype=torch.bfloat16)
    windows = Windows(exponent=np.zeros(4, np.int32), first=np.arange(-3, 1), bins=2)
    counter = Counter(windows, meta)
    counter.add(values)
    counter.add_first(values)
    FixedCounter(np.zeros(4), np.ones(4), bins=100, device=meta).add(values)
    with pytest.raises(RuntimeError, match="meta"):
        bool(values.amax() > 0)


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
    counter = FixedCounter(np.array([low]), np.array([high]), bins=100, device=CPU)
    counter.add(values_PN)
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
    counter = FixedCounter(*ends, bins=100, device=CPU)
    counter.add(values)
    for n, found in enumerate(counter.counts(0).counts):
        expected = torch.histc(values[:, n], bins=100, min=low[n].item(), max=high[n].item())
        assert found.tolist() == expected.tolist()


def test_recounting_leaves_out_what_is_not_finite():
    values = tensor([np.nan, np.inf, -np.inf, 0.0, 1.0])
    counter = FixedCounter(np.array([0.0]), np.array([1.0]), bins=2, device=CPU)
    counter.add(values)
    assert counter.counts(0).counts.tolist() == [[1, 1]]
    nothing = FixedCounter(np.array([np.inf]), np.array([-np.inf]), bins=2, device=CPU)
    nothing.add(values[:3])
    assert nothing.counts(0).counts.tolist() == [[0, 0]]
