"""What the heat maps show of sweeps that hold one layer at a time, and of very large ones."""

import shutil
from pathlib import Path

import altair as alt
import polars as pl
import pytest

from orchestrator.report.forest import ROWS as PAIRS_ROWS
from orchestrator.report.forest import forest_live
from orchestrator.report.heat import CELLS, FRACTIONS, GROUPS, LAYERS, ROWS, heat, heat_live
from orchestrator.report.heat_marks import Scale
from orchestrator.report.layered import layered_cells
from orchestrator.report.read import read_run
from tests.orchestrator.synthetic_run import CONTRASTS, METHODS, MODELS, write_run
from tests.orchestrator.test_report_groups import edit, spread


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "run"
    write_run(folder, models=MODELS[:1], layers=2, neurons=16, masks=2)
    spread(folder, "layers", ["0", "1", "2"])
    layer = pl.col("layers").cast(pl.Int64)
    for table, columns in (("curves", ["mean"]), ("contrasts", ["estimate"])):
        edit(folder, table, **{c: pl.col(c) * (1 + layer) for c in columns})
    return folder


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A run of three single layers, which a test may change."""
    return Path(shutil.copytree(template, tmp_path / "run"))


def cells(folder: Path) -> pl.DataFrame:
    found = layered_cells(read_run(folder))
    assert found is not None
    return found


def caption(folder: Path) -> str:
    figure = heat(read_run(folder))
    assert figure is not None
    return figure.caption


def test_a_sweep_without_single_layers_has_no_map(run: Path) -> None:
    for table in ("cells", "curves", "summary", "contrasts"):
        rows = pl.read_parquet(run / f"{table}.parquet")
        rows.filter(pl.col("layers").is_in(["0", "1"])).write_parquet(run / f"{table}.parquet")
    found = read_run(run)
    assert (heat(found), heat_live(found)) == (None, None)


def test_a_cell_has_the_curves_numbers_at_the_fraction_that_was_asked_for(run: Path) -> None:
    points = pl.read_parquet(run / "cells.parquet").filter(fraction=0.3, method="mean")
    share = points["units_held"][0] / points["units_total"][0]
    assert share != 0.3  # 5 of 16
    curve = pl.read_parquet(run / "curves.parquet").filter(
        (pl.col("held_share") - share).abs() < 1e-9, layers="2", method="mean"
    )
    every = cells(run)
    for metric, scale in (("ce", 1), ("top1", 100)):
        (truth,) = curve.filter(metric=f"d_{metric}").to_dicts()
        at = every.filter(kind="damage", metric=metric, name="mean", layer=2, fraction=0.3)
        (found,) = at.to_dicts()
        for key, column in (("value", "mean"), ("low", "low"), ("high", "high")):
            assert found[key] == pytest.approx(scale * truth[column])


def test_there_is_a_cell_per_method_layer_and_fraction_and_none_where_nothing_is_held(
    run: Path,
) -> None:
    damage = cells(run).filter(kind="damage", metric="ce")
    assert damage.height == len(METHODS) * 3 * 10
    assert damage.select("name", "layer", "fraction").is_unique().all()
    assert damage["fraction"].min() == 0.1


def test_declared_differences_are_mapped_and_others_are_not(run: Path) -> None:
    edit(run, "contrasts", declared=pl.col("b") == "mean")
    found = cells(run).filter(kind="declared differences", metric="ce")
    assert set(found["name"]) == {"peak (smooth) − mean"}
    truth = pl.read_parquet(run / "contrasts.parquet").filter(
        b="mean", metric="ce", layers="1", fraction=0.5
    )
    assert found.filter(layer=1, fraction=0.5)["value"][0] == truth["estimate"][0]


def test_what_is_planned_and_not_there_is_a_cross_and_counted(run: Path) -> None:
    curves = pl.read_parquet(run / "curves.parquet")
    lost = (pl.col("layers") == "1") & (pl.col("held_share") > 0.9) & (pl.col("method") == "mean")
    curves.filter(~lost).write_parquet(run / "curves.parquet")
    gone = cells(run).filter(clear="not there")
    assert set(gone.select("name", "layer", "fraction").rows()) == {("mean", 1, 1.0)}
    assert "A cross: 2 cells that are not there" in caption(run)


def test_a_cell_is_clear_only_where_its_interval_leaves_zero(run: Path) -> None:
    first = pl.col("layers") == "0"
    edit(run, "curves", low=pl.when(first).then(-9.0).otherwise(0.01), high=pl.lit(9.0))
    by_layer = cells(run).filter(kind="damage").select("layer", "clear").unique()
    assert sorted(by_layer.rows()) == [(0, "no"), (1, "yes"), (2, "yes")]
    edit(run, "curves", low=pl.lit(None, dtype=pl.Float64))
    assert set(cells(run).filter(kind="damage")["clear"]) == {"no interval"}


@pytest.mark.parametrize(("worse", "low", "high"), [(1, 0.0, 2.0), (-1, -2.0, 0.0)])
def test_damage_is_orange_whichever_way_its_metric_goes(
    worse: int, low: float, high: float
) -> None:
    colour = Scale(low=low, high=high, worse=worse).colour("ce", alt.Legend()).to_dict()
    by_value = dict(zip(colour["scale"]["domain"], colour["scale"]["range"], strict=True))
    furthest = by_value[2.0 * worse]
    red, blue = int(furthest[1:3], 16), int(furthest[5:7], 16)
    assert red > 2 * blue
    assert by_value[0] == "#f6f5f1"  # white, where nothing changes


def test_maps_of_a_row_share_their_scale_and_rows_do_not(run: Path) -> None:
    figure = heat(read_run(run))
    assert figure is not None
    rows = figure.chart["vconcat"]
    assert isinstance(rows, list)
    assert [row["title"]["text"] for row in rows][:2] == [
        "zoo:opt: change of CE (nats)",
        "zoo:opt: declared differences in the change of CE (nats)",
    ]
    assert len(rows[0]["concat"]) == len(METHODS)
    assert len(rows[1]["concat"]) == len(CONTRASTS)
    assert {row["resolve"]["scale"]["color"] for row in rows} == {"shared"}
    assert figure.chart["resolve"] == {"scale": {"color": "independent"}}


def test_the_live_maps_have_a_chart_for_every_row(run: Path) -> None:
    live = heat_live(read_run(run))
    assert live is not None
    assert {row["chart"] for row in live.rows} == set(live.charts)
    for choice in live.choices:
        assert {row[choice.field] for row in live.rows} <= set(choice.values)
    assert {"low", "high", "clear"} <= live.columns.keys()


def test_many_layers_are_thinned_from_the_first_to_the_last_and_it_is_said(run: Path) -> None:
    spread(run, "layers", [str(i) for i in range(100)])
    for table in ("cells", "curves", "contrasts"):
        file = run / f"{table}.parquet"
        pl.read_parquet(file).unique(maintain_order=True).write_parquet(file)
    figure = heat(read_run(run))
    assert figure is not None
    layers = sorted(int(str(row["layer"])) for row in figure.data["0-0"])
    assert len(set(layers)) == LAYERS
    assert (layers[0], layers[-1]) == (0, 99)
    assert sum(map(len, figure.data.values())) <= CELLS
    assert f"Of more than {LAYERS} layers or {FRACTIONS} fractions some are shown" in figure.caption
    maps = 2 * (len(METHODS) + len(CONTRASTS))
    assert f"Printed are {len(figure.data)} maps of {maps};" in figure.caption


def large_run(folder: Path) -> int:
    """Write the tables of a sweep of some 1e5 cells: many settings and layers; return how many."""
    folder.mkdir()
    whole = pl.DataFrame({"layers": ["all"]}).join(
        pl.DataFrame({"selection": [f"score(rms, {i})" for i in range(100)]}), how="cross"
    )
    single = pl.DataFrame({"layers": [str(i) for i in range(100)], "selection": "random"})
    panels = pl.concat([whole, single]).join(
        pl.DataFrame({"model": ["zoo:a", "zoo:b"]}), how="cross"
    )
    panels = panels.with_columns(
        *(pl.lit(value).alias(name) for name, value in _ALIKE.items()), complement=pl.lit(False)
    )
    methods = pl.DataFrame({"method": ["zero", "mean", "median", "noise", "marginal"]})
    share = pl.DataFrame({"units_held": list(range(0, 110, 10))}).with_columns(
        fraction=pl.col("units_held") / 100, units_total=pl.lit(100)
    )
    points = panels.join(methods, how="cross").join(share, how="cross")
    points = points.with_columns(parameters=pl.lit("{}"), modality=pl.lit("causal"))
    seeds = pl.DataFrame({"seed": list(range(5))})
    planned = points.join(seeds, how="cross").with_row_index("cell")
    planned.with_columns(pl.col("cell").cast(pl.String)).write_parquet(folder / "cells.parquet")
    metrics = pl.DataFrame({"metric": ["ce", "top1", "d_ce", "d_top1"]})
    mean = pl.col("fraction") * (1 + pl.int_range(pl.len()) % 7)
    points.join(metrics, how="cross").with_columns(
        held_share="fraction", mean=mean, low=mean - 1, high=mean + 1
    ).with_columns(band=pl.lit("pointwise"), sd_masks=pl.lit(0.1), masks=pl.lit(5)).write_parquet(
        folder / "curves.parquet"
    )
    pairs = methods.rename({"method": "a"}).join(methods.rename({"method": "b"}), how="cross")
    fractions = pl.concat([share["fraction"][1:], pl.Series([None], dtype=pl.Float64)])
    rows = panels.join(pairs.filter(pl.col("a") < pl.col("b")), how="cross")
    rows = rows.join(pl.DataFrame({"fraction": fractions}), how="cross")
    rows = rows.join(metrics.head(2), how="cross")
    rows.with_columns(
        estimate=pl.lit(0.1),
        low=pl.lit(-0.1),
        high=pl.lit(0.3),
        p_adjusted=pl.lit(0.5),
        documents=pl.lit(60),
        masks=pl.lit(5),
        declared=pl.col("b") == "zero",
        method=pl.lit(None, dtype=pl.String),
        reason=pl.lit(None, dtype=pl.String),
    ).write_parquet(folder / "contrasts.parquet")
    return planned.height


_ALIKE = {
    "data": "text",
    "dtype": "float32",
    "basis": "own",
    "site": "attn_pre_out",
    "unit": "neuron",
}


@pytest.mark.slow
def test_a_sweep_of_a_hundred_thousand_cells_has_figures_of_a_few_thousand_points(
    tmp_path: Path,
) -> None:
    assert large_run(tmp_path / "run") >= 100_000
    found = read_run(tmp_path / "run")
    maps, pairs = heat_live(found), forest_live(found)
    assert maps is not None
    assert pairs is not None
    assert len(maps.rows) <= ROWS
    assert len(maps.charts) <= GROUPS
    assert len(pairs.rows) <= PAIRS_ROWS
    for still, most in ((maps.still, CELLS), (pairs.still, 500)):
        assert sum(map(len, still.data.values())) <= most
        assert "Printed are" in still.caption
