"""Centres: the constant that every neuron is held at, one table per method.

zero                0, whatever was collected
mean                the mean of the finite activations; exact up to float64 rounding
peak                the mode of the kernel-smoothed histogram (`workers.estimators.smooth`)
peak(half_sample)   the shortest half of the shortest half … (`workers.estimators.half_sample`)
peak(paper)         the centre of the fullest of 100 bins between the neuron's least and
                    largest activation, as published (`workers.estimators.paper`)
peak(paper_global)  the same between the least and largest activation of any neuron of
                    the model, a control: as published by mistake

Mean and peak may also be of every bucket of positions, one stratum each.

A neuron without a single finite activation has no centre, and no method that
needs one can hold it: that is an error here, not a NaN in a result later.

Shapes: Z strata, L layers, N neurons; R = Z x L x N rows, stratum-major, then layer-major.
"""

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import partials
from orchestrator.names import canonical
from orchestrator.overlay import final
from orchestrator.store import Store, parquet, rows
from orchestrator.tables import stratum_names
from orchestrator.tasks import Task
from workers.estimators import half_sample, paper, smooth
from workers.histogram import Histogram, summarise


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
        layers, neurons = a["layers"], a["neurons"]
        return np.zeros(layers * neurons)
    estimator = a["parameters"].get("estimator", "")
    if estimator.startswith("paper"):
        return paper(partials.to_fixed(store.table(a["of"])))
    return centre(final(store, a), a["method"], estimator)


def centre(histogram: Histogram, method: str, estimator: str) -> NDArray[np.float64]:
    """Return the constant of every row of some counts, (R,)."""
    if method == "mean":
        return summarise(histogram).mean
    return half_sample(histogram) if estimator == "half_sample" else smooth(histogram).value


def values(table: pa.Table, layers: int, strata: int | None = None) -> NDArray[np.float64]:
    """Return a centres table as an array, (L, N), or (Z, L, N) for Z strata."""
    value_R = table.column("value").to_numpy()
    shape = (layers, -1) if strata is None else (strata, layers, -1)
    return np.asarray(value_R.reshape(shape))


def digest(table: pa.Table) -> str:
    """Return the SHA-256 of a centres table's values: what a cell records as really used."""
    return hashlib.sha256(np.ascontiguousarray(values(table, 1)).tobytes()).hexdigest()
