"""Canaries sing on every family, and fall silent on a model that is not what it seems."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from tests.workers import tiny
from tests.workers.holding import bits, hooks_left
from workers import hooks
from workers.ablation import AblationError
from workers.canaries import canaries
from workers.loading import Model
from workers.messages import SITES, Site


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_every_family_passes_at_both_sites_and_is_left_as_it_was(
    name: str, dtype: Literal["float32", "bfloat16", "float16"], home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    before = bits(model)
    found = canaries(model, tiny.batch(model, [1, 0, 5, 2]), sites=SITES)
    assert (found.sequences, found.hookpoints) == (2, 6)
    assert found.least > 0.1
    assert bits(model) == before
    assert hooks_left(model) == 0


def test_a_batch_of_one_sequence_will_do(home: Path) -> None:
    model = tiny.model("opt", home)
    assert canaries(model, tiny.batch(model, [3]), sites=["mlp_mid"]).sequences == 1


def deaf(model: Model, site: Site, layer: int) -> None:
    """Let one projection answer with nothing but its bias, whatever it is given."""
    projection = hooks.projections(model, site)[layer]

    def bias(_: nn.Module, __: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(out)

    projection.register_forward_hook(bias)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_whose_neurons_do_not_reach_the_head_is_named(
    site: Site, layer: int, home: Path
) -> None:
    model = tiny.model("mistral", home)
    deaf(model, site, layer)
    with pytest.raises(
        AblationError, match=rf"Layer {layer} at {site}: .* no hidden state changed"
    ):
        canaries(model, tiny.batch(model, [0, 1]), sites=SITES)


@contextmanager
def put_on(model: Model, site: Site, layer: int, factor: float) -> Iterator[None]:
    """Scale a projection's input wherever a hook of ours has just put something in."""
    real = hooks.replacing

    @contextmanager
    def replacing(model: Model, at: Site, change: hooks.Change) -> Iterator[None]:
        def scaled(number: int, x_STN: torch.Tensor) -> torch.Tensor:
            made_STN = change(number, x_STN)
            touched = made_STN is not x_STN and (number, at) == (layer, site)
            return made_STN * factor if touched else made_STN

        with real(model, at, scaled):
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "replacing", replacing)
        yield


@pytest.mark.parametrize("layer", [0, 2])
def test_a_hook_that_does_not_put_in_what_it_is_given_is_found_in_its_layer(
    layer: int, home: Path
) -> None:
    model = tiny.model("vit", home)
    with (
        put_on(model, "mlp_mid", layer, 1.001),
        pytest.raises(AblationError, match=f"Layer {layer} at mlp_mid: with every neuron replaced"),
    ):
        canaries(model, tiny.batch(model, [0, 1]), sites=SITES)


def test_a_fold_that_is_not_undone_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("opt", home)
    monkeypatch.setattr("workers.folding.Fold.__exit__", lambda *_: None)
    with pytest.raises(AblationError, match=r"Layer 0 at attn_pre_out: after .* unfolded"):
        canaries(model, tiny.batch(model, [0, 1]), sites=SITES)


def test_a_model_that_answers_otherwise_each_time_is_found(home: Path) -> None:
    model = tiny.model("opt", home)
    calls: list[None] = []

    def wander(_: nn.Module, __: object, out: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        return out + len(calls)

    model.module.get_submodule("model.decoder.layers.2.fc2").register_forward_hook(wander)
    with pytest.raises(AblationError, match=r"Several layers|Layer"):
        canaries(model, tiny.batch(model, [0, 1]), sites=SITES)
