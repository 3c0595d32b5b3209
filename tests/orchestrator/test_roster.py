"""Which model a worker that has nothing to do should hold."""

from orchestrator.roster import Roster, Worker

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
