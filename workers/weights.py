"""Weights: how strongly each neuron is read, before it has said anything.

A neuron at a site is one input of a projection, and all that later layers get of
it goes through one column of that projection's weight. The column's norm is the
weight's half of scores such as FLAP's and Wanda's (`orchestrator.scores`); the
other half, how much the neuron varies, is in the statistics.

A norm says nothing about what is done with the output further on: a long column
may write where nobody reads, or be undone by the next normalisation. It depends
on the axes: a rotated model has other columns.

Shapes: L layers, N inputs and D outputs of a projection.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import sharding
from workers.loading import Model, sites
from workers.messages import Site

_COLUMNS = 1024
"""Columns upcast together: 32 MB of them for 4,096 outputs, whatever the width of the MLP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Norms:
    """Norms of the columns of a site's projections, in units of the weights."""

    l1: NDArray[np.float64]
    """(L, N) sum of |w|."""
    l2: NDArray[np.float64]
    """(L, N) root of the sum of w²."""


def column_norms(model: Model, site: Site) -> Norms:
    """Return the norms of every column at a site, (L, N) each, summed in float64."""
    weights = [projection.weight.detach() for projection in sites(model.module, model.family, site)]
    l1_LN, l2_LN = _norms(weights, 1), _norms(weights, 2)
    if model.ref.shards > 1:  # each process has some of the columns
        gather = sharding.ranks().gather
        l1_LN, l2_LN = (gather(torch.from_numpy(norm)).numpy() for norm in (l1_LN, l2_LN))
    return Norms(l1=l1_LN, l2=l2_LN)


def _norms(weights: list[Tensor], power: int) -> NDArray[np.float64]:
    norm_LN = np.empty((len(weights), weights[0].shape[1]))
    for norm_N, weight_DN in zip(norm_LN, weights, strict=True):
        for start in range(0, norm_N.size, _COLUMNS):
            some_DC = weight_DN[:, start : start + _COLUMNS].double()
            norm_C = torch.linalg.vector_norm(some_DC, ord=power, dim=0)
            norm_N[start : start + _COLUMNS] = norm_C.cpu().numpy()
    return norm_LN
