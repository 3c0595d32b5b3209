"""Selecting: the order in which units are held, by any rule, as a table.

    random       drawn from the mask's seed (`workers.selection`)
    score        by a score of the statistics (`orchestrator.scores`), high or low first
    explicit     as a file lists them (`orchestrator.listed`)
    regression   by each unit's effect, estimated from many random masks, high or low first

A rule ranks within every layer of every site, a row each, or over all of them
together, one row whose units are flat indices: site after site in the order in which
the sweep names them, each layer-major. An explicit list is one row of the units that it
lists, which need not be all.

Ranking two sites together compares their scores as they are. Sizes of attention and MLP
neurons are in different units, so sums, norms and spreads mostly tell one site from the other;
shares, ratios and effects on the loss are comparable.

Where statistics are taken again at every fraction, the units that are held already stay in
front, with the scores they were chosen by, and only the rest is ranked anew: so larger
fractions still contain smaller ones. Scores of the units that are held already would be
of what they no longer say.

Scores stand in the table in the order of the units. Random orders have none.

Shapes: R rows of the table, L layers, N neurons and U units of one hookpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import listed
from orchestrator.described import columns
from orchestrator.names import canonical
from orchestrator.scores import by_head, needed, norms_needed, ranked, scored
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.selection import order, order_over_all

_SCORES = ("score", "score_low", "score_high")


class SelectingError(ValueError):
    """There is nothing to rank by, or what is held already is of other units."""


class HasNorms(Protocol):
    """Norms of the columns of a site's weights, as `workers.weights.Norms` has them."""

    @property
    def l1(self) -> NDArray[np.float64]:
        """(L, N)."""

    @property
    def l2(self) -> NDArray[np.float64]:
        """(L, N)."""


_Known = Mapping[str, NDArray[np.float64]]
"""Columns of scores that there are of some units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One order."""

    site: str
    layer: int | None
    order: NDArray[np.int64]
    scores: _Known
    """In the order of the units."""


def selection(task: Task, store: Store) -> dict[str, object]:
    """Write the order in which units are held, by the rule of the task's arguments.

    Raises ListError, ScoreError, DescribedError or SelectingError where there is none.
    """
    a = task.arguments
    found = _rows(a, store)
    if a.get("first") is not None:
        found = _kept(found, store.table(a["first"]), a["held"])
    written = {
        "model": a["model"],
        "data": a["data_name"],
        "site": [row.site for row in found],
        "unit": a["unit"],
        "selection": a["label"],
        "parameters": canonical(a["parameters"]),
        "seed": a["seed"],
        "basis": a["basis"],
        "cell": a.get("cell"),
        "layer": pa.array([row.layer for row in found], pa.int64()),
        "order": [row.order.astype(np.int32) for row in found],
        **{c: [row.scores[c] for row in found] for c in _SCORES if c in found[0].scores},
    }
    store.commit(task.file, parquet(rows("selections", written, len(found)), task.name))
    return {"orders": len(found)}


def norms_table(norms: HasNorms) -> pa.Table:
    """Return norms of a site's weights as a table: layer, neuron, l1, l2."""
    layers, neurons = norms.l1.shape
    return pa.table(
        {
            "layer": np.repeat(np.arange(layers), neurons),
            "neuron": np.tile(np.arange(neurons), layers),
            "l1": norms.l1.ravel(),
            "l2": norms.l2.ravel(),
        }
    )


def norms_of(table: pa.Table, layers: int) -> dict[str, NDArray[np.float64]]:
    """Return what `norms_table` wrote, `l1` and `l2`, (L, N) each."""
    return {c: table.column(c).to_numpy().reshape(layers, -1) for c in ("l1", "l2")}


def _explicit(a: Mapping[str, Any]) -> _Row:
    path = Path(a["base"]) / a["file"]
    if listed.digest(path) != a["digest"]:
        raise SelectingError(f"{path} has changed since the sweep was planned; run it again")
    order_K = listed.read(
        Path(a["base"]) / a["file"],
        sites=a["sites"],
        unit=a["unit"],
        layers=a["layers"],
        units=a["units"],
    )
    return _Row(site="+".join(a["sites"]), layer=None, order=order_K, scores={})


def _rows(a: Mapping[str, Any], store: Store) -> list[_Row]:
    """Return the orders of every layer of every site, or the one over all."""
    if a["rule"] == "explicit":
        return [_explicit(a)]
    if a["rule"] == "random":
        return list(_random(a))
    if a["rule"] == "score":
        known = [_scores(a, store, i) for i in range(len(a["sites"]))]
    else:
        known = _effects(a, store)
    return [_sorted(a, *place) for place in _ranked_together(a, known)]


def _sorted(a: Mapping[str, Any], site: str, layer: int | None, known: _Known) -> _Row:
    if np.isnan(known["score"]).all():
        where = site if layer is None else f"layer {layer} of {site}"
        raise SelectingError(
            f"no {a['unit']} of {where} has a score to rank by {a['label']}: none was seen, or all"
            " are constant. Choose another rule, or collect other data"
        )
    order_U = ranked(known["score"], a["parameters"].get("first", "low"))
    return _Row(site=site, layer=layer, order=order_U, scores={c: known[c][order_U] for c in known})


def _random(a: Mapping[str, Any]) -> Iterator[_Row]:
    seed = a["seed"]
    if a["over"] == "all":
        order_U = order_over_all(a["layers"] * sum(a["units"]), seed=seed)
        yield _Row(site="+".join(a["sites"]), layer=None, order=order_U, scores={})
        return
    for site, units in zip(a["sites"], a["units"], strict=True):
        for layer in range(a["layers"]):
            order_U = order(units, seed=seed, layer=layer, site=site, unit=a["unit"])
            yield _Row(site=site, layer=layer, order=order_U, scores={})


def _ranked_together(
    a: Mapping[str, Any], known: Sequence[_Known]
) -> Iterator[tuple[str, int | None, _Known]]:
    """Yield site, layer and scores, (U,) each, of the units that are ranked together."""
    if a["over"] == "all":
        together = {c: np.concatenate([of[c].ravel() for of in known]) for c in known[0]}
        yield "+".join(a["sites"]), None, together
        return
    for site, of in zip(a["sites"], known, strict=True):
        for layer in range(a["layers"]):
            yield site, layer, {c: of[c][layer] for c in of}


def _scores(a: Mapping[str, Any], store: Store, i: int) -> _Known:
    """Return the scores of the units of the i-th site, (L, U)."""
    site, layers, by = a["sites"][i], a["layers"], a["parameters"]["by"]
    norms = norms_of(store.table(a["weights"][site]), layers) if norms_needed(by) else {}
    of, against = (
        {**columns(store, a[which][site], needed(by), layers), **norms} if a.get(which) else None
        for which in ("statistics", "against")
    )
    assert of is not None
    score_LN = scored(by, of, against)
    return {"score": by_head(score_LN, a["widths"][i]) if a["unit"] == "head" else score_LN}


def _effects(a: Mapping[str, Any], store: Store) -> list[_Known]:
    """Return the effects of every site's units with their intervals, (L, U) each.

    Units without an effect, as those outside the sweep's layers are, have NaN and come last.
    """
    table = store.table(a["effects"])
    unit_K = table.column("unit").to_numpy()
    total = a["layers"] * sum(a["units"])
    whole: dict[str, NDArray[np.float64]] = {}
    for column, name in zip(_SCORES, ("effect", "low", "high"), strict=True):
        whole[column] = np.full(total, np.nan)
        whole[column][unit_K] = table.column(name).to_numpy()
    ends = np.cumsum([a["layers"] * n for n in a["units"]])
    per_site = zip(ends, a["units"], strict=True)
    return [
        {c: whole[c][end - a["layers"] * n : end].reshape(a["layers"], n) for c in whole}
        for end, n in per_site
    ]


def _kept(found: Sequence[_Row], first: pa.Table, held: int | Sequence[int]) -> list[_Row]:
    """Return the rows with the units that are held already in front, in the order they came in."""
    before, counts = first.to_pylist(), [held] if isinstance(held, int) else list(held)
    places = [(row["site"], row["layer"]) for row in before]
    if places != [(row.site, row.layer) for row in found] or len(counts) != len(found):
        raise SelectingError(
            f"found {len(counts)} counts of held units and orders of {places[:2]}…, expected"
            f" {len(found)} as they are ranked now: {[(r.site, r.layer) for r in found][:2]}…"
        )
    return [_in_front(*each) for each in zip(found, before, counts, strict=True)]


def _in_front(row: _Row, before: Mapping[str, Any], count: int) -> _Row:
    kept_K = np.asarray(before["order"][:count], np.int64)
    is_new_U = ~np.isin(row.order, kept_K)
    old = {c: np.asarray(before[c][:count], np.float64) for c in row.scores}
    return replace(
        row,
        order=np.concatenate([kept_K, row.order[is_new_U]]),
        scores={c: np.concatenate([old[c], row.scores[c][is_new_U]]) for c in row.scores},
    )
