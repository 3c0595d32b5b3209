"""Rotation: the same model with other axes inside its heads.

A head reads its values with W_V and writes them with W_O, and all that lies
between is a weighted mean over positions. So for any orthogonal Q, the rows of
W_V (and its bias) may become Q W_V and the columns of W_O become W_O Qᵀ: the
head computes what it did, and the neurons at `attn_pre_out` are Q times the
old ones. The axes that a checkpoint came with are one choice among these; they
are special only if training made them so, and nothing in attention itself does
(Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", call
such a basis not privileged).

That makes a control. What is a fact about a head (held at zero, or all of it at
its mean) is the same in every basis. What is a fact about a neuron (its peak,
its rank in a selection) may not be: if single neurons at their peaks do less
harm in the checkpoint's own basis than in rotated ones, its axes mean
something; if not, the peaks say nothing about neurons.

Heads that share values share one Q, because W_V has their rows once. The Q of
every group is drawn from the Haar measure on the orthogonal group, reflections
included: the QR decomposition of a Gaussian matrix, with the signs of R's
diagonal moved into Q, without which it would not be uniform (Mezzadri 2007,
"How to generate random matrices from the classical compact groups").

Assumes nothing but weighting between values and output projection. A norm, a
gate or a bias that is added elsewhere would not commute with Q, so a module
that holds any part the row does not call harmless is refused by name. What no
name betrays shows when the model is run before and after, as far as rounding
lets it.

Weak point: rotated weights are rounded to their dtype once, so in 16 bits the
model is another by that much; and LAPACK may differ in the last bit between
machines, of which rounding hides most and not all.

Shapes: L layers, G groups (key-value heads), H query heads, E d_head, D width
of what W_V reads and W_O writes, S sequences, T positions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.checkpoint import CheckpointError
from workers.families import Family
from workers.messages import ModelFacts
from workers.parts import at, sites, value_rows, values

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far hidden states may move, as a share of the largest.

16 bits round the new weights once and every sum anew. The bundled models, and Mistral and OPT of
32 layers with weights as their library draws them, moved by at most 2e-6, 5e-3 and 3e-2; drawn six
times wider, where rounding grows from layer to layer, by 2e-5, 2e-2 and 2e-1. One head of one layer
turned wrongly moved a bundled model by 2e-2: float32 sees what 16 bits may miss."""
SEQUENCES, POSITIONS = 4, 32  # of the random text that is looked at


class RotationError(CheckpointError):
    """A model would not compute the same with other axes inside its heads."""


def orthogonal(seed: int, layer: int, group: int, size: int) -> NDArray[np.float64]:
    """Return an orthogonal matrix (E, E), uniform over all; the same for the same key."""
    key = np.random.SeedSequence(seed, spawn_key=(layer, group))
    gaussian_EE = np.random.Generator(np.random.Philox(key)).standard_normal((size, size))
    q_EE, r_EE = np.linalg.qr(gaussian_EE)
    rotation_EE: NDArray[np.float64] = q_EE * np.where(np.diagonal(r_EE) < 0, -1.0, 1.0)
    return rotation_EE


def rotate(module: nn.Module, family: Family, facts: ModelFacts, seed: int) -> None:
    """Give every head other axes, in place: values become Q times the old, the output's input Qᵀ.

    Biases of values rotate along; the output projection's bias has no axis inside a head.
    Computed in float64 on the CPU and rounded once. Weights are replaced, not written to: their
    memory may be a mapped file. Raises RotationError where the model would not stay the same.
    """
    _refuse_what_does_not_commute(module, family)
    heads, groups, size = facts.heads, facts.kv_heads, facts.d_head
    outputs = sites(module, family, "attn_pre_out")
    at_GE = torch.from_numpy(value_rows(family, facts))
    for layer, (value, output) in enumerate(zip(values(module, family), outputs, strict=True)):
        q_GEE = torch.from_numpy(
            np.stack([orthogonal(seed, layer, group, size) for group in range(groups)])
        )
        rows_GED = _wide(value.weight)[at_GE]
        _put(value, "weight", q_GEE @ rows_GED, at_GE)
        if value.bias is not None:
            bias_GE1 = _wide(value.bias)[at_GE].unsqueeze(-1)
            _put(value, "bias", (q_GEE @ bias_GE1).squeeze(-1), at_GE)
        q_HEE = q_GEE.repeat_interleave(heads // groups, dim=0)
        columns_DHE = _wide(output.weight).reshape(-1, heads, size)
        turned_DHE = torch.einsum("dhe,hfe->dhf", columns_DHE, q_HEE)  # W_O Qᵀ, head by head
        _put(output, "weight", turned_DHE.reshape(output.weight.shape))


def rotate_checked(
    module: nn.Module, family: Family, facts: ModelFacts, seed: int, *, name: str
) -> None:
    """Rotate, and compare what the head is fed before and after on random inputs.

    `name` is the model's in a refusal. Raises RotationError where the largest difference is more
    than `TOLERANCE` of the largest hidden state.
    """
    try:
        before_STD = _hidden(module, family, facts, seed)
        rotate(module, family, facts, seed)
    except RotationError as error:
        raise RotationError(f"{name}: {error}") from None
    moved = (_hidden(module, family, facts, seed) - before_STD).abs().max() / before_STD.abs().max()
    dtype = next(module.parameters()).dtype
    if not moved <= TOLERANCE[dtype]:  # also where it is not a number
        raise RotationError(
            f"{name} in {str(dtype).removeprefix('torch.')} does not compute the same with other"
            f" axes inside its heads: hidden states differ by {float(moved):.2g} of the largest,"
            f" where {TOLERANCE[dtype]:g} was expected at most. In 16 bits try float32; otherwise"
            " something between values and output is not linear, and this model has no such"
            " control."
        )


def _refuse_what_does_not_commute(module: nn.Module, family: Family) -> None:
    inside, _, own = family.values.rpartition(".")
    for layer in at(module, family.layers):
        attention, output = at(layer, inside), at(layer, family.attention_out)
        parts = [
            name
            for name, part in attention.named_children()
            if part is not output
            and name not in (own, *family.harmless)
            and not isinstance(part, nn.Identity | nn.Dropout)
        ]
        parts += [name for name, _ in attention.named_parameters(recurse=False)]
        if parts:
            raise RotationError(
                f"The axes inside the heads of this {family.name} model cannot be rotated: its"
                f" {type(attention).__name__} has `{parts[0]}`, which may change values on their"
                " way to the output projection. Take its own basis; or, where that part does not"
                " touch values, add it to `harmless` in the row in workers/families.py."
            )


def _wide(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float64)


def _put(projection: nn.Linear, name: str, rows: Tensor, at: Tensor | None = None) -> None:
    """Put a new parameter in the place of one, other in the rows `at`, or in all of them."""
    old = getattr(projection, name)
    new = old.detach().clone()
    new[... if at is None else at.to(old.device)] = rows.to(old.dtype).to(old.device)
    setattr(projection, name, nn.Parameter(new, requires_grad=old.requires_grad))


def _hidden(module: nn.Module, family: Family, facts: ModelFacts, seed: int) -> Tensor:
    """Return what the head is fed for random inputs, in float32: (S, T, D), images (S, D)."""
    draw = np.random.default_rng(seed)
    some = next(module.parameters())
    seen: list[Tensor] = []

    def look(head: nn.Module, args: tuple[Tensor, ...]) -> None:
        del head
        seen.append(args[0].float())

    handle = at(module, family.head).register_forward_pre_hook(look)
    try:
        with torch.inference_mode():
            if facts.image is None:
                shape = (SEQUENCES, min(POSITIONS, facts.window))
                tokens_ST = torch.from_numpy(draw.integers(0, facts.vocabulary, shape))
                tokens_ST = tokens_ST.to(some.device)
                module(input_ids=tokens_ST, attention_mask=torch.ones_like(tokens_ST))
            else:
                height, width, channels = facts.image
                pixels_SCHW = draw.standard_normal((SEQUENCES, channels, height, width))
                module(torch.from_numpy(pixels_SCHW).to(some.device, some.dtype))
    finally:
        handle.remove()
    return seen[0]
