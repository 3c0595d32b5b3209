"""Aggregate: from per-sequence sums to numbers with error bars.

Three tables, each made anew from `cells` and `results` whenever asked:

    summary     a row per nominal point: its levels with standard errors, and its
                change against the unablated model with intervals. One mask at a time, so
                the errors are those of the documents alone
    contrasts   declared pairs of methods, mask by mask and document by document; the
                interval covers documents and masks
    curves      the mean over masks at each held share, with a pointwise band that
                covers documents and masks, and the s.d. over masks

The summary is made here, the other two in `orchestrator.comparisons`.

Levels are ratios of sums (loss over tokens), not means of ratios; `orchestrator.intervals`
says what the intervals assume and how often they cover. Top-1 is a share, 0 to 1, of all
scored tokens; cross-entropy is in nats per token, over the tokens whose loss is a number.
What a running sweep has not answered yet is absent, never an error; a cell answered in
part has levels but no change, and takes no part in contrasts and curves.

Shapes: C cells, G documents.
"""

import math

import numpy as np
import polars as pl

from orchestrator.answers import (
    GROUP,
    METRICS,
    RESULTS,
    SEEDS,
    Answers,
    DifferingAnswersError,
    Integers,
    answers,
    distinct,
    label,
    method_label,
    nominal,
)
from orchestrator.comparisons import contrasts, curves
from orchestrator.intervals import FEW_CLUSTERS, clustered

__all__ = [
    "DifferingAnswersError",
    "contrasts",
    "curves",
    "distinct",
    "label",
    "method_label",
    "notes",
    "summary",
]

_COUNTS = ("tokens", "documents")
_LEVELS = ("top1", "top1_se", "top10", "ce", "ce_se", "kl", "bits_per_byte")
_CHANGES = tuple(f"d_{m}{end}" for m in METRICS for end in ("", "_low", "_high"))
_SUMMARY = pl.Schema(
    {"cell": pl.String}
    | dict.fromkeys(_COUNTS, pl.Int64)
    | dict.fromkeys((*_LEVELS, *_CHANGES), pl.Float64)
)


def summary(
    cells: pl.LazyFrame, results: pl.LazyFrame, documents_bytes: pl.LazyFrame | None
) -> pl.DataFrame:
    """Return one row per nominal point that is answered: levels, and changes to the baseline.

    `documents_bytes` has columns model, data, sequence and bytes (UTF-8 bytes of the sequence's
    text); with it, causal models get bits per byte: the summed loss over the bytes, null where a
    loss is not a number. Errors are those of the documents; one document has none (null).
    Raises DifferingAnswersError.
    """
    points = nominal(cells)
    # One frame per (model, data); the empty one gives a sweep without results its columns.
    levels = [pl.DataFrame(schema=_SUMMARY)]
    levels += [_levels(points, found) for found in answers(points, results, documents_bytes)]
    rows = points.join(pl.concat(levels), on="cell")
    causal = pl.col("modality") == "causal"
    rows = rows.with_columns(pl.when(causal).then(pl.col("bits_per_byte")))
    order = [*GROUP, "method", "parameters", "fraction", *SEEDS, "cell"]
    return rows.sort(order, nulls_last=False)


def notes(summary: pl.DataFrame, results: pl.LazyFrame | None = None) -> list[str]:
    """Return what a reader of the summary must be told, a sentence each.

    Few documents; points answered in part; and, given the results, positions without a loss.
    """
    nan = pl.DataFrame(schema=RESULTS)
    if results is not None:
        nan = distinct(results).filter(pl.col("nan") > 0).collect()
    said = []
    for (model, data), rows in summary.group_by("model", "data", maintain_order=True):
        name = f"{model} on {data}"
        documents = rows["documents"].to_numpy().max()
        if documents < FEW_CLUSTERS:
            said.append(
                f"{name}: {documents} documents; standard errors and intervals from fewer than"
                f" {FEW_CLUSTERS} are rough, and tend to be too narrow."
            )
        partly = rows.filter(pl.col("tokens") < pl.col("tokens").max())["cell"].n_unique()
        if partly:
            said.append(f"{name}: {partly} cells are answered in part, so without comparisons.")
        here = nan.join(rows.select("cell").unique(), on="cell")
        lost, where = here["nan"].sum(), here["cell"].n_unique()
        if lost:
            said.append(
                f"{name}: the loss of {lost} scored positions, in {where} cells, is not a number;"
                " cross-entropy leaves them out, Top-1 does not."
            )
    return said


def _levels(points: pl.DataFrame, found: Answers) -> pl.DataFrame:
    """Return the summary's columns of each cell of one (model, data)."""
    totals = found.totals
    nan_C = totals["nan"] > 0
    columns: dict[str, object] = {"cell": found.cells, "documents": found.seen_C}
    columns["tokens"] = totals["tokens"].astype(np.int64)
    base_C = _baselines(points, found)
    for metric in METRICS:
        value_C, residuals_CG = found.ratio[metric], found.residuals[metric]
        level = clustered(value_C, residuals_CG, found.seen_C)
        columns |= {metric: value_C, f"{metric}_se": np.sqrt(level.variance)}
        # Without a baseline, and of a cell answered in part, the change is unknown: NaN.
        known_C = np.where((base_C >= 0) & found.complete_C, 0.0, np.nan)
        changed = residuals_CG - residuals_CG[base_C]
        change = clustered(value_C - value_C[base_C] + known_C, changed, found.seen_C)
        columns |= {f"d_{metric}": change.value}
        columns |= {f"d_{metric}_low": change.low, f"d_{metric}_high": change.high}
    with np.errstate(invalid="ignore", divide="ignore"):
        columns["top10"] = totals["top10"] / totals["tokens"]
        columns["kl"] = totals["kl"] / (totals["tokens"] - totals["nan"])
        bits_C = totals["loss"] / math.log(2) / totals["bytes"]
        columns["bits_per_byte"] = np.where(nan_C, np.nan, bits_C)
    frame = pl.DataFrame({name: columns[name] for name in _SUMMARY})
    return frame.cast(_SUMMARY).fill_nan(None)


def _baselines(points: pl.DataFrame, found: Answers) -> Integers:
    """Return the row of each cell's baseline, (C,); −1 where it is missing or incomplete."""
    keys = ["dtype", "site", "unit", "layers", "masking_seed"]
    points = points.filter(pl.col("model") == found.model, pl.col("data") == found.data)
    zero = points.filter(pl.col("fraction") == 0)
    zero = zero.group_by(keys).agg(baseline=pl.col("cell").min())
    pairs = points.select(*keys, "cell").unique()
    pairs = pairs.join(zero, on=keys, how="left", nulls_equal=True)
    of = dict(pairs.select("cell", "baseline").iter_rows())
    row = {cell: i for i, cell in enumerate(found.cells) if found.complete_C[i]}
    return np.array([row.get(of[cell], -1) for cell in found.cells], dtype=np.int64)
