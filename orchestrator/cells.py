"""Cells: the points of a sweep, and the distinct evaluations that answer them.

A sweep is a cross of methods, fractions and seeds, but many of its points are
the same question: at fraction 0 nothing is held, whatever the method or mask; at
fraction 1 everything is, whatever the mask. Each point is a row of the cells
table and names the cell that answers it; equal points name the same cell.

A cell is named by the recipe of everything that changes its answer (law 3) and
by nothing else: no device, no worker, no position in a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.draft import Made
from orchestrator.names import canonical, name
from orchestrator.sections import MethodSpec
from orchestrator.spec import Spec
from workers.messages import ModelRef
from workers.selection import count


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One distinct evaluation, and the files it needs."""

    name: str
    model: str
    """Name of its model in the sweep file."""
    label: str
    """What people read, for example `zoo:opt peak at 0.5, mask 3`."""
    after: tuple[str, ...]
    """Files it needs."""
    arguments: Mapping[str, object]
    """What `orchestrator.host` turns into a CellOrder."""

    @property
    def donated(self) -> bool:
        """Whether it needs the donors' activations."""
        return "donors" in self.arguments


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What one model's cells build on."""

    data: Made
    """Its sequences."""
    selections: Mapping[int, Made]
    """Per mask seed."""
    centres: Mapping[tuple[str, int | None, int | None], Made]
    """Per method label; and per mask seed and neurons held in a layer where these change them."""
    donors: Mapping[tuple[str, int], Made]
    """Per (source, donor seed)."""
    starts: tuple[int, ...] = ()
    """First position of every bucket, for constants by position."""

    def centre(self, label: str, seed: int, each: int) -> Made:
        """Return the constants of a method for one held set."""
        return self.centres.get((label, seed, each)) or self.centres[label, None, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One nominal point of a sweep: a row of the cells table, and its cell."""

    row: Mapping[str, object]
    cell: Cell


def points(spec: Spec, ref: ModelRef, inputs: Inputs) -> Iterator[Point]:
    """Yield the nominal points of one model, in the order of the sweep file."""
    for site in spec.sites:
        for method in spec.methods:
            for fraction in spec.fractions:
                for seed in spec.seeds.masks:
                    for donor_seed in _donor_seeds(spec, method):
                        yield _point(spec, ref, inputs, site, method, fraction, seed, donor_seed)


def _donor_seeds(spec: Spec, method: MethodSpec) -> Sequence[int | None]:
    return spec.seeds.donors if method.method == "resample" else (None,)


def _point(
    spec: Spec,
    ref: ModelRef,
    inputs: Inputs,
    site: str,
    method: MethodSpec,
    fraction: Decimal,
    seed: int,
    donor_seed: int | None,
) -> Point:
    facts = ref.facts
    each = count(fraction, facts.neurons)
    made = cell(spec, ref, inputs, site, method, each, seed, donor_seed)
    row = {
        "model": ref.name,
        "modality": facts.modality,
        "data": data_of(spec, ref.name),
        "dtype": ref.dtype,
        "site": site,
        "unit": "neuron",
        "layers": "all",
        "method": method.method,
        "parameters": canonical(dict(method.parameters)),
        "selection": "random",
        "fraction": float(fraction),
        "seed": seed,
        "donor_seed": donor_seed,
        "noise_seed": None,
        "masking_seed": spec.seeds.masking if facts.modality == "masked" else None,
        "units_held": each * facts.layers,
        "units_total": facts.neurons * facts.layers,
        "cell": made.name,
    }
    return Point(row=row, cell=made)


def cell(
    spec: Spec,
    ref: ModelRef,
    inputs: Inputs,
    site: str,
    method: MethodSpec,
    each: int,
    seed: int,
    donor_seed: int | None,
) -> Cell:
    """Return the cell that holds `each` neurons of every layer by this method."""
    recipe: dict[str, object] = {
        "model": ref.facts.digest,
        "dtype": ref.dtype,
        "data": inputs.data.name,
        "batch_tokens": spec.evaluation.batch_tokens,
        "logits_bytes": spec.evaluation.logits_bytes,
    }
    arguments: dict[str, object] = {"site": site, "each": each, "method": method.label}
    after = [inputs.data]
    if each:
        recipe |= {"site": site, "unit": "neuron", "layers": "all"}
        recipe["method"] = {"method": method.method, "parameters": dict(method.parameters)}
        if each == ref.facts.neurons:
            recipe["held"] = "all"  # every mask holds the same: one cell
        else:
            selection = inputs.selections[seed]
            recipe["held"] = {"selection": selection.name, "each": each}
            arguments["selection"] = selection.file
            after.append(selection)
        if donor_seed is None:
            values = inputs.centre(method.label, seed, each)
            arguments["centres"] = values.file
            if method.by_position:
                arguments["starts"] = list(inputs.starts)
        else:
            values = inputs.donors[method.parameters["source"], donor_seed]
            arguments["donors"] = values.file
        recipe["values"] = values.name
        after.append(values)
    return Cell(
        name=name("cell", recipe),
        model=ref.name,
        label=f"{ref.name} {method.label} at {each}/{ref.facts.neurons}, mask {seed}",
        after=tuple(made.file for made in after),
        arguments=arguments,
    )


def data_of(spec: Spec, model: str) -> str:
    """Return the name of a model's data source; the plan has checked that there is one."""
    chosen = next(m for m in spec.models if m.id == model).data
    assert chosen is not None
    return chosen
