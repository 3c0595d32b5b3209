"""Values: from a task's arguments and the run folder's tables to what a worker is told.

A plan says which units are held by which order and which file says at what; here
these become arrays: neurons per layer, constants, means and spreads, histograms.
What a cell really used is hashed, so that a table which changed since is noticed.

Shapes: L layers, N neurons of one hookpoint, Z buckets of positions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator import centres, plugins
from orchestrator.described import columns
from orchestrator.donors import donors_digest
from orchestrator.held import told
from orchestrator.names import canonical
from orchestrator.store import Store
from workers.messages import (
    ByPosition,
    CellOrder,
    Constant,
    Custom,
    Donated,
    Hold,
    Marginal,
    ModelFacts,
    NearestPeak,
    Noise,
    Site,
    Value,
)
from workers.selection import Chosen, Scope, Units, neurons_held

Arguments = Mapping[str, Any]
Known = dict[str, list[Value]]
_NEEDS = {
    "noise": ("mean", "std"),
    "marginal": ("counts", "bin_start", "bin_width", "zeros"),
    "nearest_peak": ("mode_values",),
}
"""Columns of the statistics tables that a kind of value is made of."""


def order(facts: ModelFacts, cell: str, a: Arguments, store: Store, known: Known) -> CellOrder:
    """Return what a worker is told of one cell; nothing held where the arguments say nothing.

    `known` keeps the values that cells share; it begins empty.
    """
    if not a:
        return CellOrder(cell=cell)
    holds = tuple(
        Hold(site=site, held=tuple(per_layer), value=value)
        for site, per_layer, value in zip(
            a["sites"],
            neurons(store, facts, a),
            _known(store, facts, a, known),
            strict=True,
        )
        if any(len(some) for some in per_layer)
    )
    return CellOrder(cell=cell, holds=holds, share=a["share"])


def _known(store: Store, facts: ModelFacts, a: Arguments, known: Known) -> list[Value]:
    key = canonical([a["sites"], a["value"]])
    if key not in known:
        known[key] = values(store, facts, a["sites"], a["value"])
    return known[key]


def neurons(store: Store, facts: ModelFacts, a: Arguments) -> list[list[Units]]:
    """Return the neurons held, ascending: per site an array for each layer."""
    scope, chosen = told(facts, a)
    return neurons_held(scope, chosen, _orders(store, scope, chosen, a))


def counts(store: Store, facts: ModelFacts, a: Arguments) -> list[int]:
    """Return how many neurons are held in every layer, site after site.

    Neurons, also where the units are heads: points of either unit may share the cell.
    """
    if not a:
        return []
    return [len(some) for per_layer in neurons(store, facts, a) for some in per_layer]


def _orders(
    store: Store, scope: Scope, chosen: Chosen, a: Arguments
) -> dict[tuple[int, int] | None, Units]:
    """Return the orders that are needed, by (site, layer), or the one over all."""
    if a["selection"] is None or chosen.units(scope) in (0, scope.choosable):
        return {}
    table = store.table(a["selection"], ["site", "layer", "order"]).to_pylist()
    sites = list(a["sites"])
    return {
        None if row["layer"] is None else (sites.index(row["site"]), row["layer"]): np.asarray(
            row["order"], np.int64
        )
        for row in table
    }


def values(store: Store, facts: ModelFacts, sites: Sequence[Site], value: Arguments) -> list[Value]:
    """Return what is put in, for every site."""
    kind, seed = value["kind"], int(value.get("seed") or 0)
    if kind == "donated":
        one = Donated(donors=value["donors"], drawn=value["drawn"], seed=seed)
        return [one for _ in sites]
    if kind == "constant":
        return [_constant(store, facts, site, value) for site in sites]
    if kind == "custom":
        plugins.restore(value["plugin"])
        needs = value["plugin"]["needs"]
    else:
        needs = _NEEDS[kind]
    found: list[Value] = []
    for site in sites:
        known = columns(store, value["statistics"][site], needs, facts.layers)
        if kind == "noise":
            found.append(Noise(mean=known["mean"], std=known["std"], seed=seed))
        elif kind == "marginal":
            found.append(
                Marginal(
                    counts=known["counts"],
                    start=known["bin_start"],
                    width=known["bin_width"],
                    zeros=known["zeros"],
                    seed=seed,
                )
            )
        elif kind == "nearest_peak":
            found.append(NearestPeak(modes=known["mode_values"]))
        else:
            filled = plugins.filled(value["plugin"], value["parameters"])
            name = value["plugin"]["name"]
            found.append(Custom(plugin=name, parameters=filled, statistics=known, seed=seed))
    return found


def _constant(store: Store, facts: ModelFacts, site: Site, value: Arguments) -> Value:
    starts = value["starts"]
    values_LN = constants(store, facts, site, value["centres"][site], len(starts or ()) or None)
    if starts:
        return ByPosition(values=values_LN, starts=tuple(starts))
    return Constant(values=values_LN)


def constants(
    store: Store, facts: ModelFacts, site: Site, file: str, strata: int | None = None
) -> NDArray[np.float64]:
    """Return the constants of a site from a table of centres, (L, N), or (Z, L, N)."""
    table = store.table(file, ["site", "value"])
    return centres.values(table.filter(pc.equal(table["site"], site)), facts.layers, strata)


def files(value: Arguments) -> list[str]:
    """Return the files that a value is read from."""
    if value["kind"] == "donated":
        return [value["donors"]]
    if value["kind"] == "constant":
        return list(value["centres"].values())
    return [file for some in value["statistics"].values() for file in some]


def digest(facts: ModelFacts, a: Arguments, store: Store, known: Known) -> str:
    """Return the SHA-256 of what a cell is really given; empty where nothing is held."""
    if not a:
        return ""
    if a["value"]["kind"] == "donated":
        return donors_digest(store.table(a["value"]["donors"]))
    hashed = hashlib.sha256()
    for one in _known(store, facts, a, known):
        for field in fields(one):
            part = getattr(one, field.name)
            for array in part.values() if isinstance(part, Mapping) else [part]:
                if isinstance(array, np.ndarray):
                    hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()
