"""Remarks: what to know of a plan before it runs, in sentences.

What it leaves out; where peaks say little; what is asked where cells may stop early, and where
they cannot; whether models are compiled. All of it is read off the plan: nothing is looked at.
"""

from collections.abc import Iterator

from orchestrator import absent, room, stopping
from orchestrator.calls import rounds_of
from orchestrator.cells import data_of
from orchestrator.pairs import Precision
from orchestrator.plan import Plan
from orchestrator.rounds import BATCHES
from orchestrator.sequential import FEW

UNIT = {"ce": "nats of cross-entropy", "top1": "of Top-1, as a share,"}


def remarks(made: Plan) -> Iterator[str]:
    """Yield what a plan's reader must be told, a sentence or two each."""
    yield from absent.told(made)
    yield from _left_out(made)
    yield from _mlp(made)
    yield from _shards(made)
    if (told := room.remark(made)) is not None:
        yield told
    if made.spec.precision is not None:
        yield from _stopping(made, made.spec.precision)
    if made.spec.compile:
        yield (
            "compile: cells that fold, and the unablated model, run through a compiled graph of"
            " their model; where it cannot be compiled they run as they are, and events.jsonl says"
            " why"
        )


def _stopping(made: Plan, precision: Precision) -> Iterator[str]:
    """Yield what is asked of comparisons, what may stop, and where nothing can."""
    pairs = ", ".join(f"{a} - {b}" for a, b in made.spec.precise)
    yield (
        f"precision: {pairs} is to be known to {precision.halfwidth:g} {UNIT[precision.metric]}"
        " (half the width of a 95 % confidence sequence) at each fraction and mask; after the first"
        " round in which it is, all methods of that fraction and mask stop"
    )
    companies = stopping.companies(made.rows, made.spec.precise)
    left = {*stopping.left_out(made.cells, companies)}
    yield (
        f"{len(made.cells) - len(left):,} of {len(made.cells):,} cells may stop early, so cells x"
        " rounds, and the rough time, are the most that it takes"
    )
    for name, ref in made.models.items():
        data = data_of(made.spec, name)
        source = made.spec.data[data]
        positions = source.positions("evaluate", ref.facts.window)
        windows = positions // source.window(ref.facts.window)
        if rounds_of(made, ref) == 1:
            yield (
                f"{name} has one round, so its cells read all: give `evaluation: {{batch_tokens:"
                f" N}}` with N at most {positions // (2 * BATCHES):,} for two or more, or more to"
                " evaluate"
            )
        elif precision.metric == "ce" and windows < FEW:
            yield (
                f"{name} has at most {windows} documents to evaluate, and cross-entropy is not"
                f" judged from fewer than {FEW}: its cells read all"
            )


def _left_out(made: Plan) -> Iterator[str]:
    """Yield the methods that some models are not given."""
    for name, ref in made.models.items():
        modality = ref.facts.modality
        kind = {"image": "images", "masked": "masked text", "causal": "text"}[modality]
        for method in made.spec.methods:
            if not method.fits(modality):
                yield f"{method.label} is left out for {name} ({kind})"


def _shards(made: Plan) -> Iterator[str]:
    """Yield what is held by several processes, and whose share then lies idle."""
    shards = {name: ref.shards for name, ref in made.models.items()}
    for name, number in shards.items():
        if number > 1:
            yield (
                f"{name} is held in {number} shards, a process and a device each, on one machine;"
                " what is said of a replica is of each of them"
            )
    less = [name for name, number in shards.items() if number < max(shards.values())]
    if less:
        yield (
            f"all workers have {max(shards.values())} devices, also while they hold"
            f" {', '.join(less)}, which needs fewer; sweep that in a file of its own"
        )


def _mlp(made: Plan) -> Iterator[str]:
    """Yield where peaks of the MLP's middle say little."""
    if not any("mlp_mid" in group for group in made.spec.sites):
        return
    for name, ref in made.models.items():
        activation = ref.facts.activation
        if "relu" in activation:
            yield (
                f"mlp_mid of {name} ({activation}): most values are exactly 0, so most peaks are 0"
                " and holding there is zero ablation"
            )
        elif "gelu" in activation and not ref.facts.gated:
            yield (
                f"mlp_mid of {name} ({activation}): the density diverges at the function's minimum,"
                " -0.17, and many peaks lie there whatever the neuron says"
            )
