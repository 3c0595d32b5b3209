"""What a row names is found on the module, is what it should be, and is measured right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.workers import tiny
from workers import zoo
from workers.checkpoint import CheckpointError
from workers.hooks import hidden, recording
from workers.loading import Model, load
from workers.messages import Batch
from workers.parts import at, known, sites, values

INTO_MLP = {
    "opt": ["fc1"],
    "mistral": ["mlp.gate_proj", "mlp.up_proj"],
    "roberta": ["intermediate.dense"],
    "vit": ["mlp.fc1"],
    "timm-vit": ["mlp.fc1"],
}
ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}


def bundled(name: str) -> Model:
    return load(tiny.ref(zoo.folder(name)))


def random_batch(model: Model) -> Batch:
    draw = np.random.default_rng(0)
    if model.facts.image is not None:
        shape, attended = (3, *model.facts.image), None
        inputs = draw.integers(0, 256, shape, dtype=np.uint8)
        targets = np.zeros((3, 1), np.int64)
    else:
        inputs = draw.integers(0, model.facts.vocabulary, (3, 9))
        attended, targets = np.ones((3, 9), np.bool_), inputs
    return Batch(sequence=np.arange(3), inputs=inputs, attended=attended, targets=targets)


@pytest.mark.parametrize(
    ("origin", "name"),
    [("zoo", name) for name in zoo.NAMES] + [("tiny", name) for name in tiny.NAMES],
)
def test_the_neurons_of_mlp_mid_are_what_the_named_activation_makes(
    origin: str, name: str, tmp_path: Path
) -> None:
    model = bundled(name) if origin == "zoo" else tiny.model(name, tmp_path)
    known_facts, batch = model.facts, random_batch(model)
    made: list[list[Tensor]] = [[] for _ in range(known_facts.layers)]
    for layer, part in enumerate(at(model.module, model.family.layers)):
        for path in INTO_MLP[model.family.name]:
            at(part, path).register_forward_hook(lambda *it, to=made[layer]: to.append(it[2]))
    seen: dict[int, Tensor] = {}
    with recording(model, "mlp_mid", lambda layer, x_STN: seen.update({layer: x_STN.clone()})):
        hidden(model, batch)

    positions = known_facts.window if batch.attended is None else 9
    assert sorted(seen) == list(range(known_facts.layers))
    for layer, x_STN in seen.items():
        assert x_STN.shape == (3, positions, known_facts.d_mlp)
        first, *partner = made[layer]
        expected = ACTIVATIONS[known_facts.activation](first)
        for gate in partner:
            expected = expected * gate
        torch.testing.assert_close(x_STN, expected.reshape(x_STN.shape))


@pytest.mark.parametrize("name", tiny.NAMES)
def test_values_have_a_row_for_every_neuron_of_a_head_that_has_its_own(
    name: str, tmp_path: Path
) -> None:
    model = tiny.shared(name, tmp_path)
    found = values(model.module, model.family)
    own = model.facts.kv_heads * model.facts.d_head
    assert [p.out_features for p in found] == [own * (3 if name == "timm-vit" else 1)] * 3


def test_values_that_heads_cannot_share_equally_are_refused(tmp_path: Path) -> None:
    model = tiny.model("mistral", tmp_path)
    for layer in at(model.module, "model.layers"):
        layer.self_attn.v_proj = nn.Linear(32, 36)  # 3 groups of 4 heads
    with pytest.raises(CheckpointError, match=r"36 rows .* 4 heads of 12 neurons cannot share"):
        known(model.module, model.family, "this")


def test_a_fused_projection_that_is_not_three_thirds_is_refused(tmp_path: Path) -> None:
    model = tiny.model("timm-vit", tmp_path)
    for block in at(model.module, "blocks"):
        block.attn.qkv = nn.Linear(32, 97)
    with pytest.raises(CheckpointError, match="97 rows"):
        known(model.module, model.family, "this")


def test_layers_of_several_widths_are_refused(tmp_path: Path) -> None:
    model = tiny.model("opt", tmp_path)
    at(model.module, "model.decoder.layers.1").fc2 = nn.Linear(40, 32)
    with pytest.raises(CheckpointError, match=r"`fc2` .* not of one shape.*\(32, 40\), \(32, 48\)"):
        sites(model.module, model.family, "mlp_mid")


def test_values_made_by_something_else_are_refused(tmp_path: Path) -> None:
    model = tiny.model("vit", tmp_path)
    family = replace(model.family, values="layernorm_before")
    with pytest.raises(CheckpointError, match="is a LayerNorm, where a plain Linear was expected"):
        values(model.module, family)
