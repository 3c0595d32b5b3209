import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.store import BLOCK_ROWS, Store, StoreError, arrow, parquet, rows
from orchestrator.tables import SCHEMAS
from tests.orchestrator.racing import race


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


def everything(store: Store) -> list[str]:
    """Return every file under a run folder, hidden ones too."""
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.rglob("*"))


def test_a_commit_is_there_whole_and_says_so(store: Store) -> None:
    assert store.commit("data/a/x.parquet", b"content")
    assert store.path("data/a/x.parquet").read_bytes() == b"content"
    assert store.exists("data/a/x.parquet")


def test_a_second_commit_changes_nothing_and_says_so(store: Store) -> None:
    store.commit("x", b"first")
    assert not store.commit("x", b"second")
    assert store.path("x").read_bytes() == b"first"
    assert everything(store) == ["x"]


def test_of_many_who_commit_at_once_exactly_one_does(store: Store) -> None:
    race(lambda: store, name="part/{}.parquet", racers=8, rounds=5, size=100_000)
    assert everything(store) == ["part", *(f"part/{turn}.parquet" for turn in range(5))]


@pytest.mark.parametrize("step", ["write", "link"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_commit_that_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    def half(place: Path, content: bytes) -> None:
        with place.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise error

    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "link", fail)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        store.commit("x.parquet", b"content")
    assert everything(store) == []
    monkeypatch.undo()
    assert store.commit("x.parquet", b"content")


def test_a_full_disk_is_an_error_of_the_run_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        StoreError,
        match=r"x\.parquet cannot be written: No space left .*; free some space",
    ):
        store.commit("x.parquet", b"content")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_whole_is_what_has_its_first_and_its_last_bytes(store: Store, kind: str) -> None:
    table = pa.table({"x": [1, 2]})
    store.commit(f"a.{kind}", parquet(table) if kind == "parquet" else arrow(table))
    content = store.path(f"a.{kind}").read_bytes()
    assert store.whole(f"a.{kind}")
    assert not store.whole(f"none.{kind}")
    for i, cut in enumerate(range(0, len(content), 7)):
        store.commit(f"{i}.{kind}", content[:cut])
        assert not store.whole(f"{i}.{kind}")
    # A crash may leave a file its length and take its content.
    store.commit(f"zeros.{kind}", content[: len(content) // 2].ljust(len(content), b"\0"))
    store.commit(f"headless.{kind}", b"\0" * 4 + content[4:])
    assert not store.whole(f"zeros.{kind}")
    assert not store.whole(f"headless.{kind}")


def test_what_a_writer_writes_is_committed_like_any_other_content(store: Store) -> None:
    assert store.commit("x", lambda place: place.write_text("first") and None)
    assert not store.commit("x", lambda place: place.write_text("second") and None)
    assert store.path("x").read_text() == "first"
    assert everything(store) == ["x"]


def test_nothing_is_left_of_a_writer_that_fails(store: Store) -> None:
    def tables() -> Iterator[pa.Table]:
        yield pa.table({"x": [1]})
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        store.commit("x.arrow", arrow(tables()))
    assert everything(store) == []


def test_a_disk_that_is_full_while_an_arrow_file_is_written_is_an_error_of_the_run_folder(
    store: Store,
) -> None:
    def full(place: Path) -> None:
        place.symlink_to("/dev/full")
        arrow(pa.table({"x": np.arange(10_000)}))(place)

    with pytest.raises(StoreError, match=r"x\.arrow cannot be written: .*No space left"):
        store.commit("x.arrow", full)
    assert everything(store) == []


@pytest.mark.parametrize("act", [Store.commit, Store.replace])
def test_a_file_where_a_folder_should_be_is_an_error_of_the_run_folder(store: Store, act) -> None:  # type: ignore[no-untyped-def]
    store.commit("data", b"")
    with pytest.raises(StoreError, match="cannot be written"):
        act(store, "data/x.parquet", b"content")


def test_replacing_leaves_the_new_content_and_nothing_beside_it(store: Store) -> None:
    store.replace("a/summary.parquet", b"old")
    store.replace("a/summary.parquet", b"new")
    assert store.path("a/summary.parquet").read_bytes() == b"new"
    assert everything(store) == ["a", "a/summary.parquet"]


def test_a_replacement_that_fails_leaves_the_old_content(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.replace("x", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StoreError, match="No space left"):
        store.replace("x", b"new")
    assert store.path("x").read_bytes() == b"old"
    assert everything(store) == ["x"]


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot be written .*; choose another with --out"):
        Store.open(tmp_path / "taken" / "run")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(tmp_path / "taken")


def test_a_read_only_run_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)  # root may write whatever the mode says
    with pytest.raises(StoreError, match="Read-only file system"):
        Store.open(tmp_path)


def test_opening_leaves_no_trace_and_makes_paths_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("deep/run")
    assert store.root == tmp_path / "deep" / "run"
    assert everything(store) == []
    assert Store.open(f"file://{tmp_path}/deep/run") == store


def test_a_table_comes_back_with_the_name_of_its_recipe(store: Store) -> None:
    table = rows("centres", {"model": "a", "layer": [0, 1], "value": [0.5, float("nan")]}, 2)
    store.commit("c.parquet", parquet(table, "1234abcd"))
    assert store.recipe("c.parquet") == "1234abcd"
    assert store.table("c.parquet").schema.remove_metadata() == SCHEMAS["centres"]
    assert store.table("c.parquet", ["model", "layer"]).to_pydict() == {
        "model": ["a", "a"],
        "layer": [0, 1],
    }


def test_an_arrow_file_comes_back_whole_in_part_and_block_by_block(store: Store) -> None:
    size = 2 * BLOCK_ROWS + 5
    table = pa.table({"x": np.arange(size), "y": np.arange(size) / 7})
    table = table.replace_schema_metadata({b"key": b"value"})
    store.commit("x.arrow", arrow(table, "made"))
    assert store.recipe("x.arrow") == "made"
    assert store.schema("x.arrow").metadata[b"key"] == b"value"
    assert store.table("x.arrow").equals(table)
    assert store.table("x.arrow", ["y"]).equals(table.select(["y"]))
    assert store.blocks("x.arrow") == 3
    blocks = [store.block("x.arrow", number) for number in range(3)]
    assert [block.num_rows for block in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 5]
    assert pa.Table.from_batches(blocks).equals(table)


def test_tables_that_follow_each_other_make_one_arrow_file(store: Store) -> None:
    parts = [pa.table({"x": [1, 2]}), pa.table({"x": [3]})]
    store.commit("x.arrow", arrow(iter(parts)))
    assert store.table("x.arrow").column("x").to_pylist() == [1, 2, 3]


def test_an_arrow_file_of_no_rows_keeps_its_columns_and_has_one_block(store: Store) -> None:
    table = pa.table({"x": pa.array([], pa.int32())})
    store.commit("x.arrow", arrow(table))
    assert store.table("x.arrow").equals(table)
    assert (store.blocks("x.arrow"), store.block("x.arrow", 0).num_rows) == (1, 0)


def test_a_table_keeps_the_metadata_it_had(store: Store) -> None:
    table = pa.table({"x": [1]}).replace_schema_metadata({b"key": b"value"})
    store.commit("x.parquet", parquet(table, "made"))
    assert store.table("x.parquet").schema.metadata[b"key"] == b"value"
    assert store.recipe("x.parquet") == "made"


def test_rows_repeats_single_values_and_leaves_the_rest_null() -> None:
    columns = {"cell": ["a", "b"], "tokens": pa.array([1, 2], pa.int32()), "document": "d"}
    table = rows("results", columns, 2)
    assert table.schema == SCHEMAS["results"]
    assert table.column("document").to_pylist() == ["d", "d"]
    assert table.column("tokens").to_pylist() == [1, 2]
    assert table.column("kl").to_pylist() == [None, None]


def test_rows_refuses_columns_that_a_table_has_not() -> None:
    with pytest.raises(KeyError, match="'results' has no columns"):
        rows("results", {"cells": ["a"]}, 1)


def test_files_under_way_are_not_listed(store: Store) -> None:
    for file in ("b/2.parquet", "a/1.arrow", "a/.3.parquet", "a/.4.arrow", "a/x.json"):
        store.commit(f"data/{file}", b"")
    assert store.files("data") == ["data/a/1.arrow", "data/b/2.parquet"]
    assert store.files("data", ".json") == ["data/a/x.json"]
    assert store.files("nowhere") == []


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.commit("x", b"")
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")


def test_a_json_file_that_is_not_there_is_empty(store: Store) -> None:
    store.replace("a.json", b'{"k": 1}')
    store.replace("b.json", b"[1]")
    assert store.read_json("a.json") == {"k": 1}
    assert store.read_json("b.json") == {}
    assert store.read_json("c.json") == {}


def test_a_file_that_cannot_be_read_now_is_not_taken_for_cut_short(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit("a.parquet", parquet(pa.table({"x": [1]})))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreError, match="Too many open files"):
        store.whole("a.parquet")


def test_json_that_is_too_deep_counts_as_none_and_what_cannot_be_read_is_told(
    store: Store,
) -> None:
    store.replace("deep.json", b"[" * 100_000)
    assert store.read_json("deep.json") == {}
    store.path("folder.json").mkdir()
    with pytest.raises(StoreError, match=r"folder\.json cannot be read"):
        store.read_json("folder.json")


def test_a_table_that_is_whole_at_its_ends_alone_is_told_by_its_name(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.commit("data/spoilt.parquet", b"PAR1" + bytes(200) + b"PAR1")
    with pytest.raises(StoreError, match=r"spoilt\.parquet"):
        store.schema("data/spoilt.parquet")
    with pytest.raises(FileNotFoundError):
        store.schema("data/absent.parquet")
