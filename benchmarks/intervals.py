"""How often do the intervals cover the truth? Simulations with a truth that is known.

Documents have unequal lengths; a document, a mask and their meeting each shift the loss per
token by a random amount with mean 0, so the true contrast is 0. Each row of the first table
is one design: which of the shifts dominates, how many documents and masks. Its columns are
the share of sweeps whose nominal 95 % interval holds 0, and the interval's median width over
that of a known standard error, for

    chosen      `orchestrator.intervals.crossed`
    sum         the same without taking the interaction off once
    least       the chosen variance, with min(G, M) - 1 degrees
    pigeonhole  masks and documents resampled together, normal quantiles (fewer repetitions)

The other tables (`benchmarks.coverage`) are of whole curves, of rules with one mask against
rules with many, of the share of the gap to optimal, and of how often a sweep without any
effect finds one.

Run: python -m benchmarks.intervals. The last line is the tables as JSON.

Shapes: R repetitions, M masks, G documents, B resamples.
"""

import json

import numpy as np
from scipy.stats import t as student

from benchmarks.coverage import curves, families, gaps, rates, selections
from orchestrator.intervals import Floats, crossed, ratios

REPETITIONS = 2000
RESAMPLED = 400
RESAMPLES = 150
SEED = 0


def designs(documents: int, masks: int) -> dict[str, tuple[float, float, float, bool]]:
    """Return s.d. over documents, masks and both, and whether documents' shifts are skewed."""
    alike = (masks / documents) ** 0.5
    return {
        "documents": (1, 0, 0, False),
        "documents, skewed": (1, 0, 0, True),
        "masks": (0.02, 0.2, 0.02, False),
        "documents = masks": (1, alike, 0.5, False),
        "interaction": (0.05, 0.02, 1, False),
        "all, skewed": (0.7, 0.7 * alike, 1, True),
    }


def sweeps(
    rng: np.random.Generator, documents: int, masks: int, design: tuple[float, float, float, bool]
) -> tuple[Floats, Floats]:
    """Return each mask's number, (R, M), and residuals, (R, M, G), of independent sweeps."""
    of_document, of_mask, of_both, skewed = design
    tokens_RG = np.round(rng.lognormal(4, 0.5, (REPETITIONS, documents))) + 1
    normal_RG = rng.standard_normal((REPETITIONS, documents))
    shift_RG = rng.exponential(1, (REPETITIONS, documents)) - 1 if skewed else normal_RG
    per_token_RMG = (
        of_document * shift_RG[:, None]
        + of_mask * rng.standard_normal((REPETITIONS, masks, 1))
        + of_both * rng.standard_normal((REPETITIONS, masks, documents))
    )
    counts_RMG = np.repeat(tokens_RG[:, None], masks, axis=1)
    flat = (REPETITIONS * masks, documents)
    value, residuals = ratios((counts_RMG * per_token_RMG).reshape(flat), counts_RMG.reshape(flat))
    return value.reshape(-1, masks), residuals.reshape(-1, masks, documents)


def pigeonhole(rng: np.random.Generator, value_RM: Floats, residuals_RMG: Floats) -> Floats:
    """Return the s.d. of the estimate over resamples of masks and documents, (R,)."""
    sweeps_, masks, documents = residuals_RMG.shape
    means_RB = np.empty((sweeps_, RESAMPLES))
    for b in range(RESAMPLES):
        weight_RM = rng.multinomial(masks, np.full(masks, 1 / masks), sweeps_) / masks
        weight_RG = rng.multinomial(documents, np.full(documents, 1 / documents), sweeps_)
        # Residuals are shares of a sum over documents, so document weights average 1.
        shifted_RM = value_RM + np.einsum("rmg,rg->rm", residuals_RMG, weight_RG)
        means_RB[:, b] = (weight_RM * shifted_RM).sum(axis=1)
    return np.asarray(means_RB.std(axis=1), dtype=np.float64)


def row(
    rng: np.random.Generator, documents: int, masks: int, design: tuple[float, float, float, bool]
) -> dict[str, tuple[float, float]]:
    """Return coverage and relative width of each kind of interval."""
    value_RM, residuals_RMG = sweeps(rng, documents, masks, design)
    made = crossed(value_RM, residuals_RMG)
    ideal = 1.959964 * made.value.std()
    shared = residuals_RMG.mean(axis=1)
    by_document = documents / (documents - 1) * np.square(shared).sum(axis=1)
    by_mask = value_RM.var(axis=1, ddof=1) / masks
    total = by_document + by_mask
    degrees = total**2 / (by_document**2 / (documents - 1) + by_mask**2 / (masks - 1))
    fewest = min(documents, masks) - 1
    some = slice(RESAMPLED)
    half_widths = {
        "chosen": made.half_width,
        "sum": np.sqrt(total) * student.ppf(0.975, degrees),
        "least": np.sqrt(made.variance) * student.ppf(0.975, fewest),
        "pigeonhole": 1.959964 * pigeonhole(rng, value_RM[some], residuals_RMG[some]),
    }
    return {
        kind: (
            round(float((np.abs(made.value[: len(half)]) <= half).mean()), 4),
            round(float(np.median(half) / ideal), 3),
        )
        for kind, half in half_widths.items()
    }


MEASURED = (
    ("curves: coverage of a point, of an area, of all points at once", curves, 2000),
    ("selections: coverage of a rule with masks less a rule without", selections, 2000),
    ("gap: how often a share is shown, and coverage where it is", gaps, 1000),
    ("families: how often a sweep without any effect finds one", families, 1000),
)
"""Title, what is measured, repetitions."""


def contrasts() -> list[dict[str, object]]:
    """Print and return the table of single contrasts."""
    rng = np.random.default_rng(SEED)
    rows: list[dict[str, object]] = []
    for documents in (20, 60):
        for masks in (3, 5, 10):
            for name, design in designs(documents, masks).items():
                found = row(rng, documents, masks, design)
                rows.append({"documents": documents, "masks": masks, "design": name, **found})
                said = "  ".join(f"{k} {c:.3f} ({w:.2f})" for k, (c, w) in found.items())
                print(f"{documents:3d} documents {masks:3d} masks  {name:18s} {said}", flush=True)
    return rows


def main() -> None:
    """Print the tables, then the same as one line of JSON."""
    made = {"contrasts": contrasts()}
    for title, measure, repetitions in MEASURED:
        print(f"\n{title}")
        made[measure.__name__] = []
        for found in rates(measure, repetitions, SEED):
            made[measure.__name__].append(found)
            size = f"{found['documents']:3} documents {found['masks']:3} masks"
            rest = list(found.items())[3:]
            said = "  ".join(f"{name} {value:.3f}" for name, value in rest)
            print(f"{size}  {found['design']:18} {said}", flush=True)
    print(json.dumps({"repetitions": REPETITIONS, "seed": SEED, **made}))


if __name__ == "__main__":
    main()
