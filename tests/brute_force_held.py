"""Which neurons a cell of a finished run holds, and in which order, from public tables alone.

As `tests.brute_force` it uses no code of ours. What it knows is what the pages say:
a fraction f chooses the first floor(f n + 1/2) units of an order; an order over all
layers is of flat indices, site after site, each layer-major; with `complement` all units
of all layers are held but the chosen. Scores are their formulas, written again.

Shapes: N neurons of one layer at one site, L layers, E neurons of one head, D outputs of
a projection, K units that are held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tests.brute_force import Plain, Row, Tables

Units = NDArray[np.int64]
Columns = Mapping[str, NDArray[np.float64]]
"""Columns of the statistics of one site, (L, N) each."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many units a model has at the sites of a cell."""

    depth: int
    units: dict[str, int]
    """Of one layer, by site."""
    widths: dict[str, int]
    """Neurons of one unit, by site."""


def size(plain: Plain, cell: Row) -> Size:
    """Return how many units there are for a cell."""
    first = {site: plain.projections[site][0] for site in cell["site"].split("+")}
    heads = cell["unit"] == "head"
    units = {s: plain.heads if heads else p.in_features for s, p in first.items()}
    widths = {s: p.in_features // units[s] for s, p in first.items()}
    return Size(depth=len(plain.projections["values"]), units=units, widths=widths)


def count(fraction: float, n: int) -> int:
    """Return floor(f n + 1/2), of the decimal that was written."""
    return int(Fraction(str(fraction)) * n + Fraction(1, 2))


def scope(of: Size, cell: Row) -> list[int]:
    """Return the layers that are chosen from."""
    return (
        list(range(of.depth)) if cell["layers"] == "all" else [*map(int, cell["layers"].split(","))]
    )


def orders(tables: Tables, cell: Row) -> list[Row]:
    """Return the rows of `selections` that could be a cell's: several only if scored again."""
    wanted = ("unit", "selection", "seed")
    sites = {cell["site"], *cell["site"].split("+")}
    return [
        r
        for r in tables.rows("selections")
        if all(r[c] == cell[c] for c in wanted)
        and r["site"] in sites
        and r["basis"] in (None, cell["basis"])
    ]


def units_held(of: Size, cell: Row, rows: Sequence[Row]) -> dict[str, list[Units]]:
    """Return the units that a cell holds, ascending, by site and layer."""
    layers = scope(of, cell)
    chosen = {s: [np.empty(0, np.int64) for _ in range(of.depth)] for s in of.units}
    if rows[0]["layer"] is None:
        whole = [r["order"] for r in rows if r["site"] == cell["site"]]
        assert all(order == whole[0] for order in whole)
        places = [(s, i, u) for s, n in of.units.items() for i in range(of.depth) for u in range(n)]
        listed = [places[flat] for flat in whole[0] if places[flat][1] in layers]
        for site, layer, unit in listed[: count(cell["fraction"], len(listed))]:
            chosen[site][layer] = np.append(chosen[site][layer], unit)
    else:
        for row in rows:
            if row["layer"] in layers and row["site"] in of.units:
                first = row["order"][: count(cell["fraction"], of.units[row["site"]])]
                already = chosen[row["site"]][row["layer"]]
                assert not len(already) or list(already) == first  # the same, said twice
                chosen[row["site"]][row["layer"]] = np.array(first, np.int64)
    if cell["complement"]:
        return {
            s: [np.setdiff1d(np.arange(of.units[s]), units) for units in chosen[s]] for s in chosen
        }
    return {s: [np.sort(units) for units in chosen[s]] for s in chosen}


def neurons(of: Size, units: Mapping[str, Sequence[Units]]) -> dict[str, list[Units]]:
    """Return the neurons of units, ascending, by site and layer."""
    return {
        s: [np.array([u * w + i for u in layer for i in range(w)], np.int64) for layer in units[s]]
        for s, w in of.widths.items()
    }


def columns(
    tables: Tables, site: str, names: Sequence[str], *, cell: str | None = None, **where: str
) -> dict[str, NDArray[np.float64]]:
    """Return columns of the statistics of one site, (L, N) each; of `modes` their number."""
    table = tables.stratum("all", cell, site=site, **where)
    layers = table["layer"].n_unique()
    found = {}
    for name in names:
        of = table["mode_values"].list.len() if name == "modes" else table[name]
        found[name] = of.to_numpy().astype(np.float64).reshape(layers, -1)
    return found


def scored(by: str, x: Columns, plain: Plain, site: str) -> NDArray[np.float64]:
    """Return a score of one data set, (L, N), from its formula."""
    weights = [p.weight.detach().double().numpy() for p in plain.projections[site]]
    l1_LN = np.stack([np.abs(w_DN).sum(axis=0) for w_DN in weights])
    l2_LN = np.stack([np.square(w_DN).sum(axis=0) ** 0.5 for w_DN in weights])
    return {
        "mean": lambda: np.abs(x["mean"]),
        "std": lambda: x["std"],
        "rms": lambda: np.hypot(x["mean"], x["std"]),
        "abs_mean": lambda: x["abs_mean"],
        "positive": lambda: x["positive"],
        "mean_minus_peak": lambda: np.abs(x["mean"] - x["peak"]),
        "modes": lambda: x["modes"],
        "kurtosis": lambda: x["kurtosis"],
        "fluctuation": lambda: np.square(x["std"] * l2_LN),
        "wanda": lambda: l1_LN * np.hypot(x["mean"], x["std"]),
    }[by]()


def between(by: str, x: Columns, y: Columns, plain: Plain, site: str) -> NDArray[np.float64]:
    """Return a score of one data set against another, (L, N), from its formula."""
    if by == "difference":
        return np.abs(x["mean"] - y["mean"])
    if by == "standardised":
        return ratio(np.abs(x["mean"] - y["mean"]), y["std"])
    if by == "peak_centred":
        return ratio(*(np.sqrt(z["std"] ** 2 + (z["mean"] - y["peak"]) ** 2) for z in (x, y)))
    return ratio(*(scored(by, z, plain, site) for z in (x, y)))


def ratio(above_LN: NDArray[np.float64], below_LN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a ratio with 0.01 of the median positive denominator of its layer added below."""
    usual_L = [np.median(below_N[below_N > 0]) for below_N in below_LN]
    return above_LN / (below_LN + 0.01 * np.array(usual_L)[:, None])


def assert_ranked(order: Sequence[int], score_U: NDArray[np.float64], first: str) -> None:
    """Assert that an order is by a score, but where two differ by no more than rounding."""
    assert sorted(order) == list(range(len(score_U)))
    ranked = score_U[np.array(order)] * (1 if first == "low" else -1)
    assert np.all(np.diff(ranked) >= -1e-9 * np.abs(ranked[1:])), np.diff(ranked).min()
    equal = np.diff(ranked) == 0
    assert np.all(np.diff(np.array(order))[equal] > 0)  # of equal scores the lower index first
