"""Adjust: Holm's procedure, by hand and by its laws."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import t as student

from orchestrator.adjust import cautious, holm
from orchestrator.intervals import FEW_MASKS, Estimate, Floats

tests = arrays.arrays(np.float64, st.integers(0, 12), elements=st.floats(0, 1))


def test_four_tests_are_adjusted_as_by_hand() -> None:
    # .01 x 4, .03 x 3, .04 x 2 raised to .09 by the one before, .6 x 1.
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.6, 0.03])), [0.09, 0.04, 0.6, 0.09])


@given(tests)
def test_no_p_becomes_smaller_nor_larger_than_with_bonferroni(p_X: Floats) -> None:
    adjusted_X = holm(p_X)
    assert (adjusted_X >= p_X).all()
    assert (adjusted_X <= np.minimum(p_X * len(p_X), 1) + 1e-15).all()


@given(tests)
def test_what_is_rejected_is_what_the_step_down_rejects(p_X: Floats) -> None:
    rejected = []
    for i, at in enumerate(np.argsort(p_X, kind="stable")):
        if p_X[at] * (len(p_X) - i) > 0.05:
            break
        rejected.append(at)
    assert sorted(rejected) == np.flatnonzero(holm(p_X) <= 0.05).tolist()


@given(tests, st.randoms(use_true_random=False))
def test_the_order_of_tests_does_not_matter(p_X: Floats, random) -> None:  # type: ignore[no-untyped-def]
    order = random.sample(range(len(p_X)), len(p_X))
    np.testing.assert_array_equal(holm(p_X)[order], holm(p_X[order]))


@given(tests)
def test_what_has_no_p_counts_for_nothing(p_X: Floats) -> None:
    with_gaps = np.insert(p_X, [0, len(p_X)], np.nan)
    np.testing.assert_array_equal(holm(with_gaps), [np.nan, *holm(p_X), np.nan])


def test_few_masks_leave_no_more_degrees_than_themselves_less_one() -> None:
    found = Estimate(value=np.array(3.0), variance=np.array(1.0), degrees=np.array(20.0))
    assert cautious(found, 1).p == cautious(found, FEW_MASKS).p == found.p
    assert float(cautious(found, 3).p) == 2 * student.sf(3.0, 2)
    assert cautious(found, 3).value == 3
