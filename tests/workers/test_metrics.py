"""Scores are those of a plain log-softmax, whatever the budget, and of scored positions alone.

Shapes: S sequences, T positions, D width of the hidden states, M scored
positions, V tokens of the vocabulary.
"""

import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from workers import metrics
from workers.messages import MASKED, NOT_SCORED, RARE
from workers.metrics import Scoring, Sums

S, T, D, V = 3, 5, 4, 23


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
    wrong_SW: NDArray[np.int64] | None = None,
) -> Sums:
    """Score one cell of a batch by itself."""
    scoring = Scoring(
        scores,
        targets_ST,
        vocabulary=vocabulary,
        budget=budget,
        device=hidden_STD.device,
        marks_ST=marks_ST,
        masked=masked,
        wrong_SW=wrong_SW,
    )
    (measured_QM,) = scoring.measure([hidden_STD], bare_STD)
    return scoring.sums(measured_QM)


def drawn(seed: int, scored: float = 0.6) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Return hidden states (S, T, D), a head (V, D) and targets (S, T)."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    targets_ST = rng.integers(0, V, (S, T))
    targets_ST[rng.random((S, T)) > scored] = NOT_SCORED
    return (
        torch.randn(S, T, D, generator=generator),
        torch.randn(V, D, generator=generator),
        targets_ST,
    )


@given(st.integers(0, 1000), st.integers(1, S * T + 2))
@settings(deadline=None)
def test_sums_are_those_of_plain_numpy_whatever_the_budget(seed: int, rows: int) -> None:
    hidden_STD, head_VD, targets_ST = drawn(seed)
    found = score(
        lambda hidden_MD: hidden_MD @ head_VD.T,
        hidden_STD,
        targets_ST,
        vocabulary=V,
        budget=4 * V * rows,
    )
    logits_STV = hidden_STD.double().numpy() @ head_VD.double().numpy().T
    for s in range(S):
        scored = np.flatnonzero(targets_ST[s] != NOT_SCORED)
        logits_MV, target_M = logits_STV[s, scored], targets_ST[s, scored]
        own_M = logits_MV[np.arange(len(scored)), target_M]
        rank_M = (logits_MV > own_M[:, None]).sum(axis=1)
        loss = (np.log(np.exp(logits_MV).sum(axis=1)) - own_M).sum()
        assert found.tokens[s] == len(scored)
        assert found.top1[s] == (rank_M == 0).sum()
        assert found.top10[s] == (rank_M < 10).sum()
        assert found.loss[s] == pytest.approx(loss, rel=1e-5, abs=1e-6)
        assert found.nan[s] == 0


def test_logits_are_made_of_scored_positions_alone_and_never_more_than_fit() -> None:
    hidden_STD, head_VD, targets_ST = drawn(1)
    fed: list[Tensor] = []

    def scores(hidden_MD: Tensor) -> Tensor:
        fed.append(hidden_MD)
        return hidden_MD @ head_VD.T

    score(scores, hidden_STD, targets_ST, vocabulary=V, budget=4 * V * 2 + 1)
    assert max(len(hidden_MD) for hidden_MD in fed) == 2
    assert torch.equal(torch.cat(fed), hidden_STD[torch.from_numpy(targets_ST != NOT_SCORED)])


def test_a_budget_below_one_row_is_refused() -> None:
    hidden_STD, head_VD, targets_ST = drawn(1)
    with pytest.raises(ValueError, match=f"Allow at least|{4 * V} bytes"):
        score(
            lambda hidden_MD: hidden_MD @ head_VD.T,
            hidden_STD,
            targets_ST,
            vocabulary=V,
            budget=4 * V - 1,
        )


def scored(logits_MV: list[list[float]], target_M: list[int]) -> tuple[list[int], list[int]]:
    """Return top-1 and top-10 of one sequence whose logits are given."""
    logits = torch.tensor(logits_MV)
    sums = score(
        lambda hidden_MD: logits,
        torch.zeros(1, len(target_M), D),
        np.array([target_M]),
        vocabulary=logits.shape[1],
        budget=1 << 20,
    )
    return sums.top1.tolist(), sums.top10.tolist()


def test_of_equal_logits_the_lower_token_ranks_first() -> None:
    assert scored([[2.0, 2.0, 1.0]], [0]) == ([1], [1])
    assert scored([[2.0, 2.0, 1.0]], [1]) == ([0], [1])


def test_a_model_that_cannot_tell_tokens_apart_is_not_right_everywhere() -> None:
    flat = [[0.0] * 50] * 50
    assert scored(flat, list(range(50))) == ([1], [10])


def test_a_loss_that_is_not_a_number_is_counted_and_left_out() -> None:
    logits_MV = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [float("inf"), 0.0], [3.0, 1.0]])
    sums = score(
        lambda hidden_MD: logits_MV,
        torch.zeros(2, 2, D),
        np.array([[1, 0], [0, 0]]),
        vocabulary=2,
        budget=1 << 20,
    )
    assert sums.tokens.tolist() == [2, 2]
    assert sums.nan.tolist() == [1, 1]
    assert sums.top1.tolist() == [1, 1]
    assert sums.loss == pytest.approx([np.log1p(np.exp(-1)), np.log1p(np.exp(-2))])


def test_sequences_without_a_scored_position_have_zero_sums() -> None:
    hidden_STD, head_VD, _ = drawn(2)
    sums = score(
        lambda hidden_MD: hidden_MD @ head_VD.T,
        hidden_STD,
        np.full((S, T), NOT_SCORED),
        vocabulary=V,
        budget=1 << 20,
    )
    for found in (sums.tokens, sums.top1, sums.top10, sums.loss, sums.nan):
        assert found.tolist() == [0] * S
    assert sums.loss.dtype == np.float64


def test_half_precision_logits_are_scored_in_single_precision() -> None:
    logits_MV = torch.randn(4, V, generator=torch.Generator().manual_seed(3)).bfloat16()
    target_M = np.array([[1, 2, 3, 4]])
    sums = score(
        lambda hidden_MD: logits_MV, torch.zeros(1, 4, D), target_M, vocabulary=V, budget=1 << 20
    )
    exact = torch.log_softmax(logits_MV.double(), dim=1)[torch.arange(4), target_M[0]]
    assert sums.loss[0] == pytest.approx(-exact.sum().item(), rel=1e-6)


def marked(seed: int) -> tuple[Tensor, Tensor, NDArray[np.int64], NDArray[np.uint8]]:
    """Return what `drawn` does, and marks (S, T)."""
    hidden_STD, head_VD, targets_ST = drawn(seed)
    marks_ST = np.random.default_rng(seed + 1).integers(0, 4, (S, T)).astype(np.uint8)
    return hidden_STD, head_VD, targets_ST, marks_ST


@given(st.integers(0, 1000), st.integers(1, S * T + 2))
@settings(deadline=None)
def test_marked_positions_have_sums_of_their_own_whatever_the_budget(seed: int, rows: int) -> None:
    hidden_STD, head_VD, targets_ST, marks_ST = marked(seed)

    def sums(targets_ST: NDArray[np.int64], **asked: NDArray[np.uint8] | bool) -> Sums:
        return score(
            lambda hidden_MD: hidden_MD @ head_VD.T,
            hidden_STD,
            targets_ST,
            vocabulary=V,
            budget=4 * V * rows,
            **asked,  # type: ignore[arg-type]
        )

    found = sums(targets_ST, marks_ST=marks_ST, masked=True)
    rare = sums(np.where(marks_ST & RARE, targets_ST, NOT_SCORED))
    mask = sums(np.where(marks_ST & MASKED, targets_ST, NOT_SCORED))
    assert np.array_equal(found.tokens_rare, rare.tokens)
    assert np.array_equal(found.top1_rare, rare.top1)
    assert np.array_equal(found.tokens_mask, mask.tokens)
    assert np.array_equal(found.top1_mask, mask.top1)
    assert found.loss_mask == pytest.approx(mask.loss, rel=1e-6)
    bare = sums(targets_ST)
    assert np.array_equal(found.top1, bare.top1)
    assert np.array_equal(found.loss, bare.loss)


def test_what_does_not_apply_is_none() -> None:
    hidden_STD, head_VD, targets_ST, marks_ST = marked(3)

    def absent(**asked: NDArray[np.uint8] | Tensor | bool) -> set[str]:
        sums = score(
            lambda hidden_MD: hidden_MD @ head_VD.T,
            hidden_STD,
            targets_ST,
            vocabulary=V,
            budget=1 << 20,
            **asked,  # type: ignore[arg-type]
        )
        return {name for name in Sums.__slots__ if getattr(sums, name) is None}

    rare, mask = {"tokens_rare", "top1_rare"}, {"tokens_mask", "top1_mask", "loss_mask"}
    pairs = {"logit_diff", "choice"}
    assert absent() == rare | mask | pairs | {"kl"}
    assert absent(marks_ST=marks_ST) == mask | pairs | {"kl"}
    assert absent(marks_ST=marks_ST, masked=True) == pairs | {"kl"}
    assert absent(bare_STD=hidden_STD) == rare | mask | pairs
    assert absent(wrong_SW=np.full((S, 1), 3)) == rare | mask | {"kl"}


@given(st.integers(0, 1000), st.integers(1, S * T + 2))
@settings(deadline=None)
def test_the_divergence_is_that_of_plain_numpy_whatever_the_budget(seed: int, rows: int) -> None:
    hidden_STD, head_VD, targets_ST = drawn(seed)
    bare_STD = drawn(seed + 1)[0]
    found = score(
        lambda hidden_MD: hidden_MD @ head_VD.T,
        hidden_STD,
        targets_ST,
        vocabulary=V,
        budget=4 * V * rows,
        bare_STD=bare_STD,
    )
    log_q_STV, log_p_STV = (
        torch.log_softmax(x_STD.double() @ head_VD.double().T, dim=2).numpy()
        for x_STD in (hidden_STD, bare_STD)
    )
    kl_ST = (np.exp(log_p_STV) * (log_p_STV - log_q_STV)).sum(axis=2)
    expected_S = np.where(targets_ST != NOT_SCORED, kl_ST, 0).sum(axis=1)
    assert found.kl == pytest.approx(expected_S, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_was_not_changed_diverges_by_exactly_nothing(dtype: torch.dtype) -> None:
    hidden_STD, head_VD, targets_ST = drawn(5)
    hidden_STD, head_VD = (30 * hidden_STD).to(dtype), head_VD.to(dtype)
    sums = score(
        lambda hidden_MD: hidden_MD @ head_VD.T,
        hidden_STD,
        targets_ST,
        vocabulary=V,
        budget=4 * V * 3,
        bare_STD=hidden_STD.clone(),
    )
    assert sums.kl is not None
    assert sums.kl.tolist() == [0.0] * S


def divergence(bare_MV: list[list[float]], ablated_MV: list[list[float]]) -> float:
    """Return the divergence of one sequence whose logits are given."""
    logits = {0.0: torch.tensor(ablated_MV), 1.0: torch.tensor(bare_MV)}
    sums = score(
        lambda hidden_MD: logits[hidden_MD[0, 0].item()],
        torch.zeros(1, len(bare_MV), D),
        np.zeros((1, len(bare_MV)), np.int64),
        vocabulary=len(bare_MV[0]),
        budget=1 << 20,
        bare_STD=torch.ones(1, len(bare_MV), D),
    )
    assert sums.kl is not None
    return float(sums.kl[0])


def test_the_divergence_is_of_the_bare_model_from_the_ablated_one() -> None:
    log3 = np.log(3).item()
    one_way = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert divergence([[log3, 0.0]], [[0.0, 0.0]]) == pytest.approx(one_way, rel=1e-6)
    other_way = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert divergence([[0.0, 0.0]], [[log3, 0.0]]) == pytest.approx(other_way, rel=1e-6)


def test_the_divergence_falls_below_zero_by_rounding_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    bare_MV = 5 * torch.randn(200, 500, generator=generator)
    near_MV = bare_MV + 1e-5 * torch.randn(200, 500, generator=generator)
    each = [divergence([b], [a]) for b, a in zip(bare_MV.tolist(), near_MV.tolist(), strict=True)]
    assert max(map(abs, each)) < 2e-6


def test_tokens_that_the_bare_model_rules_out_add_nothing_to_the_divergence() -> None:
    never = float("-inf")
    assert divergence([[0.0, never, 0.0]], [[0.0, never, 0.0]]) == 0
    assert divergence([[0.0, never]], [[0.0, 0.0]]) == pytest.approx(np.log(2))
    assert divergence([[0.0, 0.0]], [[0.0, never]]) == float("inf")


def test_a_divergence_that_is_not_a_number_is_left_out() -> None:
    nan, log3 = float("nan"), np.log(3).item()
    one = divergence([[log3, 0.0]], [[0.0, 0.0]])
    assert divergence([[log3, 0.0], [nan, 0.0]], [[0.0, 0.0], [0.0, 0.0]]) == one
    assert divergence([[log3, 0.0], [0.0, 0.0]], [[0.0, 0.0], [nan, 0.0]]) == one


def test_a_marked_position_that_is_not_a_number_is_counted_and_never_right() -> None:
    logits_MV = torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])
    sums = score(
        lambda hidden_MD: logits_MV,
        torch.zeros(1, 2, D),
        np.array([[1, 1]]),
        vocabulary=2,
        budget=1 << 20,
        marks_ST=np.full((1, 2), RARE | MASKED, np.uint8),
        masked=True,
    )
    assert (sums.tokens_rare, sums.top1_rare) == ([2], [1])
    assert (sums.tokens_mask, sums.top1_mask) == ([2], [1])
    assert sums.loss_mask == pytest.approx([np.log1p(np.exp(-1))])
    assert sums.nan.tolist() == [1]


def coarse(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Return what `drawn` does, in whole numbers: many logits are equal."""
    hidden_STD, head_VD, targets_ST = drawn(seed)
    return (2 * hidden_STD).round().to(dtype), head_VD.round().to(dtype), targets_ST


def scoring_of(
    head_VD: Tensor, targets_ST: NDArray[np.int64], rows: int, device: str = "cpu"
) -> Scoring:
    return Scoring(
        lambda hidden_MD: hidden_MD @ head_VD.T,
        targets_ST,
        vocabulary=len(head_VD),
        budget=4 * len(head_VD) * rows,
        device=torch.device(device),
    )


dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@dtypes
@pytest.mark.parametrize("seed", range(20))
def test_ranks_and_losses_have_the_bits_of_plain_torch_also_where_logits_are_equal(
    dtype: torch.dtype, seed: int
) -> None:
    hidden_STD, head_VD, targets_ST = coarse(seed, dtype)
    (rank_loss_QM,) = scoring_of(head_VD, targets_ST, S * T).measure([hidden_STD])
    at_M = targets_ST.reshape(-1) != NOT_SCORED
    target_M = torch.from_numpy(targets_ST.reshape(-1)[at_M])
    logits_MV = (hidden_STD.flatten(0, 1)[torch.from_numpy(at_M)] @ head_VD.T).float()
    order_MV = logits_MV.argsort(dim=1, descending=True, stable=True)  # of equals the lower first
    rank_M = (order_MV == target_M[:, None]).nonzero()[:, 1]
    loss_M = torch.nn.functional.cross_entropy(logits_MV, target_M, reduction="none")
    assert torch.equal(rank_loss_QM, torch.stack([rank_M.double(), loss_M.double()]))
    assert (logits_MV == logits_MV.gather(1, target_M[:, None])).sum() > len(target_M)


@dtypes
@pytest.mark.parametrize("diverging", [False, True])
def test_cells_that_are_scored_together_have_the_bits_of_cells_alone(
    dtype: torch.dtype, diverging: bool
) -> None:
    cells = [coarse(seed, dtype)[0] for seed in range(4)]
    bare_STD, head_VD, targets_ST = coarse(9, dtype)
    bare = bare_STD if diverging else None
    scoring = scoring_of(head_VD, targets_ST, 4)
    alone = [scoring.measure([hidden_STD], bare)[0] for hidden_STD in cells]
    together = scoring.measure(cells, bare)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_logits_of_the_unablated_model_are_made_once_for_all_cells() -> None:
    hidden_STD, head_VD, targets_ST = drawn(1)
    fed: list[Tensor] = []

    def scores(hidden_MD: Tensor) -> Tensor:
        fed.append(hidden_MD)
        return hidden_MD @ head_VD.T

    scoring = Scoring(
        scores, targets_ST, vocabulary=V, budget=4 * V * 2, device=torch.device("cpu")
    )
    scoring.measure([hidden_STD, 2 * hidden_STD, 3 * hidden_STD], -hidden_STD)
    bare_MD = -hidden_STD[torch.from_numpy(targets_ST != NOT_SCORED)]
    assert torch.equal(torch.cat(fed[::4]), bare_MD)
    assert sum(map(len, fed)) == 4 * len(bare_MD)


class Largest(TorchDispatchMode):
    """Watches how many bytes are held at once by tensors of at least some size."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.most = least, 0
        self.live: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, Tensor):
            storage = answer.untyped_storage()
            if storage.nbytes() >= self.least:
                entry = (weakref.ref(answer), storage.data_ptr(), storage.nbytes())
                self.live[id(answer)] = entry
        there = {at: size for ref, at, size in self.live.values() if ref() is not None}
        self.most = max(self.most, sum(there.values()))
        return answer


@dtypes
@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize(("diverging", "tensors"), [(False, 2.5), (True, 4.75)])
def test_no_more_logits_are_held_than_is_said(
    dtype: torch.dtype, diverging: bool, tensors: float, on_cpu: bool
) -> None:
    rows, vocabulary = 4, 1000
    generator = torch.Generator().manual_seed(0)
    head_VD = torch.randn(vocabulary, D, generator=generator).round().to(dtype)
    hidden_STD, _, targets_ST = coarse(3, dtype)
    scoring = scoring_of(head_VD, targets_ST, rows)
    scoring._on_cpu = on_cpu
    with Largest(rows * vocabulary) as seen:
        scoring.measure([hidden_STD, -hidden_STD], hidden_STD if diverging else None)
    budget = 4 * rows * vocabulary
    assert budget < seen.most <= tensors * budget


@dtypes
@pytest.mark.parametrize("seed", range(5))
def test_a_gpus_way_to_measure_makes_the_same_bits(dtype: torch.dtype, seed: int) -> None:
    hidden_STD, head_VD, targets_ST = coarse(seed, dtype)
    bare_STD = coarse(seed + 1, dtype)[0]
    scoring = scoring_of(head_VD, targets_ST, 4)
    (expected_QM,) = scoring.measure([hidden_STD], bare_STD)
    scoring._on_cpu = False
    (found_QM,) = scoring.measure([hidden_STD], bare_STD)
    assert torch.equal(found_QM, expected_QM)


def test_nothing_is_read_from_a_device_before_sums_are_asked_for() -> None:
    hidden_STD, head_VD, targets_ST = drawn(1)  # a meta tensor has no values to read
    on_meta = hidden_STD.to("meta")
    scoring = scoring_of(head_VD.to("meta"), targets_ST, 4, "meta")
    scored = int((targets_ST != NOT_SCORED).sum())
    assert [x.shape for x in scoring.measure([on_meta, on_meta], on_meta)] == [(3, scored)] * 2


@dtypes
@pytest.mark.parametrize("size", [1, 3 * 4 * V, 4 * 4 * V])
def test_in_which_blocks_a_cpu_looks_at_logits_changes_no_bit(
    dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden_STD, head_VD, targets_ST = coarse(2, dtype)
    bare_STD = coarse(3, dtype)[0]
    (whole_QM,) = scoring_of(head_VD, targets_ST, S * T).measure([hidden_STD], bare_STD)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", size)
    (cut_QM,) = scoring_of(head_VD, targets_ST, S * T).measure([hidden_STD], bare_STD)
    assert torch.equal(cut_QM, whole_QM)


def against(
    logits_SV: list[list[float]], target_S: list[int], wrong_SW: list[list[int]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the differences and choices of prompts scored at one position, its logits given."""
    logits = torch.tensor(logits_SV)
    sums = score(
        lambda hidden_MD: logits.clone(),
        torch.zeros(len(target_S), 1, D),
        np.array(target_S)[:, None],
        vocabulary=len(logits_SV[0]),
        budget=1 << 20,
        wrong_SW=np.array(wrong_SW),
    )
    assert sums.logit_diff is not None
    assert sums.choice is not None
    return sums.logit_diff, sums.choice


def test_an_answer_is_set_against_the_mean_of_the_wrong_ones_and_must_be_above_each() -> None:
    diff, choice = against(
        [[3.0, 1.0, 2.0, 9.0], [3.0, 4.0, 0.0, 9.0], [3.0, 1.0, 2.0, 9.0]],
        [0, 0, 0],
        [[1, 2], [1, 2], [2, NOT_SCORED]],
    )
    assert diff.tolist() == [3 - 1.5, 3 - 2, 3 - 2]
    assert choice.tolist() == [1, 0, 1]  # the second is above the mean, and not above token 1


def test_an_answer_that_only_equals_a_wrong_one_is_not_above_it() -> None:
    diff, choice = against([[2.0, 2.0], [2.0, 2.0]], [0, 1], [[1], [0]])
    assert diff.tolist() == [0, 0]
    assert choice.tolist() == [0, 0]


def test_a_difference_without_a_number_is_left_out_and_never_a_right_choice() -> None:
    nan, inf = float("nan"), float("inf")
    diff, choice = against([[3.0, nan], [-inf, -inf], [3.0, 1.0]], [0, 0, 0], [[1], [1], [1]])
    assert diff.tolist() == [0, 0, 2]
    assert choice.tolist() == [0, 0, 1]


@given(st.integers(0, 1000), st.integers(1, S * T + 2), st.booleans())
@settings(deadline=None)
def test_differences_are_those_of_plain_numpy_whatever_the_budget(
    seed: int, rows: int, kl: bool
) -> None:
    hidden_STD, head_VD, targets_ST = drawn(seed)
    wrong_SW = np.random.default_rng(seed).integers(0, V, (S, 3))
    wrong_SW[0, 1:] = NOT_SCORED
    found = score(
        lambda hidden_MD: hidden_MD @ head_VD.T,
        hidden_STD,
        targets_ST,
        vocabulary=V,
        budget=4 * V * rows,
        bare_STD=hidden_STD if kl else None,
        wrong_SW=wrong_SW,
    )
    assert found.logit_diff is not None
    assert found.choice is not None
    logits_STV = hidden_STD.double().numpy() @ head_VD.double().numpy().T
    for s in range(S):
        wrong_W = wrong_SW[s][wrong_SW[s] >= 0]
        at = [(t, v) for t, v in enumerate(targets_ST[s]) if v != NOT_SCORED]
        diffs = [logits_STV[s, t, v] - logits_STV[s, t, wrong_W].mean() for t, v in at]
        # In float32 a token's logit equals itself; in numpy's sums of another order it need not.
        above = [
            v not in wrong_W and logits_STV[s, t, v] > logits_STV[s, t, wrong_W].max()
            for t, v in at
        ]
        assert found.logit_diff[s] == pytest.approx(sum(diffs), rel=1e-5, abs=1e-5)
        assert found.choice[s] == sum(above)
    assert (found.kl is not None) == kl
