"""Cells: the points of a sweep, and the distinct evaluations that answer them.

A sweep is a cross of bases, sites, units, layers, selections, methods, fractions and
seeds, but many of its points are the same question: at fraction 0 nothing is held,
whatever the method or mask; at fraction 1 everything is, whatever the mask. Each
point is a row of the cells table and names the cell that answers it; equal points
name the same cell.

A cell is named by the recipe of everything that changes its answer (law 3) and
by nothing else: no device, no worker, no position in a list.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator import batching, rounds
from orchestrator.arms import MethodSpec, SelectionSpec
from orchestrator.draft import Made
from orchestrator.held import HeldSet, scope
from orchestrator.labels import rotated
from orchestrator.names import canonical, name
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One nominal point of a sweep: a row of the cells table, and its cell."""

    row: Mapping[str, object]
    cell: Cell


def arms(spec: Spec, ref: ModelRef) -> Iterator[Arm]:
    """Yield every arm of one model, in the order of the sweep file."""
    for sites in turned(spec, ref):
        for unit in spec.units:
            for layers in scopes(spec, ref.facts.layers):
                for selection in spec.selections:
                    seeds = spec.seeds.masks if selection.seeded else (None,)
                    for seed in seeds:
                        yield Arm(
                            sites=sites, unit=unit, layers=layers, selection=selection, seed=seed
                        )


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
    if not f:
        return None
    units = scope(ref.facts, arm.sites, arm.unit, arm.layers, spec.complement)
    some = chosen(units, f, over=arm.selection.over, listed=inputs.listed(arm))
    order = inputs.order(arm, method, some)
    return HeldSet(sites=arm.sites, unit=arm.unit, scope=units, chosen=some, order=order)


def points(spec: Spec, ref: ModelRef, inputs: Inputs) -> Iterator[Point]:
    """Yield the nominal points of one model, in the order of the sweep file."""
    for arm in arms(spec, ref):
        for method in spec.methods:
            if method.fits(ref.facts.modality):
                for fraction in spec.fractions:
                    for draw in draws(spec, method):
                        yield _point(spec, ref, inputs, arm, method, fraction, draw)


def draws(spec: Spec, method: MethodSpec) -> Sequence[int | None]:
    """Return the seeds of a method's own draws."""
    if method.donated:
        return spec.seeds.donors
    return spec.seeds.noise if method.drawn else (None,)


def _point(
    spec: Spec,
    ref: ModelRef,
    inputs: Inputs,
    arm: Arm,
    method: MethodSpec,
    fraction: Decimal,
    draw: int | None,
) -> Point:
    facts = ref.facts
    some = held(spec, ref, inputs, arm, method, fraction)
    label = f"{method.label} at {fraction}" + ("" if arm.seed is None else f", mask {arm.seed}")
    made = cell(spec, ref, inputs, arm, method, some, draw, label)
    units = scope(facts, arm.sites, arm.unit, arm.layers, spec.complement)
    everywhere = len(arm.layers) == facts.layers
    row = {
        "model": ref.name,
        "modality": facts.modality,
        "data": data_of(spec, ref.name),
        "dtype": ref.dtype,
        "basis": rotated(ref.basis),
        "site": "+".join(arm.sites),
        "unit": arm.unit,
        "layers": "all" if everywhere else ",".join(map(str, arm.layers)),
        "complement": spec.complement,
        "method": method.method,
        "parameters": canonical(dict(method.parameters)),
        "selection": arm.selection.label,
        "fraction": float(fraction),
        "seed": arm.seed,
        "donor_seed": draw if method.donated else None,
        "noise_seed": draw if method.drawn else None,
        "masking_seed": spec.seeds.masking if facts.modality == "masked" else None,
        "units_held": some.units if some else 0,
        "units_total": units.total,
        "cell": made.name,
    }
    return Point(row=row, cell=made)


def cell(
    spec: Spec,
    ref: ModelRef,
    inputs: Inputs,
    arm: Arm,
    method: MethodSpec,
    some: HeldSet | None,
    draw: int | None,
    label: str,
) -> Cell:
    """Return the cell that holds some units by a method; the unablated model where none."""
    after: list[Made] = [inputs.data]
    arguments: dict[str, Any] = {}
    recipe = bare(spec, ref, inputs.data)
    if some is not None and some.units:
        values = inputs.values(arm, method, some, draw)
        recipe |= {"held": some.recipe, "values": values.recipe, **asked(method)}
        arguments = {**some.arguments, "value": values.arguments, "share": method.share}
        arguments["method"] = method.label
        after += [*some.after, *values.after]
    return Cell(
        name=name("cell", recipe),
        ref=ref,
        label=f"{ref.name} {label}",
        after=tuple(dict.fromkeys(made.file for made in after)),
        arguments=arguments,
    )


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
