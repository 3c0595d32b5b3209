"""Parity: is this checkpoint read rightly?

All that a sweep says rests on a row of names (`workers.row`): that the input of this
projection is the heads' output, that head h has these neurons, that the head at the end gives
the scores. A wrong row raises no error and gives plausible numbers. So here each claim is
compared with the library's own forward pass, on random inputs, of which the second is padded:

    logits     the head, applied to what the cut forward pass returns, gives the library's scores
    loss       and the library's own loss (timm has none: the cross-entropy of its scores)
    baseline   what a sweep reports as the loss of the bare model is that loss
    removed    with all neurons of `attn_pre_out` held at 0 the model is the one whose attention
               answers with its output projection's bias
    head       with one head held at 0 it is the one whose projection never sees that head
    neurons    other values in one row of a value projection move the same neuron of every head
               that shares it, and no other: which says which neuron is (head, index)
    groups     other values of one key-value head move all neurons of its query heads, and none else

The first two and `removed` are held to the bit (a 16-bit loss is not, because libraries round
it in different places); the others to a share of the largest value, because sums are made in
another order. The last two look at the first, a middle and the last layer.

Where a norm stands between the heads and their projection, neurons are what comes out of it
and all of them move a little. The last two then look at what goes into it.

Weak point: inputs are random and short. What only shows far into a long text, say a
sliding window, is the library's on both sides and is not looked at.

Shapes: S sequences, T positions, N neurons of one hookpoint, D outputs of a projection,
G key-value heads, E d_head, M positions of all sequences, V scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import hooks
from workers.ablation import folded
from workers.building import attention, quiet
from workers.byhand import answering, heads_make, other_rows, random_batch
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import NOT_SCORED, Batch, CellOrder
from workers.parts import value_rows, values

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far two sums of the same numbers may differ, as a share of the largest."""
LOGITS = 1 << 26
"""Bytes of logits that the baseline may have at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One claim about a model, and how far it was from being true."""

    name: str
    claim: str
    worst: float
    """Largest difference found, as a share of the largest value; 0: not a bit. NaN: no answer."""
    allowed: float
    """Largest difference with which the claim still holds; 0: to the bit."""
    said: str = ""
    """What ended the check, where something did."""

    @property
    def passed(self) -> bool:
        """Whether the claim holds."""
        return self.worst <= self.allowed  # not, where it is not a number


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """What came of comparing one loaded model with its library."""

    model: str
    family: str
    dtype: str
    device: str
    attention: str
    """How the library computes attention: `sdpa` or `eager`."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all claims hold."""
        return all(check.passed for check in self.checks)


def parity(model: Model, *, seed: int = 0) -> Parity:
    """Compare a model with its library's own forward pass; its weights are as before afterwards.

    Random inputs and the heads and neurons that are looked at are drawn by `seed`.
    """
    batch, close = random_batch(model, seed), TOLERANCE[model.dtype]
    whole = 0.0 if model.dtype == torch.float32 else close
    compare: list[tuple[str, str, Callable[[Model, Batch], float], float]] = [
        ("logits", "the cut forward pass and the head give the library's scores", _logits, 0.0),
        ("loss", "their cross-entropy is the library's own loss", _loss, whole),
        ("baseline", "a sweep's baseline reports that loss", _baseline, close),
        ("removed", "all neurons at 0: attention answers with its bias", _removed, 0.0),
        ("head", "a head at 0: the projection never sees it", partial(_head, seed=seed), close),
        ("neurons", "(head, index) is the neuron of its row", partial(_neurons, seed=seed), close),
        ("groups", "query heads share values as said", partial(_groups, seed=seed), close),
    ]
    with torch.inference_mode(), quiet():
        checks = tuple(_checked(*claim, model, batch) for claim in compare)
    return Parity(
        model=model.ref.label,
        family=model.family.name,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        attention=attention(model.module),
        checks=checks,
    )


def _checked(
    name: str,
    claim: str,
    differ: Callable[[Model, Batch], float],
    allowed: float,
    model: Model,
    batch: Batch,
) -> Check:
    said = ""
    try:
        worst = differ(model, batch)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # A wrong row may make shapes that do not fit: that is an answer, and no fault of ours.
        worst, said = float("nan"), f"{type(error).__name__}: {error}"
    return Check(name=name, claim=claim, worst=worst, allowed=allowed, said=said)


def _logits(model: Model, batch: Batch) -> float:
    theirs = hooks.logits(model, batch)
    return _share(_ours(model, batch).view_as(theirs), theirs)


def _loss(model: Model, batch: Batch) -> float:
    return _share(_cross_entropy(_ours(model, batch), batch), _library_loss(model, batch))


def _baseline(model: Model, batch: Batch) -> float:
    (answer,) = evaluate(model, [batch], [CellOrder(cell="bare")], {}, logits_bytes=LOGITS)
    mean = answer.loss.sum() / answer.tokens.sum()
    return _share(torch.tensor(mean), _library_loss(model, batch).cpu())


def _removed(model: Model, batch: Batch) -> float:
    neurons = model.facts.neurons
    every = [np.arange(neurons)] * model.facts.layers
    with folded(model, "attn_pre_out", every, np.zeros((len(every), neurons))):
        held = hooks.logits(model, batch)

    def bias_alone(_: int, projection: nn.Linear, x: Tensor) -> Tensor:
        none_D = x.new_zeros(projection.out_features)
        bias_D = none_D if projection.bias is None else projection.bias
        return bias_D.expand(*x.shape[:-1], -1).contiguous()

    with answering(model, range(len(every)), bias_alone):
        removed = hooks.logits(model, batch)
    if torch.equal(removed, hooks.logits(model, batch)):
        raise ValueError("what attention's output projections answer reaches no score")
    return _share(held, removed)


def _head(model: Model, batch: Batch, *, seed: int) -> float:
    draw, facts = np.random.default_rng([seed, 1]), model.facts
    own = {
        layer: int(draw.integers(facts.heads)) * facts.d_head + np.arange(facts.d_head)
        for layer in _looked_at(model)
    }
    none = np.empty(0, np.int64)
    held = [own.get(layer, none) for layer in range(facts.layers)]
    with folded(model, "attn_pre_out", held, np.zeros((facts.layers, facts.neurons))):
        told = hooks.logits(model, batch)

    def without(layer: int, projection: nn.Linear, x: Tensor) -> Tensor:
        kept_N = torch.ones(facts.neurons, dtype=torch.bool)
        kept_N[torch.from_numpy(own[layer])] = False
        kept = kept_N.nonzero()[:, 0].to(x.device)
        return nn.functional.linear(x[..., kept], projection.weight[:, kept], projection.bias)

    with answering(model, list(own), without):
        return _share(told, hooks.logits(model, batch))


def _neurons(model: Model, batch: Batch, *, seed: int) -> float:
    draw, facts = np.random.default_rng([seed, 2]), model.facts
    rows_GE, worst = value_rows(model.family, facts), 0.0
    shared = facts.heads // facts.kv_heads
    for layer in _looked_at(model):
        neuron_G = draw.integers(facts.d_head, size=facts.kv_heads)  # one of each group
        rows_G = rows_GE[np.arange(facts.kv_heads), neuron_G]
        own = np.arange(facts.heads) * facts.d_head + np.repeat(neuron_G, shared)
        worst = max(worst, _astray(model, batch, layer, rows_G, own))
    return worst


def _groups(model: Model, batch: Batch, *, seed: int) -> float:
    draw, facts = np.random.default_rng([seed, 3]), model.facts
    rows_GE, worst = value_rows(model.family, facts), 0.0
    size = facts.neurons // facts.kv_heads
    for layer in _looked_at(model):
        group = int(draw.integers(facts.kv_heads))
        own = np.arange(size) + group * size
        worst = max(worst, _astray(model, batch, layer, rows_GE[group], own))
    return worst


def _looked_at(model: Model) -> list[int]:
    return sorted({0, model.facts.layers // 2, model.facts.layers - 1})


def _ours(model: Model, batch: Batch) -> Tensor:
    """Return our scores of every position, (S T, V)."""
    return hooks.scores(model, hooks.hidden(model, batch).flatten(0, 1))


def _cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    target_M = torch.from_numpy(batch.targets).to(logits.device).flatten()
    logits_MV = logits.float().view(len(target_M), -1)
    return nn.functional.cross_entropy(logits_MV, target_M, ignore_index=NOT_SCORED)


def _library_loss(model: Model, batch: Batch) -> Tensor:
    fed, attended_ST = hooks.inputs(model, batch)
    if model.family.library == "timm":
        return _cross_entropy(hooks.forward(model, fed, None), batch)
    target_ST = torch.from_numpy(batch.targets).to(model.device)
    loss: Tensor
    if attended_ST is None:
        loss = model.module(fed, labels=target_ST[:, 0]).loss
        return loss
    if model.family.modality == "causal":  # the library shifts labels by itself
        target_ST = nn.functional.pad(target_ST[:, :-1], (1, 0), value=NOT_SCORED)
    loss = model.module(input_ids=fed, attention_mask=attended_ST, labels=target_ST).loss
    return loss


def _astray(
    model: Model, batch: Batch, layer: int, rows: NDArray[np.int64], own: NDArray[np.int64]
) -> float:
    """Return how far neurons other than `own` move when rows of a value projection change.

    As a share of how far their own move, of which the least counts.
    """
    before_N = heads_make(model, batch, layer)
    with other_rows(values(model.module, model.family)[layer], rows):
        moved_N = (heads_make(model, batch, layer) - before_N).abs().amax(dim=0).cpu()
    others = np.setdiff1d(np.arange(len(moved_N)), own)
    strayed = float(moved_N[others].max()) if len(others) else 0.0
    least = float(moved_N[own].min())
    return strayed / least if least > 0 else float("inf")


def _share(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest value; exactly 0 of equals."""
    if torch.equal(found, expected):
        return 0.0
    size = float(expected.float().abs().max())
    return float((found.double() - expected.double()).abs().max()) / (size or 1.0)
