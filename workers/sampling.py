"""Sampling: the pilot's draw of positions, and the windows that its values ask for.

Order statistics need all values at once, so they are taken of a sample: a few
thousand positions, drawn without replacement by a seed over all that is counted.
With n positions, the share of all values beyond an end of the middle 99 % is
0.005 give or take √(0.005/n), if positions were independent; tokens of one text
are not. What the sample missed shows in the counts and is counted again
(`workers.widening`).

Shapes: P positions, N neurons of a hookpoint, L layers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.positions import Places
from workers.windows import LATTICES, TAIL, Sample, Windows, place


def drawn(
    everywhere: Sequence[Mapping[int, Places]], positions: int, seed: int
) -> list[dict[int, Places]]:
    """Draw counted positions over all batches; return their places per batch, ascending."""
    none_P = np.zeros(0, np.int64)
    candidates = [found[0].counted if found else none_P for found in everywhere]
    total = sum(place_P.size for place_P in candidates)
    if not total:
        raise ValueError(
            f"None of the {len(candidates)} batches of the pilot has a position to count."
            " Give it at least one sequence, and do not leave out all of its positions."
        )
    chosen = np.zeros(total, np.bool_)
    chosen[np.random.default_rng(seed).permutation(total)[:positions]] = True
    ends = np.cumsum([place_P.size for place_P in candidates])[:-1]
    kept = [place_P[mask] for place_P, mask in zip(candidates, np.split(chosen, ends), strict=True)]
    return [{0: Places(counted=place_P, first=none_P)} if place_P.size else {} for place_P in kept]


def windows_from(layers: Sequence[Tensor], bins: int = 256) -> Windows:
    """Return the windows of L x N rows for a sample of activations, (P, N) of each of L layers.

    How is told in `workers.windows`. Raises ValueError for a number of bins that is odd
    or that the dtype cannot tell apart.
    """
    statistics = [_order_statistics(values_PN) for values_PN in layers]
    low, quarter, three_quarters, high, std = np.concatenate(statistics, axis=1)
    sample = Sample(low=low, quarter=quarter, three_quarters=three_quarters, high=high, std=std)
    return place(sample, LATTICES[str(layers[0].dtype).removeprefix("torch.")], bins)


def _order_statistics(values_PN: Tensor) -> NDArray[np.float64]:
    """Return low, quarter, three quarters, high, s.d. of finite non-zero values, (5, N)."""
    x_PN = values_PN.to(torch.float32)
    valid_PN = x_PN.isfinite() & (x_PN != 0)
    count_N = valid_PN.sum(dim=0)
    sorted_PN = torch.where(valid_PN, x_PN, torch.inf).sort(dim=0).values.to(torch.float64)

    def ranked(q: float) -> Tensor:
        rank_N = (q * count_N.to(torch.float64)).ceil().to(torch.int64).sub_(1).clamp_(min=0)
        return torch.where(count_N > 0, sorted_PN.gather(0, rank_N[None])[0], 0.0)

    wide_PN = torch.where(valid_PN, x_PN.to(torch.float64), 0.0)
    mean_N = wide_PN.sum(dim=0) / count_N.clamp(min=1)
    variance_N = torch.where(valid_PN, wide_PN - mean_N, 0.0).square_().sum(dim=0)
    std_N = (variance_N / count_N.clamp(min=1)).sqrt_()
    rows = [ranked(TAIL), ranked(0.25), ranked(0.75), ranked(1 - TAIL), std_N]
    return torch.stack(rows).cpu().numpy()
