"""Masks are nested, cover everything at one, and depend on seed and layer alone (law 7)."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.selection import count, held, order

neurons = st.integers(1, 300)
seeds = st.integers(0, 2**63)
layers = st.integers(0, 200)
fractions = st.decimals(0, 1, places=3)


@given(neurons, seeds, layers, fractions, fractions)
def test_a_larger_fraction_holds_all_that_a_smaller_one_holds(
    n: int, seed: int, layer: int, one: Decimal, other: Decimal
) -> None:
    drawn = order(n, seed=seed, layer=layer)
    small = held(drawn, count(min(one, other), n))
    large = held(drawn, count(max(one, other), n))
    assert set(small.tolist()) <= set(large.tolist())


@given(neurons, seeds, layers)
def test_fraction_one_holds_every_neuron_once(n: int, seed: int, layer: int) -> None:
    drawn = order(n, seed=seed, layer=layer)
    assert drawn.dtype == np.int64
    assert held(drawn, count(Decimal(1), n)).tolist() == list(range(n))


@given(neurons, seeds, layers, fractions)
def test_what_is_held_is_ascending_and_leaves_the_order_untouched(
    n: int, seed: int, layer: int, fraction: Decimal
) -> None:
    drawn = order(n, seed=seed, layer=layer)
    before = drawn.copy()
    k = count(fraction, n)
    found = held(drawn, k)
    assert len(found) == k
    assert (np.diff(found) > 0).all()
    assert set(found.tolist()) == set(drawn[:k].tolist())
    assert np.array_equal(drawn, before)


@given(neurons, fractions)
def test_a_fraction_is_rounded_half_up_exactly(n: int, fraction: Decimal) -> None:
    thousandths = int(fraction * 1000)
    assert count(fraction, n) == (2 * thousandths * n + 1000) // 2000


def test_a_decimal_fraction_is_not_rounded_as_a_binary_one() -> None:
    assert count(Decimal("0.35"), 10) == 4  # 3 in binary floating point
    assert [count(Decimal("0.5"), n) for n in (1, 3, 768)] == [1, 2, 384]
    assert count(Decimal("0.001"), 128) == 0


@pytest.mark.parametrize("fraction", ["-0.1", "1.2"])
def test_a_fraction_outside_zero_to_one_is_refused(fraction: str) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        count(Decimal(fraction), 10)


def test_layers_and_seeds_have_orders_of_their_own() -> None:
    drawn = {order(64, seed=seed, layer=layer).tobytes() for seed in range(5) for layer in range(5)}
    assert len(drawn) == 25


def test_every_neuron_comes_first_about_equally_often() -> None:
    first = np.bincount([order(8, seed=seed, layer=3)[0] for seed in range(2000)], minlength=8)
    assert (abs(first - 250) < 75).all()  # five standard deviations of a fair draw


def test_the_order_is_the_same_on_every_run_and_machine() -> None:
    assert order(8, seed=0, layer=0).tolist() == GOLDEN[0]
    assert order(8, seed=7, layer=2).tolist() == GOLDEN[1]


GOLDEN = [[7, 4, 2, 6, 5, 0, 1, 3], [1, 3, 0, 6, 4, 7, 5, 2]]
