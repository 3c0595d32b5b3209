"""The digest of a large file is kept while the file is the same one, and no longer."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import digests
from workers.digests import of_file, of_files, unread


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was read, where every file is large and has been left alone for long."""
    done: list[Path] = []
    read = digests._read

    def reading(file: Path) -> str:
        done.append(file)
        return read(file)

    monkeypatch.setattr(digests, "_read", reading)
    monkeypatch.setattr(digests, "WORTH_KEEPING", 1)
    monkeypatch.setattr(digests, "SETTLED", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return done


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def kept(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_digest_is_that_of_the_content_and_is_read_once(file: Path, reads: list[Path]) -> None:
    assert [of_file(file) for _ in range(3)] == [of(b"weights")] * 3
    assert reads == [file]


def test_a_link_into_a_cache_of_blobs_is_the_blob(
    file: Path, tmp_path: Path, reads: list[Path]
) -> None:
    of_file(file)
    (tmp_path / "link").symlink_to(file)
    assert of_file(tmp_path / "link") == of(b"weights")
    assert reads == [file]


def rewritten(file: Path) -> None:
    file.write_bytes(b"WEIGHTS")


def rewritten_with_its_old_time(file: Path) -> None:
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=times)


def replaced_by_one_of_the_same_time(file: Path) -> None:
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    other = file.with_suffix(".other")
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=times)
    other.replace(file)


@pytest.mark.parametrize(
    "change", [rewritten, rewritten_with_its_old_time, replaced_by_one_of_the_same_time]
)
def test_a_file_that_changed_is_read_again_however_alike_it_looks(
    file: Path, reads: list[Path], change: Callable[[Path], None]
) -> None:
    of_file(file)
    before = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == before:  # a file system's clock ticks every few milliseconds
        change(file)
    assert of_file(file) == of(b"WEIGHTS")
    assert len(reads) == 2


def test_a_file_that_changed_a_moment_ago_is_not_trusted_to_look_changed(
    file: Path, reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED", 10**12)
    assert [of_file(file) for _ in range(2)] == [of(b"weights")] * 2
    assert len(reads) == 2
    assert kept(tmp_path) == []


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    file: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = digests._read

    def meanwhile(path: Path) -> str:
        found = read(path)
        path.write_bytes(b"more weights")
        return found

    monkeypatch.setattr(digests, "_read", meanwhile)
    of_file(file)
    assert kept(tmp_path) == []
    assert len(reads) == 1


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 64, b"z" * 64, b"a" * 65])
def test_a_spoilt_entry_is_read_anew(
    file: Path, tmp_path: Path, reads: list[Path], content: bytes
) -> None:
    of_file(file)
    (entry,) = kept(tmp_path)
    entry.write_bytes(content)
    assert of_file(file) == of(b"weights")
    assert entry.read_text() == of(b"weights")
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(
    file: Path, reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "below a file"))
    assert [of_file(file) for _ in range(2)] == [of(b"weights")] * 2
    assert len(reads) == 2


def test_small_files_are_read_and_not_kept(
    file: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "WORTH_KEEPING", 8)
    assert [of_file(file) for _ in range(2)] == [of(b"weights")] * 2
    assert len(reads) == 2
    assert kept(tmp_path) == []


@pytest.mark.usefixtures("reads")
def test_what_is_still_to_be_read_is_known_beforehand(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"12345")
    assert unread([file, other]) == 12
    of_file(file)
    assert unread([file, other]) == 5


def test_many_files_are_one_digest_of_names_and_contents_in_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("b", "a", "c")]
    for i, path in enumerate(files):
        path.write_bytes(bytes([i]))
    lines = (f"{name}\0{of(bytes([i]))}\n" for name, i in (("a", 1), ("b", 0), ("c", 2)))
    assert of_files(files) == of("".join(lines).encode())
    assert of_files(reversed(files)) == of_files(files)
    with pytest.raises(FileNotFoundError):
        of_files([*files, tmp_path / "gone"])
