"""Buckets: rows of `results`, read once and handed on cell by cell, a bounded number at a time.

A sweep's answers lie in files as they were computed: the parts of a cell (some rounds each)
in any of them, and after a compaction that was cut short a row may stand in two. Statistics
need all rows of a cell together. So the names of cells are counted first, and cells are cut
into buckets of about `scratch.BLOCK` rows; then the rows are read once, in any order, and
spread over the buckets (`scratch.Spill`); then the buckets are gone through one by one. Where
all rows fit into one block nothing is written.

`distinct` is the rule of what counts as one answer, for a table that fits into memory and for
every bucket alike: a cell is in one bucket, so copies and contradictions meet there.

Memory: a few copies of one bucket, and 100 to 150 bytes per cell. Weak where one cell alone
has more rows than fit: a bucket holds at least one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from orchestrator import scratch

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
        "logit_diff": pl.Float64,
        "choice": pl.Int64,
    }
)
"""Columns of `results` that count."""
_OPTIONAL = ("logit_diff", "choice")
"""Of these, columns that tables of earlier versions lack; null there."""

FILE = "file"
"""A column that says which file a row is of, where the frame that is given has it."""


_KEY = (pl.col("number") - pl.col("number").min()) * (pl.col("sequence").max() + 1) + pl.col(
    "sequence"
)
"""Cell and sequence of a bucket's row in one number, which is several times faster to compare."""


class DifferingAnswersError(ValueError):
    """A cell was answered twice, differently."""


def distinct(results: pl.LazyFrame) -> pl.LazyFrame:
    """Return `results` with one row per (cell, sequence); without rounds, all is in round 0.

    A retried task can answer a cell again. Equal answers, in every column and to the last bit,
    are kept once; differing ones raise DifferingAnswersError, which names the cells, and the
    files they are in where `results` has a column `FILE`.
    """
    frame = typed(results).collect()
    frame, cells = _once(frame, "cell", ["cell", "sequence"])
    if cells:
        raise differing(results, cells)
    return frame.lazy()


def typed(results: pl.LazyFrame) -> pl.LazyFrame:
    """Return `results` with the columns of `RESULTS`; tables of before have round 0, and nulls."""
    there = results.collect_schema()
    if "round" not in there:
        results = results.with_columns(round=0)
    lacking = [pl.lit(None).alias(name) for name in _OPTIONAL if name not in there]
    results = results.with_columns(lacking)
    cast = results.select(pl.col(name).cast(kind) for name, kind in RESULTS.items())
    return cast.with_columns(pl.col("round").fill_null(0))


def differing(results: pl.LazyFrame, cells: list[str]) -> DifferingAnswersError:
    """Return the error that says which cells are answered twice, differently, and where."""
    cells = sorted(set(cells))
    shown = ", ".join(cells[:5]) + (", …" if len(cells) > 5 else "")
    where = ""
    if FILE in results.collect_schema():
        rows = results.filter(pl.col("cell").is_in(cells)).select(FILE).unique()
        files = rows.collect(engine="streaming")[FILE].sort().to_list()
        where = f" They are in {', '.join(files[:5])}{', …' if len(files) > 5 else ''}."
    return DifferingAnswersError(
        f"{len(cells)} cells in `results` have two different answers for the same sequence:"
        f" {shown}.{where} The same cell must give the same numbers; delete the parts that hold"
        " these cells, run again, and see in `executions` which worker and device gave which."
    )


def _once(
    frame: pl.DataFrame, cell: str, key: Sequence[str | pl.Expr]
) -> tuple[pl.DataFrame, list[str]]:
    """Return one row per (cell, sequence), which `key` tells apart, and cells that differ."""
    if frame.select(key).n_unique() == frame.height:
        return frame, []
    frame = frame.unique()
    again = frame.group_by(cell, "sequence").len().filter(pl.col("len") > 1)
    return frame, again[cell].unique().to_list()


@dataclass(frozen=True, kw_only=True, slots=True)
class Buckets:
    """The rows of a table of answers, by buckets of whole cells."""

    cells: pl.DataFrame
    """Columns cell, number (its owner's), pair and bucket: every answered cell of every owner, in
    order of the numbers. Cells that nobody owns have the numbers after these, and no pair."""
    documents: pl.DataFrame
    """Columns pair and place: which documents each pair has, by their place in the order of the
    names of all."""
    place: pl.DataFrame
    """Columns code and place of every document."""
    spill: scratch.Spill

    def frames(self, results: pl.LazyFrame) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield each pair's buckets, in order: rows sorted by number, place and sequence.

        Rows have the columns of `RESULTS` but number and place for cell and document. The pair is
        that of the owners. Raises DifferingAnswersError, of all buckets, after the last one;
        `results` is what they were made of.
        """
        names: list[str] = []
        pair_of = dict(self.cells.select("bucket", "pair").unique().iter_rows())
        for bucket in self.spill.buckets:
            rows, again = _once(self.spill.take(bucket), "number", [_KEY])
            names += self.cells.filter(pl.col("number").is_in(again))["cell"].to_list()
            if pair_of[bucket] is None or again:
                continue
            # The order fixes that of every sum: no result depends on the order of files or threads.
            # Sorting numbers in place of names is several times faster.
            rows = rows.join(self.place, on="code").drop("code")
            yield pair_of[bucket], rows.sort("number", "place", "sequence")
        if names:
            raise differing(results, names)


def buckets(results: pl.LazyFrame, owners: pl.DataFrame) -> Buckets:
    """Return the rows of `results` by buckets of about `scratch.BLOCK` rows.

    `owners` has columns number, pair and cell, sorted; a cell may have several owners. A bucket is
    of one pair. Raises ScratchError where the folder for temporary files is full.
    """
    rows = typed(results)
    counts = rows.group_by("cell").len().collect(engine="streaming")
    many = int(counts["len"].sum()) > scratch.BLOCK
    before = pl.col("len").cum_sum().over("pair") - pl.col("len")
    cells = (
        counts.join(owners.select("cell", "number", "pair"), on="cell", how="left")
        .sort("number", "cell", nulls_last=True)
        .with_columns(pl.col("number").fill_null(owners.height + pl.int_range(pl.len())))
        .with_columns(block=before // scratch.BLOCK)
        .with_columns(bucket=pl.struct("pair", "block").rle_id())
        .select("cell", "number", "pair", "bucket")
    )
    spill = scratch.Spill(filed=many)
    codes = pl.DataFrame(schema={"document": pl.String, "code": pl.UInt32})
    seen = [pl.DataFrame(schema={"pair": cells["pair"].dtype, "code": pl.UInt32})]
    for part in _parts(rows, many=many):
        new = part.select("document").unique().join(codes, on="document", how="anti")
        if new.height:
            codes = pl.concat(
                [codes, new.with_row_index("code", codes.height).select(codes.columns)]
            )
        numbered = part.join(codes, on="document").join(cells, on="cell").drop("document", "cell")
        seen.append(numbered.select("pair", "code").unique())
        if len(seen) > 64:
            seen = [pl.concat(seen).unique()]
        for (bucket,), some in numbered.drop("pair").partition_by("bucket", as_dict=True).items():
            spill.add(int(bucket), some.drop("bucket"))
    place = codes.sort("document").select("code").with_row_index("place")
    documents = pl.concat(seen).unique().join(place, on="code").select("pair", "place")
    return Buckets(cells=cells, documents=documents.sort("place"), place=place, spill=spill)


def _parts(rows: pl.LazyFrame, *, many: bool) -> Iterator[pl.DataFrame]:
    """Yield the rows, all at once or in the order in which they are read."""
    if not many:
        yield rows.collect()
    else:
        size = max(scratch.BLOCK // 4, 1)
        yield from rows.collect_batches(
            chunk_size=size, maintain_order=False, lazy=True, engine="streaming"
        )
