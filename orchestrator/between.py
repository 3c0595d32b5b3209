"""Between: how far two runs differ, and how far that difference could be off.

Within a run everything is compared on the same masks and documents. Two runs may share their
documents, none of them, or some; and they may hold the same neurons or others. One formula
serves all of these. A run's number has a residual per document (`orchestrator.intervals`), its
share of the number's error; let r be that residual times √(G/(G−1)), G being the documents of its
own run. Over the union of both runs' documents, with 0 where a run did not read one,

    D = Σ (r_B − r_A)²

is the variance of B − A over documents. With the same documents on both sides it is the paired
variance of `intervals.clustered`; with none in common the two variances add up; in between, the
documents that both have bring their covariance, and the others none. The sum falls into strata
of documents that are alike (in A alone, in B alone, in both), n_l of them each, whose sums D_l
have unequal variances, so

    degrees = (Σ D_l)² / Σ (D_l² / (n_l (1 − 1/G_l)))          (Satterthwaite)

with G_l the documents of the run that the stratum is of, the fewer of both where it is in both:
G − 1 for one pairing, Welch's degrees for two independent runs.

Masks are paired where both runs hold the same neurons: then there is one difference per mask, and
the mean of these is `intervals.crossed`. Else each run's masks vary by themselves, and so do the
interactions of masks with documents:

    variance = max(D + M_A + M_B − I_A − I_B, D, M_A + M_B)

A run of one mask says nothing of other masks, and its part M is then 0.

Where both sides are the same number of the same documents, B − A is exactly 0, and so is its
variance.

Weak where documents are few and skewed, as every interval here; and where one run has few
documents beside many, the degrees are nearly those of the few, as they should be.

Shapes: M masks, G documents of a run, U documents of either, L strata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from orchestrator.comparisons import Sample
from orchestrator.intervals import Estimate, Floats, crossed

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One run's number."""

    sample: Sample
    documents: Sequence[str]
    """G names, ascending; a name that both sides have is one document."""


def difference(a: Side, b: Side, *, masks_paired: bool) -> Estimate:
    """Return b − a, in the metric's unit; its error covers documents and masks.

    With `masks_paired` the masks of both are the same, one by one; a side whose masks all hold the
    same has one, which is set against each of the other's.
    """
    documents, at_a, at_b = _places(tuple(a.documents), tuple(b.documents))
    residuals_a, layer_a = _spread(a, at_a, documents)
    residuals_b, layer_b = _spread(b, at_b, documents)
    between_U = residuals_b.mean(axis=0) - residuals_a.mean(axis=0)
    degrees = _degrees(between_U, (layer_a, layer_b), (a.sample.worth, b.sample.worth))
    if masks_paired:
        value_M, residuals_MU = np.broadcast_arrays(
            (b.sample.value_M - a.sample.value_M)[:, None], residuals_b - residuals_a
        )
        # `crossed` scales by documents/(documents − 1), which is in the residuals already.
        scale = np.sqrt(degrees / (degrees + 1))
        return crossed(value_M[:, 0], residuals_MU * scale, degrees + 1)
    return _apart(a.sample, b.sample, residuals_a, residuals_b, degrees)


@lru_cache(maxsize=16)  # the same few for every point of two runs
def _places(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[int, Integers, Integers]:
    """Return how many documents there are together, U, and where each of either run's stands."""
    names = sorted({*a, *b})
    place = {name: i for i, name in enumerate(names)}
    at_a, at_b = (np.array([place[name] for name in own], dtype=np.int64) for own in (a, b))
    return len(names), at_a, at_b


def _spread(side: Side, at_G: Integers, documents: int) -> tuple[Floats, Integers]:
    """Return residuals over the documents of either run, (M, U), scaled; and layers, −1: not read.

    A layer is that of the sample: documents that all of it has read, most of it, …
    """
    worth = side.sample.worth
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(worth / (worth - 1)) if worth > 1 else np.nan
    residuals_MU = np.zeros((len(side.sample.residuals_MG), documents))
    residuals_MU[:, at_G] = side.sample.residuals_MG * scale
    layer_U = np.full(documents, -1, dtype=np.int64)
    layer_U[at_G] = side.sample.layer_G
    return residuals_MU, layer_U


def _degrees(
    between_U: Floats, layers: tuple[Integers, Integers], worths: tuple[float, float]
) -> float:
    """Return the degrees of the sum of squares of what is between the runs, per document."""
    wide = int(layers[1].max(initial=-1)) + 2
    # One number per pair of layers; −1 becomes 0.
    codes_L, of_U = np.unique((layers[0] + 1) * wide + layers[1] + 1, return_inverse=True)
    count_L = np.bincount(of_U).astype(np.float64)
    squares_L = np.bincount(of_U, np.square(between_U))
    read_LX = np.stack([codes_L // wide > 0, codes_L % wide > 0], axis=1)
    own_LX = np.where(read_LX, np.array(worths), np.inf)
    lost_L = 1 - 1 / own_LX.min(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees = squares_L.sum() ** 2 / (squares_L**2 / (count_L * lost_L)).sum()
    # Where nothing varies the documents are what is left to count.
    return float(degrees) if np.isfinite(degrees) else float(max(len(between_U) - 1, 1))


def _apart(
    a: Sample, b: Sample, residuals_a: Floats, residuals_b: Floats, degrees: float
) -> Estimate:
    """Return b − a of masks that are drawn apart."""
    between_U = residuals_b.mean(axis=0) - residuals_a.mean(axis=0)
    by_document = float(np.square(between_U).sum())
    by_mask, both, uncertain = 0.0, 0.0, by_document**2 / degrees
    for sample, residuals_MU in ((a, residuals_a), (b, residuals_b)):
        masks = len(sample.value_M)
        if masks > 1:
            own = float(sample.value_M.var(ddof=1)) / masks
            beyond_MU = residuals_MU - residuals_MU.mean(axis=0)
            both += float(np.square(beyond_MU).sum()) / ((masks - 1) * masks)
            by_mask += own
            uncertain += own**2 / (masks - 1)
    variance = np.fmax(by_document + by_mask - both, np.fmax(by_document, by_mask))
    variance = variance if np.isfinite(by_document) else np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        effective = np.float64(variance) ** 2 / uncertain
    return Estimate(
        value=np.asarray(b.value_M.mean() - a.value_M.mean()),
        variance=np.asarray(variance),
        degrees=np.asarray(effective),
    )
