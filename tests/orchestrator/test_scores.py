"""Scores are what their formulas say, of activations that a model really has.

Shapes: L layers, N neurons of one hookpoint, P positions, D outputs of a projection.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.scores import (
    BETWEEN,
    EPSILON,
    SCORES,
    ScoreError,
    by_head,
    needed,
    norms_needed,
    over,
    ranked,
    scored,
)
from orchestrator.tables import SCHEMAS
from tests.workers import tiny
from workers.hooks import logits, projections, recording
from workers.messages import Site
from workers.weights import column_norms

Arrays = Mapping[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def activations(home: Path, site: Site) -> tuple[Tensor, list[Tensor]]:
    """Return what a tiny model has at a site, (L, P, N), and each layer's weight (D, N)."""
    model, seen = tiny.shared("mistral", home), dict[int, Tensor]()
    with recording(model, site, lambda layer, x_STN: seen.update({layer: x_STN.clone()})):
        logits(model, tiny.batch(model, [0, 3, 6]))
    x_LPN = torch.stack([seen[layer].flatten(0, 1).double() for layer in sorted(seen)])
    return x_LPN, [p.weight.detach().double() for p in projections(model, site)]


def described(x_LPN: Tensor, peak_LN: Tensor) -> dict[str, NDArray[np.float64]]:
    """Return the columns of the statistics table, by plain formulas."""
    found = {
        "mean": x_LPN.mean(dim=1),
        "std": x_LPN.std(dim=1, correction=0),
        "rms": x_LPN.square().mean(dim=1).sqrt(),
        "abs_mean": x_LPN.abs().mean(dim=1),
        "positive": (x_LPN > 0).double().mean(dim=1),
        "peak": peak_LN,
    }
    return {name: values.numpy() for name, values in found.items()}


@pytest.mark.parametrize("site", ["attn_pre_out", "mlp_mid"])
def test_scores_are_those_of_the_raw_activations(site: Site, home: Path) -> None:
    x_LPN, weights = activations(home, site)
    peak_LN = x_LPN.median(dim=1).values
    norms = column_norms(tiny.shared("mistral", home), site)
    table = described(x_LPN, peak_LN) | {"l1": norms.l1, "l2": norms.l2}

    # What each neuron alone adds to the output, and what that loses when it is held at its mean.
    written = [x_PN[:, :, None] * w_DN.T for x_PN, w_DN in zip(x_LPN, weights, strict=True)]
    lost_LN = torch.stack([(o - o.mean(dim=0)).square().sum(dim=2).mean(dim=0) for o in written])
    # Wanda's score of every weight, its norm over positions divided by the root of how many.
    rms_LN = torch.linalg.vector_norm(x_LPN, dim=1) / x_LPN.shape[1] ** 0.5
    wanda_LN = torch.stack(
        [(w_DN.abs() * rms_N).sum(dim=0) for w_DN, rms_N in zip(weights, rms_LN, strict=True)]
    )
    plain = {
        "mean": x_LPN.mean(dim=1).abs(),
        "std": x_LPN.var(dim=1, correction=0).sqrt(),
        "rms": rms_LN,
        "abs_mean": x_LPN.abs().mean(dim=1),
        "positive": (x_LPN > 0).double().mean(dim=1),
        "mean_minus_peak": (x_LPN.mean(dim=1) - peak_LN).abs(),
        "fluctuation": lost_LN,
        "wanda": wanda_LN,
    }
    for by, expected_LN in plain.items():
        np.testing.assert_allclose(scored(by, table), expected_LN.numpy(), rtol=1e-9, err_msg=by)


def test_std_is_a_standard_deviation_and_not_the_variance() -> None:
    values_N = np.array([1.0, 5.0])
    table = {"std": np.array([[values_N.std()]])}
    assert scored("std", table)[0, 0] == 2


def test_modes_are_counted() -> None:
    modes_LNK = np.array([[[0.0, np.nan], [0.0, 1.0], [np.nan, np.nan]]])
    np.testing.assert_array_equal(scored("modes", {"mode_values": modes_LNK}), [[1, 2, np.nan]])


def test_a_score_needs_no_more_than_the_statistics_table_has() -> None:
    for by in (*SCORES, *BETWEEN):
        assert set(needed(by)) <= set(SCHEMAS["statistics"].names)
    assert [by for by in (*SCORES, *BETWEEN) if norms_needed(by)] == ["fluctuation", "wanda"]


def test_scores_touch_no_column_but_those_they_need() -> None:
    one = np.ones((1, 2))
    for by, score in SCORES.items():
        wanted = {c: one[..., None] if c == "mode_values" else one for c in needed(by)}
        assert scored(by, wanted | dict.fromkeys(score.norms, one)).shape == (1, 2)
    for by in BETWEEN:
        wanted = dict.fromkeys(needed(by), one)
        assert scored(by, wanted, wanted).shape == (1, 2)


def test_a_score_against_another_data_set_is_a_ratio_with_a_floor_of_its_own_scale() -> None:
    of = {"rms": np.array([[2.0, 3.0, 4.0, 5.0], [200.0, 300.0, 400.0, 500.0]])}
    against = {"rms": np.array([[1.0, 2.0, 4.0, 0.0], [100.0, 200.0, 400.0, 0.0]])}
    e = EPSILON * 2.0
    expected_N = [2 / (1 + e), 3 / (2 + e), 4 / (4 + e), 5 / e]
    # The second layer is a hundred times the first, and has the same ratios.
    np.testing.assert_allclose(scored("rms", of, against), [expected_N, expected_N], rtol=1e-12)


def test_ratios_are_nothing_where_the_reference_is_silent() -> None:
    assert np.isnan(over(np.ones((1, 3)), np.zeros((1, 3)))).all()
    assert np.isnan(over(np.ones((1, 3)), np.full((1, 3), np.nan))).all()
    assert np.isfinite(over(np.ones((1, 2)), np.array([[0.0, 1.0]]))).all()


def two(home: Path) -> tuple[Tensor, Tensor, Tensor, Arrays, Arrays]:
    """Return raw activations `of` and `against`, the latter's peak, and the tables of both."""
    x_LPN, _ = activations(home, "mlp_mid")
    of_LPN, against_LPN = x_LPN[:, :20], x_LPN[:, 20:]
    peak_LN = against_LPN.median(dim=1).values
    elsewhere = of_LPN.median(dim=1).values  # its own peak, which must not be used
    return (
        of_LPN,
        against_LPN,
        peak_LN,
        described(of_LPN, elsewhere),
        described(against_LPN, peak_LN),
    )


def test_the_difference_is_of_means_and_in_s_d_of_the_reference_where_standardised(
    home: Path,
) -> None:
    of_LPN, against_LPN, _, of, against = two(home)
    apart_LN = (of_LPN.mean(dim=1) - against_LPN.mean(dim=1)).abs().numpy()
    np.testing.assert_allclose(scored("difference", of, against), apart_LN, rtol=1e-9)
    std_LN = against_LPN.std(dim=1, correction=0).numpy()
    e_L1 = EPSILON * np.median(std_LN, axis=1, keepdims=True)
    expected_LN = apart_LN / (std_LN + e_L1)
    np.testing.assert_allclose(scored("standardised", of, against), expected_LN, rtol=1e-9)


def test_peak_centred_looks_at_both_data_sets_from_the_peak_of_the_reference(home: Path) -> None:
    of_LPN, against_LPN, peak_LN, of, against = two(home)
    far, near = (
        (x_LPN - peak_LN[:, None]).square().mean(dim=1).sqrt().numpy()
        for x_LPN in (of_LPN, against_LPN)
    )
    expected_LN = far / (near + EPSILON * np.median(near, axis=1, keepdims=True))
    np.testing.assert_allclose(scored("peak_centred", of, against), expected_LN, rtol=1e-9)


@pytest.mark.parametrize(
    ("by", "sets", "message"),
    [
        ("size", 1, "found the score 'size', expected one of mean, std,"),
        ("difference", 1, "found one data set for the score 'difference'"),
        ("kurtosis", 2, "found two data sets for the score 'kurtosis'"),
    ],
)
def test_scores_that_mean_nothing_are_refused(by: str, sets: int, message: str) -> None:
    table = {"mean": np.ones((1, 1)), "kurtosis": np.ones((1, 1))}
    with pytest.raises(ScoreError, match=message):
        scored(by, table, table if sets == 2 else None)


def test_a_head_has_the_mean_or_median_of_its_neurons_that_have_a_score() -> None:
    nan = np.nan
    score_LN = np.array([[1, 2, 6, nan, 5, 7], [nan, nan, nan, 0, 0, 3]])
    np.testing.assert_allclose(by_head(score_LN, 3), [[3, 6], [nan, 1]])
    np.testing.assert_allclose(by_head(score_LN, 3, "median"), [[2, 6], [nan, 0]])


few = st.sampled_from([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan])


@given(score_U=hnp.arrays(np.float64, st.integers(0, 12), elements=few))
def test_an_order_holds_every_unit_once_the_best_first_and_unknown_last(
    score_U: NDArray[np.float64],
) -> None:
    unknown = [u for u in range(score_U.size) if np.isnan(score_U[u])]
    known = [u for u in range(score_U.size) if u not in unknown]
    # Python's own sort keeps what is equal in the order of the index.
    assert ranked(score_U, "low").tolist() == [*sorted(known, key=lambda u: score_U[u]), *unknown]
    assert ranked(score_U, "high").tolist() == [*sorted(known, key=lambda u: -score_U[u]), *unknown]
