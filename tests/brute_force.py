"""Brute force: a run folder's numbers again, with nothing but tables, a library and a hook.

This is what an outsider would write who has the checkpoint and the run folder and
does not trust us: no module of `orchestrator` or `workers` is used, only columns of
Parquet files. It is plain where ours is fast, and different wherever it may be.
Sequences are fed one at a time and so never padded; attention is the library's `eager`
one; nothing is folded, a hook writes the held values into the projection's input;
the log-softmax is in float64. `tests.brute_force_held` says which neurons are held,
`tests.brute_force_values` at what.

Shapes: T positions of one sequence, N neurons of one layer at one site, K of them held,
M scored positions, V tokens or classes, E neurons of one head, D width of the model.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

Row = dict[str, Any]
Fed = NDArray[np.int64]
"""Token ids (T,), or the pixels (H, W, C) of an image."""
Held = Sequence[tuple[NDArray[np.int64], Tensor]]
"""Per layer: neurons (K,) and what they are held at, (K,) or position by position (T, K)."""
Put = Callable[[Tensor], Tensor]
"""Takes what a projection would be given, (T, N), and returns what it gets in its place."""
Puts = Mapping[str, Sequence[Put]]
"""By site, one for each layer."""
Turn = Callable[[int, int], NDArray[np.float64]]
"""Takes a layer and a group of heads that share values; returns an orthogonal matrix (E, E)."""

ATTENTION, MLP = "attn_pre_out", "mlp_mid"
NAMED = {
    "OPTForCausalLM": {ATTENTION: "self_attn.out_proj", MLP: "fc2", "values": "self_attn.v_proj"},
    "MistralForCausalLM": {
        ATTENTION: "self_attn.o_proj",
        MLP: "mlp.down_proj",
        "values": "self_attn.v_proj",
    },
    "RobertaForMaskedLM": {
        ATTENTION: "attention.output.dense",
        MLP: "output.dense",
        "values": "attention.self.value",
    },
    "vit_tiny_patch16_224": {ATTENTION: "attn.proj", MLP: "mlp.fc2", "values": "attn.qkv"},
}
"""What a layer's output projections and values are called, by the name of the architecture."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A checkpoint as its own library loads it."""

    module: nn.Module
    projections: Mapping[str, list[nn.Linear]]
    """By site the output projections, the first layer's first; `values` for what makes values."""
    heads: int
    groups: int
    """Heads that have values of their own; the others share in equal groups."""
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

    def frame(self, kind: str) -> pl.DataFrame:
        """Return the rows of this model in one kind of table, whatever files they are in."""
        return _frame(self.run, self.model, kind)

    def rows(self, kind: str) -> list[Row]:
        """Return the same as plain rows."""
        return self.frame(kind).to_dicts()

    @cached_property
    def cells(self) -> list[Row]:
        """Rows of `cells`."""
        return self.rows("cells")

    @cached_property
    def sequences(self) -> dict[int, Row]:
        """Rows of `data` by sequence number, of the source that the model is evaluated on."""
        own = self.cells[0]["data"]
        return {r["sequence"]: r for r in self.rows("data") if r["data"] == own}

    @cached_property
    def donors(self) -> dict[int, Row]:
        """Rows of `donors` by the number of the sequence that receives."""
        return {r["sequence"]: r for r in self.rows("donors")}

    @cached_property
    def statistics(self) -> pl.DataFrame:
        """`statistics` of the whole data and the model as it is, layer-major."""
        return self.stratum("all")

    def stratum(self, name: str, cell: str | None = None, **where: str) -> pl.DataFrame:
        """Return `statistics` of one stratum, under the ablation of a cell if any, layer-major.

        `where` may name a site, a basis and a source of data where there are several.
        """
        wanted = {"site": ATTENTION, "basis": "own", "stratum": name, **where}
        return _stratum(self, cell, tuple(wanted.items()))

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
        self,
        method: str,
        parameters: str,
        *,
        stratum: str = "all",
        cell: str | None = None,
        site: str = ATTENTION,
        basis: str = "own",
    ) -> list[Tensor]:
        """Return the constants of one method per layer, (N,) each in float64."""
        wanted = {"method": method, "parameters": parameters, "stratum": stratum, "cell": cell}
        found = self.frame("centres").filter(
            *(pl.col(c).eq_missing(v) for c, v in {**wanted, "site": site, "basis": basis}.items())
        )
        layers = found.sort("layer", "neuron").partition_by("layer", maintain_order=True)
        assert layers, (wanted, site, basis)
        return [torch.tensor(of["value"].to_list(), dtype=torch.float64) for of in layers]

    def donor_of(self, sequence: int) -> Fed:
        """Return what is fed instead of an evaluated sequence to record its donor."""
        row = self.donors[sequence]
        return fed(self.sequences[row["donor"]]) if row["input"] is None else np.array(row["input"])


@cache
def _frame(run: Path, model: str, kind: str) -> pl.DataFrame:
    path = run / f"{kind}.parquet"
    files = [path] if path.is_file() else sorted((run / kind).rglob("*.parquet"))
    tables = [pl.read_parquet(file).filter(pl.col("model") == model) for file in files]
    return pl.concat([t for t in tables if t.height])


@cache
def _stratum(tables: Tables, cell: str | None, wanted: tuple[tuple[str, str], ...]) -> pl.DataFrame:
    found = tables.frame("statistics").filter(
        *(pl.col(c) == v for c, v in wanted), pl.col("cell").eq_missing(cell)
    )
    return found.sort("layer", "neuron")


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


def load(folder: Path, *, attention: str = "eager", dtype: torch.dtype = torch.float32) -> Plain:
    """Load a checkpoint folder, as its library's documentation says.

    `attention` is transformers' name of an implementation; timm has one alone.
    """
    config = json.loads((folder / "config.json").read_text())
    pixels = None
    if "architecture" in config:
        name, said = config["architecture"], config["pretrained_cfg"]
        module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).to(dtype)
        pixels = torch.tensor(said["mean"]), torch.tensor(said["std"])
        heads = groups = config["model_args"]["num_heads"]
    else:
        (name,) = config["architectures"]
        auto = AutoModelForMaskedLM if name.endswith("MaskedLM") else AutoModelForCausalLM
        module = auto.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        heads = config["num_attention_heads"]
        groups = config.get("num_key_value_heads", heads)
    module.eval()
    parts = list(module.named_modules())
    projections = {
        what: [m for n, m in parts if re.search(rf"\.\d+\.{re.escape(path)}$", n)]
        for what, path in NAMED[name].items()
    }
    return Plain(module=module, projections=projections, heads=heads, groups=groups, pixels=pixels)


def rotate(plain: Plain, turn: Turn) -> None:
    """Give every head other axes, in place: values are Q times what they were, W_O takes Q' off."""
    for layer, (value, output) in enumerate(
        zip(plain.projections["values"], plain.projections[ATTENTION], strict=True)
    ):
        size = output.in_features // plain.heads
        first = value.out_features - plain.groups * size  # timm has queries and keys before
        for head in range(plain.heads):
            group = head * plain.groups // plain.heads
            q_EE = torch.from_numpy(turn(layer, group))
            columns = slice(head * size, (head + 1) * size)
            _set(output.weight, (slice(None), columns), output.weight[:, columns].double() @ q_EE.T)
            if head * plain.groups % plain.heads == 0:
                rows = slice(first + group * size, first + (group + 1) * size)
                _set(value.weight, rows, q_EE @ value.weight[rows].double())
                if value.bias is not None:
                    _set(value.bias, rows, q_EE @ value.bias[rows].double())


def _set(parameter: nn.Parameter, where: Any, new: Tensor) -> None:
    with torch.no_grad():
        parameter[where] = new.float()


def logits(plain: Plain, sequence: Fed) -> Tensor:
    """Feed one sequence and return its logits, (T, V); of an image (1, V)."""
    with torch.inference_mode():
        if plain.pixels is None:
            answer_TV: Tensor = plain.module(input_ids=torch.from_numpy(sequence)[None]).logits[0]
            return answer_TV
        mean_C, std_C = plain.pixels
        seen_HWC = (torch.from_numpy(sequence).float() / 255 - mean_C) / std_C
        dtype = next(plain.module.parameters()).dtype
        answer_1V: Tensor = plain.module(seen_HWC.permute(2, 0, 1)[None].to(dtype))
        return answer_1V


def activations(plain: Plain, sequence: Fed, site: str = ATTENTION) -> list[Tensor]:
    """Return what every output projection of a site is given for one sequence, (T, N) each."""
    found: list[Tensor] = []
    logits_while_put(
        plain, sequence, {site: _noting(found, [_alone] * len(plain.projections[site]))}
    )
    return found


def logits_while_held(plain: Plain, sequence: Fed, held: Held) -> Tensor:
    """Feed one sequence while attention neurons of every layer are overwritten."""
    return logits_while_put(plain, sequence, {ATTENTION: _overwriting(held)})


def activations_while_held(plain: Plain, sequence: Fed, held: Held) -> list[Tensor]:
    """Return what every projection would be given, (T, N) each, were it not overwritten itself."""
    found: list[Tensor] = []
    logits_while_put(plain, sequence, {ATTENTION: _noting(found, _overwriting(held))})
    return found


def logits_while_put(plain: Plain, sequence: Fed, puts: Puts) -> Tensor:
    """Feed one sequence while something else is put in the place of projections' inputs."""
    with ExitStack() as stack:
        for site, of_layers in puts.items():
            for projection, put in zip(plain.projections[site], of_layers, strict=True):
                stack.callback(projection.register_forward_pre_hook(_hook(put)).remove)
        return logits(plain, sequence)


def _hook(put: Put) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x_TN = given[0].reshape(-1, given[0].shape[-1])  # of one sequence, with or without its axis
        return (put(x_TN.clone()).reshape(given[0].shape),)

    return hook


def _alone(x_TN: Tensor) -> Tensor:
    return x_TN


def _noting(found: list[Tensor], puts: Sequence[Put]) -> list[Put]:
    """Return puts that first note what they are given."""

    def noting(put: Put) -> Put:
        def note(x_TN: Tensor) -> Tensor:
            found.append(x_TN.clone())
            return put(x_TN)

        return note

    return [noting(put) for put in puts]


def _overwriting(held: Held) -> list[Put]:
    def overwriting(neurons_K: NDArray[np.int64], value: Tensor) -> Put:
        def overwrite(x_TN: Tensor) -> Tensor:
            # A donor may be longer than what it is put into; its first positions count.
            first = value[: len(x_TN)] if value.ndim == 2 else value
            x_TN[:, neurons_K] = first.to(x_TN.dtype)
            return x_TN

        return overwrite

    return [overwriting(neurons_K, value) for neurons_K, value in held]


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


def divergence(bare_TV: Tensor, logits_TV: Tensor, target_T: NDArray[np.int64]) -> float:
    """Return KL(bare ‖ ablated) over the scored positions of one sequence, in nats."""
    scored = np.flatnonzero(target_T != -100)
    p_MV, q_MV = (log_softmax(x[scored].double(), dim=1) for x in (bare_TV, logits_TV))
    return float(kl_div(q_MV, p_MV, reduction="sum", log_target=True))


def only(target_T: NDArray[np.int64], where_T: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return targets that are scored only where a condition holds."""
    return np.where(where_T, target_T, -100)


def common_tokens(tables: Tables, without: set[int], n: int = 50) -> set[int]:
    """Return the n most common tokens of the collected texts, of equal counts the smaller."""
    ids = np.concatenate([restored(row) for row in tables.role("collect")])
    found, counts = np.unique(ids[~np.isin(ids, list(without))], return_counts=True)
    return {int(found[i]) for i in sorted(range(len(found)), key=lambda i: (-counts[i], i))[:n]}


def is_highest(peak: float, x: Tensor, bandwidth: float) -> bool:
    """Say whether a Gaussian kernel density is nowhere higher, up to what binning may hide."""
    place = torch.cat([torch.tensor([peak]), torch.linspace(float(x.min()), float(x.max()), 500)])
    density = torch.exp(-0.5 * ((place[:, None] - x) / bandwidth) ** 2).mean(dim=1)
    return bool(density[0] >= 0.999 * density.max())
