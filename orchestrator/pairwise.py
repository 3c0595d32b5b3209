"""Pairwise: the rows that two subjects give, one of either run.

For every curve, contrast and unablated model that both have, the number of run A, that of run B
and B − A, each with its interval. What is compared with what stands in `orchestrator.matching`, how
errors add up in `orchestrator.between`.

Shapes: M masks, K points that a number is made of, D draws of one mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from orchestrator import coinciding, matching
from orchestrator.between import Side, difference
from orchestrator.comparisons import Step, combined, documents, levels, stacked, steps
from orchestrator.contrasts import Question, questions
from orchestrator.groups import Curve, Group
from orchestrator.intervals import Estimate
from orchestrator.matching import ELSE, SUBJECT, Subject
from orchestrator.readings import Reading

FEW = 6
"""So many shared masks are enough to pair by them, or half of the masks of the run with fewer."""

_PAIR: dict[str, type[pl.DataType]] = dict.fromkeys(
    [f"{c}_{x}" for c in SUBJECT for x in ("a", "b")], pl.String
)
_ELSE: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(ELSE, pl.String),
    "complement": pl.Boolean,
}
_NUMBERS = (
    *("value_a", "low_a", "high_a", "value_b", "low_b", "high_b"),
    *("estimate", "low", "high", "p"),
)
_COUNTS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("documents_a", "documents_b", "masks_a", "masks_b"), pl.Int64),
    "documents_paired": pl.String,  # paired, partly, independent
    "masks_paired": pl.Boolean,
}
_AT: dict[str, type[pl.DataType]] = {
    "metric": pl.String,
    "fraction": pl.Float64,  # null: the area over all that both have
    "share_a": pl.Float64,
    "share_b": pl.Float64,
}
_TAIL: dict[str, type[pl.DataType]] = dict.fromkeys(_NUMBERS, pl.Float64) | _COUNTS
DIFFERENCES = pl.Schema(
    _PAIR | _ELSE | {"method": pl.String, "parameters": pl.String} | _AT | _TAIL
)
CONTRASTS = pl.Schema(_PAIR | _ELSE | dict.fromkeys(("method", "a", "b"), pl.String) | _AT | _TAIL)
BASELINES = pl.Schema(_PAIR | {"metric": pl.String} | _TAIL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows of a table while it is made."""

    schema: pl.Schema
    keys: list[dict[str, object]] = field(default_factory=list)
    found: list[tuple[Estimate, Estimate, Estimate]] = field(default_factory=list)

    def frame(self) -> pl.DataFrame:
        """Return the table."""
        keys = {k: v for k, v in self.schema.items() if k not in _NUMBERS}
        frame = pl.DataFrame(self.keys, schema=keys)
        a, b, between = (stacked([x[i] for x in self.found]) for i in range(3))
        numbers = {"value_a": a.value, "low_a": a.low, "high_a": a.high}
        numbers |= {"value_b": b.value, "low_b": b.low, "high_b": b.high}
        numbers |= {"estimate": between.value, "low": between.low, "high": between.high}
        numbers |= {"p": between.p}
        made = frame.hstack(pl.DataFrame(numbers, schema=dict.fromkeys(numbers, pl.Float64)))
        return made.select(self.schema.names()).fill_nan(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Both:
    """Two subjects' answers, and what is known of their masks."""

    pair: tuple[Subject, Subject]
    read: tuple[Reading, Reading]
    way: coinciding.Way
    held: Sequence[Mapping[tuple[str, str, str, int | None], int]]
    metrics: Sequence[str]

    def bare(self, beside: Sequence[tuple[Group, Group]], rows: Rows) -> None:
        """Add what the unablated models give."""
        for one, other in beside:
            if one.baseline >= 0 and other.baseline >= 0:
                for metric in self.metrics:
                    bare = [_only(group.baseline) for group in (one, other)]
                    self._add(rows, {}, metric, bare, (None, None), paired=True)
                return

    def curve(self, pair: tuple[Group, Group], method: str, rows: Rows) -> None:
        """Add the points and the area of a method that both groups have."""
        one, other = (group.named[method] for group in pair)
        keys = pair[0].keys
        paired = self._paired(keys, [str(keys["selection"])], [one], [other])
        key: dict[str, object] = {column: keys[column] for column in ELSE}
        key |= {"method": one.method, "parameters": one.parameters}
        bases = tuple(group.baseline if group.baseline >= 0 else None for group in pair)
        for at in self._steps([one], [other], paired):
            for metric in self.metrics:
                self._add(rows, key, metric, at, (None, None), paired=paired)
                if None not in bases:
                    self._add(rows, key, metric, at, bases, paired=paired)

    def declared(
        self,
        grouped: tuple[Sequence[Group], Sequence[Group]],
        said: Sequence[Sequence[tuple[str, str]]],
        rows: Rows,
    ) -> None:
        """Add the contrasts that both runs declared."""
        pairs = [p for p in said[0] if p in said[1]]
        ours, theirs = ({_named(q): q for q in questions(x, pairs)} for x in grouped)
        for name, question in ours.items():
            other = theirs.get(name)
            if other is None or not question.key["declared"]:
                continue
            key: dict[str, object] = {c: question.key.get(c) for c in (*ELSE, "method", "a", "b")}
            rule = question.key["selection"]
            ends = [str(question.key[end]) for end in ("a", "b")]
            rules = ends if rule is None else [str(rule)]
            paired = self._paired(question.key, rules, question.curves, other.curves)
            for at in self._steps(question.curves, other.curves, paired):
                for metric in self.metrics:
                    signs = question.signs
                    self._add(rows, key, metric, at, (None, None), paired=paired, signs=signs)

    def _steps(
        self, a: Sequence[Curve], b: Sequence[Curve], paired: bool
    ) -> Iterator[tuple[Step, Step]]:
        """Yield the steps that both have, without that where nothing is held."""
        ours, theirs = matching.cut(a, b, masks_paired=paired)
        if not ours[0].point or not len(ours[0].seeds):
            return
        beside = {step.fraction: step for step in steps(*theirs) if step.reason is None}
        for step in steps(*ours):
            if step.share != 0 and step.reason is None and step.fraction in beside:
                yield step, beside[step.fraction]

    def _paired(
        self,
        key: Mapping[str, str | bool | None],
        rules: Sequence[str],
        a: Sequence[Curve],
        b: Sequence[Curve],
    ) -> bool:
        """Return whether both runs hold the same units, mask by mask."""
        seeds = set.intersection(*(set(curve.seeds) for curve in (*a, *b)))
        fewer = min(len(curve.seeds) for curve in (*a, *b))
        if not seeds or len(seeds) < min(FEW, fewer / 2):
            return False
        site, unit = str(key["site"]), str(key["unit"])
        alike = a[0].units == b[0].units
        return alike and all(
            coinciding.same_masks(
                self.held[0], self.held[1], site=site, unit=unit, selection=rule, seeds=seeds
            )
            for rule in rules
        )

    def _add(
        self,
        rows: Rows,
        key: Mapping[str, object],
        metric: str,
        at: Sequence[Step],
        bases: Sequence[int | None],
        *,
        paired: bool,
        signs: Sequence[int] = (1,),
    ) -> None:
        sides, seen = [], []
        for read, step, base in zip(self.read, at, bases, strict=True):
            if signs == (1,):
                sample = levels(read.found, metric, step, base=base)
            else:
                sample = combined(read.found, metric, step, signs)
            sides.append(Side(sample=sample, documents=read.names[metric]))
            seen.append(documents(read.found, metric, step, base))
        a, b = sides
        between = difference(a, b, masks_paired=paired)
        name = metric if bases[0] is None else f"d_{metric}"
        said: dict[str, object] = {**key, "metric": name, "fraction": at[0].fraction}
        for end, subject, step, count in zip("ab", self.pair, at, seen, strict=True):
            said |= {f"{c}_{end}": getattr(subject, c) for c in SUBJECT}
            said |= {f"share_{end}": step.share, f"masks_{end}": step.masks}
            said[f"documents_{end}"] = count
        said |= {"documents_paired": self.way, "masks_paired": paired}
        rows.keys.append({k: said.get(k) for k in rows.schema if k not in _NUMBERS})
        rows.found.append((a.sample.mean, b.sample.mean, between))


def _named(question: Question) -> tuple[object, ...]:
    return tuple(question.key.get(column) for column in (*ELSE, "method", "a", "b"))


def _only(row: int) -> Step:
    """Return the step that one cell is."""
    return Step(
        fraction=0.0,
        share=0.0,
        span=(0.0, 0.0),
        rows=[np.full((1, 1, 1), row, dtype=np.int64)],
        masks_M=np.zeros(1, dtype=np.int64),
        weights_K=np.ones(1),
        reason=None,
    )
