"""The difference of two runs: what its interval covers, however much the runs share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t as student

from orchestrator.between import Side, difference
from orchestrator.comparisons import Sample, stacked
from orchestrator.intervals import crossed, ratios

Floats = NDArray[np.float64]


def side(values_MG: Floats, names: list[str], tokens_G: Floats | None = None) -> Side:
    """Return a run whose documents have these numbers per token, under every mask."""
    tokens_G = np.ones(values_MG.shape[1]) if tokens_G is None else tokens_G
    value_M, residuals_MG = ratios(values_MG * tokens_G, np.tile(tokens_G, (len(values_MG), 1)))
    layer_G = np.zeros(len(names), dtype=np.int64)
    sample = Sample(value_M=value_M, residuals_MG=residuals_MG, layer_G=layer_G)
    return Side(sample=sample, documents=names)


def called(start: int, stop: int) -> list[str]:
    return [f"d{i:04d}" for i in range(start, stop)]


def test_of_the_same_documents_and_masks_it_is_the_paired_difference_of_one_run() -> None:
    rng = np.random.default_rng(0)
    a, b = (side(rng.normal(0, 1, (3, 12)), called(0, 12)) for _ in range(2))
    made = difference(a, b, masks_paired=True)
    whole = crossed(
        b.sample.value_M - a.sample.value_M, b.sample.residuals_MG - a.sample.residuals_MG
    )
    for part in ("value", "variance", "degrees"):
        assert getattr(made, part) == pytest.approx(getattr(whole, part), rel=1e-12)


def test_of_independent_documents_and_one_mask_it_is_welchs() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, 9), rng.normal(0, 3, 14)
    made = difference(side(x[None], called(0, 9)), side(y[None], called(9, 23)), masks_paired=False)
    own = x.var(ddof=1) / 9, y.var(ddof=1) / 14
    degrees = sum(own) ** 2 / (own[0] ** 2 / 8 + own[1] ** 2 / 13)
    assert made.value == pytest.approx(y.mean() - x.mean())
    assert made.variance == pytest.approx(sum(own))
    assert made.degrees == pytest.approx(degrees)
    assert made.high - made.value == pytest.approx(student.ppf(0.975, degrees) * sum(own) ** 0.5)


@given(
    shared=st.integers(0, 8),
    own=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    seed=st.integers(0, 99),
)
def test_documents_that_both_read_bring_their_covariance_and_no_others_do(
    shared: int, own: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n, m = shared + own[0], shared + own[1]
    x, y = rng.normal(0, 1, n), rng.normal(0, 1, m)
    names = called(0, n), called(0, shared) + called(100, 100 + own[1])
    made = difference(side(x[None], names[0]), side(y[None], names[1]), masks_paired=False)
    covariance = ((x - x.mean())[:shared] * (y - y.mean())[:shared]).sum()
    scale = (n * (n - 1) * m * (m - 1)) ** 0.5
    expected = x.var(ddof=1) / n + y.var(ddof=1) / m - 2 * covariance / scale
    assert made.variance == pytest.approx(max(expected, 0), abs=1e-12)
    assert 1 - 1e-9 <= made.degrees <= n + m


def test_a_run_differs_from_itself_by_exactly_nothing() -> None:
    values = np.random.default_rng(2).gamma(2, 1, (4, 7))
    made = difference(side(values, called(0, 7)), side(values, called(0, 7)), masks_paired=True)
    assert [float(x) for x in (made.value, made.low, made.high)] == [0, 0, 0]


def test_one_document_says_nothing_of_others() -> None:
    made = difference(
        side(np.ones((1, 1)), called(0, 1)), side(np.zeros((1, 1)), called(0, 1)), masks_paired=True
    )
    assert made.value == -1
    assert np.isnan(made.low)


def test_a_mask_that_all_share_is_set_against_each_of_the_others() -> None:
    rng = np.random.default_rng(3)
    one, many = rng.normal(0, 1, (1, 8)), rng.normal(0, 1, (3, 8))
    made = difference(side(one, called(0, 8)), side(many, called(0, 8)), masks_paired=True)
    same = np.repeat(one, 3, axis=0)
    again = difference(side(same, called(0, 8)), side(many, called(0, 8)), masks_paired=True)
    assert made.variance == pytest.approx(again.variance)


CASES = {
    "paired documents, paired masks": (20, 20, True),
    "paired documents, other masks": (20, 20, False),
    "partly the same documents, paired masks": (20, 8, True),
    "independent documents, other masks": (20, 0, False),
    "independent documents, paired masks": (20, 0, True),
}


def covers(case: str, times: int) -> float:
    """Return how often the interval covers, of documents and masks that both vary."""
    documents, shared, paired = CASES[case]
    masks, rng, made = 4, np.random.default_rng(7), []
    union = 2 * documents - shared
    for _ in range(times):
        document_U, mask_M = rng.normal(0, 1, union), rng.normal(0, 0.3, masks)
        tokens_U = rng.integers(20, 60, union).astype(float)
        sides = []
        for which in range(2):
            at = np.arange(documents) + (documents - shared) * which
            held_M = mask_M if paired or not which else rng.normal(0, 0.3, masks)
            own_M = held_M + rng.normal(0, 0.2, masks)
            own_G = 0.5 * which + document_U[at] + rng.normal(0, 0.3, documents)
            values = own_G + own_M[:, None] + rng.normal(0, 0.3, (masks, documents))
            sides.append(side(values, [f"d{i:04d}" for i in at], tokens_U[at]))
        made.append(difference(sides[0], sides[1], masks_paired=paired))
    every = stacked(made)
    return float(((every.low <= 0.5) & (every.high >= 0.5)).mean())


@pytest.mark.parametrize("case", CASES)
def test_about_nineteen_intervals_of_twenty_cover_the_truth(case: str) -> None:
    """Of 300 pairs of runs; 95 % give or take three standard errors."""
    assert 0.912 <= covers(case, 300) <= 0.988
