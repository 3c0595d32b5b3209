"""Turns to download weights: how many machines at once, and what waiting costs."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.pool import Event, Queued
from orchestrator.pulls import TOLD_SECONDS, Pulls
from orchestrator.scheduler import Scheduler
from tests.orchestrator.scripted import model, task
from tests.orchestrator.virtual import Mishaps, VirtualPool


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 4), st.randoms())
def test_all_get_their_turn_and_no_more_machines_than_agreed_download(  # type: ignore[no-untyped-def]
    machines: list[int], most: int, draw
) -> None:
    pulls, at_it, had = Pulls(most), dict[int, int](), set[int]()
    for worker, machine in enumerate(machines):
        pulls.wants(worker, str(machine), model("a"))
        if draw.random() < 0.2:
            pulls.over(worker)  # lost while it waits
            had.add(worker)
    while len(had) < len(machines):
        for worker, _ in pulls.begins():
            assert worker not in at_it
            at_it[worker] = machines[worker]
        assert at_it, "somebody waits for nobody"
        assert len(set(at_it.values())) <= most
        gone = draw.choice(sorted(at_it))  # done, or killed: it is the same
        pulls.over(gone)
        del at_it[gone]
        had.add(gone)
    assert pulls.begins() == []


def test_who_is_on_a_machine_that_downloads_begins_too() -> None:
    pulls = Pulls(1)
    for worker, machine in enumerate("xyx"):
        pulls.wants(worker, machine, model("a"))
    assert [worker for worker, _ in pulls.begins()] == [0, 2]
    pulls.over(0)
    assert pulls.begins() == []
    pulls.over(2)
    assert [worker for worker, _ in pulls.begins()] == [1]


def test_who_waits_is_told_now_and_then() -> None:
    now = [0.0]
    pulls = Pulls(1, clock=lambda: now[0])
    for worker, machine in enumerate("xy"):
        pulls.wants(worker, machine, model("a"))
    pulls.begins()
    assert pulls.patient() == []
    now[0] = TOLD_SECONDS
    assert pulls.patient() == [1]
    assert pulls.patient() == []


class Stampede(VirtualPool):
    """A pool whose second worker waits for its turn to download for an hour."""

    told = True

    def wait(self, seconds: float) -> Sequence[Event]:
        events = [*super().wait(seconds)]
        waits = 1 in self._processes and 1 not in self.ready
        if waits and self.told and self.now() % 10 < 1:
            events.append(Queued(worker=1))
        return events


def stampede(*, told: bool) -> tuple[Stampede, list[str]]:
    tasks = [task(f"t{i}", "a") for i in range(400)]
    pool = Stampede(
        tasks, workers=2, mean=lambda _: 20.0, load_seconds=lambda _: 30.0, mishaps=Mishaps()
    )
    pool.told, events, loading = told, [], pool._begin_load
    late = iter([3600.0])

    def slowly(process) -> None:  # type: ignore[no-untyped-def]
        if process.worker == 1:
            seconds = next(late, 30.0)
            pool._at(pool.now() + seconds, lambda: pool._hold(process, process.loading))
        else:
            loading(process)

    pool._begin_load = slowly  # type: ignore[method-assign]
    scheduler = Scheduler(
        tasks,
        [],
        pool,
        tell=lambda event, **_: events.append(event),
        clock=pool.now,
        ready_seconds=300.0,
    )
    assert scheduler.run() == []
    return pool, events


def test_waiting_for_ones_turn_is_no_time_that_loading_takes() -> None:
    pool, events = stampede(told=True)
    assert "lost" not in events
    assert pool.ready == {0, 1}
    assert "lost" in stampede(told=False)[1], "without its word it would have been stopped"


def test_a_worker_whose_machine_left_while_it_was_idle_is_told_to_be_gone() -> None:
    tasks = [task("t", "a", cost=100.0)]
    pool = VirtualPool(
        tasks,
        workers=3,
        mean=lambda _: 1000.0,
        load_seconds=lambda _: 30.0,
        mishaps=Mishaps(room=((200.0, 1),)),
    )
    told = []
    scheduler = Scheduler(
        tasks,
        [],
        pool,
        tell=lambda event, **details: told.append((event, details.get("worker"))),
        clock=pool.now,
        patience_seconds=1e6,
    )
    assert scheduler.run() == []
    assert {worker for event, worker in told if event == "retired"} == {1, 2}
