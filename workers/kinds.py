"""Kinds: what each kind of value puts in the place of an activation.

    ByPosition   the constant of the bucket that the position is in
    Donated      the activation that the unablated model has there on another input
    Noise        mean + s.d. x a normal draw
    Marginal     a draw from the histogram: exactly 0 with the share of exact zeros,
                 else a bin with its share, and evenly inside it
    NearestPeak  the mode nearest to the activation; of two equally near, the one
                 nearer to zero, then the lower
    Custom       what a user's method makes of the activation
    Constant     the same everywhere

Draws come from `workers.draws`, so they depend on the sequence and not on its
batch. Neurons and positions are drawn independently: what they have in common is
lost. The few values outside the window of a histogram are never drawn.

What a kind makes cheaply for all neurons of a layer it makes for all, because picking
the held ones out costs more: donors' activations are handed on as they are. Draws and
the nearest mode are dear, and made for the held ones alone. Putting values in, and the
proof of that, is `workers.replacing`'s.

Shapes: L layers, S sequences, T positions, M = S x T, N neurons of one hookpoint,
H of them held, Z buckets of positions, B bins, K modes, or donors of a sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import draws, plugins
from workers.constants import check_held, check_values
from workers.loading import Model
from workers.messages import (
    SITES,
    ByPosition,
    Constant,
    Custom,
    Donated,
    Hold,
    Marginal,
    NearestPeak,
    Noise,
    Site,
)

Given = Mapping[tuple[str, Site], Sequence[Sequence[Tensor]]]
"""By name of the donors and site, for each of K passes, each layer's activations (S, T, N); or
(S, 1, N) where one row is given to all positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """What is known of the batch that values are put into."""

    sequence_S: Tensor
    """Numbers of the sequences."""
    given: Given


Make = Callable[[int, Tensor, Here], Tensor]
"""Takes a layer's number, its activations (S, T, N) and the batch; returns what takes the place
of the held ones, of any floating dtype: (S, T, H), or what broadcasts to (S, T, N) and may be
anything at neurons that are not held. What is returned is not written to."""


class Place:
    """One site of a model and its held neurons; raises ValueError where they do not fit."""

    def __init__(self, model: Model, hold: Hold) -> None:
        self.layers, self.neurons = model.facts.layers, model.facts.neurons_at(hold.site)
        check_held(hold.held, layers=self.layers, neurons=self.neurons)
        self.site, self.held, self.d_head = hold.site, hold.held, model.facts.d_head
        self.device = model.device
        self.columns_L = [
            torch.tensor(held_H, dtype=torch.int64, device=model.device) for held_H in hold.held
        ]
        every = np.arange(self.neurons)
        self.held_LN = [
            torch.from_numpy(np.isin(every, held_H)).to(model.device) for held_H in hold.held
        ]

    def check(self, values_LN: NDArray[np.float64], where: str = "") -> None:
        """Raise ValueError unless every held neuron has a finite value; see `check_values`."""
        check_values(self.held, values_LN, layers=self.layers, neurons=self.neurons, where=where)

    def each(self, values_LN: NDArray[np.float64], dtype: torch.dtype) -> list[Tensor]:
        """Return each layer's values of the held neurons, (H, …), on the device."""
        return [
            torch.from_numpy(values_N[held_H]).to(self.device, dtype)
            for values_N, held_H in zip(values_LN, self.held, strict=True)
        ]

    def spread(self, layer: int, values: Tensor) -> Tensor:
        """Return values of a layer's held neurons (…, H) as (…, N), with zeros at all others.

        Those that are of all neurons are returned as they are.
        """
        if values.shape[-1] == self.neurons:
            return values
        wide = values.new_zeros(*values.shape[:-1], self.neurons)
        return wide.index_copy_(-1, self.columns_L[layer], values)

    def uniform(self, layer: int, x_STN: Tensor, here: Here, seed: int, purpose: int) -> Tensor:
        """Return a draw for every position and held neuron of a layer, (S, T, H)."""
        return draws.uniform(
            seed,
            here.sequence_S,
            layer=layer,
            site=self.site,
            positions=x_STN.shape[1],
            neurons=self.columns_L[layer],
            device=self.device,
            purpose=purpose,
        )


def maker(place: Place, hold: Hold, widest: int, said: str) -> Make:
    """Return what makes the values of one hold; `said` names its cell in a refusal.

    `widest` is the largest number of positions of any batch: buckets beyond may hold
    anything. Raises ValueError where values do not fit, or are no finite numbers.
    """
    match hold.value:
        case Constant(values=values_LN):
            return _by_position(place, ByPosition(values=values_LN[None], starts=(0,)), 1, said)
        case ByPosition() as value:
            return _by_position(place, value, widest, said)
        case Donated() as value:
            return _donated(place, value, said)
        case Noise() as value:
            return _noise(place, value)
        case Marginal() as value:
            return _marginal(place, value, said)
        case NearestPeak() as value:
            return _nearest_peak(place, value)
        case Custom() as value:
            return _custom(place, value, said)


def _by_position(place: Place, value: ByPosition, widest: int, said: str) -> Make:
    starts, shape = list(value.starts), value.values.shape
    if starts != sorted({0, *starts}) or starts[0] or shape[:1] != (len(starts),):
        raise ValueError(
            f"{said} has buckets that start at the positions {starts}, and values of shape"
            f" {shape}. Give one start for every bucket, ascending from 0, and values of shape"
            " (buckets, layers, neurons)."
        )
    start_Z = np.array([start for start in starts if start < widest])
    values_ZLN = value.values[: len(start_Z)]
    for start, values_LN in zip(start_Z, values_ZLN, strict=True):
        place.check(values_LN, f" from position {start} on")
    told_L = place.each(values_ZLN.transpose(1, 2, 0), torch.float32)
    values_LZN = [place.spread(layer, told_HZ.T) for layer, told_HZ in enumerate(told_L)]
    next_Z = torch.from_numpy(start_Z[1:]).to(place.device)  # where the next bucket starts

    def make(layer: int, x_STN: Tensor, _: Here) -> Tensor:
        position_T = torch.arange(x_STN.shape[1], device=x_STN.device)
        bucket_T = torch.searchsorted(next_Z, position_T, right=True)
        return values_LZN[layer][bucket_T]

    return make


def _donated(place: Place, value: Donated, said: str) -> Make:
    if value.drawn == "per_head" and place.site != "attn_pre_out":
        raise ValueError(
            f"{said} takes a donor for each head at {place.site}, which has no heads. Draw donors"
            " per layer or per neuron there."
        )

    def make(layer: int, _: Tensor, here: Here) -> Tensor:
        passes_K = [x_LSTN[layer] for x_LSTN in here.given[value.donors, place.site]]
        taken_STN = passes_K[0]
        if len(passes_K) > 1:
            every_N = torch.arange(place.neurons)
            number = {"per_head": every_N // place.d_head, "per_neuron": every_N}
            uniform_S1N = draws.uniform(
                value.seed,
                here.sequence_S,
                layer=layer,
                site=SITES[0]
                if value.drawn == "per_layer"
                else place.site,  # a layer's sites agree
                positions=1,
                neurons=number.get(value.drawn, 1),
                device=place.device,
                purpose=draws.DONOR,
            )
            which_S1N = (uniform_S1N * len(passes_K)).long()
            for k, x_STN in enumerate(passes_K[1:], start=1):
                taken_STN = torch.where(which_S1N == k, x_STN, taken_STN)
        return taken_STN

    return make


def _noise(place: Place, value: Noise) -> Make:
    place.check(value.mean)
    place.check(value.std)
    mean_L = place.each(value.mean, torch.float64)
    std_L = place.each(value.std, torch.float64)

    def make(layer: int, x_STN: Tensor, here: Here) -> Tensor:
        uniform_STH = place.uniform(layer, x_STN, here, value.seed, draws.NOISE)
        return mean_L[layer] + std_L[layer] * draws.normal(uniform_STH)

    return make


def _marginal(place: Place, value: Marginal, said: str) -> Make:
    for layer, held_H in enumerate(place.held):
        total_H = value.counts[layer][held_H].sum(axis=1) + value.zeros[layer][held_H]
        if (total_H == 0).any():
            raise ValueError(
                f"{said} draws neuron {held_H[total_H == 0][0]} of layer {layer} from its"
                " histogram, which is empty. Collect again, with windows that hold its values."
            )
    place.check(value.start)
    place.check(value.width)
    start_L = place.each(value.start, torch.float64)
    width_L = place.each(value.width, torch.float64)

    def make(layer: int, x_STN: Tensor, here: Here) -> Tensor:
        held_H = place.held[layer]
        # Exact zeros come first, then the bins. Made anew each time: it is large, and soon made.
        zeros_H1 = value.zeros[layer][held_H, None]
        below_HB = np.concatenate([zeros_H1, value.counts[layer][held_H]], axis=1).cumsum(axis=1)
        share_HB = torch.from_numpy(below_HB / below_HB[:, -1:]).to(x_STN.device)
        uniform_STH = place.uniform(layer, x_STN, here, value.seed, draws.MARGINAL)
        uniform_HM = uniform_STH.flatten(0, 1).T.contiguous()
        bin_HM = torch.searchsorted(share_HB, uniform_HM, right=True)
        left_HM = share_HB.gather(1, (bin_HM - 1).clamp(0))
        inside_HM = (uniform_HM - left_HM) / (share_HB.gather(1, bin_HM) - left_HM)
        value_HM = start_L[layer][:, None] + width_L[layer][:, None] * (bin_HM - 1 + inside_HM)
        drawn_HM = torch.where(bin_HM == 0, 0.0, value_HM)
        return drawn_HM.T.view(uniform_STH.shape)

    return make


def _nearest_peak(place: Place, value: NearestPeak) -> Make:
    place.check(value.modes[..., 0])
    lower_LNK = np.sort(value.modes, axis=2)
    order_LNK = np.argsort(np.abs(lower_LNK), axis=2, kind="stable")
    modes_L = place.each(np.take_along_axis(lower_LNK, order_LNK, axis=2), torch.float64)

    def make(layer: int, x_STN: Tensor, _: Here) -> Tensor:
        x_STH = x_STN.index_select(-1, place.columns_L[layer]).double()
        first_H, *others = modes_L[layer].unbind(1)
        nearest_STH = first_H.expand_as(x_STH)
        for mode_H in others:  # the ones nearer to zero come first, and keep their place in a tie
            nearer_STH = (x_STH - mode_H).abs() < (x_STH - nearest_STH).abs()
            nearest_STH = torch.where(nearer_STH, mode_H, nearest_STH)
        return nearest_STH

    return make


def _custom(place: Place, value: Custom, said: str) -> Make:
    method = plugins.find(value.plugin)
    parameters = cast("Mapping[str, plugins.Default]", value.parameters)

    def make(layer: int, x_STN: Tensor, here: Here) -> Tensor:
        made_STN = method.replace(
            x_STN.clone(),  # or a method that writes to it would change neurons that are not held
            layer=layer,
            site=place.site,
            statistics={
                name: torch.tensor(column_LN[layer], device=x_STN.device)
                for name, column_LN in value.statistics.items()
            },
            parameters=parameters,
            sequence_S=here.sequence_S,
            seed=value.seed,
        )
        if made_STN.shape != x_STN.shape:
            raise ValueError(
                f"{said}: the method {value.plugin} was given activations of shape"
                f" {tuple(x_STN.shape)} and returned {tuple(made_STN.shape)}. It must return one"
                " value for each."
            )
        return made_STN

    return make
