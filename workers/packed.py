"""Packed weights: a model whose layers' matrices are stored in 8 or 4 bits.

    int8   one scale for every row of a matrix; on any device, in any dtype
    int4   one scale and offset for every 32 weights of a row; on NVIDIA GPUs, in bfloat16

Activations keep the dtype of the sweep file, and so does what lies outside the layers:
embeddings, norms, biases and the head. The library that packs and multiplies is torchao,
imported where it is asked for and nowhere else. No calibration data is needed.

A packed model is another model: rounding a weight to 8 bits moves it by up to 1/254 of the
largest of its row. So how it is packed is part of every name, and nothing that was measured on
it is mixed with what was measured on the whole weights.

What folding does cannot be done here: a packed matrix cannot be written to column by column.
Constants are put in before the projection instead (`workers.replacing`), as all is that cannot
fold; that costs a pass its speed and no accuracy.

Weak point: 8 bits were verified on CPUs alone, and 4 bits nowhere, because no GPU was at hand.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from workers import loading
from workers.checkpoint import CheckpointError
from workers.loading import Model
from workers.messages import ModelRef
from workers.parts import at

Packing = Literal["int8", "int4"]
GROUP = 32
"""Weights that share a scale, int4: the smallest group that its kernels know."""


class PackingError(CheckpointError):
    """Weights that cannot be packed as they are told to be."""


def load(ref: ModelRef) -> Model:
    """Return the checkpoint of a reference as `workers.loading.load` does, packed if it is told to.

    A packed model is read into the processor's memory whole, and goes to its device matrix by
    matrix. Raises what `load` raises there, and PackingError (one of these) from `pack`.
    """
    if ref.packed is None:
        return loading.load(ref)
    whole = loading.load(replace(ref, packed=None, device="cpu"))
    pack(at(whole.module, whole.family.layers), ref.packed, ref.device)
    return replace(whole, module=whole.module.to(ref.device), ref=ref)


def pack(layers: Iterable[nn.Module], packing: Packing, device: torch.device | str) -> None:
    """Pack every linear weight of some layers, in place, and move it to a device.

    One matrix is moved at a time, so that a model that fits packed need not fit whole. What is
    left of the model is moved by the caller. Raises PackingError where torchao is missing, where
    the device or the dtype has no kernels, and where a weight was left as it was.
    """
    linears = [part for layer in layers for part in layer.modules() if type(part) is nn.Linear]
    if not linears:
        raise PackingError(
            f"The layers of this model have no linear weights to pack as {packing}. Take `packed`"
            " out of the sweep file."
        )
    device, dtype = torch.device(device), linears[0].weight.dtype
    if packing == "int4" and (device.type != "cuda" or dtype != torch.bfloat16):
        raise PackingError(
            f"Found {dtype} on {device.type}; weights of 4 bits are multiplied in bfloat16 on an"
            " NVIDIA GPU alone. Use `dtype: bfloat16` there, or `packed: int8`."
        )
    for linear in linears:
        _pack(linear, packing, device)
    if left := [linear for linear in linears if not is_packed(linear)]:
        raise PackingError(
            f"{len(left)} of {len(linears)} linear weights cannot be packed as {packing} (the first"
            f" has shape {tuple(left[0].weight.shape)}; int4 needs a multiple of {GROUP} inputs)."
            " Use `packed: int8`, or take it out."
        )


def is_packed(linear: nn.Linear) -> bool:
    """Return whether a linear layer's weight is packed: no plain parameter any more."""
    weight = linear.weight
    return type(weight) is not nn.Parameter and type(weight).__module__.startswith("torchao.")


def _pack(linear: nn.Linear, packing: Packing, device: torch.device) -> None:
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise PackingError(
            f"`packed: {packing}` needs torchao, which cannot be imported here ({error}). Install"
            " it on every node (`pip install torchao`), or take `packed` out of the sweep file."
        ) from error
    # Both would change settings of the compiler for the whole process.
    config = (
        Int8WeightOnlyConfig(set_inductor_config=False)
        if packing == "int8"
        else Int4WeightOnlyConfig(
            group_size=GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    )
    try:
        quantize_(linear, config, filter_fn=lambda part, _: part is linear, device=device)
    except (RuntimeError, ImportError, AssertionError, ValueError) as error:
        raise PackingError(
            f"torchao cannot pack a weight of shape {tuple(linear.weight.shape)} as {packing} on"
            f" {device} ({type(error).__name__}: {error}). Use another `packed`, or take it out."
        ) from error
