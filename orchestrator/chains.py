"""Chains: statistics that are collected again as ablation proceeds.

With `layers_in_sequence` each layer's statistics are of the model in which the
held units of all layers below it are held already; one task goes up the
layers. With `per_fraction` the statistics of a fraction are of the model in
which the next smaller fraction is held; the smallest uses those of the bare
model, and all units held so far are held anew at the new constants. A selection
that is scored again at each fraction ranks what is left by such statistics, and
keeps what is held already in front.

Either way constants or orders depend on the method, the mask and the fraction, so
there is a chain per (arm, method), and cells that share nothing but their batches.
What is held at zero needs no statistics for its constants.
"""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.arms import MethodSpec
from orchestrator.cells import Arm
from orchestrator.collection import Counts
from orchestrator.draft import Made
from orchestrator.graph import Graph
from orchestrator.held import HeldSet
from orchestrator.orders import Orders
from workers.selection import Chosen, chosen

NameOf = Callable[[Arm, MethodSpec, HeldSet, Made], str]
"""The name of the cell that holds a set at some constants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One fraction of a chain."""

    order: Made
    values: Made


class Chains:
    """Adds what one model's chains need, link by link."""

    def __init__(self, graph: Graph, orders: Orders, name_of: NameOf) -> None:
        """Start with none."""
        self.graph, self.orders, self.name_of = graph, orders, name_of
        self._links: dict[tuple[object, ...], dict[Chosen, Link]] = {}

    def goes(self, arm: Arm, method: MethodSpec) -> bool:
        """Return whether an arm's constants or order change as a method's ablation proceeds."""
        again = self.graph.spec.statistics.mode != "one_shot" and method.method != "zero"
        return method.constant and (again or arm.selection.iterative)

    def link(self, arm: Arm, method: MethodSpec, some: Chosen) -> Link:
        """Return the order and the constants of a fraction."""
        key = (arm.sites, arm.unit, arm.layers, arm.selection.label, arm.seed, method.label)
        if key not in self._links:
            self._links[key] = self._forge(arm, method)
        return self._links[key][some]

    def _forge(self, arm: Arm, method: MethodSpec) -> dict[Chosen, Link]:
        graph, site = self.graph, arm.sites[0]
        mode, units = graph.spec.statistics.mode, self.orders.scope(arm)
        moving = method.method != "zero"
        links: dict[Chosen, Link] = {}
        before: HeldSet | None = None
        bare = Link(order=self.orders.base(arm), values=graph.centre(site, method))
        for fraction in graph.spec.fractions:
            some = chosen(units, fraction, over=arm.selection.over, listed=self.orders.listed(arm))
            if some in links:
                continue
            if not some.units(units):  # nothing is held, in whichever order
                links[some] = bare
                continue
            link, counts = bare, None
            renewed = arm.selection.iterative or (mode == "per_fraction" and moving)
            if before is not None and renewed:
                values = links[before.chosen].values
                counts = self._under(method, before, values)
                name = self.name_of(arm, method, before, values)
                tables = graph.collection(site).statistics(counts, name)
                if arm.selection.iterative:
                    order = self.orders.again(arm, method, tables, before, name)
                    link = Link(order=order, values=link.values)
            now = HeldSet(
                sites=arm.sites, unit=arm.unit, scope=units, chosen=some, order=link.order
            )
            if mode == "layers_in_sequence" and moving:
                counts = self._under(method, now, None)
                link = Link(order=link.order, values=self._centre(arm, method, now, counts))
                name = self.name_of(arm, method, now, link.values)
                graph.collection(site).statistics(counts, name)
            elif mode == "per_fraction" and moving and counts is not None:
                link = Link(order=link.order, values=self._centre(arm, method, now, counts))
            links[some], before = link, now
        return links

    def _centre(self, arm: Arm, method: MethodSpec, now: HeldSet, counts: Counts) -> Made:
        """Add the constants that counts under ablation give, for one held set."""

        def cell_of(values: Made) -> str:
            return self.name_of(arm, method, now, values)

        return self.graph.centre_of(arm.sites[0], method, counts, cell_of=cell_of)

    def _under(self, method: MethodSpec, some: HeldSet, values: Made | None) -> Counts:
        """Add the counts of a model in which a set is held.

        At `values`, or where these are None at what the layers' own statistics say, one by one.
        """
        how = {"method": method.method, "parameters": dict(method.plain)}
        recipe = {
            **how,
            "held": some.recipe,
            "values": values.name if values else "in sequence",
        }
        return self.graph.collection(some.sites[0]).under(
            f"counts under {method.label} at {some.units} units of {some.order.name[:8]}",
            recipe,
            {**how, **some.arguments, "centres": values and values.file},
            after=[*some.after, *([values] if values else [])],
            passes=self.graph.ref.facts.layers if values is None else 1,
        )
