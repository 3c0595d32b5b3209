"""Additions: offsets added to what a projection returns, in float32, rounded once.

A constant c at some inputs of a projection adds W c to its output. Below float32
that offset cannot be stored in the bias, because its rounding could exceed the
difference between two constants. An `Addition` adds it to the output instead:

    out  :=  round(float32(out) + offset)

The offset is a buffer of the projection, in float32 and in no state dict. It can be
put up for one cell and taken down again (`workers.folding`), or stand for as long as a
compiled graph shall be valid (`workers.compiled`): then only its values change.

An offset of nothing is minus zero, because x + (-0) is x in every bit, also for
x = -0; so an addition that stands idle changes nothing.

Calls are counted in eager passes. A traced pass cannot count, because a number that
changes would be a new graph each time.

Shapes: D outputs of a projection.
"""

from contextlib import ExitStack
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

NOTHING = -0.0
"""What is added where nothing is to be added."""

_BUFFER = "held_offset"
_up: WeakKeyDictionary[nn.Linear, "Addition"] = WeakKeyDictionary()


class Addition:
    """An offset on one projection, minus zero until something is written to `offset`."""

    def __init__(self, projection: nn.Linear) -> None:
        self.calls = 0
        with torch.inference_mode(mode=False):  # what a compiled graph reads is ordinary
            weight_DN = projection.weight
            self.offset_D = torch.full(
                weight_DN.shape[:1], NOTHING, dtype=torch.float32, device=weight_DN.device
            )
        projection.register_buffer(_BUFFER, self.offset_D, persistent=False)
        self._handle = projection.register_forward_hook(self)
        _up[projection] = self

    def __call__(self, projection: nn.Module, args: tuple[Tensor, ...], out_STD: Tensor) -> Tensor:
        """Add the offset: a forward hook."""
        del args
        if not torch.compiler.is_compiling():
            self.calls += 1
        offset_D: Tensor = getattr(projection, _BUFFER)  # as a module's buffer a graph reads it
        return (out_STD.float() + offset_D).to(out_STD.dtype)

    def clear(self) -> None:
        """Add nothing from now on."""
        self.offset_D.fill_(NOTHING)


def add(projection: nn.Linear, offset_D: Tensor, undo: ExitStack) -> Addition:
    """Add an offset until `undo`: by the addition that stands, or by one put up for it."""
    addition = standing(projection)
    if addition is None:
        addition = Addition(projection)
        undo.callback(take_down, projection)
    else:
        undo.callback(addition.clear)
    addition.calls = 0
    addition.offset_D.copy_(offset_D)
    return addition


def standing(projection: nn.Linear) -> Addition | None:
    """Return the addition that is up on a projection, if there is one."""
    return _up.get(projection)


def take_down(projection: nn.Linear) -> None:
    """Leave the projection as it was before its addition was put up."""
    addition = _up.pop(projection)
    addition._handle.remove()
    delattr(projection, _BUFFER)
