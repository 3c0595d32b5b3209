"""Extents: a metric of every cell, over all of its documents or over those of its first rounds.

Documents are visited round by round (`orchestrator.rounds`), and a sweep that stops where it
knows enough leaves cells that saw more documents than others did. A cell's *extent* is how
many rounds it has answered whole, from the first one on. Rounds are the same for all cells of
a model and its data, so of two cells the one that stopped sooner saw nothing that the other
did not: what they have in common is the smaller extent.

A cell's own level is over all of its documents. Whatever is set against something else is
made anew, on both sides, from the documents of the common extent; a difference over documents
that only one side saw would be a difference of documents too. A document outside has the
residual 0: it says nothing there.

Where all cells have read everything nothing is made anew, and the sums that would be needed
for it are not kept. What there is per cell and document, residuals and sums, may be more than
fits into memory: it is a `scratch.Matrix`, of which as many rows are read as are asked for.

A mean over masks, or an area over fractions, may be made of parts that read different numbers
of documents. These are nested: a first layer that all parts read, a next one that some did.
A part's residuals are as large as it read few documents, so the layers have unequal
variances, and the sum over documents of squared residuals is known as a sum of L such
variances D_l over n_l documents each is (Satterthwaite):

    worth = (Σ D_l)² / Σ (D_l² / n_l)       no less than the first layer, no more than all

which stands for G in G/(G−1) and in the degrees. Simulated with parts of one metric that read
3 to 100 documents, intervals of nominal 95 % cover 93 – 96 % so, 90 – 95 % with exponentially
skewed documents: what they do where all parts read the same. With all documents for G they
cover 86 – 96 %: where a part of six documents weighs heavily, eighty others don't help. With
the fewest of any part for G they cover 95 – 100 % and are up to 2.6 times as wide as need be:
where a part of three documents hardly matters. `tests/orchestrator/test_extents.py` has some
of these simulations.

Assumes that a document lies in one round, and that cells which have answered a round are
scored on the same sequences there.

Shapes: R rows of results, C cells, G documents, K rounds, L layers; `...` any axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.intervals import Floats, ratios
from orchestrator.scratch import Matrix

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One metric of every cell."""

    level_C: Floats
    """Each cell's level, over all of its documents; in the metric's unit."""
    squares_C: Floats
    """Sum of the squares of each cell's residuals."""
    residuals_CG: Matrix
    """Each document's share of that level's error; 0 of a document that the cell did not see."""
    round_G: Integers
    """In which round a document is visited, from 0 on."""
    exponential: bool
    """Whether a level is the exponential of the ratio of its sums."""
    sums: tuple[Matrix, Matrix] | None
    """Each cell's sums over each document, (C, G), that levels are ratios of; None where all cells
    have read everything."""

    def documents(self, extents: Integers) -> Integers:
        """Return how many documents there are in so many first rounds, (...)."""
        return np.asarray(np.searchsorted(np.sort(self.round_G), extents), dtype=np.int64)

    def at(self, rows: Integers, extents: Integers) -> tuple[Floats, Floats]:
        """Return cells' levels, (...), and residuals, (..., G), over so many first rounds.

        `rows` (...) are cells that have answered at least `extents` (...) rounds. Over no round
        the level is NaN, but where all cells have read everything the extents are not looked at.
        """
        if self.sums is None:
            return self.level_C[rows], self.residuals_CG[rows]
        rows, extents = np.broadcast_arrays(rows, extents)
        level = np.empty(rows.shape)
        residuals = np.zeros((*rows.shape, len(self.round_G)))
        for extent in np.unique(extents):
            here = np.nonzero(extents == extent)
            seen_G = self.round_G < extent
            # Row by row in memory: a cell's sum is then the same to the last bit whichever
            # cells are asked for beside it, and a cell differs from itself by exactly nothing.
            over, under = (np.compress(seen_G, sums[rows[here]], axis=1) for sums in self.sums)
            level[here], part = _levels(over, under, self.exponential)
            residuals[(*(axis[:, None] for axis in here), np.flatnonzero(seen_G))] = part
        return level, residuals


def measure(
    over: Matrix | Floats,
    under: Matrix | Floats,
    round_G: Integers,
    *,
    alike: bool,
    exponential: bool,
) -> Measure:
    """Return the metric that is Σ over / Σ under; `alike` says that all have read everything.

    Both are (C, G), and are read block by block. Residuals go where these lie: to memory or a file.
    """
    over, under = (x if isinstance(x, Matrix) else Matrix.of(x) for x in (over, under))
    level_C, squares_C = np.empty(over.rows), np.empty(over.rows)
    residuals_CG = Matrix(over.rows, over.columns, filed=over.filed)
    for at in over.blocks():
        level_C[at], block_XG = _levels(over[at], under[at], exponential)
        squares_C[at] = np.square(block_XG).sum(axis=-1)
        residuals_CG.write(int(at[0]), block_XG)
    return Measure(
        level_C=level_C,
        squares_C=squares_C,
        residuals_CG=residuals_CG,
        round_G=round_G,
        exponential=exponential,
        sums=None if alike else (over, under),
    )


def counted(cell_R: Integers, round_R: Integers) -> Integers:
    """Return how many sequences each cell has in each round, (C, K)."""
    shape = int(cell_R.max()) + 1, int(round_R.max()) + 1
    counts_CK = np.bincount(cell_R * shape[1] + round_R, minlength=shape[0] * shape[1])
    return np.asarray(counts_CK, dtype=np.int64).reshape(shape)


def extents(counts_CK: Integers) -> Integers:
    """Return how many first rounds each cell has answered whole, (C,), from its sequences in each.

    A round is whole with as many sequences as any of the cells has there.
    """
    whole_CK = counts_CK == counts_CK.max(axis=0)
    return np.asarray(np.cumprod(whole_CK, axis=1).sum(axis=1), dtype=np.int64)


def layers(round_G: Integers, extents: Integers) -> Integers:
    """Return how many of the distinct extents leave each document out, (G,)."""
    return np.asarray(np.searchsorted(np.unique(extents), round_G, side="right"), dtype=np.int64)


def worth(residuals_G: Floats, layer_G: Integers) -> float:
    """Return how many documents of one layer, alike, would tell as much of a variance as these."""
    if not layer_G.any():
        return float(len(layer_G))
    counts_L = np.bincount(layer_G)
    squares_L = np.bincount(layer_G, np.square(residuals_G))
    with np.errstate(invalid="ignore", divide="ignore"):
        made = squares_L.sum() ** 2 / (squares_L[counts_L > 0] ** 2 / counts_L[counts_L > 0]).sum()
    # Where nothing varies, or a number is missing, nothing is known of the layers.
    return float(np.fmax(made, counts_L[0]))


def _levels(over_XG: Floats, under_XG: Floats, exponential: bool) -> tuple[Floats, Floats]:
    """Return levels, (X,), and residuals, (X, G), of sums over documents."""
    level_X, residuals_XG = ratios(over_XG, under_XG)
    if exponential:
        with np.errstate(over="ignore"):
            level_X = np.exp(level_X)
        level_X = np.where(np.isfinite(level_X), level_X, np.nan)
        residuals_XG = residuals_XG * level_X[:, None]
    return level_X, residuals_XG
