"""Evaluation: what was held is proven, and what cannot be right is refused."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

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
)
from tests.workers.holding import hooked, hooks_left
from workers import hooks
from workers.ablation import AblationError
from workers.evaluate import evaluate
from workers.messages import Batch, CellOrder

families = pytest.mark.parametrize("name", tiny.NAMES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@families
def test_held_elements_are_the_donors_and_all_others_are_left_alone(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    order, seen = resampled(model, 0.5), []
    projection = hooks.projections(model, "attn_pre_out")[0]  # its input without us is known
    watch = projection.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    try:
        one(model, order)
    finally:
        watch.remove()
    inside = seen[1::2]  # of each batch: the donors' pass, then the cell's
    told_N = torch.zeros(model.facts.neurons, dtype=torch.bool)
    told_N[torch.from_numpy(order.held[0])] = True
    for x_STN, batch, donor in zip(inside, batches(model), donors(model), strict=True):
        shape = x_STN.shape[:2]
        attended = np.ones(shape, np.bool_) if batch.attended is None else batch.attended
        chosen_STN = torch.from_numpy(attended)[:, :, None] & told_N
        bare_STN, donor_STN = activations(model, batch)[0], activations(model, donor)[0]
        assert torch.equal(x_STN[chosen_STN], donor_STN[chosen_STN])
        assert torch.equal(x_STN[~chosen_STN], bare_STN[~chosen_STN])
        assert not torch.equal(bare_STN[chosen_STN], donor_STN[chosen_STN])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@families
def test_held_elements_are_their_positions_constants_and_all_others_are_left_alone(
    name: str, dtype: Literal["float32", "bfloat16", "float16"], home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    order, seen = by_position(model, 0.5), []
    assert order.values is not None
    order.values.setflags(write=False)  # as tables are that lie in a mapped file
    projection = hooks.projections(model, "attn_pre_out")[0]  # its input without us is known
    watch = projection.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    try:
        answer = one(model, order)
    finally:
        watch.remove()
    told_N, told = torch.zeros(model.facts.neurons, dtype=torch.bool), 0
    told_N[torch.from_numpy(order.held[0])] = True
    for x_STN, batch in zip(seen, batches(model), strict=True):
        sequences, positions = x_STN.shape[:2]
        bare_STN = activations(model, batch)[0]
        for s in range(sequences):
            for t in range(positions):
                if batch.attended is not None and not batch.attended[s, t]:
                    assert torch.equal(x_STN[s, t], bare_STN[s, t])
                    continue
                bucket = max(z for z, start in enumerate(STARTS) if start <= t)
                constant_N = torch.tensor(order.values[bucket, 0], dtype=model.dtype)
                assert torch.equal(x_STN[s, t, told_N], constant_N[told_N])
                assert torch.equal(x_STN[s, t, ~told_N], bare_STN[s, t, ~told_N])
                told += sum(len(held_H) for held_H in order.held)
    assert answer.told == answer.held == told


def test_the_donors_pass_is_made_once_for_each_batch_however_many_cells(
    home: Path,
) -> None:
    model = tiny.shared("opt", home)
    orders = [resampled(model, share, seed) for share in (0.2, 0.6, 1) for seed in (0, 1)]
    orders += [constant(model, 0.5), by_position(model, 0.5), baseline(model)]
    passes: list[int] = []
    watch = model.module.register_forward_hook(lambda *_: passes.append(1))
    try:
        named = {"others": donors(model), "nobody's": donors(model, seed=5)}
        evaluate(model, batches(model), orders, named, logits_bytes=BUDGET)
    finally:
        watch.remove()
    assert len(passes) == 3 * (1 + len(orders))


def test_a_loss_that_is_not_a_number_is_counted_and_not_raised(home: Path) -> None:
    model = tiny.model("mistral", home)
    model.module.get_submodule("model.layers.2.mlp.down_proj").weight.data[0, 0] = torch.nan
    answers = evaluate(
        model,
        batches(model),
        [baseline(model), *(make(model, 0.5) for make in (constant, by_position, resampled))],
        {"others": donors(model)},
        logits_bytes=BUDGET,
    )
    for answer in answers:
        assert np.array_equal(answer.nan, answer.tokens)
        assert not answer.loss.any()
        assert not answer.top1.any()


def test_donors_whose_activations_are_not_numbers_count_as_held(home: Path) -> None:
    model = tiny.model("mistral", home)
    model.module.get_submodule("model.layers.0.self_attn.v_proj").weight.data[0, 0] = torch.nan
    answer = one(model, resampled(model, 1.0))
    assert answer.held == answer.told > 0
    assert np.array_equal(answer.nan, answer.tokens)


def test_a_replacement_that_touched_nothing_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = tiny.shared("opt", home), hooks.replacing
    # 288 are equal all the same: every text begins with the same token, and attention is causal.
    # `recording` is made of `replacing`, so only what changes something is put out of action.
    monkeypatch.setattr(
        hooks,
        "replacing",
        lambda model, site, change: (
            nullcontext() if change.__name__ == "replace" else real(model, site, change)
        ),
    )
    with pytest.raises(AblationError, match=r"3744 activations were to be replaced .* 288 were"):
        one(model, resampled(model, 0.5))
    with pytest.raises(AblationError, match=r"3744 activations .* by constants; 0 were"):
        one(model, by_position(model, 0.5))


def test_a_hook_that_undoes_the_replacement_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = tiny.shared("vit", home), hooks.recording

    @contextmanager
    def undoing(*arguments: object) -> Iterator[None]:
        with hooked(model, lambda _, x_STN: x_STN + 1), real(*arguments):  # type: ignore[arg-type]
            yield

    given = donors(model)
    clean = [activations(model, donor) for donor in given]
    monkeypatch.setattr("workers.evaluate._activations", lambda *_: clean[0])
    monkeypatch.setattr(hooks, "recording", undoing)
    with pytest.raises(AblationError, match="0 were"):
        evaluate(
            model,
            batches(model)[:1],
            [resampled(model, 0.5)],
            {"others": given[:1]},
            logits_bytes=BUDGET,
        )


def test_an_error_half_way_leaves_the_model_as_it_was(
    home: Path,
) -> None:
    model = tiny.shared("mistral", home)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    orders = [make(model, 0.5) for make in (constant, by_position, resampled)]
    for passes in range(5):
        left = [True] * passes

        def fail(*_: object, left: list[bool] = left) -> None:
            if not left:
                raise MemoryError("no more")
            left.pop()

        watch = model.module.register_forward_hook(fail)
        try:
            with pytest.raises(MemoryError):
                evaluate(
                    model, batches(model), orders, {"others": donors(model)}, logits_bytes=BUDGET
                )
        finally:
            watch.remove()
        after = model.module.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert hooks_left(model) == 0


def test_what_does_not_fit_together_is_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    order, mine, others = resampled(model, 0.5), batches(model), donors(model)

    def refused(
        said: str,
        batches: list[Batch] = mine,
        order: CellOrder = order,
        others: list[Batch] = others,
        name: str = "others",
    ) -> None:
        with pytest.raises(ValueError, match=said):
            evaluate(model, batches, [order], {name: others}, logits_bytes=BUDGET)

    assert others[0].attended is not None
    narrow = Batch(
        **{f.name: getattr(others[0], f.name)[:, :-1] for f in fields(Batch)[1:]},
        sequence=others[0].sequence,
    )
    hidden = replace(others[0], attended=others[0].attended & False)
    refused("names the donors `others`; given are", name="theirs")
    refused("donors `others` of sequences", others=[narrow, *others[1:]])
    refused("donors `others` of sequences", others=[hidden, *others[1:]])
    refused("3 batches, and 2 of the donors", others=others[:-1])
    refused("12 sequences, 6 of them distinct", batches=mine + mine, others=others + others)
    refused("0 sequences", batches=[], others=[])
    refused("not ascending indices", order=replace(order, held=(np.array([-1]), *order.held[1:])))
    refused("held in 2 layers", order=replace(order, held=order.held[1:]))
    refused("neither values nor donors", order=replace(order, donors=None))
    refused("both values and donors", order=replace(constant(model, 0.5), donors="others"))


def test_constants_by_position_that_do_not_fit_are_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    order = by_position(model, 0.5)
    values_ZLN = order.values
    assert values_ZLN is not None

    def refused(said: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=said):
            one(model, replace(order, **changes))

    said = r"buckets that start at the positions .* Give one start for every bucket"
    refused(said, starts=(0, 1, 4))
    refused(said, starts=(1, 2, 4, 11))
    refused(said, starts=(0, 4, 4, 11))
    refused(said, starts=(0, 4, 1, 11))
    refused(said, starts=(-1, 0, 4, 11))
    refused(said, starts=(), values=values_ZLN[:0])
    refused(said, values=values_ZLN[0])
    refused(said, values=None, donors="others")
    refused(r"values have shape \(4, 3, 32\)", starts=None)
    refused(r"values have shape \(2, 32\); this model has 3 layers", values=values_ZLN[:, :2])
    refused("held in 2 layers", held=order.held[1:])

    neuron = order.held[1][0]
    values_ZLN[2, 1, neuron] = np.nan
    refused(f"Neuron {neuron} of layer 1 was to be held at nan from position 4 on")
