"""Metrics: how well the scored positions are predicted.

A position is scored by the rank of its target among the logits and by the
cross-entropy, in nats, of a log-softmax in float32. Sums are kept per
sequence, in float64 and in the order of positions: whatever is wanted later
(means, clusters of documents, differences between cells) is made from them.

Some sums are over fewer positions: those marked `RARE`, whose target is none of
the most common tokens (which are learned first and lost last), and those
marked `MASKED`, which were fed `<mask>` (a masked model sees the kept tokens).

KL(unablated ‖ ablated) = Σ p (log p − log q) says how far the prediction moved,
right or wrong. It is summed over the vocabulary in float32: good to about 1e-5 of
itself and 1e-6 nats a position, and exactly 0 where both hidden states have the
same bits. It may fall below 0 by as much. It is not clamped: errors of both signs
cancel over positions, and clamped ones would add up.

The logits of a large vocabulary are far bigger than the hidden states they
come from, so hidden rows are turned into logits a few at a time, and only
those of scored positions ever. How many at a time is a budget, not a
parameter of the result: it changes the last bits of a matrix product at most.
The budget is for one float32 tensor of logits. Rank and loss hold about three
of that size at once; KL holds five, and in half precision one more.

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

from workers.messages import MASKED, NOT_SCORED, RARE


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
    kl: NDArray[np.float64] | None
    """(S,) KL(unablated ‖ ablated) in nats, over positions where it is a number and the
    cross-entropy is; None without the unablated model's hidden states."""
    tokens_rare: NDArray[np.int64] | None
    """(S,) scored positions marked `RARE`; None without marks."""
    top1_rare: NDArray[np.int64] | None
    """(S,) of these, those whose target ranks first."""
    tokens_mask: NDArray[np.int64] | None
    """(S,) scored positions marked `MASKED`; None without marks and but for masked models."""
    top1_mask: NDArray[np.int64] | None
    """(S,) of these, those whose target ranks first."""
    loss_mask: NDArray[np.float64] | None
    """(S,) of these, the cross-entropy in nats where it is a number."""


def score(
    scores: Callable[[Tensor], Tensor],
    hidden_STD: Tensor,
    targets_ST: NDArray[np.int64],
    *,
    vocabulary: int,
    budget: int,
    marks_ST: NDArray[np.uint8] | None = None,
    masked: bool = False,
    bare_STD: Tensor | None = None,
) -> Sums:
    """Score the positions of a batch that have a target.

    `scores` turns hidden rows (M, D) into logits (M, V); `budget` bounds one
    float32 tensor of logits, in bytes. `marks_ST` are bits `RARE` and `MASKED`;
    `masked` says that the second is asked for. `bare_STD` is what the head of
    the unablated model is fed, for the divergence. Raises ValueError where the
    budget does not hold a single row.
    """
    rows = budget // (4 * vocabulary)
    if rows < 1:
        raise ValueError(
            f"A budget of {budget} bytes for logits holds no row of {vocabulary} scores, which"
            f" takes {4 * vocabulary} bytes. Allow at least that."
        )
    sequence_M, position_M = np.nonzero(targets_ST != NOT_SCORED)
    at = (
        torch.from_numpy(sequence_M).to(hidden_STD.device),
        torch.from_numpy(position_M).to(hidden_STD.device),
    )
    target_M = torch.from_numpy(targets_ST[sequence_M, position_M]).to(hidden_STD.device)
    hidden_MD = hidden_STD[at]
    bare_MD = None if bare_STD is None else bare_STD[at]
    parts = []
    for start in range(0, len(hidden_MD), rows):
        chunk = slice(start, start + rows)
        bare = None if bare_MD is None else bare_MD[chunk]
        parts.append(_scored(scores, hidden_MD[chunk], target_M[chunk], bare))
    rank_M = np.concatenate([np.empty(0, dtype=np.int64), *(rank for rank, _, _ in parts)])
    loss_M = np.concatenate([np.empty(0), *(loss for _, loss, _ in parts)])
    kl_M = np.concatenate([np.empty(0), *(kl for _, _, kl in parts)])

    count = len(targets_ST)
    number_M = ~np.isnan(loss_M)
    first_M = number_M & (rank_M < 1)

    def per_sequence(chosen_M: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(sequence_M[chosen_M], minlength=count)

    def summed(value_M: NDArray[np.float64], chosen_M: NDArray[np.bool_]) -> NDArray[np.float64]:
        sums_S = np.bincount(sequence_M[chosen_M], value_M[chosen_M], count)
        return sums_S.astype(np.float64)

    rare_M = mask_M = None
    if marks_ST is not None:
        mark_M = marks_ST[sequence_M, position_M]
        rare_M = (mark_M & RARE) != 0
        mask_M = (mark_M & MASKED) != 0 if masked else None
    return Sums(
        tokens=np.bincount(sequence_M, minlength=count),
        top1=per_sequence(first_M),
        top10=per_sequence(number_M & (rank_M < 10)),
        loss=summed(loss_M, number_M),
        nan=per_sequence(~number_M),
        kl=None if bare_MD is None else summed(kl_M, number_M & ~np.isnan(kl_M)),
        tokens_rare=None if rare_M is None else per_sequence(rare_M),
        top1_rare=None if rare_M is None else per_sequence(first_M & rare_M),
        tokens_mask=None if mask_M is None else per_sequence(mask_M),
        top1_mask=None if mask_M is None else per_sequence(first_M & mask_M),
        loss_mask=None if mask_M is None else summed(loss_M, number_M & mask_M),
    )


def _scored(
    scores: Callable[[Tensor], Tensor],
    hidden_MD: Tensor,
    target_M: Tensor,
    bare_MD: Tensor | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each target's rank, 0 for the best, its cross-entropy and, if asked, KL; (M,) each."""
    with torch.inference_mode():
        logits_MV = scores(hidden_MD).float()
        rank_M, loss_M = _rank_and_loss(logits_MV, target_M)
        if bare_MD is None:
            return rank_M, loss_M, np.empty(0)
        return rank_M, loss_M, _divergence(scores(bare_MD).float(), logits_MV)


def _rank_and_loss(
    logits_MV: Tensor, target_M: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    own_M1 = logits_MV.gather(1, target_M[:, None])
    token_V = torch.arange(logits_MV.shape[1], device=logits_MV.device)
    ahead_MV = (logits_MV == own_M1) & (token_V < target_M[:, None])
    ahead_MV |= logits_MV > own_M1
    rank_M = ahead_MV.sum(dim=1).cpu().numpy()
    loss_M = nn.functional.cross_entropy(logits_MV, target_M, reduction="none")
    return rank_M, loss_M.double().cpu().numpy()


def _divergence(bare_MV: Tensor, ablated_MV: Tensor) -> NDArray[np.float64]:
    """Return KL(bare ‖ ablated) of every row, (M,), in nats; infinite where the ablated rules out
    a token that the bare does not."""
    log_p_MV = torch.log_softmax(bare_MV, dim=1)
    log_q_MV = torch.log_softmax(ablated_MV, dim=1)
    p_MV = log_p_MV.exp()
    terms_MV = log_p_MV.sub_(log_q_MV).mul_(p_MV)
    terms_MV.masked_fill_(p_MV == 0, 0)  # p log p is 0 there, also where log p is infinite
    return terms_MV.sum(dim=1).double().cpu().numpy()
