"""How often do the intervals of random-mask regression cover the effects of the units?

Synthetic losses with a known truth: 24 units with effects of .1 ± .05 nats, documents
of unequal length (20 to 60 tokens). Noise, one kind a row and then all at once:

    masks       what many units do together, anew in every mask
    pairs       what units do in twos: the same in a mask and its complement
    documents   each document has effects of its own
    both        each document has noise of its own in every mask

A repetition draws masks, documents and noise anew. Columns: the share of nominal 95 %
intervals that cover the true effect and, in brackets, their median width in nats;
relative to the average unit, then against the unablated model. `shrunk` is the share
that cover the effect as the ridge shrinks it, which is what they are declared to cover;
it is 1 where nothing else moves an effect (pairs, which complements cancel) or where
what a strong ridge leaves in the residuals counts as noise.

Run: python -m benchmarks.regression. The last line is the verdict as JSON.

Shapes: K masks, U units, G documents, R repetitions.
"""

import json

import numpy as np
from numpy.typing import NDArray

from workers.regression import effects, random_masks

UNITS = 24
REPETITIONS = 200
NOISES = {
    "masks": {"masks": 0.1},
    "pairs": {"pairs": 0.02},
    "documents": {"documents": 0.1},
    "both": {"both": 0.5},
    "all": {"masks": 0.05, "pairs": 0.01, "documents": 0.1, "both": 0.3},
}
DESIGNS = [
    # masks, documents, share held, ridge
    (100, 200, 0.5, 0.01),
    (100, 200, 0.3, 0.01),
    (60, 30, 0.5, 0.01),
    (60, 10, 0.3, 0.01),
    (30, 200, 0.3, 0.1),
    (100, 200, 0.5, 0.5),
]
ASKED = (0.9, 0.99)
SEED = 0

Floats = NDArray[np.float64]


def drawn(
    rng: np.random.Generator, held_KU: NDArray[np.bool_], documents: int, noise: dict[str, float]
) -> tuple[Floats, Floats, NDArray[np.int64], Floats]:
    """Return losses (K, G), the unablated model's (G,), tokens (G,), and true effects (U,)."""
    fixed = np.random.default_rng(SEED)
    effect_U = fixed.normal(0.1, 0.05, UNITS)
    pair_UU = np.triu(fixed.normal(0, 1, (UNITS, UNITS)), 1) * noise.get("pairs", 0)
    own_GU = effect_U + rng.normal(0, noise.get("documents", 0), (documents, UNITS))
    bare_G = rng.normal(3, 0.5, documents)
    # What pairs do, less what of it is linear: then `effect_U` stays the truth at every share.
    share = held_KU.mean()
    off_KU = held_KU - share
    together_K = np.einsum("ku,uv,kv->k", off_KU, pair_UU, off_KU)
    together_K = 4 * (together_K - _expected(pair_UU, share))
    together_K += rng.normal(0, noise.get("masks", 0), len(held_KU))
    means_KG = bare_G + held_KU @ own_GU.T + together_K[:, None]
    means_KG += rng.normal(0, noise.get("both", 0), means_KG.shape)
    tokens_G = rng.integers(20, 60, documents)
    return means_KG * tokens_G, bare_G * tokens_G, tokens_G, effect_U


def _expected(pair_UU: Floats, share: float) -> float:
    """Return the mean over masks of one size of what pairs do: covariances are negative."""
    return float(-share * (1 - share) / (UNITS - 1) * pair_UU.sum())


def main() -> None:
    """Print the table and the verdict."""
    rng = np.random.default_rng(SEED)
    print("masks documents share ridge noise      relative          absolute          shrunk")
    shares: list[float] = []
    for masks, documents, share, ridge in DESIGNS:
        for name, noise in NOISES.items():
            hit: dict[str, list[float]] = {"relative": [], "absolute": [], "shrunk": []}
            wide: dict[str, list[float]] = {"relative": [], "absolute": []}
            for _ in range(REPETITIONS):
                held_KU = random_masks(UNITS, masks, share, seed=int(rng.integers(2**31)))
                loss_KG, bare_G, tokens_G, effect_U = drawn(rng, held_KU, documents, noise)
                exact_KG = np.outer(held_KU @ effect_U, tokens_G)
                for kind, bare in (("relative", None), ("absolute", bare_G)):
                    found = effects(held_KU, loss_KG, tokens_G, ridge=ridge, unablated_G=bare)
                    truth_U = effect_U if kind == "absolute" else effect_U - effect_U.mean()
                    hit[kind].append(_covers(found.low, found.high, truth_U))
                    wide[kind].append(float(np.nanmedian(found.high - found.low)))
                    if kind == "relative":
                        shrunk_U = effects(held_KU, exact_KG, tokens_G, ridge=ridge).effect
                        hit["shrunk"].append(_covers(found.low, found.high, shrunk_U))
            cells = [f"{np.mean(hit[k]):.3f} ({np.median(wide[k]):.4f})" for k in wide]
            print(
                f"{masks:5} {documents:9} {share:5} {ridge:5} {name:9} {cells[0]:17} {cells[1]:17}"
                f" {np.mean(hit['shrunk']):.3f}"
            )
            shares.append(float(np.mean(hit["shrunk"])))
    few, many = (sum(s < ASKED[0] for s in shares), sum(s > ASKED[1] for s in shares))
    print(json.dumps({"asked": ASKED, "rows": len(shares), "below": few, "above": many}))


def _covers(low_U: Floats, high_U: Floats, truth_U: Floats) -> float:
    known_U = ~np.isnan(low_U)  # a unit that no mask holds has none
    return float(((low_U <= truth_U) & (truth_U <= high_U))[known_U].mean())


if __name__ == "__main__":
    main()
