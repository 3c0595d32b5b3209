"""What held neurons are set to in a finished run, one sequence at a time, from public tables alone.

As `tests.brute_force` it uses no code of ours; formulas are those that the pages state.

Numbers that look random have an address (seed, purpose, layer, site, sequence, position,
neuron) and are a hash of it: from 0, each part p begins a stream below the state so far,
mix(state + (p + 1) · G), where G is 2^64 over the golden ratio and mix is SplitMix64's
(Steele, Lea & Flood 2014). The upper 52 bits, and a half, over 2^52 are uniform in (0, 1).

Shapes: T positions of one sequence, N neurons of one layer at one site, K of them held,
B bins, M modes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import brute_force as plainly
from tests.brute_force import Fed, Plain, Put, Puts, Row, Tables
from tests.brute_force_held import Units

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
DONOR, NOISE, MARGINAL = 0, 1, 2
SITES = ("attn_pre_out", "mlp_mid")
MADE = {"causal": "random_tokens", "masked": "random_tokens", "image": "random_pixels"}
Value = Callable[[int, Units, Tensor], Tensor]
"""Takes a layer, its held neurons (K,) and its activations (T, N); returns (T, K) or (K,)."""


def mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's mixing of 64-bit numbers; they wrap around."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def uniform(address: Sequence[int], positions: int, neurons: int) -> NDArray[np.float64]:
    """Return uniform numbers (T, N); the address is seed, purpose, layer, site and sequence."""

    def below(state: NDArray[np.uint64], part: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return mixed(state + (part + np.uint64(1)) * np.uint64(_GOLDEN))

    state = np.zeros(1, np.uint64)
    for part in address:
        state = below(state, np.array([part], np.uint64))
    state_T1 = below(state, np.arange(positions, dtype=np.uint64))[:, None]
    hash_TN = below(state_T1, np.arange(neurons, dtype=np.uint64))
    return ((hash_TN >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


@dataclass(frozen=True)
class Donors:
    """One table of donors."""

    rows: list[Row]

    @cached_property
    def draws(self) -> int:
        """Donors of every sequence."""
        return 1 + max(r["draw"] for r in self.rows)

    @cached_property
    def published(self) -> bool:
        """Whether one row of the donor is given to all positions."""
        return any(r["row"] is not None for r in self.rows)

    @cached_property
    def shared(self) -> bool:
        """Whether all that receive have one donor."""
        longest = max((r["input"] or [] for r in self.rows), key=len)
        made = all((r["input"] or []) == longest[: len(r["input"] or [])] for r in self.rows)
        taken = {r["donor"] for r in self.rows}
        return len(taken) == 1 and (taken != {None} or made) and len(self.rows) > 1


@cache
def tables_of_donors(tables: Tables) -> list[Donors]:
    """Return the tables of donors of a model, file by file."""
    read = [pl.read_parquet(f) for f in sorted((tables.run / "donors").rglob("*.parquet"))]
    found = [t.filter(pl.col("model") == tables.model) for t in read]
    return [Donors(t.to_dicts()) for t in found if t.height]


@dataclass(frozen=True)
class Values:
    """What the cells of a model are given."""

    tables: Tables
    plain: Plain
    _given: dict[tuple[object, ...], list[Tensor]] = field(default_factory=dict)
    """Activations on donors, kept for the other cells."""

    def puts(self, cell: Row, row: Row, held: Mapping[str, Sequence[Units]]) -> Puts:
        """Return what is put in for one evaluated sequence, by site and layer."""
        parameters = json.loads(cell["parameters"])
        share = parameters.pop("alpha", 1.0)
        return {
            site: [
                _putting(layer, neurons_K, self._value(cell, parameters, row, site), share)
                for layer, neurons_K in enumerate(of_layers)
            ]
            for site, of_layers in held.items()
        }

    def _value(self, cell: Row, parameters: Mapping[str, object], row: Row, site: str) -> Value:
        number, where = row["sequence"], {"site": site, "basis": cell["basis"]}
        match cell["method"]:
            case "resample":
                return self._donated(cell, parameters, row, site)
            case "noise":
                return self._noise(cell["noise_seed"], number, where)
            case "marginal":
                return self._marginal(cell["noise_seed"], number, where)
            case "nearest_peak":
                return self._nearest_peak(where)
            case "clipped":
                return self._clipped(float(str(parameters.get("width", 2.0))), where)
        constant = self.constants(cell, site)
        return lambda layer, neurons_K, _: constant[layer][neurons_K]

    def constants(self, cell: Row, site: str) -> list[Tensor]:
        """Return what a cell holds neurons at, (N,) per layer: learned for it, or for all."""
        parameters = json.loads(cell["parameters"])
        parameters.pop("alpha", None)
        said = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
        own = self.tables.frame("centres").filter(pl.col("cell") == cell["cell"]).height
        of = cell["cell"] if own else None
        where = {"site": site, "basis": cell["basis"]}
        return self.tables.centres(cell["method"], said, cell=of, **where)

    def _column(self, name: str, where: Mapping[str, str], layer: int) -> NDArray[np.float64]:
        table = self.tables.stratum("all", **where)
        return np.array(table.filter(pl.col("layer") == layer)[name])

    def _noise(self, seed: int, number: int, where: Mapping[str, str]) -> Value:
        def value(layer: int, neurons_K: Units, x_TN: Tensor) -> Tensor:
            mean_N, std_N = (self._column(c, where, layer) for c in ("mean", "std"))
            address = (seed, NOISE, layer, SITES.index(where["site"]), number)
            normal_TN = torch.special.ndtri(torch.from_numpy(uniform(address, *x_TN.shape)))
            drawn_TN = torch.from_numpy(mean_N) + torch.from_numpy(std_N) * normal_TN
            return drawn_TN[:, neurons_K]

        return value

    def _marginal(self, seed: int, number: int, where: Mapping[str, str]) -> Value:
        def value(layer: int, neurons_K: Units, x_TN: Tensor) -> Tensor:
            table = self.tables.stratum("all", **where).filter(pl.col("layer") == layer)
            address = (seed, MARGINAL, layer, SITES.index(where["site"]), number)
            uniform_TN = uniform(address, *x_TN.shape)
            drawn = [
                _from_histogram(uniform_TN[:, n], table.row(int(n), named=True)) for n in neurons_K
            ]
            return torch.from_numpy(np.stack(drawn, axis=1))

        return value

    def _nearest_peak(self, where: Mapping[str, str]) -> Value:
        def value(layer: int, neurons_K: Units, x_TN: Tensor) -> Tensor:
            modes_N = self._column("mode_values", where, layer)
            taken = []
            for n in neurons_K:
                # Of two equally near, the one nearer to zero, then the lower: so sorted.
                modes_M = np.array(sorted(modes_N[n], key=lambda m: (abs(m), m)))
                far_TM = np.abs(x_TN[:, n].double().numpy()[:, None] - modes_M)
                taken.append(modes_M[far_TM.argmin(axis=1)])
            return torch.from_numpy(np.stack(taken, axis=1))

        return value

    def _clipped(self, width: float, where: Mapping[str, str]) -> Value:
        def value(layer: int, neurons_K: Units, x_TN: Tensor) -> Tensor:
            mean_N, std_N = (self._column(c, where, layer) for c in ("mean", "std"))
            low_N, high_N = mean_N - width * std_N, mean_N + width * std_N
            clipped_TN = np.minimum(np.maximum(x_TN.double().numpy(), low_N), high_N)
            return torch.from_numpy(clipped_TN[:, neurons_K])

        return value

    def donors(self, cell: Row) -> Donors:
        """Return the one table of donors that a cell's method can mean."""
        parameters = json.loads(cell["parameters"])
        source = parameters["source"]
        source = MADE[cell["modality"]] if source == "random" else source
        published = "behaviour" in parameters
        fits = [
            d
            for d in tables_of_donors(self.tables)
            if {r["source"] for r in d.rows} == {source}
            and {r["seed"] for r in d.rows} == {cell["donor_seed"]}
            and (d.draws > 1) == ("drawn" in parameters)
            and d.published == published
            and (d.shared or published) == ("donor" in parameters or published)
        ]
        assert len(fits) == 1, (cell["parameters"], len(fits))
        return fits[0]

    def fed_instead(self, donor: Row, shape: Sequence[int]) -> Fed:
        """Return what a donor is fed."""
        if donor["input"] is None:
            return plainly.fed(self.tables.sequences[donor["donor"]])
        made = np.array(donor["input"])
        return made.reshape(shape) if len(shape) > 1 else made

    def _recorded(self, donor: Row, shape: Sequence[int], site: str) -> list[Tensor]:
        fed = self.fed_instead(donor, shape)
        key = (site, fed.shape, fed.tobytes())
        if key not in self._given:
            self._given[key] = plainly.activations(self.plain, fed, site)
        return self._given[key]

    def _donated(self, cell: Row, parameters: Mapping[str, object], row: Row, site: str) -> Value:
        donors = self.donors(cell)
        own = sorted((r for r in donors.rows if r["sequence"] == row["sequence"]), key=_draw)
        shape = plainly.fed(row).shape
        given = [self._recorded(r, shape, site) for r in own]
        drawn = parameters.get("drawn", "joint")
        seed, number = cell["donor_seed"], row["sequence"]

        def value(layer: int, neurons_K: Units, x_TN: Tensor) -> Tensor:
            passes = [of_layers[layer] for of_layers in given]
            if donors.published:
                at = own[0]["row"]
                one_N = torch.zeros(x_TN.shape[1]) if at < 0 else passes[0][at]
                return one_N[neurons_K]
            if drawn == "joint":
                return passes[0][: len(x_TN), neurons_K]
            size = x_TN.shape[1] // self.plain.heads
            units = {"per_layer": 1, "per_head": self.plain.heads, "per_neuron": x_TN.shape[1]}
            # The sites of a layer agree on a donor of all of it.
            place = 0 if drawn == "per_layer" else SITES.index(site)
            uniform_U = uniform((seed, DONOR, layer, place, number), 1, units[str(drawn)])[0]
            unit_of = {"per_layer": lambda n: 0, "per_head": lambda n: n // size}
            which = [
                int(uniform_U[unit_of.get(str(drawn), int)(n)] * len(passes)) for n in neurons_K
            ]
            taken = [passes[k][: len(x_TN), n] for k, n in zip(which, neurons_K, strict=True)]
            return torch.stack(taken, dim=1)

        return value


def _draw(row: Row) -> int:
    return int(row["draw"])


def _from_histogram(uniform_T: NDArray[np.float64], row: Row) -> NDArray[np.float64]:
    """Return draws: 0 with the share of exact zeros, else evenly inside a bin, with its share."""
    counts_B = np.array([row["zeros"], *row["counts"]], np.int64)
    reached_B = np.cumsum(counts_B) / counts_B.sum()
    drawn = []
    for u in uniform_T:
        place = int(np.argmax(reached_B > u))  # 0 for exact zeros, then the bins
        if place == 0:
            drawn.append(0.0)
            continue
        inside = (u - reached_B[place - 1]) / (reached_B[place] - reached_B[place - 1])
        drawn.append(row["bin_start"] + row["bin_width"] * (place - 1 + inside))
    return np.array(drawn)


def _putting(layer: int, neurons_K: Units, value: Value, share: float) -> Put:
    def put(x_TN: Tensor) -> Tensor:
        if len(neurons_K):
            c = value(layer, neurons_K, x_TN).double()
            mixture = (1 - share) * x_TN[:, neurons_K].double() + share * c
            x_TN[:, neurons_K] = mixture.float()
        return x_TN

    return put
