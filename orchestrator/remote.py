"""Remote: the verbs of the command line that speak with a cluster's job server.

`submit` starts a sweep there and watches it; `logs` and `stop` find it by its run folder, its name
or its job's id, from any machine that reaches the dashboard and has the token. Ctrl-C ends the
watching and nothing else. Ray is imported when it is needed, since `--help` should not wait for it.
"""

import shlex
import sys
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.status import status as status_of
from orchestrator.store import StoreError
from orchestrator.terminal import LeftError, Out, Plugins, SpecFile, Workers, err, out

Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's dashboard; http://127.0.0.1:8265 if not given."),
]
Submitted = Annotated[
    str | None,
    typer.Option("--address", help="Of a submitted run: its job too, found by name there."),
]
Submission = Annotated[
    str, typer.Argument(metavar="RUN", help="A submitted run: its folder, its name or its job.")
]


def submit(
    spec: SpecFile,
    where: Out = None,
    address: Dashboard = None,
    workers: Workers = None,
    only: Annotated[str | None, typer.Option(help="SQL condition on the cells.")] = None,
    plugin: Plugins = None,
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Nodes have peaksweep: send the sweep alone.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return when the cluster has taken it.")
    ] = False,
) -> None:
    """The same as a Ray job; ends as the sweep does."""
    from orchestrator import submit as submitting

    made = submitting.submit(
        spec,
        out=where,
        address=address,
        workers=workers,
        only=only,
        plugins=plugin or (),
        code=not no_code,
        again=shlex.join(["peaksweep", *sys.argv[1:]]),
    )
    at = f" --address {made.address}"
    look = f"peaksweep logs {made.job} --follow{at}; to stop it: peaksweep stop {made.job}{at}"
    err.print(f"Job {made.job} has begun, into {made.run}", markup=False, soft_wrap=True)
    if no_wait:
        err.print(f"To look: {look}", markup=False, soft_wrap=True)
        return
    try:
        code = submitting.follow(made, _say)
    except (SystemExit, KeyboardInterrupt) as left:
        err.print(f"The job goes on. To look again: {look}", markup=False, soft_wrap=True)
        raise LeftError(getattr(left, "code", 130)) from None
    raise typer.Exit(code)


def logs(
    run: Submission,
    address: Dashboard = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Until it ends; then ends as the sweep does.")
    ] = False,
) -> None:
    """What a submitted run has printed."""
    from orchestrator import ray_jobs
    from orchestrator import submit as submitting

    server = ray_jobs.Server(address)
    job = server.of(run)[0]
    if not follow:
        _say(server.logs(job.id))
        return
    try:
        code = submitting.code_of(server.follow(job.id, _say))
    except (SystemExit, KeyboardInterrupt) as left:
        err.print(f"The job {job.id} goes on.", markup=False)
        raise LeftError(getattr(left, "code", 130)) from None
    raise typer.Exit(code)


def stop(run: Submission, address: Dashboard = None) -> None:
    """End a submitted run; what is done is kept."""
    from orchestrator import ray_jobs

    server = ray_jobs.Server(address)
    job = server.of(run)[0]
    if job.ended:
        said = f"The job {job.id} had ended: {job.state.lower()}."
    elif server.stop(job.id).ended:
        said = f"The job {job.id} is stopped. Nothing is lost: to go on, submit it again."
    else:
        said = f"The job {job.id} was asked to stop, and has not yet."
    out.print(said, markup=False, soft_wrap=True)


def found(run: str, address: str) -> str | None:
    """Tell where a submitted run's job stands; return the run folder if it can be read here.

    Raises CommandError and PoolError as `ray_jobs.Server` does.
    """
    from orchestrator import ray_jobs
    from orchestrator import submit as submitting

    server = ray_jobs.Server(address)
    job = server.of(run)[0]
    ending = f", exit code {submitting.code_of(job)}" if job.ended else ""
    err.print(f"job {job.id}: {job.state.lower()}{ending}", markup=False, soft_wrap=True)
    try:
        status_of(job.run)
    except StoreError as error:
        err.print(f"{escape(str(error))}. The job's last lines:", soft_wrap=True)
        lines = server.logs(job.id).splitlines()[-_LAST:]
        _say("".join(f"{line}\n" for line in lines))
        return None
    return job.run


_LAST = 20
"""Lines of a log that a status shows where the run folder is not to be seen."""


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
