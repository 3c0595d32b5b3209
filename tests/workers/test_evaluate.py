"""Evaluation: right against plain code, and the same whatever else shares the call."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.workers import tiny
from tests.workers.cells import (
    BUDGET,
    STARTS,
    activations,
    baseline,
    batches,
    by_position,
    constant,
    donors,
    one,
    resampled,
    same,
)
from tests.workers.holding import hooked, hooked_at, hooked_by_position
from workers import hooks
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import NOT_SCORED, Batch, CellAnswer

families = pytest.mark.parametrize("name", tiny.NAMES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


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
    assert order.values is not None
    with hooked_at(model, order.held, order.values):
        expected = {k: v for batch in batches(model) for k, v in by_hand(model, batch).items()}
    answer = one(model, order)
    assert_answer_is(answer, expected)
    assert answer.told == answer.held == sum(len(held_H) for held_H in order.held)


@families
def test_constants_by_position_are_what_plain_hooks_make_of_them(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    order = by_position(model, 0.5)
    assert order.values is not None
    expected, positions = {}, 0
    with hooked_by_position(model, order.held, order.values, STARTS):
        for batch in batches(model):
            expected |= by_hand(model, batch)
            attended = batch.attended
            positions += len(batch.sequence) * 17 if attended is None else int(attended.sum())
    answer = one(model, order)
    assert_answer_is(answer, expected)
    assert answer.told == answer.held == positions * sum(len(held_H) for held_H in order.held)
    alike = constant(model, 0.5)
    assert not np.allclose(answer.loss, one(model, alike).loss, rtol=1e-3)


@families
def test_constants_that_are_the_same_in_every_bucket_are_what_the_fold_makes_of_them(
    name: str, home: Path
) -> None:
    model = tiny.shared(name, home)
    fold = constant(model, 0.5)
    assert fold.values is not None
    values_ZLN = np.stack([fold.values] * len(STARTS))
    answer = one(model, replace(fold, values=values_ZLN, starts=STARTS))
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
    assert order.values is not None
    finer = tuple(sorted({*STARTS, *more}))
    bucket_of = [max(z for z, start in enumerate(STARTS) if start <= t) for t in finer]
    again = one(model, replace(order, starts=finer, values=order.values[bucket_of]))
    assert same(again, one(model, order))


def test_a_position_has_the_same_constant_however_wide_its_batch_is(home: Path) -> None:
    model = tiny.shared("opt", home)
    wide, order = tiny.batch(model, [2, 5]), by_position(model, 0.5)  # ten tokens each
    assert order.values is not None
    assert wide.attended is not None
    assert wide.attended.sum(axis=1).tolist() == [10, 10]
    narrow = Batch(
        sequence=wide.sequence,
        inputs=wide.inputs[:, :10],
        attended=wide.attended[:, :10],
        targets=wide.targets[:, :10],
    )
    order.values[3] = np.nan  # of the positions from 11 on, where there is nothing
    (answer,) = evaluate(model, [narrow], [order], {}, logits_bytes=BUDGET)
    order.values[3] = 7.0
    (padded,) = evaluate(model, [wide], [order], {}, logits_bytes=BUDGET)
    assert answer.told == padded.told
    assert np.allclose(answer.loss, padded.loss, rtol=1e-5, atol=0)


@families
def test_donors_are_what_plain_hooks_make_of_them(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    order = resampled(model, 0.5)
    expected, positions = {}, 0
    for batch, donor in zip(batches(model), donors(model), strict=True):
        given = activations(model, donor)

        def put_in(layer: int, x_STN: Tensor, given: list[Tensor] = given) -> Tensor:
            x_STN = x_STN.clone()
            x_STN[..., order.held[layer]] = given[layer][..., order.held[layer]]
            return x_STN

        with hooked(model, put_in):
            expected |= by_hand(model, batch)
        s, t = given[0].shape[:2]
        positions += s * t if batch.attended is None else int(batch.attended.sum())
    answer = one(model, order)
    assert_answer_is(answer, expected)
    assert answer.told == answer.held == positions * sum(len(held_H) for held_H in order.held)
    assert not np.allclose(answer.loss, one(model, baseline(model)).loss, rtol=1e-3)


@given(data=st.data())
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("name", ["mistral", "roberta", "timm-vit"])
def test_an_answer_does_not_depend_on_the_other_cells_or_on_their_order(
    name: str, home: Path, data: st.DataObject
) -> None:
    model = tiny.shared(name, home)
    named = {"others": donors(model), "strangers": donors(model, seed=4)}
    orders = [
        baseline(model),
        constant(model, 0.3),
        constant(model, 1.0, seed=2),
        by_position(model, 0.3),
        resampled(model, 0.3),
        resampled(model, 1.0, seed=3),
        resampled(model, 0.3, name="strangers"),
    ]
    chosen = data.draw(st.permutations(orders))[: data.draw(st.integers(1, len(orders)))]
    together = evaluate(model, batches(model), chosen, named, logits_bytes=BUDGET)
    assert [answer.cell for answer in together] == [order.cell for order in chosen]
    for order, answer in zip(chosen, together, strict=True):
        alone = evaluate(model, batches(model), [order], named, logits_bytes=BUDGET)[0]
        assert same(answer, alone)


@families
def test_an_answer_does_not_depend_on_the_order_of_batches(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    held = [make(model, 0.5) for make in (constant, by_position, resampled)]
    orders = [baseline(model), *held]
    forwards = evaluate(
        model, batches(model), orders, {"others": donors(model)}, logits_bytes=BUDGET
    )
    backwards = evaluate(
        model, batches(model)[::-1], orders, {"others": donors(model)[::-1]}, logits_bytes=BUDGET
    )
    assert all(map(same, forwards, backwards))
    assert forwards[0].sequence.tolist() == [0, 2, 3, 4, 5, 7]


@families
def test_the_same_cells_again_give_the_same_bits(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    orders = constant(model, 0.5), by_position(model, 0.5), baseline(model)
    first = [one(model, order) for order in orders]
    again = [one(model, order) for order in orders]
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
