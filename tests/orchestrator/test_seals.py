"""A table that lost or changed a byte since it was committed is noticed, whichever byte it is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import seals
from orchestrator.store import Store, arrow, parquet
from orchestrator.tables import LATER, SCHEMAS
from orchestrator.tabular import BLOCK_ROWS

KINDS = ("parquet", "arrow")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("run"))


def made(table: pa.Table, kind: str, store: Store) -> str:
    """Return the name of a table that was committed by the driver of epoch 12."""
    file = f"table.{kind}"
    store.delete(file)
    store.at(12).commit(file, parquet(table, "work") if kind == "parquet" else arrow(table, "work"))
    return file


SMALL = pa.table({"x": [1, 2, 3], "name": ["a", "b", None]})


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_and_every_cut_of_a_table_is_noticed(store: Store, kind: str) -> None:
    file = made(pa.table({"x": [1, 2, 3]}), kind, store)
    path = store.path(file)
    content = path.read_bytes()
    assert store.sound(file)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        assert not store.sound(file), at
        path.write_bytes(content[:at])
        assert not store.sound(file), at
    path.write_bytes(content + b"\0")
    assert not store.sound(file)


columns = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.one_of(
        st.lists(st.integers(-(2**60), 2**60), min_size=4, max_size=4),
        st.lists(st.text(max_size=20), min_size=4, max_size=4),
        st.lists(st.floats(), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(columns, st.sampled_from(KINDS), st.data())
def test_of_any_table_a_change_is_noticed(
    store: Store, columns: dict[str, list[object]], kind: str, data: st.DataObject
) -> None:
    file = made(pa.table(columns), kind, store)
    assert store.sound(file)
    assert store.epoch_of(file) == 12
    content = bytearray(store.path(file).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    store.path(file).write_bytes(content)
    assert not store.sound(file)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_table_is_an_ordinary_one_to_others(store: Store, kind: str) -> None:
    path = store.path(made(SMALL, kind, store))
    read = pl.read_parquet(path) if kind == "parquet" else pl.read_ipc(path)
    assert read.equals(pl.DataFrame(SMALL), null_equal=True)
    metadata = pq.read_metadata(path).metadata if kind == "parquet" else None
    if metadata is None:
        with pa.OSFile(str(path)) as source:
            metadata = pa.ipc.open_file(source).schema.metadata
    assert metadata[seals.KEY].startswith(b"peaksweep-seal epoch=0000000012 crc32=")


@pytest.mark.parametrize("kind", KINDS)
def test_tables_without_a_seal_are_believed_if_they_are_whole(store: Store, kind: str) -> None:
    def plain() -> Iterator[Path]:
        path = store.path(f"plain.{kind}")
        if kind == "parquet":
            pq.write_table(SMALL, path)
        else:
            with pa.ipc.new_file(str(path), SMALL.schema) as writer:
                writer.write_table(SMALL)
        yield path

    for path in plain():
        assert store.sound(path.name)
        assert store.epoch_of(path.name) is None
        path.write_bytes(path.read_bytes()[:-1])
        assert not store.sound(path.name)


def test_a_table_that_was_edited_by_hand_keeps_a_seal_that_does_not_fit(store: Store) -> None:
    file = made(SMALL, "parquet", store)
    pq.write_table(store.table(file).slice(1), store.path(file))
    assert not store.sound(file)
    assert store.whole(file)


def test_a_broken_table_that_is_committed_again_is_not_sealed_anew(store: Store) -> None:
    path = store.path(made(SMALL, "arrow", store))
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    store.delete("copy.arrow")
    store.at(99).commit("copy.arrow", bytes(broken))
    assert not store.sound("copy.arrow")
    assert store.epoch_of("copy.arrow") == 12


def test_a_table_made_from_a_sealed_one_gets_a_seal_of_its_own(store: Store) -> None:
    table = store.table(made(SMALL, "arrow", store))
    store.replace("next.parquet", parquet(table.slice(1)))
    assert store.sound("next.parquet")
    assert store.epoch_of("next.parquet") == 0


def test_data_that_read_like_a_seal_are_left_as_they_are(store: Store) -> None:
    said = pa.table({"x": [seals.BLANK.decode()] * 2, "y": [seals.KEY.decode(), None]})
    file = made(said, "arrow", store)
    assert store.table(file).equals(said)
    assert store.sound(file)


def test_many_blocks_are_summed_piece_by_piece(store: Store) -> None:
    table = pa.table({"x": np.arange(200 * BLOCK_ROWS)})
    file = made(table, "arrow", store)
    assert store.size(file) > 3 << 20
    assert store.sound(file)
    with store.path(file).open("r+b") as content:
        content.seek(3 << 20)
        content.write(b"\xff")
    assert not store.sound(file)
    assert store.whole(file)


def test_what_is_no_table_is_committed_as_it_is(store: Store) -> None:
    for content in (b"", b"PAR1", b"PAR1PAR1", b"ARROW1", b"ARROW1ARROW1", seals.BLANK):
        for kind in KINDS:
            store.delete(f"odd.{kind}")
            store.at(3).commit(f"odd.{kind}", content)
            assert store.path(f"odd.{kind}").read_bytes() == content
            assert isinstance(store.sound(f"odd.{kind}"), bool)
            assert store.epoch_of(f"odd.{kind}") is None


def test_nothing_is_said_of_a_table_that_is_not_there(store: Store) -> None:
    assert not store.sound("none.parquet")
    assert store.epoch_of("none.arrow") is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_a_seal_that_cannot_be_read_is_not_believed(
    store: Store, kind: str
) -> None:
    magic = seals.MAGIC[f".{kind}"]
    path = store.path(f"unsealed.{kind}")
    for between in (bytes(200), b"x" * 200, bytes(196) + (100).to_bytes(4, "little")):
        path.write_bytes(magic + between + magic)
        assert store.whole(path.name)
        assert not store.sound(path.name)


def test_a_table_without_a_seal_is_to_have_the_columns_it_always_had(store: Store) -> None:
    def put(kind: str, without: list[str]) -> bool:
        path = store.path(f"{kind}/a/part.parquet")
        table = SCHEMAS[kind].empty_table().drop_columns(without)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return store.sound(f"{kind}/a/part.parquet")

    for kind in ("donors", "selections", "statistics", "centres", "results", "executions"):
        assert put(kind, sorted(LATER[kind]))  # as earlier versions wrote it
        column = next(c for c in SCHEMAS[kind].names if c not in LATER[kind])
        assert not put(kind, [column])
