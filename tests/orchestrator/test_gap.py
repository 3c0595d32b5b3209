"""Gap: how much of the way to the optimum a constant goes, and when that can't be said."""

import numpy as np
import polars as pl
import pytest

from orchestrator import aggregate
from orchestrator.gap import NO_INTERVAL, NOT_POSITIVE, WITHIN_NOISE, share
from orchestrator.intervals import crossed
from tests.orchestrator.answered import OPTIMAL, cells, results

COSTS = {"zero": 3.0, "mean": 2.5, "peak": 2.25, "optimal": 2.0}


def answered(
    costs: dict[str, float], noise: float = 0.0, documents: int = 8, masks: int = 7
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Answers whose CE is a method's cost above one nat, times the fraction, and some noise."""
    swept = (*OPTIMAL, ("mean", '{"alpha":0.5}'), ("peak", '{"by":"position"}'), ("noise", "{}"))
    points = cells(masks, models=("zoo:opt",), swept=swept)
    rng = np.random.default_rng(1)
    cost = points.select(
        "cell",
        loss=1 + pl.col("fraction") * pl.col("method").replace_strict(costs, default=2.2),
    ).unique("cell")
    rows = results(points, documents=documents).drop("loss").join(cost, on="cell")
    spread = noise * rng.standard_normal(rows.height)
    rows = rows.sort("cell", "sequence").with_columns(
        loss=pl.col("tokens") * (pl.col("loss") + spread)
    )
    return points, rows.select(*results(points.head(1)).columns)


def closed(points: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    made = aggregate.contrasts(points.lazy(), rows.lazy(), [("peak", "zero")])
    return made.filter(pl.col("metric") == "gap_closed")


def test_the_share_is_the_way_that_is_gone_over_the_whole_way() -> None:
    made = closed(*answered(COSTS))
    at = {(row["a"], row["b"]): row for row in made.filter(pl.col("fraction") == 0.5).to_dicts()}
    assert at["peak", "zero"]["estimate"] == pytest.approx(0.75)
    assert at["peak", "mean"]["estimate"] == pytest.approx(0.5)
    assert at["mean", "zero"]["estimate"] == pytest.approx(0.5)
    assert at["zero", "mean"]["estimate"] == pytest.approx(-1)
    area = made.filter(pl.col("fraction").is_null(), pl.col("b") == "zero", pl.col("a") == "peak")
    assert area["estimate"].item() == pytest.approx(0.75)
    assert made["p"].null_count() == made["p_adjusted"].null_count() == made.height
    assert not made["declared"].any()
    assert made["reason"].null_count() == made.height


def test_softened_positional_and_random_methods_have_another_floor_and_no_share() -> None:
    assert set(closed(*answered(COSTS))["a"]) == {"zero", "mean", "peak"}


def test_the_floor_is_learned_cell_by_cell_with_whatever_steps() -> None:
    points, rows = answered(COSTS)
    here = closed(points, rows)
    fewer = pl.col("parameters").replace("{}", '{"steps":20}')
    optimal = pl.when(pl.col("method") == "optimal")
    renamed = points.with_columns(optimal.then(fewer).otherwise("parameters").alias("parameters"))
    assert closed(renamed, rows).equals(here)
    # One set of constants for all cells is no floor, but a method like others.
    shared = fewer.replace('{"steps":20}', '{"scope":"shared"}')
    both = [points, points.filter(pl.col("method") == "optimal").with_columns(shared)]
    made = closed(pl.concat(both), rows)
    assert set(made["a"]) == {*here["a"], "optimal(shared)"}
    assert closed(both[1], rows).is_empty()


def test_a_gap_within_noise_has_a_reason_in_place_of_a_share() -> None:
    made = closed(*answered(COSTS | {"zero": 2.0}, noise=1.0)).filter(pl.col("b") == "zero")
    assert set(made["reason"]) == {WITHIN_NOISE}
    assert made["estimate"].null_count() == made["low"].null_count() == made.height


def test_an_optimum_that_loses_more_than_the_reference_has_no_gap() -> None:
    made = closed(*answered(COSTS | {"optimal": 2.75})).filter(pl.col("b") == "mean")
    assert set(made["reason"]) == {NOT_POSITIVE}
    assert made["estimate"].null_count() == made.height


def test_one_document_gives_a_gap_no_interval() -> None:
    assert set(closed(*answered(COSTS, documents=1))["reason"]) == {NO_INTERVAL}


def test_a_cost_that_all_methods_share_moves_no_share() -> None:
    points, rows = answered(COSTS, noise=0.1)
    more = rows.with_columns(loss=pl.col("loss") + 4 * pl.col("tokens"))
    here, there = closed(points, rows), closed(points, more)
    for column in ("estimate", "low", "high"):
        np.testing.assert_allclose(here[column], there[column], rtol=1e-6)


def test_the_interval_is_that_of_the_linearised_ratio() -> None:
    rng = np.random.default_rng(5)
    gained_M, gap_M = rng.normal(2, 0.3, 6), rng.normal(4, 0.3, 6)
    gained_MG, gap_MG = rng.normal(0, 0.02, (2, 6, 30))
    made = share(gained_M, gained_MG, gap_M, gap_MG)
    ratio = gained_M.mean() / gap_M.mean()
    assert float(made.value) == pytest.approx(ratio)
    # What is left when the share is taken off is a difference like any other, over the gap.
    left = crossed(gained_M - ratio * gap_M, gained_MG - ratio * gap_MG)
    assert float(made.half_width) == pytest.approx(float(left.half_width) / gap_M.mean())
    # To the reference's side the share is the rest: 1 − share, as wide.
    rest = share(gap_M - gained_M, gap_MG - gained_MG, gap_M, gap_MG)
    assert float(rest.low) == pytest.approx(1 - float(made.high))
