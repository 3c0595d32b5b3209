"""Learning: the constants that hurt least, for neurons that are held anyway.

Zero, mean and peak are guesses at where a neuron should be held. For a *given*
set of held neurons the best constants can be looked for directly (optimal
ablation, Li & Janson, NeurIPS 2024): those that minimise the mean cross-entropy,
all layers and sites together. What is found tells how far a guess is from the
best; it is an approximate floor, because a search that stops early, or learns the
fit part by heart, ends above the true one.

    fit     gradients come from here, one batch a step, each batch once before any
            comes again, in an order drawn anew each time round
    check   decides which start is taken, and which step is the best one

The search begins at the start (zero, mean, peak, …) with the lowest loss on the
check part, and the start is step 0 of those that compete: so what is returned is
never worse there than the best guess. Its loss on the check part is a little
optimistic, as that of any winner; measure the cell on other data.

A neuron's constant is start + scale x δ, and Adam (Kingma & Ba, 2015: 0.9, 0.999)
moves δ, which begins at 0. With the neuron's s.d. as scale, one learning rate
fits neurons whose activations differ a thousandfold: the first step moves each
by `lr` s.d. A scale below a hundredth of its layer's mean scale is raised to that
(a neuron that never varies can still be a useful bias). The rate falls linearly
to 0 at the last step, so that the end is not noise. A neuron that a step does not
hold keeps its constant and its moments.

For several sets, one constant per neuron is looked for that suits them all: each
step holds one of the sets, drawn like batches, and the check part's loss is the
mean over them. It is no floor for any single one.

The model is the library's, in its own dtype, frozen: constants enter by a hook at
the input of the projections, rounded to that dtype, at every position (padding
too, which nobody attends to). Folding does not round them, so in half precision
the losses of the two differ by that much. On a CPU the same call gives the same
bits; on a GPU the backward pass of fused attention may sum in another order each
time, unless the process asks torch for deterministic algorithms.

Shapes: P places, L layers, N neurons of one hookpoint, S sequences, T positions,
M scored positions, D width of the hidden states, V scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.constants import check_held, check_values
from workers.descent import Descent, Place, scored
from workers.loading import Model
from workers.messages import Batch

__all__ = ["Learned", "Place", "Search", "Starts", "learn"]

Starts = Mapping[str, Sequence[NDArray[np.float64]]]
"""By name, for example `mean`: one (L, N) array for each place, in activation units."""

_BATCHES, _SETS = 11, 12  # purposes: keep these streams apart from others of the same seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How to look for constants: how long, how fast, and within how much memory."""

    steps: int
    """Steps to take, one batch each; 0: only choose a start."""
    lr: float
    """The first step's rate, in scales per step; it falls linearly to 0."""
    every: int
    """Steps between scorings of the check part, 1 or more; the last step is scored too."""
    seed: int
    """Of the orders in which batches and sets are drawn."""
    logits_bytes: int
    """Bound on one float32 tensor of logits, in bytes; up to four of its size live at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """The best constants found, and how good they are. Losses are means, in nats per token."""

    values: tuple[NDArray[np.float64], ...]
    """(L, N) for each place; a neuron that is never held has the value of the start."""
    start: str
    """Which of the starts was the best, and was taken."""
    start_loss: float
    """Of the start, on the check part."""
    check_loss: float
    """Of `values`, on the check part: `start_loss` or less."""
    fit_loss: float
    """Of `values`, on the fit part."""
    step: int
    """Steps that led to `values`; 0: the start itself."""
    steps: int
    """Steps taken; fewer than asked for where `stopped`."""
    stopped: bool
    """A loss or a gradient was no finite number, so learning ended there."""


def learn(
    model: Model,
    fit: Sequence[Batch],
    check: Sequence[Batch],
    sets: Sequence[Sequence[Place]],
    starts: Starts,
    scales: Sequence[NDArray[np.float64]],
    search: Search,
) -> Learned:
    """Return the constants of the held neurons that lose least on the check part.

    `sets` are held sets, all at the same sites in the same order; one set is a list
    of one. Losses are means over the sets, each as heavy as any other. Each start has
    one (L, N) array for each place of a set, in activation units, and so has `scales`:
    the neurons' s.d.; NaN counts as 0.

    Raises ValueError where these do not fit the model or each other, and where no
    start has a finite loss.
    """
    fit, check = _with_targets(fit, "fit"), _with_targets(check, "check")
    _check(model, sets, starts, scales)
    with torch.inference_mode(False):
        descent = Descent(model, sets, scales, search.logits_bytes)
        start, start_loss = _best(
            {name: descent.mean_loss(check, values) for name, values in starts.items()}
        )
        descent.begin(starts[start])
        best, step, values = start_loss, 0, descent.values()
        mean_tokens = scored(fit) / len(fit)  # so that a long batch weighs as much as it holds
        taken, finite = 0, True
        while taken < search.steps and finite:
            number = _drawn(len(sets), taken, seed=search.seed, purpose=_SETS)
            batch = fit[_drawn(len(fit), taken, seed=search.seed, purpose=_BATCHES)]
            slopes_PLN = descent.slopes(batch, number)
            if slopes_PLN is None:
                finite = False
                break
            rate = search.lr * (1 - taken / search.steps)
            descent.move(number, [slope_LN / mean_tokens for slope_LN in slopes_PLN], rate)
            taken += 1
            if taken % search.every == 0 or taken == search.steps:
                loss = descent.mean_loss(check, descent.values())
                finite = math.isfinite(loss)
                if loss < best:
                    best, step, values = loss, taken, descent.values()
        return Learned(
            values=tuple(values),
            start=start,
            start_loss=start_loss,
            check_loss=best,
            fit_loss=descent.mean_loss(fit, values),
            step=step,
            steps=taken,
            stopped=not finite,
        )


def _best(losses: Mapping[str, float]) -> tuple[str, float]:
    """Return the start that loses least, the first of equals, and its loss."""
    finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        raise ValueError(
            f"None of the starts {list(losses)} has a finite loss on the check part, so there is"
            " nowhere to begin. Give a start, or hold the model in a wider dtype."
        )
    name = min(finite, key=lambda start: finite[start])
    return name, finite[name]


def _drawn(count: int, step: int, *, seed: int, purpose: int) -> int:
    """Return which of `count` things a step takes: each once a round, in the round's own order."""
    around, place = divmod(step, count)
    key = np.array([seed, around], dtype=np.uint64)
    counter = np.array([0, 0, 0, purpose], dtype=np.uint64)
    uniform = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(count)
    return int(np.argsort(uniform, kind="stable")[place])


def _with_targets(batches: Sequence[Batch], part: str) -> list[Batch]:
    kept = [batch for batch in batches if scored([batch])]
    if not kept:
        raise ValueError(
            f"The {part} part has {len(batches)} batches and no scored position. Collect more data,"
            " or choose positions to score that it has."
        )
    return kept


def _check(
    model: Model,
    sets: Sequence[Sequence[Place]],
    starts: Starts,
    scales: Sequence[NDArray[np.float64]],
) -> None:
    """Raise ValueError unless held sets, starts and scales fit the model and each other."""
    sites = [place.site for place in sets[0]] if sets else []
    for number, places in enumerate(sets):
        if [place.site for place in places] != sites or len(set(sites)) < len(sites):
            raise ValueError(
                f"Held set {number} is at {[place.site for place in places]}, and the first at"
                f" {sites}. Give every set the same sites in the same order, each once."
            )
        if not any(len(held_H) for place in places for held_H in place.held):
            raise ValueError(
                f"Held set {number} holds no neuron, so there is nothing to learn. Leave it out."
            )
    if not sites or any(len(arrays) != len(sites) for arrays in (*starts.values(), scales)):
        raise ValueError(
            f"There are {len(sites)} sites, {len(scales)} arrays of scales, and starts of"
            f" {[len(arrays) for arrays in starts.values()]} arrays. Give one for each site."
        )
    layers = model.facts.layers
    for p, site in enumerate(sites):
        neurons = model.facts.neurons_at(site)
        for places in sets:
            check_held(places[p].held, layers=layers, neurons=neurons)
            for name, values in starts.items():
                check_values(
                    places[p].held,
                    values[p],
                    layers=layers,
                    neurons=neurons,
                    where=f" of the start `{name}`",
                )
        if (
            scales[p].shape != (layers, neurons)
            or (scales[p] < 0).any()
            or np.isinf(scales[p]).any()
        ):
            raise ValueError(
                f"The scales at {site} have shape {scales[p].shape} and lie between"
                f" {np.nanmin(scales[p]):g} and {np.nanmax(scales[p]):g}; expected"
                f" ({layers}, {neurons}) standard deviations, finite and 0 or more."
            )
