"""Neurons held the plain way, and what tells whether a model was left as it was.

Nothing here uses the code under test: hooks are torch's own, put on the
projections that the family names.

Shapes: L layers, N neurons of one hookpoint, S sequences, T positions, Z buckets of positions.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import hooks
from workers.loading import Model

Held = tuple[NDArray[np.int64], ...]


def random_held(model: Model, share: float, seed: int = 0) -> Held:
    """Return a random share of every layer's neurons, ascending."""
    rng, neurons = np.random.default_rng(seed), model.facts.neurons
    k = round(share * neurons)
    return tuple(np.sort(rng.permutation(neurons)[:k]) for _ in range(model.facts.layers))


def random_values(model: Model, seed: int = 0) -> NDArray[np.float64]:
    """Return a random constant for every neuron, (L, N)."""
    shape = (model.facts.layers, model.facts.neurons)
    return np.random.default_rng((seed, 1)).normal(0.3, 0.5, shape)


def random_by_position(model: Model, buckets: int, seed: int = 0) -> NDArray[np.float64]:
    """Return a random constant for every neuron in every bucket of positions, (Z, L, N)."""
    shape = (buckets, model.facts.layers, model.facts.neurons)
    return np.random.default_rng((seed, 2)).normal(0.3, 0.5, shape)


def projections(model: Model) -> list[nn.Linear]:
    """Return the attention output projections."""
    return hooks.projections(model, "attn_pre_out")


@contextmanager
def hooked(model: Model, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Let every projection receive `change(layer, input)`."""
    with ExitStack() as stack:
        for layer, projection in enumerate(projections(model)):

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
