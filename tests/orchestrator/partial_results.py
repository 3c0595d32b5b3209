"""Histograms and fixed counts as Hypothesis draws them, and what it takes for two to be equal."""

from dataclasses import fields

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from workers.histogram import MOMENTS, FixedCounts, Histogram
from workers.windows import Windows

COUNTED = tuple(f.name for f in fields(Histogram) if "int64" in str(f.type) and f.name != "counts")
"""Fields of a histogram with one integer per row."""
ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)
EXTREME = st.floats(allow_nan=False).map(lambda x: x + 0.0) | st.just(np.nan)
"""Of two NaNs, or zeros of two signs, a comparison keeps either: what is merged has one of each."""
SMALL = st.integers(0, 2**20)
LARGE = st.integers(0, 2**52)


def bits(value: object) -> list[object]:
    """Return everything a dataclass of arrays holds, so that equal means equal bits."""
    found: list[object] = []
    for field in fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, Windows):
            found += bits(item)
        elif isinstance(item, np.ndarray):
            found.append((field.name, item.dtype.str, item.shape, item.tobytes()))
        else:
            found.append((field.name, item))
    return found


def _integers(size: st.SearchStrategy[int], *shape: int) -> st.SearchStrategy[NDArray[np.int64]]:
    return hnp.arrays(np.int64, shape, elements=size)


@st.composite
def windows(draw: st.DrawFn, rows: int) -> Windows:
    return Windows(
        exponent=draw(hnp.arrays(np.int32, rows, elements=st.integers(-149, 127))),
        first=draw(hnp.arrays(np.int64, rows, elements=st.integers(-(2**53), 2**53))),
        bins=draw(st.sampled_from([4, 6, 8])),
    )


@st.composite
def histograms(draw: st.DrawFn, parts: int = 1) -> list[Histogram]:
    """Draw histograms of different shards in the same windows."""
    rows, ends = draw(st.integers(0, 5)), EXTREME if parts > 1 else ANY
    placed = draw(windows(rows))
    every = draw(st.permutations(range(2 * parts)))
    made = []
    for i in range(parts):
        shards = tuple(sorted(every[2 * i : 2 * i + draw(st.integers(1, 2))]))
        shape = (len(shards), rows, len(MOMENTS))
        made.append(
            Histogram(
                windows=placed,
                shards=shards,
                counts=draw(_integers(draw(st.sampled_from([SMALL, LARGE])), rows, placed.bins)),
                moments=draw(hnp.arrays(np.float64, shape, elements=ANY)),
                minimum=draw(hnp.arrays(np.float64, rows, elements=ends)),
                maximum=draw(hnp.arrays(np.float64, rows, elements=ends)),
                **{c: draw(_integers(LARGE, rows)) for c in COUNTED},
            )
        )
    return made


@st.composite
def fixed(draw: st.DrawFn, parts: int = 1) -> list[FixedCounts]:
    rows, bins = draw(st.integers(0, 5)), draw(st.integers(1, 5))
    # Two parts are joined only if their ends are equal, and NaN is not.
    low = np.nan_to_num(draw(hnp.arrays(np.float64, rows, elements=ANY)))
    high = draw(hnp.arrays(np.float64, rows, elements=st.floats(-1e9, 1e9)))
    sizes = [draw(st.sampled_from([SMALL, LARGE])) for _ in range(parts)]
    return [
        FixedCounts(low=low, high=high, shards=(i,), counts=draw(_integers(size, rows, bins)))
        for i, size in enumerate(sizes)
    ]


def plain(counts: NDArray[np.int64], shard: int = 0) -> Histogram:
    """Return a histogram of these counts (R, B) and nothing else."""
    rows, bins = counts.shape
    none = np.zeros(rows, np.int64)
    return Histogram(
        windows=Windows(exponent=np.zeros(rows, np.int32), first=none, bins=bins),
        shards=(shard,),
        counts=counts,
        moments=np.full((1, rows, len(MOMENTS)), float(shard)),
        minimum=np.zeros(rows),
        maximum=np.zeros(rows),
        **dict.fromkeys(COUNTED, none),
    )
