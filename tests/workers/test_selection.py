"""Masks are nested, cover everything at one, and depend on seed and layer alone (law 7)."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.selection import (
    Chosen,
    Scope,
    Unit,
    Units,
    chosen,
    count,
    flat,
    held,
    in_scope,
    neurons_held,
    order,
    order_over_all,
    units_held,
)

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


def test_sites_and_units_have_orders_of_their_own() -> None:
    made: list[tuple[str, Unit]] = [
        ("attn_pre_out", "neuron"), ("attn_pre_out", "head"), ("mlp_mid", "neuron"),
    ]  # fmt: skip
    drawn = {order(64, seed=3, layer=1, site=site, unit=unit).tobytes() for site, unit in made}
    assert len(drawn | {order_over_all(64, seed=3).tobytes()}) == 4


@given(neurons, seeds)
def test_an_order_over_all_has_every_flat_index_once(n: int, seed: int) -> None:
    assert sorted(order_over_all(n, seed=seed).tolist()) == list(range(n))


def test_an_order_over_all_is_the_same_on_every_run_and_machine() -> None:
    assert order_over_all(8, seed=0).tolist() == OVER_ALL


OVER_ALL = [3, 6, 7, 2, 4, 0, 5, 1]


# Of a whole model.

Orders = Mapping[tuple[int, int] | None, Units]
Over = Literal["layer", "all"]
overs = st.sampled_from(["layer", "all"])


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    depth = draw(st.integers(1, 5))
    some = draw(st.sets(st.integers(0, depth - 1), min_size=1))
    sites = draw(st.integers(1, 2))
    shape = st.lists(st.integers(1, 9), min_size=sites, max_size=sites).map(tuple)
    return Scope(
        layers=tuple(sorted(some)),
        depth=depth,
        units=draw(shape),
        widths=draw(shape),
        complement=draw(st.booleans()),
    )


def random_orders(scope: Scope, seed: int) -> Orders:
    """Return both kinds of orders of all units of a model."""
    within = {
        (site, layer): order(n, seed=seed, layer=layer, site=("attn_pre_out", "mlp_mid")[site])
        for site, n in enumerate(scope.units)
        for layer in range(scope.depth)
    }
    return {**within, None: order_over_all(scope.depth * sum(scope.units), seed=seed)}


Unit3 = tuple[int, int, int]
"""Site, layer and unit."""


def as_set(found: list[list[Units]]) -> set[Unit3]:
    return {
        (site, layer, int(unit))
        for site, per_layer in enumerate(found)
        for layer, units_K in enumerate(per_layer)
        for unit in units_K
    }


def of_layers(scope: Scope, layers: tuple[int, ...]) -> set[Unit3]:
    return {(s, i, u) for s, n in enumerate(scope.units) for i in layers for u in range(n)}


@given(scopes(), fractions, overs, st.integers(0, 9))
def test_as_many_units_are_chosen_and_held_as_are_said(
    scope: Scope, fraction: Decimal, over: Over, seed: int
) -> None:
    some = chosen(scope, fraction, over=over)
    found = as_set(units_held(scope, some, random_orders(scope, seed)))
    assert len(found) == some.held(scope)
    every = tuple(range(scope.depth))
    assert scope.total == len(of_layers(scope, every if scope.complement else scope.layers))
    assert found <= of_layers(scope, every if scope.complement else scope.layers)


@given(scopes(), fractions, overs, st.integers(0, 9))
def test_the_complement_holds_exactly_the_rest_of_all_layers(
    scope: Scope, fraction: Decimal, over: Over, seed: int
) -> None:
    plain, rest = (_with(scope, complement=c) for c in (False, True))
    some, orders = chosen(scope, fraction, over=over), random_orders(scope, seed)
    one, other = (as_set(units_held(s, some, orders)) for s in (plain, rest))
    assert not one & other
    assert one | other == of_layers(scope, tuple(range(scope.depth)))
    assert some.held(plain) + some.held(rest) == rest.total


def _with(scope: Scope, **changes: object) -> Scope:
    return replace(scope, **changes)  # type: ignore[arg-type]


@given(scopes(), fractions, fractions, overs, st.integers(0, 9))
def test_a_larger_fraction_chooses_all_that_a_smaller_one_does(
    scope: Scope, one: Decimal, other: Decimal, over: Over, seed: int
) -> None:
    orders, plain = random_orders(scope, seed), _with(scope, complement=False)
    small, large = (
        as_set(units_held(plain, chosen(plain, f, over=over), orders)) for f in sorted((one, other))
    )
    assert small <= large
    rest = _with(scope, complement=True)
    most, least = (
        as_set(units_held(rest, chosen(rest, f, over=over), orders)) for f in sorted((one, other))
    )
    assert most >= least


@given(scopes(), overs)
def test_fraction_one_holds_all_of_the_scope_whatever_the_order(scope: Scope, over: Over) -> None:
    plain = _with(scope, complement=False)
    some = chosen(plain, Decimal(1), over=over)
    assert as_set(units_held(plain, some, {})) == of_layers(plain, plain.layers)
    assert as_set(units_held(plain, some, random_orders(plain, 1))) == of_layers(
        plain, plain.layers
    )


@given(scopes(), overs)
def test_fraction_zero_holds_nothing_and_its_complement_everything(
    scope: Scope, over: Over
) -> None:
    some = chosen(scope, Decimal(0), over=over)
    found = as_set(units_held(scope, some, {}))
    assert found == (of_layers(scope, tuple(range(scope.depth))) if scope.complement else set())


@given(scopes(), fractions, overs, st.integers(0, 9))
def test_a_unit_holds_all_of_its_neurons_and_no_others(
    scope: Scope, fraction: Decimal, over: Over, seed: int
) -> None:
    some, orders = chosen(scope, fraction, over=over), random_orders(scope, seed)
    for units, neurons_, width in zip(
        units_held(scope, some, orders),
        neurons_held(scope, some, orders),
        scope.widths,
        strict=True,
    ):
        assert len(units) == len(neurons_) == scope.depth
        for units_K, neurons_K in zip(units, neurons_, strict=True):
            assert neurons_K.dtype == np.int64
            assert neurons_K.tolist() == [int(u) * width + i for u in units_K for i in range(width)]
            assert (np.diff(neurons_K) > 0).all()


@given(scopes(), fractions, st.integers(0, 9))
def test_ranked_within_layers_every_layer_loses_as_many(
    scope: Scope, fraction: Decimal, seed: int
) -> None:
    plain = _with(scope, complement=False)
    found = units_held(plain, chosen(plain, fraction, over="layer"), random_orders(plain, seed))
    for per_layer, n in zip(found, scope.units, strict=True):
        sizes = [len(units_K) for units_K in per_layer]
        assert [sizes[i] for i in scope.layers] == [count(fraction, n)] * len(scope.layers)
        assert sum(sizes) == count(fraction, n) * len(scope.layers)


@given(scopes())
def test_flat_indices_number_the_units_of_all_sites_in_turn(scope: Scope) -> None:
    every = [
        flat(scope, site, layer, unit)
        for site, n in enumerate(scope.units)
        for layer in range(scope.depth)
        for unit in range(n)
    ]
    assert every == list(range(scope.depth * sum(scope.units)))


@given(scopes(), st.integers(0, 9), fractions)
def test_an_order_over_all_is_held_as_its_flat_indices_say(
    scope: Scope, seed: int, fraction: Decimal
) -> None:
    plain, drawn = _with(scope, complement=False), random_orders(scope, seed)
    some = chosen(plain, fraction, over="all")
    found = as_set(units_held(plain, some, drawn))
    inside = in_scope(plain, drawn[None])
    assert {flat(plain, *unit) for unit in found} == set(inside[: some.counts[0]].tolist())


@given(scopes(), st.integers(0, 9))
def test_units_outside_the_scope_are_left_out_and_the_rest_keeps_its_order(
    scope: Scope, seed: int
) -> None:
    whole = order_over_all(scope.depth * sum(scope.units), seed=seed)
    inside = in_scope(scope, whole).tolist()
    kept = {flat(scope, *unit) for unit in of_layers(scope, scope.layers)}
    assert inside == [i for i in whole.tolist() if i in kept]


@given(scopes(), fractions, st.integers(0, 9), st.data())
def test_a_fraction_of_a_list_is_a_prefix_of_what_it_lists_in_the_scope(
    scope: Scope, fraction: Decimal, seed: int, data: st.DataObject
) -> None:
    plain = _with(scope, complement=False)
    whole = order_over_all(scope.depth * sum(scope.units), seed=seed)
    listed = whole[: data.draw(st.integers(1, len(whole)))]
    inside = in_scope(plain, listed)
    some = chosen(plain, fraction, over="all", listed=len(inside))
    found = as_set(units_held(plain, some, {None: listed}))
    assert some == Chosen(over="all", counts=(count(fraction, len(inside)),))
    assert {flat(plain, *unit) for unit in found} == set(inside[: some.counts[0]].tolist())


def test_two_sites_of_different_widths_by_hand() -> None:
    scope = Scope(layers=(1,), depth=2, units=(2, 3), widths=(4, 1))
    assert (scope.choosable, scope.total) == (5, 5)
    assert _with(scope, complement=True).total == 10
    assert [flat(scope, 0, 1), flat(scope, 1, 0), flat(scope, 1, 1, 2)] == [2, 4, 9]
    some = chosen(scope, Decimal("0.4"), over="all")
    assert (some.counts, some.units(scope)) == ((2,), 2)
    orders = {None: np.array([9, 0, 4, 3, 7, 8, 2, 1, 5, 6])}
    found = neurons_held(scope, some, orders)
    assert [[u.tolist() for u in per_layer] for per_layer in found] == [
        [[], [4, 5, 6, 7]], [[], [2]],
    ]  # fmt: skip
    each = chosen(scope, Decimal("0.5"), over="layer")
    assert (each.counts, each.units(scope), each.held(scope)) == ((1, 2), 3, 3)
