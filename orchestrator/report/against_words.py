"""Against, in words: how two runs are compared, and what comes out.

Whether documents and masks are paired decides how wide every interval is and what a difference
means, so it is said before any number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from orchestrator.agreement import Agreement
from orchestrator.matching import ELSE, SUBJECT, Subject
from orchestrator.report.settings import words
from orchestrator.report.words import (
    SCALE,
    UNIT,
    change,
    count,
    decimals,
    interval,
    listed,
    method_name,
)
from orchestrator.sidebyside import Pairing, SideBySide


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """Two runs, and all that is told of them."""

    a: str
    """What the first run is called here."""
    b: str
    where: tuple[str, str]
    """Where either lies."""
    found: SideBySide
    facts: pl.DataFrame
    agreement: Agreement
    planned: tuple[int, int]
    """Cells that either run asks for."""
    same_cells: bool
    """Whether both ask for the same cells."""

    @property
    def coincide(self) -> bool:
        """Whether both have the same answers to the same cells, to the bit."""
        told = self.agreement
        whole = told.shared == told.cells[0] == told.cells[1] > 0
        return self.same_cells and whole and told.differing.is_empty()


def named(a: Subject, b: Subject) -> str:
    """Return two subjects in as few words as tell what differs."""
    if a.model == b.model:
        rest = [x for x, y in ((a.data, b.data), (a.dtype, b.dtype)) if x != y]
        also = [y for x, y in ((a.data, b.data), (a.dtype, b.dtype)) if x != y]
        return f"{a.model} ({listed(rest)} → {listed(also)})" if rest else a.model
    return f"{a.model} → {b.model}"


def row_name(row: dict[str, object]) -> str:
    """Return the models of a row of differences: `opt`, or `opt → gpt2`."""
    ours, theirs = (
        Subject(modality="", **{c: str(row[f"{c}_{x}"]) for c in ("model", "data", "dtype")})
        for x in "ab"
    )
    return named(ours, theirs)


def setting(row: dict[str, object], varying: Sequence[str]) -> str:
    """Return what tells a row's setting from the others; nothing where there is one alone."""
    said = [(c, row[c]) for c in varying if row[c] is not None]
    return ", ".join(words(c, v if isinstance(v, bool) else str(v)) for c, v in said)


def about(rows: pl.DataFrame) -> Callable[[dict[str, object]], str]:
    """Return what says of a row of this table what tells it from the others: models, settings."""
    apart = varying(rows)
    several = rows.select(f"{c}_{x}" for c in SUBJECT for x in "ab").n_unique() > 1

    def said(row: dict[str, object]) -> str:
        parts = [row_name(row) if several else "", setting(row, apart)]
        return " · ".join(part for part in parts if part)

    return said


def varying(rows: pl.DataFrame) -> list[str]:
    """Return the columns by which the settings of a table differ."""
    return [column for column in ELSE if rows[column].n_unique() > 1]


def points_said(pairing: Pairing) -> str:
    """Return how many points are compared, and how many of either run have no counterpart."""
    said = f"Points that both sweeps ask for, masks not counted: {pairing.points:,}"
    if pairing.own == (pairing.points, pairing.points):
        return f"{said}, all that either asks for."
    return f"{said}, of {pairing.own[0]:,} in A and {pairing.own[1]:,} in B."


def stopped_said(pairing: Pairing, rows: pl.DataFrame) -> str:
    """Return where the runs stopped after fewer documents than they have, and what that means."""
    if rows.is_empty():
        return ""
    apart = rows.filter(pl.col("documents_a") != pl.col("documents_b"))
    every = pairing.documents.way == "paired" or pairing.documents.restricted
    if not every or apart.is_empty():
        return ""
    return (
        "Reading: at some points one run had read fewer of these documents than the other, so"
        " there the difference is also one of documents; its interval allows for that. The tables"
        " count the documents of either."
    )


def documents_said(pairing: Pairing) -> str:
    """Return how the documents of two subjects are compared, and why."""
    found, shared = pairing.documents, count(pairing.documents.shared, "document")
    cut = found.shared - found.by_content
    alike = (
        ""
        if not cut
        else (
            f" {'All' if cut == found.shared else f'{cut:,}'} of these were cut into other tokens"
            " or pixels by the two runs, and are known by their name in the same source."
        )
    )
    moved = (
        ""
        if not found.changed
        else (
            f" {count(found.changed, 'document')} of the same name had other content, and"
            f" {'is' if found.changed == 1 else 'are'} not paired."
        )
    )
    if found.way == "paired":
        said = (
            f"Both runs scored the same {shared}, so differences are paired, document by document."
        )
    elif found.way == "independent":
        said = (
            "No evaluated document is in both runs, so they are independent: their variances add,"
            " and a difference is also one of documents."
        )
    elif found.restricted:
        said = (
            f"{shared[0].upper()}{shared[1:]} are in both runs, and differences are paired over"
            f" these; {found.apart[0]:,} of A and {found.apart[1]:,} of B are in one run alone and"
            " were left out, because a difference over documents that one side never read would be"
            " a difference of documents too."
        )
    else:
        said = (
            f"Only {shared} of A’s {found.shared + found.apart[0]:,} and B’s"
            f" {found.shared + found.apart[1]:,} are in both runs, too few to compare over these"
            " alone. All documents count: those in both are paired, the others add their variances,"
            " and a difference is also one of documents."
        )
    hidden = (
        ""
        if not found.hidden_apart or cut
        else (
            f" The runs masked other positions in {found.hidden_apart:,} of them, so a difference"
            " is also one of what was masked; it varies with the documents, and intervals cover it."
        )
    )
    return f"Documents: {said}{alike}{moved}{hidden}"


def masks_said(rows: pl.DataFrame) -> str:
    """Return whether the masks behind these rows are paired."""
    drawn = rows.filter((pl.col("masks_a") > 1) | (pl.col("masks_b") > 1))
    if drawn.is_empty():
        return "Masks: there is one at each point, so intervals cover documents alone."
    paired = drawn["masks_paired"]
    if paired.all():
        return "Masks: both runs hold the same units in the same order, so they are paired too."
    if not paired.any():
        return (
            "Masks: the runs do not hold the same units (other shapes, or other seeds), so masks"
            " are independent and their variances add."
        )
    return (
        "Masks: at some settings both runs hold the same units, and masks are paired there; at"
        " others they are independent. The table differences.parquet says which."
    )


def tokens_said(pairing: Pairing) -> str:
    """Return a warning where a token is not the same thing in both runs."""
    cut = pairing.documents.shared > pairing.documents.by_content
    if not cut or pairing.a.modality == "image":
        return ""
    better = "bits_per_byte" in pairing.metrics
    return (
        "A token is not the same piece of text in both runs, so levels and changes per token are"
        " not in the same unit; " + ("compare bits per byte." if better else "read them with care.")
    )


def sentence(row: dict[str, object], label: str) -> str:
    """Return one area of damage in words, B against A."""
    metric = str(row["metric"]).removeprefix("d_")
    scale, unit = SCALE.get(metric, 1), UNIT.get(metric, "")
    ends = [float(str(row[x])) * scale for x in ("estimate", "low", "high") if row[x] is not None]
    method = method_name(str(row["method"]), str(row["parameters"]))
    if len(ends) < 3:
        return f"{label}{method}: not enough documents to say."
    middle, low, high = ends
    places = decimals(low, high)
    number = f"{change(middle, places)} {unit} {interval(low, high, places)}"
    if low <= 0 <= high:
        return f"{label}{method}: no difference can be told, {number}."
    side = "more" if (middle > 0) == (metric not in ("top1", "top10", "choice")) else "less"
    return f"{label}{method}: costs {side} in B, {number}."
