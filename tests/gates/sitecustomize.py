"""Gates: tasks that wait to be hit by a fault, in whatever process they run.

Python reads this when it starts wherever this folder is on PYTHONPATH, so drivers and
Ray's processes do without the program knowing. `PEAKSWEEP_GATES` names a folder. While a file
`collect.json`, say, is there, the next task of that stage takes it, by renaming it to
`collect.<its process>`, and does what it says:

    {"do": "hold"}    wait until that file is gone; then go on
    {"do": "eat"}     take memory, piece by piece, until somebody ends the process

`cell` in it restricts the gate to tasks that answer this cell, `label` to those whose label
contains it, and `always` leaves the file where it is, so that every such task is caught.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PIECE = 100 * 2**20
"""Bytes that are taken at once, every `PAUSE` seconds."""
PAUSE = 0.05
MOST = 50
"""Pieces that are taken at most: then the process waits to be ended."""


def pass_gate(task: Any) -> None:
    """Do what the gate of a task's stage says, if there is one and it is closed."""
    closed = Path(os.environ["PEAKSWEEP_GATES"]) / f"{task.stage}.json"
    try:
        said = json.loads(closed.read_text())
        if "cell" in said and said["cell"] not in task.cells:
            return
        if said.get("label", "") not in task.label:
            return
        mine = closed.with_name(f"{task.stage}.{os.getpid()}")
        if said.get("always"):
            mine.touch()
        else:
            closed.rename(mine)
    except FileNotFoundError:  # open, or another task was faster
        return
    taken = []
    while mine.exists():
        if said["do"] == "eat" and len(taken) < MOST:
            taken.append(bytearray(b"\1") * PIECE)
        time.sleep(PAUSE)


def gated(do: Callable[..., object], place: int) -> Callable[..., object]:
    """Return a function that passes the gate of its task, an argument, first."""

    def first(*arguments: Any) -> object:
        pass_gate(arguments[place])
        return do(*arguments)

    return first


class Finder(importlib.abc.MetaPathFinder):
    """Puts gates into the two modules that do tasks, when they are imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in ("orchestrator.stages", "orchestrator.host"):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if name.endswith("stages"):
                module.do = gated(module.do, 0)  # type: ignore[attr-defined]
            else:
                module.Host.do = gated(module.Host.do, 1)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "PEAKSWEEP_GATES" in os.environ:
    sys.meta_path.insert(0, Finder())
