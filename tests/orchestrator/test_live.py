"""Who is handed a run's numbers while it runs, and what becomes of those who cannot take them."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from orchestrator import live as handing
from orchestrator.live import Live
from orchestrator.meters import Reading
from orchestrator.mistakes import SpecError

NEVER = 3600.0
"""Seconds between readings, where only the last one is wanted."""
DONE: list[dict[str, object]] = [
    {"event": "begin", "time": 1000.0, "left": {"evaluate": 3}, "found": {}},
    {"event": "started", "time": 1001.0, "file": "a", "cells": ["c0", "c1"], "stage": "evaluate"},
    {"event": "done", "time": 1002.0, "file": "a", "cells": 2, "stage": "evaluate"},
]


class Notebook:
    """A tracker that remembers, and raises where it is told to."""

    def __init__(self, *broken: str) -> None:
        self.broken, self.told = broken, list[tuple[str, Any]]()

    def _did(self, what: str, about: object) -> None:
        if what in self.broken:
            raise ConnectionError(f"no {what}")
        self.told.append((what, about))

    def begin(self, name: str, config: Mapping[str, object]) -> None:
        self._did("begin", (name, config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._did("log", values)

    def table(self, name: str, frame: pl.DataFrame) -> None:
        self._did("table", name)

    def close(self, *, finished: bool) -> None:
        self._did("close", finished)

    @property
    def did(self) -> list[str]:
        return [what for what, _ in self.told]


class Story:
    """What was written into the story."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []

    def say(self, event: str, **details: object) -> None:
        self.told.append((event, details))


def test_a_tracker_has_the_sweep_file_the_numbers_and_the_tables() -> None:
    tracker = Notebook()
    live = Live([tracker], seconds=NEVER)
    with live.begun("run-1", {"name": "run"}, Story().say):
        for event in DONE:
            live.hear(event)
        live.tables({"summary": pl.DataFrame({"ce": [1.0]}), "contrasts": pl.DataFrame()})
    assert tracker.did == ["begin", "table", "table", "log", "close"]
    assert tracker.told[0][1] == ("run-1", {"name": "run"})
    numbers = dict(tracker.told)["log"]
    assert (numbers["cells/done"], numbers["cells/left"]) == (2.0, 1.0)
    assert dict(tracker.told)["close"] is True


def test_readings_are_handed_on_every_few_seconds() -> None:
    seen = threading.Event()
    live = Live(seconds=0.005)
    for event in DONE:
        live.hear(event)

    def sink(reading: Reading) -> None:
        if reading.cells_done == 2:
            seen.set()

    with live.begun("run", {}, Story().say), live.feeding("sink", sink):
        assert seen.wait(20)


def test_a_sink_is_never_called_after_its_time() -> None:
    calls: list[Reading] = []
    live = Live(seconds=0.001)
    with live.begun("run", {}, Story().say):
        with live.feeding("sink", calls.append):
            pass
        assert calls  # the last numbers, at least
        count = len(calls)
        time.sleep(0.02)
        assert len(calls) == count


def test_a_tracker_that_fails_is_told_of_once_and_left_alone() -> None:
    broken, whole, story = Notebook("log", "table", "close"), Notebook(), Story()
    live = Live([broken, whole], seconds=NEVER)
    with live.begun("run", {}, story.say):
        live._beat()
        live._beat()
        live.hear(DONE[0])
        live.tables({"summary": pl.DataFrame()})
    (event, details), *rest = story.told
    assert (event, rest) == ("untracked", [])
    assert details == {"tracker": "Notebook 1", "error": "ConnectionError: no log"}
    assert broken.did == ["begin"]
    assert whole.did == ["begin", "log", "log", "table", "log", "close"]


def test_a_tracker_that_cannot_begin_refuses_the_run_and_ends_the_others() -> None:
    whole, broken = Notebook(), Notebook("begin")
    live = Live([whole, broken], seconds=NEVER)
    with (
        pytest.raises(SpecError, match=r"--track: Notebook cannot begin .*no begin.*mend that"),
        live.begun("run", {}, Story().say),
    ):
        raise AssertionError("it was begun all the same")
    assert whole.told[-1] == ("close", False)
    assert broken.did == []


def ending_for_worse(live: Live, say: Any) -> None:
    with live.begun("run", {}, say):
        raise KeyError("the real one")


def test_how_a_run_ends_is_told_and_not_hidden() -> None:
    tracker, broken = Notebook(), Notebook("log")

    def full(event: str, **details: object) -> None:
        raise OSError("the story's disk is full")

    with pytest.raises(KeyError, match="the real one"):
        ending_for_worse(Live([tracker, broken], seconds=NEVER), full)
    assert tracker.told[-1] == ("close", False)


def test_a_tracker_that_does_not_answer_does_not_keep_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handing, "PATIENCE", 0.01)
    stuck, let_go, story = threading.Event(), threading.Event(), Story()

    def hang(values: Mapping[str, float], step: int) -> None:
        stuck.set()
        let_go.wait(60)

    tracker = Notebook()
    tracker.log = hang  # type: ignore[method-assign]
    live = Live([tracker], seconds=0.001)
    with live.begun("run", {}, story.say):
        assert stuck.wait(20)
        with live.feeding("sink", lambda reading: None):
            live.tables({"summary": pl.DataFrame()})
    let_go.set()
    assert story.told
    assert all(event == "untracked" for event, _ in story.told)
    assert "no answer in 0.01 s" in str(story.told[-1])
    assert "close" not in tracker.did


@pytest.mark.parametrize("stuck_at", ["close", "table"])
def test_a_tracker_that_never_ends_its_last_word_does_not_keep_a_run(
    monkeypatch: pytest.MonkeyPatch, stuck_at: str
) -> None:
    monkeypatch.setattr(handing, "PATIENCE", 0.01)
    let_go, story, tracker = threading.Event(), Story(), Notebook()
    monkeypatch.setattr(tracker, stuck_at, lambda *given, **named: let_go.wait(20))
    live = Live([tracker], seconds=NEVER)
    with live.begun("run", {}, story.say):
        live.tables({"summary": pl.DataFrame()})
    let_go.set()
    assert "no answer in 0.01 s" in str(story.told)
