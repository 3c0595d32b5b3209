"""Positions: which of a batch are counted, and in which stratum each of them is.

The population of a statistic is part of what it says: a mean over all positions
and a mean without the first one are different numbers where heads dump their
attention on that position. `Counted` declares the population; here it is looked
up for one batch, on the host, before the model runs.

Padding is never counted. Texts are padded on the right, so a position's number
is its column, and every sequence's first position is column 0. A sequence whose
class is in no stratum is left out altogether.

Shapes: S sequences, T positions (prefix tokens of images included), P positions
counted, F first positions. A place is a number from 0 to S x T, row by row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.messages import Batch, Counted, ModelFacts

_NOWHERE = -1
"""Stratum of what is in no stratum."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Places:
    """Where in a batch the values of one stratum are."""

    counted: NDArray[np.int64]
    """(P,) places, ascending."""
    first: NDArray[np.int64]
    """(F,) places of first positions, ascending, counted or not."""


def strata(counted: Counted) -> int:
    """Return the number of strata."""
    return 1 if counted.by == "all" else len(counted.starts)


def attended(batch: Batch, facts: ModelFacts) -> NDArray[np.bool_]:
    """Return which of a batch's (S, T) positions are data, and not padding."""
    if batch.attended is not None:
        return batch.attended
    positions = facts.window if facts.modality == "image" else batch.inputs.shape[1]
    return np.ones((batch.inputs.shape[0], positions), np.bool_)


def places(batch: Batch, facts: ModelFacts, counted: Counted) -> Mapping[int, Places]:
    """Return where the values of each stratum are, for the strata that the batch has any of.

    Raises ValueError if token ids are to be left out of images, if texts are to be put
    into classes, or if buckets do not ascend from position 0.
    """
    _refuse_nonsense(facts, counted)
    attended_ST = attended(batch, facts)
    counted_ST = attended_ST.copy()
    counted_ST[:, : counted.skip_first] = False
    if counted.without:
        counted_ST &= ~np.isin(batch.inputs, counted.without)
    stratum_ST = _stratum(batch, attended_ST.shape, counted)
    first_ST = np.zeros_like(attended_ST)
    first_ST[:, :1] = attended_ST[:, :1]
    found = np.unique(stratum_ST[counted_ST | first_ST])
    return {
        int(z): Places(
            counted=np.flatnonzero(counted_ST & (stratum_ST == z)),
            first=np.flatnonzero(first_ST & (stratum_ST == z)),
        )
        for z in found[found != _NOWHERE]
    }


def _stratum(batch: Batch, shape: tuple[int, ...], counted: Counted) -> NDArray[np.int64]:
    """Return the stratum of every position, (S, T)."""
    if counted.by == "position":
        bucket_T = np.searchsorted(counted.starts, np.arange(shape[1]), side="right") - 1
        return np.broadcast_to(bucket_T, shape)
    if counted.by == "class":
        of_class = {label: z for z, label in enumerate(counted.starts)}
        stratum_S = np.array(
            [of_class.get(int(label), _NOWHERE) for label in batch.targets[:, 0]], np.int64
        )
        return np.broadcast_to(stratum_S[:, None], shape)
    return np.zeros(shape, np.int64)


def _refuse_nonsense(facts: ModelFacts, counted: Counted) -> None:
    images = facts.modality == "image"
    if counted.without and images:
        raise ValueError(
            f"Token ids {list(counted.without)} are to be left out of images, which have none."
            " Leave `without` empty; `skip_first: 1` leaves out the class token."
        )
    if counted.by == "class" and not images:
        raise ValueError(
            f"A {facts.modality} model's texts are to be counted by class, and have none. Count"
            " them by position, or all together."
        )
    starts = counted.starts
    if counted.by == "position" and (starts[:1] != (0,) or list(starts) != sorted(set(starts))):
        raise ValueError(
            f"Buckets of positions start at {list(starts)}; expected numbers that ascend from 0."
        )
