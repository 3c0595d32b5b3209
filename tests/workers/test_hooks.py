"""What runs through a site is what the library computes, and the head is the library's head.

Shapes: S sequences, T positions, N neurons of one hookpoint, D width of the
head's input, M positions, V scores.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from tests.workers import tiny
from workers.building import attention
from workers.hooks import (
    hidden,
    logits,
    projections,
    recording,
    replacing,
    scores,
    without_head,
)
from workers.loading import Model, load
from workers.messages import Batch, Site

families = pytest.mark.parametrize("name", tiny.NAMES)
every = pytest.mark.parametrize("name", tiny.EVERY)
sites = pytest.mark.parametrize("site", ["attn_pre_out", "mlp_mid"])

PROJECTION = {  # written out again, so that a wrong row cannot agree with itself
    ("opt", "attn_pre_out"): "model.decoder.layers.{}.self_attn.out_proj",
    ("opt", "mlp_mid"): "model.decoder.layers.{}.fc2",
    ("mistral", "attn_pre_out"): "model.layers.{}.self_attn.o_proj",
    ("mistral", "mlp_mid"): "model.layers.{}.mlp.down_proj",
    ("roberta", "attn_pre_out"): "roberta.encoder.layer.{}.attention.output.dense",
    ("roberta", "mlp_mid"): "roberta.encoder.layer.{}.output.dense",
    ("vit", "attn_pre_out"): "vit.layers.{}.attention.o_proj",
    ("vit", "mlp_mid"): "vit.layers.{}.mlp.fc2",
    ("timm-vit", "attn_pre_out"): "blocks.{}.attn.proj",
    ("timm-vit", "mlp_mid"): "blocks.{}.mlp.fc2",
    ("gpt2", "attn_pre_out"): "transformer.h.{}.attn.c_proj",
    ("gpt2", "mlp_mid"): "transformer.h.{}.mlp.c_proj",
    ("gpt-neox", "attn_pre_out"): "gpt_neox.layers.{}.attention.dense",
    ("gpt-neox", "mlp_mid"): "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    ("gpt-j", "attn_pre_out"): "transformer.h.{}.attn.out_proj",
    ("gpt-j", "mlp_mid"): "transformer.h.{}.mlp.fc_out",
    ("phi", "attn_pre_out"): "model.layers.{}.self_attn.dense",
    ("phi", "mlp_mid"): "model.layers.{}.mlp.fc2",
    ("bert", "attn_pre_out"): "bert.encoder.layer.{}.attention.output.dense",
    ("bert", "mlp_mid"): "bert.encoder.layer.{}.output.dense",
    ("distilbert", "attn_pre_out"): "distilbert.transformer.layer.{}.attention.out_lin",
    ("distilbert", "mlp_mid"): "distilbert.transformer.layer.{}.ffn.lin2",
    ("deit", "attn_pre_out"): "deit.layers.{}.attention.o_proj",
    ("deit", "mlp_mid"): "deit.layers.{}.mlp.fc2",
    ("timm-eva", "attn_pre_out"): "blocks.{}.attn.proj",
    ("timm-eva", "mlp_mid"): "blocks.{}.mlp.fc2",
    ("timm-eva-split", "attn_pre_out"): "blocks.{}.attn.proj",
    ("timm-eva-split", "mlp_mid"): "blocks.{}.mlp.fc2",
}
for _like_llama in ("llama", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "olmo2", "phi3"):
    PROJECTION[_like_llama, "attn_pre_out"] = "model.layers.{}.self_attn.o_proj"
    PROJECTION[_like_llama, "mlp_mid"] = "model.layers.{}.mlp.down_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    home = tmp_path_factory.mktemp("tiny")
    loaded: dict[str, Model] = {}
    return lambda name: loaded.setdefault(name, tiny.model(name, home))


def batch_for(model: Model) -> Batch:
    return tiny.batch(model, [0, 1, 2, 5])


def library(model: Model, batch: Batch) -> Tensor:
    """Return the scores of a fresh model, by the library alone."""
    folder = model.ref.folder
    with torch.no_grad():
        if batch.attended is not None:
            architecture = json.loads((Path(folder) / "config.json").read_text())["architectures"]
            module = getattr(transformers, architecture[0]).from_pretrained(
                folder, attn_implementation=attention(model.module)
            )
            answer = module(
                input_ids=torch.from_numpy(batch.inputs),
                attention_mask=torch.from_numpy(batch.attended).long(),
            ).logits
            return torch.as_tensor(answer)
        pixels_SCHW = torch.from_numpy(batch.inputs.transpose(0, 3, 1, 2) / 255).float()
        seen_SCHW = (pixels_SCHW - 0.5) / 0.25
        if model.family.library == "timm":
            timms = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            return torch.as_tensor(timms(seen_SCHW))
        architecture = type(model.module).__name__
        module = getattr(transformers, architecture).from_pretrained(folder)
        return torch.as_tensor(module(pixel_values=seen_SCHW).logits)


@every
def test_the_head_on_hidden_states_is_bit_equal_to_the_librarys_own_forward(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)
    fed_STD = hidden(model, batch)
    assert fed_STD.ndim == 3
    whole = logits(model, batch)
    assert torch.equal(scores(model, fed_STD.flatten(0, 1)).view_as(whole), whole)
    assert torch.allclose(whole, library(model, batch), rtol=0, atol=1e-5)
    if model.pixels is None:  # no arithmetic of ours before the model
        assert torch.equal(whole, library(model, batch))


@families
def test_scores_of_a_few_positions_are_those_of_all_to_the_last_bits(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    fed_MD = hidden(model, batch_for(model)).flatten(0, 1)
    few = torch.arange(0, len(fed_MD), 3)
    assert torch.allclose(
        scores(model, fed_MD[few]), scores(model, fed_MD)[few], rtol=1e-6, atol=1e-6
    )


@families
def test_the_head_never_sees_a_position_that_nobody_asked_for(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    head = model.module.get_submodule(model.family.head)
    rows: list[int] = []
    handle = head.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    try:
        fed_STD = hidden(model, batch_for(model))
        assert rows == []
        scores(model, fed_STD[0, :2])
        assert rows == [min(2, fed_STD.shape[1])]
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["opt", "mistral", "roberta"])
def test_neither_padding_nor_its_token_nor_company_changes_a_sequence(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)
    assert batch.attended is not None
    together = hidden(model, batch)
    other = replace(batch, inputs=np.where(batch.attended, batch.inputs, 9))
    assert torch.equal(hidden(model, other)[batch.attended], together[batch.attended])
    for s, attended_T in enumerate(batch.attended):
        alone = replace(
            batch,
            sequence=batch.sequence[[s]],
            inputs=batch.inputs[[s]][:, attended_T],
            attended=batch.attended[[s]][:, attended_T],
            targets=batch.targets[[s]][:, attended_T],
        )
        assert torch.allclose(hidden(model, alone)[0], together[s, attended_T], atol=2e-5)


@every
@sites
def test_a_recording_is_what_each_projection_receives(
    name: str, site: Site, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)
    expected: list[Tensor] = []
    handles = [
        model.module.get_submodule(PROJECTION[name, site].format(layer)).register_forward_pre_hook(
            lambda module, args: expected.append(args[0].clone())
        )
        for layer in range(model.facts.layers)
    ]
    found: list[tuple[int, Tensor]] = []
    with recording(model, site, lambda layer, x_STN: found.append((layer, x_STN.clone()))):
        hidden(model, batch)
    for handle in handles:
        handle.remove()
    positions = model.facts.window
    neurons = projections(model, site)[0].in_features
    assert [layer for layer, _ in found] == list(range(model.facts.layers))
    for (_, x_STN), x in zip(found, expected, strict=True):
        assert x_STN.shape == (len(batch.sequence), positions, neurons)
        assert torch.equal(x_STN.reshape(x.shape), x)


def test_positions_that_a_layer_flattens_are_put_back(made: Callable[[str], Model]) -> None:
    model = made("opt")
    batch = batch_for(model)
    flat: list[tuple[int, ...]] = []
    handle = projections(model, "mlp_mid")[0].register_forward_pre_hook(
        lambda module, args: flat.append(tuple(args[0].shape))
    )
    kept: dict[int, Tensor] = {}
    with recording(model, "mlp_mid", lambda layer, x_STN: kept.update({layer: x_STN.clone()})):
        hidden(model, batch)
    handle.remove()
    S, T = batch.inputs.shape
    assert flat in ([(S * T, 48)], [(S, T, 48)])  # transformers 5 flattens; the hook must not care
    alone = replace(
        batch,
        sequence=batch.sequence[1:2],
        inputs=batch.inputs[1:2],
        attended=None if batch.attended is None else batch.attended[1:2],
        targets=batch.targets[1:2],
    )
    together = kept[0][1]
    with recording(model, "mlp_mid", lambda layer, x_STN: kept.update({layer: x_STN.clone()})):
        hidden(model, alone)
    assert torch.allclose(kept[0][0], together, atol=1e-5)


@families
@sites
def test_replacing_with_the_same_changes_no_bit(
    name: str, site: Site, made: Callable[[str], Model]
) -> None:
    model = made(name)
    before = logits(model, batch_for(model))
    with replacing(model, site, lambda layer, x_STN: x_STN.clone()):
        assert torch.equal(logits(model, batch_for(model)), before)


@families
def test_replacing_everything_by_zero_leaves_the_projections_bias(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)
    before = logits(model, batch)
    with replacing(model, "attn_pre_out", lambda layer, x_STN: torch.zeros_like(x_STN)):
        replaced = logits(model, batch)
    weights = [p.weight for p in projections(model, "attn_pre_out")]
    saved = [w.detach().clone() for w in weights]
    try:
        for weight in weights:
            weight.zero_()
        assert torch.allclose(replaced, logits(model, batch), atol=1e-6)
    finally:
        for weight, copy in zip(weights, saved, strict=True):
            weight.copy_(copy)
    assert not torch.allclose(replaced, before, atol=1e-2)
    assert torch.equal(logits(model, batch), before)


@families
def test_a_replacement_reaches_its_layer_alone_and_a_recording_inside_sees_it(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)

    def one_layer(layer: int, x_STN: Tensor) -> Tensor:
        return torch.full_like(x_STN, 3.0) if layer == 1 else x_STN

    def seen() -> list[Tensor]:
        kept: list[Tensor] = []
        with recording(model, "attn_pre_out", lambda layer, x_STN: kept.append(x_STN.clone())):
            hidden(model, batch)
        return kept

    before = seen()
    with replacing(model, "attn_pre_out", one_layer):
        after = seen()
    assert torch.equal(after[0], before[0])
    assert (after[1] == 3).all()
    assert not torch.allclose(after[2], before[2], atol=1e-3)  # later layers see changed inputs


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())


@families
def test_nothing_is_left_behind_even_after_an_exception(
    name: str, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)
    before, head = logits(model, batch), model.module.get_submodule(model.family.head)

    def fail(layer: int, x_STN: Tensor) -> NoReturn:
        raise ArithmeticError(layer)

    with pytest.raises(ArithmeticError), replacing(model, "attn_pre_out", fail):
        hidden(model, batch)
    with pytest.raises(ArithmeticError), recording(model, "mlp_mid", fail):
        hidden(model, batch)
    assert hooks_of(model.module) == 0
    assert model.module.get_submodule(model.family.head) is head
    assert torch.equal(logits(model, batch), before)


def test_every_pass_ends_in_the_same_module_instead_of_the_head(
    made: Callable[[str], Model],
) -> None:
    model, found = made("opt"), []
    path = model.family.head
    for _ in range(2):
        with without_head(model):
            found.append(model.module.get_submodule(path))
    assert found[0] is found[1]  # a compiled graph would not know another one
    assert model.module.get_submodule(path) not in found


def test_a_head_that_is_more_than_its_module_is_told_by_its_logits(
    made: Callable[[str], Model],
) -> None:
    model = made("mistral")
    batch = batch_for(model)

    def cap(module: nn.Module, args: object, answer: Any) -> Any:
        answer.logits = torch.tanh(answer.logits)
        return answer

    handle = model.module.register_forward_hook(cap)
    try:
        whole = logits(model, batch)
        assert not torch.allclose(
            scores(model, hidden(model, batch).flatten(0, 1)).view_as(whole), whole, atol=1e-3
        )
    finally:
        handle.remove()


@pytest.mark.parametrize("library_", ["transformers", "timm"])
def test_grey_images_are_fed_as_one_channel(library_: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape: dict[str, Any] = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "embed_dim": 16,
        "depth": 1,
    }
    if library_ == "timm":
        module = timm.create_model("vit_tiny_patch16_224", num_classes=4, num_heads=2, **shape)
        timm.models.save_for_hf(
            module,
            str(tmp_path / "grey"),
            model_args=shape | {"num_heads": 2},
            safe_serialization=True,
        )
        path = tmp_path / "grey" / "config.json"
        config = json.loads(path.read_text())
        config["pretrained_cfg"] |= {"mean": [0.1], "std": [0.3]}
        path.write_text(json.dumps(config))
    else:
        module = transformers.ViTForImageClassification(
            transformers.ViTConfig(
                image_size=8,
                patch_size=4,
                num_channels=1,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                num_labels=4,  # type: ignore[call-arg]
            )
        )
        module.save_pretrained(tmp_path / "grey")
        (tmp_path / "grey" / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.1], "image_std": [0.3]})
        )
    model = load(tiny.ref(tmp_path / "grey"))
    assert model.facts.image == (8, 8, 1)
    images_SHWC = rng.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    batch = Batch(
        sequence=np.arange(3), inputs=images_SHWC, attended=None, targets=np.zeros((3, 1), np.int64)
    )
    seen = torch.from_numpy((images_SHWC[:, None, :, :, 0] / 255 - 0.1) / 0.3).float()
    with torch.no_grad():
        answer = module.eval()(seen)
    expected = answer if library_ == "timm" else answer.logits
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)


@families
@sites
def test_what_is_put_in_can_be_learned_and_nothing_else_is_remembered(
    name: str, site: Site, made: Callable[[str], Model]
) -> None:
    model = made(name)
    batch = batch_for(model)
    neurons = projections(model, site)[0].in_features
    constant_N = torch.full((neurons,), 0.3, requires_grad=True)

    def put_in(layer: int, x_STN: Tensor) -> Tensor:
        return constant_N.expand_as(x_STN) if layer == 1 else x_STN

    def answer(grad: bool) -> Tensor:
        with replacing(model, site, put_in):
            return scores(model, hidden(model, batch, grad), grad)

    for outside in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with outside():
            logits_MV = answer(grad=True)
        constant_N.grad, value = None, logits_MV.square().mean()
        value.backward()
        assert constant_N.grad is not None
        size = constant_N.grad.norm().item()
        with torch.no_grad():
            constant_N += 1e-3 / size * constant_N.grad
            higher = answer(grad=False).square().mean()
            constant_N -= 1e-3 / size * constant_N.grad
        assert higher.item() - value.item() == pytest.approx(1e-3 * size, rel=0.1)
    assert not answer(grad=False).requires_grad
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_images_given_to_a_text_model_are_refused(made: Callable[[str], Model]) -> None:
    images = tiny.batch(made("vit"), [0])
    with pytest.raises(ValueError, match="is a text model and was given images"):
        hidden(made("opt"), images)
