"""Centres: the constant that every neuron is held at, one table per method.

zero            0, whatever was collected
mean            the mean of the finite activations; exact up to float64 rounding
peak            the mode of the kernel-smoothed histogram (`workers.estimators.smooth`)
peak(paper)     the centre of the fullest of 100 bins between the neuron's least and
                largest activation, as published (`workers.estimators.paper`)

A neuron without a single finite activation has no centre, and no method that
needs one can hold it: that is an error here, not a NaN in a result later.

Shapes: L layers, N neurons; rows are layer-major.
"""

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import partials
from orchestrator.names import canonical
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.estimators import paper, smooth
from workers.histogram import summarise


class NoCentreError(ValueError):
    """Neurons whose activations say nothing about where to hold them."""


def centres(task: Task, store: Store) -> dict[str, object]:
    """Write the centres of one method for every neuron of a model."""
    a = task.arguments
    layers = a["layers"]
    value_R = _values(task, store)
    neurons = value_R.size // layers
    lost = np.flatnonzero(~np.isfinite(value_R))
    if lost.size:
        layer, neuron = divmod(int(lost[0]), neurons)
        raise NoCentreError(
            f"{lost.size} of {value_R.size} neurons of {a['model']} have no finite activation to"
            f" take the {a['method']} of (first: layer {layer}, neuron {neuron}); look at `nan` and"
            " `pos_inf` in its statistics, and collect in a wider dtype"
        )
    columns = {
        "model": a["model"],
        "data": a["data_name"],
        "site": a["site"],
        "layer": np.repeat(np.arange(layers), neurons),
        "neuron": np.tile(np.arange(neurons), layers),
        "method": a["method"],
        "parameters": canonical(a["parameters"]),
        "value": value_R,
    }
    store.commit(task.file, parquet(rows("centres", columns, value_R.size), task.name))
    return {"neurons": value_R.size}


def _values(task: Task, store: Store) -> NDArray[np.float64]:
    a = task.arguments
    if a["method"] == "zero":
        layers, neurons = a["layers"], a["neurons"]
        return np.zeros(layers * neurons)
    table = store.table(a["of"])
    if a["method"] == "mean":
        return summarise(partials.to_histogram(table)).mean
    parameters = a["parameters"]
    if parameters["estimator"] == "paper":
        return paper(partials.to_fixed(table))
    return smooth(partials.to_histogram(table)).value


def values(table: pa.Table, layers: int) -> NDArray[np.float64]:
    """Return a centres table as an array, (L, N)."""
    return np.asarray(table.column("value").to_numpy().reshape(layers, -1))


def digest(table: pa.Table) -> str:
    """Return the SHA-256 of a centres table's values: what a cell records as really used."""
    return hashlib.sha256(np.ascontiguousarray(values(table, 1)).tobytes()).hexdigest()
