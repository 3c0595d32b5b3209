"""Asked: whether cells, batches and donors that are sent together fit together.

What is wrong here is a mistake of whoever sends them, and is refused before anything
runs: a sequence given twice, a site held twice, donors that are missing or shorter
than what they give to.

Shapes: S sequences, T positions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.loading import Model
from workers.messages import SITES, Batch, CellOrder, Donated, Donors
from workers.positions import attended


def check(
    model: Model,
    batches: Sequence[Batch],
    cells: Sequence[CellOrder],
    donors: Mapping[str, Donors],
) -> None:
    """Raise ValueError unless every cell can be run on every batch."""
    sequences = np.concatenate([batch.sequence for batch in batches]) if batches else np.empty(0)
    if not len(sequences) or len(np.unique(sequences)) < len(sequences):
        raise ValueError(
            f"The {len(batches)} batches hold {len(sequences)} sequences,"
            f" {len(np.unique(sequences))} of them distinct. Give at least one, and each once."
        )
    for order in cells:
        _check_order(order, donors)
    for name in donors:
        _check_donors(model, name, donors[name], batches)


def _check_order(order: CellOrder, donors: Mapping[str, Donors]) -> None:
    sites = [hold.site for hold in order.holds]
    kinds = sorted({type(hold.value).__name__ for hold in order.holds})
    if len(kinds) > 1 or len(set(sites)) < len(sites) or not set(sites) <= set(SITES):
        raise ValueError(
            f"Cell {order.cell} holds neurons at the sites {sites}, by {kinds}. Give each site of"
            f" {list(SITES)} once, and all of them one kind of value."
        )
    if not 0 < order.share <= 1:
        raise ValueError(
            f"Cell {order.cell} has a share of {order.share}; it must be above 0 and at most 1,"
            " which is all of the activation."
        )
    for value in (hold.value for hold in order.holds):
        if isinstance(value, Donated):
            if value.donors not in donors:
                raise ValueError(
                    f"Cell {order.cell} names the donors `{value.donors}`; given are"
                    f" {sorted(donors)}. Send their batches along."
                )
            passes = len(donors[value.donors].passes)
            if value.drawn == "joint" and passes > 1:
                raise ValueError(
                    f"Cell {order.cell} takes the donors `{value.donors}` jointly, and there are"
                    f" {passes} passes of them. Give one; several are for donors that layers,"
                    " heads or neurons draw by themselves."
                )


def _check_donors(model: Model, name: str, given: Donors, batches: Sequence[Batch]) -> None:
    rows = given.rows
    lengths = [len(fed) for fed in given.passes] + ([] if rows is None else [len(rows)])
    if not given.passes or set(lengths) != {len(batches)}:
        raise ValueError(
            f"There are {len(batches)} batches, and {lengths} of the donors `{name}`. Send one for"
            " each, in the same order, in every pass."
        )
    for fed in given.passes:
        for index, (batch, donor) in enumerate(zip(batches, fed, strict=True)):
            row_S = None if rows is None else rows[index]
            same = batch.inputs.shape == donor.inputs.shape
            if not same or not _covered(model, batch, donor, row_S):
                raise ValueError(
                    f"The donors `{name}` of sequences {batch.sequence.tolist()} have the shape"
                    f" {donor.inputs.shape}, the sequences {batch.inputs.shape}. Every donor must"
                    " be as long as its sequence or longer, and cut to the batch's shape; where"
                    " one row is given, that row must be there."
                )


def _covered(model: Model, batch: Batch, donor: Batch, row_S: NDArray[np.int64] | None) -> bool:
    """Whether donors, of the batch's shape, are attended where their activations are taken."""
    donor_ST = attended(donor, model.facts)
    if row_S is None:
        return not (attended(batch, model.facts) & ~donor_ST).any()
    if row_S.shape != (len(donor_ST),) or (row_S < -1).any() or (row_S >= donor_ST.shape[1]).any():
        return False
    return bool((donor_ST[np.arange(len(row_S)), row_S] | (row_S < 0)).all())
