"""Readings: one run's answers over some of its documents, under names that two runs share.

The answers of a sweep are made of all documents that its cells read (`orchestrator.answers`), and
know of these only how many there are. Two runs are compared over documents that are named, so the
rows of others are left out, the rest gets the names by which both runs know them, and it is
counted which of them each metric is over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from orchestrator.answers import RATIOS, Answers, answers
from orchestrator.frames import Frames, asked
from orchestrator.sections import Scored

_COUNTED = {"numbers": "tokens"}
"""Sums that are over the documents of another column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one run measured of one subject."""

    found: Answers
    names: Mapping[str, Sequence[str]]
    """Per metric: the G documents that it is over, in order."""


def reading(
    run: Frames, cells: pl.DataFrame, names: pl.DataFrame, metrics: Sequence[str]
) -> Reading | None:
    """Return the answers of a subject's cells over some documents; None where there are none.

    `names` has columns document and id: which are read, and by which names they go. Raises what
    `answers` raises.
    """
    rows = (
        run["results"]
        .join(cells.lazy().select("cell").unique(), on="cell", how="semi")
        .join(names.lazy(), on="document")
        .with_columns(document=pl.col("id"))
        .drop("id")
    )
    sizes = _sizes(run, cells)
    found = next(answers(cells, rows, sizes, list(metrics)), None)
    if found is None:
        return None
    under = {m: _COUNTED.get(RATIOS[m][1], RATIOS[m][1]) for m in found.measures}
    if sizes is not None:
        rows = rows.join(sizes.select("sequence", "bytes").unique(), on="sequence", how="left")
    columns = [c for c in dict.fromkeys(under.values()) if c in rows.collect_schema()]
    some = (
        rows.group_by("document")
        .agg((pl.col(c).is_null() | (pl.col(c) != 0)).any() for c in columns)
        .sort("document")
        .collect(engine="streaming")
    )
    over = {m: some.filter(pl.col(c))["document"].to_list() for m, c in under.items()}
    return Reading(found=found, names=over)


def _sizes(run: Frames, cells: pl.DataFrame) -> pl.LazyFrame | None:
    """Return the bytes of text of each sequence; None where there is no text.

    Also None where the sweep scores some positions only: their loss is not that of the bytes.
    """
    positions = asked(run.store).get("evaluation", {}).get("positions")
    if positions not in (None, Scored().model_dump()) or cells.is_empty():
        return None
    data = run["data"]
    if "bytes" not in data.collect_schema():
        return None
    model, name = cells.row(0, named=True)["model"], cells.row(0, named=True)["data"]
    own = data.filter(pl.col("model") == model, pl.col("data") == name)
    return own.select("model", "data", "sequence", "bytes")
