"""The explorer's data: which neurons a page carries, and that what it says of them is true."""

import base64
import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.query import query
from orchestrator.report import neurons
from orchestrator.report.activations import Activations
from orchestrator.report.carried import BINS, CUT, chosen, collections, histogram, shares
from orchestrator.report.html import Element, written
from orchestrator.report.neurons import BYTES, EACH, NEURONS, explorer, question
from orchestrator.report.read import read_run
from orchestrator.store import Store
from tests.orchestrator.synthetic_run import MODELS, write_run

LAYERS, WIDE = 2, 24
NAMED = """o'neill:"opt" $5"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neurons") / "run"
    models = [replace(MODELS[0], name=NAMED), MODELS[3]]
    write_run(folder, models=models, layers=LAYERS, neurons=WIDE, masks=2)
    for file in (folder / "statistics").rglob("*.parquet"):
        rows = pl.read_parquet(file)
        rows.with_columns(
            **{
                c: pl.col("peak") + i / 7e3 for i, c in enumerate(("peak_05", "peak_10", "peak_20"))
            },
            peak_low=pl.col("peak") - 1 / 300,
            peak_high=pl.col("peak") + 1 / 300,
            peak_stable=pl.col("neuron") % 3 > 0,
        ).write_parquet(file)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """A run of six neurons, whose statistics a test writes anew, and what these were."""
    folder = tmp_path_factory.mktemp("small") / "run"
    write_run(folder, models=MODELS[:1], layers=1, neurons=6, masks=2)
    (file,) = (folder / "statistics").rglob("*.parquet")
    return folder, pl.read_parquet(file)


def with_statistics(folder: Path, rows: pl.DataFrame) -> list[Any]:
    """Return the collections on the page of a run that has these statistics."""
    (file,) = (folder / "statistics").rglob("*.parquet")
    rows.write_parquet(file)
    opt = {"zoo:opt": Activations(folder, "zoo:opt", "attn_pre_out")}
    found: list[Any] = data_of(explorer(read_run(folder), opt))["collections"]
    return found


def collected(run: Path) -> dict[str, Activations]:
    return {name: Activations(run, name, "attn_pre_out") for name in (NAMED, "zoo:vit")}


def made(run: Path) -> list[Element]:
    return explorer(read_run(run), collected(run))


def data_of(elements: list[Element]) -> dict[str, Any]:
    (script,) = [e for e in elements if e.get("id") == "data-neurons"]
    found: dict[str, Any] = json.loads(script.text or "")
    return found


def test_a_run_without_statistics_has_no_explorer(tmp_path: Path) -> None:
    assert explorer(read_run(tmp_path), {}) == []
    opt = {"zoo:opt": Activations(tmp_path, "zoo:opt", "attn_pre_out")}
    assert explorer(read_run(tmp_path), opt) == []


def test_all_neurons_are_there_where_they_fit_and_the_page_says_so(run: Path) -> None:
    elements = made(run)
    found = data_of(elements)["collections"]
    assert [one["group"] for one in found] == [NAMED, "zoo:vit"]
    for one in found:
        columns = one["columns"]
        places = list(zip(columns["layer"], columns["neuron"], strict=True))
        assert places == [(layer, n) for layer in range(LAYERS) for n in range(WIDE)]
        assert {len(values) for values in columns.values()} == {one["whole"]}
    assert "96 neurons: all whose" in written(elements)


def test_what_the_page_carries_is_what_the_tables_say(run: Path) -> None:
    one = data_of(made(run))["collections"][0]
    rows = pl.concat(pl.read_parquet(f) for f in (run / "statistics").rglob("*.parquet"))
    centres = pl.concat(pl.read_parquet(f) for f in (run / "centres").rglob("*.parquet"))
    true = rows.filter(model=NAMED).sort("layer", "neuron")
    columns = one["columns"]
    std = true["std"].to_numpy()
    for name in ("mean", "peak", "peak_low", "peak_high", "peak_05", "peak_10", "peak_20"):
        assert np.all(np.abs(columns[name] - true[name].to_numpy()) <= 0.001 * std)
    apart = (true["mean"] - true["peak"]).abs() / true["std"]
    for name, values in {"apart": apart, "std": true["std"], "kurtosis": true["kurtosis"]}.items():
        assert columns[name] == pytest.approx(values.to_list(), rel=6e-4)
    assert columns["modes"] == true["mode_values"].list.len().to_list()
    assert columns["stable"] == true["peak_stable"].cast(pl.Int64).to_list()
    assert columns["head"] == true["head"].to_list()
    assert one["centres"]["zero"] == 0
    for method, name in (("mean", "mean"), ("peak", "peak (paper)")):
        marks = centres.filter(model=NAMED, method=method).sort("layer", "neuron")
        if name == "peak (paper)":
            marks = marks.filter(pl.col("parameters").str.contains("paper"))
        assert np.all(np.abs(one["centres"][name] - marks["value"].to_numpy()) <= 0.001 * std)


def test_marks_look_as_in_the_figures_and_the_peak_is_one_of_them(run: Path) -> None:
    found = data_of(made(run))
    assert found["marks"] == ["zero", "mean", "peak (smooth)", "peak (paper)"]
    assert "#D55E00" in json.dumps(found["chart"])


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert written(made(run)) == written(made(run))


def test_the_command_on_the_page_finds_the_neuron(run: Path) -> None:
    (first, *_), *_ = collections(Store.of(run), collected(run))
    said = "peaksweep() { printf '%s\\0' \"$@\"; }; " + question(first)
    shell = subprocess.run(["sh", "-c", said], capture_output=True, text=True, check=True)
    *options, sql = shell.stdout.rstrip("\0").split("\0")
    assert options == ["query", "RUN", "--format", "json"]
    answer = query(run, sql)
    assert answer.height == 1
    rows = pl.concat(pl.read_parquet(f) for f in (run / "statistics").rglob("*.parquet"))
    true = rows.filter(model=NAMED, layer=0, neuron=0)
    assert answer["counts"].to_list() == true["counts"].to_list()


def test_a_page_that_is_full_says_what_it_carries(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neurons, "NEURONS", 40)
    elements = made(run)
    assert "40 of 96 neurons." in written(elements)
    rows = pl.concat(pl.read_parquet(f) for f in (run / "statistics").rglob("*.parquet"))
    for one in data_of(elements)["collections"]:
        assert one["whole"] == LAYERS * WIDE
        for layer in range(LAYERS):
            here = [
                n
                for at, n in zip(one["columns"]["layer"], one["columns"]["neuron"], strict=True)
                if at == layer
            ]
            assert len(here) == 10
            own = rows.filter(model=one["group"], layer=layer)
            apart = own.with_columns(
                a=(pl.col("mean") - pl.col("peak")).abs() / pl.col("std")
            ).sort("a", descending=True)
            assert apart["neuron"][0] in here
            assert own.sort("kurtosis", descending=True)["neuron"][0] in here


def test_several_strata_and_axes_can_be_chosen_between(small: tuple[Path, pl.DataFrame]) -> None:
    folder, rows = small
    early, turned = pl.lit("position 0"), pl.lit("rotated 0")
    others = [rows.with_columns(basis=turned), rows.with_columns(stratum=early)]
    found = with_statistics(folder, pl.concat([*others, rows]))
    assert [one["part"] for one in found] == [
        "own axes · all positions",
        "own axes · position 0",
        "axes rotated 0 · all positions",
    ]
    assert found[0]["centres"] == found[1]["centres"]  # one constant is held at every position
    assert found[2]["centres"] == {}  # and none of the own axes' in others


def test_only_neurons_of_attention_have_heads(small: tuple[Path, pl.DataFrame]) -> None:
    folder, rows = small
    (attention,) = with_statistics(folder, rows)
    assert set(attention["columns"]["head"]) == {0, 1, 2, 3}
    (file,) = (folder / "statistics").rglob("*.parquet")
    rows.with_columns(site=pl.lit("mlp_mid")).write_parquet(file)
    mlp = {"zoo:opt": Activations(folder, "zoo:opt", "mlp_mid")}
    (found,) = data_of(explorer(read_run(folder), mlp))["collections"]
    assert set(found["columns"]["head"]) == {None}


@pytest.mark.parametrize("value", [-123.456789012345, 1.23456789e-9])
def test_no_neuron_takes_more_of_the_page_than_is_reckoned_with(
    small: tuple[Path, pl.DataFrame], value: float
) -> None:
    folder, rows = small
    rng, many = np.random.default_rng(0), 150
    scalars = {
        c: value * pl.Series(1 + 0.05 * rng.random(many))
        for c in ("mean", "peak", "peak_low", "peak_high", "peak_05", "peak_10", "peak_20")
    }
    long = pl.concat([rows.head(1)] * many).with_columns(
        **scalars,
        neuron=pl.Series(range(20_000, 20_000 + many)),
        layer=pl.lit(79, dtype=pl.Int64),
        head=pl.lit(63, dtype=pl.Int64),
        zeros=pl.lit(123, dtype=pl.Int64),
        std=pl.lit(abs(value) / 100),
        peak_stable=pl.lit(True),
        counts=pl.Series([rng.integers(1, 1000, 256).tolist() for _ in range(many)]),
    )
    found = with_statistics(folder, long)
    assert len(json.dumps(found, separators=(",", ":"))) <= EACH * many
    assert EACH * NEURONS < BYTES


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 300))
def test_room_is_shared_as_evenly_as_the_sizes_let(sizes: list[int], most: int) -> None:
    given = shares(sizes, most)
    assert sum(given) == min(most, sum(sizes))
    for size, got in zip(sizes, given, strict=True):
        assert 0 <= got <= size
        if got < size:
            assert got >= max(given) - 1


@settings(max_examples=40)
@given(st.integers(1, 39), st.integers(0, 5))
def test_a_layer_gives_its_extremes_and_an_even_sample(quota: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = pl.DataFrame(
        {
            "neuron": range(40),
            "second": rng.random(40),
            "modes": rng.integers(1, 4, 40),
            "apart": [None, *rng.random(39)],
            "kurtosis": [float("nan"), *rng.normal(0, 1, 39)],
        }
    )
    taken = chosen(layer, quota)
    assert len(set(taken)) == len(taken) == quota
    assert taken == sorted(taken)
    for key in ("apart", "kurtosis"):
        first = layer.with_columns(pl.col(key).fill_nan(None)).sort(
            key, descending=True, nulls_last=True
        )
        assert set(first["neuron"].head(quota // 6)) <= set(taken)
    gaps = np.diff([-1, *taken, 40])
    assert max(gaps) <= 2 * (40 // max(quota // 2, 1) + 1) + quota


def drawn(text: str) -> Mapping[str, Any]:
    exponent, first, joined, heights = text.split(" ")
    width = 2.0 ** int(exponent)
    tall = np.frombuffer(base64.b64decode(heights), dtype=np.uint8)
    edges = (int(first) + int(joined) * np.arange(tall.size + 1)) * width
    return {"edges": edges, "heights": tall / 255}


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 10_000), min_size=4, max_size=256).filter(any),
    st.integers(-30, 5),
    st.integers(-400, 400),
)
def test_a_drawn_histogram_is_the_stored_one_but_for_its_ends(
    counts: list[int], exponent: int, first: int
) -> None:
    width = 2.0**exponent
    found = drawn(histogram(first * width, width, counts))
    edges, heights = found["edges"], found["heights"]
    assert 1 <= heights.size <= BINS
    assert heights.max() == 1
    bins = np.arange(len(counts))
    starts = (first + bins) * width
    inside = (starts >= edges[0]) & (starts < edges[-1])
    assert np.array(counts)[~inside].sum() <= 2 * CUT * sum(counts)
    at = np.searchsorted(edges, starts[inside], side="right") - 1
    true = np.bincount(at, np.array(counts)[inside], minlength=heights.size)
    assert np.abs(heights - true / true.max()).max() <= 0.51 / 255


def test_a_neuron_without_values_has_no_histogram() -> None:
    assert histogram(0.0, 0.5, [0, 0, 0]) == ""
    assert histogram(0.0, float("nan"), [1, 2]) == ""
