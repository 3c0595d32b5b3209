"""Collection: what the neurons of a model do on some data, as histograms.

Passes, each over batches of sequences through the unablated model:

    pilot     a seeded sample of positions fixes where every neuron's bins lie
    collect   counts one shard of the data into those bins; shards are merged.
              With `rows` it is the second pass: only rows whose window was poor
              (`workers.widening`) are counted, in wider windows
    recount   counts it again between the final minima and maxima of all shards,
              for the one peak estimator that is defined so

Only attended positions are counted, at the pilot too: padding is not data. What
else is left out, and into which strata the rest goes, `Counted` says. Which
batch a sequence is in, and how far it is padded, is fixed by the plan.

The first position of every sequence is summed on its own as well, whatever
`Counted` leaves out: in the stratum that holds it, which is the first bucket of
positions, or the sequence's class. A class that is not among `Counted.starts` is
in no stratum.

In a notebook, on a model that `workers.loading` loaded or adopted:
`collect(model, batches)` makes the pilot first and counts in its windows.

The pilot holds its sample, R x `positions` values, in the activations' dtype on
the model's device; the other two hold their tables and one batch.

Shapes: S sequences, T positions (prefix tokens of images included), P positions
counted, Z strata, L layers, N neurons of a hookpoint, R = L x N rows
(layer-major), W rows of a second pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.counting import Counter, FixedCounter
from workers.histogram import FixedCounts, Histogram, empty, stacked
from workers.hooks import hidden, recording
from workers.loading import Model
from workers.messages import ALL, Batch, Counted, Site
from workers.positions import Places, attended, places, strata
from workers.sampling import drawn
from workers.sampling import windows_from as windows_from  # the pilot, for values at hand
from workers.shares import Share
from workers.windows import Windows
from workers.windows import stacked as stacked_windows

Sink = Callable[[int, int, Tensor, Tensor], None]
"""Takes stratum, layer, the values counted there (P, N) and those at first positions (F, N)."""


def pilot(
    model: Model,
    batches: Sequence[Batch],
    *,
    site: Site = "attn_pre_out",
    bins: int = 256,
    positions: int = 4096,
    seed: int,
    counted: Counted = ALL,
) -> Windows:
    """Return the windows of all L x N rows of a site, from a sample of counted positions.

    Strata are sampled together; `workers.windows.stacked` gives each a copy. The
    sample is drawn without replacement over all batches; of fewer positions than
    asked for, all are taken. Raises ValueError if nothing is counted, and as
    `windows_from` does.
    """
    kept: list[list[Tensor]] = [[] for _ in range(model.facts.layers)]

    def keep(stratum: int, layer: int, values_PN: Tensor, firsts_FN: Tensor) -> None:
        del stratum, firsts_FN
        kept[layer].append(values_PN.clone())  # the model may write over its own

    together = replace(counted, by="all")
    everywhere = [places(batch, model.facts, together) for batch in batches]
    neurons = model.facts.neurons_at(site)
    share = Share(model, np.arange(model.facts.layers * neurons), neurons)
    _visit(share.model, batches, drawn(everywhere, positions, seed), site, keep)
    return share.placed(windows_from([torch.cat(parts) for parts in kept], bins))


def collect(
    model: Model,
    batches: Sequence[Batch],
    *,
    site: Site = "attn_pre_out",
    windows: Windows | None = None,
    shard: int = 0,
    counted: Counted = ALL,
    rows: NDArray[np.intp] | None = None,
) -> Histogram:
    """Count the activations of a site at the counted positions of one shard of the data.

    Without `windows` a pilot over the same batches, with seed 0, places them. With
    `rows`, (W,) ascending indices into the Z x L x N rows of a first pass, only those
    are counted, `windows` has W rows and so has the histogram; with none of them the
    model is not run. Raises ValueError where rows and windows do not fit each other
    or the model.
    """
    if windows is None:
        if rows is not None:
            raise ValueError(
                f"{rows.size} rows are to be counted again, and no windows were given. Give their"
                " wider windows, as `workers.widening.wider` returns them."
            )
        placed = pilot(model, batches, site=site, seed=0, counted=counted)
        windows = stacked_windows([placed] * strata(counted))
    if rows is not None and not rows.size:
        return empty(windows, (shard,))
    layers = model.facts.layers
    neurons = model.facts.neurons_at(site)
    chosen_R = _chosen(rows, windows, strata(counted) * layers, neurons)
    share = Share(model, chosen_R, neurons)
    cells = _cells(share.rows, share.windows(windows), share.neurons, model.device)

    def count(stratum: int, layer: int, values_PN: Tensor, firsts_FN: Tensor) -> None:
        cell = cells.get(stratum * layers + layer)
        if cell is not None:
            cell.add(values_PN, firsts_FN)

    wanted = set((chosen_R // (neurons * layers)).tolist())
    everywhere = [places(batch, model.facts, counted) for batch in batches]
    only = [{z: found[z] for z in found if z in wanted} for found in everywhere]
    _visit(share.model, batches, only, site, count)
    parts = [cell.counter.histogram(shard) for cell in cells.values()]
    own = stacked(parts) if parts else empty(share.windows(windows), (shard,))
    return share.histogram(own, windows)


def recount(
    model: Model,
    batches: Sequence[Batch],
    *,
    site: Site = "attn_pre_out",
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    bins: int = 100,
    shard: int = 0,
    counted: Counted = ALL,
) -> FixedCounts:
    """Count one shard of the data into equal bins between `low` and `high`, (R,) each.

    Counts equal those of `torch.histc` over the float32 values, but for a row with
    low = high: histc would widen the range by one; here all is in the first bin.
    Raises ValueError for strata: the published peak has none.
    """
    if counted.by != "all":
        raise ValueError(
            f"Equal bins between the extremes were asked for by {counted.by}; they are counted in"
            " one stratum only. Use another estimator of the peak for strata."
        )
    layers = model.facts.layers
    share = Share(model, np.arange(low.size), model.facts.neurons_at(site))
    counters = [
        FixedCounter(low_N, high_N, bins=bins, device=model.device)
        for low_N, high_N in zip(
            *(np.split(share.own(end_R), layers) for end_R in (low, high)), strict=True
        )
    ]

    def count(stratum: int, layer: int, values_PN: Tensor, firsts_FN: Tensor) -> None:
        del stratum, firsts_FN
        counters[layer].add(values_PN)

    everywhere = [places(batch, model.facts, counted) for batch in batches]
    _visit(share.model, batches, everywhere, site, count)
    counts_RB = np.concatenate([counter.counts(shard).counts for counter in counters])
    own = FixedCounts(low=share.own(low), high=share.own(high), shards=(shard,), counts=counts_RB)
    return share.fixed(own, low, high)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    """The counter of one (stratum, layer), and which of its neurons it counts."""

    counter: Counter
    neurons: Tensor | None
    """(W,) on the model's device; None for all."""

    def add(self, values_PN: Tensor, firsts_FN: Tensor) -> None:
        if self.neurons is not None:
            values_PN = values_PN.index_select(1, self.neurons)
            firsts_FN = firsts_FN.index_select(1, self.neurons)
        self.counter.add(values_PN)
        self.counter.add_first(firsts_FN)


def _cells(
    chosen_R: NDArray[np.intp], windows: Windows, neurons: int, device: torch.device
) -> dict[int, _Cell]:
    """Return counters by stratum x L + layer, ascending, for those that have rows."""
    cells = {}
    cell_R = chosen_R // neurons
    for cell in np.unique(cell_R):
        at = slice(*np.searchsorted(cell_R, (cell, cell + 1)))
        mine_W = chosen_R[at] - cell * neurons
        some = None if mine_W.size == neurons else torch.from_numpy(mine_W).to(device)
        cells[int(cell)] = _Cell(counter=Counter(windows.taken(at), device), neurons=some)
    return cells


def _chosen(
    rows: NDArray[np.intp] | None, windows: Windows, hookpoints: int, neurons: int
) -> NDArray[np.intp]:
    """Return the rows to count, all or some, having checked that they fit."""
    every = hookpoints * neurons
    chosen_R = np.arange(every) if rows is None else rows
    ascending = (np.diff(np.concatenate([[-1], chosen_R, [every]])) > 0).all()
    if not ascending or windows.first.size != chosen_R.size:
        raise ValueError(
            f"Windows of {windows.first.size} rows were given for {chosen_R.size} rows of a table"
            f" of {every} ({hookpoints} hookpoints, strata counted apart, x {neurons} neurons)."
            " Expected one window for each row, rows ascending: give each stratum its windows."
        )
    return chosen_R


def _visit(
    model: Model,
    batches: Sequence[Batch],
    everywhere: Sequence[Mapping[int, Places]],
    site: Site,
    sink: Sink,
) -> None:
    """Run the batches; give `sink` what stands at the places of each stratum, layer by layer.

    A batch without any places is not run.
    """
    for batch, found in zip(batches, everywhere, strict=True):
        if not found:
            continue
        expected = attended(batch, model.facts).shape
        indices = _moved(found, model.device)

        def flat(
            layer: int,
            values_STN: Tensor,
            expected: tuple[int, ...] = expected,
            indices: Sequence[tuple[int, Tensor, Tensor]] = indices,
        ) -> None:
            if tuple(values_STN.shape[:2]) != expected:
                raise ValueError(
                    f"Activations of layer {layer} at {site} have the shape"
                    f" {tuple(values_STN.shape)}; {expected[0]} sequences of {expected[1]}"
                    " positions were fed. This family's positions are not read rightly."
                )
            values_PN = values_STN.reshape(-1, values_STN.shape[2]).contiguous()
            for stratum, index_P, index_F in indices:
                whole = len(index_P) == len(values_PN)  # saves a copy where nothing is padding
                picked_PN = values_PN if whole else values_PN.index_select(0, index_P)
                sink(stratum, layer, picked_PN, values_PN.index_select(0, index_F))

        with recording(model, site, flat):
            hidden(model, batch)


def _moved(found: Mapping[int, Places], device: torch.device) -> list[tuple[int, Tensor, Tensor]]:
    """Return places by stratum on the device, moved at once.

    A mask indexed per layer would wait for the device every time.
    """
    parts = [part for place in found.values() for part in (place.counted, place.first)]
    index = torch.from_numpy(np.concatenate(parts)).to(device)
    split = iter(torch.split(index, [part.size for part in parts]))
    return [(stratum, next(split), next(split)) for stratum in found]
