"""How often do the delete-one-shard intervals cover what they are declared to estimate?

Documents of unequal length (log-normal, 120 tokens on average) go to 16 shards at random, as
by hash, so shards are unequal too. Tokens are independent, or share a shift with their whole
document (correlation .3), or follow the token before them (AR(1), .9, anew in each document).
Each repetition is a row; its interval covers if it holds

    mean, median    the distribution's own
    peak            the mode of the true density smoothed at that repetition's own bandwidth

Columns: the share of nominal 95 % intervals that cover, and in brackets their median half
width in the distribution's units. The last column is the share of peak intervals that cover
the *true* mode, which they do not claim to. Before the table, what an interval costs.

Run: python -m benchmarks.jackknife. The last line is the verdict as JSON.

Shapes: R rows (repetitions), P tokens, D documents, G shards.
"""

import json
import time

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.distributions import Distribution, Floats, named
from benchmarks.rows import histogram, windows_of
from workers.estimators import smooth
from workers.histogram import Histogram, merge
from workers.jackknife import intervals

SHARDS = 16
REPETITIONS = {10_000: 600, 100_000: 200}
LAYOUTS = 20
"""Ways to put documents into shards; repetitions are shared out between them."""
ALIKE = {"independent": 0.0, "shift .3": 0.3, "AR(1) .9": 0.9}
BINS = 256
PILOT = 4096
SEED = 0
ASKED = (0.9, 0.99)


def documents(rng: np.random.Generator, tokens: int) -> NDArray[np.int64]:
    """Return lengths of documents, (D,), that have so many tokens together."""
    lengths_D = np.exp(rng.normal(np.log(100), 0.6, tokens)).astype(np.int64) + 1
    enough = int(np.searchsorted(lengths_D.cumsum(), tokens)) + 1
    lengths_D = lengths_D[:enough].copy()
    lengths_D[-1] -= lengths_D.sum() - tokens
    return lengths_D


def normals(
    rng: np.random.Generator, rows: int, lengths_D: NDArray[np.int64], alike: str
) -> NDArray[np.float32]:
    """Return standard normal numbers, (R, P), correlated within documents."""
    z_RP = rng.standard_normal((rows, int(lengths_D.sum())), np.float32)
    if alike == "shift .3":
        shift_RD = rng.standard_normal((rows, lengths_D.size), np.float32)
        z_RP *= np.float32(0.7**0.5)
        z_RP += np.repeat(shift_RD * np.float32(0.3**0.5), lengths_D, axis=1)
    elif alike == "AR(1) .9":
        follow = ALIKE[alike]
        gain = np.array([(1 - follow**2) ** 0.5], np.float32)
        starts_D = np.concatenate([[0], lengths_D.cumsum()[:-1]])
        z_RP[:, starts_D] /= gain[0]  # so that the first is like all others
        for start, length in zip(starts_D, lengths_D, strict=True):
            span = slice(start, start + length)
            z_RP[:, span] = lfilter(gain, np.array([1, -follow], np.float32), z_RP[:, span])
    return z_RP


def sharded(
    rng: np.random.Generator, of: Distribution, n: int, rows: int, alike: str
) -> list[Histogram]:
    """Return the histograms of the shards that have documents, R rows each."""
    lengths_D = documents(rng, n)
    shard_D = rng.integers(0, SHARDS, lengths_D.size)
    values_RP = of.of(normals(rng, rows, lengths_D, alike))
    pilot_P = rng.permutation(n)[:PILOT]
    windows = windows_of(values_RP[:, pilot_P], BINS, "float32")
    shard_P = np.repeat(shard_D, lengths_D)
    return [
        histogram(np.sort(values_RP[:, shard_P == g], axis=1), windows, g)
        for g in np.unique(shard_D)
    ]


def covered(of: Distribution, n: int, alike: str) -> dict[str, tuple[float, float]]:
    """Return coverage and median half width, in units, of mean, median and peak."""
    rng = np.random.default_rng([SEED, n])
    hits: dict[str, list[Floats]] = {"mean": [], "median": [], "peak": [], "true mode": []}
    halves: dict[str, list[Floats]] = {name: [] for name in hits}
    for _ in range(LAYOUTS):
        parts = sharded(rng, of, n, REPETITIONS[n] // LAYOUTS, alike)
        total = merge(parts)
        peaks = smooth(total)
        found = intervals(total, parts, peaks.bandwidth)
        peak = (found.peak_low, found.peak_high)
        for name, target_R, (low_R, high_R) in (
            ("mean", of.mean, (found.mean_low, found.mean_high)),
            ("median", of.median, (found.median_low, found.median_high)),
            ("peak", of.smoothed_mode(peaks.bandwidth), peak),
            ("true mode", of.mode, peak),
        ):
            hits[name].append((low_R <= target_R) & (target_R <= high_R))
            halves[name].append((high_R - low_R) / 2 / of.unit)
    return {
        name: (float(np.mean(hits[name])), float(np.median(np.concatenate(halves[name]))))
        for name in hits
    }


def cost() -> dict[str, float]:
    """Return microseconds per neuron of one layer: 4,096 rows, 16 shards, 256 bins."""
    rng = np.random.default_rng(SEED)
    values = [rng.standard_normal((4096, 500), np.float32) for _ in range(SHARDS)]
    windows = windows_of(np.concatenate(values, axis=1)[:, :PILOT], BINS, "float32")
    parts = [histogram(np.sort(one, axis=1), windows, g) for g, one in enumerate(values)]
    total = merge(parts)
    bandwidth_R = smooth(total).bandwidth
    took = []
    for _ in range(3):
        began = time.process_time()
        intervals(total, parts, bandwidth_R)
        took.append(time.process_time() - began)
    each = min(took) / 4096
    return {
        "microseconds_per_neuron": round(1e6 * each),
        "seconds_for_131072_on_two_cores": round(131_072 * each / 2, 1),
    }


def main() -> None:
    """Print the cost, the table, then the verdict as one line of JSON."""
    began = time.perf_counter()
    price = cost()
    print(f"{price['microseconds_per_neuron']} microseconds of one core per neuron")
    within, outside = 0, []
    for of in named():
        if of.follow or of.bfloat16:
            continue  # the correlation is varied here
        for alike in ALIKE:
            for n in REPETITIONS:
                found = covered(of, n, alike)
                line = "  ".join(f"{k} {c:.3f} ({w:.4f})" for k, (c, w) in found.items())
                print(f"{of.name:25s}{alike:12s}{n:6.0e}  {line}", flush=True)
                for name in ("mean", "median", "peak"):
                    share = found[name][0]
                    if ASKED[0] <= share <= ASKED[1]:
                        within += of.smooth
                    else:
                        kind = "smooth" if of.smooth else "hard"
                        outside.append([kind, of.name, alike, n, name, round(share, 3)])
    verdict = {
        **price,
        "smooth_within_90_to_99": within,
        "smooth_outside": [row[1:] for row in outside if row[0] == "smooth"],
        "hard_outside": [row[1:] for row in outside if row[0] == "hard"],
        "repetitions": {str(n): count for n, count in REPETITIONS.items()},
        "seed": SEED,
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(verdict))


if __name__ == "__main__":
    main()
