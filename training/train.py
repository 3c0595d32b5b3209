"""Train one of the bundled text models.

Two recipes, one seed, a fixed number of steps.

    causal   Muon on the matrices inside the layers (0.02), AdamW on the rest (6e-3);
             8 windows of 128; 50 steps of warm-up, then constant, then linear to
             zero over the last 40 %
    masked   AdamW on everything (1e-3, beta 0.9 and 0.98, weight decay 0.01),
             matrices drawn from N(0, 0.02); 32 windows of 64; 500 steps of warm-up,
             constant to 60 % of the time, then linear to zero; the head applied to
             the masked positions alone. It sits on a plateau for some 4,000 steps.

The gradient's norm is clipped at 1. The forward pass runs in bfloat16 where that is
safe (autocast), compiled, with the weights kept and saved in float32; measuring is
plain float32. One thread: the numbers depend on how many there are.

    python -m training.train roberta workers/zoo --steps 24000 --log training/measured
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel

from training.gates import Measured, measure
from training.models import BUILD, drawn
from training.windows import (
    IGNORED,
    PAD,
    WINDOW,
    Tokens,
    corrupt,
    epoch,
    fixed_windows,
    read_corpus,
    tokens_of,
)

SEED = 0
EVERY = 1000  # steps between two measurements, and two saves
BATCH = {"opt": 8, "mistral": 8, "roberta": 32}  # windows
WARM_UP = {"opt": 50, "mistral": 50, "roberta": 500}  # steps


def rate(step: int, steps: int, warm_up: int) -> float:
    """Return the share of the full learning rate at a step."""
    return min(1.0, (step + 1) / warm_up, (steps - step) / (0.4 * steps))


def optimizers(name: str, model: PreTrainedModel) -> list[Optimizer]:
    """Return the optimizers of a recipe, each with its full learning rate."""
    if name == "roberta":
        return [AdamW(model.parameters(), 1e-3, betas=(0.9, 0.98), weight_decay=0.01)]
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or ".layers." not in n]
    return [
        Muon(inside, 0.02, adjust_lr_fn="original"),
        AdamW(rest, 6e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def batches(name: str, documents: list[Tokens], random: np.random.Generator) -> Iterator[Tokens]:
    """Yield batches for ever, one epoch after another, each cut afresh."""
    size = BATCH[name]
    while True:
        tokens_WL = epoch(documents, WINDOW[name], random, closed=name == "roberta")
        for start in range(0, len(tokens_WL) - size + 1, size):
            yield tokens_WL[start : start + size]


def scored_logits(name: str, model: PreTrainedModel) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function from (input, attention, scored) to logits at the scored positions."""
    body = model.get_submodule("roberta" if name == "roberta" else "model")
    head = model.get_submodule("lm_head")

    @torch.compile(dynamic=False)
    def hidden(input_BL: Tensor, attention_BL: Tensor) -> Tensor:
        output: Tensor = body(input_BL, attention_mask=attention_BL)[0]
        return output

    def logits(input_BL: Tensor, attention_BL: Tensor, scored_BL: Tensor) -> Tensor:
        output: Tensor = head(hidden(input_BL, attention_BL)[scored_BL])
        return output

    return logits


def save(model: PreTrainedModel, folder: Path) -> None:
    """Save a checkpoint that anyone may read."""
    model.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def train(name: str, zoo: Path, steps: int, report: Callable[[int, Measured], None]) -> None:
    """Train a model, measuring and saving it as it goes."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    masked = name == "roberta"

    corpus = read_corpus(zoo / "text" / "corpus.jsonl.xz")
    train_documents = tokens_of(zoo / name, [d for d in corpus if d.split == "train"])
    test_documents = tokens_of(zoo / name, [d for d in corpus if d.split == "test"])
    test_WL = fixed_windows(test_documents, WINDOW[name], closed=masked)

    model = drawn(BUILD[name]()).train()
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # under autocast the faster one at this size
    logits = scored_logits(name, model)
    used = optimizers(name, model)
    full = [group["lr"] for one in used for group in one.param_groups]

    for step, tokens_BL in zip(range(steps), batches(name, train_documents, random), strict=False):
        if masked:
            input_BL, target_BL = map(torch.from_numpy, corrupt(tokens_BL, random))
        else:
            input_BL = torch.from_numpy(tokens_BL)
            target_BL = torch.full_like(input_BL, IGNORED)
            target_BL[:, :-1] = input_BL[:, 1:].where(input_BL[:, 1:] != PAD, IGNORED)
        scored_BL = target_BL != IGNORED
        with torch.autocast("cpu", torch.bfloat16):
            logits_SV = logits(input_BL, (input_BL != PAD).long(), scored_BL)
        torch.autograd.backward(cross_entropy(logits_SV.float(), target_BL[scored_BL]))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        groups = [group for one in used for group in one.param_groups]
        for group, learning_rate in zip(groups, full, strict=True):
            group["lr"] = learning_rate * rate(step, steps, WARM_UP[name])
        for one in used:
            one.step()
            one.zero_grad()
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            report(step + 1, measure(model, test_WL, masked=masked))
            model.set_attn_implementation(attention)
            save(model, zoo / name)
            model.set_attn_implementation("eager")


def main() -> None:
    """Train a text model and log what it reaches on held-out text."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=sorted(BUILD))
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="folder of the measurements")
    arguments = parser.parse_args()
    started = time.monotonic()
    arguments.log.mkdir(parents=True, exist_ok=True)
    path = arguments.log / f"{arguments.name}.jsonl"
    path.write_text("")

    def report(step: int, measured: Measured) -> None:
        minutes = round((time.monotonic() - started) / 60, 2)
        line = json.dumps({"step": step, "minutes": minutes, **asdict(measured)})
        with path.open("a") as log:
            log.write(line + "\n")
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    train(arguments.name, arguments.zoo, arguments.steps, report)


if __name__ == "__main__":
    main()
