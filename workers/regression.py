"""Regression: which units matter, from many random masks and no gradient.

A rule that scores units one at a time asks what a unit does in a model that is
otherwise whole. Here many units are held together, at random, many times over;
the loss of each mask is regressed on which units it held, and a unit's coefficient
is its effect: the change of the mean loss, in nats per token, when it is held too,
averaged over what else is held (Dery et al., 2024, "Everybody Prune Now", there
called Bonsai; forward passes are all it takes).

Ridge regression. With X (K, U) the masks and y_k = Σ_g L_kg / Σ_g T_g the mean
loss of mask k, the level a is projected out of X and y, never shrunk, and

    γ = (Z'Z + λI)⁻¹ Z'y,    Z = X without a,    λ = ridge x the mean of Z'Z's diagonal

so `ridge` says how much is shrunk whatever the number of masks: with many masks of
few units, an effect comes out 1 / (1 + ridge) of what it is.

Masks of one size do not say how much holding *any* unit costs: adding 1 to every
effect, and taking it off the level, fits as well. So without further knowledge
effects are relative to the average unit: a = 1, and they sum to 0. With the
unablated model's losses, a is the number of units held, y the change, and the
average effect is known too: effects then sum to the damage of holding them all,
as far as damage is a sum.

Intervals (nominal 95 %) are about what these masks' regression estimates, the
effect as shrunk, and cover two sources of variation:

    masks       others might have been drawn, and units interact: a sandwich of the
                residuals, each raised by what the fit took of it (HC2, MacKinnon &
                White, 1985), a mask together with its complement where that is among
                the masks (CR2, Bell & McCaffrey, 2002)
    documents   others might have been fed: effects are linear in the losses, so what
                each document brings is known in closed form; clusters of a ratio,
                G / (G - 1)
    both        what masks and documents do together is in each of the two, and is
                taken off once (Cameron, Gelbach & Miller, 2011); never below the
                larger of the two

with t quantiles, by Satterthwaite's degrees from the masks (a pair counts as one)
less those fitted, and G - 1.

A mask and its complement are worth more than two masks: what units do in twos adds
the same to both, so it cancels in every effect, and the interval knows.

Measured in `benchmarks/regression.py`: 93 to 98 % cover the shrunk effect, and more
where a strong ridge leaves much of the effects in the residuals; with a ridge of 0.01
as many cover the effect itself, with 0.5 only two thirds.

When it is weak: fewer masks than two or three times the units (shrunk hard, and
wide); units that mostly matter in twos, of which an average is all that is seen; a
share far from the one that will be held. Effects are for ranking; check the chosen
set itself.

Shapes: K masks, U units, G documents.
"""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from workers.jackknife import student
from workers.selection import count

_PURPOSE = 13  # keeps this stream apart from others of the same seed
_NOTHING = 1e-9
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Effects:
    """What holding each unit does to the mean loss, in nats per token."""

    effect: NDArray[np.float64]
    """(U,) positive: holding it hurts. NaN for a unit that all masks hold, or none."""
    low: NDArray[np.float64]
    """(U,) lower end of the nominal 95 % interval, masks and documents."""
    high: NDArray[np.float64]
    """(U,) upper end."""
    r2: float
    """Share of the variance between masks that the others' effects predict for a mask left out:
    1 at best, below 0 if they predict worse than the others' mean; NaN if all masks lose alike."""


def random_masks(units: int, masks: int, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Return masks (K, U), True where a unit is held: floor(share x units + 1/2) of each.

    Where that is half of the units, every second mask holds what the one before does
    not, so that each unit is held in half of the masks. Mask k depends on (seed, k,
    units, share) alone. Raises ValueError where a mask would hold all units or none.
    """
    held = count(Decimal(str(share)), units)
    if not 0 < held < units:
        raise ValueError(
            f"A share of {share} of {units} units is {held}, and masks that hold all units or none"
            " differ in nothing. Choose a share nearer to 0.5, or smaller units."
        )
    held_KU = np.zeros((masks, units), np.bool_)
    for k, held_U in enumerate(held_KU):
        if k % 2 and 2 * held == units:
            held_U[:] = ~held_KU[k - 1]
        else:
            key = np.array([seed, k], dtype=np.uint64)
            counter = np.array([0, 0, 0, _PURPOSE], dtype=np.uint64)
            uniform_U = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(
                units
            )
            held_U[np.argsort(uniform_U, kind="stable")[:held]] = True
    return held_KU


def effects(
    held_KU: NDArray[np.bool_],
    loss_KG: NDArray[np.float64],
    tokens_G: NDArray[np.int64],
    *,
    ridge: float,
    unablated_G: NDArray[np.float64] | None = None,
) -> Effects:
    """Return each unit's effect on the mean loss, with its interval.

    `loss_KG` are sums over each document's scored positions, in nats, of each mask,
    `tokens_G` how many positions those are. `ridge` is 0 or more, in units of the
    mean of Z'Z's diagonal. `unablated_G`, the sums of the unablated model, makes
    effects absolute; without it they are relative to the average unit.

    Raises ValueError where shapes do not match, a loss is no finite number, there
    are fewer than two documents, or too few masks for the units.
    """
    _check(held_KU, loss_KG, tokens_G, ridge, unablated_G)
    masks, documents = loss_KG.shape
    total = tokens_G.sum()
    # From here on, of every mask: the mean loss, and what each document adds to its error.
    mean_K = loss_KG.sum(axis=1) / total
    error_KG = (loss_KG - mean_K[:, None] * tokens_G) / total
    level_K = np.ones(masks)
    if unablated_G is not None:
        bare = unablated_G.sum() / total
        mean_K = mean_K - bare
        error_KG = error_KG - (unablated_G - bare * tokens_G) / total
        level_K = held_KU.sum(axis=1).astype(np.float64)

    effect_UK, fitted_KK = _linear(held_KU, level_K, ridge, absolute=unablated_G is not None)
    rest_KK = np.eye(masks) - fitted_KK
    left_KK = rest_KK @ rest_KK  # how much of equal noise in all masks is left in residuals
    pairs = _pairs(held_KU)
    degrees = len(pairs) - float(np.trace(fitted_KK))
    roots = [np.linalg.eigh(left_KK[np.ix_(pair, pair)]) for pair in pairs]
    if degrees < 1 or min(size_P[0] for size_P, _ in roots) < _NOTHING:
        raise ValueError(
            f"{masks} masks of {held_KU.shape[1]} units, {masks - len(pairs)} of them complements"
            f" of others, leave {degrees:.2g} degrees for noise; 1 at least is needed, and no mask"
            " that alone settles an effect. Draw more masks, or use a larger ridge."
        )
    missed_K, missed_KG = rest_KK @ mean_K, rest_KK @ error_KG
    clusters = documents / (documents - 1)
    documents_U = clusters * np.square(effect_UK @ error_KG).sum(axis=1)
    masks_U, both_U = np.zeros_like(documents_U), np.zeros_like(documents_U)
    for pair, (size_P, axes_PP) in zip(pairs, roots, strict=True):
        weight_UP = effect_UK[:, pair] @ (axes_PP / np.sqrt(size_P)) @ axes_PP.T
        masks_U += np.square(weight_UP @ missed_K[pair])
        both_U += clusters * np.square(weight_UP @ missed_KG[pair]).sum(axis=1)
    variance_U = np.maximum(masks_U + documents_U - both_U, np.maximum(masks_U, documents_U))
    half_U = _student(masks_U, documents_U, degrees, documents - 1) * np.sqrt(variance_U)

    effect_U = effect_UK @ mean_K
    effect_U[held_KU.all(axis=0) | ~held_KU.any(axis=0)] = np.nan
    out_K = missed_K / np.diagonal(rest_KK)
    spread_K = (mean_K - mean_K.mean()) * masks / (masks - 1)  # of each, from the others' mean
    spread = np.square(spread_K).sum()
    return Effects(
        effect=effect_U,
        low=effect_U - half_U,
        high=effect_U + half_U,
        r2=float(1 - np.square(out_K).sum() / spread) if spread > 0 else float("nan"),
    )


def _linear(
    held_KU: NDArray[np.bool_], level_K: NDArray[np.float64], ridge: float, *, absolute: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what makes effects (U, K), and what makes fitted values (K, K), of mean losses."""
    level_K = level_K / np.linalg.norm(level_K)
    x_KU = held_KU.astype(np.float64)
    along_U = level_K @ x_KU
    z_KU = x_KU - level_K[:, None] * along_U
    left_KR, size_R, right_RU = np.linalg.svd(z_KU, full_matrices=False)
    kept_R = size_R > _NOTHING * max(1.0, size_R.max(initial=0.0))
    left_KR, size_R, right_RU = left_KR[:, kept_R], size_R[kept_R], right_RU[kept_R]
    strength = ridge * np.square(size_R).sum() / held_KU.shape[1]
    shrunk_R = size_R / (np.square(size_R) + strength)
    gamma_UK = right_RU.T @ (shrunk_R[:, None] * left_KR.T)
    fitted_KK = np.outer(level_K, level_K) + (left_KR * (size_R * shrunk_R)) @ left_KR.T
    if absolute:  # b a + X γ, where the level is the number held: b belongs to every unit
        number_K = x_KU.sum(axis=1)
        gamma_UK = gamma_UK + (level_K - along_U @ gamma_UK) / np.linalg.norm(number_K)
    return gamma_UK, fitted_KK


def _pairs(held_KU: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Return the masks' numbers, each with its complement's where there is one, else alone."""
    waiting: dict[bytes, list[int]] = {}
    pairs: list[list[int]] = []
    for k, held_U in enumerate(held_KU):
        unmatched = waiting.get((~held_U).tobytes())
        if unmatched:
            pairs[unmatched.pop(0)].append(k)
        else:
            waiting.setdefault(held_U.tobytes(), []).append(len(pairs))
            pairs.append([k])
    return [np.array(pair) for pair in pairs]


def _student(
    masks_U: NDArray[np.float64], documents_U: NDArray[np.float64], masks: float, documents: int
) -> NDArray[np.float64]:
    """Return Student's t for a sum of two variances, by degrees that are rounded down."""
    sum_U = masks_U + documents_U
    share_U = np.divide(masks_U, sum_U, out=np.ones_like(sum_U), where=sum_U > 0)
    degrees_U = 1 / (np.square(share_U) / masks + np.square(1 - share_U) / documents)
    whole_U = np.maximum(degrees_U.astype(np.int64), 1)
    found, index_U = np.unique(whole_U, return_inverse=True)
    return np.array([student(int(degrees)) for degrees in found])[index_U]


def _check(
    held_KU: NDArray[np.bool_],
    loss_KG: NDArray[np.float64],
    tokens_G: NDArray[np.int64],
    ridge: float,
    unablated_G: NDArray[np.float64] | None,
) -> None:
    """Raise ValueError unless masks, losses and tokens belong together."""
    bare = tokens_G.shape if unablated_G is None else unablated_G.shape
    if loss_KG.shape != (len(held_KU), len(tokens_G)) or bare != tokens_G.shape:
        raise ValueError(
            f"There are masks of shape {held_KU.shape}, losses of shape {loss_KG.shape}, tokens of"
            f" {len(tokens_G)} documents and unablated losses of shape {bare}. Give a row of losses"
            " for each mask, and a column for each document."
        )
    bad_K = np.flatnonzero(~np.isfinite(loss_KG).all(axis=1))
    if len(bad_K) or (unablated_G is not None and not np.isfinite(unablated_G).all()):
        where = f"mask {bad_K[0]}" if len(bad_K) else "the unablated model"
        raise ValueError(
            f"The losses of {where} are not all finite numbers. Hold fewer units at a time, at"
            " another constant, or use a wider dtype."
        )
    if len(tokens_G) < 2 or (tokens_G < 1).any():
        raise ValueError(
            f"There are {len(tokens_G)} documents, {np.count_nonzero(tokens_G < 1)} of them without"
            " a scored position. Give two at least, each with some."
        )
    if not ridge >= 0:
        raise ValueError(f"The ridge is {ridge}; expected 0 or more, for example 0.1.")
