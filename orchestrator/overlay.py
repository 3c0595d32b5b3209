"""Overlay: the counts that count.

Neurons with a poor window are counted twice: `widen` says which ones, from the
counts of all shards, and in which wider windows. What is read off counts,
everywhere, is the first pass with those rows replaced by what the second found.

Shapes: R rows (neurons of all strata and layers), W rows counted again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from orchestrator import partials
from orchestrator.store import Store
from orchestrator.tasks import Task
from workers.histogram import Histogram, overlaid
from workers.widening import poor, wider
from workers.windows import LATTICES


def widen(task: Task, store: Store) -> dict[str, object]:
    """Write which rows are to be counted again, and in which windows."""
    histogram = partials.to_histogram(store.table(task.arguments["of"]))
    lattice = LATTICES[task.arguments["dtype"]]
    row_W = poor(histogram, lattice)
    windows = partials.from_windows(wider(histogram, row_W, lattice), rows=row_W)
    partials.commit(store, task.file, windows, task.name)
    return {"neurons": row_W.size}


def final(
    store: Store, files: Mapping[str, Any], start: int = 0, stop: int | None = None
) -> Histogram:
    """Return the rows from `start` to `stop` of what was counted.

    `files` are those of `orchestrator.collection.Counts`: `of`, the first pass;
    `widen` and `again`, which rows were counted again and what was found (or None).
    """
    base = partials.rows(store, files["of"], start, stop)
    if files["again"] is None:
        return base
    row_W = partials.rows_of(store.table(files["widen"]))
    low, high = np.searchsorted(row_W, [start, start + base.windows.first.size])
    if low == high:
        return base
    found = partials.rows(store, files["again"], int(low), int(high))
    return overlaid(base, row_W[low:high] - start, found)
