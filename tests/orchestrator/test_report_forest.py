"""What the forest plot shows of every two methods, and what it says of the rest."""

import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from orchestrator.report.compared import contrast_table
from orchestrator.report.contrasts import counted, questions, rows_of, sentences
from orchestrator.report.figures import Figure, Rows
from orchestrator.report.forest import FURTHER, PANELS, ROWS, forest, forest_live
from orchestrator.report.forest_marks import live_panel
from orchestrator.report.html import written
from orchestrator.report.read import read_run
from orchestrator.report.settings import MANY
from orchestrator.report.words import SCALE, decimals, number
from tests.orchestrator.synthetic_run import MODELS, write_run
from tests.orchestrator.test_report_groups import add, ask, edit, spread

PEAK_MEAN = "peak (smooth) − mean"
PEAK_ZERO = "peak (smooth) − zero"
MEAN_ZERO = "mean − zero"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "run"
    write_run(folder, models=MODELS[:1], layers=2, neurons=16, masks=2)
    undeclared = pl.read_parquet(folder / "contrasts.parquet").filter(b="zero")
    undeclared = undeclared.with_columns(a=pl.lit("mean"), declared=pl.lit(False))
    add(folder, "contrasts", undeclared)
    edit(folder, "contrasts", p_adjusted=pl.when("declared").then(0.03125))
    return folder


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A run with two declared pairs and an undeclared one, which a test may change."""
    return Path(shutil.copytree(template, tmp_path / "run"))


def made(folder: Path) -> Figure:
    figure = forest(read_run(folder))
    assert figure is not None
    return figure


def drawn(folder: Path) -> Rows:
    return made(folder).data["0-ce"]


def test_each_pair_has_the_area_of_the_table_in_printed_units(run: Path) -> None:
    areas = pl.read_parquet(run / "contrasts.parquet").filter(pl.col("fraction").is_null())
    names = {("peak", "mean"): PEAK_MEAN, ("peak", "zero"): PEAK_ZERO, ("mean", "zero"): MEAN_ZERO}
    figure = made(run)
    for metric in ("ce", "top1"):
        shown = {row["pair"]: row for row in figure.data[f"0-{metric}"]}
        assert len(shown) == 3
        for row in areas.filter(metric=metric).to_dicts():
            found = shown[names[row["a"], row["b"]]]
            for key in ("estimate", "low", "high"):
                assert found[key] == pytest.approx(row[key] * SCALE[metric])


def test_a_sweep_that_asks_for_neither_ce_nor_top1_is_told_in_what_it_asks_for(run: Path) -> None:
    edit(run, "contrasts", metric=pl.col("metric").replace({"ce": "logit_diff", "top1": "choice"}))
    ask(run, evaluation={"metrics": ["logit_diff", "choice"]})
    found = read_run(run)
    question = questions(found)[0]
    areas = rows_of(found, question).filter(pl.col("fraction").is_null(), metric="logit_diff")
    (said,) = sentences(found, question)
    assert re.search(r"logit difference is|keeps [\d.]+ nats of logit difference", said)
    assert number(abs(areas["estimate"][0]), decimals(*areas.select("low", "high").row(0))) in said
    assert "logit difference" in counted(found, question)
    shown = written([contrast_table(found, question, [0.5])])
    assert "logit difference (nats)" in shown
    assert "choice (points)" in shown


def test_declared_pairs_come_first_in_the_order_of_the_sweep_file(run: Path) -> None:
    ask(run, contrasts=[["peak", "zero"], ["peak", "mean"]])
    rows = drawn(run)
    assert [row["pair"] for row in rows] == [PEAK_ZERO, PEAK_MEAN, MEAN_ZERO]
    assert [row["kind"] for row in rows] == ["declared", "declared", "exploratory"]


def test_only_a_declared_pair_has_an_adjusted_p(run: Path) -> None:
    edit(run, "contrasts", p_adjusted=pl.lit(0.03125))  # even where a table has one
    figure = made(run)
    assert [row["p"] for row in figure.data["0-ce"]] == ["0.031", "0.031", "none"]
    tips = [str(row["tip"]) for row in figure.data["0-ce"]]
    assert "adjusted p = 0.031" in tips[0]
    assert "not adjusted" in tips[2]
    assert "p = " not in tips[2]
    assert "nothing is adjusted for how many they are" in figure.caption


def test_without_declared_pairs_everything_is_called_exploratory(run: Path) -> None:
    edit(run, "contrasts", declared=pl.lit(False))
    figure = made(run)
    assert "None was declared, so all are exploratory" in figure.caption
    assert {row["kind"] for row in figure.data["0-ce"]} == {"exploratory"}


def test_declared_and_exploratory_pairs_differ_in_more_than_colour() -> None:
    layers = live_panel("ce", [PEAK_MEAN])["layer"]
    assert isinstance(layers, list)
    (point,) = [layer["encoding"] for layer in layers if layer["mark"]["type"] == "point"]
    for channel in ("shape", "fill"):
        assert point[channel]["field"] == "kind"
        assert len(set(point[channel]["scale"]["range"])) == 2


def test_a_difference_far_beyond_the_declared_ones_is_an_arrow_with_its_numbers(run: Path) -> None:
    numbers = [pl.when("declared").then(c).otherwise(9.0).alias(c) for c in ("estimate", "high")]
    edit(run, "contrasts", **{n.meta.output_name(): n for n in numbers})
    live = forest_live(read_run(run))
    assert live is not None
    rows = {row["pair"]: row for row in live.still.data["0-ce"]}
    declared = [rows[PEAK_MEAN], rows[PEAK_ZERO]]
    limit = FURTHER * max(abs(float(str(r[k]))) for r in declared for k in ("low", "high"))
    far = rows[MEAN_ZERO]
    assert (far["arrow"], far["estimate"]) == ("→", None)
    assert far["edge"] == pytest.approx(limit)
    assert "+9.0" in str(far["numbers"])
    assert [row["arrow"] for row in declared] == ["", ""]
    assert 9.0 in {row["estimate"] for row in live.rows if row["metric"] == "CE (nats)"}


def test_a_pair_that_is_not_compared_has_an_empty_row_and_its_reason(run: Path) -> None:
    gone = pl.col("a") == "mean"
    numbers = {c: pl.when(~gone).then(c) for c in ("estimate", "low", "high")}
    why = pl.when(gone).then(pl.lit("they hold different shares"))
    edit(run, "contrasts", **numbers, reason=why)
    figure = made(run)
    (row,) = [row for row in figure.data["0-ce"] if row["pair"] == MEAN_ZERO]
    assert row["estimate"] is None
    assert row["numbers"] == "not compared"
    assert "they hold different shares" in str(row["tip"])
    assert "2 pairs are not compared" in figure.caption


def test_a_single_fraction_stands_for_the_area_that_it_cannot_have(run: Path) -> None:
    rows = pl.read_parquet(run / "contrasts.parquet")
    rows.filter(pl.col("fraction") == 0.7).write_parquet(run / "contrasts.parquet")
    figure = made(run)
    assert {row["what"] for row in figure.data["0-ce"]} == {"at f = 0.7"}
    assert "or at a fraction where no area can be made" in figure.caption


def test_a_run_without_contrasts_has_no_forest(run: Path) -> None:
    (run / "contrasts.parquet").unlink()
    found = read_run(run)
    assert (forest(found), forest_live(found)) == (None, None)


def test_of_many_settings_the_first_are_printed_and_the_rest_said(run: Path) -> None:
    spread(run, "selection", [f"score(rms, {i})" for i in range(30)])
    found = read_run(run)
    live = forest_live(found)
    assert live is not None
    assert f"Printed are {PANELS} settings of 30;" in live.still.caption
    assert len({row["setting"] for row in live.rows}) == MANY
    (setting,) = [choice for choice in live.choices if choice.field == "setting"]
    assert setting.first == setting.values[0]


def test_the_live_forest_draws_every_row_and_can_be_chosen_from(run: Path) -> None:
    live = forest_live(read_run(run))
    assert live is not None
    assert {row["metric"] for row in live.rows} == set(live.charts)
    for choice in live.choices:
        assert {row[choice.field] for row in live.rows} <= set(choice.values)
    assert all(set(live.columns) <= row.keys() for row in live.rows)
    assert len(live.rows) <= ROWS
