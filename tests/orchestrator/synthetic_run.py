"""A synthetic run folder: what a finished sweep leaves, without a sweep.

The numbers are made up but behave as real ones do: damage grows with the held
share, masks differ, donors are worst, intervals are as wide as sixty documents
make them, and the activations are mostly one broad hump, sometimes two, rarely
a spike. Every table has the columns of the real ones, so a test of a reader
needs no model and runs in a second.

Shapes: L layers, N neurons of a layer, B bins, T sampled activations.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from orchestrator.names import slug
from orchestrator.pairs import Precision
from orchestrator.rounds import assigned
from orchestrator.stopping import visits
from orchestrator.stops import reading, stops
from orchestrator.tables import SCHEMAS

Row = dict[str, object]

METHODS: tuple[tuple[str, str, str], ...] = (
    ("zero", "{}", "zero"),
    ("mean", "{}", "mean"),
    ("peak", '{"estimator":"smooth"}', "peak"),
    ("peak", '{"estimator":"paper"}', "peak(paper)"),
    ("resample", '{"source":"dataset"}', "resample"),
)
"""(method, parameters, label) of every method of the sweep."""

CONTRASTS = (("peak", "mean"), ("peak", "zero"))
FRACTIONS = tuple(i / 10 for i in range(11))
BINS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A made-up model: where its curves start and end."""

    name: str
    modality: str
    data: str
    ce: float
    """CE of the unablated model, in nats."""
    top1: float
    """Top-1 of the unablated model, as a share."""
    ce_at_one: Mapping[str, float]
    """Rise of CE at f = 1 per method label, in nats."""
    top1_floor: float
    """Top-1 that is left when everything is broken, as a share."""


def _rises(
    zero: float, mean: float, peak: float, paper: float, resample: float
) -> dict[str, float]:
    values = (zero, mean, peak, paper, resample)
    return {label: value for (_, _, label), value in zip(METHODS, values, strict=True)}


def _made(name: str, modality: str, ce: float, top1: float, floor: float, *rises: float) -> Made:
    data = "digits" if modality == "image" else "stdlib"
    return Made(
        name=name,
        modality=modality,
        data=data,
        ce=ce,
        top1=top1,
        ce_at_one=_rises(*rises),
        top1_floor=floor,
    )


MODELS = (
    _made("zoo:opt", "causal", 3.78, 0.315, 0.09, 1.05, 0.98, 1.04, 1.12, 1.71),
    _made("zoo:mistral", "causal", 3.71, 0.322, 0.10, 0.94, 0.95, 1.09, 1.21, 1.62),
    _made("zoo:roberta", "masked", 2.59, 0.496, 0.11, 3.30, 3.42, 3.71, 3.80, 4.60),
    _made("zoo:vit", "image", 0.11, 0.976, 0.12, 3.98, 5.96, 5.31, 5.38, 9.45),
)


def write_run(
    folder: Path,
    *,
    models: Sequence[Made] = MODELS,
    layers: int = 4,
    neurons: int = 128,
    masks: int = 5,
    documents: int = 60,
    seed: int = 7,
) -> Path:
    """Write a finished run of `models` into `folder` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    summary: list[Row] = []
    for model in models:
        summary += _summary(rng, model, layers, neurons, masks, documents)
        _activations(rng, folder, model, layers, neurons)
        _data(folder, model, documents)
    frame = pl.DataFrame(summary, infer_schema_length=None)
    frame.write_parquet(folder / "summary.parquet")
    cells = frame.select(SCHEMAS["cells"].names)
    cells.write_parquet(folder / "cells.parquet")
    pl.DataFrame(_curves(rng, frame), infer_schema_length=None).write_parquet(
        folder / "curves.parquet"
    )
    pl.DataFrame(_contrasts(frame, documents), infer_schema_length=None).write_parquet(
        folder / "contrasts.parquet"
    )
    _executions(rng, folder, cells, layers)
    (folder / "provenance.json").write_text(json.dumps(_provenance(models)))
    (folder / "sweep.yaml").write_text(_spec(models, masks))
    (folder / "failures").mkdir()
    return folder


def ask_precision(folder: Path, halfwidth: float, rounds: int = 10) -> None:
    """Let a finished run ask for a precision, and stop where all its comparisons have it.

    Adds `results` and `stops`, shortens what `summary` says was read, and completes the sweep
    file. A document's loss is that of the summary, and its own noise, which grows with the share
    held. So comparisons at small fractions are known first.
    """
    precision = Precision(contrast=(("peak", "mean"),), halfwidth=halfwidth)
    added = {"precision": precision.model_dump(mode="json"), "seeds": {"visits": 0}}
    with (folder / "sweep.yaml").open("a") as file:
        file.write(yaml.safe_dump(added))
    summary, cells = (pl.read_parquet(folder / f"{t}.parquet") for t in ("summary", "cells"))
    data = {
        str(pl.read_parquet(file)["model"][0]): pq.read_table(file)
        for file in sorted((folder / "data").glob("*/*.parquet"))
    }
    answers = pl.concat([_answers(summary.filter(model=m), data[m], rounds) for m in data])
    seen = lru_cache(lambda model: visits(data[model], 0, rounds))
    read = reading(cells.lazy(), answers.lazy(), seen, precision.contrast, precision)
    extent: dict[str, int] = {}
    for number, company in enumerate(read.judge.every):
        stop = read.judge.extent(number, rounds)
        assert stop is not None
        extent |= {cell: max(stop, extent.get(cell, 0)) for cell in company.cells}
    after = pl.col("cell").replace_strict(extent, default=rounds, return_dtype=pl.Int64)
    answers = answers.filter(pl.col("round") < after)
    shared = reading(cells.lazy(), answers.lazy(), seen, precision.contrast, precision)
    read_in(folder, {cell: extent.get(cell, rounds) for cell in cells["cell"]})
    plan = cells.unique("cell").select("model", name="cell", kind=pl.lit("cell"))
    _write(folder / "plan.parquet", plan.with_columns(rounds=pl.lit(rounds)).to_dicts(), "plan")
    stops(shared).write_parquet(folder / "stops.parquet")
    _write(folder / "results" / "part.parquet", answers.to_dicts(), "results")
    sums = answers.group_by("cell").agg(pl.col("tokens").sum(), documents=pl.len())
    summary.update(sums, on="cell").write_parquet(folder / "summary.parquet")


def read_in(folder: Path, extent: Mapping[str, int]) -> None:
    """Let cells of a run have been answered in so many rounds each."""
    file = folder / "executions" / "part.parquet"
    rows = pl.read_parquet(file).to_dicts()
    read = [row | {"rounds": list(range(extent.get(row["cell"], 99)))} for row in rows]
    _write(file, read, "executions")


def _answers(summary: pl.DataFrame, data: pa.Table, rounds: int) -> pl.DataFrame:
    """Return answers of a model's cells, document by document."""
    documents = pl.DataFrame(data.select(["role", "document", "sequence"]).to_pydict())
    documents = documents.filter(role="evaluate").drop("role")
    round_of = assigned(documents["document"].to_list(), 0, rounds)
    points = summary.unique("cell", maintain_order=True)
    rng = np.random.default_rng(3)
    rows: list[Row] = []
    for cell, tokens, count, ce, fraction in points.select(
        "cell", "tokens", "documents", "ce", "fraction"
    ).rows():
        noise_G = rng.normal(0, 0.05 * fraction, documents.height)
        rows += [
            dict.fromkeys(SCHEMAS["results"].names)
            | {"cell": cell, "document": d, "sequence": s, "round": round_of[d]}
            | {"tokens": tokens // count, "top1": 1, "top10": 1, "nan": 0}
            | {"loss": (ce + noise) * (tokens // count)}
            for (d, s), noise in zip(documents.rows(), noise_G.tolist(), strict=True)
        ]
    empty = pl.from_arrow(SCHEMAS["results"].empty_table())
    assert isinstance(empty, pl.DataFrame)
    return pl.DataFrame(rows, schema=empty.schema)


def _shape_of_damage(label: str, fraction: float) -> float:
    """Share of the damage at f = 1 that is there at this fraction: slow, then fast."""
    early = 0.35 if label == "resample" else 0.2
    return early * fraction + (1 - early) * math.pow(fraction, 2.2)


def _summary(
    rng: np.random.Generator, model: Made, layers: int, neurons: int, masks: int, documents: int
) -> list[Row]:
    by_mask = rng.normal(0, 0.12, masks)  # which neurons were drawn, shared by all methods
    rows: list[Row] = []
    for method, parameters, label in METHODS:
        for fraction in FRACTIONS:
            for mask in range(masks):
                spread = by_mask[mask] * fraction * (1 - fraction) * 2
                own = rng.normal(0, 0.006) * fraction * (1 - fraction)
                damage = _shape_of_damage(label, fraction) * (1 + spread + own)
                d_ce = model.ce_at_one[label] * damage
                worst = max(model.ce_at_one.values())
                lost = (model.top1 - model.top1_floor) * (1 - math.exp(-2.5 * d_ce / worst * 2))
                question = fraction and (label, fraction, 0 if fraction == 1 else mask)
                cell = hashlib.sha256(repr((model.name, question)).encode()).hexdigest()[:24]
                half_ce, half_top1 = 0.02 + 0.06 * d_ce, 0.3 * lost + 0.002 * bool(fraction)
                half_ce = half_ce if fraction else 0.0
                rows.append(
                    {
                        "model": model.name,
                        "modality": model.modality,
                        "data": model.data,
                        "dtype": "float32",
                        "basis": "own",
                        "site": "attn_pre_out",
                        "unit": "neuron",
                        "layers": "all",
                        "complement": False,
                        "method": method,
                        "parameters": parameters,
                        "selection": "random",
                        "fraction": fraction,
                        "seed": mask,
                        "donor_seed": 0 if method == "resample" else None,
                        "noise_seed": None,
                        "masking_seed": 0 if model.modality == "masked" else None,
                        "units_held": layers * math.floor(fraction * neurons + 0.5),
                        "units_total": layers * neurons,
                        "cell": cell,
                        "tokens": documents * (1 if model.modality == "image" else 127),
                        "documents": documents,
                        "top1": model.top1 - lost,
                        "top1_se": 0.011,
                        "top10": min(1.0, model.top1 * 1.6),
                        "ce": model.ce + d_ce,
                        "ce_se": 0.05,
                        "kl": None,
                        "bits_per_byte": None if model.modality == "image" else 2.1,
                        "top1_rare": None if model.modality == "image" else 0.8 * model.top1 - lost,
                        "top1_mask": None,
                        "ce_mask": None,
                        "perplexity": None
                        if model.modality == "image"
                        else math.exp(model.ce + d_ce),
                        "d_top1": -lost,
                        "d_top1_low": -lost - half_top1,
                        "d_top1_high": -lost + half_top1,
                        "d_ce": d_ce,
                        "d_ce_low": d_ce - half_ce,
                        "d_ce_high": d_ce + half_ce,
                    }
                )
    return rows


SETTING = ("model", "data", "dtype", "basis", "site", "unit", "layers", "complement", "selection")


def _curves(rng: np.random.Generator, summary: pl.DataFrame) -> list[Row]:
    rows: list[Row] = []
    keys = [*SETTING, "method", "parameters", "fraction"]
    for key, group in summary.group_by(keys, maintain_order=True):
        share = group["units_held"][0] / group["units_total"][0]
        one = group["fraction"][0] in (0.0, 1.0)
        for metric in ("top1", "ce", "d_top1", "d_ce"):
            values = group[metric]
            mean = float(values.mean())  # type: ignore[arg-type]
            sd = 0.0 if one else float(values.std())  # type: ignore[arg-type]
            half = abs(mean) * (0.02 if metric in ("top1", "ce") else 0.07) + 1.2 * sd
            rows.append(
                dict(zip(keys[:-1], key[:-1], strict=True))
                | {
                    "metric": metric,
                    "held_share": share,
                    "mean": mean,
                    "low": mean - half * (1 + rng.uniform(0, 0.1)),
                    "high": mean + half,
                    "band": "pointwise",
                    "sd_masks": None if one else sd,
                    "masks": 1 if one else group.height,
                }
            )
    return rows


def _contrasts(summary: pl.DataFrame, documents: int) -> list[Row]:
    labels = {(method, parameters): label for method, parameters, label in METHODS}
    named = summary.with_columns(
        label=pl.struct("method", "parameters").map_elements(
            lambda s: labels[s["method"], s["parameters"]], return_dtype=pl.String
        )
    )
    rows: list[Row] = []
    for key, group in named.group_by(SETTING, maintain_order=True):
        for a, b in CONTRASTS:
            pairs = group.filter(label=a).join(
                group.filter(label=b), on=["fraction", "seed"], suffix="_b"
            )
            for metric in ("top1", "ce"):
                gap = pairs.select("fraction", "seed", gap=pl.col(metric) - pl.col(f"{metric}_b"))
                over = [(f, gap.filter(fraction=f)["gap"]) for f in FRACTIONS[1:]]
                area = gap.group_by("seed").agg(pl.col("gap").mean())["gap"]
                for fraction, values in [*over, (None, area)]:
                    estimate = float(values.mean())  # type: ignore[arg-type]
                    half = 0.35 * abs(estimate) + (0.0015 if metric == "top1" else 0.006)
                    rows.append(
                        dict(zip(SETTING, key, strict=True))
                        | {
                            "method": None,
                            "fraction": fraction,
                            "metric": metric,
                            "a": a,
                            "b": b,
                            "estimate": estimate,
                            "low": estimate - half,
                            "high": estimate + half,
                            "p": None,
                            "p_adjusted": None,
                            "documents": documents,
                            "masks": 1 if fraction == 1 else values.len(),
                            "declared": True,
                            "reason": None,
                        }
                    )
    return rows


def _sample(rng: np.random.Generator, kind: int, size: int) -> NDArray[np.float64]:
    """Return activations of one neuron, (T,): mostly a hump, sometimes not."""
    scale = 2.0 ** rng.uniform(-5, -1)
    if kind == 0:  # two humps, both off zero
        first = rng.random(size) < rng.uniform(0.55, 0.75)
        values = np.where(first, rng.normal(-1.1, 0.5, size), rng.normal(1.7, 0.55, size))
    elif kind == 1:  # a spike at an attention sink beside broad values
        spike = rng.random(size) < 0.2
        values = np.where(spike, rng.normal(2.2, 0.05, size), rng.normal(0.2, 1, size))
    elif kind == 2:  # heavy tails
        values = rng.standard_t(3, size)
    elif kind < 8:  # skewed
        values = rng.gamma(rng.uniform(2, 5), 0.5, size) * rng.choice([-1, 1]) + rng.normal(0, 0.3)
    else:
        values = rng.normal(rng.normal(0, 0.3), 1, size) + 0.15 * rng.exponential(1, size)
    scaled: NDArray[np.float64] = values * scale
    return scaled


def _activations(
    rng: np.random.Generator, folder: Path, model: Made, layers: int, neurons: int
) -> None:
    statistics: list[Row] = []
    centres: list[Row] = []
    size = 6000
    for layer in range(layers):
        for neuron in range(neurons):
            values_T = _sample(rng, int(rng.integers(0, 90)), size)
            row = _statistics(model, layer, neuron, neurons, values_T)
            statistics.append(row)
            edges = np.histogram(values_T, bins=100)
            fullest = int(edges[0].argmax())
            paper = float((edges[1][fullest] + edges[1][fullest + 1]) / 2)
            for method, parameters, label in METHODS[:-1]:
                value = {
                    "zero": 0.0,
                    "mean": row["mean"],
                    "peak": row["peak"],
                    "peak(paper)": paper,
                }
                centres.append(
                    {
                        "model": model.name,
                        "data": model.data,
                        "basis": "own",
                        "site": "attn_pre_out",
                        "stratum": "all",
                        "layer": layer,
                        "neuron": neuron,
                        "method": method,
                        "parameters": parameters,
                        "cell": None,
                        "value": value[label],
                    }
                )
    _write(folder / "statistics" / slug(model.name) / "made.parquet", statistics, "statistics")
    _write(folder / "centres" / slug(model.name) / "made.parquet", centres, "centres")


def _statistics(
    model: Made, layer: int, neuron: int, neurons: int, values_T: NDArray[np.float64]
) -> Row:
    low, high = np.quantile(values_T, [0.001, 0.999])
    width = 2.0 ** math.ceil(math.log2((high - low) * 1.5 / BINS))
    first = math.floor(((low + high) / 2) / width) - BINS // 2
    index_T = np.floor(values_T / width).astype(np.int64) - first
    inside_T = (index_T >= 0) & (index_T < BINS)
    counts_B = np.bincount(index_T[inside_T], minlength=BINS)
    std = float(values_T.std())
    bandwidth = 0.9 * std * values_T.size ** (-1 / 7)
    smooth_B = _smooth(counts_B, bandwidth / width)
    tops = [
        b
        for b in range(1, BINS - 1)
        if smooth_B[b - 1] < smooth_B[b] >= smooth_B[b + 1] and smooth_B[b] > 0.1 * smooth_B.max()
    ]
    tops.sort(key=lambda b: -smooth_B[b])
    modes = [float((first + b + 0.5) * width) for b in tops]
    weights = smooth_B[tops] / smooth_B[tops].sum()
    mean = float(values_T.mean())
    z_T = (values_T - mean) / std
    row: Row = dict.fromkeys(SCHEMAS["statistics"].names)
    return row | {
        "model": model.name,
        "data": model.data,
        "dtype": "float32",
        "basis": "own",
        "site": "attn_pre_out",
        "stratum": "all",
        "layer": layer,
        "head": neuron * 4 // neurons,
        "neuron": neuron,
        "count": values_T.size,
        "zeros": 0,
        "below": int((index_T < 0).sum()),
        "above": int((index_T >= BINS).sum()),
        "nan": 0,
        "pos_inf": 0,
        "neg_inf": 0,
        "mean": mean,
        "std": std,
        "rms": float(np.sqrt((values_T**2).mean())),
        "abs_mean": float(np.abs(values_T).mean()),
        "positive": float((values_T > 0).mean()),
        "min": float(values_T.min()),
        "max": float(values_T.max()),
        "skewness": float((z_T**3).mean()),
        "kurtosis": float((z_T**4).mean() - 3),
        "median": float(np.median(values_T)),
        "peak": modes[0],
        "bandwidth": bandwidth,
        "mode_values": modes,
        "mode_weights": weights.tolist(),
        "bin_width": width,
        "bin_start": first * width,
        "counts": counts_B.tolist(),
    }


def _smooth(counts_B: NDArray[np.int64], bandwidth: float) -> NDArray[np.float64]:
    """Return the counts under a Gaussian kernel of `bandwidth` bins, (B,)."""
    reach = np.arange(-BINS // 2, BINS // 2 + 1)
    kernel = np.exp(-0.5 * (reach / max(bandwidth, 0.3)) ** 2)
    smoothed: NDArray[np.float64] = np.convolve(counts_B, kernel / kernel.sum(), mode="same")
    return smoothed


def _data(folder: Path, model: Made, documents: int) -> None:
    rows: list[Row] = []
    text = model.modality != "image"
    for role, number in (("collect", 96), ("evaluate", documents)):
        for i in range(number):
            row: Row = {
                "model": model.name,
                "data": model.data,
                "role": role,
                "document": f"{role}-{i // 2 if role == 'collect' else i}",
                "sequence": i if role == "collect" else 1000 + i,
            }
            if text:
                row |= {"bytes": 420, "input": [0, 5, 6], "target": [5, 6, -100], "kind": None}
            else:
                row |= {"image": [0] * 192, "shape": [8, 8, 3], "target": i % 10}
            rows.append(row)
    file = folder / "data" / slug(model.name) / f"{model.data}.parquet"
    _write(file, rows, "text" if text else "images")


def _executions(rng: np.random.Generator, folder: Path, cells: pl.DataFrame, layers: int) -> None:
    rows = [
        {
            "cell": cell,
            "told": held,
            "held": held,
            "held_by_layer": [held // layers] * layers,
            "seconds": float(rng.uniform(0.1, 0.3)),
            "worker": f"worker-{i % 2}",
            "device": "cpu",
            "threads": 1,
            "versions": '{"torch":"2.14.0"}',
            "statistics_digest": "0" * 24,
            "hostname_hash": "f00d",
        }
        for i, (cell, held) in enumerate(
            cells.unique("cell", maintain_order=True).select("cell", "units_held").rows()
        )
    ]
    _write(folder / "executions" / "part.parquet", rows, "executions")


def _provenance(models: Sequence[Made]) -> Row:
    return {
        "python": "3.11.14",
        "platform": "Linux-6.1-x86_64",
        "libraries": {"peaksweep": "0.1.0", "torch": "2.14.0", "transformers": "5.23.0"},
        "algorithms": {"cell": 1, "collect": 1},
        "models": {
            m.name: {
                "folder": f"/models/{slug(m.name)}",
                "revision": None,
                "digest": "9f2c" * 16,
                "family": m.modality,
                "parameters": 1_070_592,
                "layers": 4,
                "neurons": 128,
                "dtype": "float32",
                "device": "cpu",
                "threads": 1,
            }
            for m in models
        },
    }


def _spec(models: Sequence[Made], masks: int) -> str:
    names = "\n".join(f"  - {json.dumps(m.name)}" for m in models)
    return f"""name: embedded
models:
{names}
data:
  stdlib: {{source: "zoo:text", collect: {{split: train}}, evaluate: {{split: test}}}}
  digits: {{source: "zoo:digits", collect: {{split: train}}, evaluate: {{split: test}}}}
methods: [zero, mean, peak, {{peak: {{estimator: paper}}}}, {{resample: {{source: dataset}}}}]
fractions: {{start: 0, stop: 1, step: 0.1}}
seeds: {masks}
contrasts: [[peak, mean], [peak, zero]]
"""


def _write(file: Path, rows: Sequence[Row], schema: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMAS[schema]), file)
