"""Folding: the constant at some inputs of a linear layer becomes part of the layer.

    W x + b,  x_S := c_S      =      W' x + (b + W[:, S] c_S),  W'[:, S] := 0

A soft mixture x_S := (1-α) x_S + α c_S likewise: columns become (1-α) W[:, S],
and α W[:, S] c_S is added. α = 1 is the above.

`Fold` does this to one projection per layer of a live model, any number of
times, and each time reads back what it did. The offset is computed once, in
float64 on the projection's own device; entering and leaving are copies.

* Only values change, in place. Checkpoints are memory-mapped and their pages
  shared, so a parameter is cloned before it is written to for the first time.
  Leaving puts back the saved weight and bias, bit for bit, also after an error.
* A bias that is not there exists only while folded.
* Below float32 the bias stays, and `workers.additions` adds the offset to the output in
  float32. So c is not rounded, as an activation put in by a hook would be. Scaled columns
  would be: there soft mixtures do not fold (`workers.replacing` makes them).
* Where biases and additions stand (`workers.compiled`), values are all that is written.

What reading back cannot see is a forward pass that goes round the module:
`workers.ablation.checked_by_hook` does. A projection is folded once at a time.

Shapes: L layers, N inputs and D outputs of a projection, H held inputs.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.additions import Addition, add, standing
from workers.constants import check_held, check_values

_cloned: WeakKeyDictionary[nn.Linear, dict[str, Tensor]] = WeakKeyDictionary()
"""By projection and name, the parameters whose values are our own and no shared page any more."""
_in_use: WeakSet[nn.Linear] = WeakSet()
"""Projections that are folded just now."""


class AblationError(RuntimeError):
    """What was told to be held is not what the forward pass used."""


class Together(Protocol):
    """The processes that have a projection's columns between them (`workers.sharding`)."""

    @property
    def size(self) -> int:
        """How many they are."""

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of what all of them give; it may be written to."""


class Alone:
    """One process, which has all columns."""

    size = 1

    def sum(self, x: Tensor) -> Tensor:
        """Return what is given."""
        return x


_ALONE = Alone()


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a fold did, read back from the parameters of the live model."""

    told: int
    """Columns that were to be held, over all layers."""
    held: int
    """Columns that are all zero now, but for those that were so before without being told to.
    Soft mixtures: those of the told that are 1 - α times what they were."""
    zero_before: int
    """Those among `held` that were all zero already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What there is to fold in one layer."""

    layer: int
    told: int
    """Columns to hold, whoever has them."""
    columns_H: Tensor
    told_N: Tensor
    offset_D: Tensor
    """α W[:, S] c_S, float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Before:
    """What one projection was before it was folded."""

    weight_DN: Tensor
    bias_D: Tensor | None


class Fold:
    """Inputs of projections, ready to be held at constants: `with fold as proof: …`.

    `find` returns the live model's projections, one per layer; it is asked
    again at every entry and for the reading back, so that a fold never trusts
    a module it has seen before. Entering returns the `Proof`, or raises
    `AblationError` with the model as it was. Making one raises ValueError
    where `held` (L arrays of ascending indices) or `values_LN` do not fit.
    Where columns are shared out, all who have some do the same `together`, each with
    its own of `held` and `values_LN`; offsets are sums over them, and so is the proof.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[nn.Linear]],
        held: Sequence[NDArray[np.int64]],
        values_LN: NDArray[np.float64],
        share: float = 1.0,
        together: Together = _ALONE,
    ) -> None:
        self._find, self._share, self._together = find, share, together
        projections = find()
        _refuse_folded(projections)
        layers, neurons = len(projections), projections[0].in_features
        check_held(held, layers=layers, neurons=neurons)
        check_values(held, values_LN, layers=layers, neurons=neurons)
        told_L = together.sum(torch.tensor([len(held_H) for held_H in held])).tolist()
        self._parts = [
            _part(layer, projections[layer], held[layer], share * values_LN[layer])
            for layer, told in enumerate(told_L)
            if told
        ]
        if together.size > 1 and self._parts:  # all layers at once
            summed_PD = together.sum(torch.stack([part.offset_D for part in self._parts]))
            self._parts = [
                replace(part, told=told_L[part.layer], offset_D=offset_D)
                for part, offset_D in zip(self._parts, summed_PD, strict=True)
            ]
        self._undo = ExitStack()
        self._additions: dict[int, Addition] = {}

    def __enter__(self) -> Proof:
        """Fold, read back, and return what was read."""
        projections = self._find()
        _refuse_folded(projections)
        self._additions = {}
        with torch.no_grad(), ExitStack() as undo:
            before = [self._fold(projections[part.layer], part, undo) for part in self._parts]
            proof = self._read_back(before)
            self._undo = undo.pop_all()  # nothing went wrong: undone by the exit, not here
        return proof

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Put everything back, bit for bit."""
        with torch.no_grad():
            self._undo.close()
        silent = [layer for layer, added in self._additions.items() if not added.calls]
        if kind is None and silent and len(silent) < len(self._additions):
            raise AblationError(
                f"The offset of the held constants was never added in layers {silent}, though"
                " others ran. Correct this family's row in workers/families.py."
            )

    def _fold(self, projection: nn.Linear, part: _Part, undo: ExitStack) -> _Before:
        """Scale the columns, add the offset; how to undo each step is noted before it is done."""
        _in_use.add(projection)
        undo.callback(_in_use.discard, projection)
        weight_DN = _own(projection, "weight")
        # All of it is copied: reaching for columns costs more than twice as much.
        saved_DN = weight_DN.clone()
        undo.callback(weight_DN.copy_, saved_DN)
        if self._share == 1:
            weight_DN.masked_fill_(part.told_N, 0)
        else:
            saved_DH = saved_DN.index_select(1, part.columns_H)
            weight_DN.index_copy_(1, part.columns_H, saved_DH * (1 - self._share))
        bias_D = None if projection.bias is None else projection.bias.detach().clone()
        if _below_float32(weight_DN):
            self._additions[part.layer] = add(projection, part.offset_D, undo)
        elif bias_D is None:
            undo.callback(setattr, projection, "bias", None)
            new_D = part.offset_D.to(weight_DN.dtype)
            projection.bias = nn.Parameter(new_D, requires_grad=False)
        else:
            own_D = _own(projection, "bias")
            undo.callback(own_D.copy_, bias_D)
            own_D.copy_(bias_D.double() + part.offset_D)
        return _Before(weight_DN=saved_DN, bias_D=bias_D)

    def _read_back(self, before: Sequence[_Before]) -> Proof:
        """Count held columns in the live model; raise where they are not those told."""
        if not self._parts:
            return Proof(told=0, held=0, zero_before=0)
        projections = self._find()
        rows = [
            _measure(projections[part.layer], part, was, self._share)
            for part, was in zip(self._parts, before, strict=True)
        ]
        everybody = self._together.size
        # One wait for the device, not one per layer.
        measured = self._together.sum(torch.stack(rows)).tolist()
        for part, (right, held, _, agrees) in zip(self._parts, measured, strict=True):
            if min(right, agrees) < everybody:
                raise AblationError(
                    f"Layer {part.layer}: {part.told} columns of the output projection"
                    f" were to be held; read back from the weight the forward pass uses, {held} are"
                    f" ({'the' if right == everybody else 'not the'} right ones), and the bias"
                    f" {'agrees' if agrees == everybody else 'does not agree'} with W·c. Something"
                    " put another module or parameter in place; load the model again."
                )
        return Proof(
            told=sum(part.told for part in self._parts),
            held=sum(row[1] for row in measured),
            zero_before=sum(row[2] for row in measured),
        )


def _refuse_folded(projections: Sequence[nn.Linear]) -> None:
    folded = [i for i, projection in enumerate(projections) if projection in _in_use]
    if folded:
        raise AblationError(
            f"The output projections of layers {folded} are folded already. Hold all neurons of a"
            " site in one block, or leave the first block before the second."
        )


def _part(
    layer: int, projection: nn.Linear, held_H: NDArray[np.int64], values_N: NDArray[np.float64]
) -> _Part:
    weight_DN = projection.weight.detach()
    columns_H = torch.tensor(held_H, device=weight_DN.device)
    value_H = torch.as_tensor(values_N[held_H], device=weight_DN.device)
    told_N = torch.zeros_like(weight_DN[0], dtype=torch.bool)
    told_N[columns_H] = True
    offset_D = weight_DN.index_select(1, columns_H).double() @ value_H
    return _Part(
        layer=layer, told=len(held_H), columns_H=columns_H, told_N=told_N, offset_D=offset_D
    )


def own(projection: nn.Linear) -> None:
    """Clone a projection's values now, as the first fold would: later ones only write to them."""
    for name, _ in projection.named_parameters(recurse=False):
        _own(projection, name)


def _own(projection: nn.Linear, name: str) -> Tensor:
    """Return a parameter's values, to be written to: from the first time on, a clone of them."""
    parameter: nn.Parameter = getattr(projection, name)
    ours = _cloned.setdefault(projection, {})
    # Other values may have been put in since. Ours are kept alive, so no address comes twice.
    if name not in ours or ours[name].data_ptr() != parameter.data_ptr():
        with torch.inference_mode(mode=False):  # the model can still be trained afterwards
            ours[name] = parameter.data = parameter.detach().clone()
    return ours[name]


def _measure(projection: nn.Linear, part: _Part, before: _Before, share: float) -> Tensor:
    """Return (the right columns?, columns held, of these zero before, bias agrees?) as integers."""
    weight_DN, zero_N = projection.weight, _zero_columns(before.weight_DN)
    if share == 1:
        held_N = _zero_columns(weight_DN) & (part.told_N | ~zero_N)
    else:
        wanted_DH = before.weight_DN.index_select(1, part.columns_H).double() * (1 - share)
        off_DH = (weight_DN.index_select(1, part.columns_H).double() - wanted_DH).abs()
        float32 = torch.finfo(torch.float32)  # 1 - share is rounded, and then the product
        held_H = (off_DH <= 2 * float32.eps * wanted_DH.abs() + float32.tiny).all(dim=0)
        held_N = torch.zeros_like(part.told_N).index_copy_(0, part.columns_H, held_H)
    nothing_D = torch.zeros_like(part.offset_D)
    was_D = nothing_D if before.bias_D is None else before.bias_D.double()
    found_D = nothing_D if projection.bias is None else projection.bias.double()
    if (addition := standing(projection)) is not None:
        found_D = found_D + addition.offset_D
    rounding_D = (was_D.abs() + part.offset_D.abs()) * torch.finfo(torch.float32).eps
    agrees = ((found_D - was_D - part.offset_D).abs() <= rounding_D).all()
    right = (held_N == part.told_N).all()
    return torch.stack([right.long(), held_N.sum(), (held_N & zero_N).sum(), agrees.long()])


def _zero_columns(weight_DN: Tensor) -> Tensor:
    """Return where a column is all zero, (N,); one with a nan is not."""
    return weight_DN.abs().amax(dim=0) == 0


def _below_float32(weight: Tensor) -> bool:
    return weight.dtype.itemsize < 4
