"""Confidence sequences: derived again by other means, laws, and how often they cover."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw

from orchestrator import sequential
from orchestrator.intervals import FEW_CLUSTERS, Floats, clustered, ratios
from orchestrator.sequential import (
    FEW,
    Interval,
    asymptotic,
    empirical_bernstein,
    horizon_of,
    narrow,
)

LIMIT = math.log(2 / 0.05)
"""log(2/α) at 95 %."""


def losses(seed: int, documents: int, *, skewed: bool = False) -> tuple[Floats, Floats]:
    """Return sums of which 0 is the true ratio, and counts, (G,)."""
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(4, 0.5, documents)
    shift = rng.exponential(1, documents) - 1 if skewed else rng.standard_normal(documents)
    return counts * shift, counts


def right(seed: int, documents: int, between: float = 0.05) -> tuple[Floats, Floats]:
    """Return right tokens of a less those of b, and tokens, (G,): 100 to 1,000 each."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(100, 1001, documents).astype(float)
    over = np.round(counts * np.clip(rng.normal(0.01, between, documents), -1, 1))
    return over, counts


def images(seed: int, documents: int) -> tuple[Floats, Floats]:
    """Return documents of one token each, of which 0 is the true ratio."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 0.0, 1.0], documents, p=[0.3, 0.4, 0.3]), np.ones(documents)


@st.composite
def few_documents(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Sums and counts, |over| ≤ n ≤ 9."""
    pairs = draw(st.lists(st.tuples(st.integers(1, 9), st.floats(-1, 1)), min_size=1, max_size=60))
    counts, share = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    return np.trunc(counts * share), counts


# The asymptotic sequence.


@pytest.mark.parametrize(("seen", "horizon"), [(30, 100), (100, 100), (2000, 100), (64, 16)])
def test_at_its_boundary_the_mixture_of_martingales_is_one_over_alpha(
    seen: int, horizon: int
) -> None:
    boundary = seen * sequential._margin(seen, horizon, 0.95)
    # The tuning in closed form, by the other branch of Lambert's function.
    rho = math.sqrt((-lambertw(-(0.05**2) / math.e, -1).real - 1) / horizon)
    bet = np.linspace(-12, 12, 200_001) * rho
    weight = np.exp(-((bet / rho) ** 2) / 2) / (rho * math.sqrt(2 * math.pi))
    mixture = np.trapezoid(np.exp(bet * boundary - bet**2 * seen / 2) * weight, bet)
    assert mixture == pytest.approx(1 / 0.05, rel=1e-6)


def test_at_its_horizon_no_other_horizon_is_tighter() -> None:
    margins = {horizon: sequential._margin(200, horizon, 0.95) for horizon in range(20, 2000, 20)}
    assert min(margins, key=margins.__getitem__) == 200
    assert margins[200] * math.sqrt(200) == pytest.approx(3.0351, abs=1e-4)


def test_a_quarter_of_the_documents_costs_little_at_the_first_and_at_the_last_round() -> None:
    def cost(seen: int) -> float:
        best = sequential._margin(seen, seen, 0.95)
        return sequential._margin(seen, horizon_of(1600), 0.95) / best

    assert horizon_of(1600) == 400
    assert [round(cost(seen), 2) for seen in (100, 400, 1600)] == [1.07, 1.0, 1.03]
    assert [horizon_of(documents) for documents in (0, 1, 4, 5)] == [1, 1, 1, 2]


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_normal_walks_cross_the_boundary_about_as_often_as_they_may(level: float) -> None:
    rng = np.random.default_rng(5)
    walks = rng.standard_normal((2000, 3000)).cumsum(axis=1)
    margins = [t * sequential._margin(t, 100, level) for t in range(1, 3001)]
    crossed = (np.abs(walks) >= margins).any(axis=1).mean()
    # Below α because the walks end; twice or half of α would be off by more than ten errors.
    assert 0.6 * (1 - level) < crossed < 1 - level


def test_the_width_is_the_standard_error_of_the_tables_times_the_margin() -> None:
    over, counts = losses(1, 80)
    found = asymptotic(over, counts, horizon=25)
    value, residuals = ratios(over[None], counts[None])
    error = math.sqrt(clustered(value, residuals, np.array([80])).variance[0])
    margin = math.sqrt(80) * sequential._margin(80, 25, 0.95)
    assert found.estimate == pytest.approx(value[0])
    assert found.half_width == pytest.approx(error * margin)
    assert (found.low + found.high) / 2 == pytest.approx(found.estimate)


def misses(documents: int, runs: int, level: float) -> tuple[float, float]:
    """Return how often 0 is missed at any of 16 looks, by the sequence and by the tables'."""
    sequence, fixed = [], []
    for seed in range(runs):
        over, counts = losses(seed, documents)
        inside = []
        for end in range(documents // 16, documents + 1, documents // 16):
            found = asymptotic(over[:end], counts[:end], horizon=documents // 4, level=level)
            value, residuals = ratios(over[None, :end], counts[None, :end])
            one = clustered(value, residuals, np.array([end]))
            held = abs(value[0]) <= one.half_width_at(level)[0]
            inside.append((found.low <= 0 <= found.high, held))
        both = np.asarray(np.array(inside).all(axis=0))
        sequence.append(not both[0])
        fixed.append(not both[1])
    return float(np.mean(sequence)), float(np.mean(fixed))


def test_at_all_looks_the_sequence_holds_the_truth_and_an_ordinary_interval_does_not() -> None:
    sequence, fixed = misses(512, 200, 0.95)
    assert sequence < 0.05
    assert fixed > 0.15
    # At 60 % there are misses enough to tell a wrong level, and not too few of them either.
    sequence, fixed = misses(512, 100, 0.6)
    assert 0.1 < sequence < 0.4
    assert fixed > 0.7


def test_of_few_documents_nothing_is_said() -> None:
    over, counts = losses(2, FEW)
    assert FEW == FEW_CLUSTERS, "as in the tables' warning"
    assert math.isfinite(asymptotic(over, counts, horizon=8).half_width)
    few = asymptotic(over[:-1], counts[:-1], horizon=8)
    assert few.half_width == math.inf
    assert few.estimate == pytest.approx(over[:-1].sum() / counts[:-1].sum())


@pytest.mark.parametrize("slope", [0.0, 0.3, -1 / 3])
def test_a_contrast_that_never_varied_is_not_called_precise(slope: float) -> None:
    _, counts = losses(3, 500)
    assert asymptotic(slope * counts, counts, horizon=125).half_width == math.inf
    over = slope * counts
    over[70] += 1e-3
    assert math.isfinite(asymptotic(over, counts, horizon=125).half_width)


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_of_a_loss_that_is_not_finite_nothing_is_said(loss: float) -> None:
    over, counts = losses(4, 100)
    over[7] = loss
    found = asymptotic(over, counts, horizon=25)
    assert math.isnan(found.estimate)
    assert found.half_width == math.inf


def test_the_asymptotic_one_moves_with_what_is_measured() -> None:
    over, counts = losses(5, 90)
    found = asymptotic(over, counts, horizon=25)

    def ends(over: Floats, counts: Floats) -> tuple[float, float]:
        made = asymptotic(over, counts, horizon=25)
        return made.low, made.high

    assert ends(7 * over, counts) == pytest.approx((7 * found.low, 7 * found.high))
    assert ends(over, 7 * counts) == pytest.approx((found.low / 7, found.high / 7))
    assert ends(over + 0.3 * counts, counts) == pytest.approx((found.low + 0.3, found.high + 0.3))
    assert ends(-over, counts) == pytest.approx((-found.high, -found.low))
    assert ends(over[::-1], counts[::-1]) == pytest.approx((found.low, found.high))


# The empirical Bernstein sequence.


def bets_by_hand(over: Floats, counts: Floats, most: float) -> list[float]:
    """Return the bets as the docstring has them, one document after the other."""
    bets, squares, right, tokens = [], 0.25, 0.0, 0.0
    for g, (o, n) in enumerate(zip(over / most, counts / most, strict=True), start=1):
        variance = squares / g
        bets.append(min(0.9, math.sqrt(2 * LIMIT / (variance * max(g * math.log1p(g), 1000)))))
        squares += (o - (right / tokens if tokens else 0) * n) ** 2
        right, tokens = right + o, tokens + n
    return bets


def evidence(
    theta: float, over: Floats, counts: Floats, most: float, bets: list[float]
) -> tuple[float, float]:
    """Return log M and log K against a candidate that is too low."""
    log_m = log_k = 0.0
    for o, n, bet in zip(over, counts, bets, strict=True):
        fair = (o - theta * n) / ((1 + theta) * most)
        log_m += bet * fair - (-math.log(1 - bet) - bet) * fair**2
        log_k += math.log(1 + bet * fair)
    return log_m, log_k


@pytest.mark.parametrize("made", [right(1, 400), right(2, 60), right(3, 300, 0.4), images(4, 300)])
def test_the_lower_end_is_the_largest_candidate_that_is_rejected(
    made: tuple[Floats, Floats],
) -> None:
    over, counts = made
    most = counts.max()
    found = empirical_bernstein(over, counts, most=most)
    bets = bets_by_hand(over, counts, most)
    assert -1 < found.low < found.high < 1
    grid = np.linspace(-0.999, 0.999, 400)
    for theta in [*grid, found.low - 1e-6, found.low + 1e-6]:
        log_m, log_k = evidence(theta, over, counts, most, bets)
        assert log_m <= log_k + 1e-9
        if theta > found.low:
            assert log_m < LIMIT
        else:
            assert log_k >= LIMIT, "the capital rejects what lies below a rejected candidate"
    assert evidence(found.low, over, counts, most, bets)[0] == pytest.approx(LIMIT, abs=1e-6)
    mirrored = evidence(-found.high, -over, counts, most, bets)[0]
    assert mirrored == pytest.approx(LIMIT, abs=1e-6)


def test_the_inequality_that_all_rests_on_holds() -> None:
    fair = np.concatenate([np.linspace(-1, 1, 2001), np.geomspace(1, 1e3, 500)])
    for bet in (1e-3, 0.1, 0.5, sequential.BOLDEST):
        psi = -math.log(1 - bet) - bet
        assert (np.exp(bet * fair - psi * fair**2) <= (1 + bet * fair) * (1 + 1e-12)).all()


@given(few_documents(), few_documents())
def test_a_bet_knows_nothing_of_its_own_document_or_later_ones(
    seen: tuple[Floats, Floats], later: tuple[Floats, Floats]
) -> None:
    def bets(*parts: tuple[Floats, Floats]) -> Floats:
        over, counts = (np.concatenate(column) / 9 for column in zip(*parts, strict=True))
        return sequential._bets(over, counts, 0.95)

    known = len(seen[0]) + 1
    alone = bets(seen, (np.zeros(1), np.ones(1)))
    np.testing.assert_allclose(bets(seen, later)[:known], alone, rtol=1e-12)
    assert (alone > 0).all()
    assert (alone <= sequential.BOLDEST).all()


@given(few_documents())
def test_the_interval_is_one_and_mirrors_where_methods_change_places(
    made: tuple[Floats, Floats],
) -> None:
    over, counts = made
    found = empirical_bernstein(over, counts, most=9)
    assert -1 <= found.low <= found.high <= 1
    other = empirical_bernstein(-over, counts, most=9)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))
    unit = empirical_bernstein(over * 8, counts * 8, most=72)
    assert (unit.low, unit.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("rare", [0.02, 0.3])
def test_at_the_truth_the_evidence_does_not_grow_on_average(rare: float) -> None:
    # The worst there is: documents all wrong or, rarely, all right; the truth is 2·rare − 1.
    rng = np.random.default_rng(6)
    totals = []
    for _ in range(3000):
        over = np.where(rng.random(25) < rare, 1.0, -1.0)
        bets = sequential._bets(over, np.ones(25), 0.95)
        fair = (over + 1) / (2 * rare) - 1
        totals.append(math.exp((bets * fair - (-np.log1p(-bets) - bets) * fair**2).sum()))
    assert np.mean(totals) < 1


def bernstein_misses(level: float, runs: int) -> float:
    """Return how often 0 is missed at any of 16 looks."""
    missed = []
    for seed in range(runs):
        over, counts = images(seed, 3200)
        found = [
            empirical_bernstein(over[:end], counts[:end], most=1, level=level)
            for end in range(200, 3201, 200)
        ]
        missed.append(any(not each.low <= 0 <= each.high for each in found))
    return float(np.mean(missed))


def test_the_nonasymptotic_one_misses_less_often_than_it_may_but_not_never() -> None:
    assert bernstein_misses(0.95, 120) < 0.05
    # At 40 % the misses that remain tell a bound that is far too wide.
    assert 0.1 < bernstein_misses(0.4, 120) < 0.6


def test_it_holds_where_the_asymptotic_one_fails() -> None:
    missed = {"asymptotic": 0, "Bernstein": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 10, 512) ** 3.0
        over = np.where(rng.random(512) < 0.05, counts, -counts)
        ends = range(32, 513, 32)
        ways = {
            "asymptotic": [asymptotic(over[:k], counts[:k], horizon=128) for k in ends],
            "Bernstein": [empirical_bernstein(over[:k], counts[:k], most=729) for k in ends],
        }
        for name, found in ways.items():
            missed[name] += any(not each.low <= -0.9 <= each.high for each in found)
    assert missed["asymptotic"] > 0.15 * 200, "one document in twenty is not normal"
    assert missed["Bernstein"] <= 0.05 * 200


def test_equal_answers_on_two_documents_prove_little_and_on_thousands_much() -> None:
    _, counts = right(7, 4000)
    width = {
        seen: empirical_bernstein(np.zeros(seen), counts[:seen], most=1000).half_width
        for seen in (2, 20, 400, 4000)
    }
    assert width[2] == 1
    assert width[20] > 0.4
    floor = LIMIT * 1000 / 0.9
    for seen in (400, 4000):
        assert floor / counts[:seen].sum() < width[seen] < 1.3 * floor / counts[:seen].sum()


def test_the_order_of_documents_matters_to_the_bets_alone() -> None:
    over, counts = right(8, 500)
    found = empirical_bernstein(over, counts, most=1000)
    turned = empirical_bernstein(over[::-1], counts[::-1], most=1000)
    assert found.estimate == pytest.approx(turned.estimate)
    assert found.low != turned.low
    assert found.half_width == pytest.approx(turned.half_width, rel=0.2)


def test_both_become_narrower_with_more_documents() -> None:
    ends = (60, 120, 240, 480, 960)
    shrinking = np.zeros((2, len(ends)))
    for seed in range(20):
        over, counts = right(seed, ends[-1])
        for k, end in enumerate(ends):
            shrinking[0, k] += asymptotic(over[:end], counts[:end], horizon=240).half_width
            shrinking[1, k] += empirical_bernstein(over[:end], counts[:end], most=1000).half_width
    assert (np.diff(shrinking, axis=1) < 0).all()
    assert (shrinking[1] > shrinking[0]).all(), "less is assumed"


def test_a_higher_level_is_wider_and_a_larger_most_too() -> None:
    over, counts = right(9, 300)
    here = empirical_bernstein(over, counts, most=1000).half_width
    assert empirical_bernstein(over, counts, most=1000, level=0.99).half_width > here
    assert empirical_bernstein(over, counts, most=2000).half_width > here
    plain = asymptotic(over, counts, horizon=75).half_width
    assert asymptotic(over, counts, horizon=75, level=0.99).half_width > plain


def test_ends_that_cross_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "_lower", lambda *_: 0.5)
    found = empirical_bernstein([1.0, 0.0], [4.0, 4.0], most=4)
    assert (found.low, found.high) == (-1, 1)


# Both.


def test_without_documents_or_tokens_nothing_is_known() -> None:
    for nothing in (np.zeros(0), np.zeros(40)):
        assert math.isnan(asymptotic(nothing, nothing, horizon=10).estimate)
        assert asymptotic(nothing, nothing, horizon=10).half_width == math.inf
        assert math.isnan(empirical_bernstein(nothing, nothing, most=1).estimate)
        assert empirical_bernstein(nothing, nothing, most=1).half_width == 1


def test_the_widest_contrast_decides() -> None:
    def wide(half: float) -> Interval:
        return Interval(estimate=0.0, low=-half, high=half)

    assert narrow([wide(0.01), wide(0.02)], 0.02)
    assert not narrow([wide(0.01), wide(0.03)], 0.02)
    assert not narrow([wide(0.01), wide(math.inf)], 0.02)
    assert not narrow([], 0.02), "of nothing, nothing is known"


@pytest.mark.parametrize(
    ("over", "counts", "said"),
    [
        ([1.0, 2.0], [3.0], "shape"),
        ([[1.0]], [[3.0]], "shape"),
        ([1.0], [-3.0], "negative"),
        ([1.0], [math.nan], "negative or no number"),
        ([1.0], [math.inf], "no number"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(over: object, counts: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asymptotic(over, counts, horizon=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        empirical_bernstein(over, counts, most=10)  # type: ignore[arg-type]


@pytest.mark.parametrize(("over", "counts"), [([4.0], [3.0]), ([1.0], [11.0]), ([math.nan], [3.0])])
def test_numbers_beyond_their_bounds_are_refused(over: list[float], counts: list[float]) -> None:
    with pytest.raises(ValueError, match="most = 10"):
        empirical_bernstein(over, counts, most=10)


def test_a_horizon_of_no_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon is 0"):
        asymptotic([1.0], [1.0], horizon=0)
