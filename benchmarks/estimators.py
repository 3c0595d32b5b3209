"""How far are the estimators of a peak off the true mode, by distribution, n and bin count?

Every repetition is a row; all estimators see the same samples, and windows placed from their
first 4,096 positions, as a pilot places them. Errors are in units of the distribution's s.d.
(Student t: of its scale). For every distribution and n: RMSE (bias) at 256 bins of

    smooth         the default
    half_sample    on the same bins
    paper          100 bins from the sample's minimum to its maximum, fullest
    paper_global   the same over a range of ±20 units, as where other neurons are larger
    argmax         the fullest of the 256 bins; zeros are 0 where they are more than that
    h x 0.7, 1.4   smooth with another bandwidth;  n^-1/5: with the rate for a density

then how often the fixed scales call the row stable, and RMSE of smooth, half_sample and
argmax with 64 to 1,024 bins (— where bfloat16 has no room for so many).

Run: python -m benchmarks.estimators. The last line is the verdict as JSON.

Shapes: R rows (repetitions), P values of a row.
"""

import json
import time

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.distributions import Distribution, Floats, named
from benchmarks.rows import Values, fixed, histogram, windows_of
from workers.estimators import fixed_scales, half_sample, peak_at, smooth
from workers.histogram import Histogram
from workers.published import paper

REPETITIONS = {1_000: 300, 10_000: 300, 100_000: 80, 1_000_000: 16}
BINS = (64, 128, 256, 512, 1024)
DEFAULT_BINS = 256
PILOT = 4096
AT_ONCE = 4_000_000
"""Values held at a time."""
SEED = 0
RIVALS = ("half_sample", "paper", "argmax")
VARIANTS = ("h x 0.7", "h x 1.4", "n^-1/5")


def sample(rng: np.random.Generator, of: Distribution, shape: tuple[int, int]) -> Values:
    """Return rows of values whose neighbours are correlated as the distribution says."""
    z_RP = rng.standard_normal(shape, np.float32)
    if of.follow:
        z_RP[:, 0] /= (1 - of.follow**2) ** 0.5  # so that the first is like all others
        gain = np.array([(1 - of.follow**2) ** 0.5], np.float32)
        z_RP = lfilter(gain, np.array([1, -of.follow], np.float32), z_RP)
    return of.of(z_RP)


def argmax(histogram: Histogram) -> Floats:
    """Return the centre of the fullest bin nearest zero, or 0 where the zeros are more."""
    windows, counts_RB = histogram.windows, histogram.counts
    centre_RB = windows.first[:, None] + np.arange(windows.bins) + 0.5
    most_R = counts_RB.max(axis=1)
    away_RB = np.where(counts_RB == most_R[:, None], np.abs(centre_RB), np.inf)
    centre_R = np.take_along_axis(centre_RB, away_RB.argmin(axis=1)[:, None], 1)[:, 0]
    return np.where(histogram.zeros > most_R, 0.0, centre_R * windows.width)


def estimates(rng: np.random.Generator, of: Distribution, n: int, rows: int) -> dict[str, Floats]:
    """Return every estimator's errors, (R,) in units, and whether rows are stable."""
    values_RP = sample(rng, of, (rows, n))
    pilot_RP = values_RP[:, :PILOT].copy()
    values_RP.sort(axis=1)
    found: dict[str, Floats] = {}
    for bins in BINS:
        if of.bfloat16 and bins > 256:
            continue
        dtype = "bfloat16" if of.bfloat16 else "float32"
        counted = histogram(values_RP, windows_of(pilot_RP, bins, dtype))
        peaks = smooth(counted)
        found[f"smooth {bins}"] = peaks.value
        found[f"half_sample {bins}"] = half_sample(counted)
        found[f"argmax {bins}"] = argmax(counted)
        if bins == DEFAULT_BINS:
            h = peaks.bandwidth
            rate = n ** (1 / 7 - 1 / 5)
            for name, factor in zip(VARIANTS, (0.7, 1.4, rate), strict=True):
                found[name] = peak_at(counted, np.maximum(factor * h, counted.windows.width / 2))
            stable_R = fixed_scales(counted).stable
    ends = values_RP[:, 0].astype(np.float64), values_RP[:, -1].astype(np.float64)
    found["paper"] = paper(fixed(values_RP, *ends))
    wide_R = np.full(rows, 20 * of.unit)
    found["paper_global"] = paper(fixed(values_RP, -wide_R, wide_R))
    errors = {name: (value_R - of.mode) / of.unit for name, value_R in found.items()}
    return {**errors, "stable": stable_R.astype(np.float64)}


def measured(of: Distribution, n: int) -> dict[str, Floats]:
    """Return errors over all repetitions, in blocks that fit memory."""
    rng = np.random.default_rng([SEED, n])
    left, parts = REPETITIONS[n], []
    while left:
        rows = min(left, max(1, AT_ONCE // n))
        parts.append(estimates(rng, of, n, rows))
        left -= rows
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rms(error_R: NDArray[np.float64]) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(error_R**2)))


def said(error_R: Floats) -> str:
    """Return RMSE (bias) as they are printed."""
    return f"{rms(error_R):6.3f} ({error_R.mean():+.3f})"


def main() -> None:
    """Print both tables, then the verdict as one line of JSON."""
    began = time.perf_counter()
    heads = ("smooth", "half_sample", "paper", "paper_global", "argmax", *VARIANTS)
    print(f"{'256 bins':25s}{'n':>6s}" + "".join(f"{head:>16s}" for head in heads) + "  stable")
    by_bins, ratios, lost, pairs = [], [], [], 0
    gains: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for of in named():
        for n in REPETITIONS:
            errors = measured(of, n)
            at = {head: errors.get(f"{head} {DEFAULT_BINS}", errors.get(head)) for head in heads}
            line = "".join(f"{said(at[head]):>16s}" for head in heads)
            print(f"{of.name:25s}{n:6.0e}{line}  {errors['stable'].mean():.2f}", flush=True)
            by_bins.append((of.name, n, errors))
            own, paper_s = rms(at["smooth"]), rms(at["paper"])
            pairs += 1
            best = min(RIVALS, key=lambda name: rms(at[name]))
            if own > 1.1 * rms(at[best]) + 1e-9:
                lost.append([of.name, n, round(own, 4), best, round(rms(at[best]), 4)])
            ratios.append((of.smooth, own / paper_s))  # paper is never without an error
            for name in VARIANTS:
                if own > 0 and rms(at[name]) > 0:
                    gains[name].append(rms(at[name]) / own)
    print("\nRMSE by number of bins: " + ", ".join(map(str, BINS)))
    for name, n, errors in by_bins:
        line = f"{name:25s}{n:6.0e}"
        for kind in ("smooth", "half_sample", "argmax"):
            shown = [errors.get(f"{kind} {bins}") for bins in BINS]
            cells = "".join("     —" if e is None else f"{rms(e):6.3f}" for e in shown)
            line += f"   {kind}{cells}"
        print(line)
    every = [ratio for _, ratio in ratios]
    alone = [ratio for is_smooth, ratio in ratios if is_smooth]
    above = sorted({row[0] for row, (_, ratio) in zip(by_bins, ratios, strict=True) if ratio > 1})
    verdict = {
        "default": f"smooth, {DEFAULT_BINS} bins",
        "pairs": pairs,
        "best_or_within_10_percent": pairs - len(lost),
        "mean_ratio_to_paper": round(float(np.mean(every)), 3),
        "mean_ratio_to_paper_smooth_distributions": round(float(np.mean(alone)), 3),
        "median_ratio_to_paper": round(float(np.median(every)), 3),
        "ratios_at_most_half": sum(ratio <= 0.5 for ratio in every),
        "ratios_above_1": sum(ratio > 1 for ratio in every),
        "worse_than_paper": above,
        "geometric_mean_of_variants_over_default": {
            name: round(float(np.exp(np.mean(np.log(gain)))), 3) for name, gain in gains.items()
        },
        "beaten": lost,
        "repetitions": {str(n): count for n, count in REPETITIONS.items()},
        "seed": SEED,
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(verdict))


if __name__ == "__main__":
    main()
