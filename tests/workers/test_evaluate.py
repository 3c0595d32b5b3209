"""Evaluation: right against plain code, and the same whatever else shares the call."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.workers import tiny
from tests.workers.cells import (
    ATTENTION,
    BUDGET,
    KINDS,
    STARTS,
    activations,
    baseline,
    batches,
    by_position,
    constant,
    donors,
    held_at,
    instead,
    needed,
    one,
    only,
    others,
    resampled,
    same,
    steps,
    told_elements,
)
from tests.workers.holding import hooked, hooked_at, hooked_by_position
from workers import hooks
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import (
    MASKED,
    NOT_SCORED,
    RARE,
    SITES,
    Batch,
    ByPosition,
    CellAnswer,
    CellOrder,
)

families = pytest.mark.parametrize("name", tiny.NAMES)


def by_hand(model: Model, batch: Batch) -> dict[int, tuple[int, int, int, float]]:
    """Return (tokens, top1, top10, loss) by sequence, from uncut logits and torch's own loss."""
    logits = hooks.logits(model, batch).float()
    logits_STV = logits if logits.ndim == 3 else logits[:, None]
    answer = {}
    for number, logits_TV, target_T in zip(
        batch.sequence, logits_STV, torch.from_numpy(batch.targets), strict=True
    ):
        scored = target_T != NOT_SCORED
        logits_MV, target_M = logits_TV[scored], target_T[scored]
        loss_M = nn.functional.cross_entropy(logits_MV, target_M, reduction="none")
        best = logits_MV.topk(min(10, logits_MV.shape[1])).indices == target_M[:, None]
        answer[int(number)] = (
            int(scored.sum()),
            int(best[:, 0].sum()),
            int(best.sum()),
            float(loss_M.double().sum()),
        )
    return answer


def assert_answer_is(answer: CellAnswer, expected: dict[int, tuple[int, int, int, float]]) -> None:
    rows = [expected[number] for number in sorted(expected)]
    tokens, top1, top10, loss = (np.array(column) for column in zip(*rows, strict=True))
    assert answer.sequence.tolist() == sorted(expected)
    assert answer.tokens.tolist() == tokens.tolist()
    assert answer.top1.tolist() == top1.tolist()
    assert answer.top10.tolist() == top10.tolist()
    assert np.allclose(answer.loss, loss, rtol=1e-5, atol=0)
    assert not answer.nan.any()


@families
def test_the_baseline_is_the_librarys_own_forward(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    answer = one(model, baseline(model))
    expected = {k: v for batch in batches(model) for k, v in by_hand(model, batch).items()}
    assert_answer_is(answer, expected)
    assert (answer.told, answer.held) == (0, 0)
    assert answer.loss.sum() > 0


@families
def test_constants_are_what_plain_hooks_make_of_them(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    order = constant(model, 0.5)
    with hooked_at(model, only(order).held, steps(order)):
        expected = {k: v for batch in batches(model) for k, v in by_hand(model, batch).items()}
    answer = one(model, order)
    assert_answer_is(answer, expected)
    assert answer.told == answer.held == sum(len(held_H) for held_H in only(order).held)


@families
def test_constants_by_position_are_what_plain_hooks_make_of_them(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    order, expected = by_position(model, 0.5), {}
    with hooked_by_position(model, only(order).held, steps(order), STARTS):
        for batch in batches(model):
            expected |= by_hand(model, batch)
    answer = one(model, order)
    assert_answer_is(answer, expected)
    assert answer.told == answer.held == told_elements(model, order, batches(model))
    alike = constant(model, 0.5)
    assert not np.allclose(answer.loss, one(model, alike).loss, rtol=1e-3)


@families
def test_constants_that_are_the_same_in_every_bucket_are_what_the_fold_makes_of_them(
    name: str, home: Path
) -> None:
    model = tiny.shared(name, home)
    fold = constant(model, 0.5)
    values_ZLN = np.stack([steps(fold)] * len(STARTS))
    answer = one(model, instead(fold, value=ByPosition(values=values_ZLN, starts=STARTS)))
    expected = one(model, fold)
    assert np.array_equal(answer.top1, expected.top1)
    assert np.array_equal(answer.top10, expected.top10)
    assert np.allclose(answer.loss, expected.loss, rtol=1e-5, atol=0)


@given(more=st.sets(st.integers(1, 40)))
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("name", ["opt", "timm-vit"])
def test_a_bucket_cut_in_two_that_hold_the_same_changes_no_bit(
    name: str, home: Path, more: set[int]
) -> None:
    model = tiny.shared(name, home)
    order = by_position(model, 0.5)
    finer = tuple(sorted({*STARTS, *more}))
    bucket_of = [max(z for z, start in enumerate(STARTS) if start <= t) for t in finer]
    value = ByPosition(values=steps(order)[bucket_of], starts=finer)
    assert same(one(model, instead(order, value=value)), one(model, order))


def test_a_position_has_the_same_constant_however_wide_its_batch_is(home: Path) -> None:
    model = tiny.shared("opt", home)
    wide, order = tiny.batch(model, [2, 5]), by_position(model, 0.5)  # ten tokens each
    assert wide.attended is not None
    assert wide.attended.sum(axis=1).tolist() == [10, 10]
    narrow = Batch(
        sequence=wide.sequence,
        inputs=wide.inputs[:, :10],
        attended=wide.attended[:, :10],
        targets=wide.targets[:, :10],
    )
    steps(order)[3] = np.nan  # of the positions from 11 on, where there is nothing
    (answer,) = evaluate(model, [narrow], [order], {}, logits_bytes=BUDGET)
    steps(order)[3] = 7.0
    (padded,) = evaluate(model, [wide], [order], {}, logits_bytes=BUDGET)
    assert answer.told == padded.told
    assert np.allclose(answer.loss, padded.loss, rtol=1e-5, atol=0)


@families
def test_donors_are_what_plain_hooks_make_of_them(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    order, expected = resampled(model, 0.5), {}
    mine = batches(model)
    for batch, donor in zip(mine, others(model, mine), strict=True):
        given = activations(model, donor)

        def put_in(layer: int, x_STN: Tensor, given: list[Tensor] = given) -> Tensor:
            x_STN, held_H = x_STN.clone(), only(order).held[layer]
            x_STN[..., held_H] = given[layer][..., held_H]
            return x_STN

        with hooked(model, put_in):
            expected |= by_hand(model, batch)
    answer = one(model, order)
    assert_answer_is(answer, expected)
    assert answer.told == answer.held == told_elements(model, order, mine)
    assert not np.allclose(answer.loss, one(model, baseline(model)).loss, rtol=1e-3)


def of_every_kind(model: Model) -> list[CellOrder]:
    """Return the baseline and two cells of every kind, one of them soft and at other sites."""
    orders = [baseline(model), resampled(model, 0.3, name="strangers")]
    for kind in KINDS:
        orders.append(held_at(model, kind, 0.3))
        sites = ATTENTION if kind == "per_head" else SITES
        orders.append(held_at(model, kind, 1.0, 2, sites, 0.5))
    return orders


@given(data=st.data())
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("name", ["mistral", "roberta", "timm-vit"])
def test_an_answer_does_not_depend_on_the_other_cells_or_on_their_order(
    name: str, home: Path, data: st.DataObject
) -> None:
    model = tiny.shared(name, home)
    every = of_every_kind(model)
    chosen = data.draw(st.permutations(every))[: data.draw(st.integers(1, len(every)))]
    given = donors(model)
    together = evaluate(model, batches(model), chosen, given, logits_bytes=BUDGET, kl=True)
    assert [answer.cell for answer in together] == [order.cell for order in chosen]
    for order, answer in list(zip(chosen, together, strict=True))[:6]:
        assert same(answer, one(model, order, kl=True))


@pytest.mark.parametrize("name", ["mistral", "roberta", "timm-vit"])
def test_an_answer_does_not_depend_on_the_order_of_batches(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    orders, mine = of_every_kind(model), batches(model)
    forwards = evaluate(model, mine, orders, donors(model), logits_bytes=BUDGET, kl=True)
    turned = mine[::-1]
    given = donors(model, turned)
    backwards = evaluate(model, turned, orders, given, logits_bytes=BUDGET, kl=True)
    assert all(map(same, forwards, backwards))
    assert forwards[0].sequence.tolist() == [0, 2, 3, 4, 5, 7]


@families
def test_the_divergence_is_from_the_bare_model_in_nats(name: str, home: Path) -> None:
    model, order = tiny.shared(name, home), constant(tiny.shared(name, home), 0.5)
    given = needed([order], donors(model))
    bare, answer = evaluate(
        model, batches(model), [baseline(model), order], given, logits_bytes=BUDGET, kl=True
    )
    expected: dict[int, float] = {}
    for batch in batches(model):
        log_p = torch.log_softmax(hooks.logits(model, batch).double(), -1)
        with hooked_at(model, only(order).held, steps(order)):
            log_q = torch.log_softmax(hooks.logits(model, batch).double(), -1)
        kl_ST = (log_p.exp() * (log_p - log_q)).sum(-1).reshape(batch.targets.shape)
        kl_ST[torch.from_numpy(batch.targets == NOT_SCORED)] = 0
        expected |= zip(batch.sequence.tolist(), kl_ST.sum(1).tolist(), strict=True)
    assert bare.kl is not None
    assert answer.kl is not None
    assert bare.kl.tolist() == [0] * 6
    assert answer.kl.min() > 0.01
    assert np.allclose(answer.kl, [expected[n] for n in sorted(expected)], rtol=1e-4)
    plain = one(model, order)
    assert plain.kl is None
    assert np.array_equal(plain.loss, answer.loss)


@pytest.mark.parametrize("name", ["opt", "roberta", "vit"])
def test_marked_positions_are_summed_apart(name: str, home: Path) -> None:
    model, mine = tiny.shared(name, home), batches(tiny.shared(name, home))
    bare, held = baseline(model), constant(model, 0.5)
    if name == "vit":
        (answer,) = evaluate(model, mine, [held], {}, logits_bytes=BUDGET)
        assert answer.tokens_rare is answer.top1_rare is answer.tokens_mask is None
        return
    marked = [
        replace(batch, marks=np.where(batch.targets % 2, RARE | MASKED, 0).astype(np.uint8))
        for batch in mine
    ]
    for batch in marked:
        assert batch.marks is not None
        batch.marks[batch.targets == NOT_SCORED] = 0
    alone = [
        replace(batch, targets=np.where(batch.targets % 2, batch.targets, NOT_SCORED))
        for batch in mine
    ]
    for order in (bare, held):
        (answer,) = evaluate(model, marked, [order], {}, logits_bytes=BUDGET)
        (expected,) = evaluate(model, alone, [order], {}, logits_bytes=BUDGET)
        assert np.array_equal(answer.tokens_rare, expected.tokens)  # type: ignore[arg-type]
        assert np.array_equal(answer.top1_rare, expected.top1)  # type: ignore[arg-type]
        if name == "opt":
            assert answer.tokens_mask is answer.top1_mask is answer.loss_mask is None
        else:
            assert np.array_equal(answer.tokens_mask, expected.tokens)  # type: ignore[arg-type]
            assert np.allclose(answer.loss_mask, expected.loss, rtol=1e-5)  # type: ignore[arg-type]


def test_a_soft_mixture_moves_from_the_bare_model_to_the_cell(home: Path) -> None:
    model, mine = tiny.shared("roberta", home), [tiny.batch(tiny.shared("roberta", home), [0, 1])]
    shares = (1e-6, 0.1, 0.5, 1.0)
    for kind in KINDS[:-1]:  # the last turns activations round: half of it is worse than all
        orders = [held_at(model, kind, alpha=alpha) for alpha in shares]
        given = needed(orders, donors(model, mine))
        answers = evaluate(model, mine, orders, given, logits_bytes=BUDGET, kl=True)
        total = [float(answer.kl.sum()) for answer in answers if answer.kl is not None]
        assert total == sorted(total)
        assert total[0] < 1e-4 < 1e-2 * total[3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_share_of_nearly_all_is_nearly_the_whole(
    dtype: Literal["float32", "bfloat16"], home: Path
) -> None:
    model = tiny.model("opt", home, dtype)
    mine = [tiny.batch(model, [0, 1])]
    whole, nearly = (
        evaluate(
            model,
            mine,
            [held_at(model, kind, alpha=alpha) for kind in KINDS],
            donors(model, mine),
            logits_bytes=BUDGET,
        )
        for alpha in (1.0, 1 - 1e-6)
    )
    for a, b in zip(whole, nearly, strict=True):
        assert np.allclose(a.loss, b.loss, rtol=1e-4 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("name", ["roberta", "vit"])
def test_the_same_cells_again_give_the_same_bits(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    first, again = (
        evaluate(
            model, batches(model), of_every_kind(model), donors(model), logits_bytes=BUDGET, kl=True
        )
        for _ in range(2)
    )
    assert all(map(same, first, again))


def test_a_smaller_budget_for_logits_counts_the_same(home: Path) -> None:
    model = tiny.shared("roberta", home)
    wide = one(model, constant(model, 0.5))
    narrow = evaluate(
        model, batches(model), [constant(model, 0.5)], {}, logits_bytes=4 * tiny.VOCABULARY
    )[0]
    for field in ("tokens", "top1", "top10", "nan"):
        assert np.array_equal(getattr(wide, field), getattr(narrow, field))
    assert np.allclose(wide.loss, narrow.loss, rtol=1e-6)
