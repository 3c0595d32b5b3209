"""Sections: the parts of a sweep file, each with its defaults.

Strict types, so that a `no` cannot become False unnoticed; no unknown keys; immutable.
What a section cannot know of the others is checked in `orchestrator.spec` and, where
models and sources must be looked at, in `orchestrator.plan`.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator import notation, presets

MOST = 2**31 - 1
"""Largest number of anything: whatever is counted or indexed by it fits 64 bits."""
SHORTEST = 16
"""Positions of the shortest window that is kept: shorter ones say little and pad much."""
Metric = Literal[
    "top1",
    "ce",
    "top10",
    "kl",
    "top1_rare",
    "top1_mask",
    "ce_mask",
    "perplexity",
    "bits_per_byte",
    "logit_diff",
    "choice",
]
"""What cells can be compared by."""
DEFAULT_SEQUENCES = {"collect": 256, "evaluate": 64}


class Section(BaseModel):
    """A mapping of the file: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(Section):
    """One model: a bundled one (`zoo:opt`), a local folder, or a hub id with its revision."""

    id: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    data: str | None = None
    """Name of its data source; the first that fits its modality when None."""
    shards: Annotated[int | Literal["auto"], BeforeValidator(notation.number_or_auto)] = 1
    """Devices that hold it together; auto: the fewest with room (`cluster.device_memory`)."""
    packed: Literal["int8", "int4"] | None = None
    """Bits that its layers' weights are stored in (`workers.packed`); `dtype` is of all else."""


class RoleSpec(Section):
    """How much of a source one role takes, and from which split."""

    split: str | None = None
    sequences: int | None = Field(default=None, gt=0, le=MOST)
    tokens: int | None = Field(default=None, gt=0, le=MOST)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.sequences is not None and self.tokens is not None:
            raise ValueError("both `sequences` and `tokens` are given; keep one")
        return self


Column = Annotated[str, Field(min_length=1)]
_READING = (
    *("kind", "image", "label", "input", "donor", "answer", "wrong", "where", "labels"),
    *("config", "revision", "split", "streaming"),
)


class DataSpec(Section):
    """A named source and what each role takes of it."""

    source: str = Field(min_length=1)
    """A bundled source, a preset, `hf:owner/name`, or a file or folder (docs/data.md)."""
    kind: Literal["text", "images", "pairs"] | None = None
    """What a document is; told from the columns when None."""
    text: Column = "text"
    """Column of the text; a dot leads into a column of mappings, here and below."""
    document: Column | None = None
    """Column that names a document, of one row or several; each row is one when None."""
    image: Column = "image"
    label: Column = "label"
    """Column of an image's class."""
    input: Column = "input"
    donor: Column = "donor"
    answer: Column = "answer"
    wrong: Column = "wrong"
    """Pairs: what is fed, whose activations are taken, what is right after it, and what is not."""
    where: dict[
        Column,
        Annotated[
            tuple[str | int | float | bool, ...],
            BeforeValidator(notation.as_tuple),
            Field(min_length=1),
        ],
    ] = {}
    """Rows that are read: by column, the values they may have there."""
    labels: str | None = Field(default=None, min_length=1)
    """Images: a file that numbers the classes or the images."""
    config: str | None = None
    """Hub: the configuration of the set."""
    revision: str | None = Field(default=None, min_length=1)
    """Hub: a commit, branch or tag; a run resolves it to the commit and records that."""
    split: str = "train"
    """Hub: the split that is divided by hash, where the roles name none."""
    streaming: bool = False
    """Hub: rows come over the network as they are needed, and the set is not downloaded."""
    collect: RoleSpec = RoleSpec()
    evaluate: RoleSpec = RoleSpec()
    sequence_length: int | None = Field(default=None, ge=SHORTEST, le=MOST)
    """Positions of a window, special tokens included; the model's own window when None."""
    bos: Literal["every_window", "first", "none"] = "every_window"
    """Text: which windows of a document begin with the tokenizer's bos token."""
    truncate: bool = False
    """Text: whether the first window of every document is taken, and the rest of it left."""
    stride: int | None = Field(default=None, ge=1, le=MOST)
    """Text that is evaluated: tokens from one window's start to the next one's; a window's room
    when None. A token is scored in the first window that has it."""
    context: int | None = Field(default=None, ge=1, le=MOST)
    """Text that is evaluated: positions before a token in its window, for it to be scored."""
    near_duplicates: Literal["drop", "keep"] = "drop"
    """What is done with evaluated documents that are nearly collected ones; equal ones go."""

    def window(self, longest: int) -> int:
        """Return the positions of a window of this source, for a model that takes so many."""
        return self.sequence_length or longest

    def positions(self, role: Literal["collect", "evaluate"], window: int) -> int:
        """Return about how many positions a role takes of a source, for windows of this length."""
        asked: RoleSpec = getattr(self, role)
        return asked.tokens or (asked.sequences or DEFAULT_SEQUENCES[role]) * self.window(window)

    @model_validator(mode="after")
    def _cut_one_way(self) -> Self:
        if self.truncate and self.stride is not None:
            raise ValueError(
                "`truncate` takes one window of a document, and `stride` more; keep one"
            )
        return self

    def reading(self) -> dict[str, object]:
        """Return how rows are read, where that is not the default, as plain values.

        Columns of texts and documents are told beside it, as they always were.
        """
        told = self.model_dump(mode="json", include=set(_READING), exclude_defaults=True)
        splits = [role.split for role in (self.collect, self.evaluate) if role.split is not None]
        hosted = self.source.startswith("hf:")
        return told | ({"splits": splits} if hosted and splits else {})

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: object) -> object:
        return presets.filled(given)

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


class Seeds(Section):
    """Which random draws: neurons held (masks), donors, noise, and corruption for masked models."""

    masks: tuple[int, ...] = tuple(range(10))
    donors: tuple[int, ...] = (0,)
    noise: tuple[int, ...] = (0,)
    masking: int = Field(default=0, ge=0, le=notation.LARGEST_SEED)
    visits: int = Field(default=0, ge=0, le=notation.LARGEST_SEED)
    """Of the order in which evaluated documents are visited (`orchestrator.rounds`)."""


class Positions(Section):
    """Which positions are counted. What a model is fed is the data's business, not this one's."""

    skip_first: int = Field(default=0, ge=0, le=MOST)
    """Positions at the start of every sequence that are left out: attention sinks, class tokens."""
    specials: Literal["in", "out"] = "in"
    """Text: whether the tokens bos, eos and pad are counted; never where they are padding."""


class Strata(Section):
    """Groups of positions with statistics of their own."""

    by: Literal["position", "class"]
    buckets: int | tuple[int, ...] | None = None
    """Position: how many buckets of equal width, or their first positions; each when None."""


class Statistics(Section):
    """What activations are counted, how, and how well their statistics are known."""

    data: str | None = None
    """Name of the source that statistics are collected on; the model's own when None."""
    mode: Literal["one_shot", "layers_in_sequence", "per_fraction"] = "one_shot"
    """One shot: of the unablated model. Layers in sequence: each layer's with the layers below it
    held. Per fraction: with the next smaller fraction held."""
    positions: Positions = Positions()
    strata: Annotated[
        tuple[Annotated[Strata, BeforeValidator(notation.strata)], ...],
        BeforeValidator(notation.as_tuple),
    ] = ()
    """Statistics of parts of the data, beside those of the whole."""
    intervals: bool | Literal["auto"] = "auto"
    """Jackknife intervals; auto: for as many neurons as `orchestrator.collection` states."""
    bins: Literal[64, 128, 256, 512, 1024] = 256
    shards: int = Field(default=16, ge=1, le=64)
    """Fixed sets of whole documents: the unit of collection, of retry and of the jackknife."""
    pilot_positions: int = Field(default=4096, ge=64, le=MOST)
    """Positions that the pilot looks at to place the bins."""
    pilot_documents: int = Field(default=64, ge=1, le=MOST)
    """Documents that these come from, at least, if there are as many; classes in turns."""
    pilot_seed: int = Field(default=0, ge=0, le=notation.LARGEST_SEED)

    @property
    def positional(self) -> Strata | None:
        """The strata of positions, if asked for."""
        return next((s for s in self.strata if s.by == "position"), None)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        kinds = [s.by for s in self.strata]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"strata by {kinds[0]} stand twice; keep one")
        return self


class Scored(Section):
    """Which positions are scored."""

    skip_first: int = Field(default=0, ge=0, le=MOST)
    """Positions at the start of every sequence that are left out."""
    specials: Literal["in", "out"] = "in"
    """Text: whether positions whose target is one of bos, eos and pad are scored."""
    last: int | None = Field(default=None, ge=1, le=MOST)
    """Of every sequence, so many of the scored positions at its end; all when None."""

    @property
    def all(self) -> bool:
        """Whether every position that has a target is scored."""
        return self == Scored()


class Evaluation(Section):
    """How cells are scored. Batch shapes are part of a cell's name."""

    metrics: Annotated[
        tuple[Metric, ...], BeforeValidator(notation.as_tuple), Field(min_length=1)
    ] = ("top1", "ce")
    """What is compared; `kl` alone costs time, and its column is null unless it stands here."""
    positions: Scored = Scored()

    batch_tokens: Annotated[int | Literal["auto"], BeforeValidator(notation.number_or_auto)] = (
        "auto"
    )
    """Positions fed together, padding included; auto: as many as `batch_bytes` hold."""
    batch_bytes: int = Field(default=2**30, ge=2**20, le=2**50)
    """Most bytes that the activations of a batch may take (`orchestrator.batching`)."""
    logits_bytes: int = Field(default=32 * 2**20, ge=2**16, le=2**50)
    """Most bytes of logits held at once, in fp32."""


class Cluster(Section):
    """What a replica asks of the cluster; none of it changes a number."""

    workers: int | None = Field(default=None, ge=1, le=MOST)
    """Replicas at once; as many as fit when None."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_memory: Annotated[int | None, BeforeValidator(notation.memory)] = None
    """Bytes of memory of one device, or `80GB`; what nvidia-smi says where planned when None."""
    gpu: Annotated[tuple[str, ...], BeforeValidator(notation.as_tuple)] = ()
    """Kinds of GPU to use, as Ray calls them: `[A100, H100]`; any when empty."""
    per_gpu: Annotated[int | Literal["auto"], BeforeValidator(notation.number_or_auto)] = 1
    """Replicas that share a GPU; auto: as many as it has memory for, 4 at most."""
    autoscale: bool = False
    """Whether machines that are missing for `workers` are asked of the cluster's autoscaler."""
    downloads: int = Field(default=16, ge=1, le=MOST)
    """Machines that download weights from a hub at once."""
    ready_seconds: float = Field(default=300.0, gt=0, le=1e7)
    """How long a replica may take to get ready."""
    patience_seconds: float = Field(default=300.0, gt=0)
    """How long any task may take before it is suspected to hang; long ones are given more."""
