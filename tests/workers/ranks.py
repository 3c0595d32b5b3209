"""Ranks: processes on this machine that hold a model together, for tests.

They are forks, so they have imported what the test has; they sum over gloo.
"""

import multiprocessing
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from workers import sharding

T = TypeVar("T")


def on_ranks(size: int, act: Callable[..., T], *arguments: object) -> list[T]:
    """Return what a function returns on each of `size` ranks; raise where one raises."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ends, processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_one, args=(rank, size, f"{folder}/meeting", theirs, act, arguments)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
                process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
        try:
            return [_heard(end) for end in ends]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _heard(end: Connection) -> Any:
    if not end.poll(60):
        raise TimeoutError("a rank said nothing in a minute")
    good, found = pickle.loads(end.recv_bytes())
    if not good:
        raise AssertionError(f"on a rank:\n{found}")
    return found


def _one(
    rank: int,
    size: int,
    meeting: str,
    end: Connection,
    act: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        sharding.join(rank, size, meeting, "cpu")
        said = True, act(*arguments)
    except BaseException:
        said = False, traceback.format_exc()  # type: ignore[assignment]
    end.send_bytes(pickle.dumps(said))
    time.sleep(60)  # until it is killed: one that leaves would disturb those that go on
