"""Cells of every kind to evaluate on tiny models, with their batches and donors.

Shapes: L layers, N neurons of one hookpoint, B bins, K modes, or donors of a sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tests.workers import tiny
from tests.workers.holding import (
    random_by_position,
    random_held,
    random_values,
    recorded,
)
from workers import draws, plugins
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import (
    SITES,
    Batch,
    ByPosition,
    CellAnswer,
    CellOrder,
    Constant,
    Custom,
    Donated,
    Donors,
    Hold,
    Marginal,
    NearestPeak,
    Noise,
    Site,
    Value,
)

BUDGET = 1 << 20
STARTS = (0, 1, 4, 11)
"""First position of every bucket in `by_position`."""
DONATED = ("joint", "per_layer", "per_head", "per_neuron", "published")
KINDS = ("constant", "by_position", *DONATED, "noise", "marginal", "nearest_peak", "custom")
ATTENTION: tuple[Site, ...] = ("attn_pre_out",)
UNTIMED = [field.name for field in fields(CellAnswer) if field.name != "seconds"]


class Jitter(plugins.Method):
    """Turns activations round, by a neuron's mean, and adds noise of its own."""

    name = "test_jitter"
    parameters = {"size": 0.5}  # noqa: RUF012 - as users write it
    needs = ("mean",)

    def replace(self, x_STN, *, layer, site, statistics, parameters, sequence_S, seed):
        uniform_STN = draws.uniform(
            seed,
            sequence_S,
            layer=layer,
            site=site,
            positions=x_STN.shape[1],
            neurons=x_STN.shape[2],
            device=x_STN.device,
            purpose=99,
        )
        return statistics["mean"] - x_STN + parameters["size"] * uniform_STN


plugins.register([Jitter()])


def batches(model: Model) -> list[Batch]:
    """Return three batches whose numbers are in no order, within or between them."""
    return [tiny.batch(model, [7, 2]), tiny.batch(model, [5, 0, 4]), tiny.batch(model, [3])]


def others(model: Model, mine: Sequence[Batch], seed: int = 9) -> tuple[Batch, ...]:
    """Return other inputs for batches, row by row at least as long."""
    made = []
    for batch in mine:
        other = tiny.batch(model, batch.sequence.tolist(), seed=seed)
        if other.attended is not None:  # all of them as long as can be
            width = batch.inputs.shape[1]
            inputs_ST = np.where(other.attended, other.inputs, tiny.VOCABULARY - 1)[:, :width]
            other = replace(other, inputs=inputs_ST, attended=np.ones_like(inputs_ST, np.bool_))
        made.append(other)
    return tuple(made)


def donors(model: Model, mine: Sequence[Batch] | None = None) -> dict[str, Donors]:
    """Return the donors that cells name, for `batches` or for those given."""
    mine = batches(model) if mine is None else mine
    passes = tuple(others(model, mine, seed) for seed in (9, 10, 11))
    # A row of each sequence's own, or none for every third.
    rows = tuple(np.where(b.sequence % 3 == 1, -1, b.sequence % 5) for b in mine)
    return {
        "others": Donors(passes=passes[:1]),
        "strangers": Donors(passes=(others(model, mine, 4),)),
        "several": Donors(passes=passes),
        "published": Donors(passes=passes[:1], rows=rows),
    }


def baseline(model: Model) -> CellOrder:
    return CellOrder(cell="bare")


def held_at(
    model: Model,
    kind: str,
    share: float = 0.5,
    seed: int = 0,
    sites: Sequence[Site] = ATTENTION,
    alpha: float = 1.0,
) -> CellOrder:
    """Return a cell of one of `KINDS` that holds a random share of the neurons of some sites."""
    return CellOrder(
        cell=f"{kind}-{share}-{seed}-{'+'.join(sites)}-{alpha}",
        holds=tuple(
            Hold(
                site=site,
                held=random_held(model, share, seed, site),
                value=value(model, kind, seed, site),
            )
            for site in sites
        ),
        share=alpha,
    )


def value(model: Model, kind: str, seed: int = 0, site: Site = "attn_pre_out") -> Value:
    """Return a random value of one of `KINDS` for every neuron of a site."""
    rng = np.random.default_rng((seed, 3, SITES.index(site)))
    shape_LN = (model.facts.layers, model.facts.neurons_at(site))
    if kind == "constant":
        return Constant(values=random_values(model, seed, site))
    if kind == "by_position":
        values_ZLN = random_by_position(model, len(STARTS), seed, site)
        return ByPosition(values=values_ZLN, starts=STARTS)
    if kind == "noise":
        return Noise(mean=rng.normal(size=shape_LN), std=rng.exponential(size=shape_LN), seed=seed)
    if kind == "marginal":
        return Marginal(
            counts=rng.integers(0, 3, (*shape_LN, 8)) * rng.integers(0, 9, (*shape_LN, 8)),
            start=rng.integers(-4, 1, shape_LN) / 4,
            width=np.full(shape_LN, 0.25),
            zeros=rng.integers(1, 9, shape_LN),
            seed=seed,
        )
    if kind == "nearest_peak":
        modes_LNK = rng.normal(size=(*shape_LN, 4))
        modes_LNK[np.arange(4) > rng.integers(0, 4, shape_LN)[..., None]] = np.nan
        return NearestPeak(modes=modes_LNK)
    if kind == "custom":
        return Custom(
            plugin="test_jitter",
            parameters={"size": 0.5},
            statistics={"mean": rng.normal(size=shape_LN)},
            seed=seed,
        )
    if kind in ("joint", "published"):
        return Donated(donors="others" if kind == "joint" else kind)
    assert kind in ("per_layer", "per_head", "per_neuron")
    return Donated(donors="several", drawn=kind, seed=seed)


def constant(model: Model, share: float, seed: int = 0) -> CellOrder:
    return held_at(model, "constant", share, seed)


def resampled(model: Model, share: float, seed: int = 0, name: str = "others") -> CellOrder:
    order = held_at(model, "joint", share, seed)
    (hold,) = order.holds
    donated = replace(hold, value=Donated(donors=name))
    return replace(order, cell=f"{order.cell}-{name}", holds=(donated,))


def by_position(model: Model, share: float, seed: int = 0) -> CellOrder:
    return held_at(model, "by_position", share, seed)


def only(order: CellOrder) -> Hold:
    """Return the hold of a cell of one site."""
    (hold,) = order.holds
    return hold


def steps(order: CellOrder) -> NDArray[np.float64]:
    """Return the constants (Z, L, N) of a cell by position, or (L, N) of one of constants."""
    held = only(order).value
    assert isinstance(held, ByPosition | Constant)
    return held.values


def instead(order: CellOrder, **changes: object) -> CellOrder:
    """Return a cell of one site with another value, or other held neurons."""
    return replace(order, holds=(replace(only(order), **changes),))


def needed(orders: Sequence[CellOrder], given: Mapping[str, Donors]) -> dict[str, Donors]:
    """Return the donors that some cell names."""
    values = [hold.value for order in orders for hold in order.holds]
    return {v.donors: given[v.donors] for v in values if isinstance(v, Donated)}


def one(model: Model, order: CellOrder, *, kl: bool = False) -> CellAnswer:
    given = needed([order], donors(model))
    return evaluate(model, batches(model), [order], given, logits_bytes=BUDGET, kl=kl)[0]


def same(a: CellAnswer, b: CellAnswer) -> bool:
    """Equal in every bit but for the time taken."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in UNTIMED)


def activations(model: Model, batch: Batch) -> list[Tensor]:
    return recorded(model, batch, "attn_pre_out")


def told_elements(model: Model, order: CellOrder, mine: Sequence[Batch]) -> int:
    """Return how many elements a cell that does not fold is to replace, counted plainly."""
    positions = sum(
        len(b.sequence) * model.facts.window if b.attended is None else int(b.attended.sum())
        for b in mine
    )
    return positions * sum(len(held_H) for hold in order.holds for held_H in hold.held)
