"""What does looking again and again cost? Simulations with a truth that is known.

First table: cross-entropy. Documents have unequal lengths; what one differs by, per token, is
drawn once per document (tokens as alike as can be), with mean 0 over tokens, so the true
contrast is 0. There are 16 looks, after equal rounds; those with fewer than 30 documents are
skipped. Two rules stop at a look: half-width at most `wide` = 6, or `tight` = 4, times
s.d./sqrt(all documents); where no look is narrow enough, all documents are read. Shares of
comparisons in which an interval holds 0, for

    sequence   `orchestrator.sequential.asymptotic`
    fixed      the interval of the tables, made for one look (`orchestrator.intervals`)

at all looks (`always`), at the look at which the sequence stopped (`at stop`), and, for
`fixed`, at the look at which it would have stopped itself (`own stop`); and the share of the
documents that was read.

Second table: how often the sequence holds 0 at all looks, had it begun with fewer or more
documents than `FEW`. Third: Top-1. How many documents until half-widths of .05, .02 and .01;
`betting` is the capital process K of `empirical_bernstein`'s docstring, solved by bisection.
Fourth: how often its sequences hold the truth, .01, at all of 16 looks.

Run: python -m benchmarks.stopping. The last line is the tables as JSON.

Shapes: R comparisons, G documents, K looks.
"""

import json
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from orchestrator import sequential
from orchestrator.intervals import Floats, clustered, ratios
from orchestrator.sequential import FEW, Interval, asymptotic, empirical_bernstein, horizon_of

COMPARISONS = 2000
BATCH = 200
"""Comparisons simulated at once, R."""
ROUNDS = 16
SEED = 0
SIZES = (64, 128, 512, 2000)
"""All documents."""
TARGETS = {"wide": 6.0, "tight": 4.0}
"""Half-width to stop at, in s.d./sqrt(all documents)."""
Row = dict[str, object]

SPREAD = 0.5
"""σ of the lengths' logarithm."""
BIASED = math.exp(4 + 1.5 * SPREAD**2)
"""Mean length of the document of a token, E[n²]/E[n]."""


SHIFTS: dict[str, Callable[[np.random.Generator, Floats], NDArray[np.floating]]] = {
    "normal": lambda rng, n: rng.standard_normal(n.shape),
    "by length": lambda rng, n: n / BIASED - 1 + rng.standard_normal(n.shape),
    "exponential": lambda rng, n: rng.exponential(1, n.shape) - 1,
    "lognormal": lambda rng, n: rng.lognormal(0, 1, n.shape) - math.exp(0.5),
    "one in twenty": lambda rng, n: (rng.random(n.shape) < 0.05) - 0.05,
}
"""Per design: what documents of lengths n differ by, per token; its mean over tokens is 0."""


def losses(rng: np.random.Generator, design: str, documents: int) -> tuple[Floats, Floats]:
    """Return sums and counts, (R, G). Lengths are not rounded, so that 0 is exactly true."""
    counts_RG = rng.lognormal(4, SPREAD, (BATCH, documents))
    return np.asarray(SHIFTS[design](rng, counts_RG) * counts_RG), counts_RG


def looks(documents: int) -> list[int]:
    """Return after how many documents one looks."""
    ends = [documents * (k + 1) // ROUNDS for k in range(ROUNDS)]
    return [end for end in ends if end >= FEW]


def _stop(half_RK: Floats, target: float) -> NDArray[np.int64]:
    """Return the first look that is narrow enough, else the last, (R,)."""
    narrow_RK = half_RK <= target
    narrow_RK[:, -1] = True
    return np.asarray(narrow_RK.argmax(axis=1))


def _holds(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


def comparisons(
    rng: np.random.Generator, design: str, documents: int, deviation: float
) -> dict[str, Floats]:
    """Return what is measured of some comparisons, each (R,)."""
    over_RG, counts_RG = losses(rng, design, documents)
    ends = looks(documents)
    horizon = horizon_of(documents)
    shape = (BATCH, len(ends))
    half: dict[str, Floats] = {"sequence": np.empty(shape), "fixed": np.empty(shape)}
    held: dict[str, NDArray[np.bool_]] = {kind: np.empty(shape, dtype=np.bool_) for kind in half}
    for k, end in enumerate(ends):
        value, residuals = ratios(over_RG[:, :end], counts_RG[:, :end])
        fixed = clustered(value, residuals, np.full(BATCH, end))
        half["fixed"][:, k] = fixed.half_width
        held["fixed"][:, k] = np.abs(value) <= fixed.half_width
        for r in range(BATCH):
            found = asymptotic(over_RG[r, :end], counts_RG[r, :end], horizon=horizon)
            half["sequence"][r, k] = found.half_width
            held["sequence"][r, k] = _holds(found, 0)
    measured: dict[str, Floats | NDArray[np.bool_]] = {
        f"{kind} always": np.asarray(held[kind].all(axis=1)) for kind in held
    }
    rows = np.arange(BATCH)
    for name, target in TARGETS.items():
        width = target * deviation / documents**0.5
        stop, own = _stop(half["sequence"], width), _stop(half["fixed"], width)
        measured[f"{name}: read"] = np.array(ends)[stop] / documents
        measured[f"{name}: sequence at stop"] = held["sequence"][rows, stop]
        measured[f"{name}: fixed at stop"] = held["fixed"][rows, stop]
        measured[f"{name}: fixed at own stop"] = held["fixed"][rows, own]
        measured[f"{name}: fixed reads"] = np.array(ends)[own] / documents
    return {name: np.asarray(value, dtype=np.float64) for name, value in measured.items()}


def cross_entropy() -> Iterator[Row]:
    """Yield the rows of the first table."""
    rng = np.random.default_rng(SEED)
    for design in SHIFTS:
        drawn = [losses(rng, design, 2000) for _ in range(3)]
        # s.d. of a document's share of the ratio's error, from 1.2 million documents.
        deviation = float(np.mean([over.std() / counts.mean() for over, counts in drawn]))
        for documents in SIZES:
            parts = [
                comparisons(rng, design, documents, deviation) for _ in range(COMPARISONS // BATCH)
            ]
            means = {k: round(float(np.mean([part[k] for part in parts])), 4) for k in parts[0]}
            yield {"documents": documents, "design": design, **means}


BEGINNINGS = (8, 16, 30, 50)
"""Documents from which on one looks."""


def beginnings() -> Iterator[Row]:
    """Yield the rows of the second table. From the sequence's parts: it would say nothing."""
    rng = np.random.default_rng(SEED)
    for design in ("normal", "exponential", "lognormal"):
        for documents in (64, 256):
            held: dict[int, list[Floats]] = {begin: [] for begin in BEGINNINGS}
            for _ in range(COMPARISONS // BATCH):
                over_RG, counts_RG = losses(rng, design, documents)
                inside = {}
                for end in range(documents // ROUNDS, documents + 1, documents // ROUNDS):
                    value, residuals = ratios(over_RG[:, :end], counts_RG[:, :end])
                    error = clustered(value, residuals, np.full(BATCH, end)).variance ** 0.5
                    margin = sequential._margin(end, horizon_of(documents), sequential.LEVEL)
                    inside[end] = np.abs(value) <= error * end**0.5 * margin
                for begin in BEGINNINGS:
                    held[begin].append(np.all([inside[k] for k in inside if k >= begin], axis=0))
            shares = {f"from {k}": round(float(np.mean(v)), 4) for k, v in held.items()}
            yield {"documents": documents, "design": design, **shares}


TRUTH = 0.01
"""Difference of Top-1 in all designs, in shares."""


def _shares(rng: np.random.Generator, documents: int, kind: str) -> tuple[Floats, Floats]:
    """Return each document's difference of Top-1, and its share of tokens that differ."""
    if kind == "rare":  # one document in fifty is .4 apart
        shift_G = 0.4 * ((rng.random(documents) < 0.02) - 0.02)
        return np.asarray(TRUTH + shift_G, dtype=np.float64), np.full(documents, 0.45)
    between = {"alike": 0.02, "unlike": 0.05, "images": 0.0}[kind]
    shift_G = between * 3**0.5 * rng.uniform(-1, 1, documents)
    return np.asarray(TRUTH + shift_G), np.full(documents, 0.15)


TOP1 = ("alike", "unlike", "rare", "images")
"""Designs: s.d. of .02 or .05 between documents, a rare large one, and documents of one token."""


def right(rng: np.random.Generator, kind: str, documents: int) -> tuple[Floats, Floats, float]:
    """Return right tokens of a less those of b, tokens (both (G,)), and the most tokens."""
    most = 1 if kind == "images" else 1000
    tokens = np.ones(documents, int)
    if most > 1:
        tokens = np.round(np.exp(rng.uniform(np.log(100), np.log(most), documents))).astype(int)
    difference, apart = _shares(rng, documents, kind)
    only_a = rng.binomial(tokens, (apart + difference) / 2)
    left = (apart - difference) / 2 / (1 - (apart + difference) / 2)
    over = only_a - rng.binomial(tokens - only_a, left)
    return over.astype(np.float64), tokens.astype(np.float64), float(most)


def betting(over_G: Floats, counts_G: Floats, most: float) -> float:
    """Return the half-width of the candidates whose capital stays below 2/α."""
    bets = sequential._bets(over_G / most, counts_G / most, sequential.LEVEL)
    limit = math.log(2 / (1 - sequential.LEVEL))

    def lower(over: Floats) -> float:
        low, high = -1 + 1e-9, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            fair = ((over + counts_G) / (1 + middle) - counts_G) / most
            low, high = (middle, high) if np.log1p(bets * fair).sum() >= limit else (low, middle)
        return low

    return (-lower(-over_G) - lower(over_G)) / 2


LONGEST = 2**17
WIDTHS = (0.05, 0.02, 0.01)


def _until(half_width: Callable[[int], float], target: float) -> float:
    """Return the number of documents, to 2 %, from which the half-width is at most `target`."""
    low, high = 1.0, float(LONGEST)
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if half_width(round(middle)) <= target else (middle, high)
    return high


def top1() -> Iterator[Row]:
    """Yield the rows of the third table: medians over five comparisons."""
    rng = np.random.default_rng(SEED)
    for kind in TOP1:
        found: dict[str, list[float]] = {}
        for _ in range(5):
            over, counts, most = right(rng, kind, LONGEST)
            ways: dict[str, Callable[[int], float]] = {
                "Bernstein": lambda k, o=over, n=counts, m=most: (  # type: ignore[misc]
                    empirical_bernstein(o[:k], n[:k], most=m).half_width
                ),
                "betting": lambda k, o=over, n=counts, m=most: betting(o[:k], n[:k], m),  # type: ignore[misc]
                # Tuned for the very number, the narrowest that this sequence can be there.
                "asymptotic": lambda k, o=over, n=counts: (  # type: ignore[misc]
                    asymptotic(o[:k], n[:k], horizon=k).half_width
                ),
            }
            for name, way in ways.items():
                for width in WIDTHS:
                    found.setdefault(f"{name} {width}", []).append(_until(way, width))
        yield {"design": kind, **{name: round(float(np.median(k))) for name, k in found.items()}}


def top1_coverage() -> Iterator[Row]:
    """Yield the rows of the fourth table."""
    rng = np.random.default_rng(SEED)
    for documents in (128, 512, 2000):
        for kind in TOP1:
            held: dict[str, list[bool]] = {"Bernstein": [], "asymptotic": []}
            for _ in range(COMPARISONS):
                over, counts, most = right(rng, kind, documents)
                ends = looks(documents)
                horizon = horizon_of(documents)
                seen = [(over[:end], counts[:end]) for end in ends]
                bounds = [empirical_bernstein(o, n, most=most) for o, n in seen]
                held["Bernstein"].append(all(_holds(found, TRUTH) for found in bounds))
                limits = [asymptotic(o, n, horizon=horizon) for o, n in seen]
                held["asymptotic"].append(all(_holds(found, TRUTH) for found in limits))
            shares = {name: round(float(np.mean(those)), 4) for name, those in held.items()}
            yield {"documents": documents, "design": kind, **shares}


def main() -> None:
    """Print the tables, then the same as one line of JSON."""
    made: dict[str, list[Row]] = {}
    for measure in (cross_entropy, beginnings, top1, top1_coverage):
        print(f"\n{measure.__name__}")
        made[measure.__name__] = []
        for row in measure():
            made[measure.__name__].append(row)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    print(json.dumps({"comparisons": COMPARISONS, "rounds": ROUNDS, "seed": SEED, **made}))


if __name__ == "__main__":
    main()
