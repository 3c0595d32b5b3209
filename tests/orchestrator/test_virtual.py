"""The scheduler in virtual time: a thousand workers, and every mishap there is."""

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from orchestrator.deadlines import Deadlines
from orchestrator.pool import PoolError
from orchestrator.scheduler import Scheduler
from orchestrator.tasks import Failure, Task
from orchestrator.trials import LOSSES
from tests.orchestrator.scripted import split, task
from tests.orchestrator.virtual import Load, Mishaps, VirtualPool, cells

law = settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
LOAD, MEAN = 30.0, 20.0
"""Seconds to load a model, and that a task takes on average, unless said otherwise."""


@dataclass(kw_only=True)
class Course:
    """What a run was like."""

    pool: VirtualPool
    failures: list[Failure] = field(default_factory=list)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    error: PoolError | None = None

    def count(self, event: str) -> Counter[str]:
        return Counter({name: n for (told, name), n in self.told.items() if told == event})


def run(tasks: Sequence[Task], pool: VirtualPool, **options: float) -> Course:
    course = Course(pool=pool)

    def listen(event: str, of: Task, details: dict[str, object]) -> None:
        course.told[event, of.file] += 1

    def tell(event: str, **details: object) -> None:
        course.events[event] += 1

    scheduler = Scheduler(
        tasks,
        [],
        pool,
        split=split,
        mend=pool.mend,
        listen=listen,
        tell=tell,
        clock=pool.now,
        patience_seconds=pool.patience,
        **options,
    )
    try:
        scheduler.run()
    except PoolError as error:
        course.error = error
    course.failures = scheduler.failures
    return course


def virtual(
    tasks: Sequence[Task],
    workers: int,
    *,
    load: float = LOAD,
    mean: float = MEAN,
    sigma: float = 1.0,
    spare: int = 2,
    mishaps: Mishaps | None = None,
    grain: float = 0.0,
    seed: int = 1,
) -> VirtualPool:
    return VirtualPool(
        tasks,
        workers=workers,
        mean=lambda of: mean * of.cost,
        load_seconds=lambda _: load,
        sigma=sigma,
        spare=spare,
        mishaps=mishaps,
        grain=grain,
        seed=seed,
    )


@st.composite
def graphs(draw: st.DrawFn) -> list[Task]:
    """Draw tasks of three models, on the model or not, each after some of those before it."""
    made: list[Task] = []
    for i in range(draw(st.integers(1, 12))):
        on = draw(st.sampled_from(["a", "b", "a'", None]))
        after = (
            draw(st.lists(st.sampled_from(made), unique_by=lambda t: t.name, max_size=3))
            if made
            else []
        )
        made.append(
            task(f"t{i}", on, [t.name for t in after], cost=draw(st.sampled_from([0.5, 1, 3])))
        )
    return made


BAD = ("poison", "deadly", "greedy", "endless")


@st.composite
def mishaps(draw: st.DrawFn, tasks: list[Task]) -> Mishaps:
    names = [t.file for t in tasks]
    some = st.frozensets(st.sampled_from(names), max_size=2)
    return Mishaps(
        **{kind: draw(some) for kind in (*BAD, "touchy", "vanishing")},
        spoilt=draw(st.frozensets(st.sampled_from(["a", "b"]), max_size=1)),
        silent=draw(st.sampled_from([0.0, 0.2])),
        stuck=draw(st.sampled_from([0.0, 0.2])),
        slow=draw(st.sampled_from([0.0, 0.2])),
        life=draw(st.sampled_from([1e9, 200.0])),
        room=draw(st.sampled_from([(), ((50.0, 1),), ((50.0, 5),), ((50.0, 0), (90.0, 2))])),
        lag=draw(st.sampled_from([0.0, 30.0])),
    )


@law
@given(graphs(), st.data(), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0.0, 30.0]))
def test_whatever_happens_it_ends_and_every_task_is_done_or_set_aside_once(
    tasks: list[Task], data: st.DataObject, workers: int, seed: int, grain: float
) -> None:
    wrong = data.draw(mishaps(tasks))
    pool = virtual(tasks, workers, mean=1.0, mishaps=wrong, seed=seed, grain=grain)
    course = run(tasks, pool)
    ended = Counter(f.file for f in course.failures) + course.count("blocked")
    again = wrong.vanishing
    assert all(n == 1 for file, n in course.count("done").items() if not again)
    assert all(n == 1 for file, n in ended.items()), ended
    if course.error is None:
        assert {t.file for t in tasks} <= set(course.count("done")) | set(ended)
    if not again:
        assert not set(course.count("done")) & set(ended)


def sooner(load: Load, seconds: float) -> bool:
    """Whether those who held a model would have done its work sooner than one more loads it."""
    if not load.holders:
        return False
    if not load.known:
        return load.queued <= load.holders
    return load.seconds / load.holders < 0.75 * seconds  # the scheduler must go by what it saw


def crowd(workers: int, models: int, each: int, **wrong: object) -> Course:
    """Run `each` cells for every worker; all must be done, and each once."""
    tasks = cells(workers * each, models)
    course = run(tasks, virtual(tasks, workers, mishaps=Mishaps(**wrong)))  # type: ignore[arg-type]
    assert course.failures == []
    assert course.count("done") == Counter(t.file for t in tasks)
    return course


@pytest.mark.parametrize(
    ("workers", "models"), [(200, 8), pytest.param(1000, 20, marks=pytest.mark.slow)]
)
def test_a_crowd_that_comes_and_goes_is_busy_until_the_tail_and_none_loads_in_vain(
    workers: int, models: int
) -> None:
    joined = workers * 21 // 20
    room = ((120.0, joined), (300.0, workers * 51 // 50))
    course = crowd(workers, models, 30, life=10_800.0, room=room, lag=5.0)
    pool = course.pool
    assert pool.busy_share >= 0.95
    assert not [load for load in pool.loads if sooner(load, LOAD)]
    assert course.events["lost"] > workers // 50
    late = set(range(workers, joined))
    assert late <= pool.ready
    assert min(pool.sent[worker] for worker in late) > 0


def test_fifty_workers_are_busy_too_though_some_are_slow_hang_or_load_for_ever() -> None:
    course = crowd(
        50,
        4,
        60,
        life=20_000.0,
        slow=1e-4,
        stuck=1e-3,
        silent=0.02,
        room=((200.0, 60), (500.0, 50)),
    )
    assert course.pool.busy_share >= 0.85
    assert not [load for load in course.pool.loads if sooner(load, LOAD)]


def test_workers_move_to_the_models_that_are_left_when_theirs_are_done() -> None:
    tasks = [replace(task("x", "a"), file=f"a{i}", cost=1.0) for i in range(400)]
    tasks += [replace(task("x", "b"), file=f"b{i}", cost=1.0) for i in range(400)]
    pool = VirtualPool(  # those of b take ten times as long, which nobody could know
        tasks,
        workers=20,
        mean=lambda t: 2.0 if t.file[0] == "a" else 20.0,
        load_seconds=lambda _: 30.0,
    )
    run(tasks, pool)
    moved = {load.worker for load in pool.loads if load.model == "b"}
    assert moved == set(range(20))
    assert pool.now() < 1.3 * (400 * 22.0 / 20)


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("free", [False, True])
def test_a_task_that_hangs_delays_the_end_by_its_deadline_and_one_task(
    behind: int, free: bool
) -> None:
    """Tasks take 20 s each, exactly. The first that the first worker is sent hangs, once."""
    on = None if free else "a"
    tasks = [replace(task("x", on), file=f"t{i}") for i in range(40 + behind)]

    class HangsOnce(VirtualPool):
        def _hangs(self, task: Task) -> bool:
            return task.file == "t0" and len(self.tried["t0"]) == 1

    def end(kind: type[VirtualPool]) -> float:
        pool = kind(
            tasks, workers=4, spare=4, mean=lambda _: MEAN, sigma=1e-9, load_seconds=lambda _: LOAD
        )
        course = run(tasks, pool)
        assert course.failures == []
        return pool.now()

    like, deadlines = tasks[0], Deadlines(300.0)
    deadlines.took(like, MEAN)
    deadline = deadlines.of(like)
    assert deadline == 20 * MEAN
    # It began after LOAD seconds; what was queued behind it is hedged with it, one after another.
    looks = 3.0
    assert end(VirtualPool) < end(HangsOnce) <= LOAD + deadline + (1 + behind) * MEAN + looks


def test_machines_that_leave_are_not_waited_for() -> None:
    tasks = cells(300, 3)
    wrong = Mishaps(room=((100.0, 4),), lag=5.0)
    pool = virtual(tasks, 10, mishaps=wrong)
    course = run(tasks, pool)
    assert course.failures == []
    assert course.events["lost"] >= 6
    assert pool.now() < 2.0 * (300 * MEAN / 4)


def test_machines_that_the_pool_wrongly_believes_in_cost_time_but_no_model() -> None:
    tasks = cells(600, 3)
    pool = virtual(tasks, 10, mishaps=Mishaps(room=((60.0, 4),), lag=1e6))
    course = run(tasks, pool)
    assert course.failures == []
    assert course.error is None


def test_few_tasks_do_not_make_a_crowd_load_their_model() -> None:
    tasks = [replace(task("x", "a"), file=f"t{i}") for i in range(5)]
    pool = virtual(tasks, 100)
    run(tasks, pool)
    assert len(pool.loads) <= 5


@law
@given(graphs(), st.data(), st.integers(0, 2**32))
def test_a_task_that_always_raises_is_tried_on_two_workers_where_two_are_ready(
    tasks: list[Task], data: st.DataObject, seed: int
) -> None:
    poison = frozenset({data.draw(st.sampled_from([t.file for t in tasks]))})
    more = [replace(task("x", m), file=f"{m}{i}") for m in ("a", "b", "a'") for i in range(12)]
    pool = virtual([*tasks, *more], 6, sigma=0.3, mishaps=Mishaps(poison=poison), seed=seed)
    course = run([*tasks, *more], pool)
    assert {f.file for f in course.failures} == poison
    for failure in course.failures:
        assert failure.attempts == 2
        tried = pool.tried[failure.file]
        assert len(tried) == 2
        assert tried == [None, None] or len(set(tried)) == 2


def test_memory_that_runs_out_costs_one_replica_and_then_names_the_setting() -> None:
    tasks = [replace(task("x", "a"), file=f"t{i}") for i in range(40)]
    course = run(tasks, virtual(tasks, 4, mishaps=Mishaps(greedy=frozenset({"t7"}))))
    (failure,) = course.failures
    assert failure.file == "t7"
    assert "--workers" in failure.error
    assert "evaluation.batch_tokens" in failure.error
    assert course.events["retired"] == 1
    assert len(course.count("done")) == 39


def test_a_call_that_takes_too_much_memory_is_taken_apart_and_costs_no_replica() -> None:
    call = task("call", "a", cells=["c0", "c1", "c2"])
    course = run([call], virtual([call], 2, mishaps=Mishaps(greedy=frozenset({"call"}))))
    assert course.failures == []
    assert course.events["retired"] == 0


@pytest.mark.parametrize("kind", ["deadly", "endless"])
@pytest.mark.parametrize("workers", [1, 4])
def test_tasks_that_kill_or_hang_are_set_aside_and_the_rest_is_done(
    kind: str, workers: int
) -> None:
    tasks = [replace(task("x", "a"), file=f"t{i}") for i in range(30)]
    bad = frozenset({"t3", "t28", "t29"})
    course = run(tasks, virtual(tasks, workers, mishaps=Mishaps(**{kind: bad})), ready_seconds=1e6)
    assert course.error is None
    assert {f.file for f in course.failures} == bad
    assert len(course.count("done")) == 27
    assert all(len(course.pool.tried[f]) == LOSSES for f in bad)


def test_a_task_without_a_model_that_never_ends_is_set_aside() -> None:
    tasks = [task("bad"), task("good"), task("after", after=["bad"])]
    course = run(tasks, virtual(tasks, 1, mishaps=Mishaps(endless=frozenset({"bad"}))))
    (failure,) = course.failures
    assert "had not ended" in failure.error
    assert failure.blocked == 1
    assert set(course.count("done")) == {"good"}


@law
@given(st.integers(1, 6), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_a_file_that_is_gone_is_made_again_once_and_its_readers_succeed(
    readers: int, workers: int, free: bool, seed: int
) -> None:
    tasks = [task("base"), task("file", after=["base"])]
    tasks += [task(f"r{i}", None if free else "a", ["file"]) for i in range(readers)]
    pool = virtual(
        tasks, workers, spare=3, mishaps=Mishaps(vanishing=frozenset({"file"})), seed=seed
    )
    course = run(tasks, pool)
    assert course.failures == []
    assert course.count("done")["file"] == 2
    assert all(course.count("done")[f"r{i}"] == 1 for i in range(readers))


def test_a_file_that_cannot_be_made_again_fails_once_however_many_read_it() -> None:
    tasks = [task("file"), *(task(f"r{i}", "a", ["file"]) for i in range(5))]

    class OnlyOnce(VirtualPool):
        def _outcome(self, task: Task, worker: int | None):  # type: ignore[no-untyped-def]
            event = super()._outcome(task, worker)
            if self.made["file"]:
                object.__setattr__(self.mishaps, "poison", frozenset({"file"}))
            return event

    pool = OnlyOnce(
        tasks,
        workers=2,
        mean=lambda _: MEAN,
        load_seconds=lambda _: LOAD,
        mishaps=Mishaps(vanishing=frozenset({"file"})),
    )
    course = run(tasks, pool)
    ended = Counter(f.file for f in course.failures) + course.count("blocked")
    assert ended["file"] == 1
    assert set(ended.values()) == {1}


def test_a_chain_as_long_as_one_likes_is_blocked_by_its_beginning() -> None:
    tasks = [task("t0"), *(task(f"t{i}", after=[f"t{i - 1}"]) for i in range(1, 3000))]
    course = run(tasks, virtual(tasks, 1, mishaps=Mishaps(poison=frozenset({"t0"}))))
    assert [f.blocked for f in course.failures] == [2999]


def test_nothing_is_kept_of_cells_that_are_done() -> None:
    def kept(count: int) -> int:
        tasks = cells(count, 3)
        pool = virtual(
            tasks, 200, mishaps=Mishaps(slow=1e-3, life=5000.0, touchy=frozenset({"t5"}))
        )
        scheduler = Scheduler(tasks, [], pool, clock=pool.now)
        assert scheduler.run() == []
        return _size(scheduler, besides=pool)

    assert kept(20_000) <= kept(2_000) + 20


def _size(root: object, besides: object) -> int:
    """Return how many things hang on an object's containers, but not on `besides`."""
    seen, left, count = {id(besides)}, [root], 0
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, dict | list | set | tuple) or hasattr(one, "popleft"):
            count += len(one)  # type: ignore[arg-type]
        if type(one).__module__.startswith(("orchestrator", "builtins", "collections")):
            left += gc.get_referents(one)
    return count
