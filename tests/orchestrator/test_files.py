"""What folders and stores do to a commit: full, read-only, gone, without links, changed."""

import errno
import os
import pickle
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator import files, place
from orchestrator.copies import Copies, Info
from orchestrator.files import LocalFiles
from orchestrator.objects import ObjectFiles
from orchestrator.store import Store, StoreError, arrow, parquet
from tests.orchestrator.racing import race

TABLE = pa.table({"x": np.arange(100_000)})


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An object store in this process, with copies in a folder of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Store.open(f"memory:/{tmp_path}/run")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


def left(store: Store) -> list[str]:
    """Return every file of this machine that a store has, hidden ones too."""
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.rglob("*"))


# What holds for every store


def test_a_commit_is_there_whole_and_never_over_another(store: Store) -> None:
    assert store.commit("a/b/x.parquet", parquet(TABLE, "first"))
    assert not store.commit("a/b/x.parquet", parquet(TABLE, "second"))
    assert store.recipe("a/b/x.parquet") == "first"
    assert store.commit("a/y.arrow", arrow(TABLE, "third"))
    assert store.table("a/y.arrow").equals(TABLE)
    assert store.block("a/y.arrow", 1).num_rows > 0
    assert store.files("a") == ["a/b/x.parquet", "a/y.arrow"]
    assert store.size("a/y.arrow") == store.path("a/y.arrow").stat().st_size
    assert len(store.paths(store.files("a"))) == 2
    for file in store.files("a"):
        assert store.whole(file)
        assert store.sound(file)


def test_of_many_who_commit_at_once_one_does_and_its_content_stays(store: Store) -> None:
    race(lambda: Store.of(store.uri), name="part/{}.json", racers=8, rounds=10, size=10_000)


def test_a_replaced_file_is_read_anew_and_a_deleted_one_is_gone(store: Store) -> None:
    for value in (1, 2):
        store.replace("a.json", b'{"k": %d}' % value)
        store.replace("a.parquet", parquet(pa.table({"x": [value]})))
        assert store.read_json("a.json") == {"k": value}
        assert store.table("a.parquet").to_pydict() == {"x": [value]}
    store.delete("a.parquet")
    store.delete("a.parquet")
    assert not store.exists("a.parquet")
    assert not store.whole("a.parquet")
    assert store.paths(["a.parquet"]) == []
    with pytest.raises(FileNotFoundError):
        store.table("a.parquet")


def test_a_file_that_another_deleted_and_made_anew_is_not_mistaken(store: Store) -> None:
    other = Store.of(store.uri)
    store.commit("a.arrow", arrow(pa.table({"x": [1]})))
    assert store.table("a.arrow").to_pydict() == {"x": [1]}
    other.delete("a.arrow")
    other.commit("a.arrow", arrow(pa.table({"x": [2]})))
    assert store.table("a.arrow").to_pydict() == {"x": [2]}
    assert store.block("a.arrow", 0).to_pydict() == {"x": [2]}


def test_what_is_no_json_counts_as_not_there(store: Store) -> None:
    for content in (b'{"k": 1', b"", b"\xff\xfe", b"[1]"):
        store.replace("a.json", content)
        assert store.read_json("a.json") == {}


def test_files_under_way_are_not_listed(store: Store) -> None:
    for file in ("b/2.parquet", "a/.3.parquet", "a/x.json"):
        store.commit(f"data/{file}", b"")
    assert store.files("data") == ["data/b/2.parquet"]
    assert store.files("data", ".json") == ["data/a/x.json"]
    assert store.files("nowhere") == []


def test_a_store_is_the_same_in_another_process(store: Store) -> None:
    store.commit("a.json", b"{}")
    again = pickle.loads(pickle.dumps(store.at(7)))
    assert (again, again.epoch, again.uri) == (store.at(7), 7, store.uri)
    assert again.read("a.json") == b"{}"


def test_cut_short_is_told_apart_from_whole(store: Store) -> None:
    content = parquet(TABLE)
    store.commit("cut.parquet", content[:-1])
    store.commit("bare.parquet", b"PAR1")
    store.commit("none.parquet", b"")
    assert not any(store.whole(f) or store.sound(f) for f in store.files(""))
    assert store.paths(store.files("")) == []


# Folders of this machine


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Store]:
    """A run folder on a disk of 256 KiB, where this process may mount one."""
    disk = tmp_path / "tiny"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a disk")
    yield Store.open(disk / "run")
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["bytes", "writer"])
def test_a_full_disk_is_told_with_its_cure_and_nothing_is_left(tiny_disk: Store, kind: str) -> None:
    content = b"\0" * (1 << 20) if kind == "bytes" else arrow(TABLE)
    with pytest.raises(StoreError, match=r"x\.arrow cannot be written: .*; free some space there"):
        tiny_disk.commit("data/x.arrow", content)
    assert left(tiny_disk) == ["data"]
    assert tiny_disk.commit("data/x.arrow", b"small")


def test_a_file_that_grows_over_a_limit_is_told_and_nothing_is_left(local: Store) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"x\.json cannot be written: File too large; free"):
            local.commit("x.json", b"\0" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(local) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_became_read_only_is_told_with_its_cure(
    local: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)  # root may write whatever the mode says
    with pytest.raises(StoreError, match="; let this user write there or choose another folder"):
        local.commit("x.json", b"")


def test_a_folder_that_vanished_is_not_made_again(local: Store) -> None:
    shutil.rmtree(local.root)
    with pytest.raises(StoreError, match="is gone; bring it back and run again"):
        local.commit("data/x.json", b"")
    assert not local.root.exists()


def test_a_name_that_a_folder_has_is_not_taken_for_a_file(local: Store) -> None:
    (local.root / "x.parquet").mkdir()
    for act in (local.commit, local.replace):
        with pytest.raises(StoreError, match=r"x\.parquet cannot be written"):
            act("x.parquet", parquet(TABLE))
    with pytest.raises(StoreError, match="cannot be deleted"):
        local.delete("x.parquet")
    assert local.files("") == []
    assert left(local) == ["x.parquet"]


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.commit("data/x.parquet", b"")

    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreError, match="data cannot be read: Permission denied"):
        local.files("data")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_where_there_are_no_links_one_still_wins_and_a_failed_copy_leaves_nothing(
    local: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    test_of_many_who_commit_at_once_one_does_and_its_content_stays(local)
    assert local.commit("x.arrow", arrow(TABLE))
    assert not local.commit("x.arrow", arrow(TABLE))
    assert local.sound("x.arrow")

    def half(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = left(local)
    monkeypatch.setattr(files, "copyfileobj", half)
    with pytest.raises(StoreError, match="No space left"):
        local.commit("y.arrow", arrow(TABLE))
    assert left(local) == before


@pytest.mark.parametrize(
    ("where", "far"),
    [
        ("s3://bucket/run", True),
        ("simplecache::s3://bucket/run", True),
        ("memory://run", True),
        ("/runs/a", False),
        ("runs/a:b", False),
        ("file:///runs/a", False),
        ("C:/runs", False),
    ],
)
def test_uris_are_told_from_folders(where: str, far: bool) -> None:
    assert files.elsewhere(where) == far


def test_a_uri_is_a_place_by_itself_wherever_the_sweep_file_lies(tmp_path: Path) -> None:
    assert place.run_folder("s3://bucket/run", "toy") == "s3://bucket/run"
    assert place.shared_folder("s3://bucket/common", tmp_path) == "s3://bucket/common"


# Object stores


def test_what_was_committed_here_is_not_fetched_and_copies_are_shared(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    get = MemoryFileSystem.get_file

    def counted(self: object, path: str, *rest: object, **more: object) -> None:
        fetched.append(path)
        get(self, path, *rest, **more)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    memory.commit("a.arrow", arrow(TABLE))
    assert memory.sound("a.arrow")
    assert fetched == []
    for copy in memory.root.rglob("*.arrow"):
        copy.unlink()
    assert memory.whole("a.arrow")  # by its ends
    assert fetched == []
    assert memory.sound("a.arrow")
    assert memory.paths(["a.arrow"]) == [memory.path("a.arrow")]
    assert memory.table("a.arrow").equals(TABLE)
    assert len(fetched) == 1


def test_of_many_that_want_an_object_one_fetches_it_and_the_others_have_its_copy(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.commit("a.arrow", arrow(TABLE))
    for copy in memory.root.rglob("*.arrow"):
        copy.unlink()
    fetched, start, get = [], threading.Barrier(4), MemoryFileSystem.get_file

    def slowly(self: object, path: str, *rest: object, **more: object) -> None:
        fetched.append(path)
        time.sleep(0.1)
        get(self, path, *rest, **more)

    def one(_: int) -> Path:
        files = ObjectFiles(memory.uri)
        monkeypatch.setattr(files, "_alone", nullcontext())  # as if each were another process
        start.wait()
        return files.find("a.arrow")

    monkeypatch.setattr(MemoryFileSystem, "get_file", slowly)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(one, range(4))) == {memory.path("a.arrow")}
    assert len(fetched) == 1


def test_copies_are_this_users_alone(memory: Store, tmp_path: Path) -> None:
    memory.commit("a.arrow", arrow(TABLE))
    own = memory.root.parent
    assert own.parent == tmp_path
    assert own.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(own)
    own.mkdir(mode=0o755)
    with pytest.raises(StoreError, match="is no folder of this user alone; remove it"):
        Store.open("memory://elsewhere")
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is no folder of this user alone; remove it"):
        Store.open("memory://elsewhere")


def test_a_copy_that_was_cut_short_is_fetched_again(memory: Store) -> None:
    memory.commit("a.arrow", arrow(TABLE))
    memory.path("a.arrow").write_bytes(b"ARROW1")
    assert memory.sound("a.arrow")


def test_a_full_disk_for_copies_says_where_copies_are(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"by way of .*, which TMPDIR sets.*No space left"):
        memory.commit("x.json", b"{}")
    assert left(memory) == []


def test_opening_leaves_no_trace(memory: Store) -> None:
    assert memory.files("", "") == []


class Overwriting(MemoryFileSystem):
    """A store that takes every put, whatever it is asked."""

    protocol = "overwriting"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        super().pipe_file(path, value)


class Looking(MemoryFileSystem):
    """A driver that looks whether a name is free and writes then, as fsspec does by itself."""

    protocol = "looking"
    pipe_file = fsspec.AbstractFileSystem.pipe_file


@pytest.mark.parametrize("kind", [Overwriting, Looking])
def test_a_store_that_cannot_put_conditionally_is_refused(kind: type) -> None:
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    with pytest.raises(StoreError, match="does not refuse to put a file under a name that is take"):
        Store.open(f"{kind.protocol}://run")


def test_a_uri_without_a_driver_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(StoreError, match=r"driver that is not installed; pip install 'peaksweep"):
        Store.open("s3://bucket/run-without-a-driver")


def test_a_uri_that_nobody_knows_is_told_in_one_sentence() -> None:
    with pytest.raises(StoreError, match=r"cannot be used \(Protocol not known: nowhere\); give a"):
        Store.open("nowhere://bucket/run")


def test_a_local_place_knows_no_copies(tmp_path: Path) -> None:
    here = LocalFiles(tmp_path)
    (tmp_path / "x").write_bytes(b"abc")
    assert here.ends("x", 2) == (b"ab", b"c")
    assert here.known("x") == here.find("x") == tmp_path / "x"


def test_a_copy_that_is_forgotten_takes_no_other_file_s_along(memory: Store) -> None:
    for file in ("b.arrow", "a-b.arrow", "[ab].arrow"):
        memory.commit(file, arrow(TABLE))
    copy = memory.path("a-b.arrow")
    memory.delete("b.arrow")
    assert copy.exists()
    memory.delete("[ab].arrow")
    assert [path.name for path in memory.root.iterdir()] == [copy.name]


def test_a_copy_that_another_process_takes_away_is_fetched_again(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, write in (("a.arrow", arrow(TABLE)), ("a.parquet", parquet(TABLE))):
        memory.commit(file, write)
    has = Copies.has
    taken: list[Path] = []

    def gone(self: Copies, file: str, info: Info) -> Path | None:
        copy = has(self, file, info)
        if copy is not None and not taken:
            taken.append(copy)
            copy.unlink()
        return copy

    monkeypatch.setattr(Copies, "has", gone)
    reads: list[Callable[[str], object]] = [
        memory.table, memory.schema, memory.sound, memory.whole, lambda f: memory.paths([f])
    ]  # fmt: skip
    for file in ("a.arrow", "a.parquet"):
        for read in reads:
            memory.path(file)
            taken.clear()
            assert read(file)
            assert taken
    memory.path("a.arrow")
    taken.clear()
    memory.delete("a.arrow")
    with pytest.raises(FileNotFoundError):
        memory.table("a.arrow")
