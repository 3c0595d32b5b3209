"""Tiny random models of every family, as checkpoints on disk, and batches to feed them.

Weights are drawn so that every layer matters (no bias is zero, attention is not
uniform), otherwise a test of ablation could pass on a model that has nothing to
ablate. Mistral has fewer key than query heads and neurons that outnumber d_model.

Most tests look at the five families of `NAMES`, one of each kind; tests of what a row
says look at `EVERY`, whose other models have two layers. Between them they have what
families can differ in: one key-value head (Gemma), fused projections in both layouts,
norms between heads and projection (timm-eva-split), parallel blocks, capped logits.

Shapes: S sequences, T positions.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
import transformers
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

from workers.families import FAMILIES
from workers.loading import Model, facts, load
from workers.messages import NOT_SCORED, Batch, ModelRef

NAMES = ("opt", "mistral", "roberta", "vit", "timm-vit")
EVERY = (*NAMES, *(family.name for family in FAMILIES if family.name not in NAMES))
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
    if name in TIMM:
        _save_timm(path)
    else:
        _drawn(_build(name)).save_pretrained(path)  # type: ignore[operator]
        if name in ("vit", "deit"):
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


_SMALL = TEXT | {
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "max_position_embeddings": WINDOW,
}
_WIDE = _SMALL | {"num_key_value_heads": 2, "head_dim": 12}
_CAPPED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_inner": 48}),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {}),
    "gpt-j": ("GPTJForCausalLM", "GPTJConfig", {"n_inner": 48, "rotary_dim": 4}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 2}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _WIDE | {"num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        _WIDE | _CAPPED | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _WIDE | _CAPPED | {"final_logit_softcapping": 4.0},
    ),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _WIDE),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", {"num_key_value_heads": 2}),
    "phi": ("PhiForCausalLM", "PhiConfig", {}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {"num_key_value_heads": 2}),
    "bert": ("BertForMaskedLM", "BertConfig", {}),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", {"hidden_dim": 48}),
}
"""Class, class of its configuration, and what that says beside `_SMALL`."""


def _build(name: str) -> PreTrainedModel:
    if name in OTHERS:
        architecture, configuration, said = OTHERS[name]
        config = getattr(transformers, configuration)(**_SMALL | said)
        made: PreTrainedModel = getattr(transformers, architecture)(config)
        return made
    if name == "deit":
        return transformers.DeiTForImageClassification(
            transformers.DeiTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                image_size=SIZE,
                patch_size=4,
                num_labels=CLASSES,  # type: ignore[call-arg]
            )
        )
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


TIMM = {
    "timm-vit": "vit_tiny_patch16_224",
    "timm-eva": "eva02_tiny_patch14_224",
    "timm-eva-split": "eva02_base_patch16_clip_224",
}


def _save_timm(path: Path) -> None:
    arguments: dict[str, Any] = {
        "img_size": SIZE,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 3 if path.name == "timm-vit" else 2,
        "num_heads": 4,
    }
    name = TIMM[path.name]
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
            if ("norm" in name.lower() or "ln_" in name) and name.endswith("weight"):
                parameter.add_(1)
    return module
