"""Sharding: one model held by several processes, each with some of its heads and neurons.

A model that no device has room for is cut between k processes (ranks), as tensor
parallelism does it (Shoeybi et al. 2019, "Megatron-LM", section 3). Rank r has heads
[r·H/k, (r+1)·H/k) and as large a share of each MLP:

    queries, keys, values, MLP in      rows of the weight     no communication
    attention out, MLP out             columns                one sum over ranks, then the bias

So the input of an output projection, which is where neurons are, is the rank's own share of
them, in order: counting and folding work on a rank's own columns and need no others. All
else is whole and the same on every rank: hidden states, and what the head makes of them.

    join(rank, size, meeting, device)    once in each process
    cut(module, family, facts)           after loading, before anything goes to a device
    Ranks                                sums and gathers; `ranks()` are those of this process

All ranks do the same in the same order. Where one raises and the others wait for it,
somebody outside must end them all (`orchestrator.ray_group`); `in_step` before each task
keeps a rank that failed from mixing the sums of two tasks.

Weights are cut here rather than by the library's own tensor parallelism, whose plans leave
out many families and whose parameters are no plain tensors (docs/sharding.md). The tests
compare every family that can be cut with itself, whole.

Weak points: ranks must be on one machine, because they meet in a file. Sums over ranks are
made in the dtype of the activations, so results differ from one process's by rounding.

Shapes: S sequences, T positions, L layers, N neurons of one hookpoint and n = N / k of them
on one rank, D outputs of a projection, H held neurons.
"""

import copy
import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from workers.constants import check_held, check_values
from workers.cuts import CUTS
from workers.families import Family
from workers.messages import ModelFacts, Site
from workers.parts import at, sites, values

PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others before it gives up; somebody else notices sooner."""

Change = Callable[[int, Tensor], Tensor]
"""Takes a layer's number and its activations; returns what takes their place."""


class ShardingError(RuntimeError):
    """A model cannot be cut, or this process is no rank of a group that could hold it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The processes that hold a model together, as one of them sees them."""

    rank: int
    size: int
    host: Any
    """Process group for what is in the memory of the host; what is on devices has another."""
    step: Any
    """Process group for `in_step` alone, so that nothing else is ever taken for it."""

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; it is written to."""
        dist.all_reduce(x, group=None if x.is_cuda else self.host)
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Return (…, N) from each rank's (…, n), by rank."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x, group=None if x.is_cuda else self.host)
        return torch.cat(parts, dim=-1)

    def own(self, x: Tensor) -> Tensor:
        """Return this rank's share (…, n) of (…, N)."""
        size = x.shape[-1] // self.size
        return x[..., self.rank * size : (self.rank + 1) * size]

    def mine(
        self, held: Sequence[NDArray[np.int64]], values_LN: NDArray[np.float64]
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
        """Return what of a held set and of its constants is on this rank, by its own indices.

        Raises ValueError where they do not fit each other.
        """
        layers, neurons = values_LN.shape
        check_held(held, layers=layers, neurons=neurons)
        check_values(held, values_LN, layers=layers, neurons=neurons)
        size = neurons // self.size
        first = self.rank * size
        own = [held_H[(held_H >= first) & (held_H < first + size)] - first for held_H in held]
        return own, values_LN[:, first : first + size]

    def rows(self, rows_W: NDArray[np.intp], neurons: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return which of some rows of all N neurons are on this rank, and their rows here.

        Row (…, layer, neuron) of N neurons each is (…, layer, neuron - rank x n) of n here.
        """
        size = neurons // self.size
        outer_W, neuron_W = np.divmod(rows_W, neurons)
        at_V = np.flatnonzero(neuron_W // size == self.rank)
        return at_V, outer_W[at_V] * size + neuron_W[at_V] % size

    def joined(
        self, own: NDArray[Any], at_V: NDArray[np.intp], size: int, axis: int = 0
    ) -> NDArray[Any]:
        """Return an array of `size` along an axis, in which every rank's own stands where it says.

        All others add zeros to it, so nothing is rounded.
        """
        moved = np.moveaxis(own, axis, 0)
        whole = np.zeros((size, *moved.shape[1:]), own.dtype)
        whole[at_V] = moved
        self.sum(torch.from_numpy(whole))
        return np.ascontiguousarray(np.moveaxis(whole, 0, axis))

    def agreed(self, yes: bool) -> bool:
        """Whether all ranks say yes."""
        return int(self.sum(torch.tensor(int(yes)))) == self.size

    def in_step(self) -> None:
        """Return when every rank has come this far."""
        dist.barrier(group=self.step)


_joined: list[Ranks] = []


def join(rank: int, size: int, meeting: str, device: str) -> None:
    """Have this process be one of `size` ranks, for good; returns when all have come.

    `meeting` is the path of a file on their machine that is not there yet, the same for
    all. `device` is cpu or cuda; then each process sees a GPU of its own.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # one machine: nothing needs to hear from outside
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    store = dist.FileStore(meeting, size)  # type: ignore[attr-defined]
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    groups = [dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2)]
    _joined[:] = [Ranks(rank=rank, size=size, host=groups[0], step=groups[1])]
    _joined[0].in_step()


def ranks() -> Ranks:
    """Return the ranks that this process is one of. Raises ShardingError where it is none."""
    if not _joined:
        raise ShardingError(
            "A model in shards was to be held by a process that has not joined others. Have a"
            " cluster hold it (`peaksweep run` without --local), or call"
            " `workers.sharding.join` in each of its processes."
        )
    return _joined[0]


def whole(shards: int, change: Change) -> Change:
    """Return a change of all neurons of a layer, (S, T, N), as one of a rank's own, (S, T, n)."""
    if shards == 1:
        return change
    own = ranks()

    def changed(layer: int, x_STn: Tensor) -> Tensor:
        x_STN = own.gather(x_STn)
        put_STN = change(layer, x_STN)
        return x_STn if put_STN is x_STN else own.own(put_STN)

    return changed


def cut(module: nn.Module, family: Family, facts: ModelFacts, shards: int) -> nn.Module:
    """Leave of a whole module what this rank holds of it; return it.

    Raises ShardingError where the module is not as `workers.cuts` says, or this process is
    not one of `shards` ranks.
    """
    own, row = ranks(), CUTS.get(family.name)
    if row is None or own.size != shards:
        raise ShardingError(
            f"A {family.name} model was to be held in {shards} shards, by a process that is one of"
            f" {own.size} ranks; families that can be cut are {', '.join(CUTS)}."
        )
    layers = at(module, family.layers)
    parent, _, name = family.values.rpartition(".")
    for layer, projection in zip(layers, values(module, family), strict=True):
        if family.fused == "blocks":
            kv = facts.kv_heads * facts.d_head
            _keep_rows(projection, [facts.neurons, kv, kv], own)
        else:  # group by group, or values alone
            _keep_rows(projection, [projection.out_features], own)
        others = [n for n in family.harmless if n != name and family.fused is None]
        for beside in (getattr(at(layer, parent), other, None) for other in others):
            if isinstance(beside, nn.Linear):
                _keep_rows(beside, [beside.out_features], own)
        for path in row.mlp_in:
            fed = at(layer, path)
            _keep_rows(fed, [fed.out_features // row.stacked] * row.stacked, own)
        for path in row.numbers:
            _divide(layer, path, own.size)
    every: tuple[Site, ...] = ("attn_pre_out", "mlp_mid")
    for site in every:
        for projection in sites(module, family, site):
            _keep_columns(projection, own)
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc would keep what the rest took, a whole model's memory in every process
    return module


def _keep_rows(projection: nn.Linear, blocks: Sequence[int], own: Ranks) -> None:
    """Keep this rank's share of every one of some blocks of rows, which follow each other."""
    if sum(blocks) != projection.out_features or any(block % own.size for block in blocks):
        raise ShardingError(
            f"A projection of {projection.out_features} rows was to be cut into {own.size} shares"
            f" of the blocks {list(blocks)}. Correct the family's row in workers/cuts.py."
        )
    starts = np.cumsum([0, *blocks[:-1]])
    share = [
        torch.arange(block // own.size) + int(start) + own.rank * (block // own.size)
        for start, block in zip(starts, blocks, strict=True)
    ]
    index = torch.cat(share).to(projection.weight.device)
    for name, parameter in list(projection.named_parameters(recurse=False)):
        kept = parameter.detach().index_select(0, index)
        setattr(projection, name, nn.Parameter(kept, requires_grad=False))
    projection.out_features = len(index)


def _keep_columns(projection: nn.Linear, own: Ranks) -> None:
    """Keep this rank's share of the columns; what is projected is summed over ranks."""
    if projection.in_features % own.size:
        raise ShardingError(
            f"A projection of {projection.in_features} columns cannot be cut into {own.size} equal"
            " shares. Ask for a number of shards that divides heads and the MLP's neurons."
        )
    kept = own.own(projection.weight.detach()).clone(memory_format=torch.contiguous_format)
    projection.weight = nn.Parameter(kept, requires_grad=False)
    projection.in_features = kept.shape[1]
    projection.forward = partial(_projected, projection)  # type: ignore[method-assign]


def _projected(projection: nn.Linear, x: Tensor) -> Tensor:
    """Return what the whole projection gives, (…, D), from this rank's columns of its input."""
    out = functional.linear(x, projection.weight)
    dist.all_reduce(out)
    return out if projection.bias is None else out + projection.bias


def _divide(layer: nn.Module, path: str, shards: int) -> None:
    """Divide a number; where what has it is no module, which may be shared, a copy's."""
    parent, _, name = path.rpartition(".")
    owner = at(layer, parent)
    if not isinstance(owner, nn.Module):
        above, _, called = parent.rpartition(".")
        owner = copy.copy(owner)
        setattr(at(layer, above), called, owner)
    setattr(owner, name, int(getattr(owner, name)) // shards)
