"""Overlap: documents that would be both collected and evaluated, by way of two sources.

One source keeps its roles apart by itself. But statistics may come from another one,
and scores compare two; if that other one is the same file under another name, its
collected documents may be those that a model is evaluated on. Constants would then
be fitted to what they are tested by.

Only sources of the same content are seen to overlap. Two files that share a text
are not.
"""

from collections.abc import Mapping

from orchestrator.mistakes import Mistake
from orchestrator.sources import Source
from orchestrator.spec import Spec


def overlaps(spec: Spec, found: Mapping[str, Source]) -> list[Mistake]:
    """Return the sources whose collected documents a model is evaluated on."""
    counted = {"statistics.data": spec.statistics.data}
    for i, selection in enumerate(spec.selections):
        other = selection.parameters.get("against")
        counted[f"selections[{i}]"] = None if other is None else str(other)
    evaluated = [model.data for model in spec.models if model.data in found]
    mistakes = {}
    for path, key in counted.items():
        for own in evaluated:
            if key is None or key not in found or own is None or key == own:
                continue
            split = _split(spec, found, key, "collect")
            if found[key].digest() == found[own].digest() and split == _split(
                spec, found, own, "evaluate"
            ):
                message = (
                    f"{key} collects the split {split!r} of the very content that {own} evaluates"
                    " on; collect another split, or take another source"
                )
                mistakes[path] = Mistake(path=path, message=message)
    return list(mistakes.values())


def _split(spec: Spec, found: Mapping[str, Source], key: str, role: str) -> str:
    """Return the split that a role takes, or which half where documents are divided by hash."""
    splits = found[key].splits
    if not splits:
        return f"half to {role}"  # by the hash of the content: the other role has the other half
    named = spec.data[key].collect.split if role == "collect" else spec.data[key].evaluate.split
    return named or (splits[0] if role == "collect" else splits[-1])
