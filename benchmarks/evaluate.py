"""What does a cell cost, beside running the model?

For each model and dtype the same batches are run through the bare model and through cells, one
after the other, on one thread. `benchmarks.grid` says what bare and ours are.

    sweep_over_nominal       a whole sweep's evaluation, all calls of it, over its nominal cells:
                             11 fractions x 4 methods x 3 masks = 132, of which 113 are distinct
    cell_over_bare           a call of one cell, constants at half of the neurons
    resample_over_bare       a call of ten fractions of resampled neurons that share their donors
    each_over_bare           a call of one cell per layer, at half of that layer's neurons
    kl_over_bare             a call of eight cells of constants, with the divergence
    field_over_bare          the field's recipe (`benchmarks.field`): of four cells three are
                             constants, one is resampled
    field_recipe_over_ours   that over `sweep_over_nominal`: both per nominal cell

Each is a time per cell as a multiple of a bare pass over the same batches, the median of ratios
of neighbours in time. The clock is the process's own CPU time, which others on the machine
disturb least. Bare is the forward pass up to the head and the cross-entropy in float32; ranks,
sums and proofs are counted against us.

The bundled OPT is fed bundled text, cut into batches as a sweep cuts them; the OPT-125m shape has
random weights and is fed random tokens. `padding` is the share of positions fed that are padding;
`chunk_bytes` what one float32 tensor of logits takes at most.

Run: python -m benchmarks.evaluate [MODEL…], models being zoo:opt and opt-125m; about fifteen
minutes. The last line is the table as JSON.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks import field as recipe
from benchmarks import grid
from benchmarks.collect import built, machine
from benchmarks.grid import Fed, order, ours, ratio
from workers.loading import Model
from workers.messages import CellOrder

RUNS = {"zoo:opt": (2, 9), "opt-125m": (1, 3)}
"""Repetitions of the sweep, and of everything else."""
POSITIONS, TOKENS = 8192, 2048
"""Of bundled text: in all, and in a batch at most, as `batch_tokens: auto` has it."""
SEQUENCES, LENGTH = 4, 128
"""Of random tokens."""
SAID = ("sweep_over_nominal", "cell_over_bare", "resample_over_bare", "field_recipe_over_ours")


def fed_to(name: str, model: Model) -> Fed:
    """Return what a model is evaluated on."""
    if name == "zoo:opt":
        return grid.text(model, POSITIONS, TOKENS)
    return grid.random(model, 1, SEQUENCES, LENGTH)


def sweep(model: Model, fed: Fed, repeats: int) -> float:
    """Return the time of all calls of a sweep per nominal cell, as a multiple of a bare pass."""
    made = grid.calls(grid.distinct(model))
    return sum(per_call(model, fed, call, repeats) for call in made) / grid.NOMINAL


def per_call(
    model: Model, fed: Fed, cells: Sequence[CellOrder], repeats: int, *, kl: bool = False
) -> float:
    """Return the time of one call as a multiple of a bare pass."""
    return ratio(
        lambda: ours(model, fed, cells, kl=kl), lambda: grid.bare(model, fed), "cpu", repeats
    )


def field(model: Model, fed: Fed, repeats: int) -> float:
    """Return the time of the field's recipe per cell, as a multiple of a bare pass.

    Both are of the last batch alone.
    """
    last = grid.last_batch(fed)
    texts = len(last.batches[0].sequence)
    of = {
        method: ratio(
            partial(recipe.run, model, last, order(model, 0.5, method, 0), texts),
            lambda: grid.bare(model, last),
            "cpu",
            repeats,
        )
        for method in ("mean", "resample")
    }
    return (3 * of["mean"] + of["resample"]) / 4


def row(name: str, model: Model) -> dict[str, float]:
    """Return what a model's cells cost."""
    of_sweep, repeats = RUNS[name]
    fed = fed_to(name, model)
    bare_s = statistics.median(
        grid.seconds(lambda: grid.bare(model, fed), "cpu") for _ in range(repeats)
    )
    half = [order(model, 0.5, "mean", 0)]
    ours(model, fed, half)  # once for nothing: caches are cold, and what can be shared is looked up
    ours(model, fed, [order(model, 1, "mean", 0), *half])
    tens = [order(model, f, "resample", 0) for f in grid.FRACTIONS[1:]]
    each = [order(model, 0.5, "mean", 0, layer) for layer in range(model.facts.layers)]
    eight = [order(model, f, "mean", 0) for f in grid.FRACTIONS[1:9]]
    said = {
        "sweep_over_nominal": sweep(model, fed, of_sweep),
        "cell_over_bare": per_call(model, fed, half, 2 * repeats),
        "resample_over_bare": per_call(model, fed, tens, max(1, repeats // 3)) / len(tens),
        "each_over_bare": per_call(model, fed, each, repeats) / len(each),
        "kl_over_bare": per_call(model, fed, eight, max(1, repeats // 3), kl=True) / len(eight),
        "field_over_bare": field(model, fed, max(1, repeats // 3)),
    }
    said["field_recipe_over_ours"] = said["field_over_bare"] / said["sweep_over_nominal"]
    vocabulary = model.facts.vocabulary
    return {key: round(value, 3) for key, value in said.items()} | {
        "bare_us_per_position": round(bare_s / fed.positions * 1e6, 1),
        "positions": fed.positions,
        "batches": len(fed.batches),
        "padding": round(fed.padding, 4),
        "chunk_bytes": grid.LOGITS_BYTES // (4 * vocabulary) * 4 * vocabulary,
    }


def main(chosen: list[str]) -> None:
    """Print the table, then the same as one line of JSON."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in chosen or RUNS:
        for dtype in ("float32", "bfloat16"):
            said = row(name, built(name, getattr(torch, dtype), "cpu"))
            found.setdefault(name, {})[dtype] = said
            print(f"{name:9s} {dtype:8s} ", end="")
            print("  ".join(f"{key} {value}" for key, value in said.items()), flush=True)
    short = {
        key: {name: {dtype: said[key] for dtype, said in by.items()} for name, by in found.items()}
        for key in SAID
    }
    print(json.dumps(short | {"rows": found, "machine": machine()}))


if __name__ == "__main__":
    main(sys.argv[1:])
