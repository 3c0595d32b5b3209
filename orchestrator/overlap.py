"""Overlap: documents that would be both collected and evaluated, by way of two sources.

One source keeps its roles apart by itself. But statistics may come from another one,
and scores compare two; if that other one is the same file under another name, its
collected documents may be those that a model is evaluated on. Constants would then
be fitted to what they are tested by.

Two sources are of the same content where they share a file, or are the same set of a hub. They
are kept apart by splits, by the two halves of a division by hash, if both make the same documents
of it, and by filters (`where`) that no row passes both of. Two files that share a text are not
seen here; copies within one source are (`orchestrator.duplicates`).
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from orchestrator import tabled
from orchestrator.documents import Source
from orchestrator.mistakes import Mistake
from orchestrator.sections import DataSpec
from orchestrator.spec import Spec
from orchestrator.taking import Role, splits_of


class Part(NamedTuple):
    """Which of the documents of a source a role takes."""

    split: str | None
    """None: of all splits."""
    half: Role | None
    """Whose half of a division by hash; None: all of them."""


def overlaps(spec: Spec, found: Mapping[str, Source]) -> list[Mistake]:
    """Return the sources whose collected documents a model is evaluated on."""
    counted = {"statistics.data": spec.statistics.data}
    for i, selection in enumerate(spec.selections):
        other = selection.parameters.get("against")
        counted[f"selections[{i}]"] = None if other is None else str(other)
    evaluated = {model.data for model in spec.models if model.data in found}
    mistakes = {}
    for path, key in counted.items():
        for own in sorted(name for name in evaluated if name is not None):
            if key is None or key not in found or key == own:
                continue
            one, two = (spec.data[key], found[key]), (spec.data[own], found[own])
            collected, scored = _part(*one, "collect"), _part(*two, "evaluate")
            alike = _documents(*one) == _documents(*two)
            met = _meet(collected, scored, halved_alike=alike)
            if _same(one, two) and met and not _apart(one[0], two[0]):
                what = f"the split {collected.split!r}" if collected.split else "documents"
                message = (
                    f"{key} collects {what} of the very content that {own} evaluates"
                    " on; collect another split, or take another source"
                )
                mistakes[path] = Mistake(path=path, message=message)
    return list(mistakes.values())


def _part(data: DataSpec, source: Source, role: Role) -> Part:
    splits = splits_of(
        source.splits, {"collect": data.collect.split, "evaluate": data.evaluate.split}
    )
    if splits is not None:
        return Part(split=splits[role], half=None)
    return Part(split=data.split if not source.files else None, half=role)


def _same(one: tuple[DataSpec, Source], two: tuple[DataSpec, Source]) -> bool:
    """Whether two sources may have documents in common."""
    if not one[1].files or not two[1].files:
        told = [(data.source, data.config, source.revision) for data, source in (one, two)]
        return told[0] == told[1]
    shared = set(one[1].files) & set(two[1].files)
    return bool(shared) or one[1].digest() == two[1].digest()


def _documents(data: DataSpec, source: Source) -> object:
    """Return what decides the content of documents, by which a source is divided in halves."""
    joined = None  # rows that are not joined are the same ones, whichever are read
    if data.document is not None:
        joined = data.document, json.dumps(data.where, sort_keys=True)
    column = {"text": data.text, "images": data.image, "pairs": data.input}[source.kind]
    passages = tabled.format_of(data.source) == "texts"  # a folder of them is of whole texts
    return source.kind, column, joined, passages


def _meet(one: Part, two: Part, *, halved_alike: bool) -> bool:
    splits = {one.split, two.split} - {None}
    halves = {one.half, two.half} - {None}
    return len(splits) < 2 and (len(halves) < 2 or not halved_alike)


def _apart(one: DataSpec, two: DataSpec) -> bool:
    """Whether no row passes the filters of both."""
    both = one.where.keys() & two.where.keys()
    # A class by its number and by its name may be the same one: unlike types say nothing.
    return any(
        len({isinstance(v, str) for v in (*one.where[column], *two.where[column])}) == 1
        and not set(one.where[column]) & set(two.where[column])
        for column in both
    )
