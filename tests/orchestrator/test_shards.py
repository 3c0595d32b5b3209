from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.shards import of_pilot, of_role, of_shard, shard_of


def texts(documents: int, windows: int = 3, length: int = 20) -> pa.Table:
    numbers = range(documents * windows)
    return pa.table(
        {
            "document": [f"d{i // windows}" for i in numbers],
            "sequence": list(numbers),
            "input": [list(range(length))] * len(numbers),
            "target": [[-100] * length] * len(numbers),
            "role": ["collect" if i % 2 else "evaluate" for i in numbers],
        }
    )


def images(classes: list[int]) -> pa.Table:
    numbers = range(len(classes))
    return pa.table(
        {"document": [f"i{i}" for i in numbers], "sequence": list(numbers), "target": classes}
    )


def sample(table: pa.Table, **settings: int) -> pa.Table:
    asked = {"documents": 64, "positions": 64, "seed": 0, **settings}
    each = 5 if "input" not in table.column_names else None
    return of_pilot(table, each=each, **asked)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), max_size=40), st.integers(1, 16))
def test_every_document_is_in_one_shard(names: list[str], shards: int) -> None:
    table = pa.table({"document": pa.array(names, pa.string())})
    parts = [of_shard(table, i, shards) for i in range(shards)]
    assert sum(p.num_rows for p in parts) == len(names)
    for i, part in enumerate(parts):
        assert {shard_of(d, shards) for d in part.column("document").to_pylist()} <= {i}


def test_a_role_is_a_part_of_the_table() -> None:
    table = texts(3)
    roles = [of_role(table, r).column("sequence").to_pylist() for r in ("collect", "evaluate")]
    assert sorted(roles[0] + roles[1]) == list(range(9))


def test_the_pilot_takes_one_window_of_every_document_before_a_second_of_any() -> None:
    chosen = sample(texts(100), documents=64, positions=20)
    assert chosen.num_rows == 64
    assert set(Counter(chosen.column("document").to_pylist()).values()) == {1}


def test_the_pilot_goes_on_until_it_has_the_positions() -> None:
    chosen = sample(texts(10), documents=4, positions=20 * 25)
    assert chosen.num_rows == 25
    assert len(set(chosen.column("document").to_pylist())) == 10


def test_few_documents_are_all_taken() -> None:
    assert sample(texts(3), documents=64, positions=10**6).num_rows == 9


def test_the_pilot_sees_every_class_however_rare_and_however_sorted() -> None:
    chosen = sample(images([0] * 500 + [1] * 3 + [2] * 40), documents=12, positions=1)
    assert Counter(chosen.column("target").to_pylist()) == {0: 5, 1: 3, 2: 4}


def test_the_pilot_depends_on_its_seed_and_on_no_order() -> None:
    table = texts(50)
    shuffled = table.take(list(reversed(range(table.num_rows))))
    taken = {
        seed: set(sample(table, documents=8, seed=seed).column("document").to_pylist())
        for seed in (0, 1)
    }
    assert taken[0] != taken[1]
    assert set(sample(shuffled, documents=8).column("document").to_pylist()) == taken[0]


@pytest.mark.parametrize("documents", [1, 7, 64])
def test_the_pilot_has_as_many_documents_as_asked_for(documents: int) -> None:
    chosen = sample(texts(80), documents=documents, positions=1)
    assert len(set(chosen.column("document").to_pylist())) == documents
