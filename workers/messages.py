"""Messages: all that crosses the line between the orchestrator and the workers.

The orchestrator decides and keeps tables; a worker holds a model and computes.
What they say to each other is here: plain values and numpy arrays, nothing of
torch, Arrow or Ray, so that either side can be read, tested and replaced
without the other.

Shapes: S sequences, T positions, L layers, N neurons of one hookpoint
(heads x d_head, or the width of the MLP), B bins, Z buckets of positions, W wrong answers,
H x W x C pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.answered import CellAnswer as CellAnswer  # it is a message too

Modality = Literal["causal", "masked", "image"]
Site = Literal["attn_pre_out", "mlp_mid"]
SITES: tuple[Site, ...] = ("attn_pre_out", "mlp_mid")

NOT_SCORED = -100
"""Target of a position that no metric looks at (the library's own convention)."""
RARE, MASKED = 1, 2
"""Bits of a position's mark: its target is none of the most common tokens; it was fed `<mask>`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What can be known of a checkpoint without computing anything with it."""

    family: str
    """Row of `workers.families`, for example `opt`."""
    modality: Modality
    layers: int
    heads: int
    """Query heads of one layer."""
    d_head: int
    """Neurons of one head."""
    kv_heads: int
    """Heads that have keys and values of their own; query heads share them in equal groups."""
    d_model: int
    d_mlp: int
    """Neurons of one `mlp_mid` hookpoint."""
    activation: str
    """What makes them, by its name in the library: `relu`, `gelu`, `silu`, …"""
    vocabulary: int
    """Tokens (text) or classes (images) that the model's head scores."""
    window: int
    """Most positions it may be fed, special tokens included; images: patches and prefix."""
    image: tuple[int, int, int] | None
    """(H, W, C) of the image the model is fed, in pixels; None for text."""
    parameters: int
    bytes: int
    """Size of the parameters in the dtype they are stored in, in bytes."""
    digest: str
    """SHA-256 over configuration and weights."""
    tokenizer: str | None
    """SHA-256 over the tokenizer's files; None for images."""
    specials: dict[str, int]
    """Token ids by role, of those the tokenizer has: bos, eos, pad, mask, unk."""
    gated: bool = False
    """Whether a neuron of the MLP is the activation's output times another branch."""

    @property
    def neurons(self) -> int:
        """Neurons of one `attn_pre_out` hookpoint: heads x d_head, not always d_model."""
        return self.heads * self.d_head

    def neurons_at(self, site: Site) -> int:
        """Return the neurons of one hookpoint of a site."""
        return self.neurons if site == "attn_pre_out" else self.d_mlp


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRef:
    """Which checkpoint to hold, and how."""

    name: str
    """As the sweep file says it, for example `zoo:opt`."""
    folder: str
    """Folder with the checkpoint."""
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["cpu", "cuda"]
    threads: int
    """Threads of one replica; fixed by the plan, because sums depend on it."""
    facts: ModelFacts
    basis: int | None = None
    """Seed of the rotation of its heads (`workers.rotation`); None: the checkpoint's own axes."""
    shards: int = 1
    """Processes that share its heads and hold it together (`workers.sharding`)."""
    packed: Literal["int8", "int4"] | None = None
    """How the weights of its layers are packed (`workers.packed`); None: they are not."""

    @property
    def label(self) -> str:
        """What tells loaded models apart, for people too: `zoo:opt`, or `zoo:opt rotated 3`."""
        return self.name if self.basis is None else f"{self.name} rotated {self.basis}"

    @property
    def weights(self) -> str:
        """What stands for the weights in a recipe."""
        digest = self.facts.digest
        digest = digest if self.basis is None else f"{digest} rotated {self.basis}"
        digest = digest if self.packed is None else f"{digest} packed {self.packed}"
        return digest if self.shards == 1 else f"{digest} in {self.shards} shards"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """S sequences as the run folder's data table holds them, in ascending order of number."""

    sequence: NDArray[np.int64]
    """(S,) numbers, unique over both roles of (model, data)."""
    inputs: tuple[NDArray[np.int64] | NDArray[np.uint8], ...]
    """Text: (T,) token ids each; images: (H, W, C) pixels each."""
    targets: tuple[NDArray[np.int64], ...]
    """Text: (T,) token ids, NOT_SCORED elsewhere, shifted for causal models; images: (1,) class."""
    marks: tuple[NDArray[np.uint8], ...] | None = None
    """Text: (T,) bits `RARE` and `MASKED` of the scored positions, 0 elsewhere; None for images."""
    wrong: tuple[NDArray[np.int64], ...] | None = None
    """Paired prompts: (W,) token ids of the wrong answers of each; None for all else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Sequences fed together. Its shape is fixed by the plan, never by the cluster."""

    sequence: NDArray[np.int64]
    """(S,) sequence numbers."""
    inputs: NDArray[np.int64] | NDArray[np.uint8]
    """Text: (S, T) token ids, padded on the right; images: (S, H, W, C)."""
    attended: NDArray[np.bool_] | None
    """(S, T) False where padded; None for images, which have no padding."""
    targets: NDArray[np.int64]
    """Text: (S, T); images: (S, 1)."""
    marks: NDArray[np.uint8] | None = None
    """(S, T) bits `RARE` and `MASKED`; None for images."""
    wrong: NDArray[np.int64] | None = None
    """Paired prompts: (S, W) token ids of wrong answers, NOT_SCORED after a row's last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Which attended positions are counted, and into which strata.

    A stratum has statistics of its own. Rows of what is counted by strata are
    stratum-major: row = (stratum x L + layer) x N + neuron.
    """

    skip_first: int = 0
    """Positions at the start of every sequence that are left out."""
    without: tuple[int, ...] = ()
    """Token ids that are left out wherever they stand; only for text."""
    by: Literal["all", "position", "class"] = "all"
    """One stratum for all; one per bucket of positions; one per class of the sequence (images)."""
    starts: tuple[int, ...] = (0,)
    """Position: first position of every bucket, ascending from 0. Class: the classes. All: (0,)."""


ALL = Counted()
"""Every attended position, in one stratum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One constant per neuron, wherever it stands."""

    values: NDArray[np.float64]
    """(L, N), also of neurons that are not held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByPosition:
    """One constant per neuron and bucket of positions."""

    values: NDArray[np.float64]
    """(Z, L, N)."""
    starts: tuple[int, ...]
    """First position of each of the Z buckets, ascending from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Donated:
    """The activations that the unablated model has on donors."""

    donors: str
    """Name of the donors: a key of what `workers.evaluate` is given."""
    drawn: Literal["joint", "per_layer", "per_head", "per_neuron"] = "joint"
    """What takes one donor together. Other than joint, each layer, head or neuron takes one of a
    sequence's donors by itself, drawn by (seed, sequence, layer, site, head or neuron); a layer
    takes the same one at all of its sites."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Independent Gaussian draws with each neuron's mean and s.d., at every position."""

    mean: NDArray[np.float64]
    """(L, N)."""
    std: NDArray[np.float64]
    """(L, N)."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Marginal:
    """Independent draws from each neuron's histogram, at every position."""

    counts: NDArray[np.int64]
    """(L, N, B) activations in each bin, as the statistics table has them."""
    start: NDArray[np.float64]
    """(L, N) where the first bin begins."""
    width: NDArray[np.float64]
    """(L, N) of a bin."""
    zeros: NDArray[np.int64]
    """(L, N) activations that are exactly 0, as the statistics table has them."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestPeak:
    """The nearest of each neuron's modes, at every position."""

    modes: NDArray[np.float64]
    """(L, N, K), NaN after the last mode of a neuron; each has at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Custom:
    """What a user's own method makes of an activation (`workers.plugins`)."""

    plugin: str
    """Name of the method, registered in this process."""
    parameters: Mapping[str, object]
    statistics: Mapping[str, NDArray[np.float64]]
    """Columns of the statistics table that it asked for, (L, N) each."""
    seed: int


Value = Constant | ByPosition | Donated | Noise | Marginal | NearestPeak | Custom


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Neurons of one site that are held, and at what."""

    site: Site
    held: tuple[NDArray[np.int64], ...]
    """L arrays of neuron indices, ascending; some are not empty."""
    value: Value


@dataclass(frozen=True, kw_only=True, slots=True)
class CellOrder:
    """One cell to evaluate."""

    cell: str
    holds: tuple[Hold, ...] = ()
    """One for every site with held neurons, all of one kind of value; none for the baseline."""
    share: float = 1.0
    """α, 0 < α <= 1: an activation x that would be replaced by c becomes (1 - α) x + α c."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Donors:
    """What the donors of some batches are fed."""

    passes: tuple[tuple[Batch, ...], ...]
    """K passes, each with one batch for every evaluated one, of its shape: the i-th row is a donor
    of the i-th sequence. One pass where donors are joint."""
    rows: tuple[NDArray[np.int64], ...] | None = None
    """As published, by mistake: (S,) for every batch, the one position whose activations a
    sequence gets at all of its positions; -1 for zeros. None: position by position."""
