"""The plan: every task and every cell of a sweep, by name, before anything runs.

The plan is arithmetic over the spec and the models' facts; it reads no data and
changes nothing. Because a task is named by its recipe and a recipe holds the
names of what it builds on, the whole graph can be written down now and compared
with what a run folder already has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator import feeding, inspection, packing, prompts, sharded, sourced, sources
from orchestrator.distinct import Cells
from orchestrator.fitting import misfits
from orchestrator.graph import Graph
from orchestrator.grid import Grid
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.names import slug
from orchestrator.naming import Named, named
from orchestrator.overlap import overlaps
from orchestrator.replacements import Replacements
from orchestrator.sections import ModelSpec
from orchestrator.spec import Spec
from orchestrator.tasks import Task
from workers.messages import ModelFacts, ModelRef

THREADS = 1
"""Threads of a replica on CPUs; fixed, because float sums depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A sweep, worked out."""

    spec: Spec
    """With every model's data source filled in."""
    models: Mapping[str, ModelRef]
    tasks: tuple[Task, ...]
    """All but the evaluations, each after the tasks it needs."""
    rows: pa.Table
    """The cells table: one row per nominal point."""
    cells: Cells
    """The distinct cells, by name, in the order of the sweep file."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By name, the data that cannot be read here and now, with the cure: names that come from it
    are provisional, and nothing may run."""


def make(
    spec: Spec,
    *,
    base: Path,
    device: str,
    fetch: bool = False,
    plugins: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Return the plan of a spec whose relative paths start at `base`.

    `plugins` are a user's own methods, by name, as told to tasks. Raises SpecError with
    every mistake that shows only when models, sources and fractions are looked at together.
    """
    refs, mistakes = _models(spec, base, device, fetch)
    found, more = sourced.found(spec, base, fetch=fetch)
    spec = sourced.pinned(spec, found)
    mistakes += more
    if not more:
        mistakes += _collected(spec, refs, found)
        spec, more = _fill_data(spec, refs, found)
        mistakes += [*more, *overlaps(spec, found), *prompts.misfits(spec, refs, found)]
    mistakes += [*misfits(spec, refs, base), *packing.misfits(spec)]
    if not mistakes:
        refs, mistakes = sharded.fitted(spec, refs, sharded.device_memory)
    if mistakes:
        raise SpecError(mistakes)
    tasks: dict[str, Task] = {}
    every: list[Named] = []
    digests = sourced.digests(found)
    for model in spec.models:
        assert model.data is not None
        for basis in spec.basis:
            ref = replace(refs[model.id], basis=basis)
            graph = Graph(spec, ref, model.data, base, digests, plugins or {})
            made = Replacements(graph)
            every.append(named(Grid(spec, ref, made.inputs), made.inputs))
            # What knows nothing of a model's axes is the same file in every basis.
            tasks |= {task.file: task for task in made.tasks if task.file not in tasks}
    tables = [some.group.grid.table(pa.array(some.name_N, pa.string())) for some in every]
    return Plan(
        spec=spec,
        models=refs,
        tasks=tuple(tasks.values()),
        rows=pa.concat_tables(tables),
        cells=Cells.of(every),
        missing={k: s.missing for k, s in found.items() if s.missing is not None},
    )


def _models(
    spec: Spec, base: Path, device: str, fetch: bool
) -> tuple[dict[str, ModelRef], list[Mistake]]:
    mistakes = []
    folders: dict[str, Path] = {}
    slugs: dict[str, str] = {}
    known: dict[str, ModelFacts | inspection.ModelError] = {}
    for i, model in enumerate(spec.models):
        try:
            folders[model.id] = inspection.folder(
                model.id, revision=model.revision, base=base, fetch=fetch
            )
        except inspection.ModelError as error:
            imagined = None if fetch else inspection.symbolic(model.id, model.revision)
            if imagined is None:
                mistakes.append(Mistake(path=f"models[{i}]", message=str(error)))
            else:
                known[model.id] = imagined
        twin = slugs.setdefault(slug(model.id), model.id)
        if twin != model.id:
            message = f"{model.id!r} and {twin!r} would share a folder; rename one"
            mistakes.append(Mistake(path=f"models[{i}]", message=message))
    refs = {}
    known.update(zip(folders, inspection.facts(list(folders.values())), strict=True))
    for i, model in enumerate(spec.models):
        answer = known.get(model.id)
        if isinstance(answer, inspection.ModelError):
            mistakes.append(Mistake(path=f"models[{i}]", message=str(answer)))
        elif answer is not None:
            refs[model.id] = _ref(model, folders.get(model.id), answer, device)
    return refs, mistakes


def _ref(model: ModelSpec, folder: Path | None, facts: ModelFacts, device: str) -> ModelRef:
    return ModelRef(
        name=model.id,
        folder="(not on this machine)" if folder is None else str(folder),
        dtype=model.dtype,
        device="cuda" if device == "cuda" else "cpu",
        threads=THREADS,
        facts=facts,
        packed=model.packed,
    )


def source_mistakes(key: str, source: str, base: Path) -> list[Mistake]:
    """Return what is wrong with the name of a source."""
    return sourced.named(key, source, base)


def _fill_data(
    spec: Spec, refs: Mapping[str, ModelRef], found: Mapping[str, sources.Source]
) -> tuple[Spec, list[Mistake]]:
    models, mistakes = [], []
    for i, model in enumerate(spec.models):
        ref = refs.get(model.id)
        if ref is None:
            models.append(model)
            continue
        misfits = {k: feeding.misfit(ref, spec.data[k], s) for k, s in found.items()}
        fitting = [k for k, misfit in misfits.items() if misfit is None]
        chosen = model.data or next(iter(fitting), None)
        if chosen is None:
            message = "no data source fits it: " + "; ".join(f"{k} {m}" for k, m in misfits.items())
            mistakes.append(Mistake(path=f"models[{i}]", message=message))
        elif misfits[chosen] is not None:
            message = f"data source {chosen} {misfits[chosen]}"
            mistakes.append(Mistake(path=f"models[{i}].data", message=message))
        pinned = inspection.commit(ref.folder) or model.revision  # a branch is its commit from here
        models.append(model.model_copy(update={"data": chosen, "revision": pinned}))
    return spec.model_copy(update={"models": tuple(models)}), mistakes


def _collected(
    spec: Spec, refs: Mapping[str, ModelRef], found: Mapping[str, sources.Source]
) -> list[Mistake]:
    """Return what is wrong with the source and the strata of the statistics."""
    mistakes = []
    named = {"statistics.data": spec.statistics.data}
    for i, selection in enumerate(spec.selections):
        other = selection.parameters.get("against")
        named[f"selections[{i}]"] = None if other is None else str(other)
    for path, key in named.items():
        for ref in refs.values() if key in found else ():
            assert key is not None
            misfit = feeding.misfit(ref, spec.data[key], found[key])
            if misfit is not None:
                message = f"{key} {misfit} ({ref.name}); sweep the models it fits by themselves"
                mistakes.append(Mistake(path=path, message=message))
    by_class = [i for i, s in enumerate(spec.statistics.strata) if s.by == "class"]
    if by_class and refs and all(ref.facts.modality != "image" for ref in refs.values()):
        message = "only images have classes, and no model takes images; use `position`"
        mistakes.append(Mistake(path=f"statistics.strata[{by_class[0]}]", message=message))
    return mistakes


def with_cells(plan: Plan, names: Iterable[str]) -> Plan:
    """Return the plan with the cells of these names alone; its rows stay."""
    return replace(plan, cells=plan.cells.only(names))
