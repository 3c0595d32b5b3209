"""Carried: which neurons a page carries, their numbers, and their histograms made small.

A collection is a model's site on its data, in some axes and stratum. A page can't carry a large
one: 70 billion parameters are millions of neurons. Where not all fit, each layer gives its most
extreme neurons by the three headings that a reader looks for extremes by (mean and peak apart,
modes, kurtosis), and an evenly spaced sample of its others. So the first rows by these headings
are the layer's own, while everything else is a sample.

A histogram is cut where few values lie beyond (`CUT`), joined to at most `BINS` bins and kept as
heights in 255ths of the tallest: to be looked at, not computed with. Its edges are exact. Numbers
have four significant digits, or as many as a thousandth of the neuron's s.d. needs.

Layers are read one by one, so memory is that of one layer.

Shapes: B bins of a stored histogram, D of a drawn one.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from orchestrator.frames import frames
from orchestrator.labels import OWN
from orchestrator.report.activations import Activations
from orchestrator.report.settings import words
from orchestrator.report.words import method_name
from orchestrator.store import Store

BINS = 96
"""Bins of a drawn histogram at most."""
CUT = 0.0005
"""Share of the values beyond either end of a drawn histogram, at most."""
SCALES = {"peak_05": "peak, h = 0.05", "peak_10": "peak, h = 0.1", "peak_20": "peak, h = 0.2"}
"""The peaks at fixed scales, and what their marks are called."""

HEADED = "attn_pre_out"
"""The site whose neurons are heads'; a head of another means nothing."""

_COLLECTION = ("model", "data", "dtype", "basis", "site", "stratum")
_PLACED = ("mean", "peak", "peak_low", "peak_high", *SCALES)
_OTHERS = ("std", "kurtosis", "peak_stable", "count", "zeros", "below", "above", "mode_weights")
_KEYS = ("apart", "modes", "kurtosis")


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One set of neurons to choose from."""

    group: str
    """The model and site, as the page calls them."""
    part: str
    """What tells it from the group's other collections; empty if there are none."""
    where: Mapping[str, str]
    """The columns that name it in the tables."""
    sizes: Mapping[int, int]
    """Neurons per layer."""

    @property
    def neurons(self) -> int:
        """Neurons of all layers."""
        return sum(self.sizes.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """What a page carries of a collection, column by column."""

    group: str
    part: str
    whole: int
    """Neurons that the collection has."""
    columns: Mapping[str, Sequence[object]]
    """A value per neuron."""
    centres: Mapping[str, float | Sequence[float | None] | None]
    """What neurons are held at, by method; one value where it is the same for all."""


def collections(store: Store, collected: Mapping[str, Activations]) -> list[list[Collection]]:
    """Return the collections of each model and site; own axes and all strata come first."""
    rows = (
        frames(store)["statistics"]
        .filter(pl.col("cell").is_null())
        .group_by(*_COLLECTION, "layer")
        .agg(size=pl.len())
        .sort(*_COLLECTION, "layer")
        .collect()
    )
    kinds = rows.select(_COLLECTION).unique(maintain_order=True)
    kinds = kinds.sort(pl.col("basis") != OWN, pl.col("stratum") != "all", maintain_order=True)
    found = []
    for group, activations in collected.items():
        own = kinds.filter(model=activations.model, site=activations.site)
        vary = [c for c in _COLLECTION if own[c].n_unique() > 1]
        found.append(
            [
                Collection(
                    group=group,
                    part=" · ".join(_word(column, where[column]) for column in vary),
                    where=where,
                    sizes=dict(rows.filter(**where).select("layer", "size").rows()),
                )
                for where in own.to_dicts()
            ]
        )
    return [group for group in found if group]


def _word(column: str, value: str) -> str:
    if column == "stratum":
        return "all positions" if value == "all" else value
    return words(column, value)


def shares(sizes: Sequence[int], most: int) -> list[int]:
    """Return how many of each are taken, `most` in all: as evenly as their sizes let."""
    given = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    for turn, i in enumerate(order):
        given[i] = min(sizes[i], (most - sum(given)) // (len(order) - turn))
    return given


def carry(store: Store, collection: Collection, most: int) -> Carried:
    """Return numbers, histograms and constants of at most `most` (1 or more) neurons."""
    tables = frames(store)
    named = [pl.col(name) == value for name, value in collection.where.items()]
    rows = tables["statistics"].filter(pl.col("cell").is_null(), *named)
    of = [pl.col(c) == collection.where[c] for c in ("model", "data", "basis", "site")]
    stratum = collection.where["stratum"]
    constants = tables["centres"].filter(
        pl.col("cell").is_null(), pl.col("stratum").is_in([stratum, "all"]), *of
    )
    parts, held = [], []
    quotas = shares(list(collection.sizes.values()), most)
    for layer, quota in zip(collection.sizes, quotas, strict=True):
        if quota:
            here = pl.col("layer") == layer
            parts.append(_layer(rows.filter(here), quota))
            taken = pl.col("neuron").is_in(parts[-1]["neuron"].to_list())
            held.append(_marks(constants.filter(here, taken).collect(), stratum))
    found = pl.concat(parts)
    marks = pl.concat(held)
    places = [_places(std) for std in found["std"]]
    columns: dict[str, Sequence[object]] = {
        c: found[c].to_list() for c in ("layer", "head", "neuron")
    }
    if collection.where["site"] != HEADED:
        columns["head"] = [None] * found.height
    columns |= {c: _rounded(found[c], places) for c in _PLACED}
    columns |= {
        c: [_short(value) for value in found[c]]
        for c in ("std", "apart", "second", "kurtosis", "zero_share", "outside")
    }
    columns |= {
        "modes": found["modes"].to_list(),
        "stable": [None if value is None else int(value) for value in found["peak_stable"]],
        "bins": found["bins"].to_list(),
    }
    centres: dict[str, float | Sequence[float | None] | None] = {}
    neurons = found.select("layer", "neuron")
    for mark in marks["mark"].unique(maintain_order=True):
        own = marks.filter(mark=mark)
        one = neurons.join(own, on=["layer", "neuron"], how="left", maintain_order="left")
        values = _rounded(one["value"], places)
        centres[mark] = values[0] if len(set(values)) == 1 else values
    return Carried(
        group=collection.group,
        part=collection.part,
        whole=collection.neurons,
        columns=columns,
        centres=centres,
    )


def _marks(centres: pl.DataFrame, stratum: str) -> pl.DataFrame:
    """Return what neurons are held at by methods' full names: in this stratum, or else in all."""
    kinds = centres.select("method", "parameters").unique(maintain_order=True)
    names = [method_name(*kind) for kind in kinds.rows()]
    named = centres.join(
        kinds.with_columns(mark=pl.Series(names, dtype=pl.String)),
        on=["method", "parameters"],
        maintain_order="left",
    )
    own_first = named.sort(pl.col("stratum") != stratum, maintain_order=True)
    once = own_first.unique(["layer", "neuron", "mark"], keep="first", maintain_order=True)
    return once.select("layer", "neuron", "mark", "value")


def _layer(rows: pl.LazyFrame, quota: int) -> pl.DataFrame:
    """Return `quota` neurons of a layer in the order of their numbers, with their histograms."""
    whole, weights = pl.col("count").cast(pl.Float64), pl.col("mode_weights")
    layer = (
        rows.select("layer", "head", "neuron", *_PLACED, *_OTHERS)
        .with_columns(
            apart=pl.when(pl.col("std") > 0).then(
                (pl.col("mean") - pl.col("peak")).abs() / pl.col("std")
            ),
            modes=weights.list.len(),
            second=weights.list.sort(descending=True).list.get(1, null_on_oob=True).fill_null(0),
            zero_share=pl.col("zeros") / whole,
            outside=(pl.col("below") + pl.col("above")) / whole,
        )
        .drop("mode_weights")
        .sort("neuron")
        .collect()
    )
    if quota < layer.height:
        layer = layer[chosen(layer, quota)]
    taken = rows.filter(pl.col("neuron").is_in(layer["neuron"].to_list()))
    counts = taken.select("neuron", "bin_start", "bin_width", "counts").collect()
    bins = {neuron: histogram(*row) for neuron, *row in counts.iter_rows()}
    return layer.with_columns(
        pl.Series("bins", [bins[neuron] for neuron in layer["neuron"]], dtype=pl.String)
    )


def chosen(layer: pl.DataFrame, quota: int) -> list[int]:
    """Return the places of `quota` of a layer's rows: extremes by each key and a sample.

    Half of them are extremes, a third of these by each key; the sample is evenly spaced.
    Equal ones are settled by the share of the second mode, then by the neuron's number.
    """
    places = (
        layer.select("neuron", "second", *_KEYS)
        .with_columns(pl.col(c).fill_nan(None) for c in ("apart", "kurtosis"))
        .with_row_index("place")
    )
    taken: set[int] = set()
    for key in _KEYS:
        order = places.sort(
            key, "second", "neuron", descending=[True, True, False], nulls_last=True
        )
        taken.update(order["place"].head(quota // 6).to_list())
    others = [place for place in range(layer.height) if place not in taken]
    left = quota - len(taken)
    taken.update(others[i * len(others) // left] for i in range(left))
    return sorted(taken)


def histogram(start: float, width: float, counts: Sequence[int]) -> str:
    """Return a histogram as `exponent first joined heights`, or nothing if it is empty.

    Bin i of the drawn ones goes from (first + i·joined)·2^exponent on, and is `joined` bins of the
    stored ones wide; the heights are bytes in base64, 255 for the tallest. Stored bins have widths
    2^exponent and edges at integer multiples of it, so edges stay exact.
    """
    counts_B = np.asarray(counts, dtype=np.int64)
    total = int(counts_B.sum())
    if not total or not width or not math.isfinite(width):
        return ""
    below_B = np.cumsum(counts_B)
    first = int(np.searchsorted(below_B, CUT * total, side="right"))
    last = int(np.searchsorted(below_B, total - CUT * total))
    joined = -(-(last + 1 - first) // BINS)
    kept_B = counts_B[first : last + 1]
    kept_B = np.pad(kept_B, (0, -kept_B.size % joined))
    heights_D = kept_B.reshape(-1, joined).sum(axis=1)
    bytes_D = np.rint(255 * heights_D / heights_D.max()).astype(np.uint8)
    place = round(start / width) + first
    text = base64.b64encode(bytes_D.tobytes()).decode()
    return f"{round(math.log2(width))} {place} {joined} {text}"


def _places(std: float | None) -> int:
    """Return the decimals that a place on a neuron's axis needs: a thousandth of its s.d."""
    return 3 - math.floor(math.log10(std)) if std and math.isfinite(std) else 0


def _rounded(values: pl.Series, places: Sequence[int]) -> list[float | None]:
    """Return places on neurons' axes with four significant digits, or the decimals asked for."""
    return [
        None if v is None or not math.isfinite(v) else round(v, max(p, _significant(v)))
        for v, p in zip(values, places, strict=True)
    ]


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return round(value, _significant(value))


def _significant(value: float) -> int:
    """Return the decimals that show four significant digits."""
    return 3 - math.floor(math.log10(abs(value))) if value else 0
