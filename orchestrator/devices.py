"""Devices: what kind of GPU a machine has, and how much memory one of them has.

Ray finds out the kind of a machine's GPUs when it starts there and writes it on the machine as
a label; older drivers of clusters write it as a resource. The memory is not found out. It is,
in this order,

    what the label `peaksweep.io/gpu-memory` says (`80GB`, `80GiB`), given where Ray is started
    what a GPU of this kind has, by the table below
    unknown

The table has each kind's nominal memory, of 10^9 bytes a GB: a little less than the device tells.
Its numbers are those that are generally known of these kinds; they were measured on none. Of a kind
that is sold in several sizes the smallest stands here, so a replica is never put where it has no
room; the label says more. MIG slices are told as the whole GPU's kind, which is wrong: give them
the label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator import notation

KIND_LABEL = "ray.io/accelerator-type"
"""Ray's own label."""
KIND_RESOURCE = "accelerator_type:"
"""What such a resource's name begins with."""
MEMORY_LABEL = "peaksweep.io/gpu-memory"
GIGABYTES: Mapping[str, int] = {
    "P100": 12,
    "T4": 16,
    "V100": 16,
    "A10": 24,
    "A10G": 24,
    "L4": 24,
    "A40": 48,
    "L40": 48,
    "L40S": 48,
    "A100": 40,
    "A100-40G": 40,
    "A100-80G": 80,
    "H100": 80,
    "H20": 96,
    "RTX-PRO-6000": 96,
    "H200": 141,
}
"""Memory by kind, as Ray calls kinds. Whatever is not here has the label, or is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """The GPUs of one machine, which are alike."""

    kind: str | None = None
    """As Ray calls it; None where nothing says it."""
    memory: int | None = None
    """Bytes of each; None where nothing says it."""

    def suits(self, kinds: tuple[str, ...], memory: int) -> bool:
        """Whether it is of one of these kinds, if any are named, and has so many bytes.

        A device whose memory is unknown is believed to have enough.
        """
        kind = not kinds or self.kind in kinds
        return kind and (self.memory is None or self.memory >= memory)

    @property
    def said(self) -> str:
        """It in words: `A100 (40 GB)`."""
        if self.memory is None:
            return f"{self.kind or 'unnamed'} (of unknown memory)"
        return f"{self.kind or 'unnamed'} ({self.memory / 1e9:.0f} GB)"


def device(labels: Mapping[str, str], resources: Mapping[str, float]) -> Device:
    """Return the GPUs of a machine by its labels and by the names of its resources.

    A memory label that cannot be read counts for nothing.
    """
    named = (r.removeprefix(KIND_RESOURCE) for r in resources if r.startswith(KIND_RESOURCE))
    kind = labels.get(KIND_LABEL) or next(named, None)
    return Device(kind=kind, memory=_labelled(labels.get(MEMORY_LABEL)) or known(kind))


def known(kind: str | None) -> int | None:
    """Return the bytes of a GPU of a kind by the table; None where it is not there."""
    return GIGABYTES[kind] * 10**9 if kind is not None and kind in GIGABYTES else None


def _labelled(said: str | None) -> int | None:
    try:
        found = notation.memory(said)
    except ValueError:
        return None
    return found if isinstance(found, int) else None
