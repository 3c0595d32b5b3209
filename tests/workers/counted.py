"""Values counted into histograms, for tests: a sample is P x N activations of one hookpoint."""

from dataclasses import fields, is_dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from workers.collect import windows_from
from workers.counting import Counter, FixedCounter
from workers.histogram import FixedCounts, Histogram
from workers.windows import Windows

CPU = torch.device("cpu")


def tensor(values: ArrayLike, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return values as (P, N); one column if they are one-dimensional."""
    array = np.asarray(values, np.float64)
    return torch.from_numpy(array[:, None] if array.ndim == 1 else array).to(dtype)


def count(
    values: ArrayLike | torch.Tensor, windows: Windows | None = None, *, shard: int = 0
) -> Histogram:
    """Count values, by default into windows piloted by their first 4096 positions."""
    values_PN = values if isinstance(values, torch.Tensor) else tensor(values)
    counter = Counter(windows or windows_from([values_PN[:4096]]), CPU)
    counter.add(values_PN)
    return counter.histogram(shard)


def recount(values: ArrayLike, histogram: Histogram, *, shard: int = 0) -> FixedCounts:
    """Count values again, in 100 bins from a histogram's minima to its maxima."""
    low, high = histogram.minimum, histogram.maximum
    counter = FixedCounter(low, high, bins=100, device=CPU)
    counter.add(tensor(values))
    return counter.counts(shard)


def bits(value: object) -> object:
    """Return everything a result holds, so that == means the same to the last bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return tuple(bits(getattr(value, field.name)) for field in fields(value))
    return value
