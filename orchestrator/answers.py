"""Answers: the results of a sweep, as arrays that statistics can be made of.

`results` holds sums per (cell, sequence). What is compared are ratios of sums
over documents, so the sequences of a document are added up, in order of their
number, and each (model, data) becomes a table of cells by documents. Many
nominal points share one cell and are computed once; a `Grid` says which row of
the table answers each of them.

Assumes that a sweep's cells are all scored on the same positions of the same
sequences; a cell with fewer sequences than its peers (of a sweep still running)
is *incomplete*: it has levels, over what is there, but no part in comparisons.

Shapes: R rows of results, C cells, G documents, M masks, F fractions, D draws of
one mask (donor, noise and masking seeds).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orchestrator.intervals import Floats, ratios

Integers = NDArray[np.int64]

METRICS = ("top1", "ce")
"""Share of scored tokens whose target is ranked first; cross-entropy in nats per token."""

GROUP = ["model", "data", "dtype", "site", "unit", "layers", "selection"]
"""Columns of `cells` within which curves are drawn and methods are compared."""

DRAW = ["donor_seed", "noise_seed", "masking_seed"]
"""Columns of `cells` that tell one mask's draws apart."""

SEEDS = ["seed", *DRAW]
"""Columns of `cells` that are null where a point has no such seed."""

DEFAULTS = {"estimator": "smooth", "source": "dataset"}
"""Parameters that a method's label leaves out."""

RESULTS = pl.Schema(
    {
        "cell": pl.String,
        "document": pl.String,
        "sequence": pl.Int64,
        "tokens": pl.Int64,
        "top1": pl.Int64,
        "top10": pl.Int64,
        "loss": pl.Float64,
        "kl": pl.Float64,
        "tokens_rare": pl.Int64,
        "top1_rare": pl.Int64,
        "nan": pl.Int64,
    }
)


class DifferingAnswersError(ValueError):
    """A cell was answered twice, differently."""


def label(method: str, parameters: str) -> str:
    """Return a method's name as a sweep file says it: `peak`, `peak(paper)`, `quantile(0.9)`.

    `parameters` is canonical JSON; values that are the default are left out.
    """
    values = [
        value if isinstance(value, str) else json.dumps(value)
        for key, value in json.loads(parameters).items()
        if DEFAULTS.get(key) != value
    ]
    return f"{method}({', '.join(values)})" if values else method


def method_label(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with a column `label` made of its `method` and `parameters`."""
    kinds = frame.select("method", "parameters").unique()
    labels = pl.Series("label", [label(*kind) for kind in kinds.iter_rows()], dtype=pl.String)
    return frame.join(kinds.with_columns(labels), on=["method", "parameters"], how="left")


def distinct(results: pl.LazyFrame) -> pl.LazyFrame:
    """Return `results` with one row per (cell, sequence).

    A retried task can answer a cell again. Equal answers, in every column and to the last bit,
    are kept once; differing ones raise DifferingAnswersError, which names the cells.
    """
    frame = results.select(pl.col(name).cast(kind) for name, kind in RESULTS.items()).collect()
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
    documents: int
    """G: documents with at least one scored token."""
    complete_C: NDArray[np.bool_]
    """Whether as many sequences are there as of any cell."""
    seen_C: Integers
    """Documents with at least one scored token, per cell."""
    totals: Mapping[str, Floats]
    """Sums over sequences, (C,): tokens, top10, loss, kl (nats), nan, bytes; NaN if not known."""
    ratio: Mapping[str, Floats]
    """Per metric: each cell's level, (C,)."""
    residuals: Mapping[str, Floats]
    """Per metric: each document's share of the level's error, (C, G)."""


def answers(
    cells: pl.DataFrame, results: pl.LazyFrame, sizes: pl.LazyFrame | None = None
) -> Iterator[Answers]:
    """Yield the answers of each (model, data) that has any, in order of their names.

    `sizes` gives columns model, data, sequence and bytes, the UTF-8 bytes of a sequence.
    Raises DifferingAnswersError.
    """
    keys = ["model", "data", "cell"]
    owners = cells.select(keys).unique().sort(keys).with_row_index("number")
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
        yield _answers(block, here)


def _answers(owners: pl.DataFrame, rows: pl.DataFrame) -> Answers:
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

    counted_R = column("tokens") - column("nan")
    tokens_CG = by_document(column("tokens"))
    scored_G = tokens_CG.any(axis=0)
    sums = {"top1": by_document(column("top1")), "ce": by_document(column("loss"))}
    counts = {"top1": tokens_CG, "ce": by_document(counted_R)}
    made = {m: ratios(sums[m][:, scored_G], counts[m][:, scored_G]) for m in METRICS}
    sequences_C = np.bincount(cell_R)
    names = ("tokens", "top10", "loss", "kl", "nan", "bytes")
    return Answers(
        model=owners["model"][0],
        data=owners["data"][0],
        cells=owners.filter(pl.col("number").is_in(rows["number"].implode()))["cell"].to_list(),
        documents=int(scored_G.sum()),
        complete_C=sequences_C == sequences_C.max(),
        seen_C=(tokens_CG > 0).sum(axis=1),
        totals={name: summed(cell_R, column(name), cells) for name in names},
        ratio={m: ratio_C for m, (ratio_C, _) in made.items()},
        residuals={m: residuals_CG for m, (_, residuals_CG) in made.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Which row of the answers holds each nominal point of one method."""

    rows_MFD: Integers
    """Row of the answers; −1 where there is none, or none complete yet."""
    planned_F: NDArray[np.bool_]
    """Whether the sweep has the method at this fraction."""

    @property
    def answered_MF(self) -> NDArray[np.bool_]:
        """Whether all draws of a mask are there."""
        return np.asarray((self.rows_MFD >= 0).all(axis=2), dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The methods of one group of curves, over the same masks and fractions."""

    keys: Mapping[str, str]
    """Value of each `GROUP` column."""
    fractions: list[float]
    """F nominal fractions, ascending."""
    share_F: Floats
    """Units held over all units, 0 to 1."""
    baseline: int
    """Row of the unablated model; −1 where it is not answered yet."""
    grids: Mapping[tuple[str, str], Grid]
    """Per (method, parameters)."""


def groups(cells: pl.DataFrame, found: Answers) -> Iterator[Group]:
    """Yield the groups of one (model, data), in order of their keys."""
    complete = [cell for cell, whole in zip(found.cells, found.complete_C, strict=True) if whole]
    rows = pl.DataFrame(
        {"cell": complete, "row": np.flatnonzero(found.complete_C)},
        schema={"cell": pl.String, "row": pl.Int64},
    )
    here = (
        cells.filter(pl.col("model") == found.model, pl.col("data") == found.data)
        .join(rows, on="cell", how="left", maintain_order="left")
        .with_columns(
            pl.col("row").fill_null(-1),
            pl.col("fraction").round(9),
            draw=pl.concat_str(pl.col(DRAW).cast(pl.String).fill_null("-"), separator=" "),
        )
    )
    for block in here.sort(GROUP).partition_by(GROUP, maintain_order=True):
        yield _group(block)


def _group(block: pl.DataFrame) -> Group:
    # A seed that is null, of a rule that draws nothing, is a mask like any other: number 0.
    block = block.with_columns(
        mask=pl.col("seed").rank("dense").fill_null(0),
        at=pl.col("fraction").rank("dense") - 1,
    )
    shares = block.select("fraction", share=pl.col("units_held") / pl.col("units_total"))
    shares = shares.unique("fraction").sort("fraction")
    masks = block["mask"].cast(pl.Int64).to_numpy().max() + 1
    bases = block.filter(pl.col("fraction") == 0)["row"]
    grids = {}
    for part in block.sort("method", "parameters").partition_by(
        "method", "parameters", maintain_order=True
    ):
        mask_P, at_P = (part[name].cast(pl.Int64).to_numpy() for name in ("mask", "at"))
        draw_P = part["draw"].rank("dense").cast(pl.Int64).to_numpy() - 1
        rows_MFD = np.full((masks, shares.height, draw_P.max() + 1), -1, dtype=np.int64)
        rows_MFD[mask_P, at_P, draw_P] = part["row"].to_numpy()
        planned_F = np.zeros(shares.height, dtype=np.bool_)
        planned_F[at_P] = True
        key = (part["method"][0], part["parameters"][0])
        grids[key] = Grid(rows_MFD=rows_MFD, planned_F=planned_F)
    return Group(
        keys={name: block[name][0] for name in GROUP},
        fractions=shares["fraction"].to_list(),
        share_F=shares["share"].to_numpy(),
        baseline=-1 if bases.is_empty() else int(bases.max()),  # type: ignore[arg-type]
        grids=grids,
    )
