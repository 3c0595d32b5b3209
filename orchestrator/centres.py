"""Centres: the constant that every neuron is held at, one table per method.

zero                0, whatever was collected
mean                the mean of the finite activations; exact up to float64 rounding
median, quantile    the value that a share q of the finite activations does not exceed; good to
                    one bin (`workers.summaries.quantile`)
peak                the mode of the kernel-smoothed histogram (`workers.estimators.smooth`)
peak(half_sample)   the shortest half of the shortest half … (`workers.estimators.half_sample`)
peak(paper), …      as published, from counts of their own: controls (`workers.published`)
any other name      what a user's own method makes of the statistics (`orchestrator.plugins`)

All but zero, the published peaks and users' methods may also be of every bucket of
positions, one stratum each.

A neuron without a single finite activation has no centre, and no method that
needs one can hold it: that is an error here, not a NaN in a result later.

Shapes: Z strata, L layers, N neurons; R = Z x L x N rows, stratum-major, then layer-major.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import partials
from orchestrator.described import columns as described
from orchestrator.names import canonical
from orchestrator.overlay import final
from orchestrator.plugins import filled, restore
from orchestrator.store import Store, parquet, rows
from orchestrator.tables import stratum_names
from orchestrator.tasks import Task
from workers.estimators import half_sample, smooth
from workers.histogram import Histogram, quantile, summarise
from workers.plugins import PluginError, find
from workers.published import PUBLISHED


class NoCentreError(ValueError):
    """Neurons whose activations say nothing about where to hold them."""


def centres(task: Task, store: Store) -> dict[str, object]:
    """Write the centres of one method for every neuron of a model."""
    a = task.arguments
    layers = a["layers"]
    value_R = _values(task, store)
    neurons = a["neurons"]
    known_R = np.isfinite(value_R)
    # A bucket without a single value, as at the end of long windows, matters only if it is reached.
    reached_R = np.repeat(known_R.reshape(-1, layers * neurons).any(axis=1), layers * neurons)
    alone = value_R.size == layers * neurons
    lost = np.flatnonzero(~known_R & (reached_R | alone))
    if lost.size:
        plane, neuron = divmod(int(lost[0]), neurons)
        layer = plane % layers
        raise NoCentreError(
            f"{lost.size} of {value_R.size} neurons of {a['model']} have no finite activation to"
            f" take the {a['method']} of (first: layer {layer}, neuron {neuron}); look at `nan` and"
            " `pos_inf` in its statistics, and collect in a wider dtype"
        )
    strata = stratum_names(a.get("by", "all"), a.get("starts", (0,)))
    planes = value_R.size // neurons
    columns = {
        "model": a["model"],
        "data": a["data_name"],
        "basis": a["basis"],
        "site": a["site"],
        "stratum": np.repeat(strata, layers * neurons),
        "layer": np.repeat(np.arange(planes) % layers, neurons),
        "neuron": np.tile(np.arange(neurons), planes),
        "method": a["method"],
        "parameters": canonical(a["parameters"]),
        "cell": a["cell"],
        "value": value_R,
    }
    store.commit(task.file, parquet(rows("centres", columns, value_R.size), task.name))
    return {"neurons": value_R.size}


def _values(task: Task, store: Store) -> NDArray[np.float64]:
    a = task.arguments
    if a["method"] == "zero":
        return np.zeros(a["layers"] * a["neurons"])
    if a.get("plugin") is not None:
        return _of_plugin(a, store)
    published = PUBLISHED.get(a["parameters"].get("estimator"))
    if published is not None:
        return published.peak(partials.to_fixed(store.table(a["of"])))
    return centre(final(store, a), a["method"], a["parameters"])


def _of_plugin(a: Mapping[str, Any], store: Store) -> NDArray[np.float64]:
    restore(a["plugin"])
    method = find(a["method"])
    columns = described(store, a["statistics"], a["plugin"]["needs"], a["layers"])
    value_LN = np.asarray(method.centre(columns, filled(a["plugin"], a["parameters"])))
    shape = (a["layers"], a["neurons"])
    if value_LN.shape != shape or value_LN.dtype.kind not in "fiu":
        raise PluginError(
            f"`centre` of plug-in {a['method']!r} ({a['plugin']['origin']}) returned"
            f" {value_LN.dtype} of shape {value_LN.shape}; expected one number for every neuron,"
            f" {shape}: layers x neurons of {a['site']}"
        )
    return value_LN.astype(np.float64).reshape(-1)


def centre(histogram: Histogram, method: str, parameters: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the constant of every row of some counts, (R,); NaN where there is none.

    For the methods that are read off the final counts: mean, median, quantile (its parameter
    is `q`, from 0 to 1) and peak with one of our own estimators. Raises ValueError for others.
    """
    match method, parameters.get("estimator", "smooth"):
        case "mean", _:
            return summarise(histogram).mean
        case "median", _:
            return quantile(histogram, 0.5)
        case "quantile", _:
            return quantile(histogram, parameters["q"])
        case "peak", "smooth":
            return smooth(histogram).value
        case "peak", "half_sample":
            return half_sample(histogram)
    raise ValueError(
        f"{method} with {dict(parameters)} cannot be read off the final counts; expected mean,"
        " median, quantile, or peak with the estimator smooth or half_sample"
    )


def values(table: pa.Table, layers: int, strata: int | None = None) -> NDArray[np.float64]:
    """Return a centres table as an array, (L, N), or (Z, L, N) for Z strata."""
    value_R = table.column("value").to_numpy()
    shape = (layers, -1) if strata is None else (strata, layers, -1)
    return np.asarray(value_R.reshape(shape))


def digest(table: pa.Table) -> str:
    """Return the SHA-256 of a centres table's values: what a cell records as really used."""
    return hashlib.sha256(np.ascontiguousarray(values(table, 1)).tobytes()).hexdigest()
