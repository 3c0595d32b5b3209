"""Calls: which cells one task evaluates together, and in which rounds.

A call loads its batches once, hides the scheduler's time, and lets its cells share what does
not depend on them: the pass below what they hold, the donors' activations, the bare model's
answer. What a cell answers does not depend on its call, so how they are put together is
free; it is done the same way always, so that a plan is the same plan tomorrow.

There may be a hundred thousand calls, which wait for their turn in one process. So a call
says which cells it is of and no more; what a worker must be told of them is put in when it
is sent (`filled`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import batching, rounds
from orchestrator.batching import CONSTANTS_PER_CALL, DONATED_PER_CALL
from orchestrator.cells import Cell, data_of, scored
from orchestrator.compaction import twin
from orchestrator.names import data_file, name, slug
from orchestrator.plan import Plan
from orchestrator.tasks import Task
from workers.messages import ModelRef


def rounds_of(plan: Plan, ref: ModelRef) -> int:
    """Return how many rounds the evaluation of a model has."""
    return rounds.count(plan.spec, ref, data_of(plan.spec, ref.name))


def calls(plan: Plan, missing: Mapping[str, Sequence[int]]) -> list[Task]:
    """Return the calls that answer cells, by name, in the rounds that each lacks, ascending.

    A call is of one model in one basis, and of the same rounds for all its cells. Cells that
    take activations of the same donors are together: these are held while a call lasts.
    """
    groups: dict[tuple[str, int | None, str, tuple[int, ...]], list[str]] = {}
    cells = plan.cells
    for named, asked in missing.items():
        ref = cells.ref(named)
        key = (ref.name, ref.basis, cells.donors(named), tuple(asked))
        groups.setdefault(key, []).append(named)
    made = []
    for (*_, donors, asked), group in groups.items():
        size = DONATED_PER_CALL if donors else CONSTANTS_PER_CALL
        same = _same(plan, cells.ref(group[0]), asked)
        made += [_call(plan, same, group[i : i + size]) for i in range(0, len(group), size)]
    return made


def split(plan: Plan, task: Task) -> Sequence[Task]:
    """Return a call of many cells as calls of one; any other task as it is."""
    if len(task.cells) < 2:
        return [task]
    same = _same(plan, plan.cells.ref(task.cells[0]), task.arguments["asked"])
    return [_call(plan, same, [named]) for named in task.cells]


def call(plan: Plan, cells: Iterable[Cell], asked: Sequence[int]) -> Task:
    """Return the task that answers these cells of one model in one call, in the rounds `asked`.

    It is filled: ready to be sent.
    """
    names = [cell.name for cell in cells]
    return filled(plan, _call(plan, _same(plan, plan.cells.ref(names[0]), asked), names))


def filled(plan: Plan, task: Task) -> Task:
    """Return a call with all that a worker must be told of its cells; other tasks as they are."""
    if not task.cells:
        return task
    cells = {named: dict(plan.cells[named].arguments) for named in task.cells}
    return replace(
        task, arguments={**task.arguments, "executions": twin(task.file), "cells": cells}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Same:
    """What calls of one model in the same rounds have in common."""

    ref: ModelRef
    some: Mapping[str, object]
    """The rounds, for the name; empty where it is all of them."""
    said: str
    """The rounds, for people."""
    folder: str
    arguments: Mapping[str, Any]
    cost: float
    """Of one cell."""


def _same(plan: Plan, ref: ModelRef, asked: Sequence[int]) -> _Same:
    spec, every = plan.spec, rounds_of(plan, ref)
    key = data_of(spec, ref.name)
    positions = spec.data[key].positions("evaluate", ref.facts.window) * len(asked) / every
    some = {} if len(asked) == every else {"rounds": list(asked)}
    return _Same(
        ref=ref,
        some=some,
        said=f", {_spelled(asked)} of {every}" if some else "",
        folder=f"results/{slug(ref.name)}",
        arguments={
            "model": ref.name,
            "data": data_file(ref.name, key),
            "batch_tokens": batching.tokens(spec, ref),
            "logits_bytes": spec.evaluation.logits_bytes,
            "rounds": every,
            "visits": spec.seeds.visits,
            "asked": list(asked),
            "compile": spec.compile,
            "scored": scored(spec, ref.facts),
            "kl": "kl" in spec.evaluation.metrics,
        },
        cost=ref.facts.parameters * positions,
    )


def _call(plan: Plan, same: _Same, cells: Sequence[str]) -> Task:
    names = sorted(cells)
    made = name("cell", {"of": names, **same.some})
    return Task(
        name=made,
        stage="evaluate",
        kind="evaluate",
        label=f"{same.ref.name} {len(names)} cells{same.said}",
        file=f"{same.folder}/part.{made}.parquet",
        model=same.ref,
        after=tuple(dict.fromkeys(n for c in cells for n in plan.cells.after(c))),
        arguments=same.arguments,
        cells=tuple(names),
        cost=float(len(names) * same.cost),
    )


def _spelled(asked: Sequence[int]) -> str:
    first, last = asked[0] + 1, asked[-1] + 1
    return f"round {first}" if first == last else f"rounds {first} to {last}"
