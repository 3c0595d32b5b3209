"""Which model an idle worker should hold."""

import pytest

from orchestrator.deadlines import Deadlines
from orchestrator.placement import Placement
from orchestrator.roster import Roster, Worker
from orchestrator.trials import ATTEMPTS, Trials
from orchestrator.waiting import Queues, Waiting
from tests.orchestrator.scripted import model, task


def placed(*held: str) -> tuple[Placement, Roster, Worker, Deadlines]:
    """Return the placement of workers that hold these models, and the last, which holds none."""
    roster, deadlines = Roster(lambda: 0.0), Deadlines(300.0)
    roster.resize(len(held) + 1)
    made = Placement(roster, deadlines, Trials())
    for name in "ab":
        made.know(model(name))
    for worker, name in zip(roster.workers, held, strict=False):
        roster.assign(worker, name)
        roster.loaded(worker)
    return made, roster, roster.workers[-1], deadlines


def choice(made: Placement, idle: Worker, **queued: int) -> str | None:
    queues = Queues()
    for name, count in queued.items():
        for i in range(count):
            queues.put(task(f"{name}{i}", name))
    made.hope = False
    return made.choose(idle, made.work(queues, Waiting([])))


def test_the_model_with_the_most_work_per_worker_that_would_hold_it_is_taken() -> None:
    made, _, idle, _ = placed()
    assert choice(made, idle, a=1, b=2) == "b"
    made, _, idle, _ = placed("a")
    assert choice(made, idle, a=9, b=5) == "b"
    assert choice(made, idle, a=11, b=5) == "a"


def test_a_model_without_work_is_not_loaded() -> None:
    made, _, idle, _ = placed("a")
    assert choice(made, idle) is None


def test_before_anything_is_known_there_is_a_replica_for_every_task_at_most() -> None:
    assert [choice(p[0], p[2], a=4) for p in (placed(*"aaa"), placed(*"aaaa"))] == ["a", None]


@pytest.mark.parametrize(("loading", "joins"), [(19.0, True), (21.0, False)])
def test_one_more_loads_a_model_if_those_who_hold_it_need_longer_for_its_queue(
    loading: float, joins: bool
) -> None:
    made, _, idle, deadlines = placed("a", "a")
    made.loaded("a", loading)
    deadlines.took(task("t", "a"), 10.0)
    assert (choice(made, idle, a=4) == "a") == joins  # 4 tasks of 10 s for two


def test_a_model_is_given_up_when_two_loads_failed_and_nobody_is_left_to_try() -> None:
    made, roster, idle, _ = placed("b", "b")
    roster.assign(idle, "a")
    assert not made.unloadable("a", ATTEMPTS)
    assert not made.unloadable("a", ATTEMPTS)  # somebody still loads it
    assert choice(made, roster.workers[0], a=99) is None
    roster.vacate(idle)
    assert made.unloadable("a", ATTEMPTS)


def test_a_model_that_was_loaded_before_is_not_given_up() -> None:
    made, _, _, _ = placed()
    made.loaded("a", 1.0)
    assert not any(made.unloadable("a", ATTEMPTS) for _ in range(9))
