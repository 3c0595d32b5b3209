"""Descent: constants of held neurons, moved against the slope of the loss.

What `workers.learn` searches with. A neuron's constant is start + scale x δ; δ
begins at 0 and Adam (Kingma & Ba, 2015) moves it, with the published 0.9 and
0.999. Moments belong to a neuron, and so does the count of steps that Adam
corrects them by: a neuron that a step does not hold keeps all of it.

The model is the library's, frozen, in its own dtype. Constants enter by a hook
at the input of a projection, rounded to that dtype, at every position (padding
too, which nobody attends to). Only their slopes are asked for, so nothing is left
on the model. A backward pass goes through the head first, a few rows at a time,
and then through the rest at once: few logits ever live, and the activations that
`workers.learning_cost` estimates.

Shapes: P places, L layers, N neurons of one hookpoint, S sequences, T positions,
M scored positions, D width of the hidden states, V scores.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import hooks
from workers.loading import Model
from workers.messages import NOT_SCORED, Batch, Site

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8
_FLOOR = 0.01  # of a layer's mean scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Neurons of one site that are held, and whose constants are learned."""

    site: Site
    held: tuple[NDArray[np.int64], ...]
    """L arrays of neuron indices, ascending."""


class Descent:
    """Constants on the move: start + scale x δ, and what Adam remembers of each neuron."""

    def __init__(
        self,
        model: Model,
        sets: Sequence[Sequence[Place]],
        scales: Sequence[NDArray[np.float64]],
        logits_bytes: int,
    ) -> None:
        self._model, self._rows = model, logits_bytes // (4 * model.facts.vocabulary)
        if self._rows < 1:
            raise ValueError(
                f"A budget of {logits_bytes} bytes for logits holds no row of"
                f" {model.facts.vocabulary} scores. Allow {4 * model.facts.vocabulary} at least."
            )
        self._sites = [place.site for place in sets[0]]
        self._told = [[_told(model, place) for place in places] for places in sets]
        self._scale_P = self._placed([_floored(scale_LN) for scale_LN in scales])

    def begin(self, start: Sequence[NDArray[np.float64]]) -> None:
        """Go to a start, with nothing remembered."""
        self._start_P = self._placed(start)
        self._adam_P = [
            tuple(torch.zeros_like(start_LN, dtype=torch.float32) for _ in range(4))
            for start_LN in self._start_P
        ]

    def values(self) -> list[NDArray[np.float64]]:
        """Return where the constants are, (L, N) for each place."""
        return [value_LN.cpu().numpy() for value_LN in self._values()]

    def mean_loss(self, batches: Sequence[Batch], values: Sequence[NDArray[np.float64]]) -> float:
        """Return the mean cross-entropy in nats per token, over the sets, with these constants."""
        with torch.inference_mode():
            value_PLN = [value_LN.to(self._model.dtype) for value_LN in self._placed(values)]
            sums = []
            for number in range(len(self._told)):
                for batch in batches:
                    with self._holding(number, value_PLN):
                        hidden_STD = hooks.hidden(self._model, batch)
                    for at, target_M in self._chunks(batch):
                        logits_MV = hooks.scores(self._model, hidden_STD[at]).float()
                        loss_M = nn.functional.cross_entropy(logits_MV, target_M, reduction="none")
                        sums.append(loss_M.double().sum().item())
        return math.fsum(sums) / (scored(batches) * len(self._told))

    def slopes(self, batch: Batch, number: int) -> list[Tensor] | None:
        """Return how the loss, summed over a batch, changes with each δ: (L, N) for each place.

        Held is set `number`. None where the loss or a slope is no finite number.
        """
        model = self._model
        leaf_PLN = [value_LN.to(model.dtype).requires_grad_() for value_LN in self._values()]
        with torch.enable_grad(), self._holding(number, leaf_PLN):
            hidden_STD = hooks.hidden(model, batch, grad=True)
        # The head comes first and a few rows at a time, so that few logits live at once.
        upstream_STD = torch.zeros_like(hidden_STD)
        finite = True
        for at, target_M in self._chunks(batch):
            hidden_MD = hidden_STD.detach()[at].requires_grad_()
            with torch.enable_grad():
                logits_MV = hooks.scores(model, hidden_MD, grad=True).float()
                loss = nn.functional.cross_entropy(logits_MV, target_M, reduction="sum")
            (upstream_STD[at],) = torch.autograd.grad(loss, hidden_MD)
            finite = finite and bool(loss.isfinite())
        # Only the constants' slopes are asked for, so that nothing is left on the model.
        found = torch.autograd.grad(hidden_STD, leaf_PLN, upstream_STD, materialize_grads=True)
        slopes_PLN = [
            g.float() * scale.float() for g, scale in zip(found, self._scale_P, strict=True)
        ]
        finite = finite and all(bool(slope_LN.isfinite().all()) for slope_LN in slopes_PLN)
        return slopes_PLN if finite else None

    def move(self, number: int, slopes_PLN: Sequence[Tensor], rate: float) -> None:
        """Take one step of Adam with the neurons of set `number`; the others stay as they are."""
        for told_LN, slope_LN, memory in zip(
            self._told[number], slopes_PLN, self._adam_P, strict=True
        ):
            delta_LN, first_LN, second_LN, steps_LN = memory
            steps_LN += told_LN
            first_LN += told_LN * (1 - _FIRST) * (slope_LN - first_LN)
            second_LN += told_LN * (1 - _SECOND) * (slope_LN.square() - second_LN)
            # In float64, or 1 - .999 would lose digits; a neuron never held has no first step.
            seen_LN = steps_LN.clamp(min=1).double()
            mean_LN = first_LN / (1 - _FIRST**seen_LN)
            size_LN = (second_LN / (1 - _SECOND**seen_LN)).sqrt()
            delta_LN -= (told_LN * rate * mean_LN / (size_LN + _TINY)).float()

    def _values(self) -> list[Tensor]:
        return [
            start_LN + scale_LN * memory[0].double()
            for start_LN, scale_LN, memory in zip(
                self._start_P, self._scale_P, self._adam_P, strict=True
            )
        ]

    def _placed(self, arrays: Sequence[NDArray[np.float64]]) -> list[Tensor]:
        device = self._model.device
        return [torch.tensor(array, dtype=torch.float64, device=device) for array in arrays]

    @contextmanager
    def _holding(self, number: int, value_PLN: Sequence[Tensor]) -> Iterator[None]:
        with ExitStack() as stack:
            for site, told_LN, value_LN in zip(
                self._sites, self._told[number], value_PLN, strict=True
            ):
                stack.enter_context(hooks.replacing(self._model, site, _put_in(told_LN, value_LN)))
            yield

    def _chunks(self, batch: Batch) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        """Yield where some scored positions are, as an index into (S, T), and their targets."""
        device = self._model.device
        sequence_M, position_M = np.nonzero(batch.targets != NOT_SCORED)
        target_M = batch.targets[sequence_M, position_M]
        for first in range(0, len(target_M), self._rows):
            at, t, target = (
                torch.from_numpy(part_M[first : first + self._rows]).to(device)
                for part_M in (sequence_M, position_M, target_M)
            )
            yield (at, t), target


def _put_in(told_LN: Tensor, value_LN: Tensor) -> hooks.Change:
    some_L = told_LN.any(dim=1).tolist()

    def change(layer: int, x_STN: Tensor) -> Tensor:
        # A layer that holds nothing stays out of the backward pass.
        return torch.where(told_LN[layer], value_LN[layer], x_STN) if some_L[layer] else x_STN

    return change


def _told(model: Model, place: Place) -> Tensor:
    """Return which neurons are held, (L, N)."""
    told_LN = np.zeros((model.facts.layers, model.facts.neurons_at(place.site)), np.bool_)
    for told_N, held_H in zip(told_LN, place.held, strict=True):
        told_N[held_H] = True
    return torch.from_numpy(told_LN).to(model.device)


def _floored(scale_LN: NDArray[np.float64]) -> NDArray[np.float64]:
    scale_LN = np.nan_to_num(scale_LN, nan=0.0)
    return np.asarray(np.maximum(scale_LN, _FLOOR * scale_LN.mean(axis=1, keepdims=True)))


def scored(batches: Sequence[Batch]) -> int:
    """Return how many positions of these batches have a target."""
    return sum(int(np.count_nonzero(batch.targets != NOT_SCORED)) for batch in batches)
