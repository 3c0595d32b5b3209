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


class Pace:
    """Says what is to be evaluated: `begin`, then `more` after each call."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        answered: Mapping[str, Collection[int]],
        files: Iterable[str],
    ) -> None:
        """`answered` are the rounds of cells that are there, and `files` the results of them."""
        self._plan, self._store = plan, store
        self._answered = defaultdict(set, {cell: set(there) for cell, there in answered.items()})
        self._asked: dict[str, set[int]] = defaultdict(set)
        self._rounds = {model: rounds_of(plan, ref) for model, ref in plan.models.items()}
        self._place = {cell: i for i, cell in enumerate(plan.cells)}
        self._unread = list(files)
        self._every: list[Company] = []
        if plan.spec.precision is not None:
            self._every = companies(plan.rows, plan.spec.precise)
            self._judge = Judge(self._every, self._visits, plan.spec.precision)
        self._of: dict[str, list[int]] = defaultdict(list)
        for number, company in enumerate(self._every):
            for cell in company.cells:
                self._of[cell].append(number)
        here = dict.fromkeys(n for cell in plan.cells for n in self._of.get(cell, ()))
        self._left = self._lacking(here, left_out(plan.cells, self._every))
        open_ = {cell for n in here if self._extent(n) is None for cell in self._every[n].cells}
        self.unanswered = (open_ & self._place.keys()) | self._left.keys()
        """Cells of the plan that are not answered far enough, to begin with."""

    def begin(self) -> list[Task]:
        """Return the calls to begin with."""
        return self._called(self._left)

    def more(self, task: Task) -> list[Task]:
        """Return the calls that can be made now that a task is done."""
        if not self._every or not task.cells:
            return []
        for cell in task.cells:
            self._answered[cell].update(task.arguments["asked"])
        self._unread.append(task.file)
        touched = dict.fromkeys(n for cell in task.cells for n in self._of.get(cell, ()))
        return self._called(self._lacking(touched, ()))

    def _called(self, missing: Mapping[str, Sequence[int]]) -> list[Task]:
        for cell, asked in missing.items():
            self._asked[cell].update(asked)
        return calls(self._plan, missing)

    def _lacking(self, numbers: Iterable[int], ends: Iterable[str]) -> dict[str, list[int]]:
        """Return the rounds that cells lack: of some companies now, of `ends` to the end."""
        found: dict[str, set[int]] = defaultdict(set)
        for cell in ends:
            found[cell].update(range(self._rounds[self._plan.cells[cell].model]))
        for number in numbers:
            for cell, rounds in self._wanted(number):
                if cell in self._place:
                    found[cell].update(rounds)
        lacking = {
            cell: sorted(rounds - self._answered[cell] - self._asked[cell])
            for cell, rounds in found.items()
        }
        # In the order of the sweep file, whichever company asked first.
        some = sorted((cell for cell in lacking if lacking[cell]), key=self._place.__getitem__)
        return {cell: lacking[cell] for cell in some}

    def _wanted(self, number: int) -> Iterable[tuple[str, Iterable[int]]]:
        """Yield the cells of a company that can be asked now, and the rounds they are wanted in."""
        company, extent = self._every[number], self._extent(number)
        if extent is not None:
            return ((cell, range(extent)) for cell in company.cells)
        done = frontier(company, self._answered)
        behind = [cell for cell in company.decisive if done not in self._answered[cell]]
        if not all(cell in self._place for cell in behind):  # nobody will ask them
            to_the_end = range(self._rounds[company.model])
            return ((cell, to_the_end) for cell in company.cells)
        return ((cell, [done]) for cell in behind)

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
