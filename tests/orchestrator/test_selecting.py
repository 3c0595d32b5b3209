"""Every rule leaves a table of orders that anyone can check against the rule.

Shapes: L layers, N neurons and U units of one hookpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from orchestrator.described import DescribedError
from orchestrator.listed import ListError, digest
from orchestrator.selecting import SelectingError, norms_of, norms_table, selection
from orchestrator.store import Store, arrow, parquet, rows
from orchestrator.tables import SCHEMAS
from orchestrator.tasks import Task
from workers.selection import order, order_over_all

LAYERS, D_HEAD = 3, 4
NEURONS = {"attn_pre_out": 8, "mlp_mid": 6}
Arrays = Mapping[str, NDArray[np.float64]]


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


def made(
    run: Store, into: str = "selections/a.parquet", **arguments: object
) -> list[dict[str, Any]]:
    """Do a selection and return the rows it wrote."""
    sites: Any = arguments.get("sites", ["attn_pre_out"])
    head = arguments.get("unit") == "head"
    widths = [D_HEAD if head else 1 for _ in sites]
    usual: dict[str, object] = {
        "model": "zoo:opt",
        "data_name": "pile",
        "sites": sites,
        "unit": "neuron",
        "label": "random",
        "rule": "random",
        "parameters": {},
        "seed": None,
        "basis": None,
        "layers": LAYERS,
        "units": [NEURONS[site] // width for site, width in zip(sites, widths, strict=True)],
        "widths": widths,
        "over": "layer",
    }
    task = Task(
        name="recipe",
        stage="prepare",
        kind="selection",
        label="order",
        file=into,
        model=None,
        arguments=usual | arguments,
    )
    done = selection(task, run)
    table = run.table(into)
    assert table.schema.remove_metadata().equals(SCHEMAS["selections"])
    assert run.recipe(into) == "recipe"
    assert done == {"orders": table.num_rows}
    return table.to_pylist()


def statistics(run: Store, name: str, site: str, columns: Arrays) -> list[str]:
    """Write statistics of a site, a file per layer, and return the files."""
    files, neurons = [], NEURONS[site]
    for layer in range(LAYERS):
        said = {
            "site": site,
            "stratum": "all",
            "layer": layer,
            "neuron": np.arange(neurons),
            **{c: list(values_LN[layer]) for c, values_LN in columns.items()},
        }
        file = f"statistics/{name}.{site}.{layer}.parquet"
        run.commit(file, parquet(rows("statistics", said, neurons)))
        files.append(file)
    return files


def drawn(seed: int, site: str = "attn_pre_out") -> NDArray[np.float64]:
    return np.random.default_rng(seed).exponential(size=(LAYERS, NEURONS[site]))


def by_score(by: str, first: str = "low", **more: object) -> dict[str, Any]:
    """Return the arguments of a score."""
    return {
        "rule": "score",
        "label": f"score({by}, {first})",
        "parameters": {"by": by, "first": first},
        "basis": "own",
    } | more


def orders(found: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    return [row["order"] for row in found]


def test_a_random_order_is_drawn_from_seed_and_layer(run: Store) -> None:
    found = made(run, seed=7)
    assert orders(found) == [order(8, seed=7, layer=i).tolist() for i in range(LAYERS)]
    first = found[0]
    assert (first["model"], first["data"], first["selection"]) == ("zoo:opt", "pile", "random")
    assert (first["site"], first["unit"], first["parameters"]) == ("attn_pre_out", "neuron", "{}")
    assert [row["layer"] for row in found] == [0, 1, 2]
    assert {row["seed"] for row in found} == {7}
    assert {(row["basis"], row["score"], row["score_low"]) for row in found} == {(None, None, None)}


def test_random_orders_of_attention_neurons_stay_what_they_were(run: Store) -> None:
    recorded = [[4, 2, 5, 0, 1, 3], [0, 1, 5, 4, 2, 3]]
    assert orders(made(run, seed=0, units=[6], layers=2)) == recorded


def test_two_sites_have_a_row_for_every_layer_of_each(run: Store) -> None:
    found = made(run, seed=1, sites=["mlp_mid", "attn_pre_out"])
    assert [(row["site"], row["layer"]) for row in found] == [
        (site, layer) for site in ("mlp_mid", "attn_pre_out") for layer in range(LAYERS)
    ]
    assert found[1]["order"] == order(6, seed=1, layer=1, site="mlp_mid").tolist()
    assert found[4]["order"] == order(8, seed=1, layer=1).tolist()


def test_heads_are_drawn_apart_from_neurons(run: Store) -> None:
    found = made(run, seed=1, unit="head")
    expected = [order(2, seed=1, layer=i, unit="head").tolist() for i in range(LAYERS)]
    assert orders(found) == expected


def test_a_global_random_order_holds_every_unit_of_all_sites_once(run: Store) -> None:
    (row,) = made(
        run, seed=3, sites=["attn_pre_out", "mlp_mid"], over="all", label="random(global)"
    )
    assert row["site"] == "attn_pre_out+mlp_mid"
    assert row["layer"] is None
    assert row["order"] == order_over_all(3 * 14, seed=3).tolist()
    assert sorted(row["order"]) == list(range(3 * 14))


@pytest.mark.parametrize("first", ["low", "high"])
def test_a_score_ranks_within_every_layer(first: str, run: Store) -> None:
    rms_LN = drawn(0)
    files = statistics(run, "a", "attn_pre_out", {"rms": rms_LN})
    found = made(run, **by_score("rms", first, statistics={"attn_pre_out": files}))
    sign = 1 if first == "low" else -1
    assert orders(found) == [np.argsort(sign * rms_N).tolist() for rms_N in rms_LN]
    for row, rms_N in zip(found, rms_LN, strict=True):
        assert row["score"] == rms_N[row["order"]].tolist()
        assert row["score_low"] is row["seed"] is None
        assert row["basis"] == "own"
        assert row["parameters"] == f'{{"by":"rms","first":"{first}"}}'


def test_a_score_over_all_ranks_layers_and_sites_together(run: Store) -> None:
    sites = ["mlp_mid", "attn_pre_out"]
    std = {site: drawn(i, site) for i, site in enumerate(sites)}
    files = {site: statistics(run, "a", site, {"std": std[site]}) for site in sites}
    (row,) = made(run, **by_score("std", "high", statistics=files, over="all", sites=sites))
    flat_U = np.concatenate([std[site].ravel() for site in sites])
    assert (row["site"], row["layer"]) == ("mlp_mid+attn_pre_out", None)
    assert row["order"] == np.argsort(-flat_U).tolist()
    assert row["score"] == np.sort(flat_U)[::-1].tolist()


def test_neurons_that_were_never_seen_come_last(run: Store) -> None:
    rms_LN = drawn(0)
    rms_LN[1, [0, 5]] = np.nan
    files = {"attn_pre_out": statistics(run, "a", "attn_pre_out", {"rms": rms_LN})}
    for first in ("low", "high"):
        found = made(run, f"selections/{first}.parquet", **by_score("rms", first, statistics=files))
        assert found[1]["order"][-2:] == [0, 5]
        assert np.isnan(found[1]["score"][-2:]).all()


def test_a_layer_without_any_score_is_refused(run: Store) -> None:
    rms_LN = drawn(0)
    rms_LN[2] = np.nan
    files = {"attn_pre_out": statistics(run, "a", "attn_pre_out", {"rms": rms_LN})}
    with pytest.raises(SelectingError, match=r"no neuron of layer 2 of attn_pre_out .*rms, low"):
        made(run, **by_score("rms", statistics=files))


def test_heads_are_ranked_by_the_mean_of_their_neurons(run: Store) -> None:
    rms_LN = drawn(0)
    files = {"attn_pre_out": statistics(run, "a", "attn_pre_out", {"rms": rms_LN})}
    found = made(run, **by_score("rms", "high", statistics=files, unit="head"))
    mean_LH = rms_LN.reshape(LAYERS, 2, D_HEAD).mean(axis=2)
    assert orders(found) == [np.argsort(-mean_H).tolist() for mean_H in mean_LH]
    np.testing.assert_allclose(found[0]["score"], np.sort(mean_LH[0])[::-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Norms:
    l1: NDArray[np.float64]
    l2: NDArray[np.float64]


def test_norms_come_back_as_they_were_written() -> None:
    norms = Norms(l1=drawn(1), l2=drawn(2))
    table = norms_table(norms)
    assert table.column("layer").to_pylist() == [i for i in range(LAYERS) for _ in range(8)]
    assert table.column("neuron").to_pylist() == [*range(8)] * LAYERS
    found = norms_of(table, LAYERS)
    np.testing.assert_array_equal(found["l1"], norms.l1)
    np.testing.assert_array_equal(found["l2"], norms.l2)


def test_scores_of_weights_use_the_norms_of_their_site(run: Store) -> None:
    rms_LN, std_LN, norms = drawn(0), drawn(1), Norms(l1=drawn(2), l2=drawn(3))
    files = statistics(run, "a", "attn_pre_out", {"rms": rms_LN, "std": std_LN})
    run.commit("partials/norms.arrow", arrow(norms_table(norms)))
    given = {
        "statistics": {"attn_pre_out": files},
        "weights": {"attn_pre_out": "partials/norms.arrow"},
    }
    wanda = made(run, "selections/w.parquet", **by_score("wanda", **given))
    assert orders(wanda) == np.argsort(rms_LN * norms.l1).tolist()
    flap = made(run, "selections/f.parquet", **by_score("fluctuation", **given))
    assert orders(flap) == np.argsort(std_LN**2 * norms.l2**2).tolist()


def test_two_data_sets_are_compared_the_way_round_they_are_named(run: Store) -> None:
    of_LN, against_LN = drawn(0), drawn(1) + 0.5
    files = {
        which: {"attn_pre_out": statistics(run, which, "attn_pre_out", {"abs_mean": values_LN})}
        for which, values_LN in (("statistics", of_LN), ("against", against_LN))
    }
    parameters = {"by": "abs_mean", "first": "high", "against": "code"}
    found = made(run, **by_score("abs_mean", "high") | files | {"parameters": parameters})
    median_L1 = np.median(against_LN, axis=1, keepdims=True)
    ratio_LN = of_LN / (against_LN + 0.01 * median_L1)
    assert orders(found) == np.argsort(-ratio_LN).tolist()


def test_statistics_of_too_few_layers_are_refused(run: Store) -> None:
    files = statistics(run, "a", "attn_pre_out", {"rms": drawn(0)})
    with pytest.raises(DescribedError, match="layer 2, neuron 0 is there 0 times"):
        made(run, **by_score("rms", statistics={"attn_pre_out": files[:2]}))


def test_a_list_is_held_in_its_order_wherever_it_lies(run: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "units.npy", np.array([[2, 1], [0, 7]]))
    explicit = {
        "rule": "explicit",
        "label": "explicit(units.npy)",
        "over": "all",
        "digest": digest(tmp_path / "units.npy"),
    }
    (row,) = made(run, **explicit, file="units.npy", base=str(tmp_path))
    assert row["order"] == [17, 7]
    assert row["layer"] is row["score"] is row["seed"] is None
    with pytest.raises(ListError, match=r"layer 0, head 7 .*heads 0 … 1"):
        made(
            run,
            "selections/b.parquet",
            **explicit,
            file="units.npy",
            base=str(tmp_path),
            unit="head",
        )
    np.save(tmp_path / "units.npy", np.array([[2, 1], [0, 6]]))
    with pytest.raises(SelectingError, match="has changed since the sweep was planned"):
        made(run, "selections/c.parquet", **explicit, file="units.npy", base=str(tmp_path))


def test_effects_rank_units_with_their_intervals(run: Store) -> None:
    effect = np.random.default_rng(0).normal(size=6)
    units = [5, 0, 1, 2, 4]  # the head 3 was never held, as its layer is none of the sweep's
    table = pa.table(
        {
            "unit": units,
            "effect": effect[units],
            "low": effect[units] - 1,
            "high": effect[units] + 2,
        }
    )
    run.commit("partials/effects.arrow", arrow(table))
    regression: dict[str, Any] = {"rule": "regression", "over": "all", "basis": "own"}
    regression |= {"unit": "head", "parameters": {"first": "high"}, "label": "regression"}
    (row,) = made(run, **regression, effects="partials/effects.arrow")
    expected = sorted(units, key=lambda u: -effect[u])
    assert row["order"] == [*expected, 3]
    np.testing.assert_array_equal(row["score"], [*effect[expected], np.nan])
    np.testing.assert_array_equal(row["score_low"], [*(effect[expected] - 1), np.nan])
    np.testing.assert_array_equal(row["score_high"], [*(effect[expected] + 2), np.nan])


def again(run: Store, held: object, over: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rank by one statistic, then again by another with the first units held; return both."""
    scored = [
        by_score(
            "rms",
            statistics={
                "attn_pre_out": statistics(run, name, "attn_pre_out", {"rms": drawn(seed)})
            },
            over=over,
        )
        for name, seed in (("once", 0), ("again", 1))
    ]
    before = made(run, "selections/once.parquet", **scored[0])
    after = made(
        run, "selections/again.parquet", **scored[1], first="selections/once.parquet", held=held
    )
    return before, after


def test_units_that_are_held_already_stay_in_front_of_every_layer(run: Store) -> None:
    before, after = again(run, [3, 0, 8], "layer")
    rms_LN = drawn(1)
    for layer, k in enumerate((3, 0, 8)):
        old, new = before[layer], after[layer]
        assert new["order"][:k] == old["order"][:k]
        assert new["score"][:k] == old["score"][:k]
        rest = [u for u in np.argsort(rms_LN[layer]).tolist() if u not in old["order"][:k]]
        assert new["order"][k:] == rest
        assert new["score"][k:] == rms_LN[layer][rest].tolist()


def test_units_that_are_held_already_stay_in_front_of_all(run: Store) -> None:
    (old,), (new,) = again(run, 5, "all")
    assert new["order"][:5] == old["order"][:5]
    assert sorted(new["order"]) == list(range(24))
    flat_U = drawn(1).ravel()
    assert (np.diff(flat_U[new["order"][5:]]) >= 0).all()


@pytest.mark.parametrize("held", [5, [1, 2]])
def test_counts_of_held_units_must_fit_the_orders(held: object, run: Store) -> None:
    with pytest.raises(SelectingError, match=r"counts of held units .*expected 3"):
        again(run, held, "layer")
