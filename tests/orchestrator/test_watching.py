"""Watching a run: what is on the screen, what is said elsewhere, and when it ends."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.lease import Holder
from orchestrator.meters import Reading, StagePace, WorkerReading
from orchestrator.status import FailureStatus, StageStatus, Status
from orchestrator.store import StoreError
from orchestrator.watching import TRIES, line, screen, watch

HOLDER = Holder(pid=12, host="node-1", started=1000.0, beat=1010.0, beat_age=1.0, epoch=1)


def worker(number: int, **more: object) -> WorkerReading:
    given = {"ready": True, "doing": "zoo:opt 8 cells", "tokens": 5000, "tokens_per_second": 1234.5}
    return WorkerReading(number=number, model="zoo:opt", **{**given, **more})  # type: ignore[arg-type]


def stage(name: str, done: int, running: int = 0, missing: int = 0, failed: int = 0) -> StageStatus:
    return StageStatus(stage=name, done=done, running=running, missing=missing, failed=failed)


def failure(number: int) -> FailureStatus:
    return FailureStatus(
        label=f"cell {number}", why="bad [x]", attempts=2, command="peaksweep run …", record="f"
    )


READING = Reading(
    seconds=60.0, cells_found=0, cells_done=300, cells_left=600, failures=0, blocked=0, retries=0,
    workers_lost=0,
    stages={
        "collect": StagePace(left=0, rate=50.0),
        "evaluate": StagePace(left=600, rate=60.0),
    },
    workers=[worker(0), worker(1, ready=False, doing=""), worker(2, doing="")],
)  # fmt: skip
RUNNING = Status(
    run="runs/[x]",
    stages=(stage("collect", 28), stage("evaluate", 300, running=16, missing=584)),
    failures=(),
    holder=HOLDER,
    since=1000.0,
    rate=60.0,
    seconds_left=600.0,
    reading=READING,
)
ENDED = replace(
    RUNNING, stages=(stage("collect", 28), stage("evaluate", 900)), holder=None, reading=None
)


BAR = str.maketrans("", "", "━╸╺")


def shown(found: Status, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(screen(found, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def row(lines: list[str], start: str) -> str:
    return " ".join(next(x for x in lines if x.strip().startswith(start)).translate(BAR).split())


def test_every_stage_has_its_pace_and_time_left_while_there_is_something_left() -> None:
    lines = shown(RUNNING)
    assert row(lines, "evaluate") == "evaluate 300/900 16 60 10 min"
    assert row(lines, "collect") == "collect 28/28"
    assert "about 10 min left" in " ".join(" ".join(lines).split())


def test_every_worker_has_its_model_its_speed_and_what_it_does() -> None:
    lines = shown(RUNNING)
    assert row(lines, "0 ") == "0 zoo:opt 1,234 zoo:opt 8 cells"
    assert "is being loaded" in row(lines, "1 ")
    assert row(lines, "2 ").endswith("waits")


@pytest.mark.parametrize("height", [12, 24, 40])
@pytest.mark.parametrize("failures", [0, 2, 40])
def test_a_screen_is_not_higher_than_the_terminal(height: int, failures: int) -> None:
    many = replace(READING, workers=[worker(n) for n in range(64)])
    failed = tuple(failure(n) for n in range(failures))
    lines = shown(replace(RUNNING, reading=many, failures=failed), height)
    assert len(lines) <= max(height, 20)  # a terminal of twelve lines has no room for failures
    assert any("more workers" in x for x in lines)
    if failures == 40:
        assert any("36 more failures" in x for x in lines)


def looking(*found: Status | Exception) -> Callable[[str], Status]:
    left = iter(found)

    def look(run: str) -> Status:
        one = next(left)
        if isinstance(one, Exception):
            raise one
        return one

    return look


def watched(*found: Status | Exception, terminal: bool = False, **how: bool) -> str:
    screen = Console(
        file=io.StringIO(), force_terminal=terminal, color_system=None, width=100, height=40
    )
    watch("runs/[x]", screen, look=looking(*found), sleep=lambda seconds: None, **how)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_it_ends_when_the_run_does() -> None:
    said = watched(RUNNING, RUNNING, ENDED)
    assert said.splitlines() == [line(RUNNING), "finished"]  # a line when something has changed
    assert "evaluate 300/900" in said


def test_it_ends_when_nobody_drives_the_run() -> None:
    left = replace(RUNNING, holder=None, reading=None)
    assert "not running here or elsewhere" in watched(left)


def test_a_terminal_shows_one_screen_that_changes() -> None:
    said = watched(RUNNING, ENDED, terminal=True)
    assert "zoo:opt 8 cells" in said
    assert "finished" in said
    assert "900/900" in said


def test_as_json_there_is_an_object_whenever_something_has_changed() -> None:
    one, two = map(json.loads, watched(RUNNING, RUNNING, ENDED, as_json=True).splitlines())
    assert one["reading"]["workers"][0]["tokens_per_second"] == 1234.5
    assert one["reading"]["stages"]["evaluate"] == {"left": 600, "rate": 60.0}
    assert two["holder"] is None


def test_what_cannot_be_read_for_a_moment_is_looked_at_again() -> None:
    gone = StoreError("a file went away while it was read")
    assert "finished" in watched(RUNNING, gone, gone, ENDED)
    with pytest.raises(StoreError, match="went away"):
        watched(RUNNING, *[gone] * TRIES, ENDED)
    with pytest.raises(StoreError, match="went away"):
        watched(gone, RUNNING)  # there may be no run at all


def stopping(code: int) -> Iterator[None]:
    def sleep(seconds: float) -> None:
        raise SystemExit(code)

    console = Console(file=io.StringIO())
    watch("r", console, look=lambda run: RUNNING, sleep=sleep)
    yield


def test_to_have_seen_enough_is_no_error_and_to_be_ended_is() -> None:
    list(stopping(130))  # Ctrl-C, as the command line raises it
    with pytest.raises(SystemExit):
        list(stopping(143))
