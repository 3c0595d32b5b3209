"""The gates: what a model must reach on held-out data before it may be shipped.

    cross-entropy   nats per scored token
    top-1           share of scored tokens that the model puts first
    ablated         the cross-entropy with the input of every layer's attention
                    output projection held at zero, by a plain hook

A causal model is scored on every token after `<s>`; a masked model on one draw of
15 % of the tokens, the same draw at every call.

Shapes: W windows of L tokens, B of them at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from training.windows import IGNORED, PAD, Tokens, corrupt

PROJECTIONS = ("self_attn.out_proj", "self_attn.o_proj", "attention.output.dense", "attn.proj")
MASK_SEED = 20
BATCH = 32  # windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on the held-out split."""

    cross_entropy: float
    """nats per scored token or image"""
    top1: float
    """share of scored tokens or images"""
    ablated: float
    """nats, with every attention projection fed zeros"""
    scored: int
    """tokens or images"""


@contextmanager
def attention_zeroed(model: nn.Module) -> Iterator[None]:
    """Hold the input of every attention output projection at zero while inside."""

    def zeroed(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.zeros_like(inputs[0]),)

    found = [m for name, m in model.named_modules() if name.endswith(PROJECTIONS)]
    handles = [module.register_forward_pre_hook(zeroed) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def questions(tokens_WL: Tokens, *, masked: bool) -> tuple[Tensor, Tensor]:
    """Return (input, target) of the fixed windows of a held-out split."""
    if masked:
        input_WL, target_WL = corrupt(tokens_WL, np.random.default_rng(MASK_SEED))
    else:
        input_WL, target_WL = tokens_WL, np.full_like(tokens_WL, IGNORED)
        target_WL[:, :-1] = np.where(tokens_WL[:, 1:] == PAD, IGNORED, tokens_WL[:, 1:])
    return torch.from_numpy(input_WL), torch.from_numpy(target_WL)


@torch.no_grad()
def score(model: PreTrainedModel, input_WL: Tensor, target_WL: Tensor) -> tuple[float, float]:
    """Return the cross-entropy in nats and the top-1 share over all scored tokens."""
    loss = right = 0.0
    for start in range(0, len(input_WL), BATCH):
        input_BL, target_BL = (tensor[start : start + BATCH] for tensor in (input_WL, target_WL))
        logits_BLV = model(input_BL, attention_mask=(input_BL != PAD).long()).logits
        scored_BL = target_BL != IGNORED
        target_S = target_BL[scored_BL]
        loss += float(cross_entropy(logits_BLV[scored_BL], target_S, reduction="sum"))
        right += float((logits_BLV[scored_BL].argmax(-1) == target_S).sum())
    scored = int((target_WL != IGNORED).sum())
    return loss / scored, right / scored


def measure(model: PreTrainedModel, tokens_WL: Tokens, *, masked: bool) -> Measured:
    """Measure a text model on the fixed windows of the held-out split."""
    was_training = model.training
    model.train(False)
    input_WL, target_WL = questions(tokens_WL, masked=masked)
    loss, top1 = score(model, input_WL, target_WL)
    with attention_zeroed(model):
        ablated, _ = score(model, input_WL, target_WL)
    model.train(was_training)
    return Measured(
        cross_entropy=round(loss, 4),
        top1=round(top1, 4),
        ablated=round(ablated, 4),
        scored=int((target_WL != IGNORED).sum()),
    )
