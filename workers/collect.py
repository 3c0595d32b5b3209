"""Collection: what the neurons of a model do on some data, as histograms.

Three passes, each over batches of sequences through the unablated model:

    pilot     a seeded sample of positions fixes where every neuron's bins lie
    collect   counts one shard of the data into those bins; shards are merged
    recount   counts it again between the final minima and maxima of all shards,
              for the one peak estimator that is defined so

Only attended positions are counted, at the pilot too: padding is not data. Which
batch a sequence is in, and how far it is padded, is fixed by the plan.

The pilot holds its sample, R x `positions` values, in the activations' dtype on
the model's device; the other two hold their tables and one batch.

Shapes: S sequences, T positions (prefix tokens of images included), P positions
counted, L layers, N neurons of a hookpoint, R = L x N rows (layer-major).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.counting import Counter, FixedCounter
from workers.histogram import FixedCounts, Histogram
from workers.hooks import hidden, recording
from workers.loading import Model
from workers.messages import Batch, ModelFacts, Site
from workers.windows import TAIL, Lattice, Sample, Windows, place


def pilot(
    model: Model,
    batches: Sequence[Batch],
    *,
    site: Site,
    bins: int = 256,
    positions: int = 4096,
    seed: int,
) -> Windows:
    """Return the windows of all L x N rows of a site, from a sample of attended positions.

    The sample is drawn without replacement over all batches; of fewer positions
    than asked for, all are taken. Raises ValueError if nothing is attended, and as
    `windows_from` does.
    """
    kept: list[list[Tensor]] = [[] for _ in range(model.facts.layers)]
    places = _sampled([_attended(batch, model.facts) for batch in batches], positions, seed)
    _visit(model, batches, places, site, lambda layer, values: kept[layer].append(values))
    return windows_from([torch.cat(parts) for parts in kept], bins)


def windows_from(layers: Sequence[Tensor], bins: int = 256) -> Windows:
    """Return the windows of L x N rows for a sample of activations, (P, N) of each of L layers.

    How is told in `workers.windows`. Raises ValueError for a number of bins that is odd
    or that the dtype cannot tell apart.
    """
    statistics = [_order_statistics(values_PN) for values_PN in layers]
    low, quarter, three_quarters, high, std = np.concatenate(statistics, axis=1)
    sample = Sample(low=low, quarter=quarter, three_quarters=three_quarters, high=high, std=std)
    return place(sample, _lattice(layers[0].dtype), bins)


def collect(
    model: Model, batches: Sequence[Batch], *, site: Site, windows: Windows, shard: int
) -> Histogram:
    """Count the activations of a site at every attended position of one shard of the data."""
    counter = Counter(windows, model.facts.layers, model.device)
    _visit(model, batches, _all(batches, model.facts), site, counter.add)
    return counter.histogram(shard)


def recount(
    model: Model,
    batches: Sequence[Batch],
    *,
    site: Site,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    bins: int = 100,
    shard: int,
) -> FixedCounts:
    """Count one shard of the data into equal bins between `low` and `high`, (R,) each.

    Counts equal those of `torch.histc` over the float32 values, but for a row with
    low = high: histc would widen the range by one; here all is in the first bin.
    """
    layers, device = model.facts.layers, model.device
    counter = FixedCounter(low, high, bins=bins, layers=layers, device=device)
    _visit(model, batches, _all(batches, model.facts), site, counter.add)
    return counter.counts(shard)


def _visit(
    model: Model,
    batches: Sequence[Batch],
    places: Sequence[NDArray[np.int64]],
    site: Site,
    sink: Callable[[int, Tensor], None],
) -> None:
    """Run the batches; give `sink` each layer's activations at the batch's places, (P, N).

    Places count a batch's S x T positions row by row; a batch without any is not run.
    """
    for batch, place_P in zip(batches, places, strict=True):
        if not place_P.size:
            continue
        expected = _attended(batch, model.facts).shape
        # Moved once per batch: a mask indexed per layer would wait for the device every time.
        index_P = torch.from_numpy(place_P).to(model.device)

        def flat(
            layer: int,
            values_STN: Tensor,
            expected: tuple[int, ...] = expected,
            index_P: Tensor = index_P,
        ) -> None:
            if tuple(values_STN.shape[:2]) != expected:
                raise ValueError(
                    f"Activations of layer {layer} at {site} have the shape"
                    f" {tuple(values_STN.shape)}; {expected[0]} sequences of {expected[1]}"
                    " positions were fed. This family's positions are not read rightly."
                )
            sink(layer, values_STN.reshape(-1, values_STN.shape[2]).index_select(0, index_P))

        with recording(model, site, flat):
            hidden(model, batch)


def _attended(batch: Batch, facts: ModelFacts) -> NDArray[np.bool_]:
    """Return which of a batch's (S, T) positions are data."""
    if batch.attended is not None:
        return batch.attended
    positions = facts.window if facts.modality == "image" else batch.inputs.shape[1]
    return np.ones((batch.inputs.shape[0], positions), np.bool_)


def _all(batches: Sequence[Batch], facts: ModelFacts) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(_attended(batch, facts)) for batch in batches]


def _sampled(
    attended: Sequence[NDArray[np.bool_]], positions: int, seed: int
) -> list[NDArray[np.int64]]:
    """Draw attended positions over all batches; return their places per batch, ascending."""
    places = [np.flatnonzero(attended_ST) for attended_ST in attended]
    total = sum(place_P.size for place_P in places)
    if not total:
        raise ValueError(
            f"None of the {len(places)} batches of the pilot has an attended position."
            " Give it at least one sequence."
        )
    chosen = np.zeros(total, np.bool_)
    chosen[np.random.default_rng(seed).permutation(total)[:positions]] = True
    ends = np.cumsum([place_P.size for place_P in places])[:-1]
    return [place_P[mask] for place_P, mask in zip(places, np.split(chosen, ends), strict=True)]


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


def _lattice(dtype: torch.dtype) -> Lattice:
    limits = torch.finfo(dtype)
    mantissa, smallest = -np.log2(limits.eps), np.log2(limits.tiny)
    return Lattice(name=str(dtype), mantissa=int(mantissa), smallest=int(smallest))
