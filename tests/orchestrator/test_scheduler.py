"""The scheduler against a scripted pool: any graph, any order of events, any mishap."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.pool import PoolError
from orchestrator.roster import IN_FLIGHT
from orchestrator.scheduler import Scheduler
from orchestrator.tasks import Failure, Task
from orchestrator.trials import ATTEMPTS, LOSSES
from tests.orchestrator.scripted import Outcome, Script, ScriptedPool, split, task

law = settings(max_examples=80, deadline=None)
orders = st.integers(0, 2**32)
COSTS = (1.0, 3.0, 1e10 / 3, 0.1)


@st.composite
def graphs(draw: st.DrawFn, between_models: bool = False) -> list[Task]:
    """Draw tasks of three models, on the model or not, each after some of those before it.

    Two of the models have one name: one is the other in rotated axes.
    """
    made: list[tuple[str, Task]] = []
    for i in range(draw(st.integers(1, 9))):
        owner = draw(st.sampled_from(["a", "b", "a'"]))
        on = owner if draw(st.booleans()) else None
        earlier = [t.name for o, t in made if o == owner or between_models]
        after = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        made.append((owner, task(f"t{i}", on, after, cost=draw(st.sampled_from(COSTS)))))
    return [t for _, t in made]


def after(tasks: Iterable[Task], names: Iterable[str]) -> set[str]:
    """Return the tasks that come after these, near or far."""
    found, ends = set(), set(names)
    for one in tasks:  # they stand in an order in which they can be done
        if (found | ends) & set(one.after):
            found.add(one.name)
    return found


class Story:
    """Remembers what the scheduler tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, event: str, of: Task, details: dict[str, object]) -> None:
        self.told.append((event, of.name))

    def count(self, event: str) -> Counter[str]:
        return Counter(name for told, name in self.told if told == event)


def run(
    tasks: Sequence[Task], pool: ScriptedPool, done: Iterable[str] = ()
) -> tuple[list[Failure], Story]:
    story = Story()
    pool.done += done
    scheduler = Scheduler(
        tasks, done, pool, split=split, listen=story, clock=lambda: pool.now, patience_seconds=1e9
    )
    failures = scheduler.run()
    return failures, story


@law
@given(graphs(), st.integers(1, 3), st.integers(1, 3), orders)
def test_every_task_is_done_once_and_after_those_it_comes_after(
    tasks: list[Task], workers: int, spare: int, order: int
) -> None:
    pool = ScriptedPool(workers=workers, spare=spare, order=order)
    failures, story = run(tasks, pool)
    assert failures == []
    assert sorted(pool.done) == sorted(t.name for t in tasks)
    assert story.count("done") == story.count("started") == Counter(t.name for t in tasks)


@law
@given(graphs(), st.data(), orders)
def test_what_is_done_already_is_neither_needed_nor_done_again(
    tasks: list[Task], data: st.DataObject, order: int
) -> None:
    done = data.draw(st.sets(st.sampled_from([t.name for t in tasks])))
    left = [t for t in tasks if t.name not in done]
    pool = ScriptedPool(workers=2, order=order)
    run(left, pool, done)
    assert sorted(pool.done) == sorted(t.name for t in tasks)


@law
@given(graphs(), st.data(), st.integers(1, 3), orders)
def test_a_task_that_raises_once_is_tried_again_and_nothing_is_lost(
    tasks: list[Task], data: st.DataObject, workers: int, order: int
) -> None:
    names = [t.name for t in tasks]
    bad = data.draw(st.sets(st.sampled_from(names)))

    def script(of: Task, attempt: int) -> Outcome:
        return "raise" if of.name in bad and attempt == 1 else "done"

    pool = ScriptedPool(workers=workers, script=script, order=order)
    failures, story = run(tasks, pool)
    assert failures == []
    assert sorted(pool.done) == sorted(names)
    assert story.count("retried") == Counter(bad)


@law
@given(graphs(), st.data(), st.integers(1, 3), orders)
def test_a_task_that_always_raises_takes_along_only_what_comes_after_it(
    tasks: list[Task], data: st.DataObject, workers: int, order: int
) -> None:
    names = {t.name for t in tasks}
    bad = data.draw(st.sets(st.sampled_from(sorted(names))))
    blocked = after(tasks, bad)

    def script(of: Task, _: int) -> Outcome:
        return "raise" if of.name in bad else "done"

    pool = ScriptedPool(workers=workers, script=script, order=order)
    failures, story = run(tasks, pool)
    assert {f.task for f in failures} == bad - blocked
    assert set(pool.done) == names - bad - blocked
    assert story.count("blocked") == Counter(blocked)
    assert sum(f.blocked for f in failures) == len(blocked)
    assert {f.attempts for f in failures} <= {ATTEMPTS}
    assert all(pool.attempts[f.task] == ATTEMPTS for f in failures)


@law
@given(graphs(), st.data(), st.integers(1, 3), orders)
def test_the_tasks_of_a_lost_worker_are_done_by_another_or_by_its_successor(
    tasks: list[Task], data: st.DataObject, workers: int, order: int
) -> None:
    names = sorted(t.name for t in tasks)
    lost = data.draw(st.lists(st.sampled_from(names), max_size=LOSSES - 1, unique=True))

    def script(of: Task, attempt: int) -> Outcome:
        return "lose" if of.model and of.name in lost and attempt == 1 else "done"

    pool = ScriptedPool(workers=workers, script=script, order=order)
    failures, _ = run(tasks, pool)
    assert failures == []
    assert sorted(pool.done) == names


@law
@given(graphs(between_models=True), orders)
def test_models_may_wait_for_each_other(tasks: list[Task], order: int) -> None:
    pool = ScriptedPool(workers=1, order=order)
    run(tasks, pool)
    assert len(pool.done) == len(tasks)


@law
@given(graphs(), st.integers(1, 3), orders)
def test_a_model_that_cannot_be_loaded_takes_along_its_own_tasks_alone(
    tasks: list[Task], workers: int, order: int
) -> None:
    on_it = {t.name for t in tasks if t.model is not None and t.model.label == "a"}
    lost = on_it | after(tasks, on_it)
    pool = ScriptedPool(workers=workers, order=order)
    pool.unloadable = {"a"}
    failures, story = run(tasks, pool)
    assert set(pool.done) == {t.name for t in tasks} - lost
    assert {f.task for f in failures} | set(story.count("blocked")) == lost
    assert sum(1 + f.blocked for f in failures) == len(lost)
    assert all("a cannot be loaded: a is spoilt" in f.error for f in failures)
    assert sum(model == "a" for _, model in pool.loads) <= ATTEMPTS + workers - 1


@pytest.mark.parametrize("cost", [1.0, 1e10 / 3, 1.3e9 * 256 * 2048 / 3])
def test_a_worker_leaves_a_model_that_has_nothing_left_whatever_its_costs(cost: float) -> None:
    tasks = []
    for name in "ab":
        tasks += [task(f"{name} data")]
        tasks += [task(f"{name} pilot", name, [f"{name} data"], cost=cost)]
        tasks += [
            task(f"{name} {i}", name, [f"{name} pilot"], cost=cost * (1 + i / 7)) for i in range(20)
        ]
    pool = ScriptedPool(workers=1, order=3)
    failures, _ = run(tasks, pool)
    assert failures == []
    assert len(pool.done) == len(tasks)


def poisoned(*cells: str, outcome: Outcome = "raise") -> Script:
    def script(of: Task, _: int) -> Outcome:
        return outcome if set(cells) & set(of.cells) else "done"

    return script


def test_of_a_call_of_many_cells_the_bad_one_alone_fails() -> None:
    call = task("call", "a", cells=[f"c{i}" for i in range(8)])
    pool = ScriptedPool(workers=2, script=poisoned("c3"))
    failures, _ = run([call], pool)
    (failure,) = failures
    assert failure.cells == ("c3",)
    assert failure.attempts == ATTEMPTS
    assert failure.error == "ValueError('bad')"
    assert failure.traceback == "where"
    assert set(pool.done) == {f"call/c{i}" for i in range(8) if i != 3}
    assert pool.attempts["call"] == 1  # it is taken apart at once, not tried whole again


def test_a_failure_counts_the_cells_that_stay_without_an_answer() -> None:
    tasks = [
        task("data"),
        task("counts", "a", ["data"]),
        task("calls", "a", ["counts"], cells=["c1", "c2"]),
        task("others", "a", ["data"], cells=["c3"]),
    ]

    def script(of: Task, _: int) -> Outcome:
        return "raise" if of.name == "counts" else "done"

    failures, _ = run(tasks, ScriptedPool(script=script))
    (failure,) = failures
    assert failure.cells == ("c1", "c2")
    assert failure.blocked == 1


def test_of_two_tasks_of_one_name_each_frees_what_reads_its_own_file() -> None:
    tasks = [replace(task(f"order of {m}"), name="order") for m in "ab"]
    tasks += [task(f"cell of {m}", m, [f"order of {m}"]) for m in "ab"]

    def script(of: Task, _: int) -> Outcome:
        return "raise" if of.file == "order of a" else "done"

    for order in range(10):
        pool = ScriptedPool(script=script, order=order)
        (failure,), _ = run(tasks, pool)
        assert (failure.task, failure.file, failure.blocked) == ("order", "order of a", 1)
        assert sorted(pool.done) == ["cell of b", "order of b"]


def test_what_comes_after_two_failures_is_blocked_once() -> None:
    tasks = [task("x"), task("y"), task("z", after=["x", "y"]), task("end", after=["z", "x"])]

    def script(of: Task, _: int) -> Outcome:
        return "raise" if of.name in "xy" else "done"

    failures, story = run(tasks, ScriptedPool(spare=2, script=script))
    assert sorted(f.blocked for f in failures) == [0, 2]
    assert story.count("blocked") == Counter(["z", "end"])


def test_a_task_whose_worker_is_always_lost_is_set_aside() -> None:
    def script(of: Task, _: int) -> Outcome:
        return "lose" if of.name == "bad" else "done"

    pool = ScriptedPool(workers=2, script=script)
    failures, _ = run([task("bad", "a"), task("good", "b")], pool)
    (failure,) = failures
    assert failure.task == "bad"
    assert "its worker was lost 3 times: killed" in failure.error
    assert pool.attempts["bad"] == LOSSES
    assert "good" in pool.done


def test_a_task_that_kills_its_worker_does_not_take_its_neighbour_along() -> None:
    def script(of: Task, _: int) -> Outcome:
        return "lose" if of.name == "bad" else "done"

    pool = ScriptedPool(workers=1, script=script)
    failures, _ = run([task("bad", "a"), task("good", "a")], pool)
    assert [f.task for f in failures] == ["bad"]
    assert pool.done == ["good"]


@pytest.mark.parametrize("workers", [1])
def test_a_cell_that_kills_its_worker_alone_fails(workers: int) -> None:
    call = task("call", "a", cells=["c0", "c1", "c2"])
    pool = ScriptedPool(workers=workers, script=poisoned("c0", outcome="lose"))
    failures, _ = run([call], pool)
    assert [f.cells for f in failures] == [("c0",)]
    assert set(pool.done) == {"call/c1", "call/c2"}


def test_a_worker_that_is_lost_again_and_again_ends_the_sweep() -> None:
    tasks = [task(f"t{i}", "a") for i in range(20)]
    pool = ScriptedPool(script=lambda *_: "lose")
    with pytest.raises(PoolError, match=r"no worker is left, the last lost \d times: killed"):
        run(tasks, pool)


def test_losses_that_work_lies_between_are_forgiven() -> None:
    tasks = [task(f"t{i}", "a") for i in range(24)]

    def script(of: Task, attempt: int) -> Outcome:
        return "lose" if attempt == 1 and int(of.name[1:]) % 4 == 1 else "done"

    pool = ScriptedPool(script=script)
    failures, _ = run(tasks, pool)
    assert failures == []
    assert len(pool.loads) > LOSSES + 1


def test_a_worker_has_two_tasks_in_flight() -> None:
    pool = ScriptedPool()
    run([task(f"t{i}", "a") for i in range(6)], pool)
    assert pool.most_in_flight == IN_FLIGHT == 2


def test_the_last_tasks_of_a_model_are_shared_out_not_hoarded() -> None:
    taken: Counter[int] = Counter()

    class Watching(ScriptedPool):
        def send(self, worker: int, task: Task) -> None:
            super().send(worker, task)
            taken[worker] += 1

    pool = Watching(workers=3)
    pool.wait = _in_step(pool)  # type: ignore[method-assign]
    run([task(f"t{i}", "a") for i in range(9)], pool)
    assert set(taken.values()) == {3}


def test_shards_that_are_merged_together_are_counted_by_one_worker() -> None:
    sent: dict[int, set[str]] = {0: set(), 1: set()}

    class Watching(ScriptedPool):
        def send(self, worker: int, task: Task) -> None:
            super().send(worker, task)
            if task.name != "end":
                sent[worker].add(task.name)

    shards = [f"shard {i}" for i in range(16)]
    tasks = [task(shard, "a") for shard in shards]
    tasks += [task("merge 0", after=shards[:8]), task("merge 1", after=shards[8:])]
    tasks += [task("end", "a", ["merge 0", "merge 1"])]
    pool = Watching(workers=2)
    pool.wait = _in_step(pool)  # type: ignore[method-assign]
    run(tasks, pool)
    assert sorted(map(sorted, sent.values())) == sorted([sorted(shards[:8]), sorted(shards[8:])])


def _in_step(pool: ScriptedPool):  # type: ignore[no-untyped-def]
    """Return a `wait` in which every worker does one thing."""

    def wait(_: float) -> list[object]:
        return [move() for move in pool._possible()]

    return wait


@pytest.mark.parametrize(
    ("heavy", "loads"), [(10.0, ["a", "a"]), (1.5, ["a", "b"]), (1.0, ["a", "b"])]
)
def test_workers_are_shared_out_over_models_by_the_work_that_is_left(
    heavy: float, loads: list[str]
) -> None:
    tasks = [task(f"a{i}", "a", cost=heavy) for i in range(6)]
    tasks += [task(f"b{i}", "b", cost=1.0) for i in range(6)]
    pool = ScriptedPool(workers=2)
    run(tasks, pool)
    assert [model for _, model in pool.loads[:2]] == loads


def test_a_model_is_loaded_once_per_worker_while_it_has_work() -> None:
    tasks = [task("pilot", "a")]
    tasks += [task(f"a{i}", "a", ["pilot"]) for i in range(5)]
    tasks += [task("merge", after=[f"a{i}" for i in range(5)]), task("end", "a", ["merge"])]
    tasks += [task(f"b{i}", "b") for i in range(3)]
    for order in range(10):
        pool = ScriptedPool(order=order)
        run(tasks, pool)
        assert sorted(m for _, m in pool.loads) == ["a", "b"]


def test_a_few_tasks_do_not_make_a_second_worker_load_their_model() -> None:
    pool = ScriptedPool(workers=4)
    run([task("t0", "a"), task("t1", "a")], pool)
    assert len(pool.loads) == 1


def test_no_more_tasks_without_a_model_run_at_once_than_there_is_room_for() -> None:
    pool = ScriptedPool(spare=3)
    run([task(f"t{i}") for i in range(9)], pool)
    assert pool.most_free == 3


def test_workers_that_are_never_ready_end_the_sweep() -> None:
    pool = ScriptedPool()
    pool.slow_to_load = True
    scheduler = Scheduler([task("t", "a")], [], pool, ready_seconds=35, clock=lambda: pool.now)
    with pytest.raises(PoolError, match=r"was ready in 35 s\. One worker asks.*ready_sec"):
        scheduler.run()
    assert 35 < pool.now < 38


def test_a_task_that_waits_for_what_is_not_in_the_plan_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not in the plan: label of t"):
        run([task("t", after=["nobody"])], ScriptedPool())


def test_nothing_to_do_is_done_at_once() -> None:
    assert run([], ScriptedPool())[0] == []
