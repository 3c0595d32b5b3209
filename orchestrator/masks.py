"""Masks: which neurons a cell holds, and at what, as arrays for other tools.

Tools with hooks of their own (TransformerLens, nnsight, plain torch) need no more than two arrays a
site: where a neuron is held, and the value. They lie in one safetensors file, which every
framework reads, under the names `held.SITE` and `values.SITE`; its metadata has `format`, and under
`said` a JSON object that tells what they are (docs/export.md lists it).

Methods without constants (resampling, noise) have held sets alone. Constants by position
have a value for each bucket of positions; `starts` says where these begin.

Shapes: L layers, N neurons of a hookpoint, Z buckets of positions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from workers.messages import ByPosition, CellOrder, Constant, ModelFacts

FILE = "masks.safetensors"
FORMAT = "peaksweep masks 1"


def arrays(facts: ModelFacts, order: CellOrder) -> dict[str, NDArray[Any]]:
    """Return `held.SITE`, (L, N) booleans, and `values.SITE`, (L, N) or (Z, L, N) in float64."""
    found: dict[str, NDArray[Any]] = {}
    for hold in order.holds:
        held_LN = np.zeros((facts.layers, facts.neurons_at(hold.site)), np.bool_)
        for layer, held_H in enumerate(hold.held):
            held_LN[layer, held_H] = True
        found[f"held.{hold.site}"] = held_LN
        if isinstance(hold.value, Constant | ByPosition):
            found[f"values.{hold.site}"] = np.ascontiguousarray(hold.value.values, np.float64)
    return found


def write(
    folder: Path, facts: ModelFacts, order: CellOrder, said: Mapping[str, object]
) -> list[str]:
    """Write the arrays of a cell into a folder and return their names.

    `said` goes into the header, beside what is known of the model.
    """
    made = arrays(facts, order)
    starts = [list(h.value.starts) for h in order.holds if isinstance(h.value, ByPosition)]
    header = {
        **said,
        "share": order.share,
        "starts": starts[0] if starts else None,
        "family": facts.family,
        "layers": facts.layers,
        "heads": facts.heads,
        "d_head": facts.d_head,
    }
    told = {"format": FORMAT, "said": json.dumps(header, sort_keys=True)}
    save_file(made, folder / FILE, metadata=told)
    return sorted(made)
