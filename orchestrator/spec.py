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

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from orchestrator import notation
from orchestrator.mistakes import Mistake, SpecError, from_pydantic
from orchestrator.sections import (
    Cluster,
    DataSpec,
    Evaluation,
    MethodSpec,
    ModelSpec,
    Section,
    Seeds,
    Statistics,
)

LATER_KEYS = ("grids", "precision", "basis", "compile", "complement")


Model = Annotated[ModelSpec, BeforeValidator(notation.model)]
Method = Annotated[MethodSpec, BeforeValidator(notation.method)]
DEFAULT_DATA = {"stdlib": DataSpec(source="zoo:text"), "digits": DataSpec(source="zoo:digits")}


def _pair(value: object) -> object:
    """Return a pair of labels, each as the method of that spelling is labelled."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(_label(v) if isinstance(v, str) else v for v in value)


def _label(written: str) -> str:
    try:
        return MethodSpec.model_validate(notation.method(written)).label
    except ValueError:
        return written  # whatever it is, it is not among the methods, and will be told so


class Spec(Section):
    """A whole sweep file, every default filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "sweep"
    models: Annotated[tuple[Model, ...], BeforeValidator(notation.as_tuple), Field(min_length=1)]
    data: dict[str, DataSpec] = Field(default=DEFAULT_DATA, min_length=1)
    methods: Annotated[tuple[Method, ...], BeforeValidator(notation.as_tuple), Field(min_length=1)]
    fractions: Annotated[tuple[Decimal, ...], BeforeValidator(notation.fractions)] = tuple(
        Decimal(i) / 10 for i in range(11)
    )
    seeds: Annotated[Seeds, BeforeValidator(notation.seeds)] = Seeds()
    contrasts: Annotated[
        tuple[Annotated[tuple[str, str], BeforeValidator(_pair)], ...],
        BeforeValidator(notation.as_tuple),
    ] = ()
    sites: Annotated[
        tuple[Annotated[str, BeforeValidator(notation.site)], ...],
        BeforeValidator(notation.as_tuple),
    ] = Field(default=("attn_pre_out",), min_length=1)
    units: Annotated[
        tuple[Annotated[str, BeforeValidator(notation.unit)], ...],
        BeforeValidator(notation.as_tuple),
    ] = Field(default=("neuron",), min_length=1)
    selections: Annotated[
        tuple[Annotated[str, BeforeValidator(notation.selection)], ...],
        BeforeValidator(notation.as_tuple),
    ] = Field(default=("random",), min_length=1)
    layers: Literal["all"] = "all"
    statistics: Statistics = Statistics()
    evaluation: Evaluation = Evaluation()
    cluster: Cluster = Cluster()
    store: Annotated[str | None, BeforeValidator(notation.store)] = None
    """Folder that shares data, partials and statistics between runs; none when None."""


def cross_mistakes(spec: Spec) -> list[Mistake]:
    """Return what is wrong between the sections of a spec whose sections are right."""
    found = []
    for key in ("sites", "units", "selections"):
        for i, word in enumerate(getattr(spec, key)):
            if word in getattr(spec, key)[:i]:
                found.append(Mistake(path=f"{key}[{i}]", message=f"{word!r} stands here twice"))
    labels = [m.label for m in spec.methods]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            found.append(Mistake(path=f"methods[{i}]", message=f"{label!r} stands here twice"))
    for i, pair in enumerate(spec.contrasts):
        for label in pair:
            if label not in labels:
                found.append(
                    Mistake(
                        path=f"contrasts[{i}]",
                        message=f"{label!r} is not among this sweep's methods"
                        f" ({', '.join(labels)}); add it there or contrast another",
                    )
                )
        if pair[0] == pair[1]:
            found.append(
                Mistake(path=f"contrasts[{i}]", message="a method is contrasted with itself")
            )
    collected = spec.statistics.data
    if collected is not None and collected not in spec.data:
        message = f"no data source is named {collected!r}; named are: {', '.join(spec.data)}"
        found.append(Mistake(path="statistics.data", message=message))
    for i, method in enumerate(spec.methods):
        if method.by_position and spec.statistics.positional is None:
            message = f"{method.label} needs statistics by position; add `position` to"
            found.append(
                Mistake(path=f"methods[{i}]", message=message + " `statistics: {strata: [...]}`")
            )
        fixed = method.by_position or method.published
        if spec.statistics.mode != "one_shot" and fixed:
            message = (
                f"{method.label} has no statistics that are collected again as ablation proceeds;"
                " use `statistics: {mode: one_shot}`, or mean and the other peaks"
            )
            found.append(Mistake(path=f"methods[{i}]", message=message))
    for i, model in enumerate(spec.models):
        if model.id in [m.id for m in spec.models[:i]]:
            found.append(Mistake(path=f"models[{i}]", message=f"{model.id!r} stands here twice"))
        if model.data is not None and model.data not in spec.data:
            known = ", ".join(spec.data)
            found.append(
                Mistake(
                    path=f"models[{i}].data",
                    message=f"no data source is named {model.data!r}; named are: {known}",
                )
            )
    return found


def parse(raw: object) -> Spec:
    """Return the spec that the mapping `raw` describes.

    Raises SpecError with every mistake.
    """
    if not isinstance(raw, Mapping):
        found = "nothing" if raw is None else type(raw).__name__
        raise SpecError(
            [Mistake(path="", message=f"found {found}, expected a mapping with models and methods")]
        )
    try:
        spec = Spec.model_validate(dict(raw))
    except ValidationError as error:
        wrong = [from_pydantic(dict(e), Spec, LATER_KEYS) for e in error.errors()]
        # An item that was refused leaves its list too short: said once is enough.
        paths = [m.path for m in wrong]
        echoes = [m for m in wrong if any(p.startswith(m.path + "[") for p in paths)]
        raise SpecError([m for m in wrong if m not in echoes]) from None
    mistakes = cross_mistakes(spec)
    if mistakes:
        raise SpecError(mistakes)
    return spec


def as_yaml(spec: Spec) -> str:
    """Return the spec as a sweep file with every default filled in."""
    return yaml.safe_dump(resolved(spec), sort_keys=False, allow_unicode=True)


def resolved(spec: Spec) -> dict[str, object]:
    """Return the spec as plain values that `parse` reads back as the same spec."""
    plain = spec.model_dump(mode="json")
    plain["fractions"] = [float(f) for f in spec.fractions]
    plain["methods"] = [
        {m.method: dict(m.parameters)} if m.parameters else m.method for m in spec.methods
    ]
    return plain
