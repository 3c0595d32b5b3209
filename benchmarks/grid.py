"""A grid of cells on one model, what it is run on, and what it is compared with.

    orders    the distinct cells of a grid: fractions x methods x masks, held in all layers
    bare      the model's own forward pass up to the head, no cache, and the cross-entropy in
              float32 of logits made in chunks. No hooks, no ranks: nothing but the loss
    ours      `workers.evaluate.evaluate`, in calls of as many cells as a sweep puts into one

`benchmarks.field` is how it is usually done. Needs `workers` and `benchmarks.collect` alone. Values
that neurons are held at are random: times do not depend on them.

Shapes: S sequences, T positions, D width of the hidden states, M scored positions, V tokens,
L layers, N neurons of one hookpoint.
"""

import json
import lzma
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers import hooks, zoo
from workers.data import batches as cut
from workers.data import causal_targets, windows
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import (
    NOT_SCORED,
    Batch,
    CellAnswer,
    CellOrder,
    Constant,
    Donated,
    Donors,
    Hold,
    Sequences,
)
from workers.tokenising import encode

CONSTANTS = ("zero", "mean", "peak")
MASKS = 3
FRACTIONS = tuple(i / 10 for i in range(11))
NOMINAL = len(FRACTIONS) * (len(CONSTANTS) + 1) * MASKS
CONSTANTS_PER_CALL, DONATED_PER_CALL = 8, 16
"""As `orchestrator.calls` has them, which needs more than a bare machine has."""
LOGITS_BYTES = 32 * 2**20
"""As `evaluation.logits_bytes` is unless said otherwise."""
BLOCK_BYTES = 2**20
"""Logits of which the bare pass makes the loss together, on a CPU: they fit into its cache."""
DONORS = "donors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fed:
    """What a model is evaluated on."""

    batches: tuple[Batch, ...]
    donors: Mapping[str, Donors]

    @property
    def positions(self) -> int:
        """Positions that are no padding."""
        return sum(int(b.attended.sum()) if b.attended is not None else 0 for b in self.batches)

    @property
    def padding(self) -> float:
        """Share of the positions fed that are padding."""
        fed = sum(b.targets.size for b in self.batches)
        return 1 - self.positions / fed if self.positions else 0.0

    @property
    def scored(self) -> int:
        """Positions that have a target."""
        return sum(int((b.targets != NOT_SCORED).sum()) for b in self.batches)


def text(model: Model, positions: int, tokens: int) -> Fed:
    """Return bundled text of about so many positions, in the batches that a sweep would cut."""
    with lzma.open(zoo.TEXT, "rt") as lines:
        said = [json.loads(line) for line in lines]
    texts = [x["text"] for x in said if x["split"] == "test"]
    bos, pad = model.facts.specials.get("bos", 0), model.facts.specials.get("pad", 1)
    found = [
        window
        for encoding in encode(zoo.folder("opt"), texts)
        for window in windows(
            encoding.ids, length=model.facts.window, bos=bos, eos=None, shortest=8
        )
    ]
    chosen = np.random.default_rng(0).permutation(len(found))
    total = np.cumsum([len(found[i]) for i in chosen])
    inputs = tuple(found[i] for i in chosen[: int(np.searchsorted(total, positions))])
    sequences = Sequences(
        sequence=np.arange(len(inputs)),
        inputs=inputs,
        targets=tuple(causal_targets(ids) for ids in inputs),
    )
    return _with_donors(model, cut(sequences, tokens=tokens, pad=pad))


def random(model: Model, batches: int, sequences: int, length: int) -> Fed:
    """Return random inputs: token ids (S, T) scored at every position but the last, or pixels."""
    rng = np.random.default_rng(0)
    facts = model.facts
    made = []
    for number in range(batches):
        sequence_S = np.arange(sequences) + number * sequences
        if facts.image is not None:
            made.append(
                Batch(
                    sequence=sequence_S,
                    inputs=rng.integers(0, 256, (sequences, *facts.image), dtype=np.uint8),
                    attended=None,
                    targets=rng.integers(0, facts.vocabulary, (sequences, 1)),
                )
            )
            continue
        ids_ST = rng.integers(4, facts.vocabulary, (sequences, length))
        made.append(
            Batch(
                sequence=sequence_S,
                inputs=ids_ST,
                attended=np.ones_like(ids_ST, np.bool_),
                targets=np.stack([causal_targets(ids_T) for ids_T in ids_ST]),
            )
        )
    return _with_donors(model, tuple(made))


def _with_donors(model: Model, batches: tuple[Batch, ...]) -> Fed:
    rng = np.random.default_rng(1)
    images = model.facts.image is not None
    most, kind = (256, np.uint8) if images else (model.facts.vocabulary, np.int64)
    passes = tuple(
        Batch(
            sequence=batch.sequence,
            inputs=rng.integers(4, most, batch.inputs.shape).astype(kind),
            attended=batch.attended,
            targets=np.full_like(batch.targets, NOT_SCORED),
        )
        for batch in batches
    )
    return Fed(batches=batches, donors={DONORS: Donors(passes=(passes,))})


def last_batch(fed: Fed) -> Fed:
    """Return the last batch alone: of texts, the longest and least padded."""
    return Fed(
        batches=fed.batches[-1:],
        donors={
            name: Donors(passes=tuple(given[-1:] for given in donors.passes))
            for name, donors in fed.donors.items()
        },
    )


def order(
    model: Model, fraction: float, method: str, mask: int, layer: int | None = None
) -> CellOrder:
    """Return a cell that holds a fraction of each layer's attention neurons, or of one layer's."""
    layers, neurons = model.facts.layers, model.facts.neurons
    rng = np.random.default_rng((mask, 7))
    count = int(fraction * neurons + 0.5)
    held = [np.sort(rng.permutation(neurons)[:count]) for _ in range(layers)]
    if layer is not None:
        held = [held_H if i == layer else held_H[:0] for i, held_H in enumerate(held)]
    name = f"{method} {fraction:g} mask {mask}" + ("" if layer is None else f" layer {layer}")
    if not count:
        return CellOrder(cell="baseline")
    values = np.random.default_rng((len(method), 8)).normal(0, 0.1, (layers, neurons))
    value = (
        Donated(donors=DONORS)
        if method == "resample"
        else Constant(values=values * (method != "zero"))
    )
    return CellOrder(cell=name, holds=(Hold(site="attn_pre_out", held=tuple(held), value=value),))


def distinct(model: Model) -> list[CellOrder]:
    """Return the distinct cells of the grid: at 0 and at 1 those of all masks are one."""
    cells: dict[tuple[object, ...], CellOrder] = {}
    for method in (*CONSTANTS, "resample"):
        for mask in range(MASKS):
            for fraction in FRACTIONS:
                key = (fraction, method * (fraction > 0), mask * (0 < fraction < 1))
                cells.setdefault(key, order(model, fraction, method, mask))
    return list(cells.values())


def calls(cells: Sequence[CellOrder]) -> list[list[CellOrder]]:
    """Return cells as a sweep puts them into calls."""
    takes = [cell for cell in cells if donated(cell)]
    folds = [cell for cell in cells if not donated(cell)]
    return [
        group[i : i + size]
        for group, size in ((folds, CONSTANTS_PER_CALL), (takes, DONATED_PER_CALL))
        for i in range(0, len(group), size)
    ]


def donated(cell: CellOrder) -> bool:
    """Whether a cell takes activations of donors."""
    return any(isinstance(hold.value, Donated) for hold in cell.holds)


def ours(
    model: Model, fed: Fed, cells: Sequence[CellOrder], *, kl: bool = False
) -> list[CellAnswer]:
    """Answer a call's cells."""
    return evaluate(
        model,
        fed.batches,
        cells,
        fed.donors if any(map(donated, cells)) else {},
        logits_bytes=LOGITS_BYTES,
        kl=kl,
    )


def bare(model: Model, fed: Fed) -> float:
    """Return the loss of the model as it is, summed over all scored positions, in nats."""
    each = 4 * model.facts.vocabulary
    rows = LOGITS_BYTES // each
    few = max(1, BLOCK_BYTES // each) if model.device.type == "cpu" else rows
    losses: list[Tensor] = []
    with torch.inference_mode():
        for batch in fed.batches:
            at_M = np.flatnonzero(batch.targets != NOT_SCORED)
            target_M = torch.from_numpy(batch.targets.reshape(-1)[at_M]).to(model.device)
            hidden_STD = hooks.hidden(model, batch)
            hidden_MD = hidden_STD.flatten(0, 1)[torch.from_numpy(at_M).to(model.device)]
            for chunk_MD, of_M in zip(
                torch.split(hidden_MD, rows), torch.split(target_M, rows), strict=True
            ):
                logits_MV = hooks.scores(model, chunk_MD)
                losses += [
                    nn.functional.cross_entropy(few_MV.float(), few_M, reduction="sum")
                    for few_MV, few_M in zip(
                        torch.split(logits_MV, few), torch.split(of_M, few), strict=True
                    )
                ]
        return float(torch.stack(losses).sum())


def seconds(work: Callable[[], object], device: str) -> float:
    """Return how long one call takes: CPU time of this process, or wall time of a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def ratio(
    work: Callable[[], object], beside: Callable[[], object], device: str, repeats: int
) -> float:
    """Return the median over repetitions of the ratio of two neighbours in time."""
    return statistics.median(
        seconds(work, device) / seconds(beside, device) for _ in range(repeats)
    )
