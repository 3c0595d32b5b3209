"""Bands: how strongly points hang together decides how wide a band must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from orchestrator.bands import joint_level
from orchestrator.intervals import LEVEL, Floats, crossed

P, G, M = 6, 40, 8
NONE = np.zeros((P, 0))


def drawn(*shape: int, seed: int = 3) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


def test_points_that_move_as_one_need_no_more_than_one_point_does() -> None:
    level = float(joint_level(np.tile(drawn(1, G), (P, 1)), NONE, seed=1))
    assert LEVEL <= level < 0.96


def test_points_that_have_nothing_in_common_need_what_independent_ones_do() -> None:
    shares_PG = np.kron(np.eye(P), drawn(1, G))
    assert joint_level(shares_PG, NONE, seed=1) == pytest.approx(LEVEL ** (1 / P), abs=0.002)


def test_masks_and_documents_count_alike() -> None:
    shares = drawn(P, 10)
    of_documents = joint_level(shares, NONE, seed=5)
    assert joint_level(np.zeros((P, 0)), shares, seed=5) == of_documents


@settings(max_examples=30, deadline=None)
@given(
    arrays.arrays(np.float64, (4, 9), elements=st.floats(-9, 9).map(lambda x: round(x, 2))),
    st.randoms(use_true_random=False),
)
def test_names_and_units_do_not_matter_and_the_level_has_bounds(shares_PG: Floats, random) -> None:  # type: ignore[no-untyped-def]
    documents_PG, masks_PM = shares_PG[:, :3], shares_PG[:, 3:]
    level = joint_level(documents_PG, masks_PM, seed=0)
    # Two points that move as one are told apart by rounding; the draws then differ a little.
    order = random.sample(range(6), 6)
    renamed = joint_level(documents_PG[:, ::-1], masks_PM[:, order], seed=0)
    assert renamed == pytest.approx(level, abs=1e-6)
    assert joint_level(documents_PG * 8, masks_PM * 8, seed=0) == pytest.approx(level, abs=1e-6)
    assert LEVEL <= level <= LEVEL ** (1 / 4) + 0.004


def test_a_point_without_any_error_costs_nothing() -> None:
    shares_PG = drawn(P, G)
    still = np.concatenate([np.zeros((3, G)), shares_PG])
    level = joint_level(shares_PG, NONE, seed=2)
    assert joint_level(still, np.zeros((P + 3, 0)), seed=2) == pytest.approx(level, abs=0.003)
    assert joint_level(np.zeros((P, G)), NONE, seed=2) == LEVEL


def test_few_masks_say_nothing_of_how_points_hang_together() -> None:
    alike = np.tile(drawn(1, G), (P, 1))
    level = LEVEL ** (1 / P)
    assert joint_level(alike, np.zeros((P, 3)), seed=1) == pytest.approx(level)
    # One mask is no draw from anything: documents alone count.
    assert joint_level(alike, np.zeros((P, 1)), seed=1) < 0.96


def test_an_error_that_is_no_number_gives_no_band() -> None:
    shares_PG = drawn(P, G)
    shares_PG[2] = np.nan
    assert np.isnan(joint_level(shares_PG, NONE, seed=1))


def test_the_seed_alone_decides_the_draws() -> None:
    shares = drawn(P, G)
    assert joint_level(shares, NONE, seed=4) == joint_level(shares, NONE, seed=4)
    assert joint_level(shares, NONE, seed=4) != joint_level(shares, NONE, seed=5)


def test_a_band_covers_all_points_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    sweeps = 400
    common = rng.standard_normal((sweeps, 1, M, 1)) + 2 * rng.standard_normal((sweeps, 1, 1, G))
    own = rng.standard_normal((sweeps, P, M, 1)) + 2 * rng.standard_normal((sweeps, P, 1, G))
    shift = common + own + rng.standard_normal((sweeps, P, M, G))
    value = shift.mean(axis=3)
    residuals = (shift - value[..., None]) / G
    made = crossed(value, residuals)
    level = joint_level(
        residuals.mean(axis=2) * (G / (G - 1)) ** 0.5,
        (value - value.mean(axis=2, keepdims=True)) / (M * (M - 1)) ** 0.5,
        seed=0,
    )
    jointly = (np.abs(made.value) <= made.half_width_at(level[:, None])).all(axis=1).mean()
    pointwise = (np.abs(made.value) <= made.half_width).all(axis=1).mean()
    assert pointwise < 0.88
    assert 0.91 <= jointly <= 0.985
