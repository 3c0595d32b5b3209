"""Answered: what a worker says of one cell.

Sums over the scored positions of every sequence, kept apart by sequence, and the proof that
what was to be held was held. A sum that does not apply to a model or its data is None.

Shapes: S sequences.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class CellAnswer:
    """Per-sequence sums of one cell, in the order of `sequence`, and proof that it took effect."""

    cell: str
    sequence: NDArray[np.int64]
    """(S,) ascending."""
    tokens: NDArray[np.int64]
    """(S,) scored positions."""
    top1: NDArray[np.int64]
    """(S,) scored positions whose target has the largest logit."""
    top10: NDArray[np.int64]
    """(S,) scored positions whose target is among the ten largest logits."""
    loss: NDArray[np.float64]
    """(S,) sum of the cross-entropy over scored positions, in nats, of fp32 log-softmax."""
    nan: NDArray[np.int64]
    """(S,) scored positions whose loss is not a number; they are left out of `loss`."""
    kl: NDArray[np.float64] | None
    """(S,) sum of KL(unablated ‖ ablated) over scored positions, in nats; None if not asked for."""
    tokens_rare: NDArray[np.int64] | None
    """(S,) scored positions marked `RARE`; None for images."""
    top1_rare: NDArray[np.int64] | None
    """(S,) of these, those whose target has the largest logit."""
    tokens_mask: NDArray[np.int64] | None
    """(S,) scored positions marked `MASKED`; None but for masked models."""
    top1_mask: NDArray[np.int64] | None
    loss_mask: NDArray[np.float64] | None
    """(S,) of these, the sum of the cross-entropy in nats."""
    logit_diff: NDArray[np.float64] | None
    """(S,) sum over scored positions of the answer's logit minus the mean of the wrong ones',
    where that is a number; None but for paired prompts."""
    choice: NDArray[np.int64] | None
    """(S,) scored positions at which the answer's logit is above all wrong ones'."""
    told: int
    """Constants that fold: columns to hold, over layers and sites. All others: elements, over
    unpadded positions."""
    held: int
    """The same, as read back from what the forward pass really used."""
    seconds: float
