"""Metrics: how well the scored positions are predicted.

A position is scored by the rank of its target among the logits and by the
cross-entropy, in nats, of a log-softmax in float32. Sums are kept per
sequence, in float64 and in the order of positions: whatever is wanted later
(means, clusters of documents, differences between cells) is made from them.

The logits of a large vocabulary are far bigger than the hidden states they
come from, so hidden rows are turned into logits a few at a time, and only
those of scored positions ever. How many at a time is a budget, not a
parameter of the result: it changes the last bits of a matrix product at most.

Equal logits are ranked by token id, the lower first. So a model that gives
every token the same logit is right once in a vocabulary, not always; in
half precision equal logits are common.

Shapes: S sequences, T positions, D width of the hidden states, M scored
positions, V tokens of the vocabulary (or classes).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.messages import NOT_SCORED


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums over the scored positions of each of S sequences."""

    tokens: NDArray[np.int64]
    """(S,) scored positions."""
    top1: NDArray[np.int64]
    """(S,) positions whose target ranks first."""
    top10: NDArray[np.int64]
    """(S,) positions whose target ranks tenth or better."""
    loss: NDArray[np.float64]
    """(S,) cross-entropy in nats, over positions where it is a number."""
    nan: NDArray[np.int64]
    """(S,) positions whose cross-entropy is not a number; never counted as right."""


def score(
    scores: Callable[[Tensor], Tensor],
    hidden_STD: Tensor,
    targets_ST: NDArray[np.int64],
    *,
    vocabulary: int,
    budget: int,
) -> Sums:
    """Score the positions of a batch that have a target.

    `scores` turns hidden rows (M, D) into logits (M, V); `budget` bounds one
    float32 tensor of logits, in bytes. Raises ValueError where it does not
    hold a single row.
    """
    rows = budget // (4 * vocabulary)
    if rows < 1:
        raise ValueError(
            f"A budget of {budget} bytes for logits holds no row of {vocabulary} scores, which"
            f" takes {4 * vocabulary} bytes. Allow at least that."
        )
    sequence_M, position_M = np.nonzero(targets_ST != NOT_SCORED)
    target_M = torch.from_numpy(targets_ST[sequence_M, position_M]).to(hidden_STD.device)
    hidden_MD = hidden_STD[
        torch.from_numpy(sequence_M).to(hidden_STD.device),
        torch.from_numpy(position_M).to(hidden_STD.device),
    ]
    parts = [
        _rank_and_loss(scores(hidden_MD[start : start + rows]), target_M[start : start + rows])
        for start in range(0, len(hidden_MD), rows)
    ]
    rank_M = np.concatenate([np.empty(0, dtype=np.int64), *(rank for rank, _ in parts)])
    loss_M = np.concatenate([np.empty(0), *(loss for _, loss in parts)])

    count = len(targets_ST)
    number_M = ~np.isnan(loss_M)

    def per_sequence(chosen_M: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(sequence_M[chosen_M], minlength=count)

    return Sums(
        tokens=np.bincount(sequence_M, minlength=count),
        top1=per_sequence(number_M & (rank_M < 1)),
        top10=per_sequence(number_M & (rank_M < 10)),
        loss=np.bincount(sequence_M[number_M], loss_M[number_M], count).astype(np.float64),
        nan=per_sequence(~number_M),
    )


def _rank_and_loss(
    logits_MV: Tensor, target_M: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each target's rank, 0 for the best, and its cross-entropy in nats, (M,) each."""
    with torch.inference_mode():
        logits_MV = logits_MV.float()
        own_M1 = logits_MV.gather(1, target_M[:, None])
        token_V = torch.arange(logits_MV.shape[1], device=logits_MV.device)
        ahead_MV = (logits_MV == own_M1) & (token_V < target_M[:, None])
        ahead_MV |= logits_MV > own_M1
        rank_M = ahead_MV.sum(dim=1).cpu().numpy()
        loss_M = nn.functional.cross_entropy(logits_MV, target_M, reduction="none")
    return rank_M, loss_M.double().cpu().numpy()
