"""Do checkpoints of real sizes go through a whole sweep, and in the memory that was budgeted?

Each model has random weights and a published shape (`benchmarks.random_checkpoint`). A small
sweep of it, collection and evaluation, runs on Ray with one replica; one is held in two shards.
Told of each:

    replica     bytes that the plan budgets for one process of the replica
    peak        the largest resident memory of such a process: what it mapped of the
                checkpoint's file counts, as it does in the budget
    ratio       peak over replica; 0.85 to 1.15 is what the project asks for. Of a small model most
                is the process and its libraries, for which the budget has a constant
    seconds     of the run, Ray's start and the report included
    tokens/s    positions that were collected on or scored, over those seconds; every cell counts

A model whose result is in the folder is not run again, and neither is one whose run was broken
off: its sweep goes on. Needs 24 GB of disk for all checkpoints, which stay in the folder, and
memory for the largest (about 5 GB; two processes of 3 for the shards). On a GPU the peak is what
the device holds more than before, as nvidia-smi tells it, and the sweep is the paper's size
(`LONG`); models in more shards than there are GPUs are left out. None of that was run yet.

Run: python -m benchmarks.real_sizes FOLDER [MODEL…], models being those of `SWEEPS`. The last
line is the table as JSON.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import random_checkpoint
from orchestrator import budget, sweep
from orchestrator.cells import data_of
from orchestrator.plan import Plan

TEXT = {"stdlib": {"source": "zoo:text", "sequence_length": 128}}
FEW = {"collect": {"sequences": 16}, "evaluate": {"sequences": 8}}
SMALL: Mapping[str, Any] = {
    "methods": ["zero", "mean", "peak", "resample"],
    "fractions": [0.5],
    "seeds": 1,
    "statistics": {"shards": 2, "pilot_positions": 1024},
    "cluster": {"device": "cpu", "ready_seconds": 1800, "patience_seconds": 1800},
}
"""Of a sweep on a CPU: few short sequences."""
LONG: Mapping[str, Any] = {
    "methods": ["zero", "mean", "peak", "resample"],
    "seeds": 3,
    "data": {
        "stdlib": {
            "source": "zoo:text",
            "collect": {"split": "train", "tokens": 100_000},
            "evaluate": {"split": "test", "tokens": 20_000},
        }
    },
    "cluster": {"device": "cuda"},
}
"""Of a sweep on a GPU: 100,000 tokens collected and the paper's grid of 11 fractions."""
BATCH = 1024
"""Positions of a batch on a CPU: sixteen short sequences fill two."""
SWEEPS: Mapping[str, Mapping[str, Any]] = {
    "vit-base": {"dtype": "float32"},
    "timm-vit-base": {"dtype": "float32"},
    "roberta-large": {"dtype": "float32"},
    "opt-1.3b": {"dtype": "bfloat16"},
    "mistral-7b-2": {"dtype": "bfloat16", "shards": 2},
}
"""Settings of each model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one sweep showed; bytes and seconds."""

    model: str
    cells: int
    replica: int
    peak: int
    tokens: int
    """Positions collected on, and scored in every cell."""
    seconds: float

    @property
    def ratio(self) -> float:
        """Peak over what was budgeted."""
        return self.peak / self.replica


class Watch:
    """Looks at the replicas of this machine, and keeps the largest peak that it saw."""

    def __init__(self, *, gpu: bool) -> None:
        self.peak = 0
        self._before = _device_bytes() if gpu else 0
        self._gpu, self._over = gpu, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            if self._gpu:
                self.peak = max(self.peak, _device_bytes() - self._before)
                continue
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if b"ray::Actor" in (process / "cmdline").read_bytes():
                        self._note(process)
                except OSError:  # it ended meanwhile
                    continue

    def _note(self, process: Path) -> None:
        lines = (process / "status").read_text().splitlines()
        told = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        self.peak = max(self.peak, 1024 * int(told["VmHWM"]))


def _device_bytes() -> int:
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    return max((int(line) for line in said), default=0) * 2**20


def spec(name: str, folder: Path, *, gpu: bool) -> dict[str, Any]:
    """Return the sweep of a model whose checkpoint lies in a folder."""
    model = {"id": str(folder), **SWEEPS[name]}
    if gpu and "vit" not in name:
        return {**LONG, "name": name, "models": [model]}
    data: Mapping[str, Any] = {"images": {"source": str(folder.parent / "images"), **FEW}}
    if "vit" not in name:
        data = {key: {**value, **FEW} for key, value in TEXT.items()}
    return {
        **(LONG if gpu else SMALL),
        "name": name,
        "models": [model],
        "data": data,
        **({} if gpu else {"evaluation": {"batch_tokens": BATCH}}),
    }


def pictures(folder: Path, number: int = 48) -> None:
    """Write images of noise in two classes, where there are none yet."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(number):
        file = folder / "ab"[i % 2] / f"{i:03d}.png"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(file)


def measure(name: str, folder: Path, *, gpu: bool) -> Found:
    """Run a model's sweep with one replica, and return what was seen."""
    checkpoint = folder / name
    if not checkpoint.is_dir():
        random_checkpoint.write(name, checkpoint)
    pictures(folder / "images")
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec(name, checkpoint, gpu=gpu)))
    made = sweep.plan(file)
    (need,) = budget.budget(made).needs
    start = time.perf_counter()
    with Watch(gpu=gpu) as watch:
        ended = sweep.run(file, out=folder / f"{name}.run", workers=1)
    if ended.failures:
        sys.exit(f"{name}: {ended.failures[0].error} ({len(ended.failures)} tasks failed)")
    return Found(
        model=name,
        cells=len(made.cells),
        replica=need.replica_bytes,
        peak=watch.peak,
        tokens=_tokens(made),
        seconds=time.perf_counter() - start,
    )


def _tokens(made: Plan) -> int:
    ((name, ref),) = made.models.items()
    data = made.spec.data[data_of(made.spec, name)]
    collected, scored = (data.positions(r, ref.facts.window) for r in ("collect", "evaluate"))
    return collected + scored * len(made.cells)


def main(folder: Path, names: list[str]) -> None:
    """Measure what has not been measured, and print all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.is_available()
    rows = []
    for name in names:
        if gpu and SWEEPS[name].get("shards", 1) > torch.cuda.device_count():
            print(f"{name} is left out: it needs more GPUs than there are")
            continue
        kept = folder / f"{name}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(asdict(measure(name, folder, gpu=gpu))))
        rows.append(Found(**json.loads(kept.read_text())))
    print(
        f"{'model':<15} {'cells':>5} {'replica':>9} {'peak':>9} {'ratio':>6} {'s':>6} {'tok/s':>7}"
    )
    for row in rows:
        print(
            f"{row.model:<15} {row.cells:>5} {row.replica / 1e9:>6.2f} GB {row.peak / 1e9:>6.2f} GB"
            f" {row.ratio:>6.2f} {row.seconds:>6.0f} {row.tokens / row.seconds:>7.0f}"
        )
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    if len(sys.argv) < 2 or set(sys.argv[2:]) - set(SWEEPS):
        sys.exit(f"usage: python -m benchmarks.real_sizes FOLDER [MODEL…]; {', '.join(SWEEPS)}")
    main(Path(sys.argv[1]).absolute(), sys.argv[2:] or list(SWEEPS))
