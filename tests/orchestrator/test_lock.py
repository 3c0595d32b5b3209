import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.lock import holder, locked
from orchestrator.store import Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def test_a_second_driver_is_refused_and_told_who_is_there(store: Store) -> None:
    with (
        locked(store),
        pytest.raises(StoreError, match=f"worked on by process {os.getpid()}; wait for it"),
        locked(store),
    ):
        pass


def test_the_holder_is_known_while_there_is_one(store: Store) -> None:
    assert holder(store) is None
    with locked(store):
        assert holder(store) == os.getpid()
    assert holder(store) is None


def test_the_lock_is_free_again_after_an_error(store: Store) -> None:
    with pytest.raises(KeyError), locked(store):
        raise KeyError
    assert holder(store) is None
    with locked(store):
        assert holder(store) == os.getpid()


def test_two_run_folders_have_two_locks(tmp_path: Path) -> None:
    with locked(Store.open(tmp_path / "a")), locked(Store.open(tmp_path / "b")):
        pass


def test_a_killed_driver_leaves_nothing_locked(store: Store) -> None:
    code = (
        "import fcntl, os, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write(str(os.getpid())); f.flush(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, str(store.path(".lock"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert holder(store) == other.pid
        with pytest.raises(StoreError, match=f"process {other.pid};"), locked(store):
            pass
        other.kill()
        other.wait()
    assert holder(store) is None  # though its number is still written there
    with locked(store):
        assert holder(store) == os.getpid()


def test_asking_does_not_disturb_the_holder_or_another_who_asks(store: Store) -> None:
    with locked(store):
        assert [holder(store) for _ in range(3)] == [os.getpid()] * 3
    with locked(store):
        pass
