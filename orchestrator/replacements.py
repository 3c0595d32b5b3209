"""Replacements: what a method puts in the place of held units, as recipe and task.

    constant       a table of centres per site, folded
    donated        a table of donors, whose activations are taken
    noise, marginal, nearest_peak, plug-ins      statistics tables, read when evaluated
    optimal        a table of centres learned for the cell, or for all cells of its arm

Here the pieces of one model come together: its graph, its orders, its chains. What
its cells ask for is added as they ask.
"""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator import batching
from orchestrator.arms import MethodSpec
from orchestrator.cells import Arm, Inputs, Values, bare, held, recipe, scored, seeded
from orchestrator.chains import Chains
from orchestrator.draft import Made, by_site
from orchestrator.graph import Graph
from orchestrator.held import HeldSet
from orchestrator.labels import rotated
from orchestrator.names import name
from orchestrator.orders import Orders
from orchestrator.tasks import Task
from workers.selection import Chosen

EVERY = 10
"""Steps of learning between two looks at the part that is kept for choosing."""
_FALLBACK = (
    MethodSpec(method="mean", parameters={}),
    MethodSpec(method="zero", parameters={}),
)
"""Where learning starts, beside the sweep's own constants."""


class Replacements:
    """Adds what cells ask for: orders and values."""

    def __init__(self, graph: Graph) -> None:
        """Start with what every sweep leaves: data, statistics and constants."""
        graph.build()
        self.graph, self.orders = graph, Orders(graph)
        self._unablated = bare(graph.spec, graph.ref, graph.data)
        self._learned_for: dict[tuple[object, ...], Made] = {}
        """By arm, the constants that all of its held sets share."""
        self.chains = Chains(self.graph, self.orders, self._name_of)
        self.inputs = Inputs(
            data=self.graph.data,
            order=self._order,
            values=self._values,
            listed=self.orders.listed,
            moves=self._moves,
        )

    @property
    def tasks(self) -> list[Task]:
        """The tasks so far."""
        return self.graph.draft.tasks

    def _order(self, arm: Arm, method: MethodSpec, some: Chosen) -> Made:
        if self.chains.goes(arm, method):
            return self.chains.link(arm, method, some).order
        return self.orders.base(arm)

    def _moves(self, arm: Arm, method: MethodSpec) -> bool:
        return method.method == "optimal" or self.chains.goes(arm, method)

    def _name_of(self, arm: Arm, method: MethodSpec, some: HeldSet, values: Made) -> str:
        """Return the name of the cell that holds a set at given constants."""
        at = self._constants(dict.fromkeys(some.sites, values), method)
        return name("cell", recipe(self._unablated, method, some, at))

    def _values(self, arm: Arm, method: MethodSpec, some: HeldSet, draw: int | None) -> Values:
        graph = self.graph
        if method.method == "optimal":
            made = self._learned(arm, method, some)
            return self._constants(dict.fromkeys(some.sites, made), method)
        if method.constant:
            if self.chains.goes(arm, method):
                values = self.chains.link(arm, method, some.chosen).values
                return self._constants({some.sites[0]: values}, method)
            return self._constants({s: graph.centre(s, method) for s in some.sites}, method)
        assert draw is not None or method.paired or method.method == "nearest_peak"
        if method.donated:
            donors = graph.donors(method, draw)
            drawn = method.word("drawn")
            arguments = {"kind": "donated", "donors": donors.file, "drawn": drawn, "seed": draw}
            return Values(recipe=[donors.name, drawn], arguments=arguments, after=[donors])
        tables = {site: list(graph.tables(site)) for site in some.sites}
        told: dict[str, object] = {
            "kind": "custom" if method.plugin else method.method,
            "statistics": by_site("file", tables),
            "seed": draw,
        }
        recipe: dict[str, object] = {
            "of": by_site("name", tables),
            "seed": draw,
        }
        if method.plugin:
            told |= {"plugin": graph.plugins[method.method], "parameters": dict(method.plain)}
            recipe["plugin"] = graph.plugins[method.method]["digest"]
        return Values(
            recipe=recipe, arguments=told, after=[m for of in tables.values() for m in of]
        )

    def _constants(self, made: Mapping[str, Made], method: MethodSpec) -> Values:
        starts = list(self.graph.starts) if method.by_position else None
        return Values(
            recipe=[m.name for m in made.values()],
            arguments={
                "kind": "constant",
                "centres": {site: m.file for site, m in made.items()},
                "starts": starts,
            },
            after=list(made.values()),
        )

    def _learned(self, arm: Arm, method: MethodSpec, some: HeldSet) -> Made:
        """Add the constants that are learned for a held set, or for all of an arm's rule."""
        graph = self.graph
        shared = method.word("scope") == "shared"
        steps = int(method.number("steps"))
        arm_key = (arm.sites, arm.unit, arm.layers, arm.selection.label, method.label)
        if shared and arm_key in self._learned_for:
            return self._learned_for[arm_key]
        sets = self._sets(arm, method) if shared else [some]
        starts = {
            m.label: {site: graph.centre(site, m) for site in some.sites}
            for m in (*graph.spec.methods, *_FALLBACK)
            if m.constant and m.method != "optimal" and not m.by_position and m.share == 1
        }
        tables = {site: list(graph.tables(site)) for site in some.sites}
        collection = graph.collection(some.sites[0])
        batch = batching.tokens(graph.spec, graph.ref)
        how: dict[str, object] = {
            "method": method.method,
            "parameters": dict(method.parameters),
            "steps": steps,
            "lr": method.number("lr"),
            "seed": int(method.number("seed")),
            "every": EVERY,
            "batch_tokens": batch,
            "logits_bytes": graph.spec.evaluation.logits_bytes,
            "scored": scored(graph.spec, graph.ref.facts),  # learned by what cells are scored by
        }
        recipe = {
            **how,
            "model": graph.ref.weights,
            "dtype": graph.ref.dtype,
            "data": collection.data.name,
            "sets": [s.recipe for s in sets],
            "starts": {k: [m.name for m in of.values()] for k, of in starts.items()},
            "scales": by_site("name", tables),
        }
        made = graph.draft.named("learn", recipe, "centres")
        arguments = {
            **how,
            "sites": list(some.sites),
            "sets": [s.arguments for s in sets],
            "starts": {k: {site: m.file for site, m in of.items()} for k, of in starts.items()},
            "statistics": by_site("file", tables),
            "data": collection.data.file,
            "data_name": collection.data_name,
            "basis": rotated(graph.ref.basis),
            "cell": None if shared else self._name_of(arm, method, some, made),
        }
        after = [collection.data, *(m for of in starts.values() for m in of.values())]
        after += [m for of in tables.values() for m in of]
        after += [m for s in sets for m in s.after]
        looks = steps // EVERY + len(starts)
        cost = graph.ref.facts.parameters * 3.0 * batch * steps
        cost += collection.cost / 5 * looks
        what = f"{len(sets)} held sets" if shared else f"{some.units} units"
        added = graph.draft.add(
            "learn",
            "learn",
            f"{method.label} for {what} of {arm.selection.label}",
            recipe,
            arguments,
            after=list({m.file: m for m in after}.values()),
            folder="centres",
            on_model=True,
            cost=cost,
        )
        if shared:
            self._learned_for[arm_key] = added
        return added

    def _sets(self, arm: Arm, method: MethodSpec) -> list[HeldSet]:
        """Return the held sets of all fractions and masks of an arm's rule, each once."""
        graph = self.graph
        found: dict[str, HeldSet] = {}
        for here in seeded(graph.spec, replace(arm, seed=None)):
            for f in graph.spec.fractions:
                some = held(graph.spec, graph.ref, self.inputs, here, method, f)
                if some is not None and some.units:
                    found.setdefault(repr(some.recipe), some)
        return list(found.values())
