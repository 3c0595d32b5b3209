"""When a task has taken so long that something must be wrong."""

from orchestrator.deadlines import TIMES, Deadlines
from orchestrator.tasks import rough_seconds
from tests.orchestrator.scripted import task


def test_a_deadline_is_many_times_what_tasks_of_its_kind_took_for_what_they_cost() -> None:
    made = Deadlines(1.0)
    for seconds in (10.0, 12.0, 900.0):
        made.took(task("t", "a", cost=2.0), seconds)
    assert made.expected(task("u", "a", cost=4.0)) == 24.0
    assert made.of(task("u", "a", cost=4.0)) == TIMES * 24.0
    made.took(task("t", "a", cost=2.0), 1.0)
    assert made.expected(task("u", "a", cost=4.0)) == 22.0


def test_before_any_ended_arithmetic_says_what_is_expected() -> None:
    made = Deadlines(1.0)
    made.took(task("t", "b"), 99.0)
    of_a = task("u", "a", cost=1e12)
    assert made.of(of_a) == TIMES * rough_seconds(1e12, "cpu")
    assert made.expected(task("u")) is None


def test_no_deadline_is_shorter_than_the_sweep_has_patience() -> None:
    made = Deadlines(300.0)
    made.took(task("t", "a"), 0.1)
    assert made.of(task("u", "a")) == made.of(task("u")) == 300.0


def test_twice_the_time_is_given_whenever_it_was_too_short_until_the_task_is_done() -> None:
    made, slow = Deadlines(300.0), task("t", "a")
    made.passed(slow)
    made.passed(slow)
    assert made.of(slow) == 1200.0
    made.took(slow, 1.0)
    made.forget(slow)
    assert made.of(slow) == 300.0
