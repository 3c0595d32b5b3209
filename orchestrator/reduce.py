"""Reduce: from the partials of many shards to one table per model.

Merging is a tree of tasks. Each reads a few partials, joins them and commits
one; integers are added and moments stay apart per shard, so any tree gives the
same bytes. At the root the merged histogram becomes the public statistics
table, one row per neuron.

Intervals and fixed-scale peaks are null here until they are estimated.

Shapes: R rows = L layers x N neurons, layer-major.
"""

import numpy as np
import pyarrow as pa

from orchestrator import partials
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.estimators import smooth
from workers.histogram import merge as merge_histograms
from workers.histogram import merge_fixed as merge_fixed_counts
from workers.histogram import quantile, summarise


def merge(task: Task, store: Store) -> dict[str, object]:
    """Join the histograms of some shards."""
    files = _files(task)
    merged = merge_histograms([partials.to_histogram(store.table(f)) for f in files])
    store.commit(task.file, parquet(partials.from_histogram(merged), task.name))
    return {"shards": len(merged.shards)}


def merge_fixed(task: Task, store: Store) -> dict[str, object]:
    """Join the fixed counts of some shards."""
    files = _files(task)
    merged = merge_fixed_counts([partials.to_fixed(store.table(f)) for f in files])
    store.commit(task.file, parquet(partials.from_fixed(merged), task.name))
    return {"shards": len(merged.shards)}


def _files(task: Task) -> list[str]:
    return list(task.arguments["parts"])


def statistics(task: Task, store: Store) -> dict[str, object]:
    """Write the statistics table of one model."""
    a = task.arguments
    histogram = partials.to_histogram(store.table(a["of"]))
    moments = summarise(histogram)
    peaks = smooth(histogram)
    total = histogram.windows.first.size
    layers, d_head = a["layers"], a["d_head"]
    neurons = total // layers
    neuron_R = np.tile(np.arange(neurons), layers)
    counts = pa.array(histogram.counts.reshape(-1))
    offsets = pa.array(np.arange(total + 1, dtype=np.int32) * histogram.windows.bins)
    seen_R = moments.count > 0
    columns = {
        "model": a["model"],
        "data": a["data_name"],
        "dtype": a["dtype"],
        "site": a["site"],
        "stratum": "all",
        "layer": np.repeat(np.arange(layers), neurons),
        "head": neuron_R // d_head,
        "neuron": neuron_R,
        "count": moments.count,
        **{c: getattr(histogram, c) for c in ("zeros", "below", "above")},
        **{c: getattr(histogram, c) for c in ("nan", "pos_inf", "neg_inf")},
        **{c: getattr(moments, c) for c in ("mean", "std", "rms", "abs_mean", "positive")},
        **{c: getattr(moments, c) for c in ("skewness", "kurtosis")},
        "min": np.where(seen_R, histogram.minimum, np.nan),
        "max": np.where(seen_R, histogram.maximum, np.nan),
        "median": quantile(histogram, 0.5),
        "peak": peaks.value,
        "bandwidth": peaks.bandwidth,
        "mode_values": list(peaks.mode_values),
        "mode_weights": list(peaks.mode_weights),
        "bin_width": histogram.windows.width,
        "bin_start": histogram.windows.start,
        "counts": pa.ListArray.from_arrays(offsets, counts),
    }
    store.commit(task.file, parquet(rows("statistics", columns, total), task.name))
    return {"neurons": total}
