"""Conv1D: GPT-2's linear layers, written as everybody else's.

GPT-2 came with a layer of its own that keeps its weight transposed, inputs by outputs
(transformers' `Conv1D`). All that is done here to a projection is done to a plain linear
layer: columns are folded, norms taken, rows rotated. So the layer is replaced by one, whose
weight is the transposed *view* of the same memory: nothing is copied, a mapped file stays
mapped, and the same matrix is multiplied in the same order, bit for bit.

Assumes that nobody else holds the old layer, or its parameters (an optimizer would).
Weak point: the state dict then has these weights transposed, so a module that was loaded
here must be turned back (`as_conv1d`) before it is saved as GPT-2.
"""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def as_linear(module: nn.Module) -> nn.Module:
    """Return the module, every `Conv1D` in it replaced, in place, by a Linear of its memory."""
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, Conv1D)]
    for name, layer in found:
        path, _, own = name.rpartition(".")
        setattr(module.get_submodule(path), own, _turned(layer))
    return module


def as_conv1d(module: nn.Module) -> nn.Module:
    """Return the module with what `as_linear` replaced put back, in place, of the same memory."""
    for name, part in list(module.named_modules()):
        if getattr(part, _MARK, False):
            path, _, own = name.rpartition(".")
            setattr(module.get_submodule(path), own, _turned_back(part))
    return module


_MARK = "was_conv1d"


def _turned_back(linear: nn.Module) -> Conv1D:
    weight, bias = linear.get_parameter("weight"), linear.get_parameter("bias")
    with torch.device("meta"):
        layer = Conv1D(weight.shape[0], weight.shape[1])  # type: ignore[no-untyped-call]
    layer.weight = nn.Parameter(weight.detach().t(), requires_grad=weight.requires_grad)
    layer.bias = bias
    made: Conv1D = layer.train(linear.training)
    return made


def _turned(layer: Conv1D) -> nn.Linear:
    # On `meta` nothing is drawn and no memory taken.
    linear = nn.Linear(layer.nx, layer.nf, device="meta")
    weight = layer.weight
    linear.weight = nn.Parameter(weight.detach().t(), requires_grad=weight.requires_grad)
    linear.bias = layer.bias
    setattr(linear, _MARK, True)
    return linear.train(layer.training)
