"""Orders: the tasks that say in which order units are held, by every rule.

Random orders build on nothing. Scores build on statistics, on those of another data
set where two are compared, and on the weights' norms where these are weighed in. The
regression builds on many random masks, evaluated on the collection's data: `probe` tasks
score some masks each, `effects` regresses the loss on what was held.

An order is of a site group and a unit, of all layers; a sweep of some layers takes
those of it that it needs. So one order serves `layers: all` and `layers: each`.
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator import batching, listed
from orchestrator.arms import MethodSpec, SelectionSpec
from orchestrator.cells import Arm, scored
from orchestrator.draft import Made, by_site
from orchestrator.graph import Graph
from orchestrator.held import HeldSet, scope
from orchestrator.labels import rotated
from orchestrator.scores import norms_needed
from workers.messages import Site
from workers.selection import Scope, Unit, in_scope

MASKS_PER_TASK = 25
"""Random masks that one task scores."""
_MEAN = MethodSpec(method="mean", parameters={})
"""What units are held at while their effects are estimated."""


class Orders:
    """Adds the tasks of orders of one model in one basis."""

    def __init__(self, graph: Graph) -> None:
        """Start with none."""
        self.graph = graph
        self._bases: dict[tuple[object, ...], Made] = {}
        self._listed: dict[tuple[object, ...], int] = {}

    def scope(self, arm: Arm) -> Scope:
        """Return what could be chosen for an arm."""
        return self._scope(arm.sites, arm.unit, arm.layers)

    def _scope(self, sites: Sequence[Site], unit: Unit, layers: Sequence[int]) -> Scope:
        return scope(self.graph.ref.facts, sites, unit, layers, self.graph.spec.complement)

    def listed(self, arm: Arm) -> int | None:
        """Return how many units a file lists in an arm's layers; None for other rules.

        Raises ListError.
        """
        if arm.selection.rule != "explicit":
            return None
        key = (arm.sites, arm.unit, arm.layers, arm.selection.label)
        if key not in self._listed:
            units = self.scope(arm)
            order = listed.read(
                self._file(arm.selection),
                sites=arm.sites,
                unit=arm.unit,
                layers=units.depth,
                units=units.units,
            )
            self._listed[key] = len(in_scope(units, order))
        return self._listed[key]

    def _file(self, selection: SelectionSpec) -> Path:
        return self.graph.base / str(selection.parameters["file"])

    def base(self, arm: Arm) -> Made:
        """Return the order of an arm: of the bare model, where it looks at a model at all."""
        key = (arm.sites, arm.unit, arm.selection.label, arm.seed)
        if key not in self._bases:
            self._bases[key] = self._order(arm, {})
        return self._bases[key]

    def again(
        self, arm: Arm, method: MethodSpec, tables: Sequence[Made], before: HeldSet, cell: str
    ) -> Made:
        """Return the order of an arm by scores taken while what comes first is held, in a cell."""
        rows = before.scope.depth if before.chosen.over == "layer" else 1
        held = [before.chosen.counts[0]] * rows
        return self._order(
            arm,
            {"statistics": {arm.sites[0]: list(tables)}},
            first=before.order,
            held=held,
            label=f" under {method.label} at {before.units}",
            cell=cell,
        )

    def _order(
        self,
        arm: Arm,
        tables: dict[str, dict[Site, list[Made]]],
        *,
        first: Made | None = None,
        held: Sequence[int] = (),
        label: str = "",
        cell: str | None = None,
    ) -> Made:
        graph, selection = self.graph, arm.selection
        facts = graph.ref.facts
        units = self._scope(arm.sites, arm.unit, range(facts.layers))
        recipe: dict[str, object] = {
            "sites": list(arm.sites),
            "unit": arm.unit,
            "rule": selection.rule,
            "parameters": dict(selection.parameters),
            "seed": arm.seed,
            "layers": facts.layers,
            "units": list(units.units),
        }
        arguments: dict[str, object] = {
            **recipe,
            "label": selection.label,
            "widths": list(units.widths),
            "over": selection.over,
            "basis": None,
            "cell": cell,
            "data_name": graph.data_name,
        }
        after: list[Made] = []
        if selection.rule == "explicit":
            recipe["digest"] = listed.digest(self._file(selection))
            arguments |= {
                "file": str(selection.parameters["file"]),
                "base": str(graph.base),
                "digest": recipe["digest"],
            }
        elif selection.rule == "regression":
            effects = self._effects(arm)
            recipe["effects"], after = effects.name, [effects]
            arguments |= {"effects": effects.file, "basis": rotated(graph.ref.basis)}
        elif selection.rule == "score":
            tables = {**self._tables(arm), **tables}
            norms = self._norms(arm)
            recipe["of"] = {which: by_site("name", of) for which, of in tables.items()}
            recipe["weights"] = {site: made.name for site, made in norms.items()}
            recipe["first"] = [first.name, list(held)] if first else None
            arguments |= {which: by_site("file", of) for which, of in tables.items()}
            arguments |= {
                "weights": {site: made.file for site, made in norms.items()},
                "first": first and first.file,
                "held": list(held),
                "basis": rotated(graph.ref.basis),
            }
            after = [m for of in tables.values() for some in of.values() for m in some]
            after += [*norms.values(), *([first] if first else [])]
        mask = "" if arm.seed is None else f", mask {arm.seed}"
        return graph.draft.add(
            "prepare" if selection.rule in ("random", "explicit") else "reduce",
            "selection",
            f"order of {'+'.join(arm.sites)} {arm.unit}s, {selection.label}{mask}{label}",
            recipe,
            arguments,
            after=after,
            folder="selections",
        )

    def _tables(self, arm: Arm) -> dict[str, dict[Site, list[Made]]]:
        other = arm.selection.parameters.get("against")
        found = {"statistics": {site: list(self.graph.tables(site)) for site in arm.sites}}
        if other is not None:
            found["against"] = {
                site: list(self.graph.tables(site, str(other))) for site in arm.sites
            }
        return found

    def _norms(self, arm: Arm) -> dict[Site, Made]:
        """Add the norms of the weights' columns, where the score needs them."""
        graph = self.graph
        if not norms_needed(str(arm.selection.parameters["by"])):
            return {}
        return {
            site: graph.draft.partial(
                "norms",
                f"norms of weights at {site}",
                {"weights": graph.ref.weights, "dtype": graph.ref.dtype, "site": site},
                {"site": site, "data_name": graph.data_name},
                after=[],
                cost=1.0,
            )
            for site in arm.sites
        }

    def _effects(self, arm: Arm) -> Made:
        """Add the random masks of a regression, and what each unit does by them."""
        graph, rule = self.graph, arm.selection
        site, facts = arm.sites[0], graph.ref.facts
        centre = graph.centre(site, _MEAN)
        collection = graph.collection(site)
        masks, seed = int(rule.number("masks")), int(rule.number("seed"))
        block = int(rule.number("block"))
        how: dict[str, object] = {
            "site": site,
            "unit": arm.unit,
            "masks": masks,
            "share": rule.number("share"),
            "block": block,
            "seed": seed,
            "batch_tokens": batching.tokens(graph.spec, graph.ref),
            "logits_bytes": graph.spec.evaluation.logits_bytes,
            "scored": scored(graph.spec, facts),
        }
        on = {"weights": graph.ref.weights, "dtype": graph.ref.dtype, "values": centre.name}
        on["data"] = collection.data.name
        probes = []
        for start in range(0, masks, MASKS_PER_TASK):
            span = {"start": start, "stop": min(start + MASKS_PER_TASK, masks)}
            probe = graph.draft.partial(
                "probe",
                f"random masks from {start}",
                {**how, **span, **on},
                {
                    **how,
                    **span,
                    "centres": centre.file,
                    "data": collection.data.file,
                    "data_name": collection.data_name,
                },
                after=[collection.data, centre],
                cost=collection.cost * (span["stop"] - start),
            )
            probes.append(probe)
        ridge = rule.number("ridge")
        width = facts.d_head if arm.unit == "head" else 1
        return graph.draft.partial(
            "effects",
            "effects of units",
            {"of": [m.name for m in probes], "ridge": ridge},
            {
                **how,
                "parts": [m.file for m in probes],
                "ridge": ridge,
                "layers": facts.layers,
                "units": facts.layers * facts.neurons_at(site) // width,
                "data_name": collection.data_name,
            },
            after=probes,
        )
