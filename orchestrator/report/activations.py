"""Activations: which neurons a figure shows, and their densities from the stored histograms.

Three neurons stand for a panel, each the extreme of something that makes a
choice of centre matter, and never the same one twice:

    apart     mean and peak furthest apart, in the neuron's s.d.
    bimodal   the most of a second hump: its weight times its distance from the
              first, in s.d.
    tailed    the highest kurtosis

The extreme of many noisy numbers is partly noise, so these neurons show what
there is at most, not what is typical; the layer average beside them is typical.
It needs an axis that all neurons share: each is standardised by its own mean
and s.d. first, or the narrow ones would be a spike and the wide ones nothing.

Histograms are read a layer at a time, so a wide model needs no more memory than
one of its layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orchestrator.labels import OWN
from orchestrator.report.words import method_name, percent
from orchestrator.store import PARQUET, Store

NEURON = ("layer", "neuron")
GELU_MINIMUM, NEAR = -0.17, 0.01
"""The least that a GELU gives, and how near a peak is called at it; units of the activations."""
_GRID = np.linspace(-4, 4, 161)
"""Edges of the layer average's bins, in s.d. from the neuron's mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Density:
    """A density as steps, and the constants marked on it."""

    title: str
    reason: str
    edges: NDArray[np.float64]
    """(B + 1,) in units of the activations."""
    heights: NDArray[np.float64]
    """(B,) per unit of the activations."""
    marks: Mapping[str, float]
    """Constant per method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Average:
    """The average density of each layer's neurons, standardised, and where the constants lie."""

    heights: Sequence[NDArray[np.float64]]
    """Per layer, (160,) per s.d."""
    edges: NDArray[np.float64]
    """(161,) in s.d. from the mean."""
    marks: Mapping[str, tuple[float, float, float]]
    """Lower quartile, median and upper quartile over neurons, per method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What collection says of the neurons of a model's site, in shares of them."""

    model: str
    site: str
    neurons: int
    wide: float
    """Bin wider than a quarter of the neuron's s.d."""
    outside: float
    """More than 1 % of the activations outside the counted window."""
    two_modes: float
    """A second mode with at least a tenth of the weight."""
    apart: float
    """Mean and peak further than half an s.d. apart."""
    zeros: float
    """Of all activations: exactly 0."""
    peak_zero: float
    """Peak exactly 0."""
    at_minimum: float
    """Peak within `NEAR` of the minimum of a GELU, where the density diverges."""


class Activations:
    """The statistics and centres of one (model, site), in the checkpoint's own axes.

    They may come from another source than the one that is evaluated, and of several: `prefer`
    names those to take if they are there, the first first.
    """

    def __init__(
        self, run: Path | Store, model: str, site: str, prefer: Sequence[str] = ()
    ) -> None:
        store = Store.of(run)
        self.model, self.site = model, site
        collected = {"model": model, "site": site, "basis": OWN}
        self._statistics = _of_one(_scan(store, "statistics", collected), prefer)
        self._centres = _of_one(_scan(store, "centres", collected), prefer)

    @property
    def collected(self) -> bool:
        """Whether there are statistics."""
        return self._statistics is not None and bool(self._scalars().height)

    def _rows(self) -> pl.LazyFrame:
        assert self._statistics is not None
        rows = self._statistics.filter(pl.col("cell").is_null())
        return rows.filter(pl.col("stratum") == "all")

    def _scalars(self) -> pl.DataFrame:
        return (
            self._rows()
            .select(
                *NEURON,
                *("count", "below", "above", "mean", "std", "peak", "kurtosis"),
                *("zeros", "bin_width", "mode_values", "mode_weights"),
            )
            .sort(NEURON)
            .collect()
        )

    def counted(self) -> Counted:
        """Return shares of neurons that a reader should know of."""
        rows = self._scalars()
        second = pl.col("mode_weights").list.sort(descending=True).list.get(1, null_on_oob=True)
        shares = rows.select(
            wide=(pl.col("bin_width") > 0.25 * pl.col("std")).mean(),
            outside=((pl.col("below") + pl.col("above")) > 0.01 * pl.col("count")).mean(),
            two_modes=(second.fill_null(0) >= 0.1).mean(),
            apart=((pl.col("mean") - pl.col("peak")).abs() > 0.5 * pl.col("std")).mean(),
            zeros=pl.col("zeros").sum() / pl.col("count").sum(),
            peak_zero=(pl.col("peak") == 0).mean(),
            at_minimum=((pl.col("peak") - GELU_MINIMUM).abs() <= NEAR).mean(),
        ).row(0, named=True)
        return Counted(
            model=self.model,
            site=self.site,
            neurons=rows.height,
            **{k: v or 0.0 for k, v in shares.items()},
        )

    def interesting(self) -> list[Density]:
        """Return the densities of up to three neurons, each extreme in its own way."""
        # A neuron that is mostly an atom, as after a ReLU, has no density worth showing.
        alive = pl.col("zeros") <= 0.5 * pl.col("count")
        rows = self._scalars().filter(pl.col("std") > 0, pl.col("count") > 0, alive)
        if not rows.height:
            return []
        rows = rows.with_columns(
            apart=((pl.col("mean") - pl.col("peak")).abs() / pl.col("std")).fill_null(0),
            bimodal=pl.struct("mode_values", "mode_weights", "std").map_elements(
                _bimodality, return_dtype=pl.Float64
            ),
        )
        chosen: list[Density] = []
        taken: set[tuple[int, int]] = set()
        for column, reason in (
            ("apart", "mean and peak {value:.1f} s.d. apart"),
            ("bimodal", "two humps {humps:.1f} s.d. apart"),
            ("kurtosis", "excess kurtosis {value:.1f}"),
        ):
            for row in rows.sort(column, *NEURON, descending=[True, False, False]).to_dicts():
                place = (row["layer"], row["neuron"])
                if place in taken or not row[column]:
                    continue
                taken.add(place)
                said = reason.format(value=row[column], humps=_humps_apart(row))
                chosen.append(self._density(*place, reason=said.replace("-", "−")))
                break
        return chosen

    def _density(self, layer: int, neuron: int, *, reason: str) -> Density:
        (row,) = (
            self._rows()
            .filter(pl.col("layer") == layer, pl.col("neuron") == neuron)
            .select("counts", "bin_width", "bin_start", "std", "zeros", "below", "above")
            .collect()
            .to_dicts()
        )
        counts_B, width = np.asarray(row["counts"], dtype=np.float64), row["bin_width"]
        while (
            width < row["std"] / 16 and counts_B.size > 32
        ):  # finer than an eye or the data can use
            counts_B, width = counts_B.reshape(-1, 2).sum(axis=1), 2 * width
        edges = row["bin_start"] + width * np.arange(counts_B.size + 1)
        share = np.cumsum(counts_B) / max(counts_B.sum(), 1)
        first, last = np.searchsorted(share, [0.001, 0.999])
        keep = slice(max(int(first) - 1, 0), int(last) + 2)
        finite = counts_B.sum() + row["zeros"] + row["below"] + row["above"]
        heights_B = counts_B[keep] / (max(finite, 1) * width)
        if row["zeros"] > 0.01 * finite:  # an atom has no density, so it isn't in the bins
            short = reason.replace("mean and peak", "mean–peak").replace(" apart", "")
            reason = f"{short}, {percent(row['zeros'] / finite)} are 0"
        return Density(
            title=f"layer {layer} · neuron {neuron}",
            reason=reason,
            edges=edges[keep.start : keep.start + heights_B.size + 1],
            heights=heights_B,
            marks=self._marks(layer, neuron),
        )

    def _constants(self) -> pl.LazyFrame | None:
        if self._centres is None:
            return None
        return self._centres.filter(pl.col("cell").is_null(), pl.col("stratum") == "all")

    def _marks(self, layer: int, neuron: int) -> dict[str, float]:
        constants = self._constants()
        if constants is None:
            return {}
        rows = constants.filter(pl.col("layer") == layer, pl.col("neuron") == neuron)
        found = rows.select("method", "parameters", "value").collect().rows()
        return {method_name(method, parameters): value for method, parameters, value in found}

    def average(self) -> Average:
        """Return each layer's average density over standardised neurons."""
        layers = self._scalars()["layer"].unique().sort().to_list()
        return Average(
            heights=[self._layer(layer) for layer in layers],
            edges=_GRID,
            marks=self._quartiles(),
        )

    def _layer(self, layer: int) -> NDArray[np.float64]:
        rows = (
            self._rows()
            .filter(pl.col("layer") == layer, pl.col("std") > 0)
            .select("counts", "bin_width", "bin_start", "mean", "std")
            .collect()
        )
        total = np.zeros(_GRID.size - 1)
        for row in rows.iter_rows(named=True):
            counts_B = np.asarray(row["counts"], dtype=np.float64)
            edges = row["bin_start"] + row["bin_width"] * np.arange(counts_B.size + 1)
            cumulated = np.concatenate([[0], np.cumsum(counts_B)]) / max(counts_B.sum(), 1)
            # A bin's count is spread evenly over it, so that any grid may be laid over the bins.
            total += np.diff(np.interp(_GRID, (edges - row["mean"]) / row["std"], cumulated))
        return total / max(rows.height, 1) / np.diff(_GRID)

    def _quartiles(self) -> dict[str, tuple[float, float, float]]:
        constants = self._constants()
        if constants is None:
            return {}
        moments = self._scalars().filter(pl.col("std") > 0).select(*NEURON, "mean", "std")
        places = (
            constants.collect()
            .join(moments, on=NEURON)
            .with_columns(place=(pl.col("value") - pl.col("mean")) / pl.col("std"))
            .group_by("method", "parameters", maintain_order=True)
            .agg(*(pl.col("place").quantile(q, "linear").alias(str(q)) for q in (0.25, 0.5, 0.75)))
        )
        return {method_name(m, p): (low, middle, high) for m, p, low, middle, high in places.rows()}


def _scan(store: Store, kind: str, where: Mapping[str, str]) -> pl.LazyFrame | None:
    files = store.paths(store.files(kind, PARQUET))
    if not files:
        return None
    own = [pl.col(key) == value for key, value in where.items()]
    return pl.scan_parquet(files, glob=False).filter(*own)


def _of_one(rows: pl.LazyFrame | None, prefer: Sequence[str]) -> pl.LazyFrame | None:
    """Return the rows of one source: the first preferred one that is there, or the first."""
    if rows is None:
        return None
    there = rows.select("data").unique(maintain_order=True).collect()["data"].to_list()
    if len(there) < 2:
        return rows
    return rows.filter(pl.col("data") == next((d for d in prefer if d in there), there[0]))


def _two_modes(row: Mapping[str, object]) -> list[tuple[float, float]]:
    """Return (weight, value) of a neuron's two heaviest modes, or fewer."""
    weights, values = row["mode_weights"], row["mode_values"]
    if not isinstance(weights, list) or not isinstance(values, list):
        return []
    return sorted(zip(weights, values, strict=True), reverse=True)[:2]


def _humps_apart(row: Mapping[str, object]) -> float:
    modes = _two_modes(row)
    return abs(modes[0][1] - modes[1][1]) / float(str(row["std"])) if len(modes) == 2 else 0.0


def _bimodality(row: Mapping[str, object]) -> float:
    modes = _two_modes(row)
    return modes[1][0] * _humps_apart(row) if len(modes) == 2 else 0.0
