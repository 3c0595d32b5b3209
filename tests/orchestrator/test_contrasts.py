"""Contrasts: what is compared with what, and recomputed by other means."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from orchestrator import aggregate, printing
from orchestrator.adjust import holm
from orchestrator.contrasts import MANY, pairs
from orchestrator.intervals import Floats, crossed, ratios
from orchestrator.report.contrasts import Question, sentence
from tests.orchestrator.answered import (
    FRACTIONS,
    MODALITY,
    OPTIMAL,
    UNITS,
    cells,
    holding,
    results,
    shifted,
)

AREA = pl.col("fraction").is_null()
HALF = pl.col("fraction") == 0.5
CE = pl.col("metric") == "ce"
LISTED = "explicit(units.parquet)"
NUMBERS = ["estimate", "low", "high", "p", "p_adjusted"]


def contrasted(
    points: pl.DataFrame, rows: pl.DataFrame, *declared: tuple[str, str]
) -> pl.DataFrame:
    return aggregate.contrasts(points.lazy(), rows.lazy(), declared)


def ce_of(rows: pl.DataFrame, names: list[str]) -> tuple[Floats, Floats]:
    """Each cell's CE, (M,), and residuals, (M, G), without any of the orchestrator's tables."""
    sums = rows.group_by("cell", "document").agg(pl.col("tokens", "loss").sum())
    of = [sums.filter(pl.col("cell") == name).sort("document") for name in names]
    loss_CG, tokens_CG = (np.array([f[c].to_list() for f in of], float) for c in ("loss", "tokens"))
    return ratios(loss_CG, tokens_CG)


def test_a_rule_without_masks_is_set_against_each_mask_of_one_with_masks() -> None:
    points = cells(4, models=("zoo:opt",), selections=("random", "score(rms, low)"))
    rows = results(points, documents=9)
    made = contrasted(points, rows, ("random", "score(rms, low)"))
    row = made.filter("declared", HALF, CE, pl.col("method") == "peak").row(0, named=True)
    many = ce_of(rows, [f"zoo:opt-peak-None-0.5-{mask}" for mask in range(4)])
    one = ce_of(rows, ["zoo:opt-peak-None-0.5-None-score(rms, low)"])
    expected = crossed(many[0] - one[0], many[1] - one[1])
    assert (row["selection"], row["basis"], row["masks"], row["documents"]) == (None, "own", 4, 9)
    assert row["estimate"] == pytest.approx(float(expected.value))
    assert (row["low"], row["high"]) == pytest.approx((float(expected.low), float(expected.high)))
    assert row["p"] == pytest.approx(float(expected.p))


def test_two_rules_without_masks_are_compared_over_documents_alone() -> None:
    points = cells(4, models=("zoo:opt",), selections=("score(rms)", "score(rms, low)"))
    made = contrasted(points, results(points))
    assert set(made.filter(pl.col("selection").is_null())["masks"]) == {1}


def test_rules_that_hold_different_shares_are_not_compared_and_are_no_tests() -> None:
    points = cells(3, models=("zoo:opt",), selections=("random", LISTED))
    points = holding(points, LISTED, {0.1: 1, 0.5: 3, 1: 4})
    made = contrasted(points, results(points), (LISTED, "random"), ("peak", "mean"))
    rules = made.filter(pl.col("selection").is_null())
    assert rules.height == 3 * 2 * 4
    assert rules["declared"].all()
    assert rules.select(NUMBERS).null_count().row(0) == (rules.height,) * 5
    said = dict(rules.select("fraction", "reason").unique().rows())
    assert said == {
        0.1: "the first holds 1 of 20 units, and the other 2",
        0.5: "the first holds 3 of 20 units, and the other 10",
        1: "the first holds 4 of 20 units, and the other 20",
        None: "their shares differ at fractions 0.1, 0.5, 1; choose fractions at which both hold"
        " the same number",
    }
    # Methods are compared as if nothing else had been declared.
    alone = contrasted(points, results(points), ("peak", "mean")).filter("declared")
    assert_frame_equal(made.filter("declared", pl.col("selection").is_not_null()), alone)


def test_where_only_some_shares_agree_these_points_are_compared_and_the_area_is_not() -> None:
    points = cells(7, models=("zoo:opt",), selections=("random", "score(rms)"))
    rows = results(points)
    pair = ("score(rms)", "random")
    alike = contrasted(points, rows, pair).filter("declared")
    made = contrasted(holding(points, "score(rms)", {0.1: 3}), rows, pair).filter("declared")
    assert made.filter(pl.col("fraction") == 0.1)["reason"].unique().to_list() == [
        "the first holds 3 of 20 units, and the other 2"
    ]
    (area,) = made.filter(AREA)["reason"].unique()
    assert area.startswith("their shares differ at fraction 0.1; ")
    rest = pl.col("fraction") > 0.1
    columns = ["method", "fraction", "metric", "estimate", "low", "high", "p", "reason"]
    assert_frame_equal(made.filter(rest).select(columns), alike.filter(rest).select(columns))
    tested = made.filter(rest)
    np.testing.assert_allclose(tested["p_adjusted"], holm(tested["p"].to_numpy()))


def test_with_complement_a_rule_that_leaves_some_is_not_set_against_the_unablated_model() -> None:
    points = cells(2, models=("zoo:opt",), selections=("random", LISTED), complement=True)
    made = contrasted(holding(points, LISTED, {0.1: 19, 0.5: 18, 1: 16}), results(points))
    said = made.filter(pl.col("selection").is_null(), pl.col("fraction") == 1)
    assert said["reason"].unique().to_list() == ["the first holds 16 of 20 units, and the other 0"]


@settings(max_examples=20, deadline=None)
@given(*[st.lists(st.integers(1, UNITS), min_size=3, max_size=3)] * 2)
def test_rules_are_compared_exactly_where_they_hold_the_same(a: list[int], b: list[int]) -> None:
    held = [dict(zip(FRACTIONS[1:], sorted(x), strict=True)) for x in (a, b)]
    points = cells(2, models=("zoo:opt",), swept=(("mean", "{}"),), selections=("r", "s"))
    for rule, units in zip(("r", "s"), held, strict=True):
        points = holding(points, rule, units)
    made = contrasted(points, results(points), ("r", "s")).filter(CE)
    ours, theirs = ([0, *of.values()] for of in held)
    for row in made.iter_rows(named=True):
        at = ours if row["fraction"] is None else [held[0][row["fraction"]]]
        same = set(at) <= set(theirs)  # at whichever fraction
        assert same == (row["reason"] is None)
        assert all((row[number] is not None) == same for number in NUMBERS)
    # Whatever the first rule holds twice is told once, but beside others that it is not equal to.
    alike = {h for h in held[0].values() if h in theirs}
    others = {(held[0][f], held[1][f]) for f in FRACTIONS[1:] if held[0][f] not in theirs}
    assert made.height == len(alike) + len(others) + 1


def test_a_list_is_compared_with_random_ones_of_its_size_whichever_their_fraction() -> None:
    points = cells(3, models=("zoo:opt",), swept=(("mean", "{}"),), selections=("random", LISTED))
    points = holding(points, LISTED, {0.1: 1, 0.5: 2, 1: 10})  # random: 2, 10 and 20 of 20
    rows = results(points)
    made = contrasted(points, rows, (LISTED, "random")).filter(CE, "declared")
    half, whole = (made.filter(pl.col("fraction") == f).row(0, named=True) for f in (0.5, 1.0))
    assert half["reason"] is whole["reason"] is None
    assert made.filter(pl.col("fraction") == 0.1)["reason"][0].startswith("the first holds 1 of")
    level = aggregate.summary(points.lazy(), rows.lazy(), None).filter(pl.col("method") == "mean")
    listed = level.filter(pl.col("selection") == LISTED, pl.col("fraction") == 1)["ce"].mean()
    drawn = level.filter(pl.col("selection") == "random", pl.col("fraction") == 0.5)["ce"].mean()
    assert whole["estimate"] == pytest.approx(listed - drawn)


def test_what_is_not_compared_is_said_so_on_a_terminal_and_in_a_report() -> None:
    points = cells(2, models=("zoo:opt",), swept=(("mean", "{}"),), selections=("random", LISTED))
    points = holding(points, LISTED, {0.1: 1, 0.5: 3, 1: 4})
    made = contrasted(points, results(points), (LISTED, "random"))
    half, area, _ = printing.contrast_lines(made)
    assert half == (
        "zoo:opt: CE of explicit(units.parquet) minus random, at 50%: not compared: the first"
        " holds 3 of 20 units, and the other 10"
    )
    assert "area over fractions: not compared: their shares differ at fractions 0.1, 0.5" in area
    question = Question(kind="selections", a=LISTED, b="random", method="")
    row = made.filter(HALF, CE).with_columns(panel=pl.lit("opt")).row(0, named=True)
    said = sentence(question, row)
    assert "are not compared: the first holds 3 of 20 units, and the other 10." in said


def test_sites_that_no_rotation_is_about_have_no_rows_of_bases() -> None:
    sites = ("attn_pre_out", "mlp_mid")
    points = cells(7, models=("zoo:opt",), bases=("own", "rotated 0"), sites=sites)
    points = points.filter((pl.col("basis") == "own") | (pl.col("site") == "attn_pre_out"))
    made = contrasted(points, results(points), ("peak", "mean"), ("own", "rotated 0"))
    assert set(made.filter(pl.col("basis").is_null())["site"]) == {"attn_pre_out"}
    assert set(made.filter(pl.col("site") == "mlp_mid").select("a", "b", "declared").rows()) == {
        ("peak", "mean", True),
        ("peak", "resample", False),
        ("mean", "resample", False),
    }
    areas = made.filter("declared", AREA)
    # Three methods and one pair of them between bases; the pair in three groups.
    assert areas.height == 2 * (3 + 1 + 3)
    np.testing.assert_allclose(areas["p_adjusted"], holm(areas["p"].to_numpy()))
    summary = aggregate.summary(points.lazy(), results(points).lazy(), None)
    told = [x for x in aggregate.notes(summary, None, made) if "holding at the peak" in x]
    assert len(told) == 1
    assert "mlp_mid" not in told[0]


def test_bases_are_compared_on_the_same_masks_and_documents() -> None:
    points = cells(3, models=("zoo:opt",), bases=("own", "rotated 0"))
    rows = results(points)
    own = rows.filter(~pl.col("cell").str.contains("rotated"))
    # The rotated model answers as the other does, a quarter of a nat worse where it is ablated.
    alike = (
        points.filter(pl.col("basis") != "own")
        .select("cell")
        .unique()
        .with_columns(was=pl.col("cell").str.replace("-rotated 0", ""))
    )
    turned = (
        own.join(alike, left_on="cell", right_on="was").drop("cell").rename({"cell_right": "cell"})
    )
    turned = shifted(turned, lambda cell: 0.0 if "baseline" in cell else 0.25)
    # A mask that only one of them has answered is no part of the comparison.
    turned = turned.filter(~pl.col("cell").str.contains("peak-None-0.5-0"))
    both = pl.concat([own, turned.select(own.columns)])
    made = contrasted(points, both).filter(pl.col("basis").is_null(), pl.col("method") == "peak")
    assert set(made.select("a", "b").rows()) == {("own", "rotated 0")}
    half = made.filter(HALF, CE).row(0, named=True)
    assert half["masks"] == 2
    ends = half["estimate"], half["low"], half["high"]
    assert ends == pytest.approx((-0.25, -0.25, -0.25))
    assert made.filter(HALF, pl.col("metric") == "top1")["p"].to_list() == [1.0]


def test_whether_two_methods_differ_between_bases_is_a_difference_of_differences() -> None:
    points = cells(3, models=("zoo:opt",), bases=("own", "rotated 0"))
    made = contrasted(points, results(points), ("resample", "mean"))
    for a, b, said in (("resample", "mean", True), ("peak", "mean", False)):
        rows = made.filter(pl.col("method") == f"{a} - {b}").sort("fraction", "metric")
        assert set(rows["declared"]) == {said}
        assert set(rows.select("a", "b", "basis").rows()) == {("own", "rotated 0", None)}
        of = {
            basis: sign * part.sort("fraction", "metric")["estimate"]
            for basis in ("own", "rotated 0")
            for x, y, sign in ((a, b, 1), (b, a, -1))
            for part in [made.filter(basis=basis, a=x, b=y).filter(pl.col("method").is_null())]
            if part.height
        }
        expected = of["own"] - of["rotated 0"]
        np.testing.assert_allclose(rows["estimate"], expected, rtol=1e-9)


def test_a_declared_pair_may_be_of_methods_selections_or_bases() -> None:
    points = cells(
        2, models=("zoo:opt",), bases=("own", "rotated 0"), selections=("random", "score(rms)")
    )
    declared = [("peak", "mean"), ("score(rms)", "random"), ("own", "rotated 0")]
    made = contrasted(points, results(points), *declared, ("peak", "nothing"))
    plain = made.filter(~pl.col("method").fill_null("").str.contains(" - "))
    assert set(plain.filter("declared").select("a", "b").rows()) == set(declared)
    nulls = (
        plain.filter("declared")
        .group_by("a")
        .agg(pl.col("method", "selection", "basis").is_null().any())
    )
    assert set(nulls.rows()) == {
        ("peak", True, False, False),
        ("score(rms)", False, True, False),
        ("own", False, False, True),
    }


def test_what_is_not_declared_is_there_and_adjusted_for_nothing() -> None:
    points = cells(2, models=("zoo:opt",))
    made = contrasted(points, results(points), ("peak", "mean"))
    rest = made.filter(~pl.col("declared"))
    assert set(rest.select("a", "b").rows()) == {("mean", "resample"), ("peak", "resample")}
    assert rest["p_adjusted"].null_count() == rest.height
    assert rest["p"].null_count() == 0


def test_areas_and_fractions_are_two_families_over_all_models_and_metrics() -> None:
    points = cells(8)
    made = contrasted(points, results(points), ("peak", "mean"), ("resample", "mean"))
    said = made.filter("declared")
    for family, tests in ((said.filter(AREA), 2 * 2 * 2), (said.filter(~AREA), 2 * 2 * 2 * 3)):
        assert family.height == tests
        np.testing.assert_allclose(family["p_adjusted"], holm(family["p"].to_numpy()))
    assert (said["p_adjusted"] >= said["p"]).all()


def test_with_few_masks_an_adjusted_p_allows_for_what_they_do_not_show() -> None:
    points = cells(3, models=("zoo:opt",))
    rows = shifted(results(points), lambda cell: 1.5 if "peak" in cell else 0.0)
    area = contrasted(points, rows, ("peak", "mean")).filter("declared", AREA)
    plain = holm(area["p"].to_numpy())
    assert (area["p_adjusted"].to_numpy() >= plain).all()
    assert (area["p_adjusted"].to_numpy() > plain).any()


def test_of_many_labels_only_pairs_with_the_first_are_made_unasked() -> None:
    labels = [f"m{i:02}" for i in range(MANY)]
    assert len(pairs(labels, [])) == MANY * (MANY - 1) // 2
    made = pairs([*labels, "zero"], [("m05", "m04")])
    assert made[0] == ("m05", "m04", True)
    assert {a for a, _, said in made if not said} == {"m00"}
    assert len(made) == 1 + MANY


def test_holding_all_but_the_chosen_is_ordered_by_the_share_that_is_held() -> None:
    points = cells(2, models=("zoo:opt",), fractions=(0, 0.1, 0.3, 1), complement=True)
    rows = shifted(results(points), lambda cell: 50.0 if "peak" in cell else 0.0)
    made = contrasted(points, rows, ("peak", "mean")).filter("declared", CE)
    # All but all is the unablated model.
    assert made["fraction"].to_list() == [0.1, 0.3, None]
    assert made["complement"].all()
    at_01, at_03, area = made["estimate"].to_list()
    # Shares 0, 0.7, 0.9; the area is a mean over them.
    assert area == pytest.approx((0.7 * at_03 / 2 + 0.2 * (at_03 + at_01) / 2) / 0.9)


def test_the_baseline_is_the_same_whatever_would_be_held_where_but_not_in_other_axes() -> None:
    points = cells(
        1, models=("zoo:opt",), bases=("own", "rotated 0"), sites=("attn_pre_out", "mlp_mid")
    )
    # The unablated model was asked for at one site alone.
    asked = (pl.col("fraction") > 0) | (pl.col("site") == "attn_pre_out")
    points = points.filter(asked)
    rows = results(points)
    made = aggregate.summary(points.lazy(), rows.lazy(), None)
    bases = dict(made.filter(pl.col("fraction") == 0).select("basis", "ce").rows())
    assert bases["own"] != bases["rotated 0"]
    for row in made.iter_rows(named=True):
        assert row["d_ce"] == pytest.approx(row["ce"] - bases[row["basis"]])
    curved = aggregate.curves(points.lazy(), rows.lazy())
    assert set(curved.filter(pl.col("metric") == "d_ce")["site"]) == {"attn_pre_out", "mlp_mid"}


def test_a_metric_gives_rows_only_of_the_models_it_applies_to() -> None:
    points = cells(2, models=tuple(MODALITY))
    rows = results(points)
    sizes = rows.select("sequence", bytes=pl.lit(10)).unique()
    sizes = sizes.join(points.select("model", "data").unique(), how="cross")
    asked = ["top10", "kl", "top1_rare", "top1_mask", "ce_mask", "perplexity", "bits_per_byte"]
    made = aggregate.contrasts(
        points.lazy(), rows.lazy(), [], metrics=asked, documents_bytes=sizes.lazy()
    )
    found = made.group_by("metric").agg(pl.col("model").unique().sort()).rows()
    text = ["zoo:opt", "zoo:roberta"]
    assert dict(found) == {
        "top10": sorted(MODALITY),
        "top1_rare": text,
        "perplexity": text,
        "top1_mask": ["zoo:roberta"],
        "ce_mask": ["zoo:roberta"],
        "bits_per_byte": ["zoo:opt"],
    }
    with pytest.raises(aggregate.UnknownMetricError, match=r"accuracy.*expected some of top1"):
        aggregate.contrasts(points.lazy(), rows.lazy(), [], metrics=["accuracy"])


def test_a_change_of_perplexity_is_the_difference_of_two_perplexities() -> None:
    points = cells(1, models=("zoo:opt",))
    rows = results(points).with_columns(pl.col("loss") / 5)
    curved = aggregate.curves(points.lazy(), rows.lazy(), metrics=["ce", "perplexity"])
    at = dict(
        curved.filter(
            pl.col("method") == "peak", pl.col("held_share") == 0.5, pl.col("band") == "pointwise"
        )
        .select("metric", pl.struct("mean", "low", "high"))
        .rows()
    )
    base = at["ce"]["mean"] - at["d_ce"]["mean"]
    assert at["perplexity"]["mean"] == pytest.approx(np.exp(at["ce"]["mean"]))
    change = np.exp(at["ce"]["mean"]) - np.exp(base)
    assert at["d_perplexity"]["mean"] == pytest.approx(change)
    # Delta method: the width is that of the logarithm times the level.
    width = {m: at[m]["high"] - at[m]["low"] for m in ("ce", "perplexity")}
    assert width["perplexity"] == pytest.approx(width["ce"] * at["perplexity"]["mean"])


def test_levels_on_masked_and_rare_tokens_are_shares_of_their_own_tokens() -> None:
    points = cells(1, models=("zoo:roberta",))
    rows = results(points)
    made = aggregate.summary(points.lazy(), rows.lazy(), None).row(0, named=True)
    of = rows.filter(pl.col("cell") == made["cell"]).sum().row(0, named=True)
    assert made["top1_rare"] == of["top1_rare"] / of["tokens_rare"]
    assert made["top1_mask"] == of["top1_mask"] / of["tokens_mask"]
    assert made["ce_mask"] == pytest.approx(of["loss_mask"] / of["tokens_mask"])
    assert made["perplexity"] == pytest.approx(np.exp(of["loss"] / of["tokens"]))
    lost = rows.with_columns(nan=1)
    assert aggregate.summary(points.lazy(), lost.lazy(), None)["ce_mask"].null_count() == 4 * 3


def test_documents_without_a_rare_token_are_no_clusters_of_that_metric() -> None:
    points = cells(2, models=("zoo:opt",))
    none = pl.col("document") == "doc3"
    rows = results(points).with_columns(
        tokens_rare=pl.when(none).then(0).otherwise("tokens_rare"),
        top1_rare=pl.when(none).then(0).otherwise("top1_rare"),
    )
    lazy = points.lazy(), rows.lazy()
    made = aggregate.contrasts(*lazy, [("peak", "mean")], metrics=["top1", "top1_rare"])
    assert dict(made.select("metric", "documents").unique().rows()) == {"top1": 6, "top1_rare": 5}
    without = aggregate.contrasts(
        points.lazy(), rows.filter(~none).lazy(), [("peak", "mean")], metrics=["top1_rare"]
    )
    rare = made.filter(pl.col("metric") == "top1_rare")
    columns = ["fraction", "estimate", "low", "high", "p"]
    assert_frame_equal(rare.select(columns), without.select(columns))


def test_every_gap_and_every_question_is_there_while_a_sweep_runs() -> None:
    points = cells(2, models=("zoo:opt",), swept=OPTIMAL, bases=("own", "rotated 0"))
    rows = results(points)
    part = rows.filter(~pl.col("cell").str.contains("optimal"))
    made = contrasted(points, part, ("peak", "optimal"))
    assert made.schema == contrasted(points, rows).schema
    assert made.filter(pl.col("metric") == "gap_closed").is_empty()
    assert not made["declared"].any()
