"""Submit: a sweep as a job of a Ray cluster, from a machine that need not be part of it.

    sweep file ─► what travels ─► job (folders checked on every node ─► the sweep) ─► its exit code

The sweep runs in the cluster and lives as long as the cluster does; whoever submitted it may watch,
go away and look again. It is the same sweep as `run` with the same folder: submitting it once more
goes on from what is done.

A job's id is made of the run folder's name, of what the user wrote and of how often it was
submitted. So of two who submit one sweep at the same moment one is refused by Ray, and any
later one here, as long as the first lives. Should a driver come by another way, the folder's lease
refuses it.

Nothing of this machine's environment travels: Ray shows what is given to a job to everybody who may
ask, and logs it. Nodes get credentials from their image, their role or their cluster's file.

How it ended is in the run folder (`jobs/ID.json`), which is asked first; else Ray knows the exit
code of the process. Where neither does, the job was stopped or never began.
"""

import hashlib
import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator import luggage, specfile
from orchestrator.files import StoreError, elsewhere, has_password
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.plugins import discover, known
from orchestrator.pool import PoolError
from orchestrator.ray_jobs import Job, Server
from orchestrator.spec import Spec, parse
from orchestrator.store import Store
from workers.plugins import PluginError

_STOPPED = 143
_TURNS = 20
"""Names of a job that are tried: one may be taken by a job that the server lists no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A sweep that a cluster has taken."""

    job: str
    """The job's id."""
    run: str
    """The run folder."""
    address: str
    """Of the job server."""


def submit(
    file: str | Path,
    *,
    out: str | None,
    address: str | None = None,
    workers: int | None = None,
    only: str | None = None,
    plugins: Sequence[str | Path] = (),
    code: bool = True,
    again: str = "",
) -> Submitted:
    """Submit a sweep to the cluster whose dashboard is at `address`; return when it is taken.

    `out` is the run folder: an absolute path that all nodes share, or a URI. `code` is whether the
    code that runs here is sent; without, nodes have peaksweep. `again` is the command that a
    job tells who would go on. Others are those of `sweep.run`.

    Raises SpecError and CommandError for what is wrong with the sweep or the command, StoreError
    where a job of this run folder lives, PoolError where no cluster answers.
    """
    path, modules = Path(file), [Path(module) for module in plugins]
    spec = _spec(path, modules)
    run = _folder(out)
    taken = luggage.packed(path, spec, plugins=modules, code=code)
    server = Server(address)
    name = Path(run).name
    content = hashlib.sha256(f"{run}\0{workers}\0{only}\0{taken.digest}".encode()).hexdigest()[:8]
    with tempfile.TemporaryDirectory() as folder:
        taken.lay_out(Path(folder))
        for turn in range(1, _TURNS):
            before = [job for job in server.jobs() if job.run == run]
            _refuse_second(before, server)
            job = f"{_word(name)}-{content}-{len(before) + turn}"
            words = ["python", "-m", "orchestrator.job", f"--id={job}"]
            words += [f"--out={run}", f"--again={again}"]
            if spec.store is not None:
                words.append(f"--folder={spec.store}")
            words += [f"--needs={path}" for path in taken.needs]
            words += ["--", "run", taken.sweep, "--out", run]
            words += [] if workers is None else ["--workers", str(workers)]
            words += [] if only is None else ["--only", only]
            words += [word for module in taken.plugins for word in ("--plugin", module)]
            if server.submit(job, shlex.join(words), folder, run, name):
                return Submitted(job=job, run=run, address=server.address)
            # Somebody has submitted the same a moment ago, or it was and is forgotten.
    raise PoolError(f"{server.address} takes no job named like {job}; choose another folder")


def code_of(job: Job) -> int:
    """Return the exit code of a sweep whose job has ended.

    From the run folder where this machine can read it, else from Ray. Raises PoolError where the
    sweep never began.
    """
    with suppress(OSError):
        told = Store.of(job.run).read_json(record(job.id))
        code, ended = told.get("code"), told.get("ended")
        # A new cluster knows no earlier jobs, so its first may have an older one's id.
        if isinstance(code, int) and isinstance(ended, float) and ended >= job.started:
            return code
    if job.code is not None:
        return job.code
    if job.state == "STOPPED":
        return _STOPPED
    if job.state == "SUCCEEDED":
        return 0
    raise PoolError(f"the job {job.id} ended before the sweep began: {job.message}")


def record(job: str) -> str:
    """Return the file of the run folder that says how a job ended."""
    return f"jobs/{job}.json"


def _spec(file: Path, plugins: Sequence[Path]) -> Spec:
    """Return a sweep's values; models and sources are looked at in the cluster."""
    try:
        methods = known(discover(plugins))
    except PluginError as error:
        raise SpecError([Mistake(path="--plugin", message=str(error))]) from None
    return parse(specfile.raw(file.absolute()), methods)


def _folder(out: str | None) -> str:
    """Return the run folder as nodes are to know it."""
    cure = "give an absolute path that all nodes share, or a URI such as s3://bucket/folder"
    wrong = None
    if out is None:
        wrong = f"is missing: a job's own folder is thrown away with it; {cure}"
    elif has_password(out) or (elsewhere(out) and "@" in urlsplit(out).netloc):
        wrong = "the URI has a user name or password, which logs would show; nodes get them from"
        wrong += " their environment: write the URI without"
    elif not elsewhere(out) and not Path(out.removeprefix("file://")).is_absolute():
        wrong = f"found {out!r}, which starts at a folder of this machine; {cure}"
    if out is None or wrong is not None:
        raise SpecError([Mistake(path="--out", message=str(wrong))])
    return Store.of(out).uri


def _refuse_second(before: Sequence[Job], server: Server) -> None:
    at = f"--address {server.address}"
    for job in before:
        if not job.ended:
            raise StoreError(
                f"{job.run} is being worked on by the job {job.id}; watch it (`peaksweep logs"
                f" {job.id} --follow {at}`), stop it (`peaksweep stop {job.id} {at}`), or choose"
                " another folder with --out"
            )


def _word(name: str) -> str:
    """Return a name with nothing in it that a URL or a file name minds."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name)[:64]


def follow(submitted: Submitted, say: Callable[[str], None]) -> int:
    """Say what a submitted sweep prints until it ends; return its exit code.

    Raises PoolError where the cluster does not answer any more, or the sweep never began.
    """
    return code_of(Server(submitted.address).follow(submitted.job, say))
