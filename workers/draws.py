"""Draws: random numbers that depend on what they are for, and on nothing else.

A generator that is asked for one number after another gives a sequence other
numbers when it shares a batch with others, is padded, or is evaluated by another
worker. Here a number has an address instead, and is a hash of it: seed, purpose,
layer, site, sequence, position, neuron. Whoever asks, in whatever order and on
whatever device, finds the same number at the same address.

The hash is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom
number generators"): a counter that moves by an odd constant, put through a
mixing function that turns near inputs into unrelated outputs. Each part of an
address begins a stream of its own in this way, so the neurons at one position
are a plain SplitMix64 stream. Integers of 64 bits wrap around alike everywhere,
so the numbers are the same to the bit on CPUs and GPUs.

When it is weak: two addresses may share a number by chance, once in 2^52 pairs;
and this is no cryptography.

Shapes: S sequences, T positions, N neurons.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.messages import SITES, Site

DONOR, NOISE, MARGINAL = 0, 1, 2
"""Purposes: which donor is taken; Gaussian noise; draws from a histogram."""

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, made odd
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(
    seed: int,
    sequence_S: Tensor | NDArray[np.int64],
    *,
    layer: int,
    site: Site,
    positions: int,
    neurons: int | Tensor,
    device: torch.device | str,
    purpose: int,
) -> Tensor:
    """Return float64 numbers (S, T, N), uniform in the open interval (0, 1), in steps of 2^-52.

    `sequence_S` are the sequences' numbers, not their places in the batch. T positions are
    counted from 0. `neurons` says how many, numbered from 0, or gives the numbers of the N
    wanted (N,): each gets what it would get among all.
    """
    state = torch.zeros((), dtype=torch.int64)
    for part in (seed, purpose, layer, SITES.index(site)):
        state = _mixed(state + _signed((part + 1) * _GAMMA))
    number_N = torch.arange(neurons) if isinstance(neurons, int) else neurons
    state_S = _below(state.to(device), torch.as_tensor(sequence_S).to(device))
    state_ST = _below(state_S[:, None], torch.arange(positions, device=device))
    hash_STN = _below(state_ST[:, :, None], number_N.to(device))
    return (_shifted(hash_STN, 12).double() + 0.5) * 2.0**-52


def normal(uniform_STN: Tensor) -> Tensor:
    """Return the standard normal draws that uniform ones in (0, 1) stand for; float64."""
    return torch.erfinv(2 * uniform_STN - 1) * 2**0.5


def _below(state: Tensor, number: Tensor) -> Tensor:
    """Return the states of streams that begin, one for each number, below a state."""
    return _mixed(state + (number + 1) * _signed(_GAMMA))


def _mixed(z: Tensor) -> Tensor:
    """Return SplitMix64's mixing of 64-bit integers."""
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: torch's own shift of signed integers repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return the signed 64-bit integer with the same low 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
