"""Agreement: cells of one name in two runs, and whether their answers are the same to the bit.

A cell is named by the recipe of everything that changes its answer, and by nothing else. So two
runs of one sweep, on other machines or by other versions, answer the cells of one name alike: every
integer, and on the same kind of hardware every digit. A cell that does not says that something
changes answers which is not in its name: another kind of device, a library, or a mistake of ours.

Compared are the sequences that both runs have answered; that one run has read further is no
disagreement.
"""

from dataclasses import dataclass

import polars as pl

from orchestrator.buckets import RESULTS

_NUMBERS = [c for c in RESULTS if c not in ("cell", "document", "sequence", "round")]
_INTEGERS = [c for c in _NUMBERS if RESULTS[c] == pl.Int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How the cells of one name agree."""

    shared: int
    """Cells that both runs have answers to."""
    differing: pl.DataFrame
    """A row per cell that differs: cell, sequences (how many of those that both have), integers
    (whether a count differs too), largest (the largest difference of a loss, nats), columns."""
    cells: tuple[int, int]
    """Cells that either run has answers to."""


def agreement(a: pl.LazyFrame, b: pl.LazyFrame) -> Agreement:
    """Return how the answers of two runs' `results` agree, by cell and sequence."""
    left, right = (_typed(rows) for rows in (a, b))
    counts = [
        rows.select("cell").unique().collect(engine="streaming").get_column("cell")
        for rows in (left, right)
    ]
    shared = counts[0].is_in(counts[1].implode()).sum()
    apart = {c: pl.col(c).ne_missing(pl.col(f"{c}_b")) for c in _NUMBERS}
    far = (pl.col("loss") - pl.col("loss_b")).abs()
    both = left.join(right, on=["cell", "sequence"], suffix="_b")
    differing = (
        both.filter(pl.any_horizontal(*apart.values()))
        .group_by("cell")
        .agg(
            sequences=pl.len(),
            integers=pl.any_horizontal(*(apart[c] for c in _INTEGERS)).any(),
            largest=far.max(),
            columns=pl.concat_list(
                pl.when(apart[c].any()).then(pl.lit(c)) for c in _NUMBERS
            ).list.drop_nulls(),
        )
        .sort("cell")
        .collect(engine="streaming")
    )
    return Agreement(
        shared=int(shared), differing=differing, cells=(len(counts[0]), len(counts[1]))
    )


def _typed(rows: pl.LazyFrame) -> pl.LazyFrame:
    there = rows.collect_schema()
    lacking = [pl.lit(None).alias(c) for c in _NUMBERS if c not in there]
    rows = rows.with_columns(lacking)
    return rows.select(pl.col(c).cast(RESULTS[c]) for c in ("cell", "sequence", *_NUMBERS))
