"""Stubs: modules that do not run, because what they would answer is known.

A pass that begins in the middle of a model is the library's own forward pass in which
some modules answer from a record. `kept_at` makes the record in another pass,
`start_stubs` and `skip_stubs` say what answers instead of which module, `stubbed` puts
that in place for one pass. Which modules these are is said by a `Start` and a
`Skip` for every hookpoint, found by `workers.shortcuts`.

A stub is a `forward` attribute of one module: its own hooks run, those inside it do
not. Tensors are copied when they are recorded and again when they are given, so that
a library that writes to what it gets harms nothing. Recording comes before all other
hooks of a module, which then act on the stub's answer as they did on the module's.

Shapes: T positions, N inputs and D outputs of a projection.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from workers.messages import SITES, Site

Place = tuple[int, int]
"""A hookpoint: its layer, and its site's number in `SITES`. They ascend as they are computed."""


Forward = Callable[..., object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What to do with modules, by their paths, so that a pass begins at a place."""

    below: tuple[str, ...]
    """Layers below, ascending: each returns what the last of them returned."""
    returned: tuple[str, ...]
    """Modules that return what they returned."""
    projection: str
    """Whose input is the place."""
    holder: str | None
    """Returns what it returned, but for the projection's output, which is computed."""
    slot: int = 0
    """Which leaf of the holder's answer that is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """What to do with modules where all inputs of a projection are held."""

    projection: str
    """It computes one row and repeats it."""
    idle: str | None = None
    """Does not run: the holder, or what makes the projection's input; None: all of it runs."""
    holds: bool = False
    """Whether it is the holder, and answers with the projection's output."""
    neurons: int = 0
    slot: int = 0
    """Which leaf of its answer is a tensor; all others are None."""
    leaves: int = 0
    spec: TreeSpec | None = None
    """Structure of its answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcuts:
    """Of every place of a model, how to start there and what to skip."""

    starts: Mapping[Place, Start]
    skips: Mapping[Place, Skip]


def place_of(layer: int, site: Site) -> Place:
    """Return a hookpoint as a place."""
    return layer, SITES.index(site)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits; so a number that is not one equals itself."""
    return one.shape == other.shape and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a module returned: copies of its tensors, and the structure they were in."""

    leaves: list[Tensor | None]
    spec: TreeSpec

    def again(self, *_: object, **__: object) -> object:
        """Return it, in copies: what comes after may write to them."""
        leaves = [None if leaf is None else leaf.clone() for leaf in self.leaves]
        return tree_unflatten(leaves, self.spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What one pass was recorded of."""

    answers: dict[str, Answer] = field(default_factory=dict)
    """By path of the module."""
    fed: dict[str, Tensor] = field(default_factory=dict)
    """By path of the projection, its input."""


@contextmanager
def kept_at(module: nn.Module, shortcuts: Shortcuts, places: Collection[Place]) -> Iterator[Kept]:
    """Record what starting at places needs, in the pass made inside."""
    starts = [shortcuts.starts[place] for place in places]
    whole = {path for start in starts for path in (*start.below[-1:], *start.returned)}
    around = {start.holder: start for start in starts if start.holder is not None}
    kept = Kept()

    def answered(path: str, _: nn.Module, __: object, answer: object) -> None:
        leaves, spec = tree_flatten(answer)
        if path not in whole:  # a holder, whose projection is computed anew
            leaves[around[path].slot] = None
        copies = [leaf.clone() if isinstance(leaf, Tensor) else None for leaf in leaves]
        kept.answers[path] = Answer(leaves=copies, spec=spec)

    def given(path: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.fed[path] = args[0].clone()

    # First of all hooks on a module: others run again wherever it is started from.
    with ExitStack() as stack:
        for path in whole | around.keys():
            after = module.get_submodule(path).register_forward_hook(
                partial(answered, path), prepend=True
            )
            stack.callback(after.remove)
        for start in around.values():
            before = module.get_submodule(start.projection).register_forward_pre_hook(
                partial(given, start.projection), prepend=True
            )
            stack.callback(before.remove)
        yield kept


def start_stubs(
    module: nn.Module, shortcuts: Shortcuts, kept: Kept, place: Place
) -> Mapping[str, Forward]:
    """Return stubs by path with which a pass begins at a place."""
    start = shortcuts.starts[place]
    stubs: dict[str, Forward] = {path: kept.answers[path].again for path in start.returned}
    for path in start.below:
        stubs[path] = kept.answers[start.below[-1]].again
    if start.holder is not None:
        answer, fed = kept.answers[start.holder], kept.fed[start.projection]
        projection = module.get_submodule(start.projection)

        def projected(*_: object, **__: object) -> object:
            leaves = [None if leaf is None else leaf.clone() for leaf in answer.leaves]
            leaves[start.slot] = projection(fed)
            return tree_unflatten(leaves, answer.spec)

        stubs[start.holder] = projected
    return stubs


def skip_stubs(module: nn.Module, skip: Skip, *, needed: bool) -> Mapping[str, Forward]:
    """Return stubs by path that leave out what feeds a projection, unless others need it."""
    projection = module.get_submodule(skip.projection)
    assert isinstance(projection, nn.Linear)
    real = projection.forward

    def one_row(x: Tensor) -> Tensor:
        row_1D = real(x.new_zeros(1, x.shape[-1]))  # as any other row: all its columns are zero
        return row_1D.expand(*x.shape[:-1], -1).contiguous()

    def idle(*args: object, **kwargs: object) -> object:
        given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        zeros = projection.weight.new_zeros(()).expand(*given.shape[:-1], skip.neurons)
        leaves: list[object] = [None] * skip.leaves
        leaves[skip.slot] = projection(zeros) if skip.holds else zeros
        assert skip.spec is not None
        return tree_unflatten(leaves, skip.spec)

    stubs: dict[str, Forward] = {skip.projection: one_row}
    if skip.idle is not None and not needed:
        stubs[skip.idle] = idle
    return stubs


@contextmanager
def stubbed(module: nn.Module, stubs: Mapping[str, Forward]) -> Iterator[None]:
    """Let modules answer with what stubs return, inside the block."""
    with ExitStack() as stack:
        for path, stub in stubs.items():
            part = module.get_submodule(path)
            if "forward" in part.__dict__:  # somebody else's, put back afterwards
                stack.callback(part.__dict__.__setitem__, "forward", part.__dict__["forward"])
            else:
                stack.callback(part.__dict__.pop, "forward")
            part.__dict__["forward"] = stub
        yield
