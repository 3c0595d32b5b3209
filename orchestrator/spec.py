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
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from orchestrator import notation
from orchestrator.mistakes import Mistake, SpecError, from_pydantic

LATER_KEYS = ("grids", "precision", "basis", "store", "compile", "complement")


SHORTEST = 16
"""Positions of the shortest window that is kept: shorter ones say little and pad much."""
DEFAULT_SEQUENCES = {"collect": 256, "evaluate": 64}


class Section(BaseModel):
    """A mapping of the file: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _model(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class ModelSpec(Section):
    """One model: a bundled one (`zoo:opt`), a local folder, or a hub id with its revision."""

    id: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    data: str | None = None
    """Name of its data source; the first that fits its modality when None."""
    shards: Literal[1] = 1


class RoleSpec(Section):
    """How much of a source one role takes, and from which split."""

    split: str | None = None
    sequences: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.sequences is not None and self.tokens is not None:
            raise ValueError("both `sequences` and `tokens` are given; keep one")
        return self


class DataSpec(Section):
    """A named source and what each role takes of it."""

    source: str = Field(min_length=1)
    """`zoo:text`, `zoo:digits`, or a JSON-lines file (`file.jsonl`)."""
    text: str = "text"
    """JSON lines: the key of the text."""
    document: str | None = None
    """JSON lines: the key that names a document; the line number when None."""
    collect: RoleSpec = RoleSpec()
    evaluate: RoleSpec = RoleSpec()
    sequence_length: int | None = Field(default=None, ge=SHORTEST)
    """Positions of a window, special tokens included; the model's own window when None."""
    bos: Literal["every_window"] = "every_window"

    def positions(self, role: Literal["collect", "evaluate"], window: int) -> int:
        """Return about how many positions a role takes of a source, for windows of this length."""
        asked: RoleSpec = getattr(self, role)
        length = self.sequence_length or window
        return asked.tokens or (asked.sequences or DEFAULT_SEQUENCES[role]) * length

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if self.collect.split is not None and self.collect.split == self.evaluate.split:
            raise ValueError(
                f"`collect` and `evaluate` both take split {self.collect.split!r}, so the same"
                " documents; statistics and scores must come from different ones. Name two splits,"
                " or none to have the documents divided by hash"
            )
        if (self.collect.split is None) != (self.evaluate.split is None):
            raise ValueError(
                "a split is named for one of `collect` and `evaluate` only, so the same documents"
                " could be in both; name both splits or none"
            )
        return self


class MethodSpec(Section):
    """One way to replace a neuron's value, with its parameters."""

    method: str
    parameters: Mapping[str, str]

    @property
    def label(self) -> str:
        """The name used in `contrasts` and figures: `peak` or `peak(paper)`."""
        values = [v for v in self.parameters.values() if v not in ("smooth", "dataset")]
        return f"{self.method}({', '.join(values)})" if values else self.method


class Seeds(Section):
    """Which random draws: neurons held (masks), donors, noise, and corruption for masked models."""

    masks: tuple[int, ...] = tuple(range(10))
    donors: tuple[int, ...] = (0,)
    noise: tuple[int, ...] = (0,)
    masking: int = Field(default=0, ge=0, le=notation.LARGEST_SEED)


class Statistics(Section):
    """How activations are counted."""

    bins: Literal[64, 128, 256, 512, 1024] = 256
    shards: int = Field(default=16, ge=1, le=64)
    """Fixed sets of whole documents: the unit of collection and retry."""
    pilot_positions: int = Field(default=4096, ge=64)
    """Positions that the pilot looks at to place the bins."""


class Evaluation(Section):
    """How cells are scored. Batch shapes are part of a cell's name."""

    batch_tokens: int = Field(default=2048, ge=1)
    """Positions fed together, padding included."""
    logits_bytes: int = Field(default=32 * 2**20, ge=2**16)
    """Most bytes of logits held at once, in fp32."""


class Cluster(Section):
    """What a replica asks of the cluster; none of it changes a number."""

    workers: int | None = Field(default=None, ge=1)
    """Replicas at once; as many as fit when None."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    ready_seconds: float = Field(default=300.0, gt=0)
    """How long a replica may take to get ready."""


Model = Annotated[ModelSpec, BeforeValidator(_model)]
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
