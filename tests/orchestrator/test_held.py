"""Two ways of asking for the same units are one recipe, and different units are never one.

The recipe is compared with the units themselves, worked out by brute force.
"""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.draft import Made
from orchestrator.held import HeldSet, scope, told
from orchestrator.names import canonical
from tests.orchestrator import planned
from workers.messages import Site
from workers.selection import Unit, chosen, neurons_held, order, order_over_all

FACTS = planned.facts()
law = settings(max_examples=60, deadline=None)
SITES: list[tuple[Site, ...]] = [("attn_pre_out",), ("mlp_mid",), ("attn_pre_out", "mlp_mid")]

layers = st.sets(st.integers(0, 2), min_size=1).map(lambda s: tuple(sorted(s)))
fractions = st.integers(0, 20).map(lambda n: Decimal(n) / 20)


@st.composite
def held_sets(draw: st.DrawFn) -> HeldSet:
    sites = draw(st.sampled_from(SITES))
    unit: Unit = draw(st.sampled_from(["neuron", "head"])) if sites == SITES[0] else "neuron"
    units = scope(FACTS, sites, unit, draw(layers), draw(st.booleans()))
    over = draw(st.sampled_from(["layer", "all"]))
    seed = draw(st.integers(0, 2))
    some = chosen(units, draw(fractions), over="layer" if over == "layer" else "all")
    name = f"{'+'.join(sites)} {unit} {over} {seed}"
    return HeldSet(
        sites=sites, unit=unit, scope=units, chosen=some, order=Made(name=name, file=f"{name}.file")
    )


def neurons(some: HeldSet) -> dict[tuple[str, int], list[int]]:
    """Return the neurons that are held, by site and layer, without layers that have none."""
    seed = int(some.order.name[-1])
    orders = {
        (i, layer): order(n, seed=seed, layer=layer, site=site, unit=some.unit)
        for i, (site, n) in enumerate(zip(some.sites, some.scope.units, strict=True))
        for layer in range(some.scope.depth)
    }
    whole = {None: order_over_all(some.scope.depth * sum(some.scope.units), seed=seed)}
    found = neurons_held(some.scope, some.chosen, orders | whole)
    return {
        (site, layer): held_N.tolist()
        for site, per_layer in zip(some.sites, found, strict=True)
        for layer, held_N in enumerate(per_layer)
        if held_N.size
    }


@law
@given(held_sets(), held_sets())
def test_the_same_recipe_holds_the_same_neurons(one: HeldSet, other: HeldSet) -> None:
    if canonical(one.recipe) == canonical(other.recipe):
        assert neurons(one) == neurons(other)


@law
@given(held_sets(), held_sets())
def test_all_neurons_of_the_same_layers_have_one_recipe(one: HeldSet, other: HeldSet) -> None:
    if one.whole is not None and other.whole is not None and one.sites == other.sites:
        assert (neurons(one) == neurons(other)) == (
            canonical(one.recipe) == canonical(other.recipe)
        )


@law
@given(held_sets())
def test_whole_layers_are_those_all_of_whose_neurons_are_held(some: HeldSet) -> None:
    if some.whole is not None:
        assert neurons(some) == {
            (site, layer): list(range(FACTS.neurons_at(site)))
            for site in some.sites
            for layer in some.whole
        }


@law
@given(held_sets())
def test_as_many_units_are_held_as_are_said(some: HeldSet) -> None:
    width = some.scope.widths[0]
    assert sum(map(len, neurons(some).values())) == some.units * width


@law
@given(held_sets())
def test_a_task_is_told_which_they_are(some: HeldSet) -> None:
    arguments = some.arguments
    assert told(FACTS, arguments) == (some.scope, some.chosen)
    assert [made.file for made in some.after] == [
        file for file in [arguments["selection"]] if file is not None
    ]


def held(fraction: str, sites: int = 0, unit: Unit = "neuron", **changes: object) -> HeldSet:
    some: tuple[int, ...] = changes.get("layers", (0, 1, 2))  # type: ignore[assignment]
    units = scope(FACTS, SITES[sites], unit, some, bool(changes.get("complement")))
    number = chosen(units, Decimal(fraction), over="layer")
    return HeldSet(
        sites=SITES[sites],
        unit=unit,
        scope=units,
        chosen=number,
        order=Made(name=f"{unit} order", file="file"),
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (held("1"), held("1", unit="head")),
        (held("1"), held("0.96")),
        (held("1", layers=(1,)), held("1", layers=(0, 2), complement=True)),
        (held("1"), held("0", complement=True)),
        (held("1"), held("0", layers=(1,), complement=True)),
    ],
)
def test_the_same_units_asked_for_otherwise_are_the_same(one: HeldSet, other: HeldSet) -> None:
    assert one.recipe == other.recipe
    assert one.after == other.after == []


@pytest.mark.parametrize(
    "other",
    [
        held("0.4"),
        held("0.5", unit="head"),
        held("0.5", complement=True),  # as many, and none of them the same
        held("0.5", layers=(0, 1)),
        held("0.5", sites=1),
        held("1"),
    ],
)
def test_other_units_have_another_recipe(other: HeldSet) -> None:
    assert held("0.5").recipe != other.recipe


def test_heads_are_as_wide_as_they_are() -> None:
    assert (held("0.5", unit="head").scope.units, held("0.5", unit="head").scope.widths) == (
        (2,),
        (5,),
    )
    assert held("0.5", sites=2).scope.units == (10, 20)
    assert np.prod(held("0.5", sites=2).scope.widths) == 1
