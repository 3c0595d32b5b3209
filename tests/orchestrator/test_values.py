"""From a cell's arguments and the run folder's tables to what a worker is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator import values
from orchestrator.donors import donors_digest
from orchestrator.store import Store, parquet, rows
from tests.orchestrator import planned
from workers.messages import (
    ByPosition,
    CellOrder,
    Constant,
    Custom,
    Donated,
    Marginal,
    NearestPeak,
    Noise,
    Site,
)

FACTS = planned.facts()  # 3 layers of 2 heads of 5 neurons; 20 neurons at mlp_mid
ATTENTION: Site = "attn_pre_out"
MLP: Site = "mlp_mid"
BOTH = [ATTENTION, MLP]
WIDTHS = {ATTENTION: 10, MLP: 20}

PLUGIN = planned.plugin("shifted", "replacing", by=1.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


def centre_LN(site: Site, add: float = 0.0) -> NDArray[np.float64]:
    return np.arange(3.0 * WIDTHS[site]).reshape(3, -1) / 8 + add


def write_centres(store: Store, file: str, *sites: Site, strata: int = 1, add: float = 0) -> str:
    """Write constants that differ everywhere, site after site."""
    said: dict[str, list[Any]] = {c: [] for c in ("site", "layer", "neuron", "value")}
    for site in sites:
        for z in range(strata):
            value_LN = centre_LN(site, add + 100 * z)
            said["site"] += [site] * value_LN.size
            said["layer"] += np.repeat(np.arange(3), WIDTHS[site]).tolist()
            said["neuron"] += np.tile(np.arange(WIDTHS[site]), 3).tolist()
            said["value"] += value_LN.ravel().tolist()
    store.commit(file, parquet(rows("centres", said, len(said["site"]))))
    return file


def write_orders(store: Store, orders: Mapping[tuple[Site, int], list[int]]) -> str:
    """Write orders within layers: the units first, then the rest from the highest down."""
    said: dict[str, list[Any]] = {c: [] for c in ("site", "layer", "order")}
    for (site, layer), first in orders.items():
        said["site"].append(site)
        said["layer"].append(layer)
        rest = [n for n in reversed(range(WIDTHS[site])) if n not in first]
        said["order"].append(np.array([*first, *rest], np.int32))
    file = "selections/orders.parquet"
    store.commit(file, parquet(rows("selections", said, len(orders))))
    return file


def write_order_over_all(store: Store, first: list[int], site: str = ATTENTION) -> str:
    file = "selections/over-all.parquet"
    said = {"site": [site], "layer": [None], "order": [np.array(first, np.int32)]}
    store.commit(file, parquet(rows("selections", said, 1)))
    return file


def write_statistics(store: Store, site: Site, name: str = "a", **columns: list[Any]) -> str:
    file = f"statistics/{name}.parquet"
    width = WIDTHS[site]
    said: dict[str, Any] = {
        "site": site,
        "stratum": "all",
        "layer": np.repeat(np.arange(3), width).tolist(),
        "neuron": np.tile(np.arange(width), 3).tolist(),
        **columns,
    }
    store.commit(file, parquet(rows("statistics", said, 3 * width)))
    return file


def told(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a cell that holds all of the attention's layers at constants."""
    return {
        "sites": [ATTENTION],
        "unit": "neuron",
        "layers": [0, 1, 2],
        "complement": False,
        "over": "layer",
        "chosen": [10],
        "selection": None,
        "value": {"kind": "constant", "centres": {ATTENTION: "centres/c.parquet"}, "starts": None},
        "share": 1.0,
        "method": "mean",
        **changes,
    }


def held(store: Store, **changes: Any) -> list[list[list[int]]]:
    found = values.neurons(store, FACTS, told(**changes))
    return [[held_K.tolist() for held_K in per_layer] for per_layer in found]


def test_the_unablated_model_is_told_nothing(store: Store) -> None:
    assert values.order(FACTS, "bare", {}, store, {}) == CellOrder(cell="bare")
    assert values.digest(FACTS, {}, store, {}) == ""
    assert values.counts(store, FACTS, {}) == []


def test_everything_needs_no_order(store: Store) -> None:
    assert held(store) == [[list(range(10))] * 3]
    assert held(store, layers=[1]) == [[[], list(range(10)), []]]
    assert held(store, layers=[1], complement=True) == [[list(range(10)), [], list(range(10))]]


def test_every_layer_takes_the_first_of_its_own_order(store: Store) -> None:
    orders = write_orders(store, {(ATTENTION, i): [i, 5] for i in range(3)})
    asked = {"selection": orders, "chosen": [3]}
    assert held(store, **asked) == [[[0, 5, 9], [1, 5, 9], [2, 5, 9]]]
    assert held(store, **asked, layers=[0, 2]) == [[[0, 5, 9], [], [2, 5, 9]]]
    rest = held(store, **asked, layers=[1], complement=True)
    assert rest == [[list(range(10)), [0, 2, 3, 4, 6, 7, 8], list(range(10))]]
    assert values.counts(store, FACTS, told(**asked, layers=[0, 2])) == [3, 0, 3]


def test_heads_hold_all_their_neurons(store: Store) -> None:
    orders = write_orders(store, {(ATTENTION, i): [i % 2] for i in range(3)})
    asked = {"selection": orders, "chosen": [1], "unit": "head"}
    first, second = list(range(5)), list(range(5, 10))
    assert held(store, **asked) == [[first, second, first]]
    assert values.counts(store, FACTS, told(**asked)) == [5, 5, 5]  # neurons


def test_an_order_over_all_takes_more_from_some_layers(store: Store) -> None:
    order = write_order_over_all(store, [29, 3, 21, 12, 2])
    asked = {"selection": order, "chosen": [3], "over": "all"}
    assert held(store, **asked) == [[[3], [], [1, 9]]]
    # Of some layers, what lies outside is passed over.
    assert held(store, **asked, layers=[0, 1]) == [[[2, 3], [2], []]]


def test_two_sites_are_held_by_orders_of_their_own(store: Store) -> None:
    orders = write_orders(store, {(site, i): [i] for site in (ATTENTION, MLP) for i in range(3)})
    found = held(store, sites=BOTH, selection=orders, chosen=[1, 2])
    assert found == [[[0], [1], [2]], [[0, 19], [1, 19], [2, 19]]]


def test_two_sites_in_one_order_lie_one_after_the_other(store: Store) -> None:
    order = write_order_over_all(store, [30, 0, 89], "attn_pre_out+mlp_mid")
    found = held(store, sites=BOTH, selection=order, chosen=[3], over="all")
    assert found == [[[0], [], []], [[0], [], [19]]]


def test_a_cell_holds_each_site_at_its_own_constants(store: Store) -> None:
    one = write_centres(store, "centres/one.parquet", ATTENTION)
    two = write_centres(store, "centres/two.parquet", MLP, add=0.5)
    value = {"kind": "constant", "centres": {ATTENTION: one, MLP: two}, "starts": None}
    asked = told(sites=BOTH, chosen=[10, 20], value=value, share=0.25)
    order = values.order(FACTS, "c", asked, store, {})
    assert (order.cell, order.share) == ("c", 0.25)
    for hold, site, add in zip(order.holds, BOTH, (0, 0.5), strict=True):
        assert hold.site == site
        assert isinstance(hold.value, Constant)
        assert np.array_equal(hold.value.values, centre_LN(site, add))
        assert [len(h) for h in hold.held] == [WIDTHS[site]] * 3


def test_a_table_of_two_sites_gives_each_its_own(store: Store) -> None:
    file = write_centres(store, "centres/learned.parquet", ATTENTION, MLP)
    value = {"kind": "constant", "centres": dict.fromkeys(BOTH, file), "starts": None}
    order = values.order(FACTS, "c", told(sites=BOTH, chosen=[10, 20], value=value), store, {})
    for hold, site in zip(order.holds, BOTH, strict=True):
        assert isinstance(hold.value, Constant)
        assert np.array_equal(hold.value.values, centre_LN(site))


def test_a_site_without_a_held_unit_is_left_out(store: Store) -> None:
    order = write_order_over_all(store, [31, 32], "attn_pre_out+mlp_mid")
    file = write_centres(store, "centres/learned.parquet", ATTENTION, MLP)
    value = {"kind": "constant", "centres": dict.fromkeys(BOTH, file), "starts": None}
    asked = told(sites=BOTH, chosen=[2], over="all", selection=order, value=value)
    (hold,) = values.order(FACTS, "c", asked, store, {}).holds
    assert hold.site == MLP
    assert [h.tolist() for h in hold.held] == [[1, 2], [], []]


def test_constants_by_position_come_bucket_by_bucket(store: Store) -> None:
    file = write_centres(store, "centres/c.parquet", ATTENTION, strata=2)
    value = {"kind": "constant", "centres": {ATTENTION: file}, "starts": [0, 16]}
    (hold,) = values.order(FACTS, "c", told(value=value), store, {}).holds
    assert isinstance(hold.value, ByPosition)
    assert hold.value.starts == (0, 16)
    expected = np.stack([centre_LN(ATTENTION), centre_LN(ATTENTION, 100)])
    assert np.array_equal(hold.value.values, expected)


def test_donors_are_named_and_drawn_by_their_seed(store: Store) -> None:
    value = {"kind": "donated", "donors": "donors/d.parquet", "drawn": "per_head", "seed": 3}
    asked = told(sites=BOTH, chosen=[10, 20], value=value)
    order = values.order(FACTS, "c", asked, store, {})
    expected = Donated(donors="donors/d.parquet", drawn="per_head", seed=3)
    assert [hold.value for hold in order.holds] == [expected, expected]


def statistics_of(store: Store, name: str, /, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a cell that is made of statistics, which are written."""
    numbers = np.arange(30.0)
    bins = {"bin_start": numbers, "bin_width": numbers + 1, "zeros": np.arange(30)}
    columns: dict[str, Any] = {
        "noise": {"mean": numbers, "std": numbers / 2},
        "shifted": {"mean": numbers},
        "marginal": {"counts": [np.array([n, 7, n]) for n in range(30)], **bins},
        "nearest_peak": {"mode_values": [np.arange(1.0 + n % 2) for n in range(30)]},
    }[name]
    file = write_statistics(store, ATTENTION, name, **columns)
    value = {"kind": name, "statistics": {ATTENTION: [file]}, "seed": 4, **changes}
    return told(value=value)


def test_noise_has_each_neurons_mean_and_spread(store: Store) -> None:
    (hold,) = values.order(FACTS, "c", statistics_of(store, "noise"), store, {}).holds
    assert isinstance(hold.value, Noise)
    assert hold.value.seed == 4
    assert np.array_equal(hold.value.mean, np.arange(30.0).reshape(3, 10))
    assert np.array_equal(hold.value.std, np.arange(30.0).reshape(3, 10) / 2)


def test_a_marginal_has_each_neurons_histogram(store: Store) -> None:
    (hold,) = values.order(FACTS, "c", statistics_of(store, "marginal"), store, {}).holds
    assert isinstance(hold.value, Marginal)
    assert hold.value.counts.shape == (3, 10, 3)
    assert hold.value.counts[1, 2].tolist() == [12, 7, 12]
    assert (hold.value.start[1, 2], hold.value.width[1, 2], hold.value.zeros[1, 2]) == (12, 13, 12)


def test_the_nearest_peak_is_among_each_neurons_modes(store: Store) -> None:
    asked = statistics_of(store, "nearest_peak", seed=None)
    (hold,) = values.order(FACTS, "c", asked, store, {}).holds
    assert isinstance(hold.value, NearestPeak)
    assert hold.value.modes.shape == (3, 10, 2)
    assert np.isnan(hold.value.modes[0, 0, 1])
    assert hold.value.modes[0, 1].tolist() == [0, 1]


def test_a_users_method_gets_what_it_asked_for_with_its_parameters_filled_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[Mapping[str, Any]] = []
    monkeypatch.setattr(values.plugins, "restore", restored.append)
    own = {"plugin": PLUGIN.told(), "parameters": {}, "kind": "custom"}
    (hold,) = values.order(FACTS, "c", statistics_of(store, "shifted", **own), store, {}).holds
    assert restored == [PLUGIN.told()]
    assert isinstance(hold.value, Custom)
    assert (hold.value.plugin, hold.value.parameters, hold.value.seed) == (
        "shifted",
        {"by": 1.0},
        4,
    )
    assert np.array_equal(hold.value.statistics["mean"], np.arange(30.0).reshape(3, 10))


def test_cells_of_a_call_share_what_they_are_held_at(store: Store) -> None:
    write_centres(store, "centres/c.parquet", ATTENTION)
    known: values.Known = {}
    one = values.order(FACTS, "one", told(), store, known)
    other = values.order(FACTS, "other", told(layers=[1]), store, known)
    assert one.holds[0].value is other.holds[0].value
    assert len(known) == 1


def test_a_digest_is_of_what_is_really_put_in(store: Store) -> None:
    def digest(add: float, name: str, **changes: Any) -> str:
        file = write_centres(store, f"centres/{name}.parquet", ATTENTION, add=add)
        value = {"kind": "constant", "centres": {ATTENTION: file}, "starts": None}
        return values.digest(FACTS, told(value=value, **changes), store, {})

    assert digest(0, "a") == digest(0, "b")  # wherever it stands
    assert digest(0, "a", layers=[1]) == digest(0, "a")  # which is held, the name says
    assert digest(0, "a") != digest(1e-12, "c")


def test_a_digest_of_donors_is_of_who_gives_to_whom(store: Store) -> None:
    table = rows("donors", {"sequence": [5], "donor": [1], "input": [None]}, 1)
    store.commit("donors/d.parquet", parquet(table))
    value = {"kind": "donated", "donors": "donors/d.parquet", "drawn": "joint", "seed": 0}
    assert values.digest(FACTS, told(value=value), store, {}) == donors_digest(table)


@pytest.mark.parametrize("kind", ["noise", "marginal", "nearest_peak"])
def test_a_digest_sees_every_number_that_is_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(name: str) -> str:
        store = Store.open(tmp_path / name)
        return values.digest(FACTS, statistics_of(store, kind), store, {})

    before = digest("one")
    assert digest("two") == before
    for i, column in enumerate(values._NEEDS[kind]):
        real = values.columns

        def changed(*given: Any, column: str = column, real: Any = real) -> Any:
            found = real(*given)
            found[column] = found[column].copy()
            found[column][2, 9, ...] = 77
            return found

        with monkeypatch.context() as patch:
            patch.setattr(values, "columns", changed)
            assert digest(f"changed {i}") != before, column


@pytest.mark.parametrize(
    ("value", "files"),
    [
        ({"kind": "donated", "donors": "d"}, ["d"]),
        ({"kind": "constant", "centres": {ATTENTION: "a", MLP: "b"}}, ["a", "b"]),
        ({"kind": "noise", "statistics": {ATTENTION: ["a", "b"], MLP: ["c"]}}, ["a", "b", "c"]),
    ],
)
def test_the_files_of_a_value_are_those_it_is_read_from(
    value: dict[str, Any], files: list[str]
) -> None:
    assert values.files(value) == files
