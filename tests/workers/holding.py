"""Neurons held the plain way, and what tells whether a model was left as it was.

`plainly` puts in every kind of value, one sequence, position or neuron after another,
written again in numpy; it shares with the code under test only the uniform draws.

Nothing here uses the code under test: hooks are torch's own, put on the
projections that the family names.

Shapes: L layers, N neurons of one hookpoint, S sequences, T positions, Z buckets of positions,
H held neurons of one layer.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import draws, hooks, plugins
from workers.loading import Model
from workers.messages import (
    Batch,
    ByPosition,
    CellOrder,
    Constant,
    Custom,
    Donated,
    Donors,
    Hold,
    Marginal,
    NearestPeak,
    Noise,
    Site,
)

Held = tuple[NDArray[np.int64], ...]


def random_held(model: Model, share: float, seed: int = 0, site: Site = "attn_pre_out") -> Held:
    """Return a random share of every layer's neurons, ascending."""
    rng, neurons = np.random.default_rng(seed), model.facts.neurons_at(site)
    k = round(share * neurons)
    return tuple(np.sort(rng.permutation(neurons)[:k]) for _ in range(model.facts.layers))


def random_values(model: Model, seed: int = 0, site: Site = "attn_pre_out") -> NDArray[np.float64]:
    """Return a random constant for every neuron, (L, N)."""
    shape = (model.facts.layers, model.facts.neurons_at(site))
    return np.random.default_rng((seed, 1)).normal(0.3, 0.5, shape)


def random_by_position(
    model: Model, buckets: int, seed: int = 0, site: Site = "attn_pre_out"
) -> NDArray[np.float64]:
    """Return a random constant for every neuron in every bucket of positions, (Z, L, N)."""
    shape = (buckets, model.facts.layers, model.facts.neurons_at(site))
    return np.random.default_rng((seed, 2)).normal(0.3, 0.5, shape)


def projections(model: Model, site: Site = "attn_pre_out") -> list[nn.Linear]:
    """Return the output projections of attention, or of the MLP."""
    return hooks.projections(model, site)


@contextmanager
def hooked(
    model: Model, change: Callable[[int, Tensor], Tensor], site: Site = "attn_pre_out"
) -> Iterator[None]:
    """Let every projection receive `change(layer, input)`."""
    with ExitStack() as stack:
        for layer, projection in enumerate(projections(model, site)):

            def before(_: nn.Module, args: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
                return (change(layer, args[0]),)

            stack.callback(projection.register_forward_pre_hook(before).remove)
        yield


@contextmanager
def hooked_at(model: Model, which: Held, values_LN: NDArray[np.float64]) -> Iterator[None]:
    """Put constants at the held neurons of every projection's input."""

    def put_in(layer: int, x_STN: Tensor) -> Tensor:
        x_STN = x_STN.clone()
        x_STN[..., which[layer]] = torch.from_numpy(values_LN[layer, which[layer]]).to(x_STN.dtype)
        return x_STN

    with hooked(model, put_in):
        yield


@contextmanager
def hooked_by_position(
    model: Model, which: Held, values_ZLN: NDArray[np.float64], starts: tuple[int, ...]
) -> Iterator[None]:
    """Put constants at the held neurons of every position, one position after another."""

    def put_in(layer: int, x_STN: Tensor) -> Tensor:
        x_STN = x_STN.clone()
        for t in range(x_STN.shape[1]):
            bucket = max(z for z, start in enumerate(starts) if start <= t)
            constant_H = torch.from_numpy(values_ZLN[bucket, layer, which[layer]])
            x_STN[:, t, which[layer]] = constant_H.to(x_STN.dtype)
        return x_STN

    with hooked(model, put_in):
        yield


@contextmanager
def plainly(
    model: Model, order: CellOrder, batch: Batch, donors: Mapping[str, Donors]
) -> Iterator[None]:
    """Hold a cell's neurons on one batch, the first for which donors are given."""
    taken = [  # before any hook is there
        [recorded(model, fed[0], hold.site) for fed in donors[hold.value.donors].passes]
        if isinstance(hold.value, Donated)
        else []
        for hold in order.holds
    ]
    with ExitStack() as stack:
        for hold, given in zip(order.holds, taken, strict=True):
            rows = donors[hold.value.donors].rows if isinstance(hold.value, Donated) else None

            def put_in(
                layer: int,
                x: Tensor,
                hold: Hold = hold,
                given: list[list[Tensor]] = given,
                row_S: NDArray[np.int64] | None = rows and rows[0],
            ) -> Tensor:
                x_STN = x.reshape(len(batch.sequence), -1, x.shape[-1])
                held_H, made_STN = hold.held[layer], x_STN.clone()
                if len(held_H):
                    x_STH = x_STN[..., held_H].double().numpy()
                    passes = [x_LSTN[layer].double().numpy() for x_LSTN in given]
                    c_STH = torch.from_numpy(
                        _value(model, hold, layer, batch, x_STH, x_STN, passes, row_S)
                    )
                    if order.share < 1:
                        soft_STH = (1 - order.share) * x_STN[..., held_H].float()
                        c_STH = soft_STH + order.share * c_STH.float()
                    made_STN[..., held_H] = c_STH.to(x.dtype)
                if batch.attended is not None:
                    padded_ST = ~torch.from_numpy(batch.attended)
                    made_STN[padded_ST] = x_STN[padded_ST]
                return made_STN.reshape(x.shape)

            stack.enter_context(hooked(model, put_in, hold.site))
        yield


def recorded(model: Model, batch: Batch, site: Site) -> list[Tensor]:
    """Return every layer's activations (S, T, N) at a site."""
    kept: list[Tensor] = []

    def keep(_: int, x: Tensor) -> Tensor:
        kept.append(x.reshape(len(batch.sequence), -1, x.shape[-1]).clone())
        return x

    with hooked(model, keep, site):
        hooks.logits(model, batch)
    return kept


def _value(
    model: Model,
    hold: Hold,
    layer: int,
    batch: Batch,
    x_STH: NDArray[np.float64],
    x_STN: Tensor,
    passes: list[NDArray[np.float64]],
    row_S: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return what the held neurons of one layer become, (S, T, H)."""
    held_H, value, made_STH = hold.held[layer], hold.value, np.empty(x_STH.shape)
    places = list(np.ndindex(*x_STH.shape))

    def uniform(seed: int, purpose: int, positions: int, neurons: int) -> NDArray[np.float64]:
        return draws.uniform(
            seed,
            batch.sequence,
            layer=layer,
            site="attn_pre_out" if neurons == 1 else hold.site,
            positions=positions,
            neurons=neurons,
            device="cpu",
            purpose=purpose,
        ).numpy()

    neurons = model.facts.neurons_at(hold.site)
    if isinstance(value, Constant):
        made_STH[:] = value.values[layer, held_H]
    elif isinstance(value, ByPosition):
        for s, t, h in places:
            bucket = max(z for z, start in enumerate(value.starts) if start <= t)
            made_STH[s, t, h] = value.values[bucket, layer, held_H[h]]
    elif isinstance(value, Donated):
        units = {"joint": 1, "per_layer": 1, "per_head": model.facts.heads, "per_neuron": neurons}
        u_SU = uniform(value.seed, draws.DONOR, 1, units[value.drawn])[:, 0]
        size = neurons // units[value.drawn]
        for s, t, h in places:
            k = int(u_SU[s, held_H[h] // size] * len(passes))
            row = t if row_S is None else row_S[s]
            made_STH[s, t, h] = 0 if row < 0 else passes[k][s, row, held_H[h]]
    elif isinstance(value, Noise):
        u_STN = uniform(value.seed, draws.NOISE, x_STH.shape[1], neurons)
        for s, t, h in places:
            n = held_H[h]
            z = NormalDist().inv_cdf(u_STN[s, t, n])
            made_STH[s, t, h] = value.mean[layer, n] + value.std[layer, n] * z
    elif isinstance(value, Marginal):
        u_STN = uniform(value.seed, draws.MARGINAL, x_STH.shape[1], neurons)
        for s, t, h in places:
            n = held_H[h]
            counts = [int(value.zeros[layer, n]), *map(int, value.counts[layer, n])]
            reached = [below / sum(counts) for below in accumulate(counts)]
            b = bisect_right(reached, u_STN[s, t, n])
            if not b:
                made_STH[s, t, h] = 0
                continue
            inside = (u_STN[s, t, n] - reached[b - 1]) / (reached[b] - reached[b - 1])
            at = (layer, n)
            made_STH[s, t, h] = value.start[at] + value.width[at] * (b - 1 + inside)
    elif isinstance(value, NearestPeak):
        for s, t, h in places:
            x, modes_K = x_STH[s, t, h], value.modes[layer, held_H[h]]
            known = [m for m in modes_K if not np.isnan(m)]
            made_STH[s, t, h] = min(known, key=lambda m: (abs(x - m), abs(m), m))
    elif isinstance(value, Custom):
        made_STN = plugins.find(value.plugin).replace(
            x_STN,
            layer=layer,
            site=hold.site,
            statistics={
                name: torch.from_numpy(column_LN[layer])
                for name, column_LN in value.statistics.items()
            },
            parameters=value.parameters,  # type: ignore[arg-type]
            sequence_S=torch.from_numpy(batch.sequence),
            seed=value.seed,
        )
        made_STH = made_STN[..., held_H].double().numpy()
    return made_STH


def bits(model: Model) -> dict[str, str]:
    """Return a digest of every parameter's bytes: names, presence and the sign of zero count."""
    return {
        name: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in model.module.state_dict().items()
    }


def hooks_left(model: Model) -> int:
    """Return the number of hooks on the model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference as a share of the largest value of `b`."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())
