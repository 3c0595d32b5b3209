"""Cells: the points of a sweep, and the distinct evaluations that answer them.

A sweep is a cross of bases, sites, units, layers, selections, methods, fractions and
seeds, but many of its points are the same question: at fraction 0 nothing is held,
whatever the method or mask; at fraction 1 everything is, whatever the mask. Each
point is a row of the cells table and names the cell that answers it; equal points
name the same cell.

A cell is named by the recipe of everything that changes its answer (law 3) and
by nothing else: no device, no worker, no position in a list.

Here is what one cell is. `orchestrator.grid` has the points of a model, `orchestrator.naming`
names them, and `orchestrator.distinct` keeps the cells of a plan, of which there may be a
million, as columns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from orchestrator import batching, rounds
from orchestrator.arms import MethodSpec, SelectionSpec
from orchestrator.draft import Made
from orchestrator.held import UNORDERED, HeldSet, scope
from orchestrator.spec import Spec
from workers.messages import ModelFacts, ModelRef, Site
from workers.selection import Chosen, Unit, chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One distinct evaluation, and the files it needs."""

    name: str
    ref: ModelRef
    label: str
    """What people read, for example `zoo:opt peak at 0.5, mask 3`."""
    after: tuple[str, ...]
    """Files it needs."""
    arguments: Mapping[str, Any]
    """What `orchestrator.values` turns into a CellOrder."""

    @property
    def model(self) -> str:
        """Name of its model in the sweep file."""
        return self.ref.name

    @property
    def donors(self) -> str:
        """File of the donors whose activations it needs; empty if none."""
        return str(self.arguments.get("value", {}).get("donors", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What a chain of held sets has in common: of one site group, unit, layers and rule."""

    sites: tuple[Site, ...]
    unit: Unit
    layers: tuple[int, ...]
    selection: SelectionSpec
    seed: int | None
    """Of the mask; None where the rule draws nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Values:
    """What held neurons are held at: for a cell's recipe, for its task, and what that needs."""

    recipe: object
    arguments: Mapping[str, object]
    after: Sequence[Made]


Order = Callable[[Arm, MethodSpec, Chosen], Made]
"""The order whose prefix is held; of scores that are taken again it depends on all three."""
ValuesOf = Callable[[Arm, MethodSpec, HeldSet, int | None], Values]
"""What is put in for a method, given its donor or noise seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What one model's cells build on."""

    data: Made
    """Its sequences."""
    order: Order
    values: ValuesOf
    listed: Callable[[Arm], int | None]
    """How many units a file lists in an arm's layers; None for other rules."""
    moves: Callable[[Arm, MethodSpec], bool]
    """Whether an arm's order or a method's values depend on what is held: on fraction and mask.

    Where they do not, an arm has one order, and a method one value for each draw."""


def rules(spec: Spec, ref: ModelRef) -> Iterator[Arm]:
    """Yield every arm of one model but for its seed, in the order of the sweep file."""
    for sites in turned(spec, ref):
        for unit in spec.units:
            for layers in scopes(spec, ref.facts.layers):
                for selection in spec.selections:
                    yield Arm(sites=sites, unit=unit, layers=layers, selection=selection, seed=None)


def seeded(spec: Spec, arm: Arm) -> list[Arm]:
    """Return an arm for each seed of its masks; the arm itself where its rule draws nothing."""
    return [replace(arm, seed=s) for s in spec.seeds.masks] if arm.selection.seeded else [arm]


def turned(spec: Spec, ref: ModelRef) -> list[tuple[Site, ...]]:
    """Return the site groups that a basis is about: rotations turn the axes inside heads alone."""
    return [group for group in spec.sites if ref.basis is None or "attn_pre_out" in group]


def scopes(spec: Spec, depth: int) -> list[tuple[int, ...]]:
    """Return which layers of a model are held together, scope by scope."""
    if spec.layers == "each":
        return [(layer,) for layer in range(depth)]
    return [tuple(range(depth)) if spec.layers == "all" else spec.layers]


def held(
    spec: Spec, ref: ModelRef, inputs: Inputs, arm: Arm, method: MethodSpec, f: Decimal
) -> HeldSet | None:
    """Return what a fraction of an arm holds; None at 0, which is the unablated model."""
    some = unordered(spec, ref, arm, f, inputs.listed(arm))
    return some and replace(some, order=inputs.order(arm, method, some.chosen))


def unordered(
    spec: Spec, ref: ModelRef, arm: Arm, f: Decimal, listed: int | None
) -> HeldSet | None:
    """Return how much a fraction of an arm holds, whatever the order: one for all its seeds."""
    if not f:
        return None
    units = scope(ref.facts, arm.sites, arm.unit, arm.layers, spec.complement)
    some = chosen(units, f, over=arm.selection.over, listed=listed)
    return HeldSet(sites=arm.sites, unit=arm.unit, scope=units, chosen=some, order=UNORDERED)


def draws(spec: Spec, method: MethodSpec) -> Sequence[int | None]:
    """Return the seeds of a method's own draws."""
    if method.donated:
        return (None,) if method.paired else spec.seeds.donors
    return spec.seeds.noise if method.drawn else (None,)


def recipe(
    unablated: Mapping[str, object], method: MethodSpec, some: HeldSet, values: Values
) -> dict[str, object]:
    """Return the recipe of the cell that holds some units, given that of the unablated model's.

    `orchestrator.naming` writes the same down for many cells at once.
    """
    if not some.units:
        return dict(unablated)
    return {**unablated, "held": some.recipe, "values": values.recipe, **asked(method)}


def asked(method: MethodSpec) -> dict[str, object]:
    """Return what of a method stands in a recipe, but for the values it puts in."""
    return {"method": {"method": method.method, "parameters": dict(method.parameters)}}


def bare(spec: Spec, ref: ModelRef, data: Made) -> dict[str, object]:
    """Return the recipe of the unablated model's cell."""
    evaluation = spec.evaluation
    recipe: dict[str, object] = {
        "model": ref.weights,
        "dtype": ref.dtype,
        "data": data.name,
        "batch_tokens": batching.tokens(spec, ref),
        "logits_bytes": evaluation.logits_bytes,
        "scored": scored(spec, ref.facts),
        "kl": "kl" in evaluation.metrics,
    }
    parts = rounds.count(spec, ref, data_of(spec, ref.name))
    if parts > 1:  # one round has all documents, whatever their order
        recipe["rounds"] = [parts, spec.seeds.visits]
    if spec.compile:
        recipe["compile"] = True
    return recipe


def scored(spec: Spec, facts: ModelFacts) -> dict[str, object]:
    """Return which positions are scored (`orchestrator.feed.Scored`), for a recipe and a task."""
    asked = spec.evaluation.positions
    specials = {facts.specials[k] for k in ("bos", "eos", "pad") if k in facts.specials}
    return {
        "skip_first": asked.skip_first,
        "without": sorted(specials) if asked.specials == "out" else [],
        "last": asked.last,
    }


def data_of(spec: Spec, model: str) -> str:
    """Return the name of a model's data source; the plan has checked that there is one."""
    chosen = next(m for m in spec.models if m.id == model).data
    assert chosen is not None
    return chosen
