"""The sweep file: what is asked, as typed values.

A spec is a value. It has no environment variables, no templating and never
makes code run. It is read with a safe loader, validated strictly (so that a
`no` cannot become False unnoticed) and every mistake in it is reported at once,
each with its path in the file and what to do about it. After this module, types
are trusted.

Only `models` and `methods` must be there. What is designed but not built yet is
refused by name, so that nobody waits for a column that will stay empty.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError

from orchestrator import notation, presets
from orchestrator.arms import Method, MethodSpec, Selection, SelectionSpec
from orchestrator.labels import rotated
from orchestrator.methods import Parameter
from orchestrator.mistakes import Mistake, SpecError, from_pydantic
from orchestrator.pairs import Pair, Precision
from orchestrator.sections import (
    Cluster,
    DataSpec,
    Evaluation,
    ModelSpec,
    Section,
    Seeds,
    Statistics,
)
from workers.messages import Site
from workers.selection import Unit

LATER_KEYS = ("grids",)

Model = Annotated[ModelSpec, BeforeValidator(notation.model)]
DEFAULT_DATA = {"stdlib": DataSpec(source="zoo:text"), "digits": DataSpec(source="zoo:digits")}


class Spec(Section):
    """A whole sweep file, every default filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "sweep"
    models: Annotated[tuple[Model, ...], BeforeValidator(notation.as_tuple), Field(min_length=1)]
    data: Annotated[dict[str, DataSpec], BeforeValidator(presets.named)] = Field(
        default=DEFAULT_DATA, min_length=1
    )
    methods: Annotated[tuple[Method, ...], BeforeValidator(notation.as_tuple), Field(min_length=1)]
    fractions: Annotated[tuple[Decimal, ...], BeforeValidator(notation.fractions)] = tuple(
        Decimal(i) / 10 for i in range(11)
    )
    seeds: Annotated[Seeds, BeforeValidator(notation.seeds)] = Seeds()
    contrasts: Annotated[tuple[Pair, ...], BeforeValidator(notation.as_tuple)] = ()
    sites: Annotated[
        tuple[Annotated[tuple[Site, ...], BeforeValidator(notation.site)], ...],
        BeforeValidator(notation.as_tuple),
    ] = Field(default=(("attn_pre_out",),), min_length=1)
    """What is held: a site, or two of them together."""
    units: Annotated[
        tuple[Annotated[Unit, BeforeValidator(notation.unit)], ...],
        BeforeValidator(notation.as_tuple),
    ] = Field(default=("neuron",), min_length=1)
    selections: Annotated[
        tuple[Selection, ...], BeforeValidator(notation.as_tuple), Field(min_length=1)
    ] = (SelectionSpec(rule="random", parameters={}),)
    layers: Annotated[
        Literal["all", "each"] | tuple[int, ...], BeforeValidator(notation.layers)
    ] = "all"
    """Where units are held: in all layers together, in each by itself, or in some together."""
    complement: bool = False
    """Whether all but the chosen units are held, in all layers."""
    basis: Annotated[tuple[int | None, ...], BeforeValidator(notation.basis)] = (None,)
    """The checkpoint's own axes, and rotations of every head's by these seeds."""
    statistics: Statistics = Statistics()
    evaluation: Evaluation = Evaluation()
    precision: Precision | None = None
    """How well contrasts must be known; every document is read when None."""
    compile: bool = False
    """Whether cells that fold run through a compiled model: other last digits, so other cells."""
    cluster: Cluster = Cluster()
    store: Annotated[str | None, BeforeValidator(notation.store)] = None
    """Folder that shares data, partials and statistics between runs; none when None."""

    @property
    def precise(self) -> tuple[tuple[str, str], ...]:
        """The pairs of methods whose difference must be known as well as `precision` says."""
        if self.precision is None:
            return ()
        labels = {m.label for m in self.methods}
        return self.precision.contrast or tuple(p for p in self.contrasts if set(p) <= labels)


def between(spec: Spec) -> list[Mistake]:
    """Return what is wrong between the sections of a spec whose sections are right."""
    looked_at = (_twice, _contrasts, _precision, _scored, _names, _held, _statistics)
    return [mistake for look in looked_at for mistake in look(spec)]


def _twice(spec: Spec) -> list[Mistake]:
    """Return what stands twice in a list."""
    lists: Mapping[str, list[str]] = {
        "sites": ["+".join(group) for group in spec.sites],
        "units": list(spec.units),
        "selections": [s.label for s in spec.selections],
        "methods": [m.label for m in spec.methods],
        "models": [m.id for m in spec.models],
        "evaluation.metrics": [*spec.evaluation.metrics],
    }
    return [
        Mistake(path=f"{key}[{i}]", message=f"{word!r} stands here twice")
        for key, words in lists.items()
        for i, word in enumerate(words)
        if word in words[:i]
    ]


def _contrasts(spec: Spec) -> list[Mistake]:
    found = []
    kinds = {
        "methods": [m.label for m in spec.methods],
        "selections": [s.label for s in spec.selections],
        "bases": [rotated(seed) for seed in spec.basis],
    }
    for i, pair in enumerate(spec.contrasts):
        if pair[0] == pair[1]:
            message = f"{pair[0]!r} is contrasted with itself"
            found.append(Mistake(path=f"contrasts[{i}]", message=message))
        elif not any(set(pair) <= set(labels) for labels in kinds.values()):
            lost = next((x for x in pair if not any(x in ls for ls in kinds.values())), None)
            known = "; ".join(f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items())
            message = (
                f"{pair[0]!r} and {pair[1]!r} are not of one kind; contrast two methods, two"
                f" selections or two bases ({known})"
                if lost is None
                else f"{lost!r} is not in this sweep ({known}); add it there or contrast another"
            )
            found.append(Mistake(path=f"contrasts[{i}]", message=message))
    return found


def _precision(spec: Spec) -> list[Mistake]:
    """Return what cannot be known as precisely as is asked."""
    if spec.precision is None:
        return []
    labels = [m.label for m in spec.methods]
    if not spec.precise:
        message = f"names no pair of methods; give one, of {', '.join(labels)}, or declare one"
        return [Mistake(path="precision.contrast", message=f"{message} in `contrasts`")]
    return [
        Mistake(
            path="precision.contrast",
            message=f"{a!r} and {b!r} are not two methods of this sweep, which are"
            f" {', '.join(labels)}; give two of them",
        )
        for a, b in spec.precision.contrast
        if a == b or not {a, b} <= set(labels)
    ]


def _scored(spec: Spec) -> list[Mistake]:
    """Return metrics that need all positions where not all are scored."""
    metrics = spec.evaluation.metrics
    if "bits_per_byte" not in metrics or spec.evaluation.positions.all:
        return []
    message = (
        "bits_per_byte divides by all bytes of a text, and `evaluation.positions` leaves some of"
        " its tokens out; drop one of the two"
    )
    return [Mistake(path=f"evaluation.metrics[{metrics.index('bits_per_byte')}]", message=message)]


def _names(spec: Spec) -> list[Mistake]:
    """Return the data sources that are named and are not there."""
    named = {"statistics.data": spec.statistics.data}
    named |= {f"models[{i}].data": model.data for i, model in enumerate(spec.models)}
    for i, selection in enumerate(spec.selections):
        other = selection.parameters.get("against")
        named[f"selections[{i}]"] = None if other is None else str(other)
    known = ", ".join(spec.data)
    return [
        Mistake(path=path, message=f"no data source is named {key!r}; named are: {known}")
        for path, key in named.items()
        if key is not None and key not in spec.data
    ]


def _held(spec: Spec) -> list[Mistake]:
    """Return what cannot be held as asked."""
    found = []
    mlp = [i for i, group in enumerate(spec.sites) if "mlp_mid" in group]
    if "head" in spec.units and mlp:
        message = "mlp_mid has no heads; sweep it with `units: [neuron]`, in a file of its own"
        found.append(Mistake(path=f"sites[{mlp[0]}]", message=message))
    if len(spec.basis) > 1 and not any("attn_pre_out" in group for group in spec.sites):
        message = "a rotation turns the axes inside heads, and the sweep holds none: leave it out"
        found.append(Mistake(path="basis", message=message))
    for i, method in enumerate(spec.methods):
        if mlp and method.parameters.get("drawn") == "per_head":
            message = f"{method.label}: mlp_mid has no heads; draw per_layer or per_neuron"
            found.append(Mistake(path=f"methods[{i}]", message=message))
    for i, selection in enumerate(spec.selections):
        if selection.iterative:
            others = [m.label for m in spec.methods if not _plain(m)]
            if others:
                message = (
                    f"{selection.label} takes statistics again with the fraction before held at one"
                    f" whole constant per neuron, which {others[0]} is not; sweep it in a file of"
                    " its own"
                )
                found.append(Mistake(path=f"selections[{i}]", message=message))
        if selection.rule == "regression" and any(len(group) > 1 for group in spec.sites):
            message = "regression has one site at a time; list them one by one"
            found.append(Mistake(path=f"selections[{i}]", message=message))
    return found


def _plain(method: MethodSpec) -> bool:
    """Return whether a method is a constant that statistics under ablation can be taken at."""
    learned = not method.constant or method.method == "optimal"
    return not learned and not method.by_position and method.share == 1


def _statistics(spec: Spec) -> list[Mistake]:
    """Return what does not go with the statistics that are asked for."""
    found = []
    again = spec.statistics.mode != "one_shot"
    iterative = any(s.iterative for s in spec.selections)
    for i, method in enumerate(spec.methods):
        if method.by_position and spec.statistics.positional is None:
            message = f"{method.label} needs statistics by position; add `position` to"
            message += " `statistics: {strata: [...]}`"
            found.append(Mistake(path=f"methods[{i}]", message=message))
        learned = method.method == "optimal" or method.plugin is not None
        mixed = method.share < 1 and method.method != "zero"
        if again and (method.by_position or method.published or learned or mixed):
            message = (
                f"{method.label} has no statistics that are collected again as ablation proceeds;"
                " use `statistics: {mode: one_shot}`, or mean and the other peaks"
            )
            found.append(Mistake(path=f"methods[{i}]", message=message))
    if again or iterative:
        what = "`statistics.mode`" if again else "a selection that is scored again"
        wide = {
            "sites": any(len(group) > 1 for group in spec.sites),
            "layers": spec.layers != "all",
            "complement": spec.complement,
        }
        for key in [key for key, asked in wide.items() if asked]:
            message = f"{what} goes with one site, all layers and no complement; leave this out"
            found.append(Mistake(path=key, message=message))
    if spec.statistics.mode == "layers_in_sequence" and iterative:
        message = "scores that are taken again go with the modes one_shot and per_fraction"
        found.append(Mistake(path="statistics.mode", message=message))
    return found


Plugins = Mapping[str, tuple[str, Mapping[str, Parameter]]]
"""By name, the kind of value that a user's own method gives, and its parameters' defaults."""


def parse(raw: object, plugins: Plugins | None = None) -> Spec:
    """Return the spec that the mapping `raw` describes.

    Raises SpecError with every mistake.
    """
    if not isinstance(raw, Mapping):
        found = "nothing" if raw is None else type(raw).__name__
        raise SpecError(
            [Mistake(path="", message=f"found {found}, expected a mapping with models and methods")]
        )
    try:
        spec = Spec.model_validate(dict(raw), context={"plugins": plugins or {}})
    except ValidationError as error:
        wrong = [from_pydantic(dict(e), Spec, LATER_KEYS) for e in error.errors()]
        # An item that was refused leaves its list too short: said once is enough.
        paths = [m.path for m in wrong]
        echoes = [m for m in wrong if any(p.startswith(m.path + "[") for p in paths)]
        raise SpecError([m for m in wrong if m not in echoes]) from None
    mistakes = between(spec)
    if mistakes:
        raise SpecError(mistakes)
    return spec
