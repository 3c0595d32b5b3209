"""Which worker holds which model, who has room, and who is to take what."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.roster import LOOK_AHEAD, Roster, Worker
from orchestrator.tasks import Task
from tests.orchestrator.scripted import task


def roster(*held: str) -> tuple[Roster, Worker]:
    """Return a roster of workers that hold these models, and the last, which holds none."""
    made = Roster(lambda: 0.0)
    made.resize(len(held) + 1)
    for worker, model in zip(made.workers, held, strict=False):
        made.assign(worker, model)
        made.loaded(worker)
    return made, made.workers[-1]


def test_who_loads_a_model_counts_for_it_but_cannot_be_sent_its_tasks() -> None:
    made, idle = roster()
    made.assign(idle, "a")
    assert (idle.ready, made.held("a"), made.holders("a"), made.open) == (False, 1, 0, [])
    made.loaded(idle)
    assert (idle.ready, made.held("a"), made.holders("a"), made.open) == (True, 1, 1, ["a"])


def test_a_lost_worker_holds_nothing() -> None:
    made, _ = roster("a")
    made.began(made.workers[0], task("t", "a"))
    assert [t.name for t in made.lost(made.workers[0])] == ["t"]
    assert (made.held("a"), made.ready, made.open) == (0, 0, [])
    assert made.workers[0].tasks == []


def test_losses_at_one_task_count_as_one() -> None:
    made, _ = roster("a")
    first, other = task("t", "a"), task("u", "a")
    for at, losses in ((first, 1), (first, 1), (other, 2)):
        made.assign(made.workers[0], "a")
        made.loaded(made.workers[0])
        made.began(made.workers[0], at)
        made.lost(made.workers[0])
        assert made.workers[0].losses == losses


def test_when_room_is_lost_those_that_hold_nothing_go_first_and_none_that_is_busy() -> None:
    made, _ = roster("a", "a")
    made.began(made.workers[0], task("t", "a"))
    assert [w.number for w in made.resize(1)] == [2, 1]
    assert made.resize(0) == []
    assert made.crowded
    made.ended(made.workers[0], task("t", "a"))
    assert [w.number for w in made.resize(0)] == [0]
    assert not made.crowded


def test_who_was_retired_is_used_again_when_there_is_room() -> None:
    made, _ = roster("a")
    made.resize(1)
    made.resize(3)
    assert sorted(w.number for w in made.idle) == [0, 1, 2]


def test_a_worker_that_is_retired_for_good_takes_its_room_along() -> None:
    made, idle = roster("a", "b")
    made.retire(idle, for_good=True)
    assert made.resize(3) == []
    assert made.active == 2
    assert made.resize(4) == []
    assert made.active == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("laebv")), max_size=60))
def test_what_is_kept_up_to_date_is_what_counting_would_give(moves: list[tuple[int, str]]) -> None:
    made, _ = roster("a", "b", "a")
    for number, move in moves:
        worker = made.workers[number]
        if move == "l" and worker.loading:
            made.loaded(worker)
        elif move in "ab" and not worker.loading and not worker.tasks:
            made.assign(worker, move)
        elif move == "b" and worker.ready and len(worker.tasks) < 2:
            made.began(worker, task(f"{number} {len(worker.tasks)}", worker.model))
        elif move == "e" and worker.tasks:
            made.ended(worker, worker.tasks[0])
        elif move == "v":
            made.vacate(worker)
        for model in "ab":
            there = [w for w in made.workers if w.model == model]
            assert made.held(model) == len(there)
            assert made.holders(model) == sum(w.ready for w in there)
            roomy = [w for w in there if w.ready and len(w.tasks) < 2]
            assert (model in made.open) == bool(roomy)
            found = made.roomy(model, 99, set())
            assert (found in roomy) if roomy else (found is None)
        assert made.ready == sum(w.ready for w in made.workers)
        assert set(made.idle) == {w for w in made.workers if not w.loading and not w.tasks}


def taken(made: Roster, queue: deque[Task], number: int) -> str:
    def reader(file: str) -> str | None:
        return None if file.startswith("0") else f"merge {file[0]}"

    found = made.take(made.workers[number], queue, reader, lambda task, worker: False)
    assert found is not None
    return found.name


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


def test_what_a_worker_tried_in_vain_is_left_to_others() -> None:
    made, _ = roster("a")
    queue = deque([task("t")])
    assert made.take(made.workers[0], queue, lambda file: None, lambda *_: True) is None
    assert len(queue) == 1
