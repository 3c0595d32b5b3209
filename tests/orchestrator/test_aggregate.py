"""Aggregate: worked examples, an independent recomputation, and what a running sweep gives."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.stats import t as student

from orchestrator import aggregate
from orchestrator.answers import RESULTS
from tests.orchestrator.answered import MODELS, cells, results, shifted


def all_three(points: pl.DataFrame, rows: pl.DataFrame) -> list[pl.DataFrame]:
    lazy = points.lazy(), rows.lazy()
    return [
        aggregate.summary(*lazy, None),
        aggregate.contrasts(*lazy, [("peak", "mean"), ("resample", "peak")]),
        aggregate.curves(*lazy),
    ]


def pointwise(curved: pl.DataFrame) -> pl.DataFrame:
    return curved.filter(pl.col("band") == "pointwise")


def tiny() -> tuple[pl.DataFrame, pl.DataFrame]:
    """A baseline and one ablated cell, three documents; numbers a person can check."""
    points = cells(1, models=("zoo:opt",)).filter(
        (pl.col("method") == "mean") & pl.col("fraction").is_in([0.0, 0.5])
    )
    rows = [
        # cell, document, sequence, tokens, top1, loss
        ("zoo:opt-baseline", "x", 0, 4, 3, 4.0),
        ("zoo:opt-baseline", "x", 1, 4, 3, 4.0),
        ("zoo:opt-baseline", "y", 2, 8, 5, 16.0),
        ("zoo:opt-baseline", "z", 3, 8, 1, 12.0),
        ("zoo:opt-mean-None-0.5-0", "x", 0, 4, 2, 6.0),
        ("zoo:opt-mean-None-0.5-0", "x", 1, 4, 2, 6.0),
        ("zoo:opt-mean-None-0.5-0", "y", 2, 8, 2, 16.0),
        ("zoo:opt-mean-None-0.5-0", "z", 3, 8, 0, 20.0),
    ]
    names = ("cell", "document", "sequence", "tokens", "top1", "loss")
    fixed = {"top10": 4, "kl": None, "tokens_rare": None, "top1_rare": None, "nan": 0}
    fixed |= dict.fromkeys(("tokens_mask", "top1_mask", "loss_mask"))
    return points, pl.DataFrame(
        [dict(zip(names, row, strict=True)) | fixed for row in rows], schema=RESULTS
    )


def test_a_summary_is_that_worked_out_by_hand() -> None:
    points, rows = tiny()
    sizes = pl.DataFrame(
        {"model": ["zoo:opt"] * 4, "data": ["d"] * 4, "sequence": range(4), "bytes": [16] * 4}
    )
    made = aggregate.summary(points.lazy(), rows.lazy(), sizes.lazy())
    baseline, held = made.rows(named=True)
    assert (baseline["tokens"], baseline["documents"]) == (24, 3)
    assert baseline["top1"] == 12 / 24
    assert baseline["ce"] == 36 / 24
    assert held["top10"] == 16 / 24
    # Residuals of the baseline's loss: (8 - 12)/24, (16 - 12)/24, 0.
    assert baseline["ce_se"] == pytest.approx(math.sqrt(3 / 2 * 2 * (4 / 24) ** 2))
    assert baseline["bits_per_byte"] == pytest.approx(36 / math.log(2) / 64)
    # Change of the loss per document: +4, 0, +8 over 24 tokens; of right tokens: -2, -3, -1.
    assert held["d_ce"] == pytest.approx(12 / 24)
    assert held["d_top1"] == pytest.approx(-6 / 24)
    half = student.ppf(0.975, 2) * math.sqrt(3 / 2 * 2 * (4 / 24) ** 2)
    assert held["d_ce_high"] == pytest.approx(0.5 + half)
    assert held["d_ce_low"] == pytest.approx(0.5 - half)
    half = student.ppf(0.975, 2) * math.sqrt(3 / 2 * 2 * (1 / 24) ** 2)
    assert held["d_top1_high"] == pytest.approx(-0.25 + half)
    assert made["kl"].null_count() == 2


def test_the_summary_has_the_columns_of_the_cells_and_then_its_own() -> None:
    made = all_three(*tiny())[0]
    assert made.columns[:20] == tiny()[0].columns
    levels = ["tokens", "documents", "top1", "top1_se", "top10", "ce", "ce_se", "kl"]
    changes = [f"d_{m}{end}" for m in ("top1", "ce") for end in ("", "_low", "_high")]
    more = ["bits_per_byte", "top1_rare", "top1_mask", "ce_mask", "perplexity"]
    assert made.columns[20:] == [*levels, *more, *changes, "logit_diff", "choice"]


def test_the_baseline_differs_from_itself_by_exactly_nothing() -> None:
    points = cells(donors=3)
    made, _, curved = all_three(points, results(points))
    changes = [c for c in made.columns if c.startswith("d_")]
    assert set(made.filter(pl.col("fraction") == 0).select(changes).unique().rows()) == {(0.0,) * 6}
    flat = curved.filter(pl.col("metric").str.starts_with("d_"), pl.col("held_share") == 0)
    assert set(flat.select("mean", "low", "high", "sd_masks", "masks").rows()) == {
        (0.0, 0.0, 0.0, None, 1)
    }


def test_every_nominal_point_of_a_shared_cell_has_the_same_numbers() -> None:
    points = cells(masks=4)
    made = all_three(points, results(points))[0]
    assert made.height == points.height
    whole = made.filter(pl.col("fraction") == 1).drop("seed")
    assert whole.height == 4 * whole.unique().height


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 100))
def test_the_order_of_rows_changes_nothing_to_the_last_bit(random, seed: int) -> None:  # type: ignore[no-untyped-def]
    points = cells(masks=2)
    rows = results(points, documents=3, seed=seed)
    shuffled = [f[random.sample(range(f.height), f.height)] for f in (points, rows)]
    for here, there in zip(all_three(points, rows), all_three(*shuffled), strict=True):
        assert_frame_equal(here, there, check_exact=True)


def test_the_names_of_documents_and_masks_change_nothing() -> None:
    points = cells()
    rows = results(points)
    renamed = (
        rows.with_columns("x" + pl.col("document").str.reverse()),
        points.with_columns(seed=7 - 2 * pl.col("seed")),
    )
    ranked = points.with_columns(pl.col("seed").replace({0: 2, 2: 0}))
    backwards = rows.with_columns(
        pl.col("document").replace({f"doc{i}": f"doc{5 - i}" for i in range(6)})
    )
    for other in ((renamed[1], renamed[0]), (ranked, backwards)):
        _, contrasted, curved = all_three(points, rows)
        _, contrasted_too, curved_too = all_three(*other)
        assert_frame_equal(contrasted, contrasted_too, rel_tol=1e-9, abs_tol=1e-12)
        assert_frame_equal(curved, curved_too, rel_tol=1e-9, abs_tol=1e-12)


@settings(max_examples=6, deadline=None)
@given(st.floats(0.1, 50))
def test_a_loss_in_another_unit_scales_its_numbers_and_no_others(unit: float) -> None:
    points = cells(masks=2, models=("zoo:opt",))
    rows = results(points)
    here = all_three(points, rows)
    there = all_three(points, rows.with_columns(pl.col("loss") * unit))
    scaled = [c for c in here[0].columns if c in ("ce", "ce_se") or c.startswith("d_ce")]
    rest = here[0].with_columns(pl.col(scaled) * unit).drop("perplexity")
    assert_frame_equal(rest, there[0].drop("perplexity"))
    assert_frame_equal(
        here[1].with_columns(
            pl.col(c) * pl.when(pl.col("metric") == "ce").then(unit).otherwise(1.0)
            for c in ("estimate", "low", "high")
        ),
        there[1],
    )


def test_an_answer_given_twice_is_counted_once() -> None:
    points = cells(masks=2)
    rows = results(points)
    again = rows.filter(pl.col("cell").str.contains("peak"))
    for here, there in zip(
        all_three(points, rows), all_three(points, pl.concat([rows, again])), strict=True
    ):
        assert_frame_equal(here, there, check_exact=True)


@pytest.mark.parametrize("column", ["tokens", "top1", "loss", "document", "nan"])
def test_two_different_answers_are_refused_by_the_name_of_their_cell(column: str) -> None:
    points = cells(masks=2)
    rows = results(points)
    other = rows.filter(pl.col("cell") == "zoo:opt-peak-None-all").head(1)
    changed = pl.lit("elsewhere") if column == "document" else pl.col(column) + 1
    rows = pl.concat([rows, other.with_columns(changed.alias(column))])
    with pytest.raises(aggregate.DifferingAnswersError, match=r"1 cells .* zoo:opt-peak-None-all"):
        aggregate.distinct(rows.lazy()).collect()
    with pytest.raises(aggregate.DifferingAnswersError):
        aggregate.curves(points.lazy(), rows.lazy())


def test_a_contrast_equals_an_independent_recomputation() -> None:
    points = cells(masks=4, models=("zoo:opt",))
    rows = results(points, documents=7)
    made = aggregate.contrasts(points.lazy(), rows.lazy(), [("peak", "mean")])
    made = made.filter("declared", pl.col("fraction") == 0.5, pl.col("metric") == "ce")

    def document_sums(cell: str) -> list[tuple[int, float]]:
        of = rows.filter(pl.col("cell") == cell)
        return [
            of.filter(pl.col("document") == d).select(pl.col("tokens", "loss").sum()).row(0)
            for d in sorted(set(of["document"]))
        ]

    differences, residuals = [], []
    for seed in range(4):
        linear = []
        for method in ("peak", "mean"):
            sums = document_sums(f"zoo:opt-{method}-None-0.5-{seed}")
            tokens = sum(n for n, _ in sums)
            ratio = sum(loss for _, loss in sums) / tokens
            linear.append((ratio, [(loss - ratio * n) / tokens for n, loss in sums]))
        differences.append(linear[0][0] - linear[1][0])
        residuals.append([a - b for a, b in zip(linear[0][1], linear[1][1], strict=True)])
    mean_g = [sum(column) / 4 for column in zip(*residuals, strict=True)]
    d = 7 / 6 * sum(x * x for x in mean_g)
    estimate = sum(differences) / 4
    m = sum((x - estimate) ** 2 for x in differences) / 3 / 4
    i = sum((x - y) ** 2 for r in residuals for x, y in zip(r, mean_g, strict=True)) * 7 / 6 / 12
    variance = max(d + m - i, d, m)
    half = student.ppf(0.975, variance**2 / (d**2 / 6 + m**2 / 3)) * math.sqrt(variance)
    row = made.row(0, named=True)
    assert row["estimate"] == pytest.approx(estimate)
    assert row["low"] == pytest.approx(estimate - half)
    assert row["high"] == pytest.approx(estimate + half)
    assert (row["documents"], row["masks"], row["declared"]) == (7, 4, True)
    t = abs(estimate) / math.sqrt(variance)
    assert row["p"] == pytest.approx(2 * student.sf(t, variance**2 / (d**2 / 6 + m**2 / 3)))


def test_exchanging_two_methods_changes_the_sign_of_their_contrast() -> None:
    points = cells()
    lazy = points.lazy(), results(points).lazy()
    there = aggregate.contrasts(*lazy, [("peak", "mean")]).filter("declared")
    back = aggregate.contrasts(*lazy, [("mean", "peak")]).filter("declared")
    assert there.height == back.height > 0
    assert_frame_equal(there["estimate"].to_frame(), (-back["estimate"]).to_frame())
    assert_frame_equal(there.select("high"), back.select(high=-pl.col("low")))


def test_the_area_is_the_trapezoids_of_the_contrasts_at_each_fraction() -> None:
    points = cells(models=("zoo:opt",))
    made = aggregate.contrasts(points.lazy(), results(points).lazy(), [("peak", "mean")])
    of = made.filter("declared", pl.col("metric") == "top1").sort("fraction", nulls_last=True)
    assert of["fraction"].to_list() == [0.1, 0.5, 1.0, None]
    at = of["estimate"].to_list()
    area = 0.1 * at[0] / 2 + 0.4 * (at[0] + at[1]) / 2 + 0.5 * (at[1] + at[2]) / 2
    assert at[3] == pytest.approx(area)


def test_where_all_masks_hold_the_same_there_is_one_mask_and_no_spread() -> None:
    points = cells(masks=4, donors=2)
    _, contrasted, curved = all_three(points, results(points))
    assert set(contrasted.filter(pl.col("fraction") == 1)["masks"]) == {1}
    assert set(contrasted.filter(pl.col("fraction").is_null())["masks"]) == {4}
    assert set(contrasted.filter(pl.col("fraction") == 0.5)["masks"]) == {4}
    whole = curved.filter(pl.col("held_share") == 1)
    assert set(whole["masks"]) == {1}
    assert whole["sd_masks"].null_count() == whole.height


def test_masks_that_differ_more_make_the_intervals_wider() -> None:
    points = cells(models=("zoo:opt",))
    rows = results(points)
    apart = shifted(rows, lambda cell: 5.0 if cell.endswith("peak-None-0.5-2") else 0.0)
    wide = [pl.col("metric") == "ce", pl.col("high") - pl.col("low")]

    def width(frame: pl.DataFrame) -> float:
        return float(frame.filter(wide[0]).select(wide[1]).item())

    def at(frames: list[pl.DataFrame]) -> tuple[float, float]:
        half = frames[1].filter(pl.col("fraction") == 0.5, pl.col("a") == "peak")
        point = pointwise(frames[2]).filter(pl.col("held_share") == 0.5, pl.col("method") == "peak")
        return width(half), width(point)

    less, more = at(all_three(points, rows)), at(all_three(points, apart))
    assert more[0] > 2 * less[0]
    assert more[1] > 2 * less[1]


def test_draws_of_one_mask_are_averaged_and_are_no_masks() -> None:
    points = cells(masks=3, donors=2, models=("zoo:opt",))
    rows = results(points)
    made, _, curved = all_three(points, rows)
    one = made.filter(pl.col("method") == "resample", pl.col("fraction") == 0.5)
    point = curved.filter(
        pl.col("method") == "resample", pl.col("held_share") == 0.5, pl.col("metric") == "d_ce"
    ).row(0, named=True)
    per_mask = one.group_by("seed").agg(pl.col("d_ce").mean())["d_ce"]
    assert point["masks"] == 3
    assert point["mean"] == pytest.approx(per_mask.mean())
    assert point["sd_masks"] == pytest.approx(per_mask.std())


def test_a_curve_passes_through_the_mean_of_the_summary_and_says_what_its_band_is() -> None:
    points = cells()
    made, _, curved = all_three(points, results(points))
    assert set(curved["band"]) == {"pointwise", "simultaneous"}
    assert set(curved["metric"]) == {"top1", "ce", "d_top1", "d_ce"}
    point = curved.filter(
        pl.col("model") == "zoo:vit",
        pl.col("method") == "mean",
        pl.col("held_share") == 0.1,
        pl.col("metric") == "top1",
    ).row(0, named=True)
    of = made.filter(
        pl.col("model") == "zoo:vit", pl.col("method") == "mean", pl.col("fraction") == 0.1
    )
    assert point["mean"] == pytest.approx(of["top1"].mean())
    assert point["sd_masks"] == pytest.approx(of["top1"].std())
    assert point["low"] < point["mean"] < point["high"]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_running_sweep_gives_the_rows_it_can_and_those_are_final(data: st.DataObject) -> None:
    points = cells(masks=2)
    rows = results(points, documents=3)
    names = sorted(set(points["cell"]))
    done = data.draw(st.sets(st.sampled_from(names)))
    full = all_three(points, rows)
    part = all_three(points, rows.filter(pl.col("cell").is_in(done)))
    assert part[0].height == points.filter(pl.col("cell").is_in(done)).height
    for whole, some in zip(full, part, strict=True):
        assert some.schema == whole.schema
    # A point that is there, with its baseline, has the numbers that it will keep.
    based = part[0].filter(pl.col("d_ce").is_not_null())
    assert based.join(full[0], on=based.columns, how="anti", nulls_equal=True).is_empty()
    bases = {m for m in MODELS if f"{m}-baseline" in done}
    assert set(based["model"]) == bases


def test_a_sweep_without_results_or_without_points_gives_empty_tables() -> None:
    points = cells()
    full = all_three(points, results(points))
    for here in ((points, pl.DataFrame(schema=RESULTS)), (points.clear(), results(points))):
        for empty, whole in zip(all_three(*here), full, strict=True):
            assert empty.is_empty()
            assert empty.schema == whole.schema


def test_a_cell_answered_in_part_has_levels_but_is_not_compared() -> None:
    points = cells(masks=2, models=("zoo:opt",))
    cell = "zoo:opt-peak-None-0.5-1"
    rows = results(points).filter((pl.col("cell") != cell) | (pl.col("sequence") < 4))
    made, contrasted, curved = all_three(points, rows)
    row = made.filter(pl.col("cell") == cell).row(0, named=True)
    assert row["ce"] is not None
    assert row["d_ce"] is row["d_ce_low"] is row["d_top1"] is None
    assert set(contrasted.filter(pl.col("a") == "peak", pl.col("fraction") == 0.5)["masks"]) == {1}
    half = curved.filter(pl.col("method") == "peak", pl.col("held_share") == 0.5)
    assert set(half["masks"]) == {1}
    assert any("1 cells are answered in part" in note for note in aggregate.notes(made))


def test_results_of_other_sweeps_are_left_alone() -> None:
    points = cells(masks=2)
    rows = results(points)
    other = rows.filter(pl.col("cell") == "zoo:opt-baseline").with_columns(cell=pl.lit("other"))
    for here, there in zip(
        all_three(points, rows), all_three(points, pl.concat([rows, other])), strict=True
    ):
        assert_frame_equal(here, there, check_exact=True)


def test_answers_of_before_lack_what_is_of_paired_prompts_and_count_all_the_same() -> None:
    points = cells()
    rows = results(points)
    made, *_ = all_three(points, rows)
    old, *_ = all_three(points, rows.drop("logit_diff", "choice"))
    assert old.equals(made)
    assert old["logit_diff"].null_count() == old["choice"].null_count() == old.height


def test_bits_per_byte_are_for_causal_text_alone() -> None:
    points = cells(masks=1)
    rows = results(points)
    sizes = (
        rows.select("sequence", bytes=pl.lit(10))
        .unique()
        .join(pl.DataFrame({"model": list(MODELS), "data": ["d", "d"]}), how="cross")
    )
    made = aggregate.summary(points.lazy(), rows.lazy(), sizes.lazy())
    assert set(made.filter(pl.col("bits_per_byte").is_not_null())["modality"]) == {"causal"}
    assert set(all_three(points, rows)[0]["bits_per_byte"]) == {None}


def test_a_loss_that_is_not_a_number_is_left_out_of_ce_and_said() -> None:
    points, rows = tiny()
    # Two of the eight tokens of document z have no loss; the other six keep theirs.
    lost = (pl.col("sequence") == 3) & (pl.col("cell") != "zoo:opt-baseline")
    rows = rows.with_columns(nan=pl.when(lost).then(2).otherwise(0))
    sizes = (
        points.select("model", "data")
        .unique()
        .join(rows.select("sequence", bytes=16).unique(), how="cross")
    )
    made = aggregate.summary(points.lazy(), rows.lazy(), sizes.lazy())
    held = made.row(1, named=True)
    assert held["ce"] == pytest.approx(48 / 22)
    assert held["d_ce"] == pytest.approx(48 / 22 - 36 / 24)
    assert (held["tokens"], held["top1"]) == (24, 6 / 24)
    assert held["bits_per_byte"] is None
    assert made["bits_per_byte"][0] is not None
    assert any("2 scored positions, in 1 cells" in x for x in aggregate.notes(made, rows.lazy()))


@pytest.mark.parametrize(("lost", "loss"), [(1, 0.0), (0, math.inf)])
def test_a_cell_without_a_finite_ce_makes_no_mean_of_the_others(lost: int, loss: float) -> None:
    points = cells(models=("zoo:opt",))
    bad = pl.col("cell") == "zoo:opt-peak-None-0.5-1"
    rows = results(points).with_columns(
        nan=pl.when(bad).then(pl.col("tokens") * lost).otherwise("nan"),
        loss=pl.when(bad).then(loss).otherwise("loss"),
    )
    made, contrasted, curved = all_three(points, rows)
    assert made.filter(bad)["ce"].to_list() == [None]
    assert made.filter(bad)["top1"].null_count() == 0
    half = (pl.col("metric") == "ce") & (pl.col("masks") == 3)
    at = contrasted.filter(half, pl.col("fraction") == 0.5, pl.col("a") == "peak")
    assert at.select("estimate", "low", "high").row(0) == (None, None, None)
    at = curved.filter(half, pl.col("held_share") == 0.5, pl.col("method") == "peak")
    assert at.select("mean", "low", "high").row(0) == (None, None, None)


def test_documents_without_a_scored_token_are_no_clusters() -> None:
    points, rows = tiny()
    silent = rows.filter(pl.col("sequence") == 3).with_columns(
        pl.lit(9, pl.Int64).alias("sequence"),
        pl.lit("silent").alias("document"),
        *(pl.lit(0, pl.Int64).alias(c) for c in ("tokens", "top1", "top10")),
        loss=0.0,
    )
    for here, there in zip(
        all_three(points, rows), all_three(points, pl.concat([rows, silent])), strict=True
    ):
        assert_frame_equal(here, there)


def test_one_document_gives_numbers_without_errors() -> None:
    points = cells(masks=2)
    made, contrasted, curved = all_three(points, results(points, documents=1))
    assert made["ce"].null_count() == 0
    assert made["ce_se"].null_count() == made.height
    assert contrasted["low"].null_count() == contrasted.height
    assert curved["mean"].null_count() == 0
    assert curved["low"].null_count() == curved.height


def test_few_documents_are_said_aloud_and_enough_are_not() -> None:
    points = cells(masks=1)
    few = all_three(points, results(points, documents=29))[0]
    assert [note.split(";")[0] for note in aggregate.notes(few)] == [
        "zoo:opt on d: 29 documents",
        "zoo:vit on d: 29 documents",
    ]
    assert aggregate.notes(all_three(points, results(points, documents=30))[0]) == []


def test_a_pair_that_a_sweep_does_not_have_makes_no_row() -> None:
    points = cells(masks=1)
    made = aggregate.contrasts(points.lazy(), results(points).lazy(), [("peak(paper)", "mean")])
    assert not made["declared"].any()
    assert "peak(paper)" not in {*made["a"], *made["b"]}


def test_kl_is_a_mean_per_token_where_it_was_asked_for() -> None:
    points, rows = tiny()
    made = aggregate.summary(points.lazy(), rows.with_columns(kl=3.0).lazy(), None)
    assert made["kl"].to_list() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("zero", "{}", "zero"),
        ("peak", "{}", "peak"),
        ("peak", '{"estimator":"smooth"}', "peak"),
        ("peak", '{"estimator":"paper"}', "peak(paper)"),
        ("resample", '{"source":"dataset"}', "resample"),
        ("resample", '{"source":"random_tokens"}', "resample(random_tokens)"),
        ("quantile", '{"q":0.9}', "quantile(0.9)"),
        ("mean", '{"alpha":0.5}', "mean(alpha=0.5)"),
    ],
)
def test_a_method_is_labelled_as_a_sweep_file_says_it(
    method: str, parameters: str, said: str
) -> None:
    assert aggregate.label(method, parameters) == said
    frame = pl.DataFrame({"method": [method, "mean"], "parameters": [parameters, "{}"]})
    assert aggregate.method_label(frame)["label"].to_list() == [said, "mean"]
