"""Calls: which cells one task evaluates together, and in which rounds.

A call loads its batches once, hides the scheduler's time, and lets its cells share what does
not depend on them: the pass below what they hold, the donors' activations, the bare model's
answer. What a cell answers does not depend on its call, so how they are put together is
free; it is done the same way always, so that a plan is the same plan tomorrow.
"""

from collections.abc import Mapping, Sequence

from orchestrator import batching, rounds
from orchestrator.cells import Cell, data_of, scored
from orchestrator.names import data_file, name, slug
from orchestrator.plan import Plan
from orchestrator.tasks import Task
from workers.messages import ModelRef

CONSTANTS_PER_CALL = 8
"""Cells of constant methods evaluated in one call: long enough to hide the scheduler."""
DONATED_PER_CALL = 16
"""Cells that share one pass of the donors."""


def rounds_of(plan: Plan, ref: ModelRef) -> int:
    """Return how many rounds the evaluation of a model has."""
    return rounds.count(plan.spec, ref, data_of(plan.spec, ref.name))


def calls(plan: Plan, missing: Mapping[str, Sequence[int]]) -> list[Task]:
    """Return the calls that answer cells, by name, in the rounds that each lacks, ascending.

    A call is of one model in one basis, and of the same rounds for all its cells. Cells that
    take activations of the same donors are together: these are held while a call lasts.
    """
    groups: dict[tuple[str, int | None, str, tuple[int, ...]], list[Cell]] = {}
    for named, asked in missing.items():
        cell = plan.cells[named]
        key = (cell.model, cell.ref.basis, cell.donors, tuple(asked))
        groups.setdefault(key, []).append(cell)
    made = []
    for (*_, donors, asked), group in groups.items():
        size = DONATED_PER_CALL if donors else CONSTANTS_PER_CALL
        made += [call(plan, group[i : i + size], asked) for i in range(0, len(group), size)]
    return made


def split(plan: Plan, task: Task) -> Sequence[Task]:
    """Return a call of many cells as calls of one; any other task as it is."""
    if len(task.cells) < 2:
        return [task]
    return [call(plan, [plan.cells[named]], task.arguments["asked"]) for named in task.cells]


def call(plan: Plan, cells: Sequence[Cell], asked: Sequence[int]) -> Task:
    """Return the task that answers these cells of one model in one call, in the rounds `asked`."""
    spec, ref = plan.spec, cells[0].ref
    names = sorted(c.name for c in cells)
    every = rounds_of(plan, ref)
    some = {} if len(asked) == every else {"rounds": list(asked)}
    made = name("cell", {"of": names, **some})
    key = data_of(spec, ref.name)
    positions = spec.data[key].positions("evaluate", ref.facts.window) * len(asked) / every
    return Task(
        name=made,
        stage="evaluate",
        kind="evaluate",
        label=f"{ref.name} {len(cells)} cells"
        + (f", {_spelled(asked)} of {every}" if some else ""),
        file=f"results/{slug(ref.name)}/part.{made}.parquet",
        model=ref,
        after=tuple(dict.fromkeys(n for c in cells for n in c.after)),
        arguments={
            "model": ref.name,
            "data": data_file(ref.name, key),
            "executions": f"executions/{slug(ref.name)}/part.{made}.parquet",
            "batch_tokens": batching.tokens(spec, ref),
            "logits_bytes": spec.evaluation.logits_bytes,
            "rounds": every,
            "visits": spec.seeds.visits,
            "asked": list(asked),
            "compile": spec.compile,
            "scored": scored(spec, ref.facts),
            "kl": "kl" in spec.evaluation.metrics,
            "cells": {c.name: dict(c.arguments) for c in cells},
        },
        cells=tuple(names),
        cost=float(len(cells) * ref.facts.parameters * positions),
    )


def _spelled(asked: Sequence[int]) -> str:
    first, last = asked[0] + 1, asked[-1] + 1
    return f"round {first}" if first == last else f"rounds {first} to {last}"
