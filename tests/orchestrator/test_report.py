"""What the report must say, show, escape and admit, from a made-up run folder."""

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report import report
from orchestrator.report.activations import Activations
from orchestrator.report.contrasts import Question, sentence
from orchestrator.report.words import (
    decimals,
    interval,
    label_name,
    method_name,
    number,
)
from tests.orchestrator.synthetic_run import MODELS, write_run

NBSP = "\N{NO-BREAK SPACE}"
HOSTILE = """<script>alert(1)</script>"'&<b onclick=x>"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("finished") / "run", layers=2, neurons=48)
    report(folder)
    return folder


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return (finished / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "run"
    return write_run(folder, models=MODELS[:1], layers=2, neurons=16)


@pytest.fixture
def small(template: Path, tmp_path: Path) -> Path:
    """A run of one small model that a test may spoil."""
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    return folder


def text_of(page: str) -> str:
    """Return what a reader sees, white space squeezed, outside figures."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []
            self.inside = 0

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.inside += tag in ("svg", "style", "script", "nav")

        def handle_endtag(self, tag: str) -> None:
            self.inside -= tag in ("svg", "style", "script", "nav")

        def handle_data(self, data: str) -> None:
            if not self.inside:
                self.parts.append(data)

    reader = Reader()
    reader.feed(page)
    return " ".join("".join(reader.parts).split())


def markup(page: str) -> str:
    """Return a page without its scripts and the data they draw."""
    return re.sub(r"<script\b[^>]*>.*?</script>", "", page, flags=re.DOTALL)


def number_in(text: str) -> float:
    return float(text.replace("−", "-"))


def test_each_declared_contrast_is_said_in_words_with_the_tables_numbers(
    finished: Path, page: str
) -> None:
    said = text_of(page)
    rows = pl.read_parquet(finished / "contrasts.parquet").filter(
        pl.col("fraction").is_null(), pl.col("metric") == "ce"
    )
    assert rows.height == 2 * len(MODELS)
    for row in rows.to_dicts():
        b = {"mean": "the mean", "zero": "zero"}[row["b"]]
        pattern = (
            rf"On {row['model']}, averaged over the share held, holding at the peak \(smooth\)"
            rf" (?:costs (\S+) nats (more|less) than holding at {b}"
            rf"|and holding at {b} can’t be told apart: the difference in CE is (\S+) nats)"
            r" \(95 % interval \[(\S+), (\S+)\] nats over (\d+) documents and (\d+) masks"
        )
        found = re.search(pattern, said)
        assert found, (row["model"], row["b"])
        cost, way, unclear, low, high, documents, masks = found.groups()
        estimate = number_in(cost) * (1 if way == "more" else -1) if cost else number_in(unclear)
        half_a_digit = 0.51 * 10 ** -len(low.partition(".")[2])
        for shown, true in (
            (estimate, row["estimate"]),
            (number_in(low), row["low"]),
            (number_in(high), row["high"]),
        ):
            assert abs(shown - true) <= half_a_digit
        assert (unclear is not None) == (row["low"] <= 0 <= row["high"])
        assert (int(documents), int(masks)) == (row["documents"], row["masks"])


def test_what_was_declared_comes_before_what_is_exploratory(page: str) -> None:
    said = text_of(page)
    assert said.index("Declared contrasts") < said.index("Exploratory")
    assert said.index("Exploratory") < said.index("Damage against the share held")


def test_the_tables_at_one_half_and_nine_tenths_have_the_curves_numbers(
    finished: Path, page: str
) -> None:
    said = text_of(page)
    curves = pl.read_parquet(finished / "curves.parquet")
    held = pl.read_parquet(finished / "cells.parquet").filter(pl.col("fraction") == 0.9)
    share = held["units_held"][0] / held["units_total"][0]
    assert share != 0.9  # 43 of 48: the share is what was held, not what was asked
    at = curves.filter((pl.col("held_share") - share).abs() < 1e-9, pl.col("model") == "zoo:vit")
    assert f"zoo:vit {100 * share:.1f} % held" in said
    for metric, scale, places in (("top1", 100, 1), ("ce", 1, 3)):
        for mean in at.filter(pl.col("metric") == metric)["mean"]:
            assert f"{mean * scale:.{places}f}" in said


def test_every_spread_says_what_it_is(page: str) -> None:
    said = text_of(page)
    assert "±" not in page
    assert "s.d. over masks" in said
    assert "95 % pointwise bands" in said
    assert "pointwise 95 % interval over documents and masks" in said
    assert "[95 % interval]" in said


def test_a_method_is_never_named_without_its_parameter(page: str) -> None:
    assert label_name("peak") == method_name("peak", '{"estimator":"smooth"}') == "peak (smooth)"
    assert label_name("peak(paper)") == "peak (paper)"
    assert label_name("resample") == "resample (dataset)"
    assert label_name("peak(position)") == "peak (smooth, position)"
    assert label_name("peak(paper, position)") == "peak (paper, position)"
    assert label_name("resample(random_tokens)") == "resample (random_tokens)"
    assert method_name("mean", '{"alpha":0.5}') == "mean (alpha=0.5)"
    assert method_name("quantile", '{"q":0.9}') == "quantile (0.9)"
    assert method_name("zero", "{}") == "zero"
    for name in ("zero", "mean", "peak (smooth)", "peak (paper)", "resample (dataset)"):
        assert name in text_of(page)


def test_the_page_needs_nothing_but_itself(finished: Path, page: str) -> None:
    assert len(page.encode()) < 4_000_000
    assert not re.search(r"<script[^>]*\bsrc=", page)
    plain = markup(page)
    assert not re.search(r"""(?:src|href|xlink:href)=["']?(?:https?:)?//""", plain)
    assert not re.search(r"url\((?!#)", plain)
    for linked in re.findall(r'href="([^"#:]+)"', plain):
        assert (finished / "report" / linked).is_file()


def test_each_figure_is_on_the_page_and_beside_it_as_svg_and_png(finished: Path, page: str) -> None:
    names = {"contrasts", "curves-causal", "curves-masked-image", "densities", "forest"}
    folder = finished / "report"
    assert {file.stem for file in folder.glob("*.svg")} == names
    assert {file.stem for file in folder.glob("*.png")} == names
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<path" in (folder / f"{name}.svg").read_text()
    plain = markup(page)
    assert plain.count("<svg") == len(names)
    assert plain.count("<title>peak (smooth), 50.0") == 2 * len(MODELS)  # tooltips of points


def test_figures_share_no_ids(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', markup(page))
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", markup(page))) <= set(ids)


def test_the_same_run_gives_the_same_page(small: Path) -> None:
    first = report(small).read_bytes()
    assert report(str(small)).read_bytes() == first


def test_the_limits_of_small_models_are_said_plainly(page: str) -> None:
    said = text_of(page)
    assert "cannot decide whether holding at the peak beats holding at the mean" in said
    assert "With 5 masks, a standard deviation over masks is itself uncertain by about 35 %" in said


def test_a_hostile_model_name_stays_text(tmp_path: Path) -> None:
    hostile = replace(MODELS[0], name=HOSTILE)
    folder = write_run(tmp_path / "run", models=[hostile], layers=1, neurons=16, masks=2)
    page = report(folder).read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "<b onclick" not in page
    assert page.count("<script") == page.count("</script>")
    assert HOSTILE in text_of(page)
    assert "<script" not in (folder / "report" / "curves-causal.svg").read_text()


def test_a_sweep_half_done_says_what_is_missing_and_what_failed(small: Path) -> None:
    file = small / "executions" / "part.parquet"
    ran = pl.read_parquet(file)
    ran.head(100).write_parquet(file)
    lost = ran.row(150, named=True)["cell"]
    failure = {
        "task": "abc",
        "label": "zoo:opt cells 8–16",
        "stage": "evaluate",
        "error": "MemoryError: <nothing left>",
        "traceback": "Traceback …",
        "attempts": 3,
        "cells": [lost],
    }
    (small / "failures" / "abc.json").write_text(json.dumps(failure))
    for table in ("summary", "curves", "contrasts"):
        (small / f"{table}.parquet").unlink()
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "This sweep is not complete: of 231 cells, 100 are done, 1 failed and 130 are" in said
    assert "There is no table of curves and contrasts yet" in said
    assert "MemoryError: <nothing left>" in said
    assert "The declared contrasts can’t be computed yet." in said
    assert "No curve can be drawn yet." in said
    assert (small / "report" / "densities.svg").exists()


def test_a_sweep_without_statistics_still_reports_its_curves(small: Path) -> None:
    for table in ("statistics", "centres"):
        shutil.rmtree(small / table)
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "No statistics have been collected yet." in said
    assert (small / "report" / "curves-causal.svg").exists()


def test_statistics_without_a_constant_are_there_and_said_to_be(small: Path) -> None:
    shutil.rmtree(small / "centres")
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "No statistics" not in said
    assert "No held value has one place to be marked at" in said
    assert "Every neuron" in said


def test_an_empty_folder_reports_that_nothing_is_planned(tmp_path: Path) -> None:
    said = text_of(report(tmp_path).read_text(encoding="utf-8"))
    assert "The plan has not been written yet" in said


def test_a_folder_that_is_not_there_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no folder at .*nowhere"):
        report(tmp_path / "nowhere")


def test_a_table_without_a_column_is_named_in_the_error(small: Path) -> None:
    file = small / "curves.parquet"
    pl.read_parquet(file).drop("sd_masks").write_parquet(file)
    with pytest.raises(ValueError, match=r"curves\.parquet has no column sd_masks"):
        report(small)


def test_few_documents_and_wide_bins_are_noted(small: Path) -> None:
    summary = small / "summary.parquet"
    pl.read_parquet(summary).with_columns(documents=pl.lit(12)).write_parquet(summary)
    (statistics,) = (small / "statistics").glob("**/*.parquet")
    rows = pl.read_parquet(statistics)
    wide = pl.when(pl.col("layer") == 0).then(pl.col("std")).otherwise(pl.col("bin_width"))
    outside = pl.when(pl.col("layer") == 1).then(pl.col("count") // 50).otherwise(0)
    rows.with_columns(bin_width=wide, above=outside.cast(pl.Int64)).write_parquet(statistics)
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "zoo:opt on stdlib: 12 documents; standard errors and intervals from fewer" in said
    assert "50.0 % of the neurons have a bin wider than 0.25 of their s.d." in said
    assert "50.0 % of the neurons have more than 1 % of their activations outside" in said


def test_cells_that_held_something_else_are_not_to_be_used(small: Path) -> None:
    file = small / "executions" / "part.parquet"
    ran = pl.read_parquet(file).with_row_index()
    spoilt = pl.when(pl.col("index") < 3).then(pl.col("held") + 1).otherwise(pl.col("held"))
    ran.with_columns(held=spoilt).drop("index").write_parquet(file)
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "In 3 cells of 231, what was read back as held from the model is not what was" in said


def test_two_data_sets_of_one_model_are_two_panels(small: Path) -> None:
    for file in small.glob("*.parquet"):
        rows = pl.read_parquet(file)
        other = rows.with_columns(data=pl.lit("pile"))
        pl.concat([rows, other]).write_parquet(file)
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "On zoo:opt · stdlib, averaged over" in said
    assert "On zoo:opt · pile, averaged over" in said


PEAK_MEAN = Question(kind="methods", a="peak", b="mean", method="")


def contrast(low: float | None, high: float | None, **changes: object) -> dict[str, object]:
    middle = None if low is None or high is None else (low + high) / 2
    ends = {"estimate": middle, "low": low, "high": high}
    return {
        **{"panel": "m", "method": None, "metric": "ce", "fraction": 0.5, "p_adjusted": None},
        **{"documents": 60, "masks": 5},
        **ends,
        **changes,
    }


def contrast_sentence(ce: dict[str, object], top1: dict[str, object] | None) -> str:
    return sentence(PEAK_MEAN, ce, top1)


def test_a_difference_is_claimed_only_where_its_interval_leaves_zero() -> None:
    clear = contrast_sentence(contrast(0.01, 0.05), contrast(-0.004, 0.001, metric="top1"))
    assert clear.replace(NBSP, " ") == (
        "On m at f = 0.5, holding at the peak (smooth) costs 0.030 nats more than holding at the"
        " mean (95 % interval [0.010, 0.050] nats over 60 documents and 5 masks); Top-1 is 0.15"
        " points lower [−0.40, 0.10], which includes zero."
    )
    less = contrast_sentence(contrast(-0.05, -0.01), None)
    assert "costs 0.030 nats less" in less
    for unclear in (contrast(-0.01, 0.05), contrast(0.0, 0.05)):
        assert "can’t be told apart" in contrast_sentence(unclear, None)


def test_an_interval_says_when_it_covers_one_mask_or_cannot_be_given() -> None:
    one = contrast_sentence(contrast(0.01, 0.05, masks=1), None)
    assert "over 60 documents, for one set of held neurons" in one
    assert "no interval can be given" in contrast_sentence(contrast(None, None), None)


def test_a_difference_that_does_not_survive_the_adjustment_is_not_claimed() -> None:
    held = contrast_sentence(contrast(0.01, 0.05, fraction=None, p_adjusted=0.012), None)
    assert "On m, averaged over the share held, holding at the peak (smooth) costs" in held
    assert "adjusted p = 0.012" in held
    lost = contrast_sentence(contrast(0.01, 0.05, p_adjusted=0.2), None)
    assert "can’t be told apart" in lost
    assert "clear of zero by itself alone; adjusted p = 0.2" in lost
    assert "p < 0.001" in contrast_sentence(contrast(0.01, 0.05, p_adjusted=1e-7), None)


def test_selections_and_bases_are_compared_in_words_of_their_own() -> None:
    rule = Question(kind="selections", a="random", b="score(rms, low)", method="")
    said = sentence(rule, contrast(0.01, 0.05, method="mean"))
    assert "On m · mean at f = 0.5, holding units chosen at random in each layer costs" in said
    assert "more than holding units chosen by score(rms, low)" in said
    axes = Question(kind="axes", a="own", b="rotated 0", method="peak - mean")
    said = sentence(axes, contrast(-0.01, 0.05, method="peak - mean"))
    assert "peak (smooth) − mean differs not clearly between own axes and axes rotated 0" in said
    bases = Question(kind="bases", a="own", b="rotated 0", method="")
    said = sentence(bases, contrast(-0.05, -0.01, method="zero"))
    assert "holding in the model’s own axes costs 0.030 nats less" in said


def test_not_a_number_is_treated_as_absent(small: Path) -> None:
    file = small / "contrasts.parquet"
    rows = pl.read_parquet(file)
    nan = pl.lit(math.nan)
    rows.with_columns(low=nan, high=nan).write_parquet(file)
    said = text_of(report(small).read_text(encoding="utf-8"))
    assert "no interval can be given over 60 documents and 5 masks" in said
    assert not re.search(r"\bnan\b", said.lower())


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e3))
def test_a_printed_interval_is_true_to_a_twentieth_of_its_half_width(
    middle: float, half: float
) -> None:
    low, high = middle - half, middle + half
    places = decimals(low, high)
    printed = interval(low, high, places).strip("[]").replace("−", "-").replace(NBSP, "")
    for shown, true in zip(map(float, printed.split(",")), (low, high), strict=True):
        assert abs(shown - true) <= max(0.051 * half, 0.5)
        assert half > 10 or abs(shown - true) <= 0.051 * half


def test_a_number_has_a_true_minus_and_no_negative_zero() -> None:
    assert number(-1.25, 1) == "−1.2"
    assert number(-0.001, 1) == "0.0"
    assert number(None, 1) == number(math.nan, 1) == "–"


def test_the_neurons_shown_are_the_extremes_and_differ(small: Path) -> None:
    rows = pl.read_parquet(small / "statistics" / "**" / "*.parquet")
    apart = ((rows["mean"] - rows["peak"]).abs() / rows["std"]).to_numpy()
    first = rows.row(int(apart.argmax()), named=True)
    shown = Activations(small, "zoo:opt", "attn_pre_out").interesting()
    assert shown[0].title == f"layer {first['layer']} · neuron {first['neuron']}"
    assert shown[0].reason == f"mean and peak {apart.max():.1f} s.d. apart"
    assert shown[0].marks["mean"] == first["mean"]
    assert shown[0].marks["peak (smooth)"] == first["peak"]
    assert set(shown[0].marks) == {"zero", "mean", "peak (smooth)", "peak (paper)"}
    assert len({density.title for density in shown}) == len(shown) >= 2
    for density in shown:
        area = float((density.heights * np.diff(density.edges)).sum())
        assert 0.98 < area <= 1.0000001


def test_a_layers_average_weighs_wide_and_narrow_neurons_alike(small: Path) -> None:
    where = ("zoo:opt", "attn_pre_out")
    before = Activations(small, *where).average()
    for table in ("statistics", "centres"):
        (file,) = (small / table).glob("**/*.parquet")
        rows = pl.read_parquet(file)
        scaled = [
            c for c in ("mean", "std", "bin_width", "bin_start", "value") if c in rows.columns
        ]
        factor = 2.0 ** (pl.col("neuron") % 5)
        rows.with_columns((pl.col(c) * factor).alias(c) for c in scaled).write_parquet(file)
    after = Activations(small, *where).average()
    for one, other in zip(before.heights, after.heights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
        assert 0.99 < float((one * np.diff(before.edges)).sum()) < 1.0001
    assert before.marks["mean"] == pytest.approx((0, 0, 0), abs=1e-12)
    assert after.marks["zero"] == pytest.approx(before.marks["zero"])
