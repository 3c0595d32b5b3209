"""Feed: from the rows of a data table to what a model is fed.

Shapes: S sequences, T positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.data import batches
from workers.messages import NOT_SCORED, Batch, Counted, ModelFacts, Sequences


def sequences(table: pa.Table) -> Sequences:
    """Return the rows of a data table as the workers' message, ascending by number."""
    table = table.sort_by("sequence")
    number_S: NDArray[np.int64] = table.column("sequence").to_numpy().astype(np.int64)
    target = table.column("target")
    if "image" in table.column_names:
        images = table.column("image").to_pylist()
        shapes = table.column("shape").to_pylist()
        pixels = zip(images, shapes, strict=True)
        return Sequences(
            sequence=number_S,
            inputs=tuple(np.asarray(i, np.uint8).reshape(s) for i, s in pixels),
            targets=tuple(np.asarray([t], np.int64) for t in target.to_pylist()),
        )
    return Sequences(
        sequence=number_S,
        inputs=tuple(np.asarray(i, np.int64) for i in table.column("input").to_pylist()),
        targets=tuple(np.asarray(t, np.int64) for t in target.to_pylist()),
    )


def batched(table: pa.Table, facts: ModelFacts, tokens: int) -> tuple[Batch, ...]:
    """Return the rows of a data table as batches of at most so many positions."""
    return batches(
        sequences(table),
        tokens=tokens,
        pad=facts.specials.get("pad", 0),
        positions_each=facts.window if facts.modality == "image" else None,
    )


def donated(data: pa.Table, donors: pa.Table, fed: Sequence[Batch], pad: int) -> list[Batch]:
    """Return what the donors are fed, row by row and shape by shape as the receivers `fed`."""
    own = sequences(data)
    inputs = dict(zip(own.sequence.tolist(), own.inputs, strict=True))
    given: dict[int, NDArray[np.int64] | NDArray[np.uint8]] = {}
    for row in donors.select(["sequence", "donor", "input"]).to_pylist():
        cut = row["input"]
        given[row["sequence"]] = inputs[row["donor"]] if cut is None else np.asarray(cut)
    made = []
    for batch in fed:
        filled = np.full_like(batch.inputs, pad)
        for i, number in enumerate(batch.sequence.tolist()):
            donor = given[number]
            filled[i, : len(donor)] = donor
        made.append(
            Batch(
                sequence=batch.sequence,
                inputs=filled,
                attended=batch.attended,
                targets=np.full_like(batch.targets, NOT_SCORED),
            )
        )
    return made


def counted(told: Mapping[str, Any]) -> Counted:
    """Return which positions are counted, from a task's arguments."""
    return Counted(
        skip_first=told["skip_first"],
        without=tuple(told["without"]),
        by=told["by"],
        starts=tuple(told["starts"]),
    )
