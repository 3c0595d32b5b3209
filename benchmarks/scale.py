"""A thousand GPUs, on paper and in virtual time: what takes the time, the bytes and the money.

The sweep is the paper's (eight methods, eleven fractions, ten masks, 100,000 evaluated tokens) on
four models of 70 billion parameters, eight GPUs a replica, with 1e9 collected tokens. Its plan is
a real one, of made-up checkpoints of published shapes. The scheduler is the real one too; the
cluster is the tests' (`tests.orchestrator.virtual`), in virtual time. A replica is a machine.

What a task takes is arithmetic over `Measured`, which our own benchmarks found, all of them on
CPUs, and `Assumed`, which nobody here measured. No run on an H100 or H200 exists. So seconds are
only as good as `Assumed.flops`; bytes and requests are counted from the plan and from which
machine did what.

    as it is    data are prepared by the sweep itself
    prepared    data were prepared before, so the clock begins with GPUs at work
    spot        prepared, and a GPU is lost every `spot_hours`
    hub         prepared, and machines download weights, as many at once as `orchestrator.pulls` lets

Printed for each number of GPUs and way: makespan; the share of time that replicas were at tasks;
GPU-hours that were lost with processes; the driver's processor time, of all and at its busiest (every
replica's call ends as fast as calls of constants do); bytes and requests of the object store; cost.

    python -m benchmarks.scale [--gpus 8 64 512 4096] [--tokens 1e9] [--ways ...]

The last line is JSON.
"""

import argparse
import heapq
import json
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator import calls, partials, plan, pulls
from orchestrator.plan import Plan
from orchestrator.scheduler import Scheduler
from orchestrator.spec import parse
from orchestrator.tasks import Failure, Task
from tests.orchestrator import planned
from tests.orchestrator.virtual import Mishaps, VirtualPool
from workers.histogram import FixedCounts, empty
from workers.messages import ModelFacts
from workers.windows import Windows

RANKS, LAYERS, D_MODEL, HEADS, D_HEAD, BINS, SHARDS = 8, 80, 8192, 64, 128, 256, 64
ROWS = LAYERS * HEADS * D_HEAD
EVALUATED = 100_000
WAYS = ("as it is", "prepared", "spot", "hub")
SHAPES = {
    "llama-65b": (64, 22016, 32000),
    "llama-2-70b": (8, 28672, 32000),
    "llama-3-70b": (8, 28672, 128256),
    "qwen2.5-72b": (8, 29568, 152064),
}
"""Heads with keys, neurons of the MLP, tokens: from their published `config.json`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on one core of the project's machine; reports are named."""

    prepare: float = 2.1e5
    """Tokens prepared a second (2026-11-24-scale)."""
    table: float = 46e-9
    """Seconds to read a token of a data table (the same)."""
    role: float = 15e-9
    """Seconds to take one role's rows of such a table, for each of its tokens (the same)."""
    counting: float = 1.05
    """Time of a pass that counts over that of a bare one (2026-11-23-collect)."""
    cell: float = 1.03
    """The same of a cell of constants (2026-11-23-evaluate)."""
    donated: float = 1.08
    """The same of a resampled one."""
    merging: float = 2.0e9
    """Bytes of parts that a merge reads a second (2026-11-23-reduce: 456 MB in 0.23 s)."""
    estimating: float = 20e-6
    """Seconds for a neuron's statistics (2026-11-23-jackknife: 308 µs for 17 estimates)."""
    event: float = 1 / 18_500
    """Driver's seconds for an event (2026-11-23-schedule)."""
    waiting: float = 1.0e-6
    """Driver's seconds in a turn for each answer that is awaited (2026-11-24-scale)."""
    table_bytes: float = 2.6
    """Of a token in a data table's file, and in memory `table_memory` (the same)."""
    table_memory: float = 8.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """What nobody here measured; the page says where it is from."""

    flops: float = 4e14
    """Of a GPU a second in bf16: 40 % of what an H100's data sheet says (989e12, dense)."""
    disk: float = 2e9
    """Bytes a second at which a machine reads weights from its own disk."""
    network: float = 1e9
    """Bytes a second between a machine and the object store, or the hub."""
    gpu_hour: float = 3.0
    """Dollars."""
    put: float = 5e-6
    """Dollars a request that writes; one that reads costs `get`."""
    get: float = 4e-7
    gpu_life: float = 50_000.0
    """Hours that a GPU runs between interruptions (419 in 54 days of 16,384)."""
    spot_hours: float = 500.0
    """The same where machines are taken away."""


MEASURED, ASSUMED = Measured(), Assumed()


def facts(name: str) -> ModelFacts:
    """Return the facts of a model of a published shape."""
    keys, mlp, vocabulary = SHAPES[name]
    attention = 2 * D_MODEL * D_HEAD * (HEADS + keys)
    parameters = 2 * vocabulary * D_MODEL + LAYERS * (attention + 3 * D_MODEL * mlp)
    family = "qwen2" if name.startswith("qwen") else "llama"
    return planned.facts(
        **{"family": family, "activation": "silu", "window": 2048, "digest": name, "gated": True},
        **{"layers": LAYERS, "heads": HEADS, "d_head": D_HEAD, "kv_heads": keys},
        **{"d_model": D_MODEL, "d_mlp": mlp, "vocabulary": vocabulary},
        **{"parameters": parameters, "bytes": 2 * parameters},
    )


def made(tokens: float) -> Plan:
    """Return the plan of the sweep, of models that are nowhere."""
    source = {"source": "documents.jsonl", "document": "name", "sequence_length": 2048}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        planned.know(patch, {name: facts(name) for name in SHAPES})
        planned.documents(Path(folder))
        return planned.make(
            Path(folder),
            device="cuda",
            models=[{"id": n, "dtype": "bfloat16", "shards": RANKS} for n in SHAPES],
            data={
                "pile": {
                    **source,
                    "collect": {"tokens": int(tokens)},
                    "evaluate": {"tokens": EVALUATED},
                }
            },
            methods=[
                *("zero", "mean", "peak", "peak(paper)", "resample", "resample(random_tokens)"),
                *("resample(random_characters)", "resample(generated)"),
            ],
            fractions={"start": 0, "stop": 1, "step": 0.1},
            seeds=10,
            statistics={"shards": SHARDS},
            cluster={"device": "cuda"},
        )


def row_bytes(shards: int) -> float:
    """Return the bytes of a neuron in a histogram of some shards, as partials are stored."""
    windows = Windows.placed if False else None  # replaced below
    raise NotImplementedError(windows)
