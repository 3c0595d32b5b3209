"""Statistics: from merged counts to the public table, one row per neuron and stratum.

A task writes the rows of a few planes (a plane is the N neurons of one layer in
one stratum), so the work is shared and memory is that of a few planes. What an
estimate is, and what its interval covers, is said where it is made:
`workers.estimators`, `workers.jackknife`. Intervals are null where they were not
asked for and where they cannot be had, as with one shard of data.

Shapes: R rows = planes x N neurons, B bins.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.overlay import final
from orchestrator.store import Store, parquet, rows
from orchestrator.tables import stratum_names
from orchestrator.tasks import Task
from workers.estimators import fixed_scales, smooth
from workers.histogram import Histogram, quantile, summarise
from workers.jackknife import intervals

_INTERVALS = ("mean_low", "mean_high", "median_low", "median_high", "peak_low", "peak_high")


def statistics(task: Task, store: Store) -> dict[str, object]:
    """Write the statistics of some planes of one model."""
    a = task.arguments
    neurons, layers = a["neurons"], a["layers"]
    start, stop = a["start"] * neurons, a["stop"] * neurons
    histogram = final(store, a, start, stop)
    plane_R, neuron_R = np.divmod(np.arange(start, stop), neurons)
    stratum_R, layer_R = np.divmod(plane_R, layers)
    labels = np.array(stratum_names(a["by"], a["starts"]))
    columns = {
        "model": a["model"],
        "data": a["data_name"],
        "dtype": a["dtype"],
        "basis": a["basis"],
        "site": a["site"],
        "stratum": pa.array(labels[stratum_R]),
        "layer": layer_R,
        "head": neuron_R // a["d_head"],
        "neuron": neuron_R,
        "cell": a["cell"],
        **_described(histogram),
    }
    if a["shards"]:
        shards = ({"of": one, "widen": a["widen"], "again": two} for one, two in a["shards"])
        parts = (final(store, files, start, stop) for files in shards)
        found = intervals(histogram, parts, np.asarray(columns["bandwidth"]))
        columns |= {c: _known(getattr(found, c)) for c in _INTERVALS}
    store.commit(task.file, parquet(rows("statistics", columns, stop - start), task.name))
    return {"neurons": stop - start}


def _described(histogram: Histogram) -> dict[str, Any]:
    """Return the columns that are read off the merged counts."""
    moments, peaks, scales = summarise(histogram), smooth(histogram), fixed_scales(histogram)
    counts = pa.array(histogram.counts.reshape(-1))
    ends = np.arange(len(histogram.counts) + 1, dtype=np.int32) * histogram.windows.bins
    seen_R = moments.count > 0
    return {
        "count": moments.count,
        **{c: getattr(histogram, c) for c in ("zeros", "below", "above")},
        **{c: getattr(histogram, c) for c in ("nan", "pos_inf", "neg_inf")},
        **{c: getattr(moments, c) for c in ("mean", "std", "rms", "abs_mean", "positive")},
        **{c: getattr(moments, c) for c in ("skewness", "kurtosis")},
        "min": np.where(seen_R, histogram.minimum, np.nan),
        "max": np.where(seen_R, histogram.maximum, np.nan),
        "median": quantile(histogram, 0.5),
        "peak": peaks.value,
        **dict(zip(("peak_05", "peak_10", "peak_20"), scales.values, strict=True)),
        "peak_stable": scales.stable,
        "first_position": _known(moments.first),
        "bandwidth": peaks.bandwidth,
        "mode_values": list(peaks.mode_values),
        "mode_weights": list(peaks.mode_weights),
        "bin_width": histogram.windows.width,
        "bin_start": histogram.windows.start,
        "counts": pa.ListArray.from_arrays(ends, counts),
    }


def _known(value_R: NDArray[np.float64]) -> pa.Array:
    """Return a column that is null where there is no number."""
    return pa.array(value_R, from_pandas=True)
