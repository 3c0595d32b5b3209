"""Shards: which sequences a pass of collection feeds.

A shard is a fixed set of whole documents, by the hash of a document's name: so
it is the same whoever asks, and leaving one out leaves out whole documents. The
pilot is a seeded sample over all classes and documents: one sequence of each
document in turn, classes in turns, until it has both the documents and the
positions that were asked for.
"""

import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def shard_of(document: str, shards: int) -> int:
    """Return the shard of a document: a fixed set of whole documents, by the hash of its name."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % shards


def of_role(table: pa.Table, role: str) -> pa.Table:
    """Return the rows of a data table that have a role."""
    return table.filter(pa.array(np.asarray(table.column("role").to_pylist()) == role))


def of_shard(table: pa.Table, shard: int, shards: int) -> pa.Table:
    """Return the rows of a data table whose document is in one of so many shards."""
    documents = table.column("document").to_pylist()
    return table.filter(pa.array([shard_of(d, shards) == shard for d in documents], pa.bool_()))


def of_pilot(
    table: pa.Table, *, documents: int, positions: int, each: int | None, seed: int
) -> pa.Table:
    """Return the rows of a data table that make the pilot.

    Stops at `documents` documents (or all there are) with `positions` positions;
    an image counts as `each` positions, a text (`each` is None) as its length.
    """
    name_S = table.column("document").to_pylist()
    class_S = table.column("target").to_pylist() if each is not None else [0] * len(name_S)
    length_S = _lengths(table) if each is None else [each] * len(name_S)
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(name_S):
        rows[name].append(i)
    chance = {name: hashlib.sha256(f"pilot {seed} {name}".encode()).digest() for name in rows}
    rank: dict[int, int] = defaultdict(int)
    turns: list[tuple[int, int, str]] = []
    for name in sorted(rows, key=lambda n: chance[n]):
        kind = class_S[rows[name][0]]
        turns.append((rank[kind], len(turns), name))  # the first of every class, then the second …
        rank[kind] += 1
    chosen: list[int] = []
    taken = 0
    for turn in range(max(map(len, rows.values()), default=0)):
        for done, (_, _, name) in enumerate(sorted(turns)):
            enough = turn > 0 or done >= min(documents, len(rows))
            if enough and taken >= positions:
                return table.take(sorted(chosen))
            if turn < len(rows[name]):
                start = int.from_bytes(chance[name][:8], "big")
                chosen.append(rows[name][(start + turn) % len(rows[name])])
                taken += length_S[chosen[-1]]
    return table.take(sorted(chosen))


def _lengths(table: pa.Table) -> list[int]:
    return [int(n) for n in pc.list_value_length(table.column("input")).to_pylist()]
