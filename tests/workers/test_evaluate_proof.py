"""Evaluation: what was held is proven, and what cannot be right is refused."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.workers import tiny
from tests.workers.cells import (
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
    steps,
)
from tests.workers.holding import Held, hooked, hooks_left
from workers import hooks
from workers.ablation import AblationError
from workers.evaluate import evaluate
from workers.messages import SITES, Batch, ByPosition, CellOrder, Donors

families = pytest.mark.parametrize("name", tiny.NAMES)


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
    told_N[torch.from_numpy(only(order).held[0])] = True
    mine = batches(model)
    for x_STN, batch, donor in zip(inside, mine, others(model, mine), strict=True):
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
    steps(order).setflags(write=False)  # as tables are that lie in a mapped file
    projection = hooks.projections(model, "attn_pre_out")[0]  # its input without us is known
    watch = projection.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    try:
        answer = one(model, order)
    finally:
        watch.remove()
    told_N, told = torch.zeros(model.facts.neurons, dtype=torch.bool), 0
    told_N[torch.from_numpy(only(order).held[0])] = True
    for x_STN, batch in zip(seen, batches(model), strict=True):
        sequences, positions = x_STN.shape[:2]
        bare_STN = activations(model, batch)[0]
        for s in range(sequences):
            for t in range(positions):
                if batch.attended is not None and not batch.attended[s, t]:
                    assert torch.equal(x_STN[s, t], bare_STN[s, t])
                    continue
                bucket = max(z for z, start in enumerate(STARTS) if start <= t)
                constant_N = torch.tensor(steps(order)[bucket, 0], dtype=model.dtype)
                assert torch.equal(x_STN[s, t, told_N], constant_N[told_N])
                assert torch.equal(x_STN[s, t, ~told_N], bare_STN[s, t, ~told_N])
                told += sum(len(held_H) for held_H in only(order).held)
    assert answer.told == answer.held == told


def test_what_cells_share_is_computed_once_for_each_batch_however_many_cells(
    home: Path,
) -> None:
    model = tiny.shared("opt", home)
    orders = [resampled(model, share, seed) for share in (0.2, 0.6, 1) for seed in (0, 1)]
    orders += [held_at(model, "joint", sites=SITES), held_at(model, "per_neuron", sites=SITES)]
    orders += [constant(model, 0.5), by_position(model, 0.5)]
    one(model, constant(model, 1.0))  # whether passes can be shared is found out once
    one(model, constant(model, 0.5), kl=True)
    passes: list[int] = []
    watch = model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        evaluate(model, batches(model), orders, donors(model), logits_bytes=BUDGET)
        without = len(passes)
        cells = [*orders, baseline(model)]
        evaluate(model, batches(model), cells, donors(model), logits_bytes=BUDGET, kl=True)
    finally:
        watch.remove()
    assert without == 3 * (1 + 3 + len(orders))  # `others` have one pass, `several` three
    assert len(passes) - without == without + 3  # of the bare model, which is the baseline too


def test_a_loss_that_is_not_a_number_is_counted_and_not_raised(home: Path) -> None:
    model = tiny.model("mistral", home)
    model.module.get_submodule("model.layers.2.mlp.down_proj").weight.data[0, 0] = torch.nan
    answers = evaluate(
        model,
        batches(model),
        [baseline(model), *(held_at(model, kind) for kind in KINDS)],
        donors(model),
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
    # `recording` is made of `replacing`, so only what changes something is put out of action.
    monkeypatch.setattr(
        hooks,
        "replacing",
        lambda model, site, change: (
            nullcontext() if change.__name__ == "replace" else real(model, site, change)
        ),
    )
    for kind, said in [("joint", "Donated"), ("by_position", "ByPosition"), ("noise", "Noise")]:
        with pytest.raises(AblationError, match=rf"3744 activations .* \({said}\); 0 were"):
            one(model, held_at(model, kind))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "constant"])
def test_a_hook_that_undoes_the_replacement_is_refused(
    kind: str, alpha: float, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = tiny.shared("vit", home), hooks.recording
    order = held_at(model, kind, alpha=alpha)
    given = {
        (name, "attn_pre_out"): [activations(model, fed[0]) for fed in theirs.passes]
        for name, theirs in donors(model).items()
    }

    @contextmanager
    def undoing(*arguments: object) -> Iterator[None]:
        with hooked(model, lambda _, x_STN: x_STN + 1), real(*arguments):  # type: ignore[arg-type]
            yield

    monkeypatch.setattr("workers.evaluate.donated", lambda *_: given)
    monkeypatch.setattr(hooks, "recording", undoing)
    mine = batches(model)[:1]
    theirs = needed([order], donors(model, mine))
    with pytest.raises(AblationError, match=r"; \d+ were, as counted"):
        evaluate(model, mine, [order], theirs, logits_bytes=BUDGET)


def test_an_error_half_way_leaves_the_model_as_it_was(
    home: Path,
) -> None:
    model = tiny.shared("mistral", home)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    orders = [held_at(model, kind) for kind in ("constant", "by_position", "joint", "noise")]
    orders += [held_at(model, "constant", sites=SITES, alpha=0.5)]
    given = needed(orders, donors(model))
    for passes in range(8):
        left = [True] * passes

        def fail(*_: object, left: list[bool] = left) -> None:
            if not left:
                raise MemoryError("no more")
            left.pop()

        watch = model.module.register_forward_hook(fail)
        try:
            with pytest.raises(MemoryError):
                evaluate(model, batches(model), orders, given, logits_bytes=BUDGET, kl=True)
        finally:
            watch.remove()
        after = model.module.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert hooks_left(model) == 0


def test_what_does_not_fit_together_is_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    order, mine = resampled(model, 0.5), batches(model)
    theirs = others(model, mine)
    (hold,) = order.holds

    def refused(
        said: str,
        batches: list[Batch] = mine,
        order: CellOrder = order,
        others: Sequence[Batch] = theirs,
        name: str = "others",
    ) -> None:
        given = {name: Donors(passes=(tuple(others),))}
        with pytest.raises(ValueError, match=said):
            evaluate(model, batches, [order], given, logits_bytes=BUDGET)

    assert theirs[0].attended is not None
    narrow = Batch(
        sequence=theirs[0].sequence,
        inputs=theirs[0].inputs[:, :-1],
        attended=theirs[0].attended[:, :-1],
        targets=theirs[0].targets[:, :-1],
    )
    hidden = replace(theirs[0], attended=theirs[0].attended & False)
    refused("names the donors `others`; given are", name="theirs")
    refused("donors `others` of sequences", others=[narrow, *theirs[1:]])
    refused("donors `others` of sequences", others=[hidden, *theirs[1:]])
    refused(r"3 batches, and \[2\] of the donors", others=theirs[:-1])
    refused("12 sequences, 6 of them distinct", batches=mine + mine, others=theirs + theirs)
    refused("0 sequences", batches=[], others=[])
    wrong = (np.array([-1]), *hold.held[1:])
    refused("not ascending indices", order=instead(order, held=wrong))
    refused("held in 2 layers", order=instead(order, held=hold.held[1:]))
    said = r"holds neurons at the sites \['attn_pre_out', 'attn_pre_out'\]"
    refused(said, order=replace(order, holds=(hold, hold)))
    mixed = (hold, *held_at(model, "noise", sites=SITES[1:]).holds)
    refused(r"by \['Donated', 'Noise'\]", order=replace(order, holds=mixed))
    for share in (0.0, -0.5, 1.5, np.nan):
        refused("share of .*; it must be above 0 and at most 1", order=replace(order, share=share))


def test_constants_by_position_that_do_not_fit_are_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    order = by_position(model, 0.5)
    hold, values_ZLN = only(order), steps(order)

    def refused(
        said: str,
        starts: tuple[int, ...] = STARTS,
        values: NDArray[np.float64] = values_ZLN,
        held: Held = hold.held,
    ) -> None:
        value = ByPosition(values=values, starts=starts)
        with pytest.raises(ValueError, match=said):
            one(model, instead(order, value=value, held=held))

    said = r"buckets that start at the positions .* Give one start for every bucket"
    refused(said, starts=(0, 1, 4))
    refused(said, starts=(1, 2, 4, 11))
    refused(said, starts=(0, 4, 4, 11))
    refused(said, starts=(0, 4, 1, 11))
    refused(said, starts=(-1, 0, 4, 11))
    refused(said, starts=(), values=values_ZLN[:0])
    refused(said, values=values_ZLN[0])
    refused(r"values have shape \(2, 32\); this model has 3 layers", values=values_ZLN[:, :2])
    refused("held in 2 layers", held=hold.held[1:])

    neuron = hold.held[1][0]
    values_ZLN[2, 1, neuron] = np.nan
    refused(f"Neuron {neuron} of layer 1 was to be held at nan from position 4 on")
