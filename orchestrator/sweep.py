"""The sweep: the whole story, from a file to tables with error bars.

    spec ─► plan ─► budget ─► what is left ─► scheduler on a pool ─► aggregate ─► report

Everything before the pool is arithmetic and refuses what cannot be; everything
after it reads the run folder alone, so it can be done again at any time.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
from rich.console import Console

from orchestrator import budget, place, provenance, ray_pool, resume, specfile
from orchestrator import plan as planning
from orchestrator.glance import glance
from orchestrator.lock import locked
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.names import slug
from orchestrator.plan import Plan
from orchestrator.pool import Pool
from orchestrator.progress import Story, console
from orchestrator.report import report
from orchestrator.results import aggregated
from orchestrator.scheduler import Scheduler
from orchestrator.spec import as_yaml, parse
from orchestrator.store import Store, parquet, rows
from orchestrator.tables import SCHEMAS
from orchestrator.tasks import Failure


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


def plan(file: str | Path, *, device: str = "cpu", fetch: bool = False) -> Plan:
    """Return the plan of a sweep file; changes nothing, but downloads hub models with `fetch`.

    Raises SpecError with every mistake: of the file, of its models and of its sources.
    """
    path = Path(file).absolute()
    plain = specfile.raw(path)
    try:
        spec = parse(plain)
    except SpecError as error:
        # What can be looked at all the same is, so that one look shows every mistake.
        more = glance(plain, error.mistakes, path.parent)
        raise SpecError([*error.mistakes, *more]) from None
    chosen = spec.cluster.device if spec.cluster.device != "auto" else device
    return planning.make(spec, base=path.parent, device=chosen, fetch=fetch)


def run(
    file: str | Path,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    workers: int | None = None,
    only: str | None = None,
    local: bool = False,
    told: Console | None = None,
) -> Outcome:
    """Run a sweep, or what is left of it, and return how it ended.

    `out` is the run folder (`runs/<name>` when None), `address` a Ray cluster
    (one started here when None), `only` an SQL condition on the cells table, and
    `local` runs in this process without Ray. Raises SpecError, StoreError and
    PoolError; a task that fails raises nothing: it is in the outcome.
    """
    made = plan(file, fetch=True)
    store = Store.open(place.run_folder(out, made.spec.name))
    with ExitStack() as stack:
        stack.enter_context(locked(store))
        failures: list[Failure] = []
        story = stack.enter_context(Story(store, told or console()))
        _tidied(made, store, story)
        left = _left(made, store, only)
        story.begin(left.tasks, _found(made, left))
        if left.tasks:
            pool, planned = stack.enter_context(_pool(file, made, store, address, workers, local))
            if planned is not made:  # planned again, for the device that the cluster has
                made, left = planned, _left(planned, store, only)
            _write_plan(made, store)
            content = json.dumps(provenance.gather(made), indent=2).encode()
            store.replace("provenance.json", content)
            failures = _schedule(made, left, store, pool, story)
        else:
            _write_plan(made, store)  # the sweep may have been edited all the same
        aggregated(store, made.spec.contrasts)
        page = report(store.root)
        story.say("end", failures=len(failures))
    lost = {cell for f in failures for cell in f.cells}
    asked = {cell for task in left.tasks for cell in task.cells}
    return Outcome(
        run=store.root,
        page=page,
        failures=tuple(failures),
        computed=len(asked - lost),
        found=len(left.answered),
    )


def _tidied(made: Plan, store: Store, story: Story) -> None:
    """Take out of the run folder what no longer counts, and say so."""
    found = resume.left(made, store)
    for file in found.broken:
        story.say("broken", file=file)
    for file in found.stale:
        story.say("stale", file=file)
        store.delete(file)
    # Tables of an earlier version of the sweep would stand beside this one's under the same names.
    named = {task.file for task in made.tasks}
    for kind in ("donors", "selections", "statistics", "centres"):
        for file in set(store.files(kind)) - named:
            story.say("superseded", file=file)
            store.delete(file)
    # Results without an execution, as a crash between the two commits leaves them, don't count.
    kept = {resume.results_of(f) for f in store.files("executions")}
    for file in set(store.files("results")) - kept:
        store.delete(file)


def _left(made: Plan, store: Store, only: str | None) -> resume.Left:
    return resume.left(made if only is None else _only(made, only), store)


def _only(made: Plan, condition: str) -> Plan:
    table = pl.from_arrow(_cells_table(made))
    try:
        kept = pl.SQLContext(cells=table).execute(
            f"SELECT DISTINCT cell FROM cells WHERE {condition}", eager=True
        )
    except (pl.exceptions.PolarsError, ValueError) as error:
        columns = ", ".join(SCHEMAS["cells"].names)
        why = str(error).splitlines()[0].split(";")[0]  # Polars goes on with its own plan
        message = f"{condition!r} is not a condition on the cells: {why}. Columns: {columns}"
        raise SpecError([Mistake(path="--only", message=message)]) from None
    if kept.is_empty():
        raise SpecError([Mistake(path="--only", message=f"no cell has {condition}")])
    wanted = set(kept["cell"])
    return planning.with_cells(made, {n: c for n, c in made.cells.items() if n in wanted})


def _found(made: Plan, left: resume.Left) -> dict[str, int]:
    found = dict.fromkeys(("prepare", "collect", "reduce"), 0)
    for task in made.tasks:
        found[task.stage] = found.get(task.stage, 0) + (task.file in left.done)
    return {**found, "evaluate": len(left.answered)}


@contextmanager
def _pool(
    file: str | Path,
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
        yield local_pool.LocalPool(store), made
        return
    with ray_pool.connected(address):
        cluster = ray_pool.cluster()
        if made.spec.cluster.device == "auto" and cluster.get("GPU", 0) >= 1:
            made = plan(file, device="cuda", fetch=True)
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
        split=lambda task: resume.split(made, task),
        listen=story.listen,
        tell=story.say,
        ready_seconds=made.spec.cluster.ready_seconds,
    )
    try:
        return scheduler.run()
    finally:
        for failure in scheduler.failures:
            content = json.dumps(asdict(failure), indent=2).encode()
            store.replace(failure.record, content)


def _write_plan(made: Plan, store: Store) -> None:
    """Write what the run folder says about itself."""
    store.replace("sweep.yaml", as_yaml(made.spec).encode())
    store.replace("cells.parquet", parquet(_cells_table(made)))
    store.replace("plan.parquet", parquet(_plan_table(made)))


def _cells_table(made: Plan) -> pa.Table:
    columns = {c: [r[c] for r in made.rows] for c in SCHEMAS["cells"].names}
    return rows("cells", columns, len(made.rows))


def _plan_table(made: Plan) -> pa.Table:
    """Return one row per task; a cell is a task whose file is any part of its model's."""
    tasks = [(t.name, t.stage, t.kind, t.label, t.arguments["model"], t.file) for t in made.tasks]
    tasks += [
        (c.name, "evaluate", "cell", c.label, c.model, f"executions/{slug(c.model)}")
        for c in made.cells.values()
    ]
    names = SCHEMAS["plan"].names
    return rows("plan", dict(zip(names, zip(*tasks, strict=True), strict=True)), len(tasks))
