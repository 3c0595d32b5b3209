"""Shortcuts: which modules of a model need not run, found out by watching one pass.

A cell's first place is its lowest held hookpoint. Up to there it is the bare model,
so what was computed there once can be given back (`workers.stubs` does). This
module says what to give back, and where, with no code for any family: every module is
watched while a small batch runs, and what the calls showed is the answer.

    Start   how to begin at a place (layer, site). Layers below return what the layer just
            below the place returned. Inside the place's layer the *holder* is the
            innermost module round the projection whose answer contains the projection's
            own: it answers with the projection of its recorded input, and so hooks and
            folds at the projection still act. Other modules of the layer that end
            before the holder begins (or, without one, before the projection does)
            return what they returned. So does what multiplies before the first layer: patch
            embeddings.
    Skip    how to leave out what feeds a projection whose inputs are all held. Its
            output is the same at every position. The holder answers with it; without one,
            the module whose answer *is* the projection's input answers with zeros.

Only modules that multiply by a matrix are worth it: looking up an embedding,
normalising or activating costs what copying its result would.

A module is left alone where it is called more than once in a pass, or answers with
anything but tensors and None, in tuples, lists or a library's output classes. A layer
that does so, or computes its MLP before its attention, cannot be shared (`UnshareableError`).
What watching cannot see (a module that also writes elsewhere) is found by comparing
bits, which is up to `workers.prefix`.

Shapes: S sequences, T positions, N inputs and D outputs of a projection.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten

from workers import hooks
from workers.loading import Model
from workers.messages import SITES, Batch
from workers.stubs import Place, Shortcuts, Skip, Start, place_of, same_bits


class UnshareableError(ValueError):
    """A model in which no pass can begin in the middle."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """One call of a module; times are counted in beginnings and ends of calls."""

    began: int
    ended: int
    lead: tuple[int, ...] | None
    """Shape, but for the last dimension, of the first tensor it was given."""
    leaves: list[object]
    spec: TreeSpec

    def plain(self) -> bool:
        """Whether it answered with tensors, at least one, and None."""
        some = any(isinstance(leaf, Tensor) for leaf in self.leaves)
        return some and all(leaf is None or isinstance(leaf, Tensor) for leaf in self.leaves)

    def only(self, wanted: Tensor) -> int | None:
        """Return which leaf is the tensor, or None where there is another or it is not there."""
        tensors = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]
        slot = self.find(wanted)
        return slot if self.plain() and tensors == [slot] else None

    def find(self, wanted: Tensor) -> int | None:
        """Return which leaf is the tensor, by itself or by another name."""
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, Tensor) and _one(leaf, wanted):
                return i
        return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Projected:
    """What a projection was given and returned."""

    fed: Tensor
    out: Tensor
    copy: Tensor
    """Of what it returned, as it was then."""


def find_shortcuts(model: Model, batch: Batch) -> Shortcuts:
    """Watch the model run a small batch; return its shortcuts. Raises UnshareableError."""
    trace = _Trace(model)
    with torch.inference_mode(), ExitStack() as stack:
        for path, module in model.module.named_modules():
            if path:
                trace.watch(path, module, stack)
        hooks.hidden(model, batch)
    return trace.found()


class _Trace:
    """Calls of all modules in one pass; the tensors of one layer are kept at a time."""

    def __init__(self, model: Model) -> None:
        self._module, self._clock = model.module, 0
        names = {id(module): path for path, module in model.module.named_modules()}
        self._layers = [
            f"{model.family.layers}.{i}" for i in range(len(hooks.projections(model, SITES[0])))
        ]
        self._projections = {
            names[id(projection)]: place_of(layer, site)
            for site in SITES
            for layer, projection in enumerate(hooks.projections(model, site))
        }
        self._open: list[tuple[int, tuple[int, ...] | None]] = []
        self._calls: dict[str, list[_Call]] = {}
        self._projected: dict[str, _Projected] = {}
        self._before: tuple[str, ...] = ()
        self._done: list[str] = []
        self._starts: dict[Place, Start] = {}
        self._skips: dict[Place, Skip] = {}

    def watch(self, path: str, module: nn.Module, stack: ExitStack) -> None:
        """Put hooks on one module, which `stack` removes."""
        # First of all hooks: what the module itself is given and returns, others' changes apart.
        before = module.register_forward_pre_hook(
            partial(self._begin, path), prepend=True, with_kwargs=True
        )
        after = module.register_forward_hook(partial(self._end, path), prepend=True)
        stack.callback(before.remove)
        stack.callback(after.remove)
        if path in self._projections:
            last = module.register_forward_hook(partial(self._project, path))
            stack.callback(last.remove)

    def found(self) -> Shortcuts:
        """Return what was found once the pass is over."""
        if self._done != self._layers:
            raise UnshareableError(
                f"The {len(self._layers)} layers of this model ran as {self._done}, where each was"
                " expected once, in order."
            )
        return Shortcuts(starts=self._starts, skips=self._skips)

    def _begin(
        self, path: str, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        given = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if path in self._layers:
            if path == self._layers[0]:
                self._before = self._outermost(self._clock)
            self._calls, self._projected = {}, {}
        if path in self._projections and given is not None:
            self._fed = given
        self._open.append((self._clock, None if given is None else tuple(given.shape[:-1])))
        self._clock += 1

    def _end(self, path: str, _: nn.Module, __: object, answer: object) -> None:
        (began, lead), (leaves, spec) = self._open.pop(), tree_flatten(answer)
        call = _Call(began=began, ended=self._clock, lead=lead, leaves=leaves, spec=spec)
        self._clock += 1
        if path in self._layers:
            self._finish(path, call)
        else:
            self._calls.setdefault(path, []).append(call)

    def _project(self, path: str, _: nn.Module, __: object, out: Tensor) -> None:
        self._projected[path] = _Projected(fed=self._fed, out=out, copy=out.clone())

    def _finish(self, layer: str, call: _Call) -> None:
        """Look at the calls of one layer, which has just ended."""
        number = len(self._done)
        self._done.append(layer)
        inside = sorted((at, path) for path, at in self._projections.items() if at[0] == number)
        calls = [self._calls.get(path, []) for _, path in inside]
        if (
            not call.plain()
            or [len(c) for c in calls] != [1, 1]
            or [c[0].began for c in calls] != sorted(c[0].began for c in calls)
        ):
            raise UnshareableError(
                f"`{layer}` of this model answers with something other than tensors, or does not"
                " call its attention's and then its MLP's output projection, once each."
            )
        for place, path in inside:
            projected = self._projected[path]
            holder, slot = self._holder(path, projected)
            self._starts[place] = Start(
                below=tuple(self._layers[:number]),
                returned=self._before + self._outermost(self._calls[holder or path][0].began),
                projection=path,
                holder=holder,
                slot=slot,
            )
            self._skips[place] = self._skip(path, projected, holder)
        self._calls, self._projected = {}, {}

    def _holder(self, path: str, projected: _Projected) -> tuple[str | None, int]:
        """Return the innermost module round a projection whose answer contains its output."""
        parts = path.split(".")
        for depth in range(len(parts) - 1, 0, -1):
            calls = self._calls.get(".".join(parts[:depth]), [])
            slot = calls[0].find(projected.out) if len(calls) == 1 and calls[0].plain() else None
            if slot is not None:
                leaf = calls[0].leaves[slot]
                assert isinstance(leaf, Tensor)
                if same_bits(leaf, projected.copy):  # and nothing was added to it in place
                    return ".".join(parts[:depth]), slot
        return None, 0

    def _skip(self, path: str, projected: _Projected, holder: str | None) -> Skip:
        fed, out = projected.fed, projected.out
        feeders = [
            name
            for name, calls in self._calls.items()
            if len(calls) == 1 and calls[0].only(fed) is not None
        ]
        idle = holder or min(feeders, key=lambda name: self._calls[name][0].began, default=None)
        call = self._calls[idle][0] if idle else None
        # Where the holder answers with other tensors too, nothing else would make these.
        slot = call.only(out if holder else fed) if call else None
        lead = tuple(fed.shape[:-1])
        if call is None or slot is None or call.lead != lead or tuple(out.shape[:-1]) != lead:
            return Skip(projection=path)
        return Skip(
            projection=path,
            idle=idle,
            holds=holder is not None,
            neurons=fed.shape[-1],
            slot=slot,
            leaves=len(call.leaves),
            spec=call.spec,
        )

    def _outermost(self, until: int) -> tuple[str, ...]:
        """Return the modules that ended before a time and are worth not running again."""
        chosen: list[str] = []
        for path, calls in sorted(self._calls.items(), key=lambda item: item[1][0].began):
            inside = any(path.startswith(f"{other}.") for other in chosen)
            once = len(calls) == 1 and calls[0].ended < until and calls[0].plain()
            if once and not inside and _multiplies(self._module.get_submodule(path)):
                chosen.append(path)
        return tuple(chosen)


def _one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one: the same values at the same place in memory."""
    return a is b or (
        a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
        and a.data_ptr() == b.data_ptr()
    )


def _multiplies(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix, which looking up a row of one is not."""
    return any(
        parameter.ndim > 1
        for part in module.modules()
        if not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    )
