"""Under ablation: what neurons do while others are held.

Statistics usually come from the bare model, though ablation changes what later
layers see. Two ways to ask again, each a whole collection of its own (pilot,
counts of every shard, second pass where a window was poor):

    under        the neurons of a held set are at given constants all the while
    in_sequence  layer by layer: a layer is counted while the held neurons of all
                 layers below it are at the constants that their own counts say

A held neuron's activation is what it would be: the constant takes effect behind
it, in the projection. `in_sequence` makes as many passes as there are layers.

Shapes: L layers, N neurons of a hookpoint, R = L x N rows (layer-major).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.ablation import folded
from workers.collect import collect, pilot
from workers.histogram import Histogram, merge, overlaid, stacked
from workers.loading import Model
from workers.messages import ALL, Batch, Counted, Site
from workers.widening import poor, wider
from workers.windows import LATTICES, Windows

Held = Sequence[NDArray[np.int64]]
"""Per layer, the neurons held, ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """What is fed, and how it is counted."""

    pilot: Sequence[Batch]
    """The sample that places the windows."""
    shards: Sequence[tuple[int, Sequence[Batch]]]
    """Every shard's number and batches."""
    site: Site = "attn_pre_out"
    bins: int = 256
    positions: int = 4096
    """Positions of the pilot."""
    seed: int = 0
    counted: Counted = ALL


def under(model: Model, passes: Passes, held: Held, values_LN: NDArray[np.float64]) -> Histogram:
    """Return the counts of all R neurons while `held` are at `values_LN`."""
    with folded(model, passes.site, held, values_LN):
        return _counted(model, passes, np.arange(values_LN.size))


def in_sequence(
    model: Model,
    passes: Passes,
    held: Held,
    centre: Callable[[Histogram], NDArray[np.float64]],
) -> Histogram:
    """Return the counts of all R neurons, each layer's with the held neurons below it held.

    `centre` says where a layer's N neurons are held, from their counts.
    """
    layers, neurons = model.facts.layers, model.facts.neurons_at(passes.site)
    values_LN = np.zeros((layers, neurons))
    found: list[Histogram] = []
    for layer in range(layers):
        below = [held_H if i < layer else held_H[:0] for i, held_H in enumerate(held)]
        with folded(model, passes.site, below, values_LN):
            rows = layer * neurons + np.arange(neurons)
            found.append(_counted(model, passes, rows))
        values_LN[layer] = centre(found[-1])
    return stacked(found)


def _counted(model: Model, passes: Passes, rows: NDArray[np.intp]) -> Histogram:
    """Count some rows of the model as it is now: pilot, every shard, poor windows once more."""
    placed = pilot(
        model,
        passes.pilot,
        site=passes.site,
        bins=passes.bins,
        positions=passes.positions,
        seed=passes.seed,
        counted=passes.counted,
    )
    first = _pass(model, passes, placed.taken(rows), rows)
    lattice = LATTICES[model.ref.dtype]
    lost = poor(first, lattice)
    if not lost.size:
        return first
    windows = wider(first, lost, lattice)
    return overlaid(first, lost, _pass(model, passes, windows, rows[lost]))


def _pass(model: Model, passes: Passes, windows: Windows, rows: NDArray[np.intp]) -> Histogram:
    return merge(
        collect(
            model,
            batches,
            site=passes.site,
            windows=windows,
            shard=shard,
            counted=passes.counted,
            rows=rows,
        )
        for shard, batches in passes.shards
    )
