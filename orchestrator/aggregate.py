"""Aggregate: from per-sequence sums to numbers with error bars.

Tables, each made anew from `cells` and `results` (or `executions`) whenever asked:

    summary     a row per nominal point: its levels with standard errors, and its
                change against the unablated model with intervals. One mask at a time, so
                the errors are those of the documents alone
    contrasts   methods, selections and bases against each other, mask by mask and document
                by document; the interval covers documents and masks
    curves      the mean over masks at each held share, with pointwise and simultaneous
                bands that cover documents and masks, and the s.d. over masks
    areas       the mean level under each curve
    deletions   units held in each layer

The summary is made here; the others in modules of their names. This module is the door
through which all of them, and the notes, are imported.

Levels are ratios of sums (loss over tokens), not means of ratios: `orchestrator.answers` lists
the metrics, `orchestrator.intervals` says what the intervals assume and how often they cover.
Top-1 is a share, 0 to 1, of scored tokens; cross-entropy is in nats per token.
Cells may have read different numbers of documents (`orchestrator.extents`): a level is over
all that its cell read, and whatever is compared over those that all of it read.
What a running sweep has not answered yet is absent, never an error; a cell that has not
answered one whole round of documents has levels but no change, and takes no part in
contrasts, curves and areas.

Shapes: C cells, G documents.
"""

import numpy as np
import polars as pl

from orchestrator.answers import (
    METRICS,
    RATIOS,
    SEEDS,
    Answers,
    DifferingAnswersError,
    DifferingRoundsError,
    Integers,
    UnknownMetricError,
    answers,
    distinct,
    label,
    method_label,
    nominal,
)
from orchestrator.contrasts import contrasts
from orchestrator.curves import areas, curves
from orchestrator.deletions import deletions
from orchestrator.groups import GROUP
from orchestrator.intervals import clustered
from orchestrator.notes import notes

__all__ = [
    "DifferingAnswersError",
    "DifferingRoundsError",
    "UnknownMetricError",
    "areas",
    "contrasts",
    "curves",
    "deletions",
    "distinct",
    "label",
    "method_label",
    "notes",
    "summary",
]

_COUNTS = ("tokens", "documents")
_PLAIN = ("top10", "kl", "bits_per_byte", "top1_rare", "top1_mask", "ce_mask", "perplexity")
_LEVELS = ("top1", "top1_se", "top10", "ce", "ce_se", *_PLAIN[1:])
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
    text); with it, causal models get bits per byte. A metric that does not apply is null. Errors
    are those of the documents; one document has none (null). Levels, `tokens` and `documents` are
    over all documents that a cell read, changes over those of its baseline among them. Raises
    DifferingAnswersError and DifferingRoundsError.
    """
    points = nominal(cells)
    # One frame per (model, data); the empty one gives a sweep without results its columns.
    levels = [pl.DataFrame(schema=_SUMMARY)]
    levels += [_levels(points, found) for found in answers(points, results, documents_bytes)]
    rows = points.join(pl.concat(levels), on="cell")
    rows = rows.with_columns(
        pl.when(pl.col("modality") == "causal").then("bits_per_byte"),
        pl.when(pl.col("modality") != "image").then("perplexity"),
    )
    order = [*GROUP, "method", "parameters", "fraction", *SEEDS, "cell"]
    return rows.sort(order, nulls_last=False)


def _levels(points: pl.DataFrame, found: Answers) -> pl.DataFrame:
    """Return the summary's columns of each cell of one (model, data)."""
    totals = found.totals
    columns: dict[str, object] = {"cell": found.cells, "documents": found.seen_C}
    columns["tokens"] = totals["tokens"].astype(np.int64)
    base_C = _baselines(points, found)
    compared_C = (base_C >= 0) & found.complete_C
    common_C = np.where(compared_C, np.minimum(found.extent_C, found.extent_C[base_C]), 0)
    for metric in METRICS:
        measure = found.measures[metric]
        level = clustered(measure.level_C, measure.residuals_CG, found.seen_C)
        columns |= {metric: level.value, f"{metric}_se": np.sqrt(level.variance)}
        # Without a baseline, and of a cell answered in part, the change is unknown: NaN.
        known_C = np.where(compared_C, 0.0, np.nan)
        value_C, residuals_CG = measure.at(np.arange(len(found.cells)), common_C)
        base_value_C, base_CG = measure.at(base_C, common_C)
        change = clustered(
            value_C - base_value_C + known_C,
            residuals_CG - base_CG,
            measure.documents(common_C),
        )
        columns |= {f"d_{metric}": change.value}
        columns |= {f"d_{metric}_low": change.low, f"d_{metric}_high": change.high}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        made = {name: totals[RATIOS[name][0]] / totals[RATIOS[name][1]] for name in _PLAIN}
        made["perplexity"] = np.exp(found.measures["ce"].level_C)
    columns |= {name: np.where(np.isfinite(x), x, np.nan) for name, x in made.items()}
    frame = pl.DataFrame({name: columns[name] for name in _SUMMARY})
    return frame.cast(_SUMMARY).fill_nan(None)


def _baselines(points: pl.DataFrame, found: Answers) -> Integers:
    """Return the row of each cell's baseline, (C,); −1 where it is missing or incomplete."""
    # Whatever would be held where: nothing is.
    keys = ["dtype", "basis", "masking_seed"]
    points = points.filter(pl.col("model") == found.model, pl.col("data") == found.data)
    zero = points.filter(pl.col("fraction") == 0)
    zero = zero.group_by(keys).agg(baseline=pl.col("cell").min())
    pairs = points.select(*keys, "cell").unique()
    pairs = pairs.join(zero, on=keys, how="left", nulls_equal=True)
    of = dict(pairs.select("cell", "baseline").iter_rows())
    row = {cell: i for i, cell in enumerate(found.cells) if found.complete_C[i]}
    return np.array([row.get(of[cell], -1) for cell in found.cells], dtype=np.int64)
