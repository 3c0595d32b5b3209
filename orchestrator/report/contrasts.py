"""Contrasts: what a sweep declared, as questions with answers in words.

A row of the table `contrasts` compares two labels of one kind:

    methods      in one panel
    selections   of one method; the panel is told without a selection
    bases        of one method; the panel is told without its axes
    axes         a difference of two methods, between two bases: do peaks mean anything
                 beyond the axes they are read in?

The area, the mean difference over the held share, is the test; its p is Holm's over all
declared areas of the sweep. The interval in a sentence is that of one comparison by itself,
so a difference is called clear only where both agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from orchestrator.labels import OWN
from orchestrator.report.read import Run
from orchestrator.report.settings import chosen, words
from orchestrator.report.words import (
    COSTS,
    METRIC_NAME,
    NBSP,
    SCALE,
    UNIT,
    change,
    count,
    decimals,
    doing,
    interval,
    label_name,
    number,
)

Kind = Literal["methods", "selections", "bases", "axes"]
LEVEL = 0.05
"""Adjusted p from which on a declared difference is called clear."""
GAP = "gap_closed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Two labels that are compared, wherever they are."""

    kind: Kind
    a: str
    b: str
    method: str
    """`peak - mean` for axes, else empty: rows of every method belong to it."""

    @property
    def title(self) -> str:
        """The question as a heading."""
        a, b = named(self.kind, self.a), named(self.kind, self.b)
        if self.kind == "axes":
            return f"{difference(self.method)}: {a} against {b}"
        return f"{a} against {b}"


def named(kind: str, label: str) -> str:
    """Return one side of a comparison in words."""
    if kind == "methods":
        return label_name(label)
    return chosen(label) if kind == "selections" else words("basis", label)


def difference(method: str) -> str:
    """Return `peak - mean` as `peak (smooth) − mean`."""
    a, _, b = method.partition(" - ")
    return f"{label_name(a)} − {label_name(b)}"


def with_kind(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of contrasts with the column `kind`."""
    axes = pl.col("method").fill_null("").str.contains(" - ", literal=True)
    kind = (
        pl.when(pl.col("selection").is_null())
        .then(pl.lit("selections"))
        .when(pl.col("basis").is_not_null())
        .then(pl.lit("methods"))
        .when(axes)
        .then(pl.lit("axes"))
        .otherwise(pl.lit("bases"))
    )
    return rows.with_columns(kind=kind)


def declared(run: Run) -> pl.DataFrame:
    """Return the declared contrasts with their kind."""
    return with_kind(run.contrasts.filter(pl.col("declared")))


def questions(run: Run) -> list[Question]:
    """Return what was declared, in the order of the sweep file where it says one."""
    asked = run.spec.get("contrasts")
    order = [tuple(pair) for pair in asked] if isinstance(asked, list) else []
    found = dict.fromkeys(
        Question(
            kind=row["kind"],
            a=row["a"],
            b=row["b"],
            method=row["method"] if row["kind"] == "axes" else "",
        )
        for row in declared(run).select("kind", "a", "b", "method").unique().to_dicts()
    )

    def place(question: Question) -> tuple[int, int, str, str]:
        pair = tuple(question.method.split(" - ")) if question.method else ()
        said = pair or (question.a, question.b)
        at = order.index(said) if said in order else len(order)
        rank = ("methods", "axes", "selections", "bases").index(question.kind)
        return at, rank, question.a + question.b, question.method

    return sorted(found, key=place)


def rows_of(run: Run, question: Question) -> pl.DataFrame:
    """Return the declared rows of a question, in the order of the panels, then of methods."""
    rows = declared(run).filter(kind=question.kind, a=question.a, b=question.b)
    return rows.filter(pl.col("method") == question.method) if question.method else rows


def about(row: Mapping[str, object]) -> str:
    """Return what a row is about: its panel, and its method where it has one."""
    method = row["method"]
    plain = method is not None and " - " not in str(method)
    return f"{row['panel']} · {label_name(str(method))}" if plain else str(row["panel"])


def told(run: Run) -> list[str]:
    """Return the two metrics in which contrasts are told: CE and Top-1, else others asked for."""
    plain = [metric for metric in ("ce", "top1") if metric in run.metrics]
    return [*plain, *(metric for metric in run.metrics if metric not in plain)][:2]


def sentences(run: Run, question: Question) -> list[str]:
    """Return one sentence per panel (and method) on the area; at one fraction where none is."""
    rows = rows_of(run, question).filter(
        pl.col("metric").is_in(told(run)),
        pl.col("fraction").is_null() | (pl.col("fraction") > 0),
    )
    said = []
    for _, block in rows.group_by("panel", "method", maintain_order=True):
        at = {row["metric"]: row for row in nearest(block).to_dicts()}
        first = next((at[metric] for metric in told(run) if metric in at), None)
        if first is not None:
            said.append(sentence(question, first, at.get("top1") if "ce" in at else None))
    return said


def nearest(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the area, or else those of the fraction nearest to a half."""
    area = rows.filter(pl.col("fraction").is_null())
    if area.height or not rows.height:
        return area
    half = min(rows["fraction"].unique().sort(), key=lambda fraction: abs(fraction - 0.5))
    return rows.filter(pl.col("fraction") == half)


def covers(documents: int, masks: int) -> str:
    """Return what a contrast's interval covers, in words."""
    if masks == 1:
        return f"over {count(documents, 'document')}, for one set of held neurons"
    return f"over {count(documents, 'document')} and {count(masks, 'mask')}"


def p_value(p: float | None) -> str:
    """Return a p-value as people print it; nothing for none."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.995 else "p = 1"


def sentence(
    question: Question, row: Mapping[str, object], top1: Mapping[str, object] | None = None
) -> str:
    """Return a declared contrast in words: CE first, then Top-1 where there is one."""
    fraction = row["fraction"]
    over = covers(int(str(row["documents"])), int(str(row["masks"])))
    when = "averaged over the share held" if fraction is None else f"at f = {fraction:g}"
    where = f"On {about(row)}, {when}" if fraction is None else f"On {about(row)} {when}"
    metric = str(row["metric"])
    found = _scaled(row)
    a, b = _doing(question, question.a), _doing(question, question.b)
    if row.get("reason") is not None:
        return f"{where}, {a} and {b} are not compared: {row['reason']}."
    if found is None:
        return f"{where}, no interval can be given {over}."
    estimate, low, high = found
    name = METRIC_NAME.get(metric, metric)
    unit = "nats" if metric == "ce" else f"{UNIT.get(metric, '')} of {name}".strip()
    places = decimals(low, high)
    p = row["p_adjusted"]
    adjusted = None if p is None else float(str(p))
    tested = f"; adjusted {p_value(adjusted)}" if adjusted is not None else ""
    within = f"95{NBSP}% interval {interval(low, high, places)} {unit} {over}"
    crosses = low <= 0 <= high
    unclear = crosses or (adjusted is not None and adjusted > LEVEL)
    if question.kind == "axes":
        how = "not clearly " if unclear else ""
        said = (
            f"{where}, {difference(question.method)} differs {how}between"
            f" {named('bases', question.a)} and {named('bases', question.b)}: by"
            f" {change(estimate, places)} {unit} ({within}{tested})"
        )
    elif unclear:
        why = ", which includes zero" if crosses else ", clear of zero by itself alone"
        said = (
            f"{where}, {a} and {b} can’t be told apart: the difference in"
            f" {name} is {change(estimate, places)} {unit}"
            f" ({within}{why}{tested})"
        )
    else:
        more = "more" if estimate > 0 else "less"
        verb = "costs" if metric in COSTS else "keeps"
        size = number(abs(estimate), places)
        said = f"{where}, {a} {verb} {size} {unit} {more} than {b} ({within}{tested})"
    return f"{said}{_top1_clause(top1)}."


def _doing(question: Question, label: str) -> str:
    if question.kind == "methods":
        return doing(label_name(label))
    if question.kind == "selections":
        return f"holding units {chosen(label)}"
    return "holding in the model’s own axes" if label == OWN else f"holding in {label} axes"


def _scaled(row: Mapping[str, object]) -> tuple[float, float, float] | None:
    """Return estimate, low and high in printed units; None where one of them is missing."""
    values = [row[key] for key in ("estimate", "low", "high")]
    if any(value is None for value in values):
        return None
    estimate, low, high = (SCALE.get(str(row["metric"]), 1) * float(str(v)) for v in values)
    return estimate, low, high


def _top1_clause(top1: Mapping[str, object] | None) -> str:
    found = _scaled(top1) if top1 is not None else None
    if found is None:
        return ""
    estimate, low, high = found
    places = decimals(low, high)
    unclear = ", which includes zero" if low <= 0 <= high else ""
    way = "higher" if estimate > 0 else "lower"
    return (
        f"; Top-1 is {number(abs(estimate), places)} points {way}"
        f" {interval(low, high, places)}{unclear}"
    )


def counted(run: Run, question: Question) -> str:
    """Return how many of a question's areas are clear, for questions asked in many panels."""
    metric = told(run)[0]
    rows = nearest(rows_of(run, question).filter(pl.col("metric") == metric))
    apart = rows["reason"].count()
    rows = rows.drop_nulls(["estimate", "low", "high"])
    p = pl.col("p_adjusted").fill_null(0) <= LEVEL
    above = rows.filter((pl.col("low") > 0) & p).height
    below = rows.filter((pl.col("high") < 0) & p).height
    first = difference(question.method) if question.method else named(question.kind, question.a)
    where = " in the first axes" if question.kind == "axes" else ""
    return (
        f"Asked in {rows.height:,} settings (the table has them). After adjustment {first}{where}"
        f" {'costs' if metric in COSTS else 'keeps'} more {METRIC_NAME.get(metric, metric)} in"
        f" {above:,} of them, less in {below:,}, and the difference is not clear"
        f" in {rows.height - above - below:,}."
        + (f" In {apart:,} more the two hold different shares and are not compared." * (apart > 0))
    )


def spanned(fractions: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """Return the wanted fractions that are there; else the one nearest to a half."""
    there = [w for w in wanted if any(abs(w - f) < 1e-9 for f in fractions)]
    if there or not fractions:
        return there
    return [min(fractions, key=lambda f: abs(f - 0.5))]
