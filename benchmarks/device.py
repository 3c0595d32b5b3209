"""How much of a GPU does a sweep's evaluation use?

For each shape, in bfloat16 with random weights and inputs:

    peak        TFLOP/s of one large bfloat16 product of matrices, in the same process
    bare        positions a second through the bare model, loss included
    ours        positions a second of a call of eight cells of constants
    share       of the peak: what a cell's products of matrices need, over what it took.
                Counted are those of the layers, of attention (half of it where causal) and of the
                head at scored positions; nothing else, not what was shared either, so a share above
                that of bare is work not done
    gaps        share of the time from the first kernel of a call to its last in which none runs
    compiled    the same call through the compiled model, as a share of the time without
    field       the field's recipe (`benchmarks.field`) per nominal cell over ours, for a grid of 11
                fractions x 4 methods x 3 masks
    grid        seconds for 12 million positions of nominal cells, the paper's grid for OPT:
                extrapolated, and run where that takes less than `SHORT` seconds

Needs `workers`, `benchmarks.collect`, `.grid` and `.field`, and what these import: torch,
transformers, timm and numpy. Without a GPU it runs one small shape on one thread and says so: that
shows that the script works, and nothing else.

Run: python -m benchmarks.device [MODEL…], models being opt-1.3b, roberta-large and vit-base. The
last line is the table as JSON.
"""

import json
import statistics
import sys

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import RobertaConfig, RobertaForMaskedLM

from benchmarks import field, grid
from benchmarks.collect import built, machine
from benchmarks.grid import NOMINAL, Fed, order, seconds
from workers.compiled import Compiled
from workers.evaluate import evaluate
from workers.loading import Model, adopt

SHAPES = {  # batches, sequences of a batch, positions of a sequence
    "opt-1.3b": (4, 8, 2048),
    "roberta-large": (4, 32, 512),
    "vit-base": (4, 128, 197),
}
SMALL = {"zoo:opt": (2, 8, 128)}
"""What runs without a GPU."""
GRID = 12_000_000
"""Positions of the paper's grid for OPT, over all nominal cells."""
SHORT = 240
"""Seconds: a grid that takes longer is extrapolated only."""
REPEATS = 5


def model_of(name: str, device: str) -> Model:
    """Return a model of a shape, with random weights, in bfloat16."""
    if name != "roberta-large":
        return built(name, torch.bfloat16, device)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    module = RobertaForMaskedLM(config).requires_grad_(False)
    return adopt(module.to(device, torch.bfloat16))


def peak(device: str) -> float:
    """Return how many operations a second a product of large matrices makes."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.matmul(a, b)  # the first call chooses a kernel
    each = min(seconds(lambda: torch.matmul(a, b), device) for _ in range(10))
    return 2 * size**3 / each


def operations(model: Model, fed: Fed) -> float:
    """Return what the products of matrices of one pass need, the head's at scored positions."""
    facts = model.facts
    widths = facts.d_model * (2 * facts.neurons + 2 * facts.kv_heads * facts.d_head)
    each = 2 * facts.layers * (widths + 2 * facts.d_model * facts.d_mlp)
    sequences = sum(len(batch.sequence) for batch in fed.batches)
    length = positions(model, fed) / sequences
    seen = length / 2 if facts.modality == "causal" else length
    attention = 4 * facts.layers * seen * facts.neurons
    return positions(model, fed) * (each + attention) + (
        2 * fed.scored * facts.d_model * facts.vocabulary
    )


def positions(model: Model, fed: Fed) -> int:
    """Return the positions that a pass feeds; of images patches and prefix."""
    if model.facts.image is None:
        return fed.positions
    return model.facts.window * sum(len(batch.sequence) for batch in fed.batches)


def gaps(model: Model, fed: Fed) -> float | None:
    """Return the share of a call's time on the device in which no kernel runs."""
    cells = [order(model, f, "mean", 0) for f in grid.FRACTIONS[1:9]]
    if model.device.type == "cpu":
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        grid.ours(model, fed, cells)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events() or ()
        if event.device_type == DeviceType.CUDA
    )
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (until - spans[0][0])


def row(name: str, device: str) -> dict[str, float | None]:
    """Return what a shape shows."""
    model = model_of(name, device)
    fed = grid.random(model, *(SHAPES | SMALL)[name])
    fractions = grid.FRACTIONS[1:9]
    constants = [order(model, f, "mean", 0) for f in fractions]
    donated = [order(model, f, "resample", m) for f in fractions for m in range(2)]
    half = [order(model, 0.5, method, 0) for method in ("mean", "resample")]
    last = grid.last_batch(fed)
    texts = min(8, len(last.batches[0].sequence))

    def each(work: object, cells: int = 1) -> float:
        """Return the median seconds of one cell."""
        assert callable(work)
        work()
        return statistics.median(seconds(work, device) for _ in range(REPEATS)) / cells

    bare_s = each(lambda: grid.bare(model, fed))
    constant_s = each(lambda: grid.ours(model, fed, constants), len(constants))
    donated_s = each(lambda: grid.ours(model, fed, donated), len(donated))
    kinds = [each(lambda c=cell: field.run(model, last, c, texts), texts) for cell in half]
    sequences = sum(len(batch.sequence) for batch in fed.batches)
    field_s = sequences * (3 * kinds[0] + kinds[1]) / 4
    cells = grid.distinct(model)
    resampled = sum(len(call) for call in grid.calls(cells) if grid.donated(call[0]))
    nominal_s = ((len(cells) - resampled) * constant_s + resampled * donated_s) / NOMINAL
    there, most = positions(model, fed), peak(device)
    said: dict[str, float | None] = {
        "peak_tflops": most / 1e12,
        "bare_positions_s": there / bare_s,
        "ours_positions_s": there / constant_s,
        "bare_share": operations(model, fed) / bare_s / most,
        "ours_share": operations(model, fed) / constant_s / most,
        "gaps": gaps(model, fed),
        "field_recipe_over_ours": field_s / nominal_s,
        "grid_extrapolated_s": GRID * nominal_s / there,
        "grid_s": None,
    }
    compiled = Compiled(model)
    if compiled.reason is None:
        of = grid.LOGITS_BYTES
        said["compiled"] = (
            each(
                lambda: evaluate(
                    model, fed.batches, constants, {}, logits_bytes=of, compiled=compiled
                ),
                len(constants),
            )
            / constant_s
        )
    compiled.close()
    if device == "cuda" and GRID * nominal_s / there < SHORT:
        said["grid_s"] = whole(model, name)
    return said


def whole(model: Model, name: str) -> float:
    """Run the grid over as many positions as make `GRID` nominal ones; return the seconds."""
    _, sequences, length = SHAPES[name]
    fed = grid.random(model, max(1, round(GRID / NOMINAL / sequences / length)), sequences, length)

    def run() -> None:
        for call in grid.calls(grid.distinct(model)):
            grid.ours(model, fed, call)

    return seconds(run, model.device.type) * GRID / NOMINAL / positions(model, fed)


def main(chosen: list[str]) -> None:
    """Print the table, then the same as one line of JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = SHAPES if device == "cuda" else SMALL
    if device == "cpu":
        torch.set_num_threads(1)
        print(f"There is no GPU here: a small shape, {', '.join(SMALL)}, runs on one thread.")
    found = {}
    for name in chosen or shapes:
        said = {
            key: None if value is None else float(f"{value:.4g}")
            for key, value in row(name, device).items()
        }
        found[name] = said
        print(f"{name:13s} " + "  ".join(f"{k} {v}" for k, v in said.items()), flush=True)
    print(json.dumps({"rows": found, "machine": machine()}))


if __name__ == "__main__":
    main(sys.argv[1:])
