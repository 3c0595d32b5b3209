"""Intervals: how far a number could be off, and because of what.

A sweep's numbers vary for two reasons that must not be mixed up: which
documents were read, and which neurons were drawn (the mask). A cell's answer
is a *ratio over documents*, for example the summed loss over the summed tokens:
tokens of one document are alike, so the document is what is drawn, and the
ratio's error is that of its linearised residuals with G/(G−1), read against
Student's t with G−1 degrees. A difference of two cells is paired: its
residuals are the differences of theirs, document by document.

A mean over masks has a crossed design: every mask meets every document. With
the variance seen over documents (D), over masks (M) and between both (I),

    variance = max(D + M − I, D, M)         I is in both D and M, so taken off once
    degrees  = variance² / (D²/(G−1) + M²/(M−1))                   (Satterthwaite)

after Cameron, Gelbach and Miller (2011), floored so that neither source can be
lost. With one mask only D is left: such an interval says nothing of other masks.

Coverage of the nominal 95 %, measured by `benchmarks/intervals.py` (ratios of known truth,
2,000 repetitions, so ±1 point; 20 and 60 documents of unequal length x 3, 5 and 10 masks):

    documents dominate             93 – 95 %
    the same, exponentially skewed 90 – 91 % with 20 documents, 91 – 93 % with 60
    masks dominate                 94 – 95 %
    both alike                     94 – 95 %
    all three, skewed              94 – 96 %
    interaction alone              97 – 98 %

Everything else that is an interval is made of these: areas and differences of differences are
linear in them, `orchestrator.gap` and `orchestrator.bands` say what they add.

Weak when a few documents carry most of the loss or of the tokens: no formula on 20 of them
sees the tail. What was not chosen: min(G, M) − 1 degrees cover up to 100 %, twice as wide at
three masks; the pigeonhole bootstrap with normal quantiles covers 74 – 76 % at three masks
where masks dominate.

Shapes: C cells, M masks, G documents; `...` any leading axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Nominal coverage of every interval."""

FEW_CLUSTERS = 30
"""With fewer documents than this, an interval is reported together with a warning."""


FEW_MASKS = 6
"""With fewer masks than this (but more than one), how masks vary is hardly known: single intervals
allow for that, but neither small p-values nor correlations between points can be trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, and how far it could be off. NaN where there is nothing to say it from."""

    value: Floats
    """(...) in the metric's unit."""
    variance: Floats
    """(...) of `value`, in the metric's unit squared; its root is the standard error."""
    degrees: Floats
    """(...) degrees of freedom of `variance`."""

    @property
    def half_width(self) -> Floats:
        """Half the width of the `LEVEL` interval, (...); exactly 0 where nothing varies."""
        return self.half_width_at(LEVEL)

    def half_width_at(self, level: float | Floats) -> Floats:
        """Return half the width of an interval of nominal coverage `level`, (...)."""
        spread = np.sqrt(self.variance)
        # Where nothing varies the degrees are 0/0; one degree keeps 0 x t from becoming NaN.
        degrees = np.where(self.variance == 0, 1.0, self.degrees)
        quantile = student.ppf((1 + np.asarray(level)) / 2, degrees)
        return np.asarray(spread * quantile, dtype=np.float64)

    @property
    def p(self) -> Floats:
        """Two-sided p of "the value is 0", (...): below 1 − `LEVEL` where the interval is off 0.

        Where nothing varies it is 1 if the value is 0, and 0 if it is not.
        """
        degrees = np.where(self.variance == 0, 1.0, self.degrees)
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.where(self.value == 0, 0.0, np.abs(self.value) / np.sqrt(self.variance))
        known = np.isfinite(self.value) & ~np.isnan(self.variance)
        return np.where(known, 2 * student.sf(size, degrees), np.nan)

    @property
    def low(self) -> Floats:
        """Lower end of the interval, (...)."""
        return self.value - self.half_width

    @property
    def high(self) -> Floats:
        """Upper end of the interval, (...)."""
        return self.value + self.half_width


def ratios(sums_CG: Floats, counts_CG: Floats) -> tuple[Floats, Floats]:
    """Return each cell's ratio Σ sums / Σ counts, (C,), and its residuals, (C, G).

    Residual g is document g's share of the ratio's error, (sum − ratio·count) / Σ counts: the
    residuals of a cell add up to 0. Without counts, or with an infinite sum, both are NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        total_C = counts_CG.sum(axis=1)
        ratio_C = sums_CG.sum(axis=1) / total_C
        ratio_C = np.where(np.isfinite(ratio_C), ratio_C, np.nan)
        residuals_CG = (sums_CG - ratio_C[:, None] * counts_CG) / total_C[:, None]
    return ratio_C, residuals_CG


def clustered(
    value: Floats, residuals_G: Floats, documents: Floats | NDArray[np.int64]
) -> Estimate:
    """Return estimates whose error is that of the documents alone, shape (...).

    `residuals_G` is (..., G), 0 for a document that a cell did not see; `documents` (...) counts
    those it did. One document says nothing of others: its variance is NaN.
    """
    return of_squares(value, np.square(residuals_G).sum(axis=-1), documents)


def of_squares(value: Floats, squares: Floats, documents: Floats | NDArray[np.int64]) -> Estimate:
    """Return what `clustered` does from sums over documents of squared residuals, (...)."""
    degrees = np.asarray(documents, dtype=np.float64) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(degrees > 0, (degrees + 1) / degrees, np.nan)
    return Estimate(value=value, variance=scale * squares, degrees=degrees)


def crossed(value_M: Floats, residuals_MG: Floats, documents: float | None = None) -> Estimate:
    """Return the mean over masks, its error covering documents and masks, shape (...).

    `value_M` (..., M) is each mask's number and `residuals_MG` (..., M, G) its documents'
    residuals. With one mask: documents alone. Where masks saw different documents, 0 stands for
    one that a mask did not see, and `documents` is how many they are worth together.
    """
    masks, every = residuals_MG.shape[-2:]
    documents = every if documents is None else documents
    value = value_M.mean(axis=-1)
    residuals_G = residuals_MG.mean(axis=-2)
    over_documents = clustered(value, residuals_G, np.full(value.shape, float(documents)))
    if masks == 1:
        return over_documents
    by_document = over_documents.variance
    by_mask = value_M.var(axis=-1, ddof=1) / masks
    # Interaction: what a document does under this mask beyond what it does under all of them.
    beyond_MG = residuals_MG - residuals_G[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.square(beyond_MG).sum(axis=(-2, -1))
        both = both * documents / ((documents - 1) * (masks - 1) * masks)
        variance = np.maximum(by_document + by_mask - both, np.maximum(by_document, by_mask))
        uncertainty = by_document**2 / (documents - 1) + by_mask**2 / (masks - 1)
        degrees = variance**2 / uncertainty
    return Estimate(value=value, variance=variance, degrees=degrees)


def trapezoid_weights(share_F: Floats) -> Floats:
    """Return weights, (F,), that turn a curve at ascending shares into the area beneath it."""
    step = np.diff(share_F)
    return np.asarray((np.append(step, 0.0) + np.append(0.0, step)) / 2, dtype=np.float64)
