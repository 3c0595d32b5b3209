"""Naming: the names of all points of a model, from texts that are put together once.

A cell's name is the hash of its recipe as text (`orchestrator.names`). Written out for
every point that takes tens of microseconds, nearly all of it for what many points share. So
the text is cut where points differ,

    {… "held": { … "selection": ORDER …} … "method": METHOD … "values": VALUES}

and its pieces are written down once: what is held for a rule's fraction, the method and
what it puts in for each draw. Of masks of one rule only the order differs, 24 digits in the
middle; hashing the whole is what remains to be done for each. Names are those of
`orchestrator.cells.recipe`, to the letter: a test compares.

Where the order or the values depend on what is held (learned constants, statistics and scores
that are taken again), every point is asked for by itself. Each of those needs tasks of its
own, so there are few.

While points are named, the tasks that their cells need are added to the plan.

Shapes: N points of a model, in the order of `orchestrator.grid`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.arms import MethodSpec
from orchestrator.cells import Arm, Inputs, Values, asked, bare
from orchestrator.draft import Made
from orchestrator.grid import Grid, Rule
from orchestrator.held import UNORDERED, HeldSet
from orchestrator.names import canonical, hashed, spelled

Codes = NDArray[np.int32]
NONE = -1
"""The code of no order, and of no values."""
_CUTS = ("held", "method", "values")
"""Keys of a cell's recipe that points differ in, in the order of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The points of one model in one basis, and what their cells need."""

    grid: Grid
    data: Made
    """Its sequences."""
    orders: tuple[str, ...]
    """Files of orders."""
    values: tuple[Values, ...]
    """What is put in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """The points of a group, named."""

    group: Group
    name_N: list[str]
    """The cell of every point."""
    order_N: Codes
    """Which of the orders its cell needs; NONE where it needs none."""
    value_N: Codes
    """Which of the values; NONE where nothing is held."""


def named(grid: Grid, inputs: Inputs) -> Named:
    """Return the names of all points of a grid, and what their cells need."""
    return _Naming(grid, inputs).done()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pieces:
    """The points of a rule's fractions and a method's draws, but for the order of units."""

    texts: tuple[tuple[str, bytes, bytes], ...]
    """A name that no order changes, or the empty one and the text before and after the order."""
    ordered: NDArray[np.bool_]
    values: Codes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Some:
    """The points of one arm and method, named."""

    names: list[str]
    orders: Codes
    values: Codes


class _Naming:
    """Names the points of one grid."""

    def __init__(self, grid: Grid, inputs: Inputs) -> None:
        """Cut the recipe of a cell where points differ."""
        self.grid, self.inputs = grid, inputs
        plain = bare(grid.spec, grid.ref, inputs.data)
        self._bare = hashed(spelled("cell", plain).encode())
        rest = spelled("cell", plain | {cut: f"\0{cut}" for cut in _CUTS})
        self._fixed = []
        for cut in _CUTS:
            before, _, rest = rest.partition(canonical(f"\0{cut}"))
            self._fixed.append(before)
        self._fixed.append(rest)
        self._methods = [canonical(asked(m)["method"]) for m in grid.methods]
        self._orders: dict[str, int] = {}
        self._values: list[Values] = []
        self._texts: list[str] = []
        self._drawn: dict[tuple[object, ...], int] = {}

    def done(self) -> Named:
        """Return all points, named."""
        name_N: list[str] = []
        orders, values = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for rule in self.grid.rules:
            for some in self._of_rule(rule):
                name_N += some.names
                orders.append(some.orders)
                values.append(some.values)
        group = Group(
            grid=self.grid,
            data=self.inputs.data,
            orders=tuple(self._orders),
            values=tuple(self._values),
        )
        order_N, value_N = np.concatenate(orders), np.concatenate(values)
        return Named(group=group, name_N=name_N, order_N=order_N, value_N=value_N)

    def _of_rule(self, rule: Rule) -> Iterator[_Some]:
        """Yield the points of a rule, arm by arm and method by method."""
        held = [None if some is None else _cut(some) for some in rule.sets]
        moving = [self.inputs.moves(rule.arms[0], method) for method in self.grid.methods]
        pieces: dict[int, _Pieces] = {}
        for arm in rule.arms:
            code, order = NONE, b""
            for m, method in enumerate(self.grid.methods):
                if moving[m]:
                    yield self._moving(rule, arm, m)
                    continue
                if not order:
                    code, order = self._base(rule, arm, method)
                if m not in pieces:
                    pieces[m] = self._pieces(rule, held, m)
                some = pieces[m]
                yield _Some(
                    names=[n or hashed(before + order + after) for n, before, after in some.texts],
                    orders=np.where(some.ordered, code, NONE).astype(np.int32),
                    values=some.values,
                )

    def _base(self, rule: Rule, arm: Arm, method: MethodSpec) -> tuple[int, bytes]:
        """Return the one order of an arm, as code and text; none where nothing is ever held."""
        some = next((some for some in rule.sets if some is not None), None)
        if some is None:
            return NONE, b"-"
        order = self.inputs.order(arm, method, some.chosen)
        return self._coded(order), canonical(order.name).encode()

    def _coded(self, order: Made) -> int:
        return self._orders.setdefault(order.file, len(self._orders))

    def _pieces(self, rule: Rule, held: Sequence[tuple[str, str] | None], m: int) -> _Pieces:
        texts: list[tuple[str, bytes, bytes]] = []
        values: list[int] = []
        for some, cut in zip(rule.sets, held, strict=True):
            for draw in self.grid.draws[m]:
                if some is None or cut is None or not some.units:
                    texts.append((self._bare, b"", b""))
                    values.append(NONE)
                    continue
                value = self._value(rule.arms[0], m, some, draw)
                values.append(value)
                before, after = self._around(cut, m, value)
                is_whole = some.whole is not None
                name = hashed((before + after).encode()) if is_whole else ""
                texts.append((name, before.encode(), after.encode()))
        ordered = np.array([not name for name, _, _ in texts], np.bool_)
        return _Pieces(texts=tuple(texts), ordered=ordered, values=np.array(values, np.int32))

    def _around(self, cut: tuple[str, str], m: int, value: int) -> tuple[str, str]:
        """Return the text of a cell's recipe before and after the name of the order."""
        first, second, third, last = self._fixed
        between = cut[1] + second + self._methods[m] + third
        return first + cut[0], between + self._texts[value] + last

    def _value(self, arm: Arm, m: int, some: HeldSet, draw: int | None) -> int:
        """Return the code of what a method puts in for a draw, whatever is held."""
        key = (arm.sites, m, draw)
        if key not in self._drawn:
            self._drawn[key] = self._put(arm, m, some, draw)
        return self._drawn[key]

    def _put(self, arm: Arm, m: int, some: HeldSet, draw: int | None) -> int:
        values = self.inputs.values(arm, self.grid.methods[m], some, draw)
        self._values.append(values)
        self._texts.append(canonical(values.recipe))
        return len(self._values) - 1

    def _moving(self, rule: Rule, arm: Arm, m: int) -> _Some:
        """Return the points of an arm and a method, one by one."""
        method = self.grid.methods[m]
        found: list[tuple[str, int, int]] = []
        for some in rule.sets:
            now = some and replace(some, order=self.inputs.order(arm, method, some.chosen))
            for draw in self.grid.draws[m]:
                if now is None or not now.units:
                    found.append((self._bare, NONE, NONE))
                    continue
                value = self._put(arm, m, now, draw)
                before, after = self._around((canonical(now.recipe), ""), m, value)
                code = self._coded(now.order) if now.whole is None else NONE
                found.append((hashed((before + after).encode()), code, value))
        return _Some(
            names=[name for name, _, _ in found],
            orders=np.array([code for _, code, _ in found], np.int32),
            values=np.array([value for _, _, value in found], np.int32),
        )


def _cut(some: HeldSet) -> tuple[str, str]:
    """Return the text of what is held before and after the name of its order."""
    before, _, after = canonical(some.recipe).partition(canonical(UNORDERED.name))
    return before, after
