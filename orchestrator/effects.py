"""Effects: what each unit does to the loss, from many random masks.

Every `probe` scored some masks, document by document; here the mean loss of each is
regressed on which blocks of units it held (`workers.regression`). A unit has the
effect of its block. Documents on which a mask left no finite loss are left out.

Shapes: K masks, G documents, U blocks of units.
"""

import numpy as np
import pyarrow as pa

from orchestrator import partials
from orchestrator.store import Store
from orchestrator.tasks import Task
from workers.regression import effects as regressed
from workers.regression import random_masks


def effects(task: Task, store: Store) -> dict[str, object]:
    """Write the effect of every unit, flat and layer-major, with the ends of its interval."""
    a = task.arguments
    table = pa.concat_tables(store.table(file) for file in a["parts"])
    documents, place_R = np.unique(
        np.array(table.column("document").to_pylist()), return_inverse=True
    )
    mask_R = table.column("mask").to_numpy()
    shape = (a["masks"] + 1, len(documents))  # the unablated model comes last
    loss_KG, tokens_KG = np.zeros(shape), np.zeros(shape, np.int64)
    loss_KG[mask_R, place_R] = table.column("loss_sum").to_numpy()
    tokens_KG[mask_R, place_R] = table.column("tokens_sum").to_numpy()
    whole_G = (tokens_KG == tokens_KG.max(axis=0)).all(axis=0) & (tokens_KG[0] > 0)
    layers = a["layers"]
    per_layer = a["units"] // layers
    blocks = -(-per_layer // a["block"])
    held_KU = random_masks(layers * blocks, a["masks"], a["share"], seed=a["seed"])
    loss_KG = loss_KG[:, whole_G]
    found = regressed(
        held_KU,
        loss_KG[:-1],
        tokens_KG[0, whole_G],
        ridge=a["ridge"],
        unablated_G=loss_KG[-1],
    )
    unit = np.arange(a["units"])
    block = unit // per_layer * blocks + unit % per_layer // a["block"]
    written = pa.table(
        {
            "unit": unit,
            "effect": found.effect[block],
            "low": found.low[block],
            "high": found.high[block],
        }
    )
    partials.commit(store, task.file, written, task.name)
    return {"units": a["units"], "documents": int(whole_G.sum()), "r2": found.r2}
