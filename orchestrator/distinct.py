"""Distinct: the cells of a plan, each once, as columns.

A plan may have a million cells, and most who ask want a name, a model or a file of each.
So a cell is kept as its name and four numbers: whose it is, its first point, and the order
and the values that it needs. The `Cell` is made when somebody asks for one, each time anew.

The mapping has the order of the sweep file. Of points that share a cell the first says what
people read.

Shapes: C cells, N points of a group.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.cells import Cell
from orchestrator.naming import NONE, Group, Named
from workers.messages import ModelRef

Columns = NDArray[np.int32]


class Cells(Mapping[str, Cell]):
    """The cells of a plan, by name, in the order of the sweep file."""

    def __init__(
        self, groups: Sequence[Group], place: Mapping[str, int], where_C4: Columns
    ) -> None:
        """`place` numbers the names; `where_C4` says group, point, order and values of each."""
        self._groups, self._place, self._where_C4 = tuple(groups), place, where_C4
        self._donors = [
            [str(values.arguments.get("donors", "")) for values in group.values] for group in groups
        ]

    @classmethod
    def of(cls, every: Sequence[Named]) -> "Cells":
        """Return the cells of some groups' points."""
        place: dict[str, int] = {}
        where = [np.empty((0, 4), np.int32)]
        for number, some in enumerate(every):
            first = []
            for point, name in enumerate(some.name_N):
                if name not in place:
                    place[name] = len(place)
                    first.append(point)
            point_C = np.array(first, np.int32)
            group_C = np.full(len(first), number, np.int32)
            columns = (group_C, point_C, some.order_N[point_C], some.value_N[point_C])
            where.append(np.stack(columns, axis=1))
        return cls([some.group for some in every], place, np.concatenate(where))

    def only(self, names: Iterable[str]) -> "Cells":
        """Return these cells alone, in the order of the sweep file. Raises KeyError."""
        kept = sorted({self._place[name] for name in names})
        every = list(self._place)
        place = {every[old]: new for new, old in enumerate(kept)}
        return Cells(self._groups, place, self._where_C4[np.array(kept, np.int64)])

    def __len__(self) -> int:
        """How many cells there are."""
        return len(self._place)

    def __iter__(self) -> Iterator[str]:
        """Iterate over their names."""
        return iter(self._place)

    def __contains__(self, name: object) -> bool:
        """Whether there is a cell of this name."""
        return name in self._place

    def __getitem__(self, name: str) -> Cell:
        """Return a cell, made anew."""
        group, point, order, value = self._where(name)
        grid = group.grid.point(point)
        arguments: dict[str, object] = {}
        if value != NONE:
            assert grid.some is not None
            arguments = {
                **grid.some.arguments,
                "selection": None if order == NONE else group.orders[order],
                "value": group.values[value].arguments,
                "share": grid.method.share,
                "method": grid.method.label,
            }
        return Cell(
            name=name,
            ref=group.grid.ref,
            label=grid.label,
            after=self.after(name),
            arguments=arguments,
        )

    def place(self, name: str) -> int:
        """Return the number of a cell, counted in the order of the sweep file."""
        return self._place[name]

    def ref(self, name: str) -> ModelRef:
        """Return the model of a cell."""
        return self._where(name)[0].grid.ref

    def model(self, name: str) -> str:
        """Return the name of the model of a cell."""
        return self.ref(name).name

    def donors(self, name: str) -> str:
        """Return the file of the donors whose activations a cell needs; empty if none."""
        group, _, _, value = self._where_C4[self._place[name]].tolist()
        return "" if value == NONE else self._donors[group][value]

    def after(self, name: str) -> tuple[str, ...]:
        """Return the files that a cell needs."""
        group, _, order, value = self._where(name)
        return _files(group, order, value)

    def files(self, names: Iterable[str]) -> set[str]:
        """Return the files that some cells need, all together."""
        places = np.array([self._place[name] for name in names], np.int64)
        needs = np.unique(self._where_C4[places][:, [0, 2, 3]], axis=0)
        every = (_files(self._groups[g], order, value) for g, order, value in needs.tolist())
        return {file for files in every for file in files}

    @property
    def counts(self) -> dict[str, int]:
        """How many cells each model has."""
        found: dict[str, int] = {}
        for group, some in self._by_group():
            model = group.grid.ref.name
            found[model] = found.get(model, 0) + len(some)
        return found

    def table(self) -> pa.Table:
        """Return name, model and label of every cell."""
        parts = [(group, group.grid.labels(some[:, 1])) for group, some in self._by_group()]
        models = [pa.repeat(group.grid.ref.name, len(labels)) for group, labels in parts]
        columns = {
            "name": pa.array(list(self._place), pa.string()),
            "model": pa.chunked_array(models, pa.string()),
            "label": pa.chunked_array([labels for _, labels in parts], pa.string()),
        }
        return pa.table(columns)

    def _where(self, name: str) -> tuple[Group, int, int, int]:
        group, point, order, value = self._where_C4[self._place[name]].tolist()
        return self._groups[group], point, order, value

    def _by_group(self) -> Iterator[tuple[Group, Columns]]:
        """Yield the cells of each group; they stand together."""
        ends = np.searchsorted(self._where_C4[:, 0], np.arange(len(self._groups)), side="right")
        yield from zip(self._groups, np.split(self._where_C4, ends[:-1]), strict=True)


def _files(group: Group, order: int, value: int) -> tuple[str, ...]:
    files = [group.data.file]
    if order != NONE:
        files.append(group.orders[order])
    if value != NONE:
        files += [made.file for made in group.values[value].after]
    return tuple(dict.fromkeys(files))
