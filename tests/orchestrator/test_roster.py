"""Which model a worker that has nothing to do should hold."""

from collections import deque

from orchestrator.roster import LOOK_AHEAD, Roster, Worker
from orchestrator.tasks import Task
from tests.orchestrator.scripted import task

NEITHER = {"a": False, "b": False}
BOTH = {"a": True, "b": True}


def roster(*held: str) -> tuple[Roster, Worker]:
    """Return a roster of workers that hold these models, and the last, which holds none."""
    made = Roster(len(held) + 1)
    for worker, model in zip(made.workers, held, strict=False):
        worker.assign(model)
        worker.loaded()
    return made, made.workers[-1]


def test_the_model_with_the_most_work_is_taken_first() -> None:
    made, idle = roster()
    assert made.next_model(idle, {"a": 1.0, "b": 2.0}, NEITHER) == "b"


def test_work_is_counted_per_worker_that_would_hold_it() -> None:
    made, idle = roster("a")
    assert made.next_model(idle, {"a": 3.0, "b": 2.0}, BOTH) == "b"
    assert made.next_model(idle, {"a": 5.0, "b": 2.0}, BOTH) == "a"
    made, idle = roster("a", "a")
    assert made.next_model(idle, {"a": 5.0, "b": 2.0}, BOTH) == "b"


def test_a_model_that_somebody_holds_is_joined_only_if_enough_of_it_waits() -> None:
    made, idle = roster("a")
    assert made.next_model(idle, {"a": 9.0, "b": 1.0}, NEITHER) == "b"
    assert made.next_model(idle, {"a": 9.0}, NEITHER) is None


def test_a_model_without_work_is_not_loaded() -> None:
    made, idle = roster()
    assert made.next_model(idle, {"a": 0.0}, BOTH) is None
    assert made.next_model(idle, {}, {}) is None


def test_who_loads_a_model_counts_for_it_but_cannot_be_sent_its_tasks() -> None:
    made, idle = roster()
    idle.assign("a")
    assert (idle.ready, made.holders("a")) == (False, 0)
    idle.loaded()
    assert (idle.ready, made.holders("a"), idle.waited()) == (True, 1, 0.0)


def test_a_lost_worker_holds_nothing() -> None:
    made, _ = roster("a")
    made.workers[0].vacate()
    assert (made.holders("a"), made.workers[0].ready, made.workers[0].tasks) == (0, False, [])


def taken(made: Roster, queue: deque[Task], number: int) -> str:
    followers = {t.file: [int(t.name[0])] for t in queue if not t.name.startswith("0")}
    return made.take(made.workers[number], queue, followers).name


def test_a_worker_goes_on_with_what_is_merged_together_with_its_last_file() -> None:
    made, _ = roster("a")
    queue = deque(task(name) for name in ("1a", "1b", "1c", "2a", "2b", "2c"))
    order = [taken(made, queue, worker) for worker in (0, 1, 0, 1, 0, 1)]
    assert order == ["1a", "2a", "1b", "2b", "1c", "2c"]
    assert not queue


def test_a_worker_that_has_nothing_to_go_on_with_helps_another() -> None:
    made, _ = roster("a", "a")
    queue = deque(task(name) for name in ("1a", "1b", "2a", "2b"))
    assert [taken(made, queue, worker) for worker in (0, 1, 2, 2)] == ["1a", "2a", "1b", "2b"]


def test_what_is_not_merged_is_taken_in_turn_even_where_merges_are_under_way() -> None:
    made, _ = roster("a")
    queue = deque(task(name) for name in ("0a", "0b", "1a"))
    assert [taken(made, queue, worker) for worker in (0, 0, 1)] == ["0a", "0b", "1a"]


def test_a_long_queue_is_not_searched_to_its_end() -> None:
    made, _ = roster()
    queue = deque([task("1a"), *(task(f"0{i}") for i in range(LOOK_AHEAD)), task("1b")])
    assert [taken(made, queue, 0) for _ in range(2)] == ["1a", "00"]
