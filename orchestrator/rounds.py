"""Rounds: in which order evaluated documents are visited, and where one may stop.

Documents are put into an order drawn from a seed and the order is cut into rounds of
equally many whole documents. A cell is answered round by round; whether it needs all of
them is another question (`orchestrator.stopping`). Rounds are the same for every cell of a
model and its data, so cells that stop at different times have their first documents in common.

Batches are cut within a round, also where nobody stops: floating-point sums depend on
a batch's shape, so a round has the same answer whoever asks for it, alone or with others.
That is why rounds are part of a cell's recipe, and how well something must be known is not.
More rounds can be stopped at more finely, and cost batches that are not full: there are as
many as leave `BATCHES` full batches to each, `MOST` at most. Of fewer documents than rounds each
has a round of its own, and the last rounds have none.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orchestrator import batching
from orchestrator.spec import Spec
from workers.messages import ModelRef

MOST = 16
BATCHES = 4
"""Full batches of a round, about."""


def count(spec: Spec, ref: ModelRef, data: str) -> int:
    """Return how many rounds the evaluation of a model on a source has."""
    positions = spec.data[data].positions("evaluate", ref.facts.window)
    return min(MOST, max(1, positions // (BATCHES * batching.tokens(spec, ref))))


def order(documents: Collection[str], seed: int) -> list[str]:
    """Return documents in the order in which they are visited; each stands once.

    A document's place among others depends on their names and the seed alone.
    """
    chance = {d: hashlib.sha256(f"visit {seed} {d}".encode()).digest() for d in documents}
    return sorted(chance, key=lambda d: chance[d])


def assigned(documents: Collection[str], seed: int, rounds: int) -> dict[str, int]:
    """Return the round of every document, 0 to `rounds` - 1, in the order of visiting."""
    visited = order(documents, seed)
    used = min(rounds, len(visited))
    return {d: i * used // len(visited) for i, d in enumerate(visited)}


def of_rounds(table: pa.Table, round_of: Mapping[str, int], asked: Sequence[int]) -> list[pa.Table]:
    """Return the rows of a data table in each of some rounds, but for rounds without any."""
    round_S = np.array([round_of[d] for d in table.column("document").to_pylist()], np.int64)
    there = [r for r in asked if (round_S == r).any()]
    return [table.filter(pa.array(round_S == r)) for r in there]
