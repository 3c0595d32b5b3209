"""Train the bundled vision transformer on the digits.

timm's `VisionTransformer` on images of 8 x 8 pixels in patches of 2 x 2: sixteen
patches and a class token. 1,297 images are few, so no batch is the same twice: every
image is turned, scaled and shifted a little, and two are mixed (mixup). AdamW, cosine,
and the running average of the weights over some five hundred steps is what ships.

    python -m training.vit workers/zoo --steps 4000 --log training/measured

Shapes: B images in a batch, C = 10 classes.
"""

import argparse
import json
import math
import sys
import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, one_hot

from training import digits
from training.gates import Measured, attention_zeroed

SEED = 0
ARCHITECTURE = "vit_tiny_patch16_224"  # the builder's name; the arguments say what is built
ARGUMENTS: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
}
MEAN, STD = 0.3052, 0.3762  # of the train split, pixels from 0 to 1
BATCH = 128
PEAK_RATE = 2e-3
AVERAGED = 0.998  # the share of the old average that is kept at a step
SMOOTHING = 0.05


def normalised(images: digits.Images) -> Tensor:
    """Return images as the model is fed them, shape (B, 1, 8, 8)."""
    return (torch.from_numpy(images).unsqueeze(1).float() / 255 - MEAN) / STD


def jittered(images_B188: Tensor, random: torch.Generator) -> Tensor:
    """Return the images turned by up to 15 degrees, scaled by up to 15 %, shifted by a pixel."""
    draw_B5 = 2 * torch.rand(len(images_B188), 5, generator=random) - 1
    angle_B = draw_B5[:, 0] * math.radians(15)
    scale_B2 = 1 + 0.15 * draw_B5[:, 1:3]
    shift_B2 = draw_B5[:, 3:] * 2 / 8
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    turn_B22 = torch.stack([cos_B, -sin_B, sin_B, cos_B], dim=1).view(-1, 2, 2)
    theta_B23 = torch.cat([turn_B22 * scale_B2[:, None], shift_B2[:, :, None]], dim=2)
    grid = affine_grid(theta_B23, list(images_B188.shape), align_corners=False)
    empty = -MEAN / STD  # outside is as empty as a pixel with a count of 0
    return grid_sample(images_B188 - empty, grid, align_corners=False) + empty


def mixed(
    images_B188: Tensor, target_BC: Tensor, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the batch mixed with itself in another order."""
    share = float(random.beta(0.3, 0.3))
    order = torch.from_numpy(random.permutation(len(images_B188)))
    return (
        share * images_B188 + (1 - share) * images_B188[order],
        share * target_BC + (1 - share) * target_BC[order],
    )


@torch.no_grad()
def measure(model: nn.Module, images: Tensor, labels: Tensor) -> Measured:
    """Measure the model on the held-out images."""
    model.eval()
    logits_BC = model(images)
    with attention_zeroed(model):
        ablated_BC = model(images)
    model.train()
    return Measured(
        cross_entropy=round(float(cross_entropy(logits_BC, labels)), 4),
        top1=round(float((logits_BC.argmax(1) == labels).float().mean()), 4),
        ablated=round(float(cross_entropy(ablated_BC, labels)), 4),
        scored=len(labels),
    )


def save(model: nn.Module, folder: Path) -> None:
    """Save a folder that `timm.create_model("local-dir:...", pretrained=True)` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 10,
        "num_features": ARGUMENTS["embed_dim"],
        "global_pool": "token",
        "model_args": ARGUMENTS,
        "label_names": [str(digit) for digit in range(10)],
        "pretrained_cfg": {
            "tag": "digits",
            "input_size": [1, 8, 8],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [MEAN],
            "std": [STD],
            "num_classes": 10,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    weights = {name: tensor.contiguous() for name, tensor in sorted(model.state_dict().items())}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)


def train(zoo: Path, steps: int) -> tuple[nn.Module, Measured]:
    """Return the averaged model and what it reaches on the held-out images."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random, torch_random = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    images, labels = digits.read(zoo / "digits" / "digits.csv.gz", "train")
    images_I188, labels_I = normalised(images), torch.from_numpy(labels)
    model = timm.create_model(ARCHITECTURE, **ARGUMENTS).train()
    compiled = torch.compile(model, dynamic=False)
    averaged = deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=0.05)
    for step in range(steps):
        chosen = torch.from_numpy(random.integers(0, len(labels_I), size=BATCH))
        shaken_B188 = jittered(images_I188[chosen], torch_random)
        target_BC = one_hot(labels_I[chosen], 10).float()
        images_B188, target_BC = mixed(shaken_B188, target_BC, random)
        loss = cross_entropy(compiled(images_B188), target_BC, label_smoothing=SMOOTHING)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        warm, cooled = min(1.0, (step + 1) / 200), 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = PEAK_RATE * warm * cooled
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for old, new in zip(averaged.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 1 - AVERAGED)
    held_out, truth = digits.read(zoo / "digits" / "digits.csv.gz", "test")
    return averaged, measure(averaged, normalised(held_out), torch.from_numpy(truth))


def main() -> None:
    """Train the vision transformer and log what it reaches on held-out images."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="folder of the measurements")
    arguments = parser.parse_args()
    started = time.monotonic()
    model, measured = train(arguments.zoo, arguments.steps)
    save(model, arguments.zoo / "vit")
    minutes = round((time.monotonic() - started) / 60, 2)
    line = json.dumps({"step": arguments.steps, "minutes": minutes, **asdict(measured)})
    arguments.log.mkdir(parents=True, exist_ok=True)
    (arguments.log / "vit.jsonl").write_text(line + "\n")
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
