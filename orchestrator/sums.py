"""Sums: what the sequences of a (model, data) add up to, by cell and by document.

Rows of answers come in buckets of whole cells (`orchestrator.buckets`). Of each, three kinds of
numbers are made: totals per cell; how many sequences a cell has in each round; and, for the
metrics that are asked for, a row of sums by document, which goes to a `scratch.Matrix`. After
the last bucket it is known how far every cell was read and which documents count for a metric,
and levels and residuals are made of the rows (`orchestrator.extents`).

Sums run over a cell's rows in the order of documents and sequences, one after the other. So a
number is the same to the last bit however cells were cut into buckets, files and threads.

Memory: per cell its name, 18 totals, two counts, one number per round, and two per metric.

Shapes: R rows of a bucket, C cells of all, B cells of a bucket, G documents, K rounds.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orchestrator import scratch
from orchestrator.extents import Measure, counted, extents, measure
from orchestrator.intervals import Floats

Integers = NDArray[np.int64]

RATIOS: Mapping[str, tuple[str, str]] = {
    "top1": ("top1", "tokens"),
    "top10": ("top10", "tokens"),
    "ce": ("loss", "numbers"),
    "kl": ("kl", "numbers"),
    "top1_rare": ("top1_rare", "tokens_rare"),
    "top1_mask": ("top1_mask", "tokens_mask"),
    "ce_mask": ("loss_mask", "tokens_mask"),
    "perplexity": ("loss", "numbers"),
    "bits_per_byte": ("bits", "bytes"),
    "logit_diff": ("logit_diff", "numbers"),
    "choice": ("choice", "tokens"),
}
"""Per metric: which sum over which."""

_NAMES = tuple(dict.fromkeys(name for pair in RATIOS.values() for name in pair))
_ONLY = {"perplexity": ("causal", "masked"), "bits_per_byte": ("causal",)}
"""Modalities of a metric whose sums others have too, without a meaning."""


class DifferingRoundsError(ValueError):
    """A document was visited in different rounds."""


class Sums:
    """The sums of one (model, data), taken in bucket by bucket."""

    def __init__(
        self,
        owner: Mapping[str, str],
        cells: Sequence[str],
        places_G: Integers,
        metrics: Sequence[str],
        *,
        filed: bool,
    ) -> None:
        """Have added up nothing yet.

        `owner` names model, data and modality, `cells` all that have an answer, `places_G` is the
        place of each document; `filed` says whether sums by document go to a file.
        """
        self.model, self.data, self.cells = owner["model"], owner["data"], list(cells)
        modality = owner["modality"]
        self._metrics = [m for m in metrics if modality in _ONLY.get(m, (modality,))]
        self._places_G = places_G
        self._round_G = np.full(len(places_G), -1, dtype=np.int64)
        self._moved_G = np.zeros(len(places_G), dtype=bool)
        self._done = 0
        self._counts: list[Integers] = []
        self._known = dict.fromkeys(_NAMES, False)
        self.seen_C = np.zeros(len(cells), dtype=np.int64)
        self.totals = {name: np.empty(len(cells)) for name in _NAMES}
        shape = len(cells), len(places_G)
        wanted = {name for m in self._metrics for name in RATIOS[m]}
        self._sums_CG = {name: scratch.Matrix(*shape, filed=filed) for name in sorted(wanted)}
        self._some_G = {name: np.zeros(shape[1], dtype=bool) for name in ("tokens", *_NAMES)}

    def add(self, rows: pl.DataFrame) -> None:
        """Take in the rows of the next cells.

        They are sorted by number (of the cell), place (of the document) and sequence, and have
        columns number, place, bytes and those of `results` that are numbers.
        """
        cell_R = rows["number"].rle_id().to_numpy().astype(np.int64)
        document_R = np.searchsorted(self._places_G, rows["place"].to_numpy())
        round_R = rows["round"].to_numpy().astype(np.int64)
        counts_BK = counted(cell_R, round_R)
        self._counts.append(counts_BK.astype(np.int32))
        self._visit(document_R, round_R)
        cells = len(counts_BK)
        here = slice(self._done, self._done + cells)
        tokens_R = _column(rows, "tokens")
        for name in _NAMES:
            values_R = tokens_R if name == "tokens" else _made(rows, name)
            self._known[name] |= not np.isnan(values_R).all()
            # In the order of the rows, one after the other: the same on any number of threads.
            self.totals[name][here] = np.bincount(cell_R, values_R, cells)
            if name == "tokens" or name in self._sums_CG:
                self._by_document(name, cell_R, document_R, values_R)
        self._done += cells

    def _by_document(
        self, name: str, cell_R: Integers, document_R: Integers, values_R: Floats
    ) -> None:
        """Write the sums by document of a column of the next cells, some cells at a time."""
        documents, cells = len(self._places_G), int(cell_R[-1]) + 1
        size = max(1, scratch.BLOCK // documents)
        starts = list(range(0, cells, size))
        ends_R = np.searchsorted(cell_R, [*starts, cells]).tolist()
        for start, first, last in zip(starts, ends_R[:-1], ends_R[1:], strict=True):
            some = min(size, cells - start)
            at_R = (cell_R[first:last] - start) * documents + document_R[first:last]
            sums = np.bincount(at_R, values_R[first:last], some * documents)
            sums_BG = np.asarray(sums, dtype=np.float64).reshape(some, documents)
            self._some_G[name] |= sums_BG.any(axis=0)
            begin = self._done + start
            if name == "tokens":
                self.seen_C[begin : begin + some] = (sums_BG > 0).sum(axis=1)
            if name in self._sums_CG:
                self._sums_CG[name].write(begin, sums_BG)

    def _visit(self, document_R: Integers, round_R: Integers) -> None:
        fresh_R = self._round_G[document_R] < 0
        self._round_G[document_R[fresh_R]] = round_R[fresh_R]
        self._moved_G[document_R[self._round_G[document_R] != round_R]] = True

    def extents(self) -> Integers:
        """Return how many first rounds each cell has answered whole, (C,).

        Raises DifferingRoundsError.
        """
        moved = int(self._moved_G.sum())
        if moved:
            raise DifferingRoundsError(
                f"{moved} documents of {self.model} on {self.data} are in one round in some rows of"
                " `results` and in another in others, expected the same in all: these are answers"
                " of sweeps that visit documents in different orders; delete the parts that are not"
                " of this one and run it again"
            )
        rounds = max(counts_BK.shape[1] for counts_BK in self._counts)
        widened = [np.pad(x, ((0, 0), (0, rounds - x.shape[1]))) for x in self._counts]
        return extents(np.concatenate(widened))

    def measures(self, extent_C: Integers) -> dict[str, Measure]:
        """Return the metrics that apply and of which anything is known."""
        alike = bool(np.isin(extent_C, (0, int(self._round_G.max()) + 1)).all())
        found = {}
        for metric in self._metrics:
            over, under = RATIOS[metric]
            if self._known[over] and self._known[under]:
                some_G = self._some_G["tokens" if under == "numbers" else under]
                found[metric] = measure(
                    self._sums_CG[over].choose(some_G),
                    self._sums_CG[under].choose(some_G),
                    self._round_G[some_G],
                    alike=alike,
                    exponential=metric == "perplexity",
                )
        return found


def _column(rows: pl.DataFrame, name: str) -> Floats:
    return rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _made(rows: pl.DataFrame, name: str) -> Floats:
    """Return a column that `RATIOS` names; NaN where it is not known."""
    if name == "numbers":
        return _column(rows, "tokens") - _column(rows, "nan")
    if name not in ("bits", "loss_mask"):
        return _column(rows, name)
    # Which tokens have no loss is not kept, so of a part of the tokens nothing is known.
    values_R = _column(rows, "loss") / math.log(2) if name == "bits" else _column(rows, name)
    return np.where(_column(rows, "nan") > 0, np.nan, values_R)
