"""The sweep: the whole story, from a file to tables with error bars.

    spec ─► plan ─► budget ─► what is left ─► scheduler on a pool ─► aggregate ─► report

Everything before the pool is arithmetic and refuses what cannot be; everything
after it reads the run folder alone, so it can be done again at any time.

`collect` is the same story for a part of the plan, the statistics, and without
its end. The folder it leaves is the sweep's: `run` goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator import parts, results, specfile, trackers
from orchestrator import plan as planning
from orchestrator.glance import glance
from orchestrator.live import Live
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.plan import Plan
from orchestrator.plugins import discover, known
from orchestrator.report import report
from orchestrator.spec import parse
from orchestrator.tasks import Failure
from orchestrator.work import Request, done
from workers.plugins import PluginError


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a sweep ended."""

    run: str
    """The run folder, as people call it: an absolute path, or a URI."""
    page: str
    """The report."""
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

    run: str
    """The run folder: an absolute path, or a URI."""
    failures: tuple[Failure, ...]
    computed: int
    """Tasks done now."""
    found: int
    """Tasks whose files were in the run folder before."""
    fetched: int
    """Files found in the shared store."""


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
    track: Sequence[str] = (),
    told: Console | None = None,
) -> Outcome:
    """Run a sweep, or what is left of it, and return how it ended.

    `out` is the run folder (`runs/<name>` when None), `address` a Ray cluster
    (one started here when None), `only` an SQL condition on the cells table, and
    `local` runs in this process without Ray, `plugins` are modules of a user's own methods, and
    `track` says where it is logged besides, `tensorboard:DIR` for example.
    Raises SpecError, StoreError and PoolError; a task that fails is in the outcome instead.
    """
    live = Live(trackers.opened(track))
    asked = Request(
        file=Path(file),
        planned=partial(plan, file, fetch=True, plugins=plugins),
        part=partial(parts.with_condition, condition=only),
        out=out,
        address=address,
        workers=workers,
        local=local,
        verb="run",
        plugins=plugins,
        told=told,
        live=live,
    )
    with done(asked) as work:
        spec = work.made.spec
        results.aggregated(work.store, spec.contrasts, spec.evaluation.metrics)
        if track:
            kinds = ("summary", "contrasts")
            live.tables({kind: results.table(work.store, kind).collect() for kind in kinds})
        report(work.store)
        page = work.store.where("report/index.html")
    lost = {cell for f in work.failures for cell in f.cells}
    return Outcome(
        run=work.store.uri,
        page=page,
        failures=work.failures,
        computed=work.left.pace.computed(lost),
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
    track: Sequence[str] = (),
    told: Console | None = None,
) -> Collected:
    """Collect the statistics of a sweep and no more; return how that ended.

    Arguments and errors are those of `run`, which then finds all of it done.
    """
    asked = Request(
        file=Path(file),
        planned=partial(plan, file, fetch=True, plugins=plugins),
        part=parts.statistics_alone,
        out=out,
        address=address,
        workers=workers,
        local=local,
        verb="collect",
        plugins=plugins,
        told=told,
        live=Live(trackers.opened(track)),
    )
    with done(asked) as work:
        pass
    lost = sum(1 + failure.blocked for failure in work.failures)
    return Collected(
        run=work.store.uri,
        failures=work.failures,
        computed=len(work.left.tasks) - lost,
        found=len(work.left.done) - work.fetched,
        fetched=work.fetched,
    )
