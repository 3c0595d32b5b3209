"""Curves and areas: whole curves are covered by wider bands, and areas are means over shares."""

import numpy as np
import polars as pl
import pytest

from orchestrator import aggregate
from tests.orchestrator.answered import cells, results

KEYS = ["method", "metric", "held_share"]


def bands(curved: pl.DataFrame) -> list[pl.DataFrame]:
    return [curved.filter(pl.col("band") == b).sort(KEYS) for b in ("pointwise", "simultaneous")]


@pytest.mark.parametrize("masks", [1, 3, 8])
def test_every_point_has_both_bands_and_that_of_the_curve_is_the_wider(masks: int) -> None:
    points = cells(masks, models=("zoo:opt",))
    curved = aggregate.curves(points.lazy(), results(points, documents=12).lazy())
    point, curve = bands(curved)
    same = [*KEYS, "mean", "sd_masks", "masks", "parameters"]
    assert point.select(same).equals(curve.select(same))
    wide = (curve["high"] - curve["low"]).to_numpy()
    narrow = (point["high"] - point["low"]).to_numpy()
    still = (point["metric"].str.starts_with("d_") & (point["held_share"] == 0)).to_numpy()
    assert (wide[still] == 0).all()
    assert (wide[~still] > narrow[~still]).all()
    assert (wide[~still] < 4 * narrow[~still]).all()


def test_the_seed_decides_the_bands_of_whole_curves_and_nothing_else() -> None:
    points = cells(8, models=("zoo:opt",))
    lazy = points.lazy(), results(points).lazy()
    (point, curve), (other_point, other_curve) = (
        bands(aggregate.curves(*lazy, seed=seed)) for seed in (0, 1)
    )
    assert point.equals(other_point)
    assert not curve.equals(other_curve)
    assert curve.equals(bands(aggregate.curves(*lazy, seed=0))[1])


def test_an_area_is_the_mean_of_the_curve_over_the_share() -> None:
    points = cells(4, models=("zoo:opt",), fractions=(0, 0.1, 0.5))
    lazy = points.lazy(), results(points).lazy()
    made = aggregate.areas(*lazy)
    assert made.height == 3 * 4
    assert set(made.select("from_share", "to_share", "masks", "documents").rows()) == {
        (0, 0.5, 4, 6)
    }
    curve = aggregate.curves(*lazy).filter(pl.col("band") == "pointwise")
    for row in made.iter_rows(named=True):
        of = curve.filter(method=row["method"], metric=row["metric"]).sort("held_share")
        area = np.trapezoid(of["mean"].to_numpy(), of["held_share"].to_numpy()) / 0.5
        assert row["area"] == pytest.approx(area)
        assert row["low"] < row["area"] < row["high"]
    both = made.filter(pl.col("metric") == "ce")["area"] - made.filter(metric="d_ce")["area"]
    assert both.to_list() == pytest.approx([both[0]] * 3)


def test_the_difference_of_two_areas_is_the_contrast_of_the_area() -> None:
    points = cells(4, models=("zoo:opt",))
    lazy = points.lazy(), results(points).lazy()
    area = dict(aggregate.areas(*lazy).filter(metric="ce").select("method", "area").rows())
    made = aggregate.contrasts(*lazy, [("peak", "mean")])
    contrast = made.filter("declared", pl.col("fraction").is_null(), pl.col("metric") == "ce")
    assert contrast["estimate"].item() == pytest.approx(area["peak"] - area["mean"])


def test_an_area_waits_for_every_point_of_its_masks() -> None:
    points = cells(3, models=("zoo:opt",))
    rows = results(points)
    missing = rows.filter(pl.col("cell") != "zoo:opt-peak-None-0.5-1")
    made = aggregate.areas(points.lazy(), missing.lazy())
    assert dict(made.filter(metric="ce").select("method", "masks").rows()) == {
        "mean": 3,
        "peak": 2,
        "resample": 3,
    }
    none = rows.filter(~pl.col("cell").str.contains("peak.*all"))
    assert set(aggregate.areas(points.lazy(), none.lazy())["method"]) == {"mean", "resample"}


def test_holding_all_but_the_chosen_draws_the_curve_by_what_is_held() -> None:
    points = cells(2, models=("zoo:opt",), fractions=(0, 0.1, 0.3, 1), complement=True)
    rows = results(points)
    curved = bands(aggregate.curves(points.lazy(), rows.lazy()))[0]
    of = curved.filter(method="peak", metric="d_ce")
    assert of["held_share"].to_list() == [0, 0.7, 0.9]
    assert of["mean"][0] == 0
    made = aggregate.summary(points.lazy(), rows.lazy(), None)
    mean = made.filter(pl.col("fraction") == 0.3, pl.col("method") == "peak")["d_ce"].mean()
    assert of["mean"][1] == pytest.approx(mean)


def test_fractions_that_hold_the_same_units_are_one_point() -> None:
    points = cells(2, models=("zoo:opt",), fractions=(0, 0.49, 0.5, 1))
    # Both hold ten of twenty units, so a plan gives them one cell.
    points = points.with_columns(cell=pl.col("cell").str.replace("-0.49-", "-0.5-"))
    lazy = points.lazy(), results(points).lazy()
    assert set(aggregate.curves(*lazy)["held_share"]) == {0, 0.5, 1}
    assert set(aggregate.contrasts(*lazy, [])["fraction"]) == {0.49, 1, None}
