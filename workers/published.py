"""Published: the peaks of the published code, kept as controls under their own names.

The paper (arXiv 2408.17322) says "peak"; its code, nickypro/investigating-ablation,
holds eight functions for it, in ben/prune.py unless said otherwise. To ask what a
published number would have been, each that counts can answer is here with the
same formula, on counts in equal bins from a least to a largest activation:

    name               function there                             bins     ends
    paper              get_bucket_peaks                           100      own
    paper_global       get_bucket_peaks, earlier (peak_scoring)   100      of all neurons
    paper_coarse_fine  get_dual_bucket_peaks                      10,000   own
    paper_averaged     get_averaged_bucket_peaks                  10,000   own
    paper_smoothed     get_bucket_peaks_averaged_with_smoothing   100      own
    paper_layer        estimate_peaks_with_layer_prior            1,000    of all neurons
    paper_kde          get_kde_peaks                              10,000   own

The eighth, `get_mode_offsets`, takes the value that occurs most often (`torch.mode`).
It needs every activation, and in float32 hardly two are equal, so what it returns is
an accident. It is left out.

None is a good estimator; use `workers.estimators.smooth`. Two faults are common: the
range, and with it the bin, follows the outliers; and on a smooth density noise picks
among bins that are nearly equally full. Root mean square errors in standard
deviations (Student's t: in scales), 10^5 values, 40 repetitions:

    distribution       smooth   paper  coarse_fine  averaged  smoothed    kde
    normal              .027    .115         .118      .175      .100   .071
    Laplace             .004    .044         .029      .013      .079   .005
    Student t, 2        .014   4.396         .091      .083     4.524   .331
    gamma 3             .030    .079         .079      .124      .064   .040
    log-normal .5       .028    .061         .072      .083      .061   .026
    bimodal .6/.4       .002    .041         .042      .061      .033   .005
    spike + broad       .003    .031         .011      .006      .051   .003

Global ends have no such row: their bins depend on the other neurons of the model.

Results are float64; there, float16 activations gave peaks rounded to float16.

Shapes: R rows (neurons of one site), B bins, G grid points.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.counts import FixedCounts
from workers.modes import smoothed

_COARSE = 100
"""Coarse bins of `coarse_fine`; each holds as many fine ones."""
_SCALE = 10
"""Fine bins in one coarse bin of `averaged`."""
_KERNEL = np.exp(-0.5 * np.linspace(-3, 2, 5) ** 2)
"""Weights of `shifted` at offsets −2 … 2. Surely meant to be symmetric, but `-5 // 2` is −3."""
_BANDWIDTH, _GRID = 0.1, 1000
"""Bandwidth of `kde` in standard deviations, and the places at which it is evaluated."""
_ROWS = 256
"""Rows worked on at a time, so that temporaries stay small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One published estimator, and the counts that it takes."""

    peak: Callable[[FixedCounts], NDArray[np.float64]]
    """Return (R,) peaks; NaN where nothing was counted."""
    bins: int
    ends: Literal["of each neuron", "of all neurons"]
    """Whose least and largest activation the bins lie between."""


def paper(fixed: FixedCounts) -> NDArray[np.float64]:
    """Return the centre of each row's first fullest bin, (R,); NaN where nothing was counted.

    `torch.histc` in 100 bins between the neuron's own least and largest activation, and
    `argmax`. An exact second pass: the counts are those of `torch.histc`. Two controls
    differ only in the bins. `paper_global`, the first version of the same function, has
    its ends from all neurons of all layers. `paper_layer` has those and 1,000 bins; it
    also counts the layer as a whole, as a prior, and never uses it.

    Bias: known to half a bin at best, a hundredth of the range, and the range follows the
    outliers: with heavy tails it gets *worse* as n grows. On a smooth density bins near the
    mode are nearly equal and noise picks among them. Over the global range nearly all
    neurons have their values in a few bins, and the same peak.
    """
    return _centre(fixed, fixed.counts.argmax(axis=1))


def coarse_fine(fixed: FixedCounts) -> NDArray[np.float64]:
    """Return the centre of the fullest hundredth of the fullest of 100 bins, (R,).

    Bias: `paper`'s choice of bin, then the noisiest choice in it: of 10^5 values a fine
    bin holds a few dozen. It looks a hundred times finer than `paper`, and on smooth
    densities errs as much; it helps where the peak is narrower than one of `paper`'s bins.
    """
    rows, bins = fixed.counts.shape
    counts_RCF = fixed.counts.reshape(rows, _COARSE, -1)
    coarse_R = counts_RCF.sum(axis=2).argmax(axis=1)
    fine_R = counts_RCF[np.arange(rows), coarse_R].argmax(axis=1)
    return _centre(fixed, coarse_R * (bins // _COARSE) + fine_R)


def averaged(fixed: FixedCounts) -> NDArray[np.float64]:
    """Return the centre of the bin with the highest sum of its own and its ten's count, (R,).

    10,000 bins, averaged with 1,000 coarse ones each repeated ten times. The coarse
    counts are not divided by ten, so they decide, and the fine ones break near ties.

    Bias: bins of a thousandth of the range hold a tenth of `paper`'s counts, so on a smooth
    density noise leads further astray; with heavy tails it errs less.
    """
    rows, bins = fixed.counts.shape
    coarse_RC = fixed.counts.reshape(rows, bins // _SCALE, _SCALE).sum(axis=2)
    return _centre(fixed, (fixed.counts + coarse_RC.repeat(_SCALE, axis=1)).argmax(axis=1))


def shifted(fixed: FixedCounts) -> NDArray[np.float64]:
    """Return the centre of the highest of 100 bins once five of them are averaged, (R,).

    The weights are a Gaussian of standard deviation 1 at −3, −1.75, −.5, .75 and 2, for the
    two bins before, the bin and the two after. (The ends of the published `linspace` are
    `-5 // 2` and `5 // 2`.) Beyond the ends the first and the last bin are repeated.

    Bias: the weights' mean is .39 of a bin after the bin, so on average peaks come out
    .39 of a bin, .4 % of the range, too low. Otherwise better than `paper` on broad
    densities, and as bad with heavy tails.
    """
    bins, reach = fixed.counts.shape[1], _KERNEL.size // 2
    padded = np.pad(fixed.counts.astype(np.float64), ((0, 0), (reach, reach)), mode="edge")
    sum_RB = sum(weight * padded[:, k : k + bins] for k, weight in enumerate(_KERNEL))
    return _centre(fixed, np.asarray(sum_RB).argmax(axis=1))


def kde(fixed: FixedCounts) -> NDArray[np.float64]:
    """Return the highest of 1,000 places, ends included, of a kernel density estimate, (R,).

    `scipy.stats.gaussian_kde` with bandwidth .1 standard deviations (divided by n − 1). Here
    every value stands in the middle of its bin, a tenth of the places' distance wide.

    Bias: the bandwidth does not shrink with n, and it and the places follow the outliers.
    A smooth density it sees well, where .1 is by chance a good choice.
    """
    value_R = np.full(fixed.low.size, np.nan)
    for start in range(0, value_R.size, _ROWS):
        rows = slice(start, start + _ROWS)
        value_R[rows] = _kde(fixed.counts[rows], fixed.low[rows], fixed.high[rows])
    return value_R


def _kde(
    counts_RB: NDArray[np.int64], low_R: NDArray[np.float64], high_R: NDArray[np.float64]
) -> NDArray[np.float64]:
    bins, total_R = counts_RB.shape[1], counts_RB.sum(axis=1)
    place_B = np.arange(bins) + 0.5
    count_R = np.maximum(total_R, 1)
    mean_R = counts_RB @ place_B / count_R
    squares_R = np.maximum(counts_RB @ place_B**2 - count_R * mean_R**2, 0)
    std_R = np.sqrt(squares_R / np.maximum(total_R - 1, 1))
    density_RB, _ = smoothed(counts_RB.astype(np.float64), np.maximum(_BANDWIDTH * std_R, 0.5))
    # The places lie between bins; at half a bin and more, density is straight from bin to bin.
    at_G = (np.linspace(0, bins, _GRID) - 0.5).clip(0, bins - 1)
    left_G = np.minimum(at_G.astype(np.intp), bins - 2)
    share_G = at_G - left_G
    density_RG = (1 - share_G) * density_RB[:, left_G] + share_G * density_RB[:, left_G + 1]
    known = total_R > 0
    value_R = np.full(total_R.size, np.nan)
    share_R = density_RG.argmax(axis=1)[known] / (_GRID - 1)
    value_R[known] = low_R[known] + share_R * (high_R - low_R)[known]
    return value_R


def _centre(fixed: FixedCounts, bin_R: NDArray[np.intp]) -> NDArray[np.float64]:
    counted_R = fixed.counts.any(axis=1)
    low_R = np.where(counted_R, fixed.low, np.nan)
    high_R = np.where(counted_R, fixed.high, np.nan)
    share_R = (bin_R + 0.5) / fixed.counts.shape[1]
    return np.asarray(low_R + share_R * (high_R - low_R))  # a constant: high = low, so exactly that


PUBLISHED: Mapping[str, Published] = {
    "paper": Published(peak=paper, bins=100, ends="of each neuron"),
    "paper_global": Published(peak=paper, bins=100, ends="of all neurons"),
    "paper_coarse_fine": Published(peak=coarse_fine, bins=10_000, ends="of each neuron"),
    "paper_averaged": Published(peak=averaged, bins=10_000, ends="of each neuron"),
    "paper_smoothed": Published(peak=shifted, bins=100, ends="of each neuron"),
    "paper_layer": Published(peak=paper, bins=1_000, ends="of all neurons"),
    "paper_kde": Published(peak=kde, bins=10_000, ends="of each neuron"),
}
"""The published estimators by their names in a sweep file."""
