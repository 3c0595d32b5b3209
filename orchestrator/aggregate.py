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
through which all of them, and the notes, are imported. `tables` makes all that results are
needed for from one reading of these; each function alone reads them anew.

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

from collections.abc import Iterable, Iterator, Sequence

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
from orchestrator.contrasts import contrasted, contrasts
from orchestrator.curves import areas, curved, curves, enclosed
from orchestrator.deletions import deletions
from orchestrator.extents import Measure
from orchestrator.groups import GROUP
from orchestrator.intervals import Estimate, clustered, of_squares
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
    "tables",
]

_COUNTS = ("tokens", "documents")
_PLAIN = ("top10", "kl", "bits_per_byte", "top1_rare", "top1_mask", "ce_mask", "perplexity")
_LEVELS = ("top1", "top1_se", "top10", "ce", "ce_se", *_PLAIN[1:])
_PAIRED = ("logit_diff", "choice")
_CHANGES = tuple(f"d_{m}{end}" for m in METRICS for end in ("", "_low", "_high"))
_SUMMARY = pl.Schema(
    {"cell": pl.String}
    | dict.fromkeys(_COUNTS, pl.Int64)
    | dict.fromkeys((*_LEVELS, *_CHANGES, *_PAIRED), pl.Float64)
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
    return _summary(points, answers(points, results, documents_bytes))


def tables(
    cells: pl.LazyFrame,
    results: pl.LazyFrame,
    declared: Sequence[tuple[str, str]],
    *,
    metrics: Sequence[str] = METRICS,
    documents_bytes: pl.LazyFrame | None = None,
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield `summary`, `contrasts`, `curves` and `areas`, each with its name, bit for bit as alone.

    The results are read once; a table that is taken and let go needs no memory any more. Raises
    what the functions of these names raise, before the first is yielded.
    """
    points = nominal(cells)
    found = list(answers(points, results, documents_bytes, [*METRICS, *metrics]))
    yield "summary", _summary(points, found)
    yield "contrasts", contrasted(points, found, declared, metrics)
    yield "curves", curved(points, found, metrics)
    yield "areas", enclosed(points, found, metrics)


def _summary(points: pl.DataFrame, every: Iterable[Answers]) -> pl.DataFrame:
    # One frame per (model, data); the empty one gives a sweep without results its columns.
    levels = [pl.DataFrame(schema=_SUMMARY), *(_levels(points, found) for found in every)]
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
        level = of_squares(measure.level_C, measure.squares_C, found.seen_C)
        columns |= {metric: level.value, f"{metric}_se": np.sqrt(level.variance)}
        change = _changes(measure, base_C, common_C)
        # Without a baseline, and of a cell answered in part, the change is unknown.
        known_C = np.where(compared_C, 0.0, np.nan)
        ends = {"": change.value, "_low": change.low, "_high": change.high}
        columns |= {f"d_{metric}{end}": number + known_C for end, number in ends.items()}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        plain = (*_PLAIN, *_PAIRED)
        made = {name: totals[RATIOS[name][0]] / totals[RATIOS[name][1]] for name in plain}
        made["perplexity"] = np.exp(found.measures["ce"].level_C)
    columns |= {name: np.where(np.isfinite(x), x, np.nan) for name, x in made.items()}
    frame = pl.DataFrame({name: columns[name] for name in _SUMMARY})
    return frame.cast(_SUMMARY).fill_nan(None)


def _changes(measure: Measure, base_C: Integers, common_C: Integers) -> Estimate:
    """Return each cell's change against the cell of row `base_C`, over its first rounds, (C,)."""
    value_C, variance_C, degrees_C = (np.empty(len(base_C)) for _ in range(3))
    documents_C = measure.documents(common_C)
    for at in measure.residuals_CG.blocks():
        value, residuals_XG = measure.at(at, common_C[at])
        base_value, base_XG = measure.at(base_C[at], common_C[at])
        made = clustered(value - base_value, residuals_XG - base_XG, documents_C[at])
        value_C[at], variance_C[at], degrees_C[at] = made.value, made.variance, made.degrees
    return Estimate(value=value_C, variance=variance_C, degrees=degrees_C)


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
    whole_C = found.complete_C.tolist()
    row = {cell: i for i, cell in enumerate(found.cells) if whole_C[i]}
    return np.array([row.get(of[cell], -1) for cell in found.cells], dtype=np.int64)
