"""Pace: which cells a sweep evaluates next, and in which rounds.

Without `precision` that is known beforehand: every cell, in all rounds that it lacks. With
it, the cells that decide for a company (`orchestrator.stopping`) are asked for one more
round whenever all of them have answered the last one and it did not do; once it is known
how far that company is read, all its other cells are asked for as much, at once. A cell of
several companies is read as far as the one that needs most.

Calls are made of what can be asked for at the same time. So how cells meet in calls depends
on the order in which calls end; what they answer does not. Where a part of the plan leaves
out cells that decide, those of the part are judged by the answers there are, and read to
the end where these do not do.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, repeat

from orchestrator.calls import calls, rounds_of
from orchestrator.cells import data_of
from orchestrator.names import data_file
from orchestrator.plan import Plan
from orchestrator.stopping import (
    COLUMNS,
    Company,
    Judge,
    Visits,
    companies,
    frontier,
    left_out,
    visits,
)
from orchestrator.store import Store
from orchestrator.tasks import Task

_NONE: frozenset[int] = frozenset()


class Pace:
    """Says what is to be evaluated: `begin`, then `more` after each call."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        answered: Mapping[str, frozenset[int]],
        files: Iterable[str],
    ) -> None:
        """`answered` are the rounds of cells that are there, and `files` the results of them.

        The files are looked at if the sweep asks for precision. Only then does what is kept here
        grow with what is answered.
        """
        self._plan, self._store = plan, store
        self._rounds = {model: rounds_of(plan, ref) for model, ref in plan.models.items()}
        self._every: list[Company] = []
        self._answered: dict[str, frozenset[int]] = {}
        self._asked: dict[str, frozenset[int]] = {}
        self._given_up: set[str] = set()
        self._sets: dict[frozenset[int], frozenset[int]] = {}
        self._of: dict[str, list[int]] = defaultdict(list)
        here: Mapping[int, None] = {}
        some: Mapping[str, Sequence[int]] = {}
        if plan.spec.precision is not None:
            self._every = companies(plan.rows, plan.spec.precise)
            self._judge = Judge(self._every, self._visits, plan.spec.precision)
            self._answered |= answered
            self._unread = list(files)
            for number, company in enumerate(self._every):
                for cell in company.cells:
                    self._of[cell].append(number)
            here = dict.fromkeys(n for cell in plan.cells for n in self._of.get(cell, ()))
            some = self._lacking(here)
        self._left = {**some, **self._ends(answered)}
        if some:  # in the order of the sweep file, which is that of the ends alone
            order = sorted(self._left, key=plan.cells.place)
            self._left = {cell: self._left[cell] for cell in order}
        open_ = {cell for n in here if self._extent(n) is None for cell in self._every[n].cells}
        self.unanswered = {cell for cell in open_ if cell in plan.cells} | self._left.keys()
        """Cells of the plan that are not answered far enough, to begin with."""

    def begin(self) -> list[Task]:
        """Return the calls to begin with; asked for once."""
        missing, self._left = self._left, {}
        return self._called(missing)

    def more(self, task: Task) -> list[Task]:
        """Return the calls that can be made now that a task is done."""
        if not self._every or not task.cells:
            return []
        for cell in task.cells:
            self._add(self._answered, cell, task.arguments["asked"])
        self._unread.append(task.file)
        touched = dict.fromkeys(n for cell in task.cells for n in self._of.get(cell, ()))
        return self._called(self._lacking(touched))

    def without(self, cells: Sequence[str]) -> list[Task]:
        """Return the calls that can be made now that some cells are given up.

        Nothing can be judged by these, so whoever would have stopped with them is read to the end.
        """
        if not self._every:
            return []
        self._given_up.update(cells)
        touched = dict.fromkeys(n for cell in cells for n in self._of.get(cell, ()))
        return self._called(self._lacking(touched))

    def computed(self, lost: Collection[str]) -> int:
        """Return how many cells were called for, and are not among the lost.

        With precision, some of those that were open at the start had been read far enough.
        """
        return len((self._asked.keys() if self._every else self.unanswered) - set(lost))

    def _add(self, of: dict[str, frozenset[int]], cell: str, rounds: Iterable[int]) -> None:
        """Add rounds to a cell's; the same few sets serve all cells."""
        every = of.get(cell, _NONE).union(rounds)
        of[cell] = self._sets.setdefault(every, every)

    def _called(self, missing: Mapping[str, Sequence[int]]) -> list[Task]:
        if self._every:
            for cell, asked in missing.items():
                self._add(self._asked, cell, asked)
        return calls(self._plan, missing)

    def _ends(self, answered: Mapping[str, frozenset[int]]) -> dict[str, Sequence[int]]:
        """Return the rounds that cells of no company lack to the end, in order."""
        lacking: dict[str, Sequence[int]] = {}
        known: dict[tuple[str, frozenset[int]], Sequence[int]] = {}  # the same few for all cells
        cells = self._plan.cells
        # Cells of a model stand together; asking each for its own would take as long as the rest.
        models = chain.from_iterable(repeat(model, n) for model, n in cells.counts.items())
        alone = set(left_out(cells, self._every)) if self._every else cells
        for cell, model in zip(cells, models, strict=True):
            if cell not in alone:
                continue
            key = model, answered.get(cell, _NONE)
            if key not in known:
                known[key] = [r for r in range(self._rounds[model]) if r not in key[1]]
            if known[key]:
                lacking[cell] = known[key]
        return lacking

    def _lacking(self, numbers: Iterable[int]) -> dict[str, Sequence[int]]:
        """Return the rounds that cells of some companies lack now."""
        found: dict[str, frozenset[int]] = {}
        for number in numbers:
            for cell, rounds in self._wanted(number):
                if self._askable(cell):
                    self._add(found, cell, rounds)
        lacking = {
            cell: sorted(rounds - self._answered.get(cell, _NONE) - self._asked.get(cell, _NONE))
            for cell, rounds in found.items()
        }
        # In the order of the sweep file, whichever company asked first.
        some = sorted((cell for cell in lacking if lacking[cell]), key=self._plan.cells.place)
        return {cell: lacking[cell] for cell in some}

    def _wanted(self, number: int) -> Iterable[tuple[str, Iterable[int]]]:
        """Yield the cells of a company that can be asked now, and the rounds they are wanted in."""
        company, extent = self._every[number], self._extent(number)
        if extent is not None:
            return ((cell, range(extent)) for cell in company.cells)
        done = frontier(company, self._answered)
        behind = [cell for cell in company.decisive if done not in self._answered.get(cell, _NONE)]
        if not all(self._askable(cell) for cell in behind):
            to_the_end = range(self._rounds[company.model])
            return ((cell, to_the_end) for cell in company.cells)
        return ((cell, [done]) for cell in behind)

    def _askable(self, cell: str) -> bool:
        return cell in self._plan.cells and cell not in self._given_up

    def _extent(self, number: int) -> int | None:
        """Return how far a company is read; None while that is not known."""
        done = frontier(self._every[number], self._answered)
        if not done:
            return None
        for file in self._unread:
            self._judge.measured.add(self._store.table(file, COLUMNS))
        self._unread.clear()
        return self._judge.extent(number, done)

    def _visits(self, model: str) -> Visits:
        file = data_file(model, data_of(self._plan.spec, model))
        table = self._store.table(file, ["document", "role", "target"])
        return visits(table, self._plan.spec.seeds.visits, self._rounds[model])
