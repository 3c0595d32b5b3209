"""Glance: what else is wrong with a sweep file that could not be parsed.

One look should show every mistake, also those that only show when sections,
models and sources are looked at together. So what was refused is taken out of
the file, the rest is planned, and what that finds is reported too. Whatever
might be wrong only because something was taken out is left unsaid.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator import inspection, plan
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.spec import Plugins, parse


def glance(
    raw: object, found: Sequence[Mistake], base: Path, plugins: Plugins | None = None
) -> list[Mistake]:
    """Return more mistakes of a file than `found`; its relative paths start at `base`."""
    if not isinstance(raw, Mapping):
        return []
    roots = {m.path.split(".")[0].split("[")[0] for m in found}
    if "models" in roots:
        return _models(raw, base)
    rest = {k: v for k, v in raw.items() if k not in roots}
    if "methods" in roots:
        rest["methods"] = ["zero"]
    if roots & {"methods", "selections", "basis"}:
        rest.pop("contrasts", None)
    if "data" in roots:
        return _models(raw, base)  # without its data, whether a model has any can't be said
    told = {name: {"digest": ""} for name in plugins or {}}  # nothing of this plan is run
    try:
        plan.make(parse(rest, plugins), base=base, device="cpu", plugins=told)
    except SpecError as error:
        return error.mistakes
    return []


def _models(raw: Mapping[object, object], base: Path) -> list[Mistake]:
    """Return what is wrong with the models and sources that are certainly meant."""
    models, data = raw.get("models"), raw.get("data")
    mistakes: list[Mistake] = []
    folders: dict[str, Path] = {}
    for i, item in enumerate(models if isinstance(models, list) else []):
        given = item if isinstance(item, Mapping) else {"id": item}
        model, revision = given.get("id"), given.get("revision")
        if isinstance(model, str) and model and isinstance(revision, str | None):
            try:
                folders[f"models[{i}]"] = inspection.folder(model, revision=revision, base=base)
            except inspection.ModelError as error:
                if inspection.symbolic(model, revision) is not None:
                    continue  # it can be planned with, and `run` says what it lacks
                mistakes.append(Mistake(path=f"models[{i}]", message=str(error)))
    answers = zip(folders, inspection.facts(list(folders.values())), strict=True)
    mistakes += [
        Mistake(path=p, message=str(a)) for p, a in answers if isinstance(a, inspection.ModelError)
    ]
    for key, given in (data if isinstance(data, Mapping) else {}).items():
        source = given.get("source") if isinstance(given, Mapping) else None
        if isinstance(source, str):
            mistakes += plan.source_mistakes(str(key), source, base)
    return mistakes
