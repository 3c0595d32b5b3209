import io
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import events as telling
from orchestrator.progress import Story, console
from orchestrator.store import Store, StoreError
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


@pytest.fixture
def full(store: Store) -> Store:
    """A run folder on a disk that has no space left for its story."""
    store.path("events.jsonl").symlink_to("/dev/full")
    return store


def test_a_story_that_cannot_be_written_ends_the_run_and_is_told_to_people_first(
    full: Store,
) -> None:
    told = screen(terminal=False)
    with (
        pytest.raises(StoreError, match=r"the story of .* cannot be written: No space left"),
        Story(full, told) as story,
    ):
        story.listen("failed", task("data"), {"error": "ValueError: bad"})
    assert "ValueError: bad" in shown(told)


def ending_for_worse(store: Store) -> None:
    with Story(store, screen(terminal=False)) as story:
        with suppress(StoreError):
            story.say("lost")
        raise KeyError("the real one")


def test_a_full_disk_does_not_hide_the_error_that_is_being_told(full: Store) -> None:
    with pytest.raises(KeyError, match="the real one"):
        ending_for_worse(full)


def test_a_folder_that_cannot_be_written_is_told_before_anything_begins(store: Store) -> None:
    store.path("events.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"the story of .* cannot be written"):
        Story(store, screen(terminal=False))


def test_nobody_listening_does_not_end_a_run(store: Store) -> None:
    with Path("/dev/full").open("w") as gone:
        with Story(store, Console(file=gone)) as story:
            story.begin([], {})
        with suppress(OSError):
            gone.close()  # what it was not told is still on its way
    assert [e["event"] for e in events(store)] == ["begin"]


def test_what_is_added_fails_or_is_not_tried_names_its_cells(store: Store) -> None:
    with Story(store, screen(terminal=False)) as story:
        for event in ("added", "started", "failed", "blocked", "done"):
            story.listen(event, call(), {})
    named = ["call-c0", "call-c1", "call-c2"]
    assert [e.get("cells") for e in events(store)] == [named] * 4 + [None]


class TestSegments:
    """The story of a run in an object store, which cannot append."""

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setattr(telling, "FLUSH", 3600.0)
        return Store.open(f"memory://{request.node.name}").at(7)

    def test_it_is_whole_when_the_driver_ends(self, store: Store) -> None:
        with Story(store, screen(terminal=False)) as story:
            story.begin([call()], {})
            story.listen("started", call(), {})
            assert list(telling.events(store)) == []
        assert store.files("events", ".jsonl") == ["events/00000007-000001.jsonl"]
        assert [e["event"] for e in telling.events(store)] == ["begin", "started"]

    def test_it_is_put_every_few_seconds(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(telling, "FLUSH", 0.01)
        with Story(store, screen(terminal=False)) as story:
            for event in ("one", "two"):
                story.say(event)
                while event not in [e["event"] for e in telling.events(store)]:
                    time.sleep(0.01)

    def test_a_long_one_has_several_segments_and_is_read_in_order(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(telling, "SEGMENT", 200)
        told: list[str] = []
        for driver in (7, 8):
            with Story(store.at(driver), screen(terminal=False)) as story:
                for number in range(12):
                    story.say(f"event {number}", driver=driver, more="x" * 20 * number)
                    told.append(f"event {number}")
        files = store.files("events", ".jsonl")
        assert len(files) > 12
        assert all(len(store.read(file)) < 400 for file in files)
        assert [e["event"] for e in telling.events(store)] == told
        latest = list(telling.events(store, latest=True))
        assert {e["driver"] for e in latest} == {8}
        assert len(latest) == 12

    def test_a_driver_of_the_same_epoch_goes_on_after_the_last_segment(self, store: Store) -> None:
        for number in range(3):
            with Story(store, screen(terminal=False)) as story:
                story.say(f"event {number}")
        assert [e["event"] for e in telling.events(store)] == ["event 0", "event 1", "event 2"]

    def test_a_store_that_cannot_be_written_ends_the_run_unless_it_ends_for_worse(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(self: Store, file: str, content: bytes) -> None:
            raise StoreError("the storage is away")

        monkeypatch.setattr(Store, "replace", away)
        with (
            pytest.raises(StoreError, match="cannot be written: the storage is away"),
            Story(store, screen(terminal=False)) as story,
        ):
            story.say("event")
        with pytest.raises(KeyError, match="the real one"):
            ending_for_worse(store)


def test_of_a_local_story_the_latest_drivers_part_is_read(store: Store) -> None:
    assert list(telling.events(store, latest=True)) == []
    for driver in range(3):
        with Story(store, screen(terminal=False)) as story:
            story.begin([], {"driver": driver})
            story.say("remark", said='"event": "begin"')
    assert len(list(telling.events(store))) == 6
    begin, remark = telling.events(store, latest=True)
    assert (begin["found"], remark["event"]) == ({"driver": 2}, "remark")


def test_progress_is_told_on_standard_error_so_that_output_stays_clean() -> None:
    assert console().file is sys.stderr
