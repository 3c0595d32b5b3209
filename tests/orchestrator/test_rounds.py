"""Rounds are the same for everyone who asks, and every document is in one of them."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import rounds
from tests.orchestrator import planned

documents = st.lists(st.text(min_size=1), unique=True, max_size=60)
seeds = st.integers(0, 2**63 - 1)


@given(documents, seeds, st.integers(1, 16))
def test_every_document_has_one_round_and_rounds_are_alike(
    names: list[str], seed: int, many: int
) -> None:
    of = rounds.assigned(names, seed, many)
    assert of.keys() == set(names)
    sizes = [list(of.values()).count(r) for r in range(min(many, len(names)))]
    assert sum(sizes) == len(names)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert list(of.values()) == sorted(of.values())


@given(documents, seeds, st.randoms(use_true_random=False))
def test_the_order_is_that_of_names_and_seed_alone(names: list[str], seed: int, mix) -> None:  # type: ignore[no-untyped-def]
    shuffled = [*names, *names[:3]]
    mix.shuffle(shuffled)
    visited = rounds.order(names, seed)
    assert rounds.order(shuffled, seed) == visited
    some = names[::2]
    assert rounds.order(some, seed) == [d for d in visited if d in some]


def test_another_seed_is_another_order() -> None:
    names = [f"document {i}" for i in range(50)]
    assert rounds.order(names, 0) != rounds.order(names, 1)


def test_the_rows_of_a_round_are_those_of_its_documents() -> None:
    table = pa.table({"document": ["a", "b", "a", "c"], "sequence": [0, 1, 2, 3]})
    parts = rounds.of_rounds(table, {"b": 0, "a": 1, "c": 3}, [0, 1, 2, 3])
    assert [part.column("sequence").to_pylist() for part in parts] == [[1], [0, 2], [3]]
    assert rounds.of_rounds(table, {"b": 0, "a": 1, "c": 3}, [2]) == []


@pytest.fixture
def plan_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})

    def made(sequences: int, batch: int):  # type: ignore[no-untyped-def]
        source = {"source": "documents.jsonl", "document": "name"}
        data = {"texts": {**source, "evaluate": {"sequences": sequences}}}
        return planned.make(tmp_path, data=data, evaluation={"batch_tokens": batch})

    return made


@pytest.mark.parametrize(
    ("sequences", "batch", "many"),
    [(4, 32, 1), (8, 32, 2), (63, 32, 15), (9000, 32, 16), (8, 64, 1)],
)
def test_a_round_has_four_batches_and_there_are_sixteen_at_most(
    plan_of,  # type: ignore[no-untyped-def]
    sequences: int,
    batch: int,
    many: int,
) -> None:
    made = plan_of(sequences, batch)
    assert rounds.count(made.spec, made.models["a"], "texts") == many


def test_rounds_are_part_of_a_cells_name_and_precision_is_not(plan_of, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = {"source": "documents.jsonl", "document": "name", "evaluate": {"sequences": 64}}
    common = {"data": {"texts": source}, "evaluation": {"batch_tokens": 32}}
    usual = planned.make(tmp_path, **common).cells.keys()
    precise = {"contrast": ["peak", "mean"], "halfwidth": 0.1}
    assert planned.make(tmp_path, **common, precision=precise).cells.keys() == usual
    seeds = {"masks": 2, "visits": 1}
    assert planned.make(tmp_path, **common, seeds=seeds).cells.keys().isdisjoint(usual)
    one_round = {**common, "evaluation": {"batch_tokens": 1024}}
    named = planned.make(tmp_path, **one_round).cells.keys()
    assert planned.make(tmp_path, **one_round, seeds=seeds).cells.keys() == named
    assert planned.make(tmp_path, **common, compile=True).cells.keys().isdisjoint(usual)
