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
    logit_diff      the answer's logit less the mean of the wrong ones', in nats, over
                    prompts whose loss is a number; paired prompts
    choice          share of prompts whose answer's logit is above all wrong ones'; the same

Assumes that a sweep's cells are all scored on the same positions of the same
sequences, round by round (`orchestrator.extents`): a cell may have stopped after
some of them, and is compared over these. A cell with fewer sequences than its
peers in the first round (of a sweep still running) is *incomplete*: it has levels,
over what is there, but no part in comparisons.

Answers may be more than fit into memory: they are read in buckets of whole cells
(`orchestrator.buckets`) and added up bucket by bucket (`orchestrator.sums`). What stays in memory
is a few numbers per cell; of sums and residuals by document as many rows as are asked for.

Shapes: C cells, G documents.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orchestrator import labels, scratch
from orchestrator.buckets import RESULTS, DifferingAnswersError, buckets, distinct
from orchestrator.extents import Measure
from orchestrator.intervals import Floats
from orchestrator.sums import RATIOS, DifferingRoundsError, Integers, Sums

__all__ = [
    "METRICS",
    "RATIOS",
    "RESULTS",
    "SEEDS",
    "Answers",
    "DifferingAnswersError",
    "DifferingRoundsError",
    "Integers",
    "UnknownMetricError",
    "answers",
    "distinct",
    "label",
    "method_label",
    "nominal",
]

METRICS = ("top1", "ce")
"""What is compared where nothing else is asked for."""

SEEDS = ["seed", "donor_seed", "noise_seed", "masking_seed"]
"""Columns of `cells` that are null where a point has no such seed."""


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
    `metrics` are those that get a level and residuals, where they apply. All rows are read before
    the first is yielded. Raises DifferingAnswersError, DifferingRoundsError, UnknownMetricError
    and ScratchError.
    """
    strangers = [m for m in metrics if m not in RATIOS]
    if strangers:
        raise UnknownMetricError(
            f"the metrics {', '.join(strangers)} were asked for, expected some of"
            f" {', '.join(RATIOS)}; correct the names"
        )
    keys = ["model", "data", "cell"]
    owners = cells.select(*keys, "modality").unique().sort(keys).with_row_index("number")
    owners = owners.with_columns(pair=pl.struct("model", "data").rle_id())
    found = buckets(results, owners)
    documents = found.documents.drop_nulls()
    owned = found.cells.drop_nulls("pair")
    numbers = owned.group_by("pair").len().join(documents.group_by("pair").len("G"), on="pair")
    filed = int((numbers["len"].cast(pl.Int64) * numbers["G"]).sum()) > scratch.BLOCK
    if sizes is not None:
        sizes = sizes.select("model", "data", "sequence", "bytes").unique()
    made: dict[int, Sums] = {}
    for pair, rows in found.frames(results):
        if pair not in made:
            here = owners.filter(pl.col("pair") == pair)
            made[pair] = Sums(
                here.row(0, named=True),
                owned.filter(pl.col("pair") == pair)["cell"].to_list(),
                documents.filter(pl.col("pair") == pair)["place"].to_numpy().astype(np.int64),
                list(dict.fromkeys(metrics)),
                filed=filed,
            )
        made[pair].add(_sized(rows, sizes, made[pair]))
    for pair in sorted(made):
        sums = made.pop(pair)
        extent_C = sums.extents()
        yield Answers(
            model=sums.model,
            data=sums.data,
            cells=sums.cells,
            extent_C=extent_C,
            seen_C=sums.seen_C,
            totals=sums.totals,
            measures=sums.measures(extent_C),
        )


def _sized(rows: pl.DataFrame, sizes: pl.LazyFrame | None, owner: Sums) -> pl.DataFrame:
    """Return rows with the bytes of their sequences, null where they are not known."""
    if sizes is None:
        return rows.with_columns(bytes=pl.lit(None, pl.Float64))
    own = sizes.filter(pl.col("model") == owner.model, pl.col("data") == owner.data)
    known = own.select("sequence", "bytes").collect()
    return rows.join(known, on="sequence", how="left", maintain_order="left")
