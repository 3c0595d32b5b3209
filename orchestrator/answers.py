"""Answers: the results of a sweep, as arrays that statistics can be made of.

`results` holds sums per (cell, sequence). What is compared are ratios of sums
over documents, so the sequences of a document are added up, in order of their
number, and each (model, data) becomes a table of cells by documents.

    top1 top10      share of scored tokens whose target is ranked first, or tenth or better
    ce              cross-entropy in nats per token, over tokens whose loss is a number
    kl              KL(unablated ‖ ablated) in nats, over the same
    top1_rare       Top-1 of the tokens that are none of the most common; text
    top1_mask       Top-1 of the tokens that were fed `<mask>`; masked models
    ce_mask         cross-entropy of these, null where a loss of the cell is not a number
    perplexity      exp(ce); text. Its error is that of ce times exp(ce) (delta method)
    bits_per_byte   loss over ln 2 and the bytes of the text, null where a loss is not a
                    number; causal models

Assumes that a sweep's cells are all scored on the same positions of the same
sequences, round by round (`orchestrator.extents`): a cell may have stopped after
some of them, and is compared over these. A cell with fewer sequences than its
peers in the first round (of a sweep still running) is *incomplete*: it has levels,
over what is there, but no part in comparisons.

Shapes: R rows of results, C cells, G documents.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orchestrator import labels
from orchestrator.extents import Measure, extents, measure
from orchestrator.intervals import Floats

Integers = NDArray[np.int64]

METRICS = ("top1", "ce")
"""What is compared where nothing else is asked for."""

RATIOS: Mapping[str, tuple[str, str]] = {
    "top1": ("top1", "tokens"),
    "top10": ("top10", "tokens"),
    "ce": ("loss", "numbers"),
    "kl": ("kl", "numbers"),
    "top1_rare": ("top1_rare", "tokens_rare"),
    "top1_mask": ("top1_mask", "tokens_mask"),
    "ce_mask": ("loss_mask", "tokens_mask"),
    "perplexity": ("loss", "numbers"),
    "bits_per_byte": ("bits", "bytes"),
}
"""Per metric: which sum over which."""

_ONLY = {"perplexity": ("causal", "masked"), "bits_per_byte": ("causal",)}
"""Modalities of a metric whose sums others have too, without a meaning."""

SEEDS = ["seed", "donor_seed", "noise_seed", "masking_seed"]
"""Columns of `cells` that are null where a point has no such seed."""

RESULTS = pl.Schema(
    {
        "cell": pl.String,
        "document": pl.String,
        "sequence": pl.Int64,
        "round": pl.Int64,
        "tokens": pl.Int64,
        "top1": pl.Int64,
        "top10": pl.Int64,
        "loss": pl.Float64,
        "kl": pl.Float64,
        "tokens_rare": pl.Int64,
        "top1_rare": pl.Int64,
        "tokens_mask": pl.Int64,
        "top1_mask": pl.Int64,
        "loss_mask": pl.Float64,
        "nan": pl.Int64,
    }
)


class DifferingAnswersError(ValueError):
    """A cell was answered twice, differently."""


class DifferingRoundsError(ValueError):
    """A document was visited in different rounds."""


class UnknownMetricError(ValueError):
    """A metric was asked for that is not made of results."""


def label(method: str, parameters: str) -> str:
    """Return a name as a sweep file says it: `peak`, `peak(paper)`, `quantile(0.9)`.

    `parameters` is canonical JSON.
    """
    return labels.label(method, json.loads(parameters))


def method_label(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with a column `label` made of its `method` and `parameters`."""
    kinds = frame.select("method", "parameters").unique()
    said = pl.Series("label", [label(*kind) for kind in kinds.iter_rows()], dtype=pl.String)
    return frame.join(kinds.with_columns(said), on=["method", "parameters"], how="left")


def distinct(results: pl.LazyFrame) -> pl.LazyFrame:
    """Return `results` with one row per (cell, sequence); without rounds, all is in round 0.

    A retried task can answer a cell again. Equal answers, in every column and to the last bit,
    are kept once; differing ones raise DifferingAnswersError, which names the cells.
    """
    if "round" not in results.collect_schema():
        results = results.with_columns(round=0)
    typed = results.select(pl.col(name).cast(kind) for name, kind in RESULTS.items())
    frame = typed.with_columns(pl.col("round").fill_null(0)).collect()
    if frame.select("cell", "sequence").n_unique() == frame.height:
        return frame.lazy()
    frame = frame.unique()
    again = frame.group_by("cell", "sequence").len().filter(pl.col("len") > 1)
    cells = again["cell"].unique().sort().to_list()
    if cells:
        shown = ", ".join(cells[:5]) + (", …" if len(cells) > 5 else "")
        raise DifferingAnswersError(
            f"{len(cells)} cells in `results` have two different answers for the same sequence:"
            f" {shown}. The same cell must give the same numbers; delete the parts that hold these"
            " cells, run again, and see in `executions` which worker and device gave which."
        )
    return frame.lazy()


def nominal(cells: pl.LazyFrame) -> pl.DataFrame:
    """Return the cells table in memory, its seeds as integers.

    A seed that no point uses is a column of nothing but nulls, which may have lost its type.
    """
    return cells.with_columns(pl.col(SEEDS).cast(pl.Int64)).collect()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What was measured of one (model, data)."""

    model: str
    data: str
    cells: list[str]
    """C names, ascending."""
    extent_C: Integers
    """Rounds that are answered whole, from the first one on: with as many sequences in each of
    them as any cell has."""
    seen_C: Integers
    """Documents with at least one scored token, per cell."""
    totals: Mapping[str, Floats]
    """Sums over sequences, (C,), of every column that `RATIOS` names; NaN if not known."""
    measures: Mapping[str, Measure]
    """Per metric that applies here, over the G documents with at least one token (or byte) that
    the metric counts."""

    @property
    def complete_C(self) -> NDArray[np.bool_]:
        """Whether a cell takes part in comparisons, over the rounds of its extent."""
        return self.extent_C > 0


def answers(
    cells: pl.DataFrame,
    results: pl.LazyFrame,
    sizes: pl.LazyFrame | None = None,
    metrics: Sequence[str] = METRICS,
) -> Iterator[Answers]:
    """Yield the answers of each (model, data) that has any, in order of their names.

    `sizes` gives columns model, data, sequence and bytes, the UTF-8 bytes of a sequence.
    `metrics` are those that get a level and residuals, where they apply.
    Raises DifferingAnswersError, DifferingRoundsError and UnknownMetricError.
    """
    strangers = [m for m in metrics if m not in RATIOS]
    if strangers:
        raise UnknownMetricError(
            f"the metrics {', '.join(strangers)} were asked for, expected some of"
            f" {', '.join(RATIOS)}; correct the names"
        )
    keys = ["model", "data", "cell"]
    owners = cells.select(*keys, "modality").unique().sort(keys).with_row_index("number")
    every = distinct(results).collect()
    documents = every.select(pl.col("document").unique().sort()).with_row_index("place")
    # The order fixes the order of every sum: no result depends on the order of files or threads.
    # Sorting numbers in place of names is several times faster.
    rows = (
        every.join(owners.select("cell", "number"), on="cell")
        .join(documents, on="document")
        .drop("cell", "document")
        .sort("number", "place", "sequence")
    )
    if sizes is not None:
        sizes = sizes.select("model", "data", "sequence", "bytes").unique()
    for block in owners.partition_by("model", "data", maintain_order=True):
        here = rows.filter(pl.col("number").is_between(block["number"][0], block["number"][-1]))
        if here.is_empty():
            continue
        if sizes is None:
            here = here.with_columns(bytes=pl.lit(None, pl.Float64))
        else:
            model, data = block["model"][0], block["data"][0]
            own = sizes.filter(pl.col("model") == model, pl.col("data") == data)
            known = own.select("sequence", "bytes").collect()
            here = here.join(known, on="sequence", how="left", maintain_order="left")
        yield _answers(block, here, metrics)


def _answers(owners: pl.DataFrame, rows: pl.DataFrame, metrics: Sequence[str]) -> Answers:
    cell_R = rows["number"].rle_id().to_numpy().astype(np.int64)
    place_R = rows["place"].to_numpy().astype(np.int64)
    # Places count the documents of all models; here only those of this one get a column.
    document_R = (np.cumsum(np.bincount(place_R) > 0) - 1)[place_R]
    shape = (int(cell_R[-1]) + 1, int(document_R.max()) + 1)
    cells, documents = shape

    def column(name: str) -> Floats:
        return rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    def summed(index_R: Integers, values_R: Floats, size: int) -> Floats:
        # In the order of the rows, one after the other: the same on any number of threads.
        return np.asarray(np.bincount(index_R, values_R, size), dtype=np.float64)

    def by_document(values_R: Floats) -> Floats:
        return summed(cell_R * documents + document_R, values_R, cells * documents).reshape(shape)

    lost_R = column("nan") > 0
    made = {
        "numbers": column("tokens") - column("nan"),
        # Which tokens have no loss is not kept, so of a part of the tokens nothing is known.
        "bits": np.where(lost_R, np.nan, column("loss") / math.log(2)),
        "loss_mask": np.where(lost_R, np.nan, column("loss_mask")),
    }
    sums = {name: made.get(name) for pair in RATIOS.values() for name in pair}
    sums_R = {name: column(name) if x is None else x for name, x in sums.items()}
    round_R = rows["round"].to_numpy().astype(np.int64)
    extent_C = extents(cell_R, round_R)
    alike = bool(np.isin(extent_C, (0, round_R.max() + 1)).all())
    round_G = _rounds(owners, document_R, round_R)
    measures = {}
    for metric in dict.fromkeys(metrics):
        over, under = RATIOS[metric]
        known = not any(np.isnan(sums_R[name]).all() for name in (over, under))
        if not known or owners["modality"][0] not in _ONLY.get(metric, [owners["modality"][0]]):
            continue
        under_CG = by_document(sums_R[under])
        counted_G = by_document(sums_R["tokens" if under == "numbers" else under]).any(axis=0)
        measures[metric] = measure(
            by_document(sums_R[over])[:, counted_G],
            under_CG[:, counted_G],
            round_G[counted_G],
            alike=alike,
            exponential=metric == "perplexity",
        )
    return Answers(
        model=owners["model"][0],
        data=owners["data"][0],
        cells=owners.filter(pl.col("number").is_in(rows["number"].implode()))["cell"].to_list(),
        extent_C=extent_C,
        seen_C=(by_document(column("tokens")) > 0).sum(axis=1),
        totals={name: summed(cell_R, values_R, cells) for name, values_R in sums_R.items()},
        measures=measures,
    )


def _rounds(owners: pl.DataFrame, document_R: Integers, round_R: Integers) -> Integers:
    """Return the round of every document, (G,)."""
    round_G = np.zeros(int(document_R.max()) + 1, dtype=np.int64)
    round_G[document_R] = round_R
    moved = np.unique(document_R[round_G[document_R] != round_R])
    if len(moved):
        raise DifferingRoundsError(
            f"{len(moved)} documents of {owners['model'][0]} on {owners['data'][0]} are in one"
            " round in some rows of `results` and in another in others, expected the same in all:"
            " these are answers of sweeps that visit documents in different orders; delete the"
            " parts that are not of this one and run it again"
        )
    return round_G
