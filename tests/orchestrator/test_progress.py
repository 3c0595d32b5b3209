import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.progress import Story, console
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.orchestrator.scripted import task


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def screen(terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, color_system=None, width=120, height=40
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def events(store: Store) -> list[dict[str, object]]:
    lines = store.path("events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]  # a driver begins on a line of its own


def call(name: str = "call", cells: int = 3) -> Task:
    return task(name, "a", cells=[f"{name}-c{i}" for i in range(cells)])


def test_every_event_is_a_line_of_the_story(store: Store) -> None:
    with Story(store, screen(terminal=False)) as story:
        story.begin([call(), task("data")], {"prepare": 4})
        story.listen("started", call(), {"worker": 1})
        story.listen("done", call(), {"cells": 3})
        story.say("end", failures=0)
    begin, started, done, end = events(store)
    assert begin["event"] == "begin"
    assert begin["left"] == {"prepare": 1, "collect": 0, "reduce": 0, "learn": 0, "evaluate": 3}
    assert begin["found"] == {"prepare": 4}
    assert started["cells"] == ["call-c0", "call-c1", "call-c2"]
    assert {k: started[k] for k in ("event", "file", "stage", "label", "worker")} == {
        "event": "started",
        "file": "call",
        "stage": "evaluate",
        "label": "label of call",
        "worker": 1,
    }
    assert (done["file"], done["cells"]) == ("call", 3)
    assert end["event"] == "end"
    assert isinstance(end["time"], float)


def test_a_line_is_there_as_soon_as_it_is_told(store: Store) -> None:
    with Story(store, screen(terminal=False)) as story:
        story.say("stale", file="x")
        assert [e["event"] for e in events(store)] == ["stale"]


def test_a_second_run_goes_on_with_the_same_story(store: Store) -> None:
    for _ in range(2):
        with Story(store, screen(terminal=False)) as story:
            story.begin([], {})
    assert [e["event"] for e in events(store)] == ["begin", "begin"]


def test_a_second_run_does_not_go_on_within_a_torn_line(store: Store) -> None:
    store.path("events.jsonl").write_text('{"time": 1, "event": "sta')
    with Story(store, screen(terminal=False)) as story:
        story.begin([], {})
    assert json.loads(store.path("events.jsonl").read_text().splitlines()[-1])["event"] == "begin"


def test_without_a_terminal_the_lines_are_told_as_they_are(store: Store) -> None:
    told = screen(terminal=False)
    with Story(store, told) as story:
        story.begin([task("data")], {})
        story.listen("failed", task("data"), {"error": "ValueError('[/x]')"})
    assert [json.loads(line) for line in shown(told).splitlines()] == events(store)


def test_on_a_terminal_there_is_a_bar_per_stage_that_has_work(store: Store) -> None:
    told = screen(terminal=True)
    with Story(store, told) as story:
        story.begin([call("one"), call("two"), task("data")], {"collect": 7})
        for one in (call("one"), task("data")):
            story.listen("started", one, {})
            story.listen("done", one, {})
    last = shown(told).split("\r")[-1] + shown(told)
    for stage in ("prepare", "collect", "evaluate"):
        assert stage in last
    assert "reduce" not in last
    assert "3/6" in last
    assert "1/1" in last
    assert "7 found" in last
    assert "{" not in shown(told)  # the lines are for the file


def test_a_remark_is_for_people_alone(store: Store) -> None:
    for terminal in (True, False):
        told = screen(terminal)
        with Story(store, told) as story:
            story.begin([call()], {})
            story.remark("3 files found in the shared store /stores/[common]")
        assert ("found in the shared store /stores/[common]" in shown(told)) == terminal
    assert [e["event"] for e in events(store)] == ["begin", "begin"]


def test_what_fails_or_is_not_tried_moves_the_bar_too(store: Store) -> None:
    told = screen(terminal=True)
    with Story(store, told) as story:
        story.begin([call("one"), call("two")], {})
        story.listen("failed", call("one"), {"error": "ValueError: bad"})
        story.listen("blocked", call("two"), {"by": "one"})
    assert "6/6" in shown(told)
    assert "failed label of one: ValueError: bad" in shown(told)
    assert [e["event"] for e in events(store)] == ["begin", "failed", "blocked"]


@pytest.mark.parametrize("error", ["OSError('[/tmp/x] is full')", "KeyError([layer])"])
def test_an_error_with_brackets_is_told_as_it_is(store: Store, error: str) -> None:
    told = screen(terminal=True)
    with Story(store, told) as story:
        story.begin([task("data")], {})
        story.listen("retried", task("data"), {"error": error})
    assert error in shown(told)


def test_progress_is_told_on_standard_error_so_that_output_stays_clean() -> None:
    assert console().file is sys.stderr
