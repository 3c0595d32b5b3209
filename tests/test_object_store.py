"""A run folder in an object store, served by a real server of S3's protocol on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import polars as pl
import pyarrow as pa
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from orchestrator import shared, sweep
from orchestrator.store import Store, StoreError, arrow, parquet
from tests.orchestrator.racing import race
from tests.orchestrator.test_shared import chain, make
from tests.sweeps import OF_THE_PROCESS, SMALL, written

TABLE = pa.table({"x": list(range(1000))})


@pytest.fixture(scope="module", autouse=True)
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve S3 on a free port of the loopback, name it in the environment, make a bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(key, value)
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("copies")))
        fsspec.filesystem("s3").mkdir("bucket")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return Store.open(f"s3://bucket/{request.node.name}")


def scanned(store: Store, files: str) -> pl.DataFrame:
    """Return tables as Polars reads them from the store by itself."""
    options = {
        "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    return pl.scan_parquet(store.where(files), storage_options=options).collect()


def test_a_commit_is_there_whole_and_never_over_another(store: Store) -> None:
    assert store.commit("a/b/x.parquet", parquet(TABLE, "first"))
    assert not store.commit("a/b/x.parquet", parquet(TABLE, "second"))
    assert store.at(4).commit("a/y.arrow", arrow(TABLE))
    assert store.recipe("a/b/x.parquet") == "first"
    assert store.files("a") == ["a/b/x.parquet", "a/y.arrow"]
    assert store.files("nowhere") == []
    assert store.epoch_of("a/y.arrow") == 4
    for _ in range(2):  # by the copies of what was put, then without
        assert store.whole("a/y.arrow")
        assert store.sound("a/y.arrow")
        assert store.table("a/y.arrow").equals(TABLE)
        assert len(store.paths(store.files("a"))) == 2
        for copy in store.root.rglob("*.*"):
            copy.unlink()
    store.replace("a/b/x.parquet", parquet(TABLE, "third"))
    assert store.recipe("a/b/x.parquet") == "third"
    store.delete("a/y.arrow")
    assert not store.exists("a/y.arrow")
    assert scanned(store, "a/**/*.parquet").equals(pl.DataFrame(TABLE))


def test_of_many_who_commit_at_once_one_does_and_its_content_stays(store: Store) -> None:
    race(lambda: store, name="{}.json", racers=4, rounds=3, size=1000)


def test_a_file_of_many_parts_is_create_only_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    put = S3FileSystem._pipe_file

    async def in_parts(self: object, path: str, data: bytes, **more: object) -> object:
        return await put(self, path, data, chunksize=5 << 20, **more)  # the least of S3

    monkeypatch.setattr(S3FileSystem, "_pipe_file", in_parts)
    content = os.urandom(11 << 20)
    assert store.commit("big.json", content)
    assert not store.commit("big.json", content[::-1])
    assert store.read("big.json") == content


def test_a_changed_object_is_noticed_and_one_made_anew_is_read(store: Store) -> None:
    store.commit("y.arrow", arrow(TABLE))
    content = bytearray(store.read("y.arrow"))
    content[len(content) // 2] ^= 1
    files = fsspec.filesystem("s3")
    path = store.where("y.arrow")
    files.pipe_file(path, bytes(content))
    assert store.whole("y.arrow")
    assert not store.sound("y.arrow")
    files.pipe_file(path, bytes(content[:-9]))
    assert not store.whole("y.arrow")
    store.delete("y.arrow")
    assert store.commit("y.arrow", arrow(TABLE))
    assert store.sound("y.arrow")


def test_a_bucket_that_is_not_there_is_told_in_one_sentence() -> None:
    with pytest.raises(StoreError, match=r"cannot be written \(The specified bucket does not exis"):
        Store.open("s3://nowhere/run")


def test_a_store_is_shared_between_an_object_store_and_a_folder(
    store: Store, tmp_path: Path
) -> None:
    run, tasks = Store.open(tmp_path / "run"), chain()
    make(run, *tasks.values())
    assert shared.publish(tasks.values(), run, shared.opened(store.uri, run))
    assert shared.publish(tasks.values(), run, store) == []
    other = Store.open("s3://bucket/other")
    wanted = [tasks["data"], tasks["table"], tasks["mean"], tasks["root"]]
    found = shared.fetch(wanted, other, store)
    assert found == sorted(tasks[key].file for key in ("data", "table", "root"))
    for file in found:
        assert other.read(file) == run.read(file)
    with pytest.raises(StoreError, match="is the run folder itself"):
        shared.opened(store.uri + "/", store)


def answers(store: Store) -> dict[str, pl.DataFrame]:
    """Return the tables of a run that do not depend on who made them."""
    found = {}
    for kind in ("results", "executions", "statistics", "centres", "data"):
        tables = [pl.DataFrame(store.table(file)) for file in store.files(kind)]
        found[kind] = pl.concat(tables).drop(OF_THE_PROCESS, strict=False)
    for kind in ("cells", "plan", "summary", "contrasts", "curves"):
        found[kind] = pl.DataFrame(store.table(f"{kind}.parquet"))
    order = {"results": ["cell", "sequence"], "executions": ["cell"]}
    return {
        kind: table.sort(order.get(kind, [])) if kind in order else table
        for kind, table in found.items()
    }


@pytest.mark.slow
def test_a_sweep_into_an_object_store_ends_as_one_into_a_folder(tmp_path: Path) -> None:
    file = written(tmp_path, SMALL)
    far = sweep.run(file, out="s3://bucket/run", local=True)
    assert (far.run, far.failures) == ("s3://bucket/run", ())
    assert far.page == "s3://bucket/run/report/index.html"
    near = sweep.run(file, out=tmp_path / "run", local=True)

    there, here = Store.of(far.run), Store.of(Path(near.run))
    expected = answers(here)
    for kind, table in answers(there).items():
        assert table.equals(expected[kind], null_equal=True), kind
    read = scanned(there, "results/**/*.parquet").sort("cell", "sequence")
    assert read.equals(expected["results"], null_equal=True)
    assert all(
        there.sound(f) for kind in ("data", "partials", "results") for f in there.files(kind)
    )

    again = sweep.run(file, out="s3://bucket/run", local=True)
    assert (again.computed, again.found) == (0, far.computed)
    assert there.path("report/index.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert there.files("report", ".svg")
