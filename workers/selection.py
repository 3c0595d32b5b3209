"""Selection: which units are held, and in which order.

A unit is a neuron or a whole head. A rule leaves an order of units, and a
fraction holds a prefix of it, so a larger fraction contains a smaller one, and
every method holds the same units.

Rules rank within each layer, where a fraction f holds the same number in each, or
over all layers (and sites) at once, where some layers lose more than others. An
order over all is of flat indices: site after site, each layer-major.

A random order depends on the seed, the site, the unit and the layer and on nothing
else: layers differ, methods and fractions do not. The generator is counter-based
and only its uniform numbers are used, which are sorted: how a library happens to
shuffle is no part of the result.

With `complement`, what was chosen is left alone and all else is held, in all
layers, whichever the choice was made from.

Shapes: N units of one hookpoint, K of them held, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["neuron", "head"]
Units = NDArray[np.int64]

_PURPOSE = 1  # keeps this stream apart from others of the same seed (`workers.data` has 2)
_STREAMS = {
    ("attn_pre_out", "neuron"): 0,
    ("attn_pre_out", "head"): 1,
    ("mlp_mid", "neuron"): 2,
}
_OVER_ALL = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What units there are, and which of them could be chosen."""

    layers: tuple[int, ...]
    """Those that are chosen from, ascending."""
    depth: int
    """Layers of the model."""
    units: tuple[int, ...]
    """Units of one layer, per site."""
    widths: tuple[int, ...]
    """Neurons of one unit, per site."""
    complement: bool = False

    @property
    def choosable(self) -> int:
        """Units that could be chosen."""
        return len(self.layers) * sum(self.units)

    @property
    def total(self) -> int:
        """Units that could be held: those of all layers with `complement`."""
        return (self.depth if self.complement else len(self.layers)) * sum(self.units)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """How many units of an order are chosen."""

    over: Literal["layer", "all"]
    counts: tuple[int, ...]
    """Layer: of every layer, per site. All: one number for all of them."""

    def units(self, scope: Scope) -> int:
        """Return how many units that are in all."""
        return self.counts[0] if self.over == "all" else sum(self.counts) * len(scope.layers)

    def held(self, scope: Scope) -> int:
        """Return how many units are held."""
        chosen = self.units(scope)
        return scope.total - chosen if scope.complement else chosen


def order(
    n: int, *, seed: int, layer: int, site: str = "attn_pre_out", unit: Unit = "neuron"
) -> Units:
    """Return the unit held first, second, … of one layer, shape (N,), each of n units once."""
    return _drawn(n, [seed, layer], _STREAMS[site, unit])


def order_over_all(n: int, *, seed: int) -> Units:
    """Return the flat index held first, second, … of n units of all layers, shape (N,)."""
    return _drawn(n, [seed, 0], _OVER_ALL)


def _drawn(n: int, key: Sequence[int], stream: int) -> Units:
    counter = np.array([0, 0, stream, _PURPOSE], dtype=np.uint64)
    philox = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)
    uniform_N = np.random.Generator(philox).random(n)
    return np.argsort(uniform_N, kind="stable").astype(np.int64)


def count(fraction: Decimal, n: int) -> int:
    """Return how many of n units a fraction holds: floor(fraction x n + 1/2), exactly.

    Fractions are decimals because they are typed as decimals: 0.35 of 10 is 4
    here, and 3 in binary floating point. Raises ValueError outside 0 … 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"A fraction of {fraction} was asked for; it must lie between 0 and 1. Say the share of"
            " units to hold, for example 0.5."
        )
    return int((fraction * n + Decimal("0.5")).to_integral_value(rounding=ROUND_FLOOR))


def chosen(
    scope: Scope, fraction: Decimal, *, over: Literal["layer", "all"], listed: int | None = None
) -> Chosen:
    """Return how many units a fraction chooses of a scope, or of those `listed` in it."""
    if over == "all":
        whole = scope.choosable if listed is None else listed
        return Chosen(over=over, counts=(count(fraction, whole),))
    return Chosen(over=over, counts=tuple(count(fraction, n) for n in scope.units))


def held(order: Units, k: int) -> Units:
    """Return the first k units of an order, shape (K,), ascending."""
    return np.sort(order[:k])


def flat(scope: Scope, site: int, layer: int, unit: int = 0) -> int:
    """Return the flat index of a unit of the scope's `site`-th site."""
    return scope.depth * sum(scope.units[:site]) + layer * scope.units[site] + unit


def in_scope(scope: Scope, order: Units) -> Units:
    """Return an order over all layers without the units of layers outside the scope."""
    edges = np.cumsum([scope.depth * n for n in scope.units])
    site = np.searchsorted(edges, order, side="right")
    inside = order - (edges - scope.depth * np.array(scope.units))[site]
    layer = inside // np.array(scope.units)[site]
    return order[np.isin(layer, scope.layers)]


def neurons_held(
    scope: Scope, chosen: Chosen, orders: Mapping[tuple[int, int] | None, Units]
) -> list[list[Units]]:
    """Return the neurons held, ascending: per site, an array for each of the L layers.

    `orders` gives each (site, layer) its order of units, or None the order over all;
    it may be empty where all of the scope is chosen, or none of it.
    """
    return [
        [_neurons(units, width) for units in per_layer]
        for per_layer, width in zip(units_held(scope, chosen, orders), scope.widths, strict=True)
    ]


def units_held(
    scope: Scope, chosen: Chosen, orders: Mapping[tuple[int, int] | None, Units]
) -> list[list[Units]]:
    """Return the units held, ascending: per site, an array for each of the L layers."""
    found = _chosen(scope, chosen, orders)
    if not scope.complement:
        return found
    return [
        [np.setdiff1d(np.arange(n), units) for units in per_layer]
        for per_layer, n in zip(found, scope.units, strict=True)
    ]


def _chosen(
    scope: Scope, chosen: Chosen, orders: Mapping[tuple[int, int] | None, Units]
) -> list[list[Units]]:
    number, none = chosen.units(scope), np.empty(0, np.int64)
    if number == 0 or number == scope.choosable:
        return [
            [np.arange(n) if number and i in scope.layers else none for i in range(scope.depth)]
            for n in scope.units
        ]
    if chosen.over == "layer":
        return [
            [held(orders[site, i], k) if i in scope.layers else none for i in range(scope.depth)]
            for site, k in enumerate(chosen.counts)
        ]
    some = held(in_scope(scope, orders[None]), chosen.counts[0])
    return [
        [_span(some, flat(scope, site, i), n) for i in range(scope.depth)]
        for site, n in enumerate(scope.units)
    ]


def _span(flat_K: Units, start: int, n: int) -> Units:
    """Return the units among n from `start` on, counted from there."""
    low, high = np.searchsorted(flat_K, [start, start + n])
    return flat_K[low:high] - start


def _neurons(units_K: Units, width: int) -> Units:
    return (units_K[:, None] * width + np.arange(width)).reshape(-1)
