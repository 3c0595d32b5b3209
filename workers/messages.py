"""Messages: all that crosses the line between the orchestrator and the workers.

The orchestrator decides and keeps tables; a worker holds a model and computes.
What they say to each other is here: plain values and numpy arrays, nothing of
torch, Arrow or Ray, so that either side can be read, tested and replaced
without the other.

Shapes: S sequences, T positions, L layers, N neurons of one hookpoint
(heads x d_head), H x W x C pixels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["causal", "masked", "image"]
Site = Literal["attn_pre_out", "mlp_mid"]

NOT_SCORED = -100
"""Target of a position that no metric looks at (the library's own convention)."""


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
    d_model: int
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

    @property
    def neurons(self) -> int:
        """Neurons of one `attn_pre_out` hookpoint: heads x d_head, not always d_model."""
        return self.heads * self.d_head


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """S sequences as the run folder's data table holds them, in ascending order of number."""

    sequence: NDArray[np.int64]
    """(S,) numbers, unique over both roles of (model, data)."""
    inputs: tuple[NDArray[np.int64] | NDArray[np.uint8], ...]
    """Text: (T,) token ids each; images: (H, W, C) pixels each."""
    targets: tuple[NDArray[np.int64], ...]
    """Text: (T,) token ids, NOT_SCORED elsewhere, shifted for causal models; images: (1,) class."""


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
class CellOrder:
    """One cell to evaluate: which units are held, and at what."""

    cell: str
    site: Site
    held: tuple[NDArray[np.int64], ...]
    """L arrays of neuron indices, ascending; all empty for the baseline."""
    values: NDArray[np.float64] | None
    """(L, N) constant of every neuron, or (Z, L, N) with `starts`; None for donors' activations
    and for the baseline."""
    donors: str | None
    """Name of the donors whose activations are put in; None for constants and the baseline."""
    starts: tuple[int, ...] | None = None
    """First position of every bucket, ascending from 0, where `values` is (Z, L, N): one constant
    per neuron and bucket of positions. None where it is (L, N)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellAnswer:
    """Per-sequence sums of one cell, in the order of `sequence`, and proof that it took effect."""

    cell: str
    sequence: NDArray[np.int64]
    """(S,) ascending."""
    tokens: NDArray[np.int64]
    """(S,) scored positions."""
    top1: NDArray[np.int64]
    """(S,) scored positions whose target has the largest logit."""
    top10: NDArray[np.int64]
    """(S,) scored positions whose target is among the ten largest logits."""
    loss: NDArray[np.float64]
    """(S,) sum of the cross-entropy over scored positions, in nats, of fp32 log-softmax."""
    nan: NDArray[np.int64]
    """(S,) scored positions whose loss is not a number; they are left out of `loss`."""
    told: int
    """Constants: columns to hold, over layers. Donors and constants by position: elements, over
    unpadded positions."""
    held: int
    """The same, as read back from what the forward pass really used."""
    seconds: float
