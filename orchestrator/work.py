"""Work: doing what is left of a plan in a run folder.

    lease ─► tidy ─► what is left ─► (shared store) ─► scheduler on a pool ─► compaction

One driver holds the folder. It brings it in line with the plan, works out by name what is
left, and has that done: on a cluster, or in this process. However it ends, what was done is
committed, and the next driver finds it.
"""

import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator import (
    budget,
    calls,
    compaction,
    listing,
    place,
    provenance,
    ray_cluster,
    ray_pool,
    resume,
    room,
    shared,
    telemetry,
    upkeep,
)
from orchestrator.lease import leased
from orchestrator.live import Live
from orchestrator.plan import Plan
from orchestrator.pool import Pool
from orchestrator.progress import Story, console
from orchestrator.scheduler import Scheduler
from orchestrator.store import Store, StoreError
from orchestrator.tasks import Failure, Task, with_needs
from orchestrator.written import resolved


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be done, where and by whom: the arguments of a verb."""

    file: Path
    planned: Callable[..., Plan]
    """Makes the plan; called again with `device=` where the cluster has another device."""
    part: Callable[[Plan], Plan]
    """Which part of the plan is to be done now."""
    out: str | Path | None
    address: str | None
    workers: int | None
    local: bool
    verb: str
    """The command's, for the failures' sake: `run` or `collect`."""
    plugins: Sequence[str | Path]
    told: Console | None
    live: Live
    """Hands on what the story adds up to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What was left of a part of a sweep, and how doing it went."""

    made: Plan
    store: Store
    left: resume.Left
    failures: tuple[Failure, ...]
    fetched: int


@contextmanager
def done(asked: Request) -> Iterator[Work]:
    """Do what is left of a part of a sweep; yield how it went, the folder still held.

    Raises SpecError, StoreError and PoolError; a task that fails is in the outcome instead.
    """
    made = asked.planned()
    store = Store.open(place.run_folder(asked.out, made.spec.name))
    common = _common(asked.file, made, store)
    with ExitStack() as stack:
        screen = asked.told or console()
        lease = stack.enter_context(leased(store, tell=partial(_say, screen)))
        store = store.at(lease.epoch)
        story = stack.enter_context(Story(store, screen, asked.live.hear))
        name = f"{Path(store.uri).name}-{lease.epoch}"
        stack.enter_context(asked.live.begun(name, resolved(made.spec), story.say))
        there = upkeep.tidy(made, store, story.say, lease.check)
        if compaction.compact(store, story.say, lease.check):
            there = resume.there(made, store)
        part = asked.part(made)
        left = resume.left(part, store, there)
        fetched: list[str] = []
        if common is not None:
            lent = shared.sharing(made.tasks, left.tasks, store, common, story.say)
            fetched = stack.enter_context(lent)
            story.remark(f"{len(fetched)} files found in the shared store {common.uri}")
            left = resume.left(part, store, there)
        _forget_failures(made, store, there, left)
        story.begin(left.tasks, _found(part, left))
        failures: list[Failure] = []
        if left.tasks:
            replicas = sum(task.model is not None for task in left.tasks)
            pool, again = stack.enter_context(_pool(asked, made, store, replicas, story))
            if not asked.local:  # ends before the cluster does
                metrics = telemetry.ClusterMetrics(Path(store.uri).name)
                stack.enter_context(asked.live.feeding("cluster metrics", metrics))
            if again is not made:  # planned again, for the device that the cluster has
                made, left = again, resume.left(asked.part(again), store, there)
            listing.write_plan(made, store)
            store.replace("provenance.json", json.dumps(provenance.gather(made), indent=2).encode())
            failures = _scheduled(asked, made, left, store, pool, story, lease.check)
            compaction.compact(store, story.say, lease.check)
        else:
            listing.write_plan(made, store)  # the sweep may have been edited all the same
        yield Work(
            made=made, store=store, left=left, failures=tuple(failures), fetched=len(fetched)
        )
        story.say("end", failures=len(failures))


def _say(screen: Console, said: str) -> None:
    screen.print(said, markup=False, highlight=False, soft_wrap=True)


def _common(file: Path, made: Plan, store: Store) -> Store | None:
    """Return the store that the sweep shares with others, if it names one."""
    if made.spec.store is None:
        return None
    return shared.opened(place.shared_folder(made.spec.store, file.absolute().parent), store)


def _found(made: Plan, left: resume.Left) -> dict[str, int]:
    found = dict.fromkeys(("prepare", "collect", "reduce", "learn"), 0)
    for task in made.tasks:
        found[task.stage] = found.get(task.stage, 0) + (task.file in left.done)
    return {**found, "evaluate": len(left.answered)}


@contextmanager
def _pool(
    asked: Request, made: Plan, store: Store, useful: int, story: Story
) -> Iterator[tuple[Pool, Plan]]:
    """Yield a pool, and the plan for the device that the cluster has.

    Of machines that are not there, an autoscaler is asked for no more than `useful` replicas.
    """
    if asked.local:
        from orchestrator import local_pool  # torch: seconds that Ray's driver spares

        local_pool.refuse_missing(made.spec.cluster.device)
        budget.workers(made, local_pool.machine(), asked=1)
        yield local_pool.LocalPool(store), made
        return
    with ray_cluster.connected(asked.address):
        if made.spec.cluster.device == "auto" and ray_cluster.cluster().get("GPU", 0) >= 1:
            made = asked.planned(device="cuda")
        gpus = [node.device for node in ray_cluster.nodes() if node.total.get("GPU", 0)]
        demand, most = room.demand(made, gpus), asked.workers or made.spec.cluster.workers
        grow = room.grown(made, most, useful)
        cluster = ray_cluster.cluster(demand)
        if not made.spec.cluster.autoscale:  # refuses what cannot be
            budget.workers(made, cluster, asked=asked.workers, per_gpu=room.sharing(demand))
        if (number := room.sharing(demand)) > 1:
            story.remark(f"{number} replicas share a GPU")
        cuda = any(ref.device == "cuda" for ref in made.models.values())
        pool = ray_pool.RayPool(
            store,
            most=most,
            spare=max(2, int(cluster.get("CPU", 1))),
            demand=demand,
            memory=0 if cuda else budget.budget(made).largest.replica_bytes,
            grow=grow,
            downloads=made.spec.cluster.downloads,
        )
        try:
            yield pool, made
        finally:
            pool.close()


def _scheduled(
    asked: Request,
    made: Plan,
    left: resume.Left,
    store: Store,
    pool: Pool,
    story: Story,
    tick: Callable[[], None],
) -> list[Failure]:
    scheduler = Scheduler(
        left.tasks,
        left.done,
        pool,
        split=partial(calls.split, made),
        more=left.pace.more,
        without=left.pace.without,
        fill=partial(calls.filled, made),
        mend=partial(mend, made, store),
        command=partial(command, asked, store),
        listen=story.listen,
        tell=story.say,
        tick=tick,
        ready_seconds=made.spec.cluster.ready_seconds,
        # In one process there is nobody to do a task that hangs.
        patience_seconds=math.inf if asked.local else made.spec.cluster.patience_seconds,
    )
    try:
        return scheduler.run()
    finally:
        with suppress(StoreError):  # it would hide why the run ends; what failed is tried again
            for failure in scheduler.failures:
                store.replace(failure.record, json.dumps(asdict(failure), indent=2).encode())


def _forget_failures(made: Plan, store: Store, there: resume.There, left: resume.Left) -> None:
    """Forget what failed before and is tried again, was done since, or is not asked for any more.

    Of calls that were put together otherwise the files differ, and the cells tell.
    """
    again = {task.file for task in left.tasks}
    tasks = {task.file for task in made.tasks}
    for file in store.files("failures", ".json"):
        record = store.read_json(file)
        named, makes = record.get("cells"), str(record.get("file"))
        cells = {str(c) for c in named if c in made.cells} if isinstance(named, list) else set()
        open_ = cells - there.answered.keys() or (makes in tasks and not store.exists(makes))
        if not open_ or makes in again or cells & left.pace.unanswered:
            store.delete(file)


def mend(made: Plan, store: Store, task: Task) -> list[Task]:
    """Return the tasks that make what a task reads and that is gone or broken; the latter goes."""
    gone = [file for file in task.after if not store.sound(file)]
    for file in gone:
        store.delete(file)
    there = {t.file for t in made.tasks if store.exists(t.file)} if gone else set()
    needed = with_needs(made.tasks, gone, there)
    return [t for t in made.tasks if t.file in needed]


def command(asked: Request, store: Store, task: Task) -> str:
    """Return the command that does a task again in one process, where it can be looked into."""
    words = ["peaksweep", asked.verb, str(asked.file), "--local", "--out", store.uri]
    words += [word for module in asked.plugins for word in ("--plugin", str(module))]
    if task.cells:
        cells = ", ".join(f"'{cell}'" for cell in task.cells)
        words += ["--only", f"cell IN ({cells})"]
    return shlex.join(words)
