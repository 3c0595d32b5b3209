"""Tiny random models of every family, as checkpoints on disk, and batches to feed them.

Weights are drawn so that every layer matters (no bias is zero, attention is not
uniform), otherwise a test of ablation could pass on a model that has nothing to
ablate. Mistral has fewer key than query heads and neurons that outnumber d_model.

Shapes: S sequences, T positions.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    ViTConfig,
    ViTForImageClassification,
)

from workers.loading import Model, facts, load
from workers.messages import NOT_SCORED, Batch, ModelRef

NAMES = ("opt", "mistral", "roberta", "vit", "timm-vit")
VOCABULARY, WINDOW, CLASSES, SIZE = 61, 16, 7, 16
BOS, PAD, EOS, MASK = 0, 1, 2, 3

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": BOS,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
}


def folder(name: str, parent: Path) -> Path:
    """Write the tiny model of a family below `parent` and return its folder."""
    path = parent / name
    if name == "timm-vit":
        _save_timm(path)
    else:
        _drawn(_build(name)).save_pretrained(path)  # type: ignore[operator]
        if name == "vit":
            said = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
            (path / "preprocessor_config.json").write_text(json.dumps(said))
    return path


def ref(
    path: Path,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    *,
    basis: int | None = None,
) -> ModelRef:
    """Return how to hold the checkpoint in a folder on a CPU with one thread."""
    return ModelRef(
        name=f"tiny:{path.name}",
        folder=str(path),
        dtype=dtype,
        device="cpu",
        threads=1,
        facts=_facts(path),
        basis=basis,
    )


_facts = cache(facts)


def model(
    name: str,
    parent: Path,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    *,
    basis: int | None = None,
) -> Model:
    """Write and load the tiny model of a family."""
    path = parent / name
    return load(ref(path if path.is_dir() else folder(name, parent), dtype, basis=basis))


@cache
def shared(name: str, parent: Path) -> Model:
    """Return a model in float32 that is loaded once: for tests that leave it as it was."""
    return model(name, parent)


def batch(of: Model, sequences: NDArray[np.int64] | list[int], *, seed: int = 0) -> Batch:
    """Return a batch of these sequence numbers; each row depends on its number and the seed alone.

    Texts are of different lengths, so the batch is padded, and only its first is full.
    """
    number_S = np.asarray(sequences, dtype=np.int64)
    rows = [np.random.default_rng((seed, int(number))) for number in number_S]
    if of.facts.modality == "image":
        return Batch(
            sequence=number_S,
            inputs=np.stack(
                [row.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for row in rows]
            ),
            attended=None,
            targets=np.stack([row.integers(0, CLASSES, 1) for row in rows]),
        )
    inputs_ST = np.full((len(rows), WINDOW), PAD, dtype=np.int64)
    targets_ST = np.full((len(rows), WINDOW), NOT_SCORED, dtype=np.int64)
    attended_ST = np.zeros((len(rows), WINDOW), dtype=np.bool_)
    for s, row in enumerate(rows):
        length = WINDOW - 3 * (int(number_S[s]) % 3)
        inputs_ST[s, :length] = row.integers(4, VOCABULARY, length)
        inputs_ST[s, 0] = BOS
        attended_ST[s, :length] = True
        targets_ST[s, 1 : length - 1] = row.integers(4, VOCABULARY, length - 2)
    return Batch(sequence=number_S, inputs=inputs_ST, attended=attended_ST, targets=targets_ST)


def _build(name: str) -> PreTrainedModel:
    if name == "opt":
        return OPTForCausalLM(
            OPTConfig(**TEXT, word_embed_proj_dim=32, ffn_dim=48, max_position_embeddings=WINDOW)
        )
    if name == "mistral":
        return MistralForCausalLM(
            MistralConfig(
                **TEXT,
                num_key_value_heads=2,
                head_dim=12,
                intermediate_size=48,
                max_position_embeddings=WINDOW,
            )
        )
    if name == "roberta":
        return RobertaForMaskedLM(
            RobertaConfig(
                **TEXT,
                intermediate_size=48,
                max_position_embeddings=WINDOW + 2,
                type_vocab_size=1,
            )
        )
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=SIZE,
            patch_size=4,
            num_labels=CLASSES,  # type: ignore[call-arg]
        )
    )


def _save_timm(path: Path) -> None:
    arguments: dict[str, Any] = {
        "img_size": SIZE,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 4,
    }
    name = "vit_tiny_patch16_224"
    module = _drawn(timm.create_model(name, pretrained=False, num_classes=CLASSES, **arguments))
    config = {
        "architecture": name,
        "num_classes": CLASSES,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, SIZE, SIZE],
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "num_classes": CLASSES,
        },
    }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), path / "model.safetensors")


def _drawn(module: nn.Module) -> nn.Module:
    """Draw every parameter anew, in the order of their names: gains near 1, the rest wide."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            parameter.normal_(0, 0.2, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)
    return module
