"""Canaries: three experiments whose outcome is known, run before any that counts.

Each would come out wrong if holding neurons did not do what it says on this very
model, in this dtype, on this device:

    identity    every neuron is replaced by its own activation: the hidden states
                must be the bare model's, bit for bit
    no-op       nothing is folded, and what was folded is taken out again: weights
                and hidden states must be as before, bit for bit
    saturation  all neurons of one layer are held at mean + 100 times the largest
                activation there: the hidden states must change. Layer by layer, so
                that none hides behind another

The first two find a forward pass that depends on being watched, the third one
that goes round the projections. They say nothing of *how much* holding changes;
`workers.ablation.checked_by_hook` does.

Assumes that the same batch gives the same bits twice, as inference does on a CPU
and with the usual kernels on a GPU.

Shapes: L layers, S sequences, T positions, N neurons of one hookpoint, D width of
the hidden states.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import hooks
from workers.ablation import AblationError, folded
from workers.data import first
from workers.loading import Model
from workers.messages import Batch, CellOrder, Constant, Donated, Hold, Site
from workers.positions import attended
from workers.replacing import Replacement, activations
from workers.stubs import same_bits

_SEQUENCES = 2
"""Of the batch that are used: the outcomes are known for any."""
_HUGE = 100.0
"""Times the largest activation of the layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """What was run, all of it with the outcome that was known."""

    sequences: int
    hookpoints: int
    """Layers x sites, each replaced by itself, folded and unfolded, and saturated."""
    least: float
    """Smallest change that saturating one hookpoint made: the largest difference of a hidden
    state, as a share of the largest hidden state; inf where the model overflowed."""


def canaries(model: Model, batch: Batch, *, sites: Sequence[Site]) -> Canaries:
    """Run all canaries on the first sequences of a batch; the model is left as it was.

    Raises AblationError, naming layer and site, where one fails.
    """
    few = first(batch, _SEQUENCES)
    with torch.inference_mode():
        bare_STD = hooks.hidden(model, few)
        least = np.inf
        for site in sites:
            own_LSTN = activations(model, {site: range(model.facts.layers)}, few)[site]
            _identity(model, few, site, own_LSTN, bare_STD)
            nothing = [np.empty(0, np.int64)] * len(own_LSTN)
            with folded(model, site, nothing, np.zeros((len(own_LSTN), own_LSTN[0].shape[2]))):
                _same(hooks.hidden(model, few), bare_STD, f"a fold of no neuron at {site}")
            for layer, x_STN in enumerate(own_LSTN):
                least = min(least, _saturated(model, few, site, layer, x_STN, bare_STD))
            after = f"folding every neuron at {site}, one layer after another, and unfolding them"
            _same(hooks.hidden(model, few), bare_STD, after)
    hookpoints = model.facts.layers * len(sites)
    return Canaries(sequences=len(few.sequence), hookpoints=hookpoints, least=float(least))


def _identity(
    model: Model, batch: Batch, site: Site, own_LSTN: Sequence[Tensor], bare_STD: Tensor
) -> None:
    """Replace every neuron by itself, all layers at once; where that fails, one by one."""
    layers, neurons = len(own_LSTN), own_LSTN[0].shape[2]

    def same(chosen: Sequence[int]) -> bool:
        held = tuple(np.arange(neurons if layer in chosen else 0) for layer in range(layers))
        hold = Hold(site=site, held=held, value=Donated(donors="itself"))
        order = CellOrder(cell="identity", holds=(hold,))
        replacement = Replacement(model, order, own_LSTN[0].shape[1])
        with replacement.on(batch, {("itself", site): [own_LSTN]}) as count:
            hidden_STD = hooks.hidden(model, batch)
        return count.held() == count.told and same_bits(hidden_STD, bare_STD)

    if not same(range(layers)):
        wrong = next((layer for layer in range(layers) if not same([layer])), None)
        raise AblationError(
            f"{'Several layers together' if wrong is None else f'Layer {wrong}'} at {site}: with"
            " every neuron replaced by its own activation, the hidden states are not those of the"
            f" bare model {_DO}"
        )


def _saturated(
    model: Model, batch: Batch, site: Site, layer: int, x_STN: Tensor, bare_STD: Tensor
) -> float:
    """Hold all neurons of a layer far away, and unfold them; return how much that changed."""
    attended_ST = torch.from_numpy(attended(batch, model.facts)).to(x_STN.device)
    x_MN = x_STN[attended_ST].double().nan_to_num(0, 0, 0)
    largest = x_MN.abs().amax().item() or 1.0  # a layer of nothing but zeros is held at 100
    values_LN = np.zeros((model.facts.layers, x_MN.shape[1]))
    values_LN[layer] = (x_MN.mean(dim=0) + _HUGE * largest).cpu().numpy()
    held = [np.arange(values_LN.shape[1] if i == layer else 0) for i in range(len(values_LN))]
    before = _weights(model, site, layer)
    with _held(model, batch, site, held, values_LN):
        hidden_STD = hooks.hidden(model, batch)
    after = _weights(model, site, layer)
    if len(after) != len(before) or not all(map(same_bits, after, before)):
        raise AblationError(
            f"Layer {layer} at {site}: after all its neurons were folded and unfolded, its"
            f" projection is not what it was {_DO}"
        )
    if batch.attended is not None:  # what padded positions become is nobody's concern
        hidden_STD, bare_STD = hidden_STD[attended_ST], bare_STD[attended_ST]
    if same_bits(hidden_STD, bare_STD):
        raise AblationError(
            f"Layer {layer} at {site}: with all its neurons held at {_HUGE:g} times the largest"
            " activation, no hidden state changed, so what is held there does not reach the head"
            f" {_DO}"
        )
    size = bare_STD.float().abs().max().item()
    change = (hidden_STD.float() - bare_STD.float()).abs().max().item()
    return change / size if size and np.isfinite(change) else np.inf


def _held(
    model: Model,
    batch: Batch,
    site: Site,
    held: Sequence[NDArray[np.int64]],
    values_LN: NDArray[np.float64],
) -> AbstractContextManager[object]:
    """Hold neurons as evaluation will: folded, or put in where weights are packed."""
    if model.ref.packed is None:
        return folded(model, site, held, values_LN)
    hold = Hold(site=site, held=tuple(held), value=Constant(values=values_LN))
    order = CellOrder(cell="saturated", holds=(hold,))
    return Replacement(model, order, attended(batch, model.facts).shape[1]).on(batch, {})


def _weights(model: Model, site: Site, layer: int) -> list[Tensor]:
    """Return copies of a projection's parameters; none of packed ones, which nothing writes to."""
    if model.ref.packed is not None:
        return []
    projection = hooks.projections(model, site)[layer]
    return [parameter.detach().clone() for parameter in projection.parameters()]


def _same(found_STD: Tensor, bare_STD: Tensor, after: str) -> None:
    if not same_bits(found_STD, bare_STD):
        raise AblationError(
            f"After {after}, the hidden states are not those of the bare model {_DO}"
        )


_DO = (
    "(dtype and device as loaded). Results of this model would be wrong: correct its row in"
    " workers/families.py, remove other hooks, or report its name."
)
