"""Side by side: two runs' answers, and the change from one to the other with its interval.

    differences   B − A at every point and area that both runs have, of a metric and of its change
                  against the run's own unablated model (`d_` before its name)
    contrasts     how a comparison that was declared differs: (peak − mean in B) − (the same in A)
    baselines     B − A of the unablated models

`orchestrator.matching` says what stands beside what, `orchestrator.coinciding` whether documents
and masks are paired, `orchestrator.between` how errors add up. Levels of either run are over the
documents that are compared, so where some are left out they differ from that run's own report.

Nothing here was declared before the runs: intervals hold for one number each, and nothing is
adjusted. Nats per token are not the same unit for two tokenizers; bits per byte are.

Both runs may still be going on: what either has not answered is absent. Nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from orchestrator import coinciding, matching
from orchestrator.answers import METRICS, RATIOS, nominal
from orchestrator.frames import Frames, asked, frames
from orchestrator.groups import groups
from orchestrator.matching import SUBJECT, Matched, Subject
from orchestrator.pairwise import BASELINES, CONTRASTS, DIFFERENCES, Both, Rows
from orchestrator.readings import reading
from orchestrator.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Two subjects, and how they are compared."""

    a: Subject
    b: Subject
    documents: coinciding.Documents
    metrics: Sequence[str]
    answered: bool
    """Whether both have answers over the documents that are compared."""
    points: int
    """Points that both sweeps ask for, without masks and draws."""
    own: tuple[int, int]
    """Points that either sweep asks for, counted alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """What two runs have in common, and how they differ."""

    matched: Matched
    pairings: Sequence[Pairing]
    differences: pl.DataFrame
    contrasts: pl.DataFrame
    baselines: pl.DataFrame


def side_by_side(a: Store, b: Store, metrics: Sequence[str] | None = None) -> SideBySide:
    """Return how run b differs from run a, in the tables' units; of `metrics`, else of all.

    All are those that both sweeps ask for, with Top-1 and CE, and bits per byte where both read
    texts. Raises DifferingAnswersError where a run contradicts itself, StoreError where it cannot
    be read.
    """
    runs = frames(a), frames(b)
    points = [nominal(run["cells"]) for run in runs]
    matched = matching.subjects(*points)
    wanted = list(metrics) if metrics is not None else _metrics(a, b)
    made = Rows(schema=DIFFERENCES), Rows(schema=CONTRASTS), Rows(schema=BASELINES)
    pairings = [_compared(runs, points, pair, wanted, made) for pair in matched.pairs]
    differences, contrasts, baselines = (rows.frame() for rows in made)
    return SideBySide(
        matched=matched,
        pairings=pairings,
        differences=differences,
        contrasts=contrasts,
        baselines=baselines,
    )


def _metrics(a: Store, b: Store) -> list[str]:
    said = [asked(run).get("evaluation", {}).get("metrics", METRICS) for run in (a, b)]
    both = [m for m in said[0] if m in said[1] and m in RATIOS]
    return list(dict.fromkeys(["ce", "top1", *both, "bits_per_byte"]))


def _compared(
    runs: tuple[Frames, Frames],
    points: Sequence[pl.DataFrame],
    pair: tuple[Subject, Subject],
    metrics: Sequence[str],
    made: tuple[Rows, Rows, Rows],
) -> Pairing:
    """Add what two subjects give to the tables."""
    found = documents_of(runs, pair)
    own = [
        cells.filter(*(pl.col(c) == getattr(s, c) for c in SUBJECT))
        for cells, s in zip(points, pair, strict=True)
    ]
    read = [
        reading(run, cells, names, metrics)
        for run, cells, names in zip(runs, own, found.names, strict=True)
    ]
    left, right = read
    there: list[str] = []
    if left is not None and right is not None:
        there = [m for m in metrics if m in left.found.measures and m in right.found.measures]
        held = [
            coinciding.orders(run["selections"], s.model) for run, s in zip(runs, pair, strict=True)
        ]
        both = Both(pair=pair, read=(left, right), way=found.way, held=held, metrics=there)
        grouped = list(groups(own[0], left.found)), list(groups(own[1], right.found))
        beside = list(matching.together(*grouped, (pair[0].dtype, pair[1].dtype)))
        both.bare(beside, made[2])
        for one, other in beside:
            for method in one.named:
                if method in other.named:
                    both.curve((one, other), method, made[0])
        both.declared(grouped, [_declared(run) for run in runs], made[1])
    return Pairing(
        a=pair[0],
        b=pair[1],
        documents=found,
        metrics=there,
        answered=left is not None and right is not None,
        points=matching.planned(points[0], points[1], pair),
        own=(
            matching.planned(points[0], points[0], (pair[0], pair[0])),
            matching.planned(points[1], points[1], (pair[1], pair[1])),
        ),
    )


def documents_of(
    runs: tuple[Frames, Frames], pair: tuple[Subject, Subject]
) -> coinciding.Documents:
    """Return how the documents of two subjects are compared."""
    said = [asked(run.store) for run in runs]
    sections = [x.get("data", {}).get(s.data, {}) for x, s in zip(said, pair, strict=True)]
    facts = [run.store.read_json("provenance.json").get("models") for run in runs]
    digests = [
        x.get(s.model, {}).get("digest") if isinstance(x, Mapping) else None
        for x, s in zip(facts, pair, strict=True)
    ]
    windows = ("sequence_length", "bos", "truncate", "stride", "context")
    cut = all(sections[0].get(key) == sections[1].get(key) for key in windows)
    rows = [
        run["data"].filter(pl.col("model") == s.model, pl.col("data") == s.data)
        for run, s in zip(runs, pair, strict=True)
    ]
    return coinciding.documents(
        *rows,
        same_source=coinciding.same_source(*sections),
        cut_alike=cut and digests[0] is not None and digests[0] == digests[1],
        masked=pair[0].modality == "masked",
    )


def _declared(run: Frames) -> list[tuple[str, str]]:
    return [(a, b) for a, b in asked(run.store).get("contrasts", [])]
