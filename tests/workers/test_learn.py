"""Learned constants: never worse than the best guess, as good as can be where that is known.

Shapes: L layers, N neurons of one hookpoint, S sequences, T positions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from tests.workers import tiny
from tests.workers.holding import bits, hooks_left
from workers import hooks
from workers.descent import Descent
from workers.learn import Learned, Place, Search, Starts, learn
from workers.learning_cost import memory_bytes
from workers.loading import Model
from workers.messages import NOT_SCORED, Batch, Site

families = pytest.mark.parametrize("name", tiny.NAMES)
BUDGET = 4 * tiny.VOCABULARY * 50  # rows of logits: several chunks of the larger batches

Values = list[NDArray[np.float64]]


def asked(model: Model, sequences: list[int]) -> Batch:
    """Return a batch whose targets are what the bare model says, so that holding neurons hurts."""
    batch = tiny.batch(model, sequences)
    said = hooks.logits(model, batch).argmax(dim=-1).numpy().reshape(batch.targets.shape)
    return replace(batch, targets=np.where(batch.targets == NOT_SCORED, NOT_SCORED, said))


def fit(model: Model) -> list[Batch]:
    return [asked(model, list(range(a, b))) for a, b in ((0, 3), (3, 5), (5, 14), (14, 30))]


def check(model: Model) -> list[Batch]:
    return [asked(model, list(range(a, b))) for a, b in ((30, 34), (34, 60))]


def place(model: Model, share: float, site: Site = "attn_pre_out", seed: int = 0) -> Place:
    rng, neurons = np.random.default_rng(seed), model.facts.neurons_at(site)
    held = tuple(
        np.sort(rng.permutation(neurons)[: round(share * neurons)])
        for _ in range(model.facts.layers)
    )
    return Place(site=site, held=held)


def filled(model: Model, places: Sequence[Place], value: float) -> Values:
    layers = model.facts.layers
    return [np.full((layers, model.facts.neurons_at(p.site)), value) for p in places]


def learned(
    model: Model,
    *sets: Sequence[Place],
    parts: tuple[list[Batch], list[Batch]] | None = None,
    starts: Starts | None = None,
    scales: float | Values = 0.5,
    **asked: Any,
) -> Learned:
    """Learn for these held sets; what is not given is what most tests want."""
    if starts is None:
        starts = {"zero": filled(model, sets[0], 0.0), "far": filled(model, sets[0], 1.5)}
    if isinstance(scales, float):
        scales = filled(model, sets[0], scales)
    usual = {"steps": 12, "lr": 0.1, "every": 3, "seed": 1, "logits_bytes": BUDGET}
    fed = parts or (fit(model), check(model))
    return learn(model, *fed, sets, starts, scales, Search(**usual | asked))


def same(a: Learned, b: Learned) -> bool:
    """Equal in every bit."""
    told = ("start", "step", "steps", "stopped", "start_loss", "check_loss", "fit_loss")
    equal = all(getattr(a, name) == getattr(b, name) for name in told)
    return equal and all(map(np.array_equal, a.values, b.values))


@contextmanager
def plainly(
    model: Model, places: Sequence[Place], values: Sequence[NDArray[Any]]
) -> Iterator[None]:
    """Put constants in by torch's own hooks."""
    handles = []
    for p, value_LN in zip(places, values, strict=True):
        for layer, projection in enumerate(hooks.projections(model, p.site)):

            def before(
                _: nn.Module,
                args: tuple[Tensor],
                held: NDArray[np.int64] = p.held[layer],
                value_N: NDArray[Any] = value_LN[layer],
            ) -> tuple[Tensor]:
                x = args[0].clone()
                x[..., torch.from_numpy(held)] = torch.from_numpy(value_N[held]).to(x.dtype)
                return (x,)

            handles.append(projection.register_forward_pre_hook(before))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def loss(
    model: Model, batches: Sequence[Batch], places: Sequence[Place], values: Sequence[NDArray[Any]]
) -> float:
    """Return the mean cross-entropy by the library's own uncut forward pass."""
    total, tokens = 0.0, 0
    for batch in batches:
        with plainly(model, places, values), torch.inference_mode():
            logits = hooks.logits(model, batch)
            logits = logits.double() if logits.ndim == 3 else logits.double()[:, None]
        targets = torch.from_numpy(batch.targets)
        total += nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=NOT_SCORED
        ).item()
        tokens += int((batch.targets != NOT_SCORED).sum())
    return total / tokens


# --- what is found ----------------------------------------------------------------------------


@families
@pytest.mark.parametrize("sites", [("attn_pre_out",), ("mlp_mid",), ("attn_pre_out", "mlp_mid")])
def test_learning_loses_less_than_the_best_start_and_says_how_much(
    name: str, sites: tuple[Site, ...], home: Path
) -> None:
    model = tiny.shared(name, home)
    places = [place(model, 0.6, site) for site in sites]
    starts = {"zero": filled(model, places, 0.0), "far": filled(model, places, 1.5)}
    found = learned(model, places, starts=starts, steps=30, every=10)
    assert found.step > 0
    assert found.check_loss < found.start_loss
    assert found.fit_loss < loss(model, fit(model), places, starts[found.start]) - 0.01
    # Losses are those of the library with plain hooks.
    begun = {start: loss(model, check(model), places, values) for start, values in starts.items()}
    assert found.start_loss == pytest.approx(min(begun.values()), abs=1e-5)
    for part, said in ((fit, found.fit_loss), (check, found.check_loss)):
        assert said == pytest.approx(loss(model, part(model), places, found.values), abs=1e-5)


def test_the_best_start_is_taken_and_the_first_of_equals(home: Path) -> None:
    model = tiny.shared("opt", home)
    places = [place(model, 0.6)]
    values = {
        name: filled(model, places, at) for name, at in (("far", 3.0), ("a", 0.0), ("b", 0.0))
    }
    found = learned(model, places, starts=values, scales=1.0, steps=0, every=1, seed=0)
    assert (found.start, found.step, found.steps, found.stopped) == ("a", 0, 0, False)
    assert found.start_loss == found.check_loss
    assert found.start_loss == pytest.approx(
        loss(model, check(model), places, values["a"]), abs=1e-5
    )
    assert_array_equal(found.values[0], values["a"][0])


def test_a_rate_that_only_does_harm_leaves_the_start(home: Path) -> None:
    model = tiny.shared("opt", home)
    found = learned(model, [place(model, 0.6)], lr=1000.0)
    assert found.step == 0
    assert found.steps == 12
    assert found.check_loss == found.start_loss
    assert_array_equal(found.values[0], filled(model, [place(model, 0.6)], 0.0)[0])


def test_what_is_learned_comes_close_to_the_optimum_that_another_method_finds(home: Path) -> None:
    model = tiny.shared("vit", home)
    places = [Place(site="attn_pre_out", held=(*(np.arange(0),) * 2, np.arange(32)))]
    batch = tiny.batch(model, list(range(30)))
    search = Descent(model, [places], filled(model, places, 1.0), BUDGET)

    def at(last_N: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value_LN = np.stack([np.zeros(32), np.zeros(32), last_N])
        search.begin([value_LN])
        slopes = search.slopes(batch, 0)
        assert slopes is not None
        return loss(model, [batch], places, [value_LN]), slopes[0][2].double().numpy() / 30

    best = minimize(at, np.zeros(32), jac=True, method="L-BFGS-B", options={"maxiter": 100})
    found = learned(
        model,
        places,
        parts=([batch], [batch]),
        starts={"zero": filled(model, places, 0.0)},
        scales=1.0,
        steps=200,
        lr=0.3,
        every=50,
        seed=0,
    )
    assert found.start_loss - best.fun > 0.02  # there is something to gain
    assert found.check_loss - best.fun < 0.02 * (found.start_loss - best.fun)


@families
def test_slopes_are_what_a_small_change_of_a_constant_does_to_the_loss(
    name: str, home: Path
) -> None:
    model = tiny.model(name, home)
    model.module.double()  # finite differences need the digits
    places = [place(model, 0.5), place(model, 0.4, "mlp_mid")]
    rng = np.random.default_rng(0)
    start = [rng.normal(0, 0.3, values.shape) for values in filled(model, places, 0.0)]
    scales = [rng.uniform(0.5, 2, values.shape) for values in start]
    batch = tiny.batch(model, [0, 1, 2])
    tokens = int((batch.targets != NOT_SCORED).sum())
    search = Descent(model, [places], scales, BUDGET)
    search.begin(start)
    slopes = search.slopes(batch, 0)
    assert slopes is not None
    for p in range(2):
        for layer in range(model.facts.layers):
            for neuron in rng.choice(places[p].held[layer], 2, replace=False):
                ends = []
                for step in (1e-3, -1e-3):
                    moved = [values.copy() for values in start]
                    moved[p][layer, neuron] += step * scales[p][layer, neuron]
                    ends.append(loss(model, [batch], places, moved) * tokens)
                expected = (ends[0] - ends[1]) / 2e-3
                # Some norms and turns are in float32 whatever the model's dtype is.
                assert slopes[p][layer, neuron].item() == pytest.approx(
                    expected, rel=2e-3, abs=2e-3
                )
        held = np.zeros(start[p].shape, np.bool_)
        for layer, held_H in enumerate(places[p].held):
            held[layer, held_H] = True
        assert (slopes[p].numpy()[~held] == 0).all()


def test_steps_are_those_of_torchs_adam_with_a_falling_rate(home: Path) -> None:
    model = tiny.shared("opt", home)
    places = [place(model, 1.0)]
    search = Descent(model, [places], filled(model, places, 1.0), BUDGET)
    search.begin(filled(model, places, 0.0))
    twin = torch.zeros((3, 32), requires_grad=True)
    adam = torch.optim.Adam([twin], lr=0.1)
    for step in range(5):
        slopes = torch.from_numpy(np.random.default_rng(step).normal(size=(3, 32))).float()
        rate = 0.1 * (1 - step / 5)
        search.move(0, [slopes], rate)
        twin.grad = slopes.clone()
        adam.param_groups[0]["lr"] = rate
        adam.step()
    assert_allclose(search.values()[0], twin.detach().double().numpy(), atol=1e-6)


# --- what is left alone -----------------------------------------------------------------------


@families
def test_the_model_is_left_as_it_was(name: str, home: Path) -> None:
    model = tiny.shared(name, home)
    before = bits(model)
    learned(model, [place(model, 0.5), place(model, 0.5, "mlp_mid")])
    assert bits(model) == before
    assert hooks_left(model) == 0
    assert not model.module.training
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())


def test_a_neuron_that_is_not_held_keeps_the_value_of_the_start(home: Path) -> None:
    model = tiny.shared("mistral", home)
    held = place(model, 0.5)
    start = [np.random.default_rng(0).normal(size=(3, 48))]
    found = learned(
        model, [held], starts={"start": start}, scales=0.3, steps=6, lr=0.05, every=1, seed=0
    )
    assert found.step > 0
    for layer, held_H in enumerate(held.held):
        moved = found.values[0][layer] != start[0][layer]
        assert set(np.flatnonzero(moved)) == set(held_H.tolist())


def test_the_scale_is_how_far_a_step_goes_and_a_neuron_that_never_varies_still_moves(
    home: Path,
) -> None:
    model = tiny.shared("opt", home)
    places = [place(model, 1.0)]
    scale_LN = np.full((3, 32), 2.0)
    scale_LN[:, 5] = 0.5
    scale_LN[:, 6], scale_LN[:, 7] = 0.0, np.nan
    search = Descent(model, [places], [scale_LN], BUDGET)
    search.begin(filled(model, places, 0.0))
    slopes = search.slopes(fit(model)[0], 0)
    assert slopes is not None
    search.move(0, slopes, 0.1)
    went = np.abs(search.values()[0])
    assert_allclose(went[:, :5], 0.2, rtol=1e-3)
    assert_allclose(went[:, 5], 0.05, rtol=1e-3)
    floor = 0.01 * np.nan_to_num(scale_LN).mean()
    assert_allclose(went[:, 6:8], 0.1 * floor, rtol=1e-3)


# --- the same again ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mistral", "timm-vit"])
def test_the_same_call_gives_the_same_bits_and_another_seed_gives_others(
    name: str, home: Path
) -> None:
    model = tiny.shared(name, home)
    places = [place(model, 0.6), place(model, 0.3, "mlp_mid")]
    once = learned(model, places)
    torch.manual_seed(12345)
    with torch.inference_mode():  # as a caller might be
        hooks.hidden(model, fit(model)[0])
        assert same(once, learned(model, places))
    assert not same(once, learned(model, places, seed=2))


def test_how_many_logits_live_at_once_changes_rounding_at_most(home: Path) -> None:
    model = tiny.shared("roberta", home)
    places = [place(model, 0.6)]
    few, many = (learned(model, places, logits_bytes=b) for b in (BUDGET // 7, 1 << 20))
    assert_allclose(few.values[0], many.values[0], atol=1e-3)
    assert few.check_loss == pytest.approx(many.check_loss, abs=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_learns_too(dtype: Any, home: Path) -> None:
    model = tiny.model("mistral", home, dtype)
    found = learned(model, [place(model, 0.6)], steps=30)
    assert not found.stopped
    assert found.check_loss < found.start_loss
    wide = tiny.shared("mistral", home)
    places = [place(model, 0.6)]
    begun = filled(model, places, 0.0 if found.start == "zero" else 1.5)
    gain = loss(wide, check(wide), places, begun) - loss(wide, check(wide), places, found.values)
    assert gain == pytest.approx(found.start_loss - found.check_loss, abs=0.1)
    assert gain > 0


# --- many held sets ---------------------------------------------------------------------------


def test_shared_constants_are_judged_by_the_mean_over_the_held_sets(home: Path) -> None:
    model = tiny.shared("opt", home)
    sets = [[place(model, 0.5, seed=seed)] for seed in range(3)]
    found = learned(
        model, *sets, starts={"zero": filled(model, sets[0], 0.0)}, steps=30, every=10, seed=0
    )
    assert found.step > 0
    assert found.check_loss < found.start_loss
    means = [loss(model, check(model), places, found.values) for places in sets]
    assert found.check_loss == pytest.approx(np.mean(means), abs=1e-5)
    never = set(range(32)) - set(np.concatenate([places[0].held[0] for places in sets]).tolist())
    assert (found.values[0][0, sorted(never)] == 0).all()


def test_a_neuron_that_a_step_does_not_hold_does_not_coast(home: Path) -> None:
    model = tiny.shared("opt", home)
    sets = [[place(model, 0.5, seed=seed)] for seed in range(2)]
    search = Descent(model, sets, filled(model, sets[0], 1.0), BUDGET)
    search.begin(filled(model, sets[0], 0.0))
    slopes = [torch.ones(3, 32)]
    search.move(0, slopes, 0.1)
    before = search.values()[0]
    search.move(1, slopes, 0.1)
    after = search.values()[0]
    for layer in range(3):
        other = sets[1][0].held[layer]
        alone = np.setdiff1d(np.arange(32), other)
        assert_array_equal(after[layer, alone], before[layer, alone])
        assert (after[layer, other] < before[layer, other]).all()


def test_a_held_set_given_twice_is_that_set_alone(home: Path) -> None:
    model = tiny.shared("opt", home)
    places = [place(model, 0.6)]
    assert same(learned(model, places, places), learned(model, places))


# --- when it goes wrong -----------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_learning_at_the_best_so_far(home: Path) -> None:
    model = tiny.shared("opt", home)
    calls = 0
    head = model.module.get_submodule(model.family.head)

    def spoil(_: nn.Module, __: object, out: Tensor) -> Tensor | None:
        nonlocal calls
        calls += out.requires_grad
        return out * float("nan") if out.requires_grad and calls > 20 else None

    handle = head.register_forward_hook(spoil)
    try:
        found = learned(model, [place(model, 0.6)], every=1, steps=50)
    finally:
        handle.remove()
    assert found.stopped
    assert 0 < found.step <= found.steps < 50
    assert np.isfinite(found.values[0]).all()
    assert found.check_loss == pytest.approx(
        loss(model, check(model), [place(model, 0.6)], found.values), abs=1e-5
    )


def test_a_start_whose_loss_is_no_number_is_passed_over_unless_all_are(home: Path) -> None:
    model = tiny.model("mistral", home, "float16")
    places = [place(model, 1.0, "mlp_mid")]
    beyond = filled(model, places, 1e300)
    zero = filled(model, places, 0.0)
    found = learned(model, places, starts={"beyond": beyond, "zero": zero}, steps=1)
    assert found.start == "zero"
    with pytest.raises(ValueError, match=r"None of the starts \['beyond'\] has a finite loss"):
        learned(model, places, starts={"beyond": beyond})


def test_what_does_not_fit_together_is_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    some = place(model, 0.5)
    nothing = Place(site="attn_pre_out", held=(np.arange(0),) * 3)
    with pytest.raises(ValueError, match="Held set 0 holds no neuron"):
        learned(model, [nothing])
    with pytest.raises(ValueError, match="each once"):
        learned(model, [some, some])
    with pytest.raises(ValueError, match=r"scales at attn_pre_out have shape \(3, 31\)"):
        learned(model, [some], scales=[np.ones((3, 31))])
    with pytest.raises(ValueError, match="finite and 0 or more"):
        learned(model, [some], scales=[np.full((3, 32), -1.0)])
    with pytest.raises(ValueError, match="1 sites, 2 arrays of scales"):
        learned(model, [some], scales=[np.ones((3, 32))] * 2)
    with pytest.raises(ValueError, match="holds no row of 61 scores"):
        learned(model, [some], logits_bytes=100)
    unscored = [replace(b, targets=np.full_like(b.targets, NOT_SCORED)) for b in fit(model)]
    with pytest.raises(ValueError, match="The check part has 4 batches and no scored position"):
        learned(model, [some], parts=(fit(model), unscored))


# --- memory -----------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_backward_pass_keeps_is_estimated_from_above(
    name: str, dtype: Any, home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    places = [place(model, 0.5), place(model, 0.5, "mlp_mid")]
    search = Descent(model, [places], filled(model, places, 1.0), 1 << 20)
    search.begin(filled(model, places, 0.0))
    batch = tiny.batch(model, list(range(0, 48, 3)))  # all of them of full length
    weights = {p.untyped_storage().data_ptr() for p in model.module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert search.slopes(batch, 0) is not None
    positions = len(batch.inputs) * model.facts.window
    estimate = memory_bytes(model.facts, positions, dtype)
    found = sum(kept.values())
    assert found <= estimate
    assert estimate < 4 * found
