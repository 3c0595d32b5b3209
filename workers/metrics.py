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

Of paired prompts, whose last position is scored on the answer's token, the answer's logit is
also set against those of the wrong answers: by how much it is above their mean (a difference
of logits is the log of a ratio of probabilities, in nats), and whether it is above all of
them. An equal logit is not above, so a model that gives every token the same is never right.

The logits of a large vocabulary are far bigger than the hidden states they
come from, so hidden rows are turned into logits a few at a time, and only
those of scored positions ever. How many at a time is a budget, not a
parameter of the result: it changes the last bits of a matrix product at most.
The budget is for one float32 tensor of logits. At most two and a half of that size
are held at once; with KL four and three quarters, of which two and a quarter are the
unablated model's: they are made once for all cells that are scored together. A CPU
looks at blocks of rows that fit into its cache, and holds little beside one such tensor.

Equal logits are ranked by token id, the lower first. So a model that gives
every token the same logit is right once in a vocabulary, not always; in
half precision equal logits are common.

What depends on the batch alone is in a `Scoring`, made once per batch; what it
measures stays on the device until sums are asked for, so nothing waits before.

Shapes: S sequences, T positions, D width of the hidden states, M scored
positions (below `measure` those of one chunk or block), V tokens of the
vocabulary (or classes), W wrong answers, Q measured quantities: rank, cross-entropy and,
with an unablated model, KL; of paired prompts also the difference of logits and whether the
answer is above.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.messages import MASKED, NOT_SCORED, RARE

BLOCK_BYTES = 2**20
"""Logits that a CPU looks at together: at every look but the first they are in its cache."""


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
    logit_diff: NDArray[np.float64] | None
    """(S,) the target's logit minus the mean of the wrong answers', in nats, over positions where
    it is a number and the cross-entropy is; None without wrong answers."""
    choice: NDArray[np.int64] | None
    """(S,) positions whose target's logit is above all wrong answers'; never where the
    cross-entropy is not a number."""


_Bare = tuple[Tensor, ...]
"""Of the unablated model: log p, p, and where p is 0; (M, V) each."""


class Scoring:
    """What is scored in one batch: made once, for any number of cells.

    scoring = Scoring(head, batch.targets, …)
    measured = scoring.measure([hidden_STD, …], bare_STD)    # stays on the device
    sums = [scoring.sums(each_QM) for each_QM in measured]   # waits for it
    """

    def __init__(
        self,
        scores: Callable[[Tensor], Tensor],
        targets_ST: NDArray[np.int64],
        *,
        vocabulary: int,
        budget: int,
        device: torch.device,
        marks_ST: NDArray[np.uint8] | None = None,
        masked: bool = False,
        wrong_SW: NDArray[np.int64] | None = None,
    ) -> None:
        """Prepare to score the positions of a batch that have a target.

        `scores` turns hidden rows (M, D) into logits (M, V), which are written to; `budget`
        bounds one float32 tensor of logits, in bytes. `marks_ST` are bits `RARE` and
        `MASKED`; `masked` says that the second is asked for. `wrong_SW` are the wrong answers
        of paired prompts, NOT_SCORED after a row's last. Raises ValueError where the budget
        does not hold a single row.
        """
        self._rows = budget // (4 * vocabulary)
        if self._rows < 1:
            raise ValueError(
                f"A budget of {budget} bytes for logits holds no row of {vocabulary} scores, which"
                f" takes {4 * vocabulary} bytes. Allow at least that."
            )
        self._scores, self._sequences = scores, len(targets_ST)
        self._on_cpu = device.type == "cpu"
        self._block = max(2, BLOCK_BYTES // (4 * vocabulary)) if self._on_cpu else self._rows
        at_M = np.flatnonzero(targets_ST != NOT_SCORED)
        self._sequence_M = at_M // targets_ST.shape[1]
        self._rare_M = self._mask_M = None
        if marks_ST is not None:
            mark_M = marks_ST.reshape(-1)[at_M]
            self._rare_M = (mark_M & RARE) != 0
            self._mask_M = (mark_M & MASKED) != 0 if masked else None
        self._at_M = torch.from_numpy(at_M).to(device)
        self._target_M1 = torch.from_numpy(targets_ST.reshape(-1)[at_M, None]).to(device)
        self._wrong_MW = None
        if wrong_SW is not None:
            self._wrong_MW = torch.from_numpy(wrong_SW[self._sequence_M]).to(device)
        self._token_V = torch.arange(vocabulary, dtype=torch.float32, device=device)

    def measure(self, hidden: Sequence[Tensor], bare_STD: Tensor | None = None) -> list[Tensor]:
        """Return each cell's measurements (Q, M), float64, from its hidden states (S, T, D).

        With `bare_STD`, what the head of the unablated model is fed, they hold the
        divergence from it; its logits are made once for all cells given here.
        """
        with torch.inference_mode():
            parts: list[list[Tensor]] = [[] for _ in hidden]
            for start in range(0, len(self._at_M), self._rows):
                chunk = slice(start, start + self._rows)
                at_M, target_M1 = self._at_M[chunk], self._target_M1[chunk]
                wrong_MW = None if self._wrong_MW is None else self._wrong_MW[chunk]
                bare = None if bare_STD is None else _bare(self._scores(_rows(bare_STD, at_M)))
                for found, hidden_STD in zip(parts, hidden, strict=True):
                    found += self._chunk(_rows(hidden_STD, at_M), target_M1, wrong_MW, bare)
                del bare  # or the next would be made beside it
            measured = 2 + (bare_STD is not None) + 2 * (self._wrong_MW is not None)
            none_QM = torch.empty(measured, 0, dtype=torch.float64)
            return [torch.cat(found, dim=1) if found else none_QM for found in parts]

    def sums(self, measured_QM: Tensor) -> Sums:
        """Return the sums of one cell's measurements; waits for the device."""
        rank_M, loss_M, *more = measured_QM.cpu().numpy()
        paired, kl = ([], more) if self._wrong_MW is None else (more[-2:], more[:-2])
        number_M = ~np.isnan(loss_M)
        first_M = number_M & (rank_M < 1)
        rare_M, mask_M = self._rare_M, self._mask_M
        return Sums(
            tokens=self._count(np.ones_like(number_M)),
            top1=self._count(first_M),
            top10=self._count(number_M & (rank_M < 10)),
            loss=self._sum(loss_M, number_M),
            nan=self._count(~number_M),
            kl=self._sum(kl[0], number_M & ~np.isnan(kl[0])) if kl else None,
            tokens_rare=None if rare_M is None else self._count(rare_M),
            top1_rare=None if rare_M is None else self._count(first_M & rare_M),
            tokens_mask=None if mask_M is None else self._count(mask_M),
            top1_mask=None if mask_M is None else self._count(first_M & mask_M),
            loss_mask=None if mask_M is None else self._sum(loss_M, number_M & mask_M),
            logit_diff=self._sum(paired[0], number_M & ~np.isnan(paired[0])) if paired else None,
            choice=self._count(number_M & (paired[1] > 0)) if paired else None,
        )

    def _chunk(
        self, hidden_MD: Tensor, target_M1: Tensor, wrong_MW: Tensor | None, bare: _Bare | None
    ) -> Iterator[Tensor]:
        """Yield the measurements of one chunk, block by block."""
        logits_MV = self._scores(hidden_MD)
        # No block is one row alone unless the chunk is: its sum might be made in another order.
        blocks = max(1, len(logits_MV) // self._block)
        for i in range(blocks):
            rows = slice(i * len(logits_MV) // blocks, (i + 1) * len(logits_MV) // blocks)
            of = None if bare is None else tuple(x_MV[rows] for x_MV in bare)
            wrong = None if wrong_MW is None else wrong_MW[rows]
            yield self._measured(logits_MV[rows], target_M1[rows], wrong, of)

    def _measured(
        self, logits_MV: Tensor, target_M1: Tensor, wrong_MW: Tensor | None, bare: _Bare | None
    ) -> Tensor:
        """Return what is measured of some positions, (Q, M): first each target's rank, 0 the best.

        Logits are written to.
        """
        if self._on_cpu:
            logits_MV = logits_MV.float()  # a GPU widens on the fly, and reads half as much
        paired = () if wrong_MW is None else _against(logits_MV, target_M1, wrong_MW)
        log_q_MV = torch.log_softmax(logits_MV, dim=1, dtype=torch.float32)
        loss_M = -log_q_MV.gather(1, target_M1)[:, 0]
        found = [loss_M] if bare is None else [loss_M, _divergence(bare, log_q_MV)]
        # What log q took is free now. A CPU compares fastest into floats, a GPU into bytes.
        room_MV = log_q_MV if self._on_cpu else torch.empty_like(logits_MV, dtype=torch.bool)
        del log_q_MV
        rank_M = self._rank(logits_MV, target_M1, room_MV)
        return torch.stack([x_M.double() for x_M in (rank_M, *found, *paired)])

    def _rank(self, logits_MV: Tensor, target_M1: Tensor, room_MV: Tensor) -> Tensor:
        """Return how many tokens are ahead of the target, (M,): exact, as float32 counts to 2^24.

        `room_MV` is written to, and on a CPU the logits.
        """
        own_M1 = logits_MV.gather(1, target_M1)
        rank_M = torch.gt(logits_MV, own_M1, out=room_MV).sum(dim=1, dtype=torch.float32)
        equal_M = torch.eq(logits_MV, own_M1, out=room_MV).sum(dim=1, dtype=torch.float32)
        # Most often nothing ties. To ask a GPU whether that is so would be to wait for it.
        if not self._on_cpu or (equal_M > 1).any():
            lower_MV = logits_MV if self._on_cpu else torch.empty_like(room_MV)
            room_MV.mul_(torch.lt(self._token_V, target_M1.float(), out=lower_MV))
            rank_M += room_MV.sum(dim=1, dtype=torch.float32)
        return rank_M

    def _count(self, chosen_M: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(self._sequence_M[chosen_M], minlength=self._sequences)

    def _sum(
        self, value_M: NDArray[np.float64], chosen_M: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        sums_S = np.bincount(self._sequence_M[chosen_M], value_M[chosen_M], self._sequences)
        return sums_S.astype(np.float64)


def _rows(hidden_STD: Tensor, at_M: Tensor) -> Tensor:
    """Return some positions of a batch, (M, D)."""
    return hidden_STD.flatten(0, 1).index_select(0, at_M)


def _against(logits_MV: Tensor, target_M1: Tensor, wrong_MW: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each target's logit is above the mean of the wrong ones', and whether it is
    above all of them; (M,) each."""
    none_MW = wrong_MW < 0
    own_M1 = logits_MV.gather(1, target_M1).float()
    wrong_MW = logits_MV.gather(1, wrong_MW.clamp(min=0)).float()
    count_M = (~none_MW).sum(dim=1)
    diff_M = own_M1[:, 0] - wrong_MW.masked_fill(none_MW, 0).sum(dim=1) / count_M
    return diff_M, ((own_M1 > wrong_MW) | none_MW).all(dim=1)


def _bare(logits_MV: Tensor) -> _Bare:
    log_p_MV = torch.log_softmax(logits_MV, dim=1, dtype=torch.float32)
    p_MV = log_p_MV.exp()
    return log_p_MV, p_MV, p_MV == 0


def _divergence(bare: _Bare, log_q_MV: Tensor) -> Tensor:
    """Return KL(bare ‖ ablated) of every row, (M,), in nats; infinite where the ablated rules out
    a token that the bare does not. `log_q_MV` is written to."""
    log_p_MV, p_MV, never_MV = bare
    terms_MV = torch.sub(log_p_MV, log_q_MV, out=log_q_MV).mul_(p_MV)
    terms_MV.masked_fill_(never_MV, 0)  # p log p is 0 there, also where log p is infinite
    return terms_MV.sum(dim=1)
