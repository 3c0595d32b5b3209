"""Opened: answers from a run folder in one line, the same numbers as its tables."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from orchestrator import results
from orchestrator.frames import NAMES
from orchestrator.groups import GROUP
from orchestrator.results import NotInRunError, Run
from orchestrator.store import Store, StoreError, parquet
from orchestrator.tables import SCHEMAS
from tests.orchestrator.synthetic_run import MODELS, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_run(
        tmp_path_factory.mktemp("opened") / "run",
        models=MODELS[:2],
        layers=2,
        neurons=32,
        masks=2,
        documents=8,
    )
    (made / "plan.parquet").write_bytes(parquet(SCHEMAS["plan"].empty_table()))
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return results.open(folder)


def test_every_table_is_a_property(run: Run) -> None:
    for name in NAMES:
        frame = getattr(run, name)
        assert isinstance(frame, pl.LazyFrame)
        assert frame.collect_schema() == run.tables[name].collect_schema()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no run \(no plan.parquet\)"):
        results.open(tmp_path)


def test_a_run_is_opened_by_its_path_as_text_or_by_its_store(folder: Path) -> None:
    for where in (str(folder), Store(folder)):
        assert results.open(where).store == Store(folder)


def test_curves_are_rows_of_the_table_by_the_names_of_a_sweep_file(run: Run) -> None:
    found = run.curve("peak(paper)", "mean", model="zoo:opt")
    assert found["label"].unique().sort().to_list() == ["mean", "peak(paper)"]
    assert found["model"].unique().to_list() == ["zoo:opt"]
    told = run.curves.filter(
        pl.col("model") == "zoo:opt",
        pl.col("method") == "mean",
        pl.col("metric") == "ce",
        pl.col("band") == "pointwise",
    ).sort("held_share")
    mean = found.filter(pl.col("label") == "mean")
    for column in ("held_share", "mean", "low", "high"):
        assert mean[column].to_list() == told.collect()[column].to_list()


def test_without_names_all_methods_and_models_are_there(run: Run) -> None:
    found = run.curve(metric="top1")
    assert found["label"].n_unique() == 5
    assert found["model"].n_unique() == 2


def test_a_comparison_the_other_way_round_has_the_other_sign(run: Run) -> None:
    one, other = run.compare("peak", "mean"), run.compare("mean", "peak")
    assert one.height == other.height > 0
    assert one["estimate"].to_list() == (-other["estimate"]).to_list()
    assert one["low"].to_list() == (-other["high"]).to_list()
    assert other.select("a", "b").unique().row(0) == ("mean", "peak")
    assert (other["low"] <= other["estimate"]).all()
    first = one.group_by(GROUP, maintain_order=True).first()
    assert first["fraction"].null_count() == first.height, "the area comes first"


def test_neurons_have_their_gap_in_standard_deviations(run: Run) -> None:
    found = run.neurons(model="zoo:opt", layer=1, head=0)
    assert found.select("model", "layer", "head").unique().rows() == [("zoo:opt", 1, 0)]
    assert "counts" not in found.columns
    row = found.row(0, named=True)
    assert row["gap"] == pytest.approx(abs(row["mean"] - row["peak"]) / row["std"])
    assert row["modes"] == len(row["mode_values"])


def test_a_neuron_that_never_changes_has_no_gap(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("plan.parquet", parquet(SCHEMAS["plan"].empty_table()))
    one = results.open(folder).statistics.head(1).with_columns(std=pl.lit(0.0)).collect()
    store.commit("statistics/m/s.parquet", parquet(one.to_arrow().cast(SCHEMAS["statistics"])))
    assert results.open(store).neurons()["gap"].to_list() == [None]


def scored(layer: int | None, order: list[int], score: list[float]) -> dict[str, object]:
    named = {"model": "zoo:opt", "data": "stdlib", "site": "attn_pre_out", "unit": "head"}
    rule = {"selection": f"rule {layer}", "parameters": "{}", "seed": 0, "basis": "own"}
    return {**named, **rule, "layer": layer, "order": order, "score": score}


def test_a_head_has_the_score_of_its_own_axes_and_of_the_data_that_was_counted(
    folder: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.replace("plan.parquet", parquet(SCHEMAS["plan"].empty_table()))
    store.replace("sweep.yaml", b"statistics: {data: other}")
    own = results.open(folder).statistics.filter(pl.col("model") == "zoo:opt").collect()
    own = own.with_columns(data=pl.lit("other"), basis=pl.lit("own"))
    turned = own.with_columns(basis=pl.lit("rotated 1"))
    for n, rows in enumerate((own, turned)):
        store.commit(
            f"statistics/m/{n}.parquet", parquet(rows.to_arrow().cast(SCHEMAS["statistics"]))
        )
    heads = [*range(own["head"].max() + 1)]
    ranked = [
        scored(0, heads, [1.0] * len(heads)),
        scored(0, heads, [2.0] * len(heads)) | {"basis": "rotated 1"},
        scored(0, heads, [3.0] * len(heads)) | {"basis": None, "selection": "looks at no axes"},
    ]
    kept = [dict.fromkeys(SCHEMAS["selections"].names) | row for row in ranked]
    store.commit(
        "selections/m/s.parquet", parquet(pa.Table.from_pylist(kept, SCHEMAS["selections"]))
    )
    found = results.open(store).heads().filter(pl.col("layer") == 0, pl.col("head") == 0)
    assert set(found.select("basis", "selection", "score").rows()) == {
        ("own", "rule 0", 1.0),
        ("own", "looks at no axes", 3.0),
        ("rotated 1", "rule 0", 2.0),
        ("rotated 1", "looks at no axes", 3.0),
    }
    assert found.height == 4


def test_a_share_of_the_gap_has_no_other_way_round(folder: Path, tmp_path: Path) -> None:
    gap = pl.read_parquet(folder / "contrasts.parquet").filter(
        pl.col("metric") == "ce", pl.col("a") == "peak", pl.col("b") == "mean"
    )
    store = Store(tmp_path)
    store.replace("plan.parquet", parquet(SCHEMAS["plan"].empty_table()))
    gap.with_columns(metric=pl.lit("gap_closed")).write_parquet(tmp_path / "contrasts.parquet")
    run = results.open(store)
    assert run.compare("peak", "mean", metric="gap_closed").height == gap.height > 0
    with pytest.raises(NotInRunError, match="compared are peak with mean"):
        run.compare("mean", "peak", metric="gap_closed")


def test_heads_have_the_scores_that_they_were_ranked_by(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("plan.parquet", parquet(SCHEMAS["plan"].empty_table()))
    counted = results.open(folder).statistics.filter(pl.col("model") == "zoo:opt").collect()
    rows = counted.to_arrow().cast(SCHEMAS["statistics"])
    store.commit("statistics/m/s.parquet", parquet(rows))
    cells = pl.read_parquet(folder / "cells.parquet")
    cells.write_parquet(tmp_path / "cells.parquet")
    heads = counted["head"].max() + 1
    flat = [heads, 0, *range(1, heads), *range(heads + 1, 2 * heads)]  # head 0 of layer 1 first
    ranked = [
        scored(None, flat, [float(2 * heads - i) for i in range(2 * heads)]),
        scored(0, list(range(heads)), [1.0] * heads) | {"score_low": [0.5] * heads},
    ]
    kept = [dict.fromkeys(SCHEMAS["selections"].names) | row for row in ranked]
    store.commit(
        "selections/m/s.parquet", parquet(pa.Table.from_pylist(kept, SCHEMAS["selections"]))
    )
    found = results.open(store).heads()
    overall = found.filter(pl.col("selection") == "rule None").sort("score", descending=True)
    assert overall.select("layer", "head").rows()[:2] == [(1, 0), (0, 0)]
    assert overall.height == 2 * heads
    assert overall["score_low"].null_count() == 2 * heads
    alone = found.filter(pl.col("selection") == "rule 0")
    assert alone.select("layer", "score_low").unique().rows() == [(0, 0.5)]
    assert found["neurons"].unique().to_list() == [32 // heads]


def test_heads_that_nothing_ranked_have_one_row_each(run: Run) -> None:
    found = run.heads(model="zoo:opt")
    assert found.select("layer", "head").is_unique().all()
    assert found["score"].null_count() == found.height
    gaps = run.neurons(model="zoo:opt").group_by("layer", "head").agg(pl.col("gap").mean())
    assert found["gap"].to_list() == pytest.approx(gaps.sort("layer", "head")["gap"].to_list())


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda run: run.curve("peek"), "no method 'peek'; did you mean 'peak'"),
        (lambda run: run.curve(metric="kl"), "no metric 'kl'"),
        (lambda run: run.curve(band="point"), "no band 'point'"),
        (lambda run: run.compare("peak", "men"), "'men'; did you mean 'mean'"),
        (lambda run: run.compare("mean", "mean"), "are not compared in"),
        (lambda run: run.neurons(model="zoo:op"), "no model 'zoo:op'; did you mean 'zoo:opt'"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_the_nearest(
    run: Run, ask: object, said: str
) -> None:
    assert callable(ask)
    with pytest.raises(NotInRunError, match=said):
        ask(run)


def test_before_the_first_answer_that_is_what_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace("plan.parquet", parquet(SCHEMAS["plan"].empty_table()))
    run = results.open(store)
    assert run.neurons().is_empty()
    assert run.heads().is_empty()
    with pytest.raises(NotInRunError, match="nothing is answered yet"):
        run.curve()
