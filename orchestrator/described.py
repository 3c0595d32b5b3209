"""Described: what the statistics tables say of a site's neurons, as arrays.

A site's statistics are several files of some layers each. Whoever computes with
them wants one array per column in a known order, and wants to be told when a
layer is not there rather than get another one's numbers. Only the columns that
are asked for are read: the counts of a large model are gigabytes, its means are
not.

Rows of other strata than `all` are left out. What was counted by position or
class alone has no such rows, and that is an error here.

Shapes: R rows, L layers, N neurons of one hookpoint, K modes of the neuron that
has most, B bins.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.store import Store

_PLACE = ("site", "stratum", "layer", "neuron")

Column: TypeAlias = NDArray[Any]
"""Of the column's own type: float64, int64 or bool."""


class DescribedError(ValueError):
    """The statistics are not those of every neuron of one site, each once."""


def columns(
    store: Store, files: Sequence[str], names: Sequence[str], layers: int
) -> dict[str, Column]:
    """Return columns of the statistics of one site, by name, (L, N) each.

    `mode_values` and `mode_weights` are (L, N, K), NaN after the last mode of a
    neuron, and `counts` is (L, N, B). Nulls of float columns are NaN. Raises
    DescribedError unless the files hold every neuron of one site and stratum
    `all` exactly once, and KeyError for a column that the table does not have.
    """
    if not files:
        raise DescribedError(
            f"found no statistics files, expected those of one site with {layers} layers; collect"
            " statistics of it first"
        )
    wanted = list(dict.fromkeys([*_PLACE, *names]))
    table = pa.concat_tables([_of_all(store, file, wanted) for file in files])
    order_R = _order(table, files, layers)
    found = {}
    for name in names:
        values_R = _values(table.column(name))[order_R]
        found[name] = values_R.reshape(layers, -1, *values_R.shape[1:])
    return found


def _of_all(store: Store, file: str, wanted: Sequence[str]) -> pa.Table:
    """Return the wanted columns of one file, of the rows of all positions and classes."""
    lacking = sorted(set(wanted) - set(store.schema(file).names))
    if lacking:
        raise KeyError(f"{file} has no columns {lacking}; is it a statistics table?")
    table = store.table(file, wanted)
    whole = table.filter(pc.equal(table.column("stratum"), "all"))
    if table.num_rows and not whole.num_rows:
        strata = pc.unique(table.column("stratum")).to_pylist()
        raise DescribedError(
            f"{file} has only strata {strata[:3]}{'…' if len(strata) > 3 else ''}, and rows of"
            " stratum 'all' were expected; collect without strata too"
        )
    return whole


def _order(table: pa.Table, files: Sequence[str], layers: int) -> NDArray[np.intp]:
    """Return in which order the rows are layer-major, (R,)."""
    where = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    sites = sorted(pc.unique(table.column("site")).to_pylist())
    if len(sites) != 1:
        raise DescribedError(f"{where} tell of sites {sites}, expected one; read them apart")
    layer_R, neuron_R = (table.column(c).to_numpy() for c in ("layer", "neuron"))
    beyond = np.flatnonzero((layer_R < 0) | (layer_R >= layers))
    if beyond.size:
        raise DescribedError(
            f"{where} tell of layer {layer_R[beyond[0]]} at {sites[0]}, and the model's layers are"
            f" 0 … {layers - 1}; these are statistics of another model"
        )
    neurons = int(neuron_R.max()) + 1
    times = np.bincount(layer_R * neurons + neuron_R, minlength=layers * neurons)
    wrong = np.flatnonzero(times != 1)
    if wrong.size:
        layer, neuron = divmod(int(wrong[0]), neurons)
        raise DescribedError(
            f"{where} hold {len(times) - wrong.size} of {layers} x {neurons} neurons of {sites[0]}"
            f" once; layer {layer}, neuron {neuron} is there {times[wrong[0]]} times. Each is"
            " expected once: name every file of the site, each once"
        )
    return np.lexsort((neuron_R, layer_R))


def _values(column: pa.ChunkedArray) -> Column:
    """Return a column, (R,); lists of floats as (R, K), NaN-padded; lists of integers as (R, B)."""
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy())
    length_R = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    longest = int(length_R.max(initial=0))
    parts = [np.asarray(chunk.flatten().to_numpy(zero_copy_only=False)) for chunk in column.chunks]
    flat = np.concatenate(parts)
    if pa.types.is_integer(column.type.value_type):
        return flat.reshape(len(length_R), longest)  # every neuron has the same bins
    padded_RK = np.full((len(length_R), longest), np.nan)
    padded_RK[np.arange(longest) < length_R[:, None]] = flat
    return padded_RK
