"""Stopping: after how many rounds of documents a comparison is known well enough.

With `precision` in a sweep, cells are answered round by round (`orchestrator.rounds`). All
methods of one (model, fraction, mask, …) are a *company*: they stop together, when each of
the contrasts that precision names has a confidence sequence no wider than was asked
(`orchestrator.sequential`), or until there are no more documents. A confidence sequence
holds at every round at once, so looking at each of them and stopping when it suits costs no
coverage.

After which round a company stops depends on the answers of its own contrasted cells in the
rounds up to there, and on nothing else: not on who computed them, in which order or how
often the sweep was interrupted. Precision is part of no name. Asked for more of it, a
sweep goes on where it stopped; asked for less, it is done.

What has nothing to be compared with is read to the end, and so is the unablated model,
against which everything is compared.

Shapes: G documents, in the order in which they are visited.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator import sequential
from orchestrator.labels import label
from orchestrator.pairs import Precision
from orchestrator.rounds import assigned
from orchestrator.sequential import Interval, horizon_of, narrow
from orchestrator.shards import of_role
from workers.messages import NOT_SCORED

COMPANY = (
    *("model", "data", "dtype", "basis", "site", "unit", "layers", "complement", "selection"),
    *("fraction", "seed", "masking_seed"),
)
"""Columns of the cells table in which the cells of a company agree."""
COLUMNS = ("cell", "document", "tokens", "top1", "loss", "nan")
"""What is looked at of the results."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Two methods of a company."""

    a: str
    b: str
    cells: tuple[tuple[str, ...], tuple[str, ...]]
    """The cells of either, several where a method draws several times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Company:
    """Cells that stop together."""

    key: Mapping[str, object]
    """Value of each `COMPANY` column."""
    cells: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    """What decides: of those that precision names, all whose methods are here."""

    @property
    def model(self) -> str:
        """Whose cells they are."""
        return str(self.key["model"])

    @property
    def decisive(self) -> tuple[str, ...]:
        """The cells of these contrasts."""
        sides = (of for contrast in self.contrasts for of in contrast.cells)
        return tuple(dict.fromkeys(cell for of in sides for cell in of))


def companies(table: pa.Table, pairs: Sequence[tuple[str, str]]) -> list[Company]:
    """Return the companies of a cells table that have one of the pairs, in its order.

    The unablated model is in none.
    """
    if not len(table):
        return []
    table = table.filter(pc.not_equal(table.column("fraction"), 0.0))
    kind_N, first = _numbered(table, ("method", "parameters"))
    kinds = table.select(["method", "parameters"]).take(first).to_pylist()
    said = [label(row["method"], json.loads(row["parameters"])) for row in kinds]
    company_N, first = _numbered(table, COMPANY)
    members: list[dict[str, dict[str, None]]] = [{} for _ in first]
    cells = table.column("cell").to_pylist()
    for company, kind, cell in zip(company_N.tolist(), kind_N.tolist(), cells, strict=True):
        members[company].setdefault(said[kind], {})[cell] = None
    found = []
    for key, methods in zip(table.select(COMPANY).take(first).to_pylist(), members, strict=True):
        contrasts = [
            Contrast(a=a, b=b, cells=(tuple(methods[a]), tuple(methods[b])))
            for a, b in pairs
            if a in methods and b in methods
        ]
        if contrasts:
            company = Company(
                key=key,
                cells=tuple(dict.fromkeys(cell for of in methods.values() for cell in of)),
                contrasts=tuple(contrasts),
            )
            found.append(company)
    return found


def _numbered(
    table: pa.Table, columns: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which combination of some columns each row has, (N,), and the first row of each.

    Combinations are numbered as they come.
    """
    code_N = np.zeros(len(table), np.int64)
    for name in columns:
        column = table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
        if len(column.dictionary) > 1:
            code_N = code_N * len(column.dictionary) + column.indices.to_numpy()
            code_N = np.unique(code_N, return_inverse=True)[1]  # small again
    first, number_N = np.unique(code_N, return_index=True, return_inverse=True)[1:]
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    return rank[number_N], first[order]


@dataclass(frozen=True, kw_only=True, slots=True)
class Visits:
    """The evaluated documents of a (model, data)."""

    rounds: int
    """As many as have documents."""
    round_of: Mapping[str, int]
    """Of every document, in the order in which they are visited."""
    most: int
    """The most tokens that are scored of any of them, at most."""


def visits(data: pa.Table, seed: int, rounds: int) -> Visits:
    """Return the evaluated documents of a data table."""
    table = of_role(data, "evaluate")
    round_of = assigned(table.column("document").to_pylist(), seed, rounds)
    targets = table.column("target")
    if pa.types.is_list(targets.type):
        there_S = np.array([_targets(scalar) for scalar in targets], np.int64)
    else:
        there_S = np.ones(len(targets), np.int64)  # an image has one
    place = {document: i for i, document in enumerate(round_of)}
    place_S = [place[d] for d in table.column("document").to_pylist()]
    return Visits(
        rounds=1 + max(round_of.values(), default=-1),
        round_of=round_of,
        most=int(np.bincount(place_S, there_S).max(initial=0)),
    )


def _targets(scalar: pa.ListScalar) -> int:
    return int((scalar.values.to_numpy(zero_copy_only=False) != NOT_SCORED).sum())


class Measured:
    """What contrasted cells answered, document by document."""

    def __init__(
        self,
        every: Sequence[Company],
        seen: Callable[[str], Visits],
        metric: Literal["ce", "top1"],
    ) -> None:
        """Have measured nothing yet of the cells that decide.

        `seen` gives the documents of a model; it is asked of those that have answers.
        """
        self.seen = lru_cache(maxsize=None)(seen)
        self._metric = metric
        self._place = lru_cache(maxsize=None)(self._places)
        self._model = {cell: company.model for company in every for cell in company.decisive}
        self._sums: dict[str, Floats] = {}
        """Of each cell (G, 2): the metric's sum, and its count of tokens."""

    def add(self, results: pa.Table) -> None:
        """Take in answers; a document's answer is whole, and a second one is the same."""
        known = pa.array(list(self._model), pa.string())
        results = results.filter(pc.is_in(results.column("cell"), known))
        summed = results.group_by(["cell", "document"]).aggregate([(c, "sum") for c in COLUMNS[2:]])
        tokens, right, loss, nan = (
            summed.column(f"{c}_sum").to_numpy().astype(np.float64) for c in COLUMNS[2:]
        )
        # A loss that is no number is left out of the sum, and nobody knows which token it was of.
        pair = (right, tokens) if self._metric == "top1" else (loss, np.where(nan, np.nan, tokens))
        sums = np.stack(pair, axis=1)
        cells = summed.column("cell").combine_chunks().dictionary_encode()
        documents = summed.column("document").to_numpy(zero_copy_only=False)
        number = cells.indices.to_numpy()
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=len(cells.dictionary)))
        parts = np.split(order, ends[:-1]) if len(ends) else []
        for cell, rows in zip(cells.dictionary.to_pylist(), parts, strict=True):
            place = self._place(self._model[cell])
            every = self._sums.setdefault(cell, np.full((len(place), 2), np.nan))
            every[[place[d] for d in documents[rows]]] = sums[rows]

    def _places(self, model: str) -> dict[str, int]:
        return {document: i for i, document in enumerate(self.seen(model).round_of)}

    def intervals(self, company: Company, rounds: int) -> list[Interval]:
        """Return how well each contrast of a company is known after some rounds."""
        seen = self.seen(company.model)
        documents = sum(r < rounds for r in seen.round_of.values())
        return [self._interval(contrast, documents, seen) for contrast in company.contrasts]

    def _interval(self, contrast: Contrast, documents: int, seen: Visits) -> Interval:
        a_G2, b_G2 = (
            np.mean([self._sums[cell][:documents] for cell in cells], axis=0)
            for cells in contrast.cells
        )
        over_G, counts_G = a_G2[:, 0] - b_G2[:, 0], a_G2[:, 1]
        if not (counts_G == b_G2[:, 1]).all():
            return UNKNOWN
        some_G = counts_G > 0
        if self._metric == "top1":
            most = float(seen.most)
            return sequential.empirical_bernstein(over_G[some_G], counts_G[some_G], most=most)
        horizon = horizon_of(len(seen.round_of))
        return sequential.asymptotic(over_G[some_G], counts_G[some_G], horizon=horizon)


UNKNOWN = Interval(estimate=np.nan, low=-np.inf, high=np.inf)
"""Where a loss of one side is no number, or the sides were scored differently."""


class Judge:
    """Says how far each company must be read, from what has been answered so far."""

    def __init__(
        self, every: Sequence[Company], seen: Callable[[str], Visits], precision: Precision
    ) -> None:
        """`seen` gives the documents of a model; it is asked of those that have answers."""
        self.every, self.precision = every, precision
        self.measured = Measured(every, seen, precision.metric)
        self._stopped: dict[int, int] = {}
        self._looked: Counter[int] = Counter()

    def extent(self, number: int, answered: int) -> int | None:
        """Return after how many rounds a company stops, of which `answered` are there.

        None: it needs more than those.
        """
        company = self.every[number]
        last = self.measured.seen(company.model).rounds
        while number not in self._stopped and self._looked[number] < min(answered, last):
            self._looked[number] += 1
            found = self.measured.intervals(company, self._looked[number])
            if self._looked[number] == last or narrow(found, self.precision.halfwidth):
                self._stopped[number] = self._looked[number]
        return self._stopped.get(number)


def whole(answered: Iterable[int]) -> int:
    """Return how many of the first rounds are answered, with none missing before."""
    there = set(answered)
    return next(r for r in range(len(there) + 1) if r not in there)


def frontier(company: Company, answered: Mapping[str, Iterable[int]]) -> int:
    """Return how many rounds all cells that decide for a company have answered."""
    return min(whole(answered.get(cell, ())) for cell in company.decisive)


def left_out(cells: Iterable[str], every: Sequence[Company]) -> Iterator[str]:
    """Yield the cells that are in no company: they are read to the end."""
    inside = {cell for company in every for cell in company.cells}
    return (cell for cell in cells if cell not in inside)
