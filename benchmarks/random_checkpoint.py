"""Writes a checkpoint of a real model's shape with random weights, for where no hub can be reached.

The configuration is the published one (`orchestrator/known_models`), the weights are the
library's own initialisation under a fixed seed, and the tokenizer is that of the bundled
models, whose 2,048 tokens are the first of a larger vocabulary. What such a model predicts
means nothing. What it takes to load, run, hold and count it is what the real one takes.

    opt-1.3b       bfloat16, 2.6 GB            roberta-large  float32, 1.4 GB
    vit-base       float32, 0.35 GB            timm-vit-base  the same, as timm saves it
    mistral-7b     bfloat16, 14.5 GB           mistral-7b-2   its full width, the first 2 layers

Run: python -m benchmarks.random_checkpoint NAME FOLDER
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from orchestrator.inspection import KNOWN
from workers import zoo


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A checkpoint that can be written."""

    known: str
    """File of `orchestrator/known_models`, or the name of a model of timm."""
    dtype: torch.dtype
    layers: int | None = None
    """The first layers alone; all when None."""
    tokenizer: str | None = None
    """Bundled model whose tokenizer goes with it; None for images."""


SHAPES = {
    "opt-1.3b": Shape(known="facebook--opt-1.3b", dtype=torch.bfloat16, tokenizer="opt"),
    "roberta-large": Shape(
        known="FacebookAI--roberta-large", dtype=torch.float32, tokenizer="roberta"
    ),
    "vit-base": Shape(known="google--vit-base-patch16-224", dtype=torch.float32),
    "timm-vit-base": Shape(known="vit_base_patch16_224", dtype=torch.float32),
    "mistral-7b": Shape(
        known="mistralai--Mistral-7B-v0.1", dtype=torch.bfloat16, tokenizer="mistral"
    ),
    "mistral-7b-2": Shape(
        known="mistralai--Mistral-7B-v0.1", dtype=torch.bfloat16, layers=2, tokenizer="mistral"
    ),
}
SPECIALS = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "unk_token_id": 3,
    "mask_token_id": 4,
}
"""Of the bundled tokenizer, so that the configuration agrees with it."""


def write(name: str, folder: Path) -> Path:
    """Write the checkpoint of a name to a folder that must not exist; return the folder.

    All of it is there or nothing: it is written beside and moved. Raises KeyError for a name
    that is not in `SHAPES`.
    """
    shape = SHAPES[name]
    beside = folder.with_name(f"{folder.name}.partly")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    torch.manual_seed(0)
    if name.startswith("timm-"):
        _timm(shape, beside)
    else:
        _transformers(shape, beside)
    beside.rename(folder)
    return folder


def _transformers(shape: Shape, folder: Path) -> None:
    plain = json.loads((KNOWN / f"{shape.known}.json").read_text())["config"]
    (architecture,) = plain["architectures"]
    loader = getattr(transformers, architecture)
    if shape.layers is not None:
        plain["num_hidden_layers"] = shape.layers
    if shape.tokenizer is not None:
        plain |= SPECIALS
        for file in zoo.folder(shape.tokenizer).glob("tokenizer*"):
            shutil.copy(file, folder / file.name)
    config = loader.config_class(**plain)
    torch.set_default_dtype(shape.dtype)
    try:
        module: nn.Module = loader(config)
    finally:
        torch.set_default_dtype(torch.float32)
    _spread(module)
    module.save_pretrained(folder)  # type: ignore[operator]  # transformers' own
    if shape.tokenizer is None:
        scaling = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
        size = {"height": plain["image_size"], "width": plain["image_size"]}
        told = {
            "image_processor_type": "ViTImageProcessor",
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "resample": 2,
            "size": size,
            **scaling,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(told, indent=2))


def _timm(shape: Shape, folder: Path) -> None:
    module = timm.create_model(shape.known, pretrained=False).to(shape.dtype)
    _spread(module)
    save_file(module.state_dict(), folder / "model.safetensors")
    cfg = module.pretrained_cfg
    keys = ("input_size", "mean", "std", "num_classes", "crop_pct", "interpolation")
    config = {
        "architecture": shape.known,
        "num_classes": cfg["num_classes"],
        "pretrained_cfg": {key: cfg[key] for key in keys},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _spread(module: nn.Module) -> None:
    """Draw biases too, which a library begins at zero: a neuron then has a mean and a peak."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.02)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: python -m benchmarks.random_checkpoint NAME FOLDER; {', '.join(SHAPES)}")
    print(write(sys.argv[1], Path(sys.argv[2])))
