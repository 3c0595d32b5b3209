"""The sweep: the whole story, from a file to tables with error bars.

    spec ─► plan ─► budget ─► what is left ─► scheduler on a pool ─► aggregate ─► report

Everything before the pool is arithmetic and refuses what cannot be; everything
after it reads the run folder alone, so it can be done again at any time.

`collect` is the same story for a part of the plan, the statistics, and without
its end. The folder it leaves is the sweep's: `run` goes on from there.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator import (
    budget,
    calls,
    parts,
    place,
    provenance,
    ray_pool,
    resume,
    shared,
    specfile,
    upkeep,
)
from orchestrator import plan as planning
from orchestrator.glance import glance
from orchestrator.lock import locked
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.plan import Plan
from orchestrator.plugins import discover, known
from orchestrator.pool import Pool
from orchestrator.progress import Story, console
from orchestrator.report import report
from orchestrator.results import aggregated
from orchestrator.scheduler import Scheduler
from orchestrator.spec import parse
from orchestrator.store import Store
from orchestrator.tasks import Failure
from workers.plugins import PluginError


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a sweep ended."""

    run: Path
    page: Path
    failures: tuple[Failure, ...]
    computed: int
    """Cells answered now."""
    found: int
    """Cells that were answered before."""
    fetched: int
    """Files found in the shared store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """How a collection ended."""

    run: Path
    failures: tuple[Failure, ...]
    computed: int
    """Tasks done now."""
    found: int
    """Tasks whose files were in the run folder before."""
    fetched: int
    """Files found in the shared store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What was left of a part of a sweep, and how doing it went."""

    made: Plan
    store: Store
    left: resume.Left
    failures: tuple[Failure, ...]
    fetched: int


def plan(
    file: str | Path,
    *,
    device: str = "cpu",
    fetch: bool = False,
    plugins: Sequence[str | Path] = (),
) -> Plan:
    """Return the plan of a sweep file; changes nothing, but downloads hub models with `fetch`.

    `plugins` are modules with a user's own methods, beside those that are installed. Raises
    SpecError with every mistake: of the file, of its models, sources and plug-ins.
    """
    path = Path(file).absolute()
    plain = specfile.raw(path)
    try:
        own = discover([Path(module) for module in plugins])
    except PluginError as error:
        raise SpecError([Mistake(path="--plugin", message=str(error))]) from None
    methods = known(own)
    try:
        spec = parse(plain, methods)
    except SpecError as error:
        # What can be looked at all the same is, so that one look shows every mistake.
        more = glance(plain, error.mistakes, path.parent, methods)
        raise SpecError([*error.mistakes, *more]) from None
    return planning.make(
        spec,
        base=path.parent,
        device=spec.cluster.device if spec.cluster.device != "auto" else device,
        fetch=fetch,
        plugins={plugin.name: plugin.told() for plugin in own},
    )


def run(
    file: str | Path,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    workers: int | None = None,
    only: str | None = None,
    local: bool = False,
    plugins: Sequence[str | Path] = (),
    told: Console | None = None,
) -> Outcome:
    """Run a sweep, or what is left of it, and return how it ended.

    `out` is the run folder (`runs/<name>` when None), `address` a Ray cluster
    (one started here when None), `only` an SQL condition on the cells table, and
    `local` runs in this process without Ray, and `plugins` are modules of a user's own methods.
    Raises SpecError, StoreError and PoolError; a task that fails is in the outcome instead.
    """
    part = partial(parts.with_condition, condition=only)
    planned = partial(plan, file, fetch=True, plugins=plugins)
    with _work(planned, file, part, out, address, workers, local, told) as work:
        aggregated(work.store, work.made.spec.contrasts, work.made.spec.evaluation.metrics)
        page = report(work.store.root)
    lost = {cell for f in work.failures for cell in f.cells}
    return Outcome(
        run=work.store.root,
        page=page,
        failures=work.failures,
        computed=len(work.left.pace.unanswered - lost),
        found=len(work.left.answered),
        fetched=work.fetched,
    )


def collect(
    file: str | Path,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    workers: int | None = None,
    local: bool = False,
    plugins: Sequence[str | Path] = (),
    told: Console | None = None,
) -> Collected:
    """Collect the statistics of a sweep and no more; return how that ended.

    Arguments and errors are those of `run`, which then finds all of it done.
    """
    planned = partial(plan, file, fetch=True, plugins=plugins)
    alone = parts.statistics_alone
    with _work(planned, file, alone, out, address, workers, local, told) as work:
        pass
    lost = sum(1 + failure.blocked for failure in work.failures)
    return Collected(
        run=work.store.root,
        failures=work.failures,
        computed=len(work.left.tasks) - lost,
        found=len(work.left.done) - work.fetched,
        fetched=work.fetched,
    )


@contextmanager
def _work(
    planned: Callable[..., Plan],
    file: str | Path,
    part: Callable[[Plan], Plan],
    out: str | Path | None,
    address: str | None,
    workers: int | None,
    local: bool,
    told: Console | None,
) -> Iterator[_Work]:
    """Do what is left of a part of a sweep; yield how it went, the folder still locked."""
    made = planned()
    store = Store.open(place.run_folder(out, made.spec.name))
    common = _common(file, made, store)
    with ExitStack() as stack:
        stack.enter_context(locked(store))
        story = stack.enter_context(Story(store, told or console()))
        upkeep.tidy(made, store, story.say)
        left = resume.left(part(made), store)
        fetched: list[str] = []
        if common is not None:
            lent = shared.sharing(made.tasks, left.tasks, store, common, story.say)
            fetched = stack.enter_context(lent)
            story.remark(f"{len(fetched)} files found in the shared store {common.root}")
            left = resume.left(part(made), store)
        story.begin(left.tasks, _found(part(made), left))
        failures: list[Failure] = []
        if left.tasks:
            pool, again = stack.enter_context(_pool(planned, made, store, address, workers, local))
            if again is not made:  # planned again, for the device that the cluster has
                made, left = again, resume.left(part(again), store)
            upkeep.write_plan(made, store)
            store.replace("provenance.json", json.dumps(provenance.gather(made), indent=2).encode())
            failures = _schedule(made, left, store, pool, story)
        else:
            upkeep.write_plan(made, store)  # the sweep may have been edited all the same
        yield _Work(
            made=made,
            store=store,
            left=left,
            failures=tuple(failures),
            fetched=len(fetched),
        )
        story.say("end", failures=len(failures))


def _common(file: str | Path, made: Plan, store: Store) -> Store | None:
    """Return the store that the sweep shares with others, if it names one."""
    if made.spec.store is None:
        return None
    base = Path(file).absolute().parent
    return shared.opened(place.shared_folder(made.spec.store, base), store)


def _found(made: Plan, left: resume.Left) -> dict[str, int]:
    found = dict.fromkeys(("prepare", "collect", "reduce", "learn"), 0)
    for task in made.tasks:
        found[task.stage] = found.get(task.stage, 0) + (task.file in left.done)
    return {**found, "evaluate": len(left.answered)}


@contextmanager
def _pool(
    planned: Callable[..., Plan],
    made: Plan,
    store: Store,
    address: str | None,
    workers: int | None,
    local: bool,
) -> Iterator[tuple[Pool, Plan]]:
    """Yield a pool, and the plan for the device that the cluster has."""
    if local:
        from orchestrator import local_pool  # torch: seconds that Ray's driver spares

        local_pool.refuse_missing(made.spec.cluster.device)
        budget.workers(made, local_pool.machine(), asked=1)
        yield local_pool.LocalPool(store), made
        return
    with ray_pool.connected(address):
        cluster = ray_pool.cluster()
        if made.spec.cluster.device == "auto" and cluster.get("GPU", 0) >= 1:
            made = planned(device="cuda")
        count = budget.workers(made, cluster, asked=workers)
        spare = max(2, int(cluster.get("CPU", 1)))
        pool = ray_pool.RayPool(store, workers=count, spare=spare, demand=budget.demand(made))
        try:
            yield pool, made
        finally:
            pool.close()


def _schedule(
    made: Plan, left: resume.Left, store: Store, pool: Pool, story: Story
) -> list[Failure]:
    asked = {task.file for task in left.tasks}
    for file in store.files("failures", ".json"):
        if store.read_json(file).get("file") in asked:
            store.delete(file)  # it is tried again
    scheduler = Scheduler(
        left.tasks,
        left.done,
        pool,
        split=partial(calls.split, made),
        more=left.pace.more,
        listen=story.listen,
        tell=story.say,
        ready_seconds=made.spec.cluster.ready_seconds,
    )
    try:
        return scheduler.run()
    finally:
        for failure in scheduler.failures:
            store.replace(failure.record, json.dumps(asdict(failure), indent=2).encode())
