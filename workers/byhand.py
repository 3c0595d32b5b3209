"""By hand: small things done to a live model for a moment, without any of the sweep's machinery.

What folds, hooks and rows of names are compared with (`workers.parity`) must not be made
of folds, hooks and rows of names. So projections are told what to answer, rows of a weight
are exchanged, and what the heads make is looked at where it is made. Afterwards the model is
as it was: its own parameters are put back, and never written to, because their memory may be
a mapped file.

Shapes: S sequences, T positions, N neurons of one hookpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import hooks
from workers.loading import Model
from workers.messages import NOT_SCORED, Batch
from workers.parts import at
from workers.stubs import Forward, stubbed

SEQUENCES, POSITIONS = 2, 16
"""Of random inputs."""

Answer = Callable[[int, nn.Linear, Tensor], Tensor]
"""Takes a layer's number, its projection and what that is given; returns what it answers."""


def random_batch(model: Model, seed: int) -> Batch:
    """Return random inputs, all of them scored; of two texts, the second is padded by a quarter."""
    draw, facts = np.random.default_rng(seed), model.facts
    if facts.image is not None:
        return Batch(
            sequence=np.arange(SEQUENCES),
            inputs=draw.integers(0, 256, (SEQUENCES, *facts.image)).astype(np.uint8),
            attended=None,
            targets=draw.integers(0, facts.vocabulary, (SEQUENCES, 1)),
        )
    positions = min(POSITIONS, facts.window)
    inputs_ST = draw.integers(0, facts.vocabulary, (SEQUENCES, positions))
    attended_ST = np.ones(inputs_ST.shape, np.bool_)
    attended_ST[1:, positions - positions // 4 :] = False
    scored_ST = attended_ST.copy()
    if facts.modality == "causal":  # a position is scored on the next token, the last on none
        scored_ST[:, :-1] &= attended_ST[:, 1:]
        scored_ST[:, -1] = False
        target_ST = np.roll(inputs_ST, -1, axis=1)
    else:
        target_ST = draw.integers(0, facts.vocabulary, inputs_ST.shape)
    return Batch(
        sequence=np.arange(SEQUENCES),
        inputs=inputs_ST,
        attended=attended_ST,
        targets=np.where(scored_ST, target_ST, NOT_SCORED),
        marks=np.zeros(inputs_ST.shape, np.uint8),
    )


@contextmanager
def answering(model: Model, layers: Sequence[int], answer: Answer) -> Iterator[None]:
    """Let attention's output projections of some layers answer otherwise, inside the block."""
    found = hooks.projections(model, "attn_pre_out")
    stubs: dict[str, Forward] = {
        f"{model.family.layers}.{layer}.{model.family.attention_out}": partial(
            answer, layer, found[layer]
        )
        for layer in layers
    }
    with stubbed(model.module, stubs):
        yield


@contextmanager
def other_rows(projection: nn.Linear, rows: NDArray[np.int64]) -> Iterator[None]:
    """Let a projection have other weights in some rows, inside the block.

    What is added to them is drawn, and as large as the weights are.
    """
    weight, draw = projection.weight, torch.Generator().manual_seed(0)
    size = weight.detach().float().square().mean().sqrt().item() or 1.0
    more = size * torch.randn((len(rows), weight.shape[1]), generator=draw)
    changed = weight.detach().clone()
    changed[torch.from_numpy(rows).to(weight.device)] += more.to(weight)
    try:
        projection.weight = nn.Parameter(changed, requires_grad=False)
        yield
    finally:
        projection.weight = weight


def heads_make(model: Model, batch: Batch, layer: int) -> Tensor:
    """Return what the heads of a layer make, before any norm, in float32: (S T, N)."""
    part = at(model.module, f"{model.family.layers}.{layer}")
    parent, _, name = (model.family.norm or "").rpartition(".")
    reader = getattr(at(part, parent), name, None) if parent else None
    if reader is None or isinstance(reader, nn.Identity):
        reader = at(part, model.family.attention_out)
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].float().flatten(0, -2).clone())

    handle = reader.register_forward_pre_hook(look)
    try:
        hooks.hidden(model, batch)
    finally:
        handle.remove()
    return seen[0]
