"""The lock: one driver at a time on a run folder.

Two drivers would not spoil anything (work is committed by name, never over
what is there), but they would do everything twice. The kernel drops the lock
when its holder ends, however it ends, so nothing is ever left locked.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from orchestrator.store import Store, StoreError


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold a run folder's lock; raises StoreError if another process does."""
    with store.path(".lock").open("a+") as file:
        try:
            _take(file)
        except OSError as error:
            file.seek(0)
            raise StoreError(
                f"{store.root} is being worked on by process {file.read().strip() or 'unknown'};"
                " wait for it, or choose another folder with --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def _take(file: TextIO) -> None:
    """Take the lock; somebody who merely asks for its holder has it for a moment."""
    for _ in range(5):
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(store: Store) -> int | None:
    """Return the process that works on a run folder, None if none does."""
    path = store.path(".lock")
    if not path.exists():
        return None
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = file.read().strip()
            return int(text) if text.isdigit() else 0
    return None
