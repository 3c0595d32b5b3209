"""Held: which units a cell holds, before anyone knows which these are.

A plan knows how many units of which sites and layers are chosen, and by which order;
the order itself is a file that is made later. So a held set is a recipe: two that
must come out the same have the same, whichever way they were asked for. All units of
some layers are all units, be it neurons or heads, chosen or left over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.draft import Made
from workers.messages import ModelFacts, Site
from workers.selection import Chosen, Scope, Unit

UNORDERED = Made(name="\0order", file="\0order")
"""Stands for an order that is not known yet; no name or file has its first character."""


def scope(
    facts: ModelFacts, sites: Sequence[Site], unit: Unit, layers: Sequence[int], complement: bool
) -> Scope:
    """Return what units there are of a model at some sites, and which could be chosen."""
    heads = unit == "head"
    return Scope(
        layers=tuple(layers),
        depth=facts.layers,
        units=tuple(facts.heads if heads else facts.neurons_at(site) for site in sites),
        widths=tuple(facts.d_head if heads else 1 for _ in sites),
        complement=complement,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldSet:
    """Units of one model that are held together."""

    sites: tuple[Site, ...]
    unit: Unit
    scope: Scope
    chosen: Chosen
    order: Made
    """The order that they are a prefix of."""

    @property
    def units(self) -> int:
        """How many units are held."""
        return self.chosen.held(self.scope)

    @property
    def whole(self) -> tuple[int, ...] | None:
        """The layers all of whose units are held, where these are all that are held; or None."""
        chosen, scope = self.chosen.units(self.scope), self.scope
        every = tuple(range(scope.depth))
        if chosen == scope.choosable:
            others = tuple(i for i in every if i not in scope.layers)
            return others if scope.complement else scope.layers
        return every if chosen == 0 and scope.complement else None

    @property
    def _asked(self) -> dict[str, object]:
        return {
            "sites": list(self.sites),
            "unit": self.unit,
            "layers": list(self.scope.layers),
            "complement": self.scope.complement,
            "over": self.chosen.over,
            "chosen": list(self.chosen.counts),
        }

    @property
    def recipe(self) -> dict[str, object]:
        """What changes which units they are, and nothing else."""
        if self.whole is not None:
            return {"sites": list(self.sites), "all of layers": list(self.whole)}
        return {**self._asked, "selection": self.order.name}

    @property
    def arguments(self) -> dict[str, object]:
        """What tells a task which they are (`orchestrator.values.neurons`)."""
        return {**self._asked, "selection": None if self.whole is not None else self.order.file}

    @property
    def after(self) -> list[Made]:
        """What a task that needs to know them comes after."""
        return [] if self.whole is not None else [self.order]


def told(facts: ModelFacts, a: Mapping[str, Any]) -> tuple[Scope, Chosen]:
    """Return the scope and the number of what a task's arguments say is held."""
    return (
        scope(facts, a["sites"], a["unit"], a["layers"], a["complement"]),
        Chosen(over=a["over"], counts=tuple(a["chosen"])),
    )
