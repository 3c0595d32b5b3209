"""Brute force: a run folder's numbers again, with nothing but tables, a library and a hook.

This is what an outsider would write who has the checkpoint and the run folder and
does not trust us: no module of `orchestrator` or `workers` is used, only columns of
Parquet files. It is plain where ours is fast, and different wherever it may be.
Sequences are fed one at a time and so never padded; attention is the library's `eager`
one; nothing is folded, a hook writes the held values into the projection's input;
the log-softmax is in float64.

Shapes: T positions of one sequence, N neurons of one layer, K held neurons of one
layer, M scored positions, V tokens or classes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

Row = dict[str, Any]
Fed = NDArray[np.int64]
"""Token ids (T,), or the pixels (H, W, C) of an image."""
Held = Sequence[tuple[NDArray[np.int64], Tensor]]
"""Per layer: neurons (K,) and what they are held at, (K,) or position by position (T, K)."""
Hook = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]

PROJECTION = {
    "OPTForCausalLM": "self_attn.out_proj",
    "MistralForCausalLM": "self_attn.o_proj",
    "RobertaForMaskedLM": "attention.output.dense",
    "vit_tiny_patch16_224": "attn.proj",
}
"""What a layer's attention output projection is called, by the name of the architecture."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A checkpoint as its own library loads it."""

    module: nn.Module
    projections: list[nn.Module]
    """Attention output projections, the first layer's first."""
    pixels: tuple[Tensor, Tensor] | None
    """Mean and standard deviation of each channel, for pixels from 0 to 1; None for text."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How the scored positions of one sequence are predicted."""

    tokens: int
    top1: int
    top10: int
    loss: float
    """Nats, summed."""
    contested: dict[str, int]
    """At how many positions rounding could decide, for `top1` and `top10`."""


@dataclass(frozen=True)
class Tables:
    """What a run folder says about one model, as plain rows."""

    run: Path
    model: str

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of this model in one kind of table, whatever files they are in."""
        path = self.run / f"{kind}.parquet"
        files = [path] if path.is_file() else sorted((self.run / kind).rglob("*.parquet"))
        found = [pl.read_parquet(file) for file in files]
        return [r for t in found for r in t.filter(pl.col("model") == self.model).to_dicts()]

    @cached_property
    def cells(self) -> list[Row]:
        """Rows of `cells`."""
        return self.rows("cells")

    @cached_property
    def sequences(self) -> dict[int, Row]:
        """Rows of `data` by sequence number."""
        return {r["sequence"]: r for r in self.rows("data")}

    @cached_property
    def donors(self) -> dict[int, Row]:
        """Rows of `donors` by the number of the sequence that receives."""
        return {r["sequence"]: r for r in self.rows("donors")}

    @cached_property
    def statistics(self) -> pl.DataFrame:
        """`statistics` of the whole data and the model as it is, layer-major."""
        return self.stratum("all")

    def stratum(self, name: str, cell: str | None = None) -> pl.DataFrame:
        """Return `statistics` of one stratum, under the ablation of a cell if any, layer-major."""
        rows = [r for r in self.rows("statistics") if (r["stratum"], r["cell"]) == (name, cell)]
        return pl.DataFrame(rows, infer_schema_length=None).sort("layer", "neuron")

    def role(self, name: str) -> list[Row]:
        """Return the sequences that are collected from, or evaluated."""
        return [r for r in self.sequences.values() if r["role"] == name]

    def of_cells(self, kind: str) -> dict[str, list[Row]]:
        """Return the rows of `results` or `executions` by cell."""
        table = pl.concat(pl.read_parquet(f) for f in (self.run / kind).rglob("*.parquet"))
        return {str(name): part.to_dicts() for (name,), part in table.group_by("cell")}

    def order(self, seed: int) -> list[NDArray[np.int64]]:
        """Return, per layer, all neurons in the order in which this mask holds them."""
        rows = sorted(self.rows("selections"), key=lambda r: int(r["layer"]))
        return [np.array(r["order"]) for r in rows if r["seed"] == seed]

    def centres(
        self, method: str, parameters: str, *, stratum: str = "all", cell: str | None = None
    ) -> list[Tensor]:
        """Return the constants of one method per layer, (N,) each in float64."""
        wanted = (method, parameters, stratum, cell)
        rows = [
            (r["layer"], r["neuron"], r["value"])
            for r in self.rows("centres")
            if (r["method"], r["parameters"], r["stratum"], r["cell"]) == wanted
        ]
        layers = range(1 + max(layer for layer, _, _ in rows))
        return [
            torch.tensor([v for at, _, v in sorted(rows) if at == layer], dtype=torch.float64)
            for layer in layers
        ]

    def donor_of(self, sequence: int) -> Fed:
        """Return what is fed instead of an evaluated sequence to record its donor."""
        row = self.donors[sequence]
        return fed(self.sequences[row["donor"]]) if row["input"] is None else np.array(row["input"])


def fed(row: Row) -> Fed:
    """Return what the model is fed for a row of `data`."""
    if "image" in row:
        return np.array(row["image"]).reshape(row["shape"])
    return np.array(row["input"])


def target(row: Row) -> NDArray[np.int64]:
    """Return the targets (T,) of a row of `data`; of an image (1,)."""
    return np.atleast_1d(np.array(row["target"]))


def restored(row: Row) -> list[int]:
    """Return the token ids before corruption."""
    if row["kind"] is None:
        return list(row["input"])
    return [i if t == -100 else t for i, t in zip(row["input"], row["target"], strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block, as a replica does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(folder: Path, *, attention: str = "eager") -> Plain:
    """Load a checkpoint folder in float32, as its library's documentation says.

    `attention` is transformers' name of an implementation; timm has one alone.
    """
    config = json.loads((folder / "config.json").read_text())
    pixels = None
    if "architecture" in config:
        name, said = config["architecture"], config["pretrained_cfg"]
        module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        pixels = torch.tensor(said["mean"]), torch.tensor(said["std"])
    else:
        (name,) = config["architectures"]
        auto = AutoModelForMaskedLM if name.endswith("MaskedLM") else AutoModelForCausalLM
        module = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    module.eval()
    projections = [m for n, m in module.named_modules() if n.endswith("." + PROJECTION[name])]
    return Plain(module=module, projections=projections, pixels=pixels)


def logits(plain: Plain, sequence: Fed) -> Tensor:
    """Feed one sequence and return its logits, (T, V); of an image (1, V)."""
    with torch.inference_mode():
        if plain.pixels is None:
            answer_TV: Tensor = plain.module(input_ids=torch.from_numpy(sequence)[None]).logits[0]
            return answer_TV
        mean_C, std_C = plain.pixels
        seen_HWC = (torch.from_numpy(sequence).float() / 255 - mean_C) / std_C
        answer_1V: Tensor = plain.module(seen_HWC.permute(2, 0, 1)[None])
        return answer_1V


def activations(plain: Plain, sequence: Fed) -> list[Tensor]:
    """Return what every attention output projection is given for one sequence, (T, N) each."""
    found: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0][0].clone())

    with _hooked(plain, [keep] * len(plain.projections)):
        logits(plain, sequence)
    return found


def logits_while_held(plain: Plain, sequence: Fed, held: Held) -> Tensor:
    """Feed one sequence while neurons of every layer are overwritten."""
    with _hooked(plain, _overwriting(held, [])):
        return logits(plain, sequence)


def activations_while_held(plain: Plain, sequence: Fed, held: Held) -> list[Tensor]:
    """Return what every projection would be given, (T, N) each, were it not overwritten itself."""
    found: list[Tensor] = []
    with _hooked(plain, _overwriting(held, found)):
        logits(plain, sequence)
    return found


def _overwriting(held: Held, found: list[Tensor]) -> list[Hook]:
    """Return a hook per layer that notes what its projection is given, then overwrites it."""

    def overwrite(neurons_K: NDArray[np.int64], value: Tensor) -> Hook:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found.append(given[0][0].clone())
            x_1TN = given[0].clone()
            # A donor may be longer than what it is put into; its first positions count.
            x_1TN[0, :, neurons_K] = value[: x_1TN.shape[1]] if value.ndim == 2 else value.float()
            return (x_1TN,)

        return hook

    return [overwrite(neurons_K, value) for neurons_K, value in held]


@contextmanager
def _hooked(plain: Plain, hooks: Sequence[Hook]) -> Iterator[None]:
    handles = [
        projection.register_forward_pre_hook(hook)
        for projection, hook in zip(plain.projections, hooks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def score(logits_TV: Tensor, target_T: NDArray[np.int64], *, rounding: float) -> Score:
    """Score one sequence; equal logits rank by id, the lower first.

    A position is contested where the target's logit and the one it has to beat
    differ by no more than `rounding`.
    """
    scored = np.flatnonzero(target_T != -100)
    logits_MV, target_M = logits_TV[scored].double(), torch.from_numpy(target_T[scored])
    own_M1 = logits_MV.gather(1, target_M[:, None])
    others_MV = logits_MV.scatter(1, target_M[:, None], -torch.inf)
    lower_MV = torch.arange(logits_MV.shape[1]) < target_M[:, None]
    rank_M = ((others_MV > own_M1) | ((others_MV == own_M1) & lower_MV)).sum(1)
    best_MK = others_MV.topk(10, dim=1).values
    near_MK = (best_MK - own_M1).abs() <= rounding
    return Score(
        tokens=len(scored),
        top1=int((rank_M < 1).sum()),
        top10=int((rank_M < 10).sum()),
        loss=float(cross_entropy(logits_MV, target_M, reduction="sum")),
        contested={"top1": int(near_MK[:, 0].sum()), "top10": int(near_MK[:, 9].sum())},
    )


def is_highest(peak: float, x: Tensor, bandwidth: float) -> bool:
    """Say whether a Gaussian kernel density is nowhere higher, up to what binning may hide."""
    place = torch.cat([torch.tensor([peak]), torch.linspace(float(x.min()), float(x.max()), 500)])
    density = torch.exp(-0.5 * ((place[:, None] - x) / bandwidth) ** 2).mean(dim=1)
    return bool(density[0] >= 0.999 * density.max())
