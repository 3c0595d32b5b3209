"""Statistics come as they are, whatever files they lie in, or not at all."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.described import DescribedError, columns
from orchestrator.store import Store, parquet, rows

LAYERS, NEURONS = 3, 4
PLACES = [(layer, neuron) for layer in range(LAYERS) for neuron in range(NEURONS)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("statistics")


def mean(layer: int, neuron: int) -> float:
    return layer + neuron / 10


def write(
    run: Store,
    file: str,
    places: list[tuple[int, int]],
    *,
    site: str = "mlp_mid",
    stratum: str | list[str] = "all",
    more: Mapping[str, object] | None = None,
) -> str:
    """Write the statistics of some neurons, in this order."""
    said = {
        "site": site,
        "stratum": stratum,
        "layer": [layer for layer, _ in places],
        "neuron": [neuron for _, neuron in places],
        "mean": [mean(*place) for place in places],
        **(more or {}),
    }
    run.commit(file, parquet(rows("statistics", said, len(places))))
    return file


def expected() -> NDArray[np.float64]:
    return np.array([mean(*place) for place in PLACES]).reshape(LAYERS, NEURONS)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(PLACES), cuts=st.lists(st.integers(0, len(PLACES)), max_size=3))
def test_the_files_and_the_order_of_rows_do_not_matter(
    order: list[tuple[int, int]], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = Store.open(tmp_path_factory.mktemp("run"))
    edges = [0, *sorted(cuts), len(order)]
    files = [
        write(run, f"statistics/{i}.parquet", order[start:stop])
        for i, (start, stop) in enumerate(pairwise(edges))
    ]
    np.testing.assert_array_equal(columns(run, files, ["mean"], LAYERS)["mean"], expected())


def test_every_column_has_its_own_type(tmp_path: Path) -> None:
    run = Store.open(tmp_path)
    more = {
        "count": range(12),
        "peak_stable": [i % 2 == 0 for i in range(12)],
        "first_position": [None, *map(float, range(11))],
        "counts": [[i, i + 1] for i in range(12)],
    }
    file = write(run, "statistics/a.parquet", PLACES, more=more)
    found = columns(run, [file], list(more), LAYERS)
    assert list(found) == list(more)
    assert found["count"].dtype == np.int64
    np.testing.assert_array_equal(found["count"], np.arange(12).reshape(3, 4))
    assert found["peak_stable"].dtype == np.bool_
    assert found["peak_stable"][0].tolist() == [True, False, True, False]
    assert np.isnan(found["first_position"][0, 0])
    assert found["first_position"][2, 3] == 10
    assert found["counts"].dtype == np.int64
    assert found["counts"].shape == (3, 4, 2)
    assert found["counts"][1, 2].tolist() == [6, 7]


def test_modes_are_padded_after_the_last_one_of_a_neuron(tmp_path: Path) -> None:
    run = Store.open(tmp_path)
    shuffled = PLACES[::-1]
    values: list[list[float] | None] = [
        [0.5, float(i)] if i == 3 else [float(i)] for i in range(12)
    ]
    values[0] = None
    files = [
        write(run, "statistics/a.parquet", shuffled[:5], more={"mode_values": values[:5]}),
        write(run, "statistics/b.parquet", shuffled[5:], more={"mode_values": values[5:]}),
    ]
    found = columns(run, files, ["mode_values"], LAYERS)["mode_values"]
    assert found.shape == (3, 4, 2)
    np.testing.assert_array_equal(found[2, 0], [0.5, 3.0])  # the fourth of the shuffled rows
    np.testing.assert_array_equal(found[2, 3], [np.nan, np.nan])
    np.testing.assert_array_equal(found[0, 0], [11.0, np.nan])


def test_only_rows_of_all_positions_are_taken(tmp_path: Path) -> None:
    run = Store.open(tmp_path)
    strata = ["all"] * 12 + ["position 0"] * 12
    file = write(run, "statistics/a.parquet", PLACES * 2, stratum=strata)
    np.testing.assert_array_equal(columns(run, [file], ["mean"], LAYERS)["mean"], expected())


def test_statistics_by_stratum_alone_are_refused(tmp_path: Path) -> None:
    run = Store.open(tmp_path)
    file = write(run, "statistics/a.parquet", PLACES, stratum="class 3")
    with pytest.raises(DescribedError, match=r"only strata \['class 3'\].*'all'"):
        columns(run, [file], ["mean"], LAYERS)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (PLACES[:8], "8 of 3 x 4 neurons of mlp_mid once; layer 2, neuron 0 is there 0 times"),
        (PLACES[:5] + PLACES[6:], "layer 1, neuron 1 is there 0 times"),
        ([*PLACES, (1, 2)], "layer 1, neuron 2 is there 2 times"),
        ([*PLACES, (3, 0)], "layer 3 at mlp_mid, and the model's layers are 0 … 2"),
    ],
)
def test_neurons_that_are_missing_or_repeated_are_named(
    places: list[tuple[int, int]], message: str, tmp_path: Path
) -> None:
    run = Store.open(tmp_path)
    with pytest.raises(DescribedError, match=message):
        columns(run, [write(run, "statistics/a.parquet", places)], ["mean"], LAYERS)


def test_two_sites_are_not_mixed(tmp_path: Path) -> None:
    run = Store.open(tmp_path)
    files = [
        write(run, "statistics/a.parquet", PLACES[:8]),
        write(run, "statistics/b.parquet", PLACES[8:], site="attn_pre_out"),
    ]
    with pytest.raises(DescribedError, match=r"\['attn_pre_out', 'mlp_mid'\], expected one"):
        columns(run, files, ["mean"], LAYERS)


def test_no_files_and_no_such_column_are_said(tmp_path: Path) -> None:
    run = Store.open(tmp_path)
    with pytest.raises(DescribedError, match="no statistics files"):
        columns(run, [], ["mean"], LAYERS)
    file = write(run, "statistics/a.parquet", PLACES)
    with pytest.raises(KeyError, match="meen"):
        columns(run, [file], ["meen"], LAYERS)


def test_only_the_columns_asked_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Store.open(tmp_path)
    file = write(run, "statistics/a.parquet", PLACES, more={"counts": [[1, 2]] * 12})
    read: list[str] = []

    def table(self: Store, file: str, names: list[str]) -> pa.Table:
        read.extend(names)
        return whole(self, file, names)

    whole = Store.table
    monkeypatch.setattr(Store, "table", table)
    columns(run, [file], ["mean"], LAYERS)
    assert sorted(read) == ["layer", "mean", "neuron", "site", "stratum"]
