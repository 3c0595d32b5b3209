"""The draft: the tasks of one model, as they are written down.

A task's recipe holds what changes its answer: the weights, the data's name, the
bins. Its arguments hold what is needed to do it: files and folders, which may
move without changing a number and so stay out of the name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.names import name, slug
from orchestrator.spec import Spec
from orchestrator.tasks import Stage, Task
from workers.messages import ModelRef, Site

FAN_IN = 8
"""Partials merged by one task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What a task makes; later tasks build on it."""

    name: str
    file: str


def by_site(
    what: Literal["name", "file"], made: Mapping[Site, Sequence[Made]]
) -> dict[str, list[str]]:
    """Return the names or the files of what was made, by site."""
    return {site: [getattr(m, what) for m in some] for site, some in made.items()}


class Draft:
    """Writes down the tasks of one model."""

    def __init__(self, spec: Spec, ref: ModelRef) -> None:
        """Start with nothing."""
        self.spec, self.ref = spec, ref
        self.slug = slug(ref.name)
        self.tasks: list[Task] = []
        self._made: dict[str, str] = {}

    def add(
        self,
        stage: Stage,
        kind: str,
        label: str,
        recipe: Mapping[str, object],
        arguments: Mapping[str, object],
        *,
        after: Sequence[Made] = (),
        folder: str,
        file: str | None = None,
        ending: str = "parquet",
        on_model: bool = False,
        cost: float = 0.0,
    ) -> Made:
        """Add a task unless it is there, and return what it makes."""
        made = self.named(kind, recipe, folder, file, ending)
        there = self._made.get(made.file)
        if there == made.name:
            return made
        if there is not None:
            raise RuntimeError(f"{made.file} would be made by {there} and by {made.name}")
        self._made[made.file] = made.name
        self.tasks.append(
            Task(
                name=made.name,
                stage=stage,
                kind=kind,
                label=f"{self.ref.name} {label}",
                file=made.file,
                model=self.ref if on_model else None,
                after=tuple(a.file for a in after),
                arguments={"model": self.ref.name, **arguments},
                cost=cost,
            )
        )
        return made

    def named(
        self,
        kind: str,
        recipe: Mapping[str, object],
        folder: str,
        file: str | None = None,
        ending: str = "parquet",
    ) -> Made:
        """Return what a task of this recipe makes, without adding it."""
        made = name(kind, recipe)
        return Made(name=made, file=file or f"{folder}/{self.slug}/{kind}.{made}.{ending}")

    def partial(
        self,
        kind: str,
        label: str,
        recipe: Mapping[str, object],
        arguments: Mapping[str, object],
        *,
        after: Sequence[Made],
        cost: float = 0.0,
    ) -> Made:
        """Add a task whose file is working state of collection; on the model if it has a cost."""
        return self.add(
            "collect" if cost else "reduce",
            kind,
            label,
            recipe,
            arguments,
            after=after,
            folder="partials",
            ending="arrow",
            on_model=bool(cost),
            cost=cost,
        )

    def tree(self, kind: str, parts: Sequence[Made], data_name: str) -> Made:
        """Add a tree of merges of `FAN_IN` parts each; return its root."""
        while len(parts) > 1:
            groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
            parts = [
                self.partial(
                    kind,
                    f"{kind.replace('_', ' ')} of {len(group)}",
                    {"of": [m.name for m in group]},
                    {"parts": [m.file for m in group], "data_name": data_name},
                    after=group,
                )
                for group in groups
            ]
        return parts[0]
