"""Absent: what a plan was made without, because it is not on this machine.

A plan needs shapes and sizes, and no weights and no documents. Of a few hub models the shapes
are known (`orchestrator.inspection`), and a data set of a hub is known by its address
(`orchestrator.sources`), so a sweep over them can be planned where neither can be reached: its
cells, tasks, bytes and hours are those it will have. Its names are not: they are made of the
digests of what is absent, and a run makes them anew.

Only planning does so. A run fetches what it needs first, and refuses what it cannot get.
"""

from collections.abc import Iterator

from orchestrator import inspection
from orchestrator.plan import Plan


def absent(made: Plan) -> list[str]:
    """Return a sentence for each model and each source that is not here, with what to do."""
    revisions = {model.id: model.revision for model in made.spec.models}
    models = [
        f"{name} is not on this machine; a run downloads it at {revisions[name]}"
        for name, ref in made.models.items()
        if inspection.provisional(ref.facts)
    ]
    return models + [f"data {key}: {why}" for key, why in made.missing.items()]


def told(made: Plan) -> Iterator[str]:
    """Yield what a plan's reader must know of what is absent; nothing where all is here."""
    if sentences := absent(made):
        yield (
            "SYMBOLIC: planned from shapes alone, since not everything is here. Cells, tasks, bytes"
            " and hours stand; names are provisional, and a run makes them anew"
        )
        yield from sentences
