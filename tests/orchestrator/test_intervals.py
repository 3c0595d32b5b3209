"""Intervals: hand-computed numbers, laws, and how often they cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import t as student

from orchestrator.intervals import Estimate, Floats, clustered, crossed, ratios, trapezoid_weights

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


@st.composite
def designs(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Each mask's number, (M,), and residuals, (M, G), that add up to 0."""
    masks, documents = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    value_M = draw(arrays.arrays(np.float64, masks, elements=numbers))
    residuals_MG = draw(arrays.arrays(np.float64, (masks, documents), elements=numbers))
    return value_M, residuals_MG - residuals_MG.mean(axis=1, keepdims=True)


def test_a_ratio_and_its_error_are_those_worked_out_by_hand() -> None:
    # 6 of 12 tokens right: residuals (1 - 0.5*4)/12, (3 - 0.5*4)/12, (2 - 0.5*4)/12.
    ratio_C, residuals_CG = ratios(np.array([[1.0, 3.0, 2.0]]), np.array([[4.0, 4.0, 4.0]]))
    assert ratio_C.tolist() == [0.5]
    np.testing.assert_allclose(residuals_CG, [[-1 / 12, 1 / 12, 0]], atol=1e-15)
    made = clustered(ratio_C, residuals_CG, np.array([3]))
    # 3/2 x 2/144 = 1/48; t with two degrees at 97.5 % is 4.30265.
    np.testing.assert_allclose(made.variance, [1 / 48], rtol=1e-12)
    np.testing.assert_allclose(made.half_width, [4.302652729911275 / 48**0.5], rtol=1e-9)


def test_with_equal_documents_the_error_is_that_of_an_ordinary_mean() -> None:
    sums_G = np.array([[3.0, 1.0, 4.0, 1.0, 5.0]])
    ratio_C, residuals_CG = ratios(sums_G, np.full((1, 5), 2.0))
    made = clustered(ratio_C, residuals_CG, np.array([5]))
    np.testing.assert_allclose(made.variance, (sums_G / 2).var(ddof=1) / 5, rtol=1e-12)


@given(arrays.arrays(np.float64, (3, 6), elements=numbers))
def test_the_residuals_of_a_cell_add_up_to_zero(sums_CG: Floats) -> None:
    _, residuals_CG = ratios(sums_CG, np.tile(np.arange(1.0, 7.0), (3, 1)))
    np.testing.assert_allclose(residuals_CG.sum(axis=1), 0, atol=1e-10)


def test_a_crossed_error_is_documents_plus_masks_less_what_both_contain() -> None:
    value_M = np.array([1.0, 3.0])
    residuals_MG = np.array([[2.0, -1.0, -1.0], [4.0, -2.0, -2.0]])
    made = crossed(value_M, residuals_MG)
    documents = 3 / 2 * (9 + 2.25 + 2.25)  # of the masks' mean: 3, -1.5, -1.5
    masks = 2 / 2  # variance of 1 and 3 over two masks
    both = (1 + 0.25 + 0.25) * 2 * 3 / (2 * 1 * 2)  # of what is left: ∓1, ±0.5, ±0.5
    assert made.value == 2
    # The interaction exceeds the masks' variance here, so the floor holds: documents alone.
    assert documents + masks - both < documents
    assert made.variance == pytest.approx(documents)
    assert made.degrees == pytest.approx(documents**2 / (documents**2 / 2 + masks**2 / 1))


def test_without_a_floor_the_three_parts_add_up() -> None:
    made = crossed(np.array([0.0, 10.0]), np.array([[1.0, -1.0], [2.0, -2.0]]))
    documents, masks, both = 2 * (1.5**2 * 2), 50 / 2, (4 * 0.25) * 2 / (1 * 1 * 2)
    assert made.variance == pytest.approx(documents + masks - both)


@given(designs())
def test_neither_source_of_variation_is_ever_lost(design: tuple[Floats, Floats]) -> None:
    value_M, residuals_MG = design
    made = crossed(value_M, residuals_MG)
    documents = crossed(value_M[:1], residuals_MG.mean(axis=0, keepdims=True))
    assert made.variance >= documents.variance * (1 - 1e-12)
    if len(value_M) > 1:
        assert made.variance >= value_M.var(ddof=1) / len(value_M) * (1 - 1e-12)


@given(designs(), st.randoms(use_true_random=False))
def test_the_order_of_masks_and_documents_does_not_matter(design, random) -> None:  # type: ignore[no-untyped-def]
    value_M, residuals_MG = design
    m, g = (random.sample(range(n), n) for n in residuals_MG.shape)
    here, there = crossed(value_M, residuals_MG), crossed(value_M[m], residuals_MG[m][:, g])
    np.testing.assert_allclose(here.low, there.low, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(here.high, there.high, rtol=1e-9, atol=1e-9)


@given(designs(), st.floats(0.01, 100))
def test_an_interval_scales_with_the_unit(design: tuple[Floats, Floats], unit: float) -> None:
    value_M, residuals_MG = design
    here, there = crossed(value_M, residuals_MG), crossed(value_M * unit, residuals_MG * unit)
    np.testing.assert_allclose(here.low * unit, there.low, rtol=1e-6, atol=1e-6)


@given(designs())
def test_masks_that_differ_more_make_the_variance_larger(design: tuple[Floats, Floats]) -> None:
    value_M, residuals_MG = design
    apart = value_M + 1000 * np.arange(len(value_M))
    more, less = crossed(apart, residuals_MG), crossed(value_M, residuals_MG)
    assert len(value_M) == 1 or more.variance > less.variance


def test_one_mask_leaves_the_documents() -> None:
    residuals_G = np.array([1.0, -3.0, 2.0])
    made = crossed(np.array([5.0]), residuals_G[None])
    assert made.variance == clustered(np.array(5.0), residuals_G, np.array(3)).variance == 21
    assert made.degrees == 2


def test_nothing_that_varies_gives_no_width_at_all() -> None:
    made = crossed(np.full(3, 0.25), np.zeros((3, 8)))
    assert [made.value, made.low, made.high] == [0.25] * 3


def test_one_document_says_nothing_of_others() -> None:
    made = crossed(np.array([1.0, 2.0]), np.zeros((2, 1)))
    assert np.isnan(made.half_width)
    assert made.value == 1.5


def test_a_cell_without_counts_has_no_ratio() -> None:
    ratio_C, _ = ratios(np.zeros((1, 3)), np.zeros((1, 3)))
    assert np.isnan(ratio_C).all()


def test_trapezoids_integrate_a_straight_line_exactly_on_any_grid() -> None:
    share_F = np.array([0.0, 0.1, 0.5, 1.0])
    assert trapezoid_weights(share_F) @ (3 * share_F) == pytest.approx(1.5)
    assert trapezoid_weights(np.array([0.3])).tolist() == [0]


@pytest.mark.parametrize(
    ("documents_sd", "masks_sd", "both_sd"), [(1, 0, 0), (0.1, 1, 0.1), (1, 0.3, 0.5), (0, 0, 1)]
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(
    documents_sd: float, masks_sd: float, both_sd: float
) -> None:
    rng = np.random.default_rng(7)
    repeats, masks, documents = 800, 5, 40
    value_RMG = (
        documents_sd * rng.standard_normal((repeats, 1, documents))
        + masks_sd * rng.standard_normal((repeats, masks, 1))
        + both_sd * rng.standard_normal((repeats, masks, documents))
    )
    value_RM = value_RMG.mean(axis=2)
    made = crossed(value_RM, (value_RMG - value_RM[..., None]) / documents)
    covered = ((made.low <= 0) & (made.high >= 0)).mean()
    assert 0.92 <= covered <= 0.995


def test_an_interval_is_student_t_about_the_value() -> None:
    made = Estimate(value=np.array(1.0), variance=np.array(4.0), degrees=np.array(9.0))
    assert made.high - 1 == pytest.approx(2 * student.ppf(0.975, 9))
    assert 1 - made.low == pytest.approx(2 * student.ppf(0.975, 9))
