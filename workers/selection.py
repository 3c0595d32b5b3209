"""Selection: which neurons are held, and in which order.

A fraction f of a layer's n neurons holds a prefix of one random order, so a
larger fraction contains a smaller one, and every method holds the same
neurons. The order depends on the seed and the layer and on nothing else:
layers differ, methods and fractions do not.

The generator is counter-based and only its uniform numbers are used, which
are sorted: how a library happens to shuffle is no part of the result.

Shapes: N neurons of one hookpoint, K of them held.
"""

from decimal import ROUND_FLOOR, Decimal

import numpy as np
from numpy.typing import NDArray

_PURPOSE = 1  # keeps this stream apart from others of the same seed (`workers.data` has 2)


def order(n: int, *, seed: int, layer: int) -> NDArray[np.int64]:
    """Return the neuron held first, second, … of one layer, shape (N,), each of n neurons once."""
    key = np.array([seed, layer], dtype=np.uint64)
    counter = np.array([0, 0, 0, _PURPOSE], dtype=np.uint64)
    uniform_N = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(n)
    return np.argsort(uniform_N, kind="stable").astype(np.int64)


def count(fraction: Decimal, n: int) -> int:
    """Return how many of n neurons a fraction holds: floor(fraction x n + 1/2), exactly.

    Fractions are decimals because they are typed as decimals: 0.35 of 10 is 4
    here, and 3 in binary floating point. Raises ValueError outside 0 … 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"A fraction of {fraction} was asked for; it must lie between 0 and 1. Say the share of"
            " neurons to hold, for example 0.5."
        )
    return int((fraction * n + Decimal("0.5")).to_integral_value(rounding=ROUND_FLOOR))


def held(order: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the first k neurons of an order, shape (K,), ascending."""
    return np.sort(order[:k])
