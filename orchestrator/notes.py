"""Notes: what a reader of the numbers must be told, in sentences.

Few documents, or masks; points answered in part, or over fewer documents than there are;
positions without a loss, and cells without any; areas that are mostly
a straight line between two points; and, where a sweep turned the axes of its heads, whether the
turned model is the same model and whether what peaks do hangs on the axes.

Assumes a rotation that changes nothing but axes: the unablated model is the same function in
both, so its numbers may differ by rounding alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from orchestrator import scratch
from orchestrator.buckets import typed
from orchestrator.contrasts import AXES
from orchestrator.groups import GROUP
from orchestrator.intervals import FEW_CLUSTERS, FEW_MASKS
from orchestrator.labels import OWN

JUMP = 0.5
"""A first step beyond this part of a curve's range is said to be most of its area."""
TOLD = 4
"""Layers, or groups of them, that a sentence names."""


def notes(
    summary: pl.DataFrame,
    results: pl.LazyFrame | None = None,
    contrasts: pl.DataFrame | None = None,
) -> list[str]:
    """Return what a reader of the summary must be told, a sentence each.

    Given the results, also of positions without a loss; given the contrasts, also of few masks
    behind what was declared, and of what the bases say of peaks.
    """
    nan = pl.DataFrame(schema={"cell": pl.String, "nan": pl.Int64})
    if results is not None:
        nan = _lost(results)
    said = []
    for (model, data), rows in summary.group_by("model", "data", maintain_order=True):
        name = f"{model} on {data}"
        every = rows.unique("cell", maintain_order=True)
        # What stopped early is compared all the same, over what it has read.
        compared = every.filter(pl.col("d_top1").is_not_null())
        read = compared["documents"].to_numpy()
        most = every["documents"].to_numpy().max()
        documents = read.min(initial=most)
        if documents < FEW_CLUSTERS:
            fewest = "" if documents == most else " where the fewest were read"
            said.append(
                f"{name}: {documents} documents{fewest}; standard errors and intervals from fewer"
                f" than {FEW_CLUSTERS} are rough, and tend to be too narrow."
            )
        fewer = pl.col("tokens") < every["tokens"].max()
        partly = every.filter(fewer, pl.col("d_top1").is_null()).height
        if partly:
            said.append(f"{name}: {partly} cells are answered in part, so without comparisons.")
        said += _stopped(name, every, compared.filter(fewer))
        here = nan.join(rows.select("cell").unique(), on="cell")
        lost, where = here["nan"].sum(), here["cell"].n_unique()
        if lost:
            said.append(
                f"{name}: the loss of {lost} scored positions, in {where} cells, is not a number;"
                " cross-entropy leaves them out, Top-1 does not."
            )
        said += _without(name, every)
        said += [*_baselines(name, rows), *_jumps(name, rows)]
        if contrasts is not None:
            here = contrasts.filter(pl.col("model") == model, pl.col("data") == data)
            said += [*_masks(name, here), *_peaks(name, here)]
    return said


def _lost(results: pl.LazyFrame) -> pl.DataFrame:
    """Return the cells with positions whose loss is not a number, and how many each has."""
    found = typed(results).filter(pl.col("nan") > 0).select("cell", "sequence", "nan")
    rows = int(found.select(pl.len()).collect(engine="streaming").item())
    # Copies of an answer count once. Of many rows some cells are taken at a time.
    parts = rows // scratch.BLOCK + 1
    frames = [
        found.filter(pl.col("cell").hash() % parts == part)
        .unique()
        .group_by("cell")
        .agg(pl.col("nan").sum())
        .collect(engine="streaming")
        for part in range(parts)
    ]
    return pl.concat(frames)


def _without(name: str, every: pl.DataFrame) -> Iterator[str]:
    """Yield how many cells have no cross-entropy at all, though they have answers."""
    none = every.filter(pl.col("ce").is_null(), pl.col("tokens") > 0)
    if none.height:
        first = none["cell"].sort()[0]
        bare = none.filter(pl.col("fraction") == 0).height
        also = ", the unablated model among them, so no change of it is known" if bare else ""
        yield (
            f"{name}: {none.height} cells have no cross-entropy{also}: no loss of theirs is a"
            f" number, or their sum is not (first: {first}). They are null in the tables, and what"
            " compares them has no number."
        )


def _stopped(name: str, every: pl.DataFrame, fewer: pl.DataFrame) -> Iterator[str]:
    """Yield what was saved by cells that read `fewer` documents than there are, if some did."""
    bare = every.filter(pl.col("fraction") == 0)["cell"].implode()
    fewer, ablated = (rows.filter(~pl.col("cell").is_in(bare)) for rows in (fewer, every))
    if fewer.height:
        tokens, documents = (every[c].to_numpy().max() for c in ("tokens", "documents"))
        part = float(np.median(fewer["documents"].to_numpy() / documents))
        saved = (tokens - fewer["tokens"].to_numpy()).sum() / (tokens * every.height)
        yield (
            f"{name}: {fewer.height} of {ablated.height} cells stopped before the last document, at"
            f" {part:.0%} of them (median), which saved {saved:.0%} of the sweep's scored"
            " positions. A level is over what its cell read, a comparison over what all that it"
            " compares read. Intervals in these tables are for a number of documents that is fixed"
            " beforehand; of cells that stopped they cover somewhat less than they say. Those in"
            " stops.parquet hold whenever one stops."
        )


def _masks(name: str, contrasts: pl.DataFrame) -> Iterator[str]:
    """Yield that adjusted p-values are of few masks, where some are declared."""
    tested = contrasts.filter("declared", pl.col("masks") > 1, pl.col("reason").is_null())
    masks = tested["masks"].to_list()
    if masks and min(masks) < FEW_MASKS:
        yield (
            f"{name}: {min(masks)} masks; with fewer than {FEW_MASKS} adjusted p-values and bands"
            " of whole curves are made cautious, and can show large effects only; draw ten."
        )


def _baselines(name: str, rows: pl.DataFrame) -> Iterator[str]:
    """Yield how far the unablated model's numbers lie apart between the bases."""
    bare = rows.filter(pl.col("fraction") == 0).unique(["dtype", "basis"], maintain_order=True)
    own = bare.filter(pl.col("basis") == OWN).select("dtype", "ce", "top1")
    pairs = bare.filter(pl.col("basis") != OWN).join(own, on="dtype", suffix="_own")
    if pairs.height:
        ce, top1 = (
            (pairs[m] - pairs[f"{m}_own"]).abs().cast(pl.Float64).to_numpy().max()
            for m in ("ce", "top1")
        )
        yield (
            f"{name}: unablated, the model in rotated axes differs from itself in its own by at"
            f" most {ce:.2g} nats of cross-entropy and {100 * top1:.2g} points of Top-1."
        )


def _jumps(name: str, rows: pl.DataFrame) -> Iterator[str]:
    """Yield that areas are mostly unmeasured, where all units but some of few are held."""
    share = pl.col("units_held") / pl.col("units_total")
    held = rows.filter("complement", pl.col("units_held") > 0).group_by(GROUP)
    ends = held.agg(first=share.min(), last=share.max())
    ends = ends.filter(pl.col("first") > JUMP * pl.col("last"))
    if ends.height:
        least, layers = ends["first"].to_numpy().min(), ends["layers"].unique().sort().to_list()
        where = "" if layers == ["all"] else f" of layers {_some(layers)}"
        yield (
            f"{name}: with complement, the curves{where} jump from the unablated model to their"
            f" first point, at {least:.0%} held or more, so their areas are mostly a straight line"
            " that nobody measured; look at single fractions."
        )


def _some(labels: Sequence[str]) -> str:
    """Return labels in a row, the first few of many."""
    more = f" and {len(labels) - TOLD} more" if len(labels) > TOLD else ""
    return "; ".join(labels[:TOLD]) + more


def _peaks(name: str, contrasts: pl.DataFrame) -> Iterator[str]:
    """Yield, per group and rotation, whether peak − mean depends on the axes."""
    peak, mean = AXES
    signs = {f"{peak} - {mean}": 1, f"{mean} - {peak}": -1}
    rows = contrasts.filter(
        pl.col("method").is_in(list(signs)), pl.col("fraction").is_null(), pl.col("metric") == "ce"
    )
    columns = [c for c in GROUP if c not in ("model", "data", "basis")]
    varying = [c for c in columns if rows[c].n_unique() > 1]
    for row in rows.drop_nulls(["low", "high"]).iter_rows(named=True):
        where = "".join(f", {column} {row[column]}" for column in varying)
        sign = signs[row["method"]]
        low, high = sorted([sign * row["low"], sign * row["high"]])
        hangs = (
            "so what peaks do hangs on these axes"
            if low > 0 or high < 0
            else "so nothing shows that peaks mean more in these axes than in any others"
        )
        yield (
            f"{name}{where}: what holding at the {peak} costs beyond the {mean} differs between"
            f" the model's own axes and {row['b']} by {sign * row['estimate']:+.4f} nats"
            f" [{low:+.4f}, {high:+.4f}] (mean over the held share, own less rotated), {hangs}."
        )
