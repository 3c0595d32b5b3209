"""Reduce: from the partials of many shards to one.

Merging is a tree of tasks. Each reads a few partials, joins them and commits
one; integers are added and moments stay apart per shard, so any tree gives the
same bits, and an interrupted reduction goes on from the merges that are there.

A task works block by block: it reads some rows of one part after the other,
adds them up, and writes them before it reads the next. So it needs the memory
of a few blocks, whatever the size of the model. Only the moments of a block,
which stay apart, grow with the number of shards, by 48 bytes per row and shard.
"""

from collections.abc import Callable, Iterable

import pyarrow as pa

from orchestrator import partials
from orchestrator.store import Store, arrow
from orchestrator.tasks import Task
from workers.histogram import merge as merge_histograms
from workers.histogram import merge_fixed as merge_fixed_counts

Join = Callable[[Iterable[pa.RecordBatch], int], pa.Table]
"""Joins the same rows of all parts; told what no count of the whole is above."""


def merge(task: Task, store: Store) -> dict[str, object]:
    """Join the histograms of some shards.

    Raises MergeError if a shard comes twice or the windows differ, ValueError if the parts have
    not equally many rows.
    """

    def join(parts: Iterable[pa.RecordBatch], most: int) -> pa.Table:
        joined = merge_histograms(partials.lent_histogram(part) for part in parts)
        return partials.from_histogram(joined, most)

    return _merge(task, store, join)


def merge_fixed(task: Task, store: Store) -> dict[str, object]:
    """Join the fixed counts of some shards; raises as `merge` does."""

    def join(parts: Iterable[pa.RecordBatch], most: int) -> pa.Table:
        joined = merge_fixed_counts(partials.to_fixed(part) for part in parts)
        return partials.from_fixed(joined, most)

    return _merge(task, store, join)


def _merge(task: Task, store: Store, join: Join) -> dict[str, object]:
    files: list[str] = list(task.arguments["parts"])
    schemas = [store.schema(file) for file in files]  # a part that is missing is noticed here
    most = partials.most_of(schemas)
    found = [store.blocks(file) for file in files]
    if len(set(found)) > 1:
        raise ValueError(
            f"{', '.join(files)} have {found} blocks of rows: they were counted for other layers"
            " or strata. Delete those that are not of this plan to have them made again."
        )
    blocks = (join((store.block(f, i) for f in files), most) for i in range(found[0]))
    store.commit(task.file, arrow(blocks, task.name))
    return {"shards": sum(len(partials.shards_of(schema)) for schema in schemas)}
