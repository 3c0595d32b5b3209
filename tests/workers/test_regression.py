"""Random-mask regression: exact where the world is linear, honest where it is not.

Shapes: K masks, U units, G documents.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from workers.regression import Effects, effects, random_masks

law = settings(deadline=None, max_examples=30)

Floats = NDArray[np.float64]


def losses(means_KG: Floats, tokens_G: NDArray[np.int64]) -> Floats:
    """Return sums over documents that have these mean losses."""
    return means_KG * tokens_G


def linear(
    held_KU: NDArray[np.bool_], effect_U: Floats, documents: int = 6, seed: int = 0
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return losses (K, G) without noise, the unablated model's (G,), and tokens (G,)."""
    rng = np.random.default_rng(seed)
    tokens_G = rng.integers(5, 50, documents)
    bare_G = rng.normal(3, 0.5, documents)
    means_KG = (held_KU @ effect_U)[:, None] + bare_G
    return losses(means_KG, tokens_G), losses(bare_G, tokens_G), tokens_G


# --- masks ------------------------------------------------------------------------------------


@law
@given(st.integers(2, 40), st.integers(0, 30), st.integers(1, 99), st.integers(0, 2**40))
def test_every_mask_holds_the_same_number_of_units(units, masks, percent, seed):
    expected = (2 * percent * units + 100) // 200  # floor(share x units + 1/2)
    if not 0 < expected < units:
        with pytest.raises(ValueError, match="all units or none"):
            random_masks(units, masks, percent / 100, seed=seed)
        return
    held_KU = random_masks(units, masks, percent / 100, seed=seed)
    assert held_KU.shape == (masks, units)
    assert (held_KU.sum(axis=1) == expected).all()
    # More masks begin with the same ones.
    more_KU = random_masks(units, masks + 3, percent / 100, seed=seed)
    assert_array_equal(more_KU[:masks], held_KU)


@law
@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 1000))
def test_half_of_the_units_comes_in_complementary_pairs(half, pairs, seed):
    held_KU = random_masks(2 * half, 2 * pairs, 0.5, seed=seed)
    assert_array_equal(held_KU[1::2], ~held_KU[::2])
    assert (held_KU.sum(axis=0) == pairs).all()


def test_units_are_held_about_equally_often_and_seeds_differ():
    held_KU = random_masks(20, 4000, 0.3, seed=0)
    assert_allclose(held_KU.mean(axis=0), 0.3, atol=0.03)
    assert not np.array_equal(held_KU, random_masks(20, 4000, 0.3, seed=1))
    assert len(np.unique(held_KU[:50], axis=0)) == 50


# --- exactness --------------------------------------------------------------------------------


@law
@given(st.integers(2, 12), st.sampled_from([0.25, 0.4, 0.5]), st.integers(0, 1000))
def test_linear_effects_are_found_exactly_without_shrinkage(units, share, seed):
    if not 0 < int(share * units + 0.5) < units:
        return
    held_KU = random_masks(units, 60 + 10 * units, share, seed=seed)
    effect_U = np.random.default_rng(seed).normal(0.02, 0.05, units)
    loss_KG, bare_G, tokens_G = linear(held_KU, effect_U, seed=seed)
    relative = effects(held_KU, loss_KG, tokens_G, ridge=0.0)
    assert_allclose(relative.effect, effect_U - effect_U.mean(), atol=1e-9)
    absolute = effects(held_KU, loss_KG, tokens_G, ridge=0.0, unablated_G=bare_G)
    assert_allclose(absolute.effect, effect_U, atol=1e-9)
    for found in (relative, absolute):
        assert_allclose(found.high - found.low, 0, atol=1e-7)
        assert found.r2 == pytest.approx(1)
    near = effects(held_KU, loss_KG, tokens_G, ridge=1e-9, unablated_G=bare_G)
    assert_allclose(near.effect, effect_U, atol=1e-6)


def test_masks_of_several_sizes_need_no_unablated_model_to_be_absolute():
    rng = np.random.default_rng(0)
    held_KU = rng.random((80, 7)) < 0.5
    effect_U = rng.normal(0.1, 0.05, 7)
    loss_KG, bare_G, tokens_G = linear(held_KU, effect_U)
    assert_allclose(effects(held_KU, loss_KG, tokens_G, ridge=0.0).effect, effect_U, atol=1e-9)
    given_bare = effects(held_KU, loss_KG, tokens_G, ridge=0.0, unablated_G=bare_G)
    assert_allclose(given_bare.effect, effect_U, atol=1e-9)


def test_the_ridge_shrinks_differences_by_what_it_says_and_never_the_level():
    held_KU = random_masks(8, 1000, 0.5, seed=0)
    effect_U = np.linspace(0.0, 0.7, 8)
    loss_KG, bare_G, tokens_G = linear(held_KU, effect_U)
    found = effects(held_KU, loss_KG, tokens_G, ridge=1.0, unablated_G=bare_G).effect
    assert found.mean() == pytest.approx(0.35)
    # Z'Z is K/4·U/(U - 1) on differences, and the ridge K/4.
    assert_allclose(found - 0.35, (effect_U - 0.35) / (1 + 7 / 8), atol=0.03)


@law
@given(st.randoms(use_true_random=False), st.floats(0.001, 2), st.booleans())
def test_the_order_of_units_masks_and_documents_does_not_matter(random, ridge, absolute):
    held_KU, loss_KG, bare_G, tokens_G = noisy(np.random.default_rng(0), 24, 9, 12)[:4]
    unablated_G = bare_G if absolute else None
    one = effects(held_KU, loss_KG, tokens_G, ridge=ridge, unablated_G=unablated_G)
    k, u, g = (random.sample(range(n), n) for n in (24, 9, 12))
    other = effects(
        held_KU[k][:, u],
        loss_KG[k][:, g],
        tokens_G[g],
        ridge=ridge,
        unablated_G=bare_G[g] if absolute else None,
    )
    for name in ("effect", "low", "high"):
        assert_allclose(getattr(other, name), getattr(one, name)[u], atol=1e-10)
    assert other.r2 == pytest.approx(one.r2)


@law
@given(st.integers(0, 1000), st.just(0.0) | st.floats(1e-6, 2))
def test_effects_are_those_of_the_textbook(seed, ridge):
    # In between, where a ridge is no larger than rounding, the textbook's own sum is not sharp:
    # masks of one size leave one direction undetermined.
    held_KU, loss_KG, _, tokens_G = noisy(np.random.default_rng(seed), 100, 6, 8)[:4]
    y_K = loss_KG.sum(axis=1) / tokens_G.sum()
    z_KU = held_KU - held_KU.mean(axis=0)
    strength = ridge * np.diag(z_KU.T @ z_KU).mean()
    stacked = np.vstack([z_KU, np.sqrt(strength) * np.eye(6)])
    expected = np.linalg.lstsq(stacked, np.append(y_K - y_K.mean(), np.zeros(6)))[0]
    found = effects(held_KU, loss_KG, tokens_G, ridge=ridge)
    assert_allclose(found.effect, expected, atol=1e-9)


def test_r2_is_that_of_masks_that_were_left_out():
    held_KU, loss_KG, _, tokens_G = noisy(np.random.default_rng(3), 20, 6, 8)[:4]
    y_K = loss_KG.sum(axis=1) / tokens_G.sum()
    z_KU = held_KU - held_KU.mean(axis=0)
    strength = 0.2 * np.diag(z_KU.T @ z_KU).mean()
    missed, spread = 0.0, 0.0
    for k in range(20):
        rest = np.arange(20) != k
        # The same ridge and centring of penalised units, a level of its own.
        design = np.column_stack([np.ones(19), z_KU[rest]])
        penalty = np.diag([0.0, *[strength] * 6])
        found = np.linalg.solve(design.T @ design + penalty, design.T @ y_K[rest])
        missed += (y_K[k] - np.append(1, z_KU[k]) @ found) ** 2
        spread += (y_K[k] - y_K[rest].mean()) ** 2
    assert effects(held_KU, loss_KG, tokens_G, ridge=0.2).r2 == pytest.approx(1 - missed / spread)


# --- intervals --------------------------------------------------------------------------------


def noisy(
    rng: np.random.Generator,
    masks: int,
    units: int,
    documents: int,
    *,
    share: float = 0.5,
    many: float = 0.05,
    texts: float = 0.2,
    both: float = 0.05,
) -> tuple[NDArray[np.bool_], Floats, Floats, NDArray[np.int64], Floats]:
    """Return masks, losses, the unablated model's, tokens, and the effects of a whole population.

    `many`: what many units do together, anew in every mask; `texts`: each document has
    effects of its own; `both`: what a document does with a mask.
    """
    effect_U = np.random.default_rng(1).normal(0.1, 0.05, units)
    held_KU = random_masks(units, masks, share, seed=int(rng.integers(2**31)))
    own_GU = effect_U + rng.normal(0, texts, (documents, units))
    bare_G = rng.normal(3, 0.5, documents)
    means_KG = bare_G + held_KU @ own_GU.T
    means_KG += rng.normal(0, many, (masks, 1))
    means_KG += rng.normal(0, both, means_KG.shape)
    tokens_G = rng.integers(20, 60, documents)
    return held_KU, losses(means_KG, tokens_G), losses(bare_G, tokens_G), tokens_G, effect_U


def covered(found: Effects, truth_U: Floats) -> float:
    return float(((found.low <= truth_U) & (truth_U <= found.high)).mean())


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize(
    "noise",
    [
        {"many": 0.2, "texts": 0.0, "both": 0.0},
        {"many": 0.0, "texts": 0.2, "both": 0.0},
        {"many": 0.0, "texts": 0.0, "both": 1.0},
        {"many": 0.1, "texts": 0.1, "both": 0.5},
    ],
    ids=["masks", "documents", "both", "all"],
)
def test_intervals_cover_what_they_say_whichever_the_noise_comes_from(noise, share):
    rng = np.random.default_rng(0)
    held: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(80):
        held_KU, loss_KG, bare_G, tokens_G, truth_U = noisy(rng, 60, 10, 40, share=share, **noise)
        for absolute in held:
            given_bare = bare_G if absolute else None
            found = effects(held_KU, loss_KG, tokens_G, ridge=0.0, unablated_G=given_bare)
            truth = truth_U if absolute else truth_U - truth_U.mean()
            held[absolute].append(covered(found, truth))
    for shares in held.values():
        assert 0.9 <= np.mean(shares) <= 0.99


def test_with_complements_what_units_do_in_twos_cancels_and_the_interval_knows():
    rng = np.random.default_rng(0)
    pair_UU = np.triu(rng.normal(0, 0.05, (10, 10)), 1)
    effect_U = rng.normal(0.1, 0.05, 10)
    widths = []
    for complements in (True, False):
        held_KU = random_masks(10, 120, 0.5, seed=0)
        if not complements:
            held_KU = held_KU[::2]
        signed_KU = 2 * held_KU - 1.0
        means_K = held_KU @ effect_U + np.einsum("ku,uv,kv->k", signed_KU, pair_UU, signed_KU)
        loss_KG = np.repeat(means_K[:, None], 5, axis=1)
        found = effects(held_KU, loss_KG, np.ones(5, np.int64), ridge=0.0)
        widths.append(np.max(found.high - found.low))
        if complements:
            assert_allclose(found.effect, effect_U - effect_U.mean(), atol=1e-9)
    assert widths[0] < 1e-9
    assert widths[1] > 0.1


def test_documents_count_also_where_every_mask_fits_exactly():
    rng = np.random.default_rng(0)
    alike = noisy(rng, 40, 6, 30, many=0, texts=0, both=0)
    apart = noisy(rng, 40, 6, 30, many=0, texts=0.2, both=0)
    narrow = effects(alike[0], alike[1], alike[3], ridge=0.0)
    wide = effects(apart[0], apart[1], apart[3], ridge=0.0)
    assert np.max(narrow.high - narrow.low) < 1e-6
    assert np.min(wide.high - wide.low) > 0.02


def test_what_the_unablated_model_shares_with_masks_is_no_noise():
    rng = np.random.default_rng(0)
    held_KU, loss_KG, bare_G, tokens_G, _ = noisy(rng, 40, 6, 30, many=0, texts=0, both=0)
    found = effects(held_KU, loss_KG, tokens_G, ridge=0.0, unablated_G=bare_G)
    assert np.max(found.high - found.low) < 1e-6


def test_four_times_the_documents_halve_the_interval():
    rng = np.random.default_rng(0)
    widths = []
    for documents in (50, 200):
        made = [noisy(rng, 60, 8, documents, many=0) for _ in range(10)]
        found = [effects(m[0], m[1], m[3], ridge=0.01) for m in made]
        widths.append(np.mean([f.high - f.low for f in found]))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


# --- little to go by --------------------------------------------------------------------------


def test_a_unit_that_all_masks_hold_has_no_effect_to_tell():
    held_KU, loss_KG, _, tokens_G = noisy(np.random.default_rng(0), 30, 6, 8)[:4]
    held_KU[:, 2], held_KU[:, 4] = True, False
    found = effects(held_KU, loss_KG, tokens_G, ridge=0.1)
    for array in (found.effect, found.low, found.high):
        assert_array_equal(np.flatnonzero(np.isnan(array)), [2, 4])


def test_masks_that_all_lose_alike_have_effects_of_nothing_and_no_r2():
    held_KU = random_masks(6, 20, 0.5, seed=0)
    found = effects(held_KU, np.ones((20, 4)), np.ones(4, np.int64), ridge=0.1)
    assert_allclose(found.effect, 0, atol=1e-12)
    assert np.isnan(found.r2)


def test_fewer_masks_than_units_need_a_ridge():
    held_KU, loss_KG, _, tokens_G = noisy(np.random.default_rng(0), 10, 16, 8)[:4]
    with pytest.raises(ValueError, match="10 masks of 16 units, 5 of them complements"):
        effects(held_KU, loss_KG, tokens_G, ridge=0.0)
    held_KU, loss_KG, _, tokens_G = noisy(np.random.default_rng(0), 14, 16, 8, share=0.4)[:4]
    found = effects(held_KU, loss_KG, tokens_G, ridge=1.0)
    assert np.isfinite([found.low, found.high]).all()
    assert (found.low < found.high).all()


def test_a_mask_that_alone_tells_of_a_unit_is_refused_without_a_ridge():
    held_KU = random_masks(6, 30, 0.5, seed=0)
    held_KU[:, 0] = np.arange(30) == 7
    loss_KG, _, tokens_G = linear(held_KU, np.ones(6))
    with pytest.raises(ValueError, match="no mask that alone settles an effect"):
        effects(held_KU, loss_KG, tokens_G, ridge=0.0)
    assert np.isfinite(effects(held_KU, loss_KG, tokens_G, ridge=0.1).low).all()


def test_what_does_not_belong_together_is_refused():
    held_KU, loss_KG, bare_G, tokens_G = noisy(np.random.default_rng(0), 20, 6, 8)[:4]
    with pytest.raises(ValueError, match=r"losses of shape \(19, 8\)"):
        effects(held_KU, loss_KG[1:], tokens_G, ridge=0.1)
    with pytest.raises(ValueError, match=r"unablated losses of shape \(7,\)"):
        effects(held_KU, loss_KG, tokens_G, ridge=0.1, unablated_G=bare_G[1:])
    with pytest.raises(ValueError, match="ridge is -1"):
        effects(held_KU, loss_KG, tokens_G, ridge=-1.0)
    with pytest.raises(ValueError, match="1 documents"):
        effects(held_KU, loss_KG[:, :1], tokens_G[:1], ridge=0.1)
    with pytest.raises(ValueError, match="1 of them without a scored position"):
        effects(held_KU, loss_KG, np.where(np.arange(8) == 3, 0, tokens_G), ridge=0.1)
    loss_KG[4, 2] = np.nan
    with pytest.raises(ValueError, match="losses of mask 4 are not all finite"):
        effects(held_KU, loss_KG, tokens_G, ridge=0.1)
