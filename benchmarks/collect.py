"""What does it cost to collect statistics, beside running the model?

For each model and dtype the same batches are run in three ways, one after the other, several
times over, on one thread:

    bare      the forward pass up to the head, nothing looked at
    collect   the same with every attention neuron counted into the windows of a pilot
    field     as it is usually done: all activations are kept, then each neuron's are given to
              `torch.histc` with 100 bins between its extremes, and the fullest bin is found

On a CPU the clock is the process's own CPU time, which others on the machine disturb least; on a
GPU it is wall time, the device waited for. `collect_over_bare` is the median over repetitions of
the ratio of two neighbours in time, with the quartiles beside; `fastest` is the ratio of the
fastest of each, which a busy machine distorts least; `added_ns` is what collecting adds per
activation. Batches are of 2048 positions, as sweeps feed them by default; windows are placed
beforehand, once per data set.

Memory: bytes that outlive the batch, per 100,000 tokens; and the peak resident memory of a process
of its own that collects 1e5 or 1e6 different tokens of the bundled OPT.

Weights of the large shapes are random: times do not depend on them.

Run: python -m benchmarks.collect [MODEL…], models being zoo:opt, opt-125m, vit-base and, on a GPU,
opt-1.3b. The last line is the table as JSON: `collect_over_bare` per model and dtype.

Shapes: S sequences, T positions, P positions of all of a layer's batches, N neurons.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from workers.checkpoint import Pixels
from workers.collect import collect, pilot
from workers.hooks import hidden, recording
from workers.loading import Model, adopt
from workers.messages import NOT_SCORED, Batch

ZOO = Path(__file__).parents[1] / "workers" / "zoo" / "opt"
POSITIONS = 2048
"""Fed together."""
WINDOW = 512
"""Positions of one sequence, where the model takes as many."""
RUNS = [  # model, device, batches, repetitions
    ("zoo:opt", "cpu", 8, 15),
    ("opt-125m", "cpu", 1, 7),
    ("vit-base", "cpu", 1, 7),
    ("opt-1.3b", "cuda", 8, 15),
]
FIELD_BINS = 100
SEED = 0


def built(name: str, dtype: torch.dtype, device: str) -> Model:
    """Return a model by name, with the bundled or with random weights."""
    torch.manual_seed(SEED)
    pixels = None
    module: nn.Module
    if name == "zoo:opt":
        module = AutoModelForCausalLM.from_pretrained(ZOO, local_files_only=True)
    elif name == "vit-base":
        module = ViTForImageClassification(ViTConfig())
        pixels = Pixels(scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3)
    elif name == "opt-125m":
        module = OPTForCausalLM(OPTConfig())
    else:
        large = {"hidden_size": 2048, "word_embed_proj_dim": 2048, "ffn_dim": 8192}
        module = OPTForCausalLM(OPTConfig(**large, num_hidden_layers=24, num_attention_heads=32))
    return adopt(module.to(device, dtype).requires_grad_(False), pixels=pixels)


def batches(model: Model, count: int) -> list[Batch]:
    """Return batches of random tokens or pixels, without padding."""
    rng = np.random.default_rng(SEED)
    facts = model.facts
    length = min(facts.window, WINDOW)
    sequence_S = np.arange(POSITIONS // length)
    if facts.image is not None:
        shape = (sequence_S.size, *facts.image)
        made = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]
        none = np.full((sequence_S.size, 1), NOT_SCORED)
        return [
            Batch(sequence=sequence_S, inputs=pixels, attended=None, targets=none)
            for pixels in made
        ]
    shape = (sequence_S.size, length)
    return [
        Batch(
            sequence=sequence_S,
            inputs=rng.integers(4, facts.vocabulary, shape),
            attended=np.ones(shape, np.bool_),
            targets=np.full(shape, NOT_SCORED),
        )
        for _ in range(count)
    ]


def field(model: Model, fed: Sequence[Batch]) -> int:
    """Keep all activations and find each neuron's fullest bin; return the bytes that were kept."""
    kept: list[list[Tensor]] = [[] for _ in range(model.facts.layers)]

    def keep(layer: int, values_STN: Tensor) -> None:
        kept[layer].append(values_STN.flatten(0, 1).clone())

    with recording(model, "attn_pre_out", keep):
        for batch in fed:
            hidden(model, batch)
    held = sum(part.numel() * part.element_size() for parts in kept for part in parts)
    for parts in kept:
        for values_P in torch.cat(parts).float().T:
            torch.histc(values_P, bins=FIELD_BINS).argmax()
    return held


def seconds(work: Callable[[], object], device: str) -> float:
    """Return how long one call takes."""
    if device == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def row(model: Model, count: int, repeats: int) -> dict[str, float]:
    """Return what a model takes in the three ways, over so many batches."""
    device = model.device.type
    fed = batches(model, count)
    windows = pilot(model, fed, seed=SEED)

    def bare() -> None:
        for batch in fed:
            hidden(model, batch)

    def counted() -> None:
        collect(model, fed, windows=windows)

    counted()  # once for nothing: the first run finds cold caches
    pairs = [(seconds(bare, device), seconds(counted, device)) for _ in range(repeats)]
    ratios = [after / before for before, after in pairs]
    least, middle, most = statistics.quantiles(ratios, n=4)
    bare_s = statistics.median(before for before, _ in pairs)
    field_s = seconds(lambda: field(model, fed), device)
    positions = sum(batch.inputs.shape[0] for batch in fed) * min(model.facts.window, WINDOW)
    activations = positions * model.facts.layers * model.facts.neurons
    return {
        "collect_over_bare": round(middle, 3),
        "low": round(least, 3),
        "high": round(most, 3),
        "fastest": round(min(after for _, after in pairs) / min(before for before, _ in pairs), 3),
        "bare_ns": round(bare_s / activations * 1e9, 1),
        "added_ns": round((middle - 1) * bare_s / activations * 1e9, 1),
        "field_over_bare": round(field_s / bare_s, 2),
        "table_bytes": 4 * windows.first.size * (windows.bins + 6),
        "field_bytes": field(model, fed[:1]) * 100_000 * len(fed) // positions,
    }


def collect_tokens(tokens: int) -> None:
    """Collect so many different tokens of the bundled OPT, and print the peak memory in bytes."""
    model = built("zoo:opt", torch.float32, "cpu")
    fed = batches(model, tokens // POSITIONS)
    collect(model, fed, windows=pilot(model, fed[:32], seed=SEED))
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))


def resident(tokens: int) -> int:
    """Return the peak resident bytes of a process of its own that collects so many tokens."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.collect", "tokens", str(tokens)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[-1])


def machine() -> dict[str, object]:
    """Say what this ran on, without a name."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cuda = torch.cuda.is_available()
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(names),
        "avx512_bf16": any("avx512_bf16" in line for line in lines),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main(chosen: list[str]) -> None:
    """Print the table, then the same as one line of JSON."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, device, count, repeats in RUNS:
        if (chosen and name not in chosen) or (device == "cuda" and not torch.cuda.is_available()):
            continue
        for dtype in ("float32", "bfloat16") if device == "cpu" else ("bfloat16",):
            said = row(built(name, getattr(torch, dtype), device), count, repeats)
            found.setdefault(name, {})[dtype] = said
            print(f"{name:9s} {dtype:8s} {device:4s} ", end="")
            print("  ".join(f"{key} {value}" for key, value in said.items()), flush=True)
    memory = {}
    if not chosen:
        few, many = resident(100_000), resident(1_000_000)
        memory = {"1e5": few, "1e6": many, "growth": round(many / few - 1, 4)}
        print(f"peak resident bytes, zoo:opt: {memory}")
    ratios = {
        name: {dtype: said["collect_over_bare"] for dtype, said in by.items()}
        for name, by in found.items()
    }
    rows = {"rows": found, "resident_bytes": memory, "machine": machine()}
    print(json.dumps({"collect_over_bare": ratios, **rows}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["tokens"]:
        torch.set_num_threads(1)
        collect_tokens(int(sys.argv[2]))
    else:
        main(sys.argv[1:])
