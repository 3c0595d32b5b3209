"""What the story of a running driver adds up to."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.meters import WINDOW, Meters, Reading

BEGIN: dict[str, object] = {
    "event": "begin",
    "time": 1000.0,
    "left": {"prepare": 1, "collect": 4, "evaluate": 8},
    "found": {"prepare": 2, "evaluate": 16},
}


def heard(*events: dict[str, Any], now: float = 0.0) -> Reading:
    meters = Meters()
    for event in events:
        meters.hear(event)
    return meters.read(now)


def worker(number: int, at: float, model: str = "zoo:opt") -> list[dict[str, object]]:
    return [
        {"event": "loading", "time": at - 1, "worker": number, "model": model},
        {"event": "ready", "time": at, "worker": number, "model": model, "seconds": 1.0},
    ]


def started(file: str, at: float, number: int | None = 0, cells: int = 0) -> dict[str, object]:
    told: dict[str, object] = {
        "event": "started", "time": at, "file": file, "stage": "evaluate" if cells else "collect",
        "label": f"label of {file}",
    }  # fmt: skip
    if number is not None:
        told["worker"] = number
    return {**told, "cells": [f"{file}-{i}" for i in range(cells)]} if cells else told


def done(file: str, at: float, **more: object) -> dict[str, object]:
    return {"event": "done", "time": at, "file": file, "stage": "?", **more}


def test_cells_found_answered_and_left_are_counted() -> None:
    found = heard(
        BEGIN,
        *worker(0, 1001),
        started("a", 1010, cells=4),
        done("a", 1020, cells=4, tokens=400),
        started("b", 1020, cells=2),
    )
    assert (found.cells_found, found.cells_done, found.cells_left) == (16, 4, 4)
    assert found.stages["evaluate"].left == 4
    assert found.stages["collect"].left == 4
    assert found.seconds == 20.0


def test_a_stage_has_its_own_pace_and_time_left() -> None:
    found = heard(
        BEGIN,
        started("s1", 1000),
        started("s2", 1000),
        done("s1", 1030),
        started("a", 1040, cells=2),
        done("a", 1070),
        now=1100,
    )
    collect, evaluate = found.stages["collect"], found.stages["evaluate"]
    assert collect.rate == pytest.approx(60 / 100)  # one in the hundred seconds since it began
    assert collect.seconds_left == pytest.approx(3 * 100)
    assert evaluate.rate == pytest.approx(2.0)  # two in the minute since it began
    assert evaluate.seconds_left == pytest.approx(6 * 30)
    assert found.stages["prepare"].rate is None
    assert found.stages["prepare"].seconds_left is None


def test_every_worker_has_its_own_tokens_a_second() -> None:
    found = heard(
        BEGIN,
        *worker(0, 1000),
        *worker(1, 1000, "zoo:vit"),
        started("a", 1000, 0, cells=2),
        started("b", 1000, 1, cells=2),
        done("a", 1010, tokens=1000),
        done("b", 1020, tokens=100),
        started("c", 1020, 0, cells=2),
        started("d", 1020, 0, cells=2),
        now=1040,
    )
    one, two = found.workers
    assert (one.model, one.tokens, one.doing) == ("zoo:opt", 1000, "label of c")
    assert one.tokens_per_second == pytest.approx(1000 / 40)
    assert (two.model, two.tokens, two.doing) == ("zoo:vit", 100, "")
    assert two.tokens_per_second == pytest.approx(100 / 40)
    assert found.numbers()["tokens_per_second/all"] == pytest.approx(1100 / 40)


def test_a_pace_falls_while_nothing_ends() -> None:
    story = (BEGIN, *worker(0, 1000), started("a", 1000, cells=2), done("a", 1060, tokens=60))
    rates = [heard(*story, now=1060 + wait).stages["evaluate"].rate for wait in (0, 60, WINDOW + 1)]
    assert rates == [pytest.approx(2.0), pytest.approx(1.0), 0.0]
    assert heard(*story, now=1061 + WINDOW).workers[0].tokens_per_second == 0.0


def test_a_worker_is_there_from_its_loading_until_it_is_lost() -> None:
    story = worker(0, 1000) + worker(1, 1000)
    assert heard(BEGIN, story[0]).workers_ready == 0
    assert not heard(BEGIN, story[0]).workers[0].ready
    assert heard(BEGIN, *story).workers_ready == 2
    lost = heard(BEGIN, *story, {"event": "lost", "time": 1002, "worker": 1, "reason": "killed"})
    assert (lost.workers_ready, lost.workers_lost) == (1, 1)
    assert [w.number for w in lost.workers] == [0]


def test_what_was_hedged_is_credited_to_the_worker_that_began_it_last() -> None:
    hedged = {**started("a", 1010, 1, cells=2), "event": "hedged"}
    found = heard(
        BEGIN, *worker(0, 1000), *worker(1, 1000), started("a", 1001, 0, cells=2), hedged,
        done("a", 1020, tokens=10), done("a", 1021, tokens=10),
    )  # fmt: skip
    assert [w.tokens for w in found.workers] == [0, 10]
    assert found.cells_done == 2


def test_failures_what_they_block_and_retries_are_counted() -> None:
    found = heard(
        BEGIN,
        started("a", 1001, cells=2),
        {"event": "retried", "time": 1002, "file": "a", "error": "bad"},
        started("a", 1003, cells=2),
        {"event": "failed", "time": 1004, "file": "a", "cells": ["a-0", "a-1"]},
        {"event": "blocked", "time": 1004, "file": "b", "cells": ["b-0"]},
    )
    assert (found.retries, found.failures, found.blocked) == (1, 1, 1)
    assert found.cells_left == 8 - 3


def test_a_driver_that_begins_anew_counts_anew() -> None:
    found = heard(BEGIN, *worker(0, 1001), started("a", 1001, cells=2), {**BEGIN, "time": 2000.0})
    assert (found.cells_done, found.workers, found.seconds) == (0, [], 0.0)


values = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.text())
damaged = st.dictionaries(
    st.sampled_from(["time", "file", "stage", "cells", "worker", "left", "found", "tokens"]), values
)


@given(st.lists(st.tuples(
    st.sampled_from(["begin", "added", "started", "done", "failed", "loading", "ready", "lost"]),
    damaged,
), max_size=20))  # fmt: skip
def test_a_damaged_story_adds_up_to_something(story: list[tuple[str, dict[str, Any]]]) -> None:
    found = heard(*({**told, "event": event} for event, told in story))
    assert found.cells_left >= 0
    assert all(number == number for number in found.numbers().values())
    json.dumps(found.numbers())


def test_a_stage_that_has_ended_keeps_its_pace() -> None:
    left = {**BEGIN, "left": {"evaluate": 2}}
    found = heard(left, started("a", 1000, cells=2), done("a", 1060), now=1600)
    assert found.stages["evaluate"].rate == pytest.approx(2.0)
    assert found.stages["evaluate"].seconds_left == 0.0
