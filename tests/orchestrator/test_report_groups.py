"""What the report says of sweeps with many groups of curves, from made-up run folders."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import results
from orchestrator.report import report
from orchestrator.report.activations import Activations
from orchestrator.report.curves import curve_rows
from orchestrator.report.html import written
from orchestrator.report.read import read_run
from orchestrator.report.settings import MANY, in_turn
from orchestrator.report.settings import held as held_in_words
from orchestrator.report.stops import stops_section
from orchestrator.store import Store, parquet
from tests.orchestrator.answered import cells as answered_cells
from tests.orchestrator.answered import results as answered_results
from tests.orchestrator.synthetic_run import MODELS, ask_precision, read_in, write_run
from tests.orchestrator.test_report import text_of

SITES = ["attn_pre_out", "mlp_mid", "attn_pre_out+mlp_mid"]
RULES = ["random", "random(global)", "score(rms, low)", "score(rms, high)", "explicit(units.npy)"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "run"
    return write_run(folder, models=MODELS[:1], layers=2, neurons=16, masks=2)


@pytest.fixture
def counted(template: Path, tmp_path: Path) -> Path:
    """A run of one small model that a test may change."""
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    return folder


@pytest.fixture
def run(counted: Path) -> Path:
    """The same without statistics, which takes less time to report."""
    for table in ("statistics", "centres"):
        shutil.rmtree(counted / table)
    return counted


def spread(folder: Path, column: str, values: Sequence[object]) -> None:
    """Repeat every row of the tables for each of these values of a column."""
    for file in folder.glob("*.parquet"):
        spread_rows(pl.read_parquet(file), column, values).write_parquet(file)


def spread_rows(rows: pl.DataFrame, column: str, values: Sequence[object]) -> pl.DataFrame:
    """Return every row for each of these values of a column."""
    return pl.concat([rows.with_columns(pl.lit(value).alias(column)) for value in values])


def edit(folder: Path, table: str, **columns: pl.Expr) -> None:
    """Change columns of a table."""
    file = folder / f"{table}.parquet"
    pl.read_parquet(file).with_columns(**columns).write_parquet(file)


def add(folder: Path, table: str, rows: pl.DataFrame) -> None:
    """Append rows to a table."""
    file = folder / f"{table}.parquet"
    pl.concat([pl.read_parquet(file), rows], how="vertical_relaxed").write_parquet(file)


def said(folder: Path) -> str:
    return text_of(report(folder).read_text(encoding="utf-8"))


def ask(folder: Path, **changes: object) -> None:
    """Add to the sweep file."""
    with (folder / "sweep.yaml").open("a") as file:
        file.write("".join(f"{key}: {json.dumps(value)}\n" for key, value in changes.items()))


def test_a_page_of_many_groups_is_bounded_and_says_where_the_rest_is(run: Path) -> None:
    spread(run, "site", SITES)
    spread(run, "selection", RULES)
    spread(run, "basis", ["own", "rotated 0"])
    thin = pl.col("method").is_in(["mean", "peak"])
    for table, share in (("cells", "fraction"), ("curves", "held_share")):
        rows = pl.read_parquet(run / f"{table}.parquet")
        kept = rows.filter(thin, pl.col(share).is_in([0.0, 0.5, 1.0]))
        kept.write_parquet(run / f"{table}.parquet")
    page = said(run)
    assert len(read_run(run).panels) == 30
    assert "6 more settings are in the table curves.parquet." in page
    names = {file.stem for file in (run / "report").glob("*.svg")}
    assert {"curves-zoo-opt-ce", "curves-zoo-opt-top1"} <= names
    drawn = (run / "report" / "curves-zoo-opt-ce.svg").read_text()
    assert drawn.count(">share held<") == MANY
    assert "Asked in 30 settings (the table has them)." in page
    assert "The tables of 24 settings" in page


def test_a_sweep_of_several_groups_says_what_each_holds(run: Path) -> None:
    spread(run, "site", SITES)
    spread(run, "complement", [False, True])
    page = said(run)
    assert "of the attention’s output, the MLP’s middle and both together" in page
    for label in ("attention and MLP · all but the chosen", "MLP · the chosen"):
        assert f"On zoo:opt · {label}, averaged over the share held" in page
    assert "zoo:opt, neurons, in all layers, chosen at random in each layer (unablated" in page


def test_what_is_held_is_said_in_words() -> None:
    row: dict[str, str | bool] = {
        "unit": "neuron",
        "site": "mlp_mid",
        "complement": False,
        "layers": "3",
        "basis": "own",
    }
    told = held_in_words({**row, "selection": "score(wanda, low)"})
    assert told == "neurons of the MLP’s middle, layer 3, chosen by score(wanda, low)"
    turned: dict[str, str | bool] = {
        "unit": "head",
        "basis": "rotated 0",
        "complement": True,
        "layers": "0,2",
    }
    told = held_in_words({**row, **turned, "site": "attn_pre_out", "selection": "random"})
    assert told.startswith("all but the chosen heads of the attention’s output, layers 0, 2,")
    assert told.endswith("chosen at random in each layer, axes rotated 0")


@given(st.lists(st.lists(st.integers(), max_size=6), max_size=5), st.integers(0, 12))
def test_no_group_crowds_out_another(groups: list[list[int]], many: int) -> None:
    numbered = [[(i, j) for j in range(len(group))] for i, group in enumerate(groups)]
    taken = in_turn(numbered, many)
    assert taken == sorted(taken)
    assert len(taken) == min(many, sum(map(len, groups)))
    counts = [sum(1 for i, _ in taken if i == g) for g in range(len(groups))]
    for g, group in enumerate(groups):
        assert [j for i, j in taken if i == g] == list(range(counts[g]))
        assert counts[g] == len(group) or counts[g] >= max(counts) - 1


def test_rotated_axes_and_another_site_are_not_mixed_into_the_densities(counted: Path) -> None:
    run = counted
    before = Activations(run, "zoo:opt", "attn_pre_out")
    shares, average = before.counted(), before.average()
    for table in ("statistics", "centres"):
        (file,) = (run / table).glob("**/*.parquet")
        rows = pl.read_parquet(file)
        moved = [pl.col(c) + 1 for c in ("mean", "peak", "value", "bin_start") if c in rows.columns]
        for i, other in enumerate(({"basis": "rotated 0"}, {"site": "mlp_mid"}, {"data": "pile"})):
            changed = rows.with_columns(*moved, **{k: pl.lit(v) for k, v in other.items()})
            changed.write_parquet(file.with_name(f"other-{i}.parquet"))
    after = Activations(run, "zoo:opt", "attn_pre_out", ["stdlib"])
    assert after.counted() == shares
    assert after.average().marks == average.marks
    spread(run, "site", SITES)
    page = said(run)
    assert "zoo:opt · the MLP’s middle" in page
    assert (run / "report" / "densities.svg").exists()


def test_single_layers_have_one_figure_and_one_table_of_the_curves_numbers(run: Path) -> None:
    spread(run, "layers", ["0", "1", "2"])
    edit(run, "curves", mean=pl.col("mean") * (1 + pl.col("layers").cast(pl.Int64)))
    page = said(run)
    assert {"layers"} <= {file.stem for file in (run / "report").glob("*.svg")}
    assert not list((run / "report").glob("curves-*.svg"))
    whole = pl.read_parquet(run / "curves.parquet").filter(
        metric="d_ce", held_share=1.0, method="mean"
    )
    table = page[page.index("Damage per layer: change of CE") :]
    for layer, mean in whole.select("layers", "mean").rows():
        assert re.search(rf"layer.{layer}\D.{{0,60}}?\+{mean:.1f}", table), (layer, mean)
    assert "100 % of the units of this one layer are chosen and held" in page


def test_what_holds_all_but_a_layer_is_not_called_holding_it(run: Path) -> None:
    spread(run, "layers", ["0", "1", "2"])
    for table in ("cells", "curves", "summary", "contrasts"):
        edit(run, table, complement=pl.lit(True))
    page = said(run)
    assert "all but these of the whole model are held" in page
    assert "In zoo:opt, all but a share of the neurons of the attention’s output" in page


def test_bands_of_whole_curves_stand_beside_the_pointwise_ones(run: Path) -> None:
    assert "simultaneous" not in said(run)
    wide = pl.read_parquet(run / "curves.parquet").with_columns(
        band=pl.lit("simultaneous"), low=pl.col("low") - 1, high=pl.col("high") + 1
    )
    add(run, "curves", wide)
    assert "lighter those that hold for a whole curve (simultaneous)" in said(run)
    found = read_run(run)
    assert found.curves["band"].unique().to_list() == ["pointwise"]
    (panel,) = curve_rows(found)
    for row in curve_rows(found)[panel]:
        scale = 100 if row["metric"] == "top1" else 1
        assert row["low_all"] == pytest.approx(float(str(row["low"])) - scale)


def test_what_was_not_declared_is_bounded_and_called_exploratory(run: Path) -> None:
    rest = pl.read_parquet(run / "contrasts.parquet")
    names = pl.Series([f"quantile(0.{i})" for i in range(1, 40)])
    many = rest.filter(a="peak", b="mean").with_columns(declared=pl.lit(False)).drop("a")
    add(run, "contrasts", many.join(names.to_frame("a"), how="cross").select(rest.columns))
    page = said(run)
    first, exploratory = page.index("Declared contrasts"), page.index("Exploratory")
    other = page.index("Other comparisons")
    assert first < exploratory < other
    assert "nothing is adjusted" in page[exploratory:]
    assert page[other:].count("− mean") == MANY
    assert f"{many.height * 39 - MANY:,} more are in the table contrasts.parquet." in page[other:]
    assert "quantile" not in page[first:exploratory]


def test_the_share_of_the_gap_to_optimal_is_told_or_called_noise(run: Path) -> None:
    rows = pl.read_parquet(run / "contrasts.parquet").filter(a="peak", b="zero", metric="ce")
    whole = rows.filter(pl.col("fraction").is_null() | (pl.col("fraction") == 0.5))
    noise = pl.col("fraction") == 0.5
    none, why = pl.lit(None, pl.Float64), "the gap to optimal is within noise"
    gaps = whole.with_columns(
        metric=pl.lit("gap_closed"),
        declared=pl.lit(False),
        estimate=pl.when(noise).then(none).otherwise(0.62),
        low=pl.when(noise).then(none).otherwise(0.5),
        high=pl.when(noise).then(none).otherwise(0.74),
        reason=pl.when(noise).then(pl.lit(why)),
    )
    add(run, "contrasts", gaps)
    page = said(run)
    section = page[page.index("How far from optimal") :]
    assert "approximate floor, not a bound" in section
    assert "gap from zero" in section
    assert re.search(r"peak \(smooth\)\s*within noise\s*0\.62 \[0\.50, 0\.74\]", section)
    assert "How far from optimal" not in page[: page.index("Exploratory")]


def test_a_run_without_an_optimum_or_a_rotation_has_no_section_on_it(run: Path) -> None:
    page = said(run)
    for heading in ("How far from optimal", "Do peaks survive", "Which layer", "From which layers"):
        assert heading not in page


def test_peaks_are_compared_in_own_and_rotated_axes(run: Path) -> None:
    spread(run, "basis", ["own", "rotated 0"])
    turned = pl.read_parquet(run / "contrasts.parquet").filter(a="peak", b="mean", basis="own")
    turned = turned.with_columns(
        basis=pl.lit(None, pl.String),
        method=pl.lit("peak - mean"),
        a=pl.lit("own"),
        b=pl.lit("rotated 0"),
        estimate=pl.lit(0.25),
        low=pl.lit(0.125),
        high=pl.lit(0.375),
        p_adjusted=pl.lit(0.01),
    )
    add(run, "contrasts", turned)
    page = said(run)
    assert "peak (smooth) − mean differs between own axes and axes rotated 0: by +0.25 nats" in page
    section = page[page.index("Do peaks survive a rotation") :]
    assert "in 1 of 1 comparison, so there what peaks do hangs on the axes" in section
    own = pl.read_parquet(run / "contrasts.parquet").filter(
        pl.col("fraction").is_null(), a="peak", b="mean", basis="own", metric="ce"
    )
    assert f"{own['estimate'][0]:+.3f}".replace("-", "−") in section
    # Every sentence on axes is in that section; the notes don't say it again.
    assert "what holding at the peak costs beyond" not in page


def test_the_units_that_rules_over_all_layers_take_are_shown_site_by_site(run: Path) -> None:
    spread(run, "site", ["attn_pre_out+mlp_mid"])
    spread(run, "selection", ["random", "score(rms, low, global)"])
    (file,) = (run / "executions").glob("*.parquet")
    rows = pl.read_parquet(file)
    rows.with_columns(held_by_layer=pl.lit([7, 1, 30, 2], pl.List(pl.Int32))).write_parquet(file)
    page = said(run)
    assert "From which layers units are taken" in page
    drawn = (run / "report" / "taken.svg").read_text()
    assert "of attention" in drawn
    assert "of MLP" in drawn
    for text in (">7<", ">1<", ">30<", ">2<"):
        assert text in drawn
    assert "at random" not in drawn


def test_a_run_that_reads_every_document_has_no_section_on_stopping(run: Path) -> None:
    assert "How far documents were read" not in said(run)
    assert read_run(run).unread == set()


def test_what_was_asked_and_saved_by_stopping_is_said_with_the_tables_numbers(run: Path) -> None:
    ask_precision(run, 0.02)
    page = said(run)
    section = page[page.index("How far documents were read") : page.index("Exploratory")]
    assert "know CE of peak (smooth) − mean to a half-width of 0.02 nats" in section
    # All neurons held is one comparison, whatever the mask.
    stops = pl.read_parquet(run / "stops.parquet")
    rows = stops.filter((pl.col("fraction") < 1) | (pl.col("seed") == 0))
    assert rows.height == stops.height - 1
    reached, read = rows["reached"].sum(), rows["documents"]
    assert 0 < reached < rows.height
    assert f"zoo:opt: {reached} of {rows.height} comparisons reached it" in section
    middle = f"{read.median():.0f} of 60 documents (median; {read.min()} to {read.max()})"
    assert f"what is done read {middle}" in section
    assert f"{rows.height - reached} are known less well than that" in section
    cells = pl.read_parquet(run / "summary.parquet").unique("cell")
    results = pl.read_parquet(run / "results" / "part.parquet")
    saved = 1 - results["tokens"].sum() / (60 * 127 * cells.height)
    assert 0.1 < saved < 0.9
    early = cells.filter(pl.col("documents") < 60).height
    assert (
        f"saved {100 * saved:.0f} % of the scored positions: {early} of {cells.height}" in section
    )
    assert "they hold at all rounds at once" in section
    assert "This sweep is not complete" not in page


def test_each_fraction_says_what_was_read_and_how_well_it_is_known(run: Path) -> None:
    ask_precision(run, 0.02)
    stops = pl.read_parquet(run / "stops.parquet")
    whole = stops.filter(fraction=1.0, seed=0).row(0, named=True)
    page = said(run)
    ends = [f"{whole[end]:+.3f}".replace("-", "−").lstrip("+") for end in ("low", "high")]
    estimate = f"{whole['estimate']:+.3f}".replace("-", "−")
    assert f"f = 160 of 60{estimate} [{', '.join(ends)}]" in page
    at = stops.filter(fraction=0.1)
    least, most = (f"{v:+.4f}".replace("-", "−") for v in sorted(at["estimate"]))
    assert f"f = 0.1{at['documents'][0]} of 60{least} to {most} over 2 masks" in page


def test_a_comparison_that_must_be_read_further_is_not_done(run: Path) -> None:
    ask_precision(run, 0.02)
    stops = pl.read_parquet(run / "stops.parquet").filter(fraction=0.1, seed=0)
    cells = pl.read_parquet(run / "cells.parquet").filter(fraction=0.1, seed=0)
    answers = pl.read_parquet(run / "results" / "part.parquet")
    here = pl.col("cell").is_in(cells["cell"].to_list())
    short = answers.filter(~here | (pl.col("round") < stops["rounds"][0] - 1))
    short.write_parquet(run / "results" / "part.parquet")
    read_in(run, dict(short.group_by("cell").agg(pl.col("round").max() + 1).iter_rows()))
    behind = (pl.col("fraction") == 0.1) & (pl.col("seed") == 0)
    edit(
        run,
        "stops",
        rounds=pl.col("rounds") - behind.cast(pl.Int64),
        reached=pl.col("reached") & ~behind,
    )
    page = said(run)
    assert read_run(run).unread == set(cells["cell"])
    planned = pl.read_parquet(run / "cells.parquet")["cell"].n_unique()
    done = planned - cells["cell"].n_unique()
    assert f"of {planned} cells, {done} are done, 0 failed and 5 are missing" in page
    assert "1 is yet to be read further." in page


def test_two_contrasts_are_both_told_and_the_worse_one_decides(run: Path) -> None:
    ask_precision(run, 0.02)
    rows = pl.read_parquet(run / "stops.parquet")
    worse = rows.with_columns(b=pl.lit("zero"), reached=pl.lit(False))
    add(run, "stops", worse)
    page = said(run)
    assert "know CE of peak (smooth) − mean and peak (smooth) − zero to" in page
    assert "The one known worst decides." in page
    further = rows.filter((pl.col("fraction") < 1) | (pl.col("seed") == 0))
    further = further.filter(pl.col("rounds") < pl.col("rounds_total"))
    assert f"{2 * further.height} are yet to be read further." in page


def test_a_share_of_tokens_is_told_in_points_and_what_is_unknown_is_no_number(run: Path) -> None:
    ask_precision(run, 0.02)
    inf = pl.lit(float("inf"))
    edit(run, "stops", metric=pl.lit("top1"), low=-inf, high=inf, reached=pl.lit(False))
    page = said(run)
    section = page[page.index("How far documents were read") : page.index("Exploratory")]
    assert "half-width of 2 points" in section
    assert "empirical Bernstein" in section
    assert "unknown0 of 2" in section
    assert "inf" not in section


def test_the_table_of_stops_is_bounded_and_folded_away(run: Path) -> None:
    ask_precision(run, 0.02)
    for table in ("cells", "stops"):
        rows = pl.read_parquet(run / f"{table}.parquet")
        for column, values in (("selection", RULES), ("site", SITES), ("unit", ["neuron", "head"])):
            rows = spread_rows(rows, column, values)
        rows.write_parquet(run / f"{table}.parquet")
    section = written(stops_section(replace(read_run(run), unread=())))
    assert "Where reading stopped: 240 rows</summary>" in section
    assert "6 more are in the table stops.parquet." in section


def regression(unit: str, score: Sequence[float]) -> pl.DataFrame:
    fixed = {"model": "zoo:opt", "data": "stdlib", "site": "attn_pre_out", "basis": "own"}
    order = sorted(range(len(score)), key=lambda i: score[i])
    values = [score[i] for i in order]
    return pl.DataFrame(
        {
            **{key: [value] for key, value in fixed.items()},
            "unit": [unit],
            "selection": ["regression(masks=40)"],
            "order": [order],
            "score": [values],
            "score_low": [[v - 0.1 for v in values]],
            "score_high": [[v + 0.1 for v in values]],
        }
    )


def test_the_largest_and_the_smallest_effects_are_named(run: Path) -> None:
    facts = json.loads((run / "provenance.json").read_text())
    facts["models"]["zoo:opt"]["layers"] = 2
    (run / "provenance.json").write_text(json.dumps(facts))
    (run / "selections").mkdir()
    effects = [0.05 * i for i in range(16)]
    regression("head", effects).write_parquet(run / "selections" / "heads.parquet")
    page = said(run)
    section = page[page.index("Effects of single units") :]
    assert "13 of 16 effects have an interval clear of zero" in section
    assert re.search(r"layer 1 · head 7\s*\+0\.75\d? \[0\.65\d?, 0\.85\d?\]", section)
    assert re.search(r"layer 0 · head 0\s*0\.00\d? \[−0\.10\d?, 0\.10\d?\]", section)
    assert "… 4 between …" in section
    assert section.index("layer 1 · head 7") < section.index("layer 0 · head 0")
    blocks = [value for value in (0.5, 0.1, 0.3, 0.2) for _ in range(4)]
    regression("neuron", blocks).write_parquet(run / "selections" / "heads.parquet")
    page = said(run)
    assert re.search(r"layer 0 · neurons 0–3\s*\+0\.50", page)
    assert re.search(r"layer 1 · neurons 4–7\s*\+0\.20", page)
    assert "3 of 4 effects" in page


def test_further_metrics_have_a_table_and_a_dash_where_they_do_not_apply(run: Path) -> None:
    curves = pl.read_parquet(run / "curves.parquet")
    rare = curves.filter(metric="ce").with_columns(metric=pl.lit("top1_rare"), mean=pl.lit(0.123))
    kl = curves.filter(metric="d_ce").with_columns(metric=pl.lit("kl"), mean=pl.lit(0.456))
    changed = kl.with_columns(metric=pl.lit("d_kl"))
    add(run, "curves", pl.concat([rare, kl, changed]))
    ask(run, evaluation={"metrics": ["top1", "ce", "kl", "top1_rare", "perplexity"]})
    page = said(run)
    section = page[page.index("Further metrics") :]
    assert "held atKL (nats)Top-1 of rarer tokens (%)zoo:opt" in section  # no perplexity yet
    assert "12.3" in section
    assert "0.456" in section
    assert (run / "report" / "curves-kl.svg").exists()


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", "(relu): 40 % of the activations of the MLP’s middle are exactly 0, and so is the"
                 " peak of 50 % of its neurons"),
        ("gelu", "(gelu): a GELU’s density diverges at its minimum, −0.17. The peak of 50 % of the"
                 " neurons of the MLP’s middle lies within 0.01 of it"),
    ],
)  # fmt: skip
def test_atoms_in_the_mlp_are_warned_of(counted: Path, activation: str, expected: str) -> None:
    run = counted
    facts = json.loads((run / "provenance.json").read_text())
    facts["models"]["zoo:opt"]["activation"] = activation
    (run / "provenance.json").write_text(json.dumps(facts))
    (file,) = (run / "statistics").glob("**/*.parquet")
    at = 0.0 if activation == "relu" else -0.165
    zeros = pl.col("count") * 2 // 5 if activation == "relu" else pl.lit(0, pl.Int64)
    peak = pl.when(pl.col("layer") == 0).then(at).otherwise(0.5)
    rows = pl.read_parquet(file).with_columns(site=pl.lit("mlp_mid"), peak=peak, zeros=zeros)
    rows.write_parquet(file)
    spread(run, "site", ["mlp_mid"])
    assert expected in said(run)


def test_a_run_of_attention_alone_has_no_warning_of_atoms(counted: Path) -> None:
    assert "exactly 0" not in said(counted)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Cells and results as a sweep leaves them, nothing derived."""
    store = Store(tmp_path_factory.mktemp("answered"))
    points = answered_cells(masks=3)
    store.replace("cells.parquet", parquet(points.to_arrow()))
    store.replace("results/all.parquet", parquet(answered_results(points).to_arrow()))
    return store


def test_every_derived_table_is_written(finished: Store) -> None:
    results.aggregated(finished, [("peak", "mean")])
    for name in ("summary", "contrasts", "curves", "areas", "deletions"):
        assert finished.exists(f"{name}.parquet")
    for name in ("summary", "contrasts", "curves", "areas"):
        assert results.table(finished, name).collect().height
    assert results.table(finished, "curves").collect()["metric"].unique().len() == 4


def test_the_metrics_that_are_asked_for_are_those_in_the_tables(finished: Store) -> None:
    results.aggregated(finished, [], ("ce",))
    assert set(results.table(finished, "areas").collect()["metric"]) == {"ce", "d_ce"}
    assert set(results.table(finished, "contrasts").collect()["metric"]) == {"ce"}


def test_of_many_comparisons_between_axes_the_first_are_told_and_the_rest_counted(
    run: Path,
) -> None:
    spread(run, "selection", RULES)
    rows = pl.read_parquet(run / "contrasts.parquet").filter(a="peak", b="mean")
    turned = rows.with_columns(
        basis=pl.lit(None, pl.String),
        method=pl.lit("peak - mean"),
        a=pl.lit("own"),
        b=pl.lit("rotated 0"),
    )
    add(run, "contrasts", turned)
    store = Store(run)
    told = results.notes(store)
    assert sum("what holding at the peak costs" in note for note in told) == 4
    assert sum(note.startswith("1 more comparisons of methods") for note in told) == 1
    assert not any("own" in note for note in results.notes(store, axes=0))
