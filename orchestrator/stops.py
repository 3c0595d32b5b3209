"""Stops: where a sweep with `precision` stopped reading, and how well it knows what it asked.

One row per contrast of every company (`orchestrator.stopping`): the difference a − b over the
documents that were read, with the ends of its 95 % confidence sequence. These ends may be
looked at after every round and stopped at: they hold at all rounds at once. The
intervals of other tables are those of a number of documents that was fixed beforehand.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from orchestrator import scratch
from orchestrator.buckets import distinct
from orchestrator.pairs import Precision
from orchestrator.stopping import COLUMNS, COMPANY, Judge, Visits, companies, frontier, whole

SCHEMA = pl.Schema(
    dict.fromkeys(COMPANY, pl.String)
    | {"complement": pl.Boolean, "fraction": pl.Float64}
    | {"seed": pl.Int64, "masking_seed": pl.Int64}
    | dict.fromkeys(("a", "b", "metric"), pl.String)
    | dict.fromkeys(("rounds", "rounds_total", "documents", "documents_total"), pl.Int64)
    | dict.fromkeys(("estimate", "low", "high", "halfwidth"), pl.Float64)
    | {"reached": pl.Boolean}
)
"""Columns of the table: `halfwidth` is what was asked, `reached` whether this contrast has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How far the cells of a sweep with precision have been read."""

    judge: Judge
    answered: Mapping[str, Sequence[int]]
    """Rounds of every cell that has an answer."""


def reading(
    cells: pl.LazyFrame,
    results: pl.LazyFrame,
    seen: Callable[[str], Visits],
    pairs: Sequence[tuple[str, str]],
    precision: Precision,
) -> Reading:
    """Return how far cells have been read, from the tables of a run.

    `seen` gives the documents of a model. Raises DifferingAnswersError.
    """
    every = companies(cells.collect().to_arrow(), pairs)
    owned = pl.col("cell").is_in([cell for company in every for cell in company.cells])
    results = results.filter(owned)
    # Some cells at a time: the judge keeps two numbers per document, a table of answers many.
    rows = int(results.select(pl.len()).collect(engine="streaming").item())
    parts = rows // scratch.BLOCK + 1
    judge = Judge(every, seen, precision)
    answered: dict[str, Sequence[int]] = {}
    for part in range(parts):
        found = distinct(results.filter(pl.col("cell").hash() % parts == part)).collect()
        there = found.select("cell", "round").unique().group_by("cell").agg("round")
        answered |= dict(there.iter_rows())
        judge.measured.add(found.select(COLUMNS).to_arrow())
    return Reading(judge=judge, answered=answered)


def stops(found: Reading) -> pl.DataFrame:
    """Return where each company stopped; of what has no answer yet there is no row."""
    precision, rows = found.judge.precision, []
    for company in found.judge.every:
        rounds = frontier(company, found.answered)
        if not rounds:
            continue
        seen = found.judge.measured.seen(company.model)
        intervals = found.judge.measured.intervals(company, rounds)
        for contrast, interval in zip(company.contrasts, intervals, strict=True):
            row = {**company.key, "a": contrast.a, "b": contrast.b, "metric": precision.metric}
            row |= {name: getattr(interval, name) for name in ("estimate", "low", "high")}
            row |= {"halfwidth": precision.halfwidth}
            row |= {"reached": interval.half_width <= precision.halfwidth}
            rows.append(row | _documents(seen, rounds))
    return pl.DataFrame(rows, schema=SCHEMA)


def unfinished(found: Reading, cells: Collection[str]) -> set[str]:
    """Return those of some cells in companies that are to be read further."""
    lacking = set()
    for number, company in enumerate(found.judge.every):
        rounds = frontier(company, found.answered)
        extent = found.judge.extent(number, rounds) if rounds else None
        lacking |= {
            cell
            for cell in company.cells
            if extent is None or whole(found.answered.get(cell, ())) < extent
        }
    return lacking & set(cells)


def _documents(seen: Visits, rounds: int) -> dict[str, object]:
    return {
        "rounds": rounds,
        "rounds_total": seen.rounds,
        "documents": sum(r < rounds for r in seen.round_of.values()),
        "documents_total": len(seen.round_of),
    }
