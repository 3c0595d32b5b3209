"""Jobs: the sweeps that were submitted to a Ray cluster, as its job server tells of them.

The job server speaks HTTP at the dashboard's address (port 8265), which is reached through an ssh
tunnel where it is not on this machine. Who may speak with it is decided by one token, read by
Ray's own client from `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or `~/.ray/auth_token` where
`RAY_AUTH_MODE=token`.

A job of ours is told from others by its metadata: the run folder and the run's name. A run may
have had several jobs; a command that names the run means its newest. The job server forgets
all jobs with the cluster's head, the run folder does not.

Connections break, tunnels too. Whoever follows a job asks again for a minute, and goes on
printing where the log was left.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from orchestrator.pool import PoolError, SilentError
from orchestrator.terminal import CommandError

ADDRESS = "http://127.0.0.1:8265"
TUNNEL = "ssh -N -o ServerAliveInterval=15 -L 8265:127.0.0.1:8265 HEAD"
"""To the head's loopback; it ends when the other side is silent, where one without would hang."""
"""Where Ray's dashboard is, or the near end of a tunnel to it."""
_FROM = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
PATIENCE = 60.0
"""Seconds for which a job server that was reached may be silent."""
_PAUSE = 1.0
_TALKATIVE = (
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
)
RUN, NAME = "peaksweep_run", "peaksweep_name"
"""Keys of a job's metadata."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A submitted sweep."""

    id: str
    """Its submission id."""
    run: str
    """The run folder: a path as the nodes have it, or a URI."""
    name: str
    state: str
    """PENDING, RUNNING, or one of ENDED."""
    message: str
    """What Ray says of that."""
    code: int | None
    """Exit code of the sweep's process; None where it never ran, or has not ended."""
    started: float
    """Seconds since 1970, by the clock of the cluster's head."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED


class Server:
    """The job server of a cluster."""

    def __init__(self, address: str | None) -> None:
        """Connect to the one at an http(s) address, or where the environment or a tunnel has it.

        Raises CommandError for an address or a token that is wrong, PoolError where nobody answers.
        """
        found = next((os.environ[key] for key in _FROM if os.environ.get(key)), ADDRESS)
        self.address = (address or found).rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise CommandError(
                f"found the address {self.address!r}; expected that of the cluster's dashboard,"
                f" such as {ADDRESS} (from elsewhere: `{TUNNEL}` first)"
            )
        for module in _TALKATIVE:
            logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
        environment = {key: os.environ.pop(key) for key in _FROM if key in os.environ}
        try:  # Ray's client lets these overrule what it is given
            with self._told():
                self._client = JobSubmissionClient(self.address)
        finally:
            os.environ.update(environment)

    def submit(self, job: str, entrypoint: str, folder: str, run: str, name: str) -> bool:
        """Start a job in a copy of a folder; return False where its id is taken."""
        with self._told():
            try:
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    runtime_env={"working_dir": folder},  # no variables: they would be logged
                    metadata={RUN: run, NAME: name},
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
        return True

    def jobs(self) -> list[Job]:
        """Return our jobs, the newest first."""
        with self._told():
            found = self._client.list_jobs()
        ours = [_job(one) for one in found if one.submission_id and RUN in (one.metadata or {})]
        return sorted(ours, key=lambda job: job.started, reverse=True)

    def of(self, run: str) -> list[Job]:
        """Return the jobs of one run, the newest first: by its folder, its name or a job's id.

        Raises CommandError where there is none, and where runs of several folders have the name.
        """
        every = self.jobs()
        named = run.rstrip("/").removeprefix("file://")
        found = [job for job in every if named in (job.run, job.name, job.id)]
        folders = list(dict.fromkeys(job.run for job in found))
        if not found:
            known = ", ".join(dict.fromkeys(job.name for job in every)) or "none"
            raise CommandError(
                f"no job of {run!r} is known at {self.address}; give a run folder or its name, as"
                f" it was submitted. Known: {known}"
            )
        if len(folders) > 1:
            raise CommandError(f"{run!r} is the name of {' and '.join(folders)}; give the folder")
        return found

    def now(self, job: str) -> Job:
        """Return a job as it is now."""
        with self._told():
            return _job(self._client.get_job_info(job))

    def logs(self, job: str) -> str:
        """Return all that a job has printed."""
        with self._told():
            return str(self._client.get_job_logs(job))

    def stop(self, job: str, seconds: float = PATIENCE) -> Job:
        """Ask a job to end, as SIGTERM does; return it when it has, or after a time."""
        with self._told():
            self._client.stop_job(job)
        end = time.monotonic() + seconds
        while not (now := self.now(job)).ended and time.monotonic() < end:
            time.sleep(_PAUSE / 4)
        return now

    def follow(self, job: str, say: Callable[[str], None]) -> Job:
        """Say what a job prints, until it has ended; return how it did.

        Raises PoolError if the job server is silent for a minute.
        """
        said, last = 0, time.monotonic()
        while True:
            try:
                said = asyncio.run(self._tail(job, say, said))
                now = self.now(job)
                if now.ended:
                    return now
                last = time.monotonic()
            except (PoolError, RuntimeError, OSError, aiohttp.ClientError) as error:
                if time.monotonic() - last > PATIENCE:
                    raise SilentError(
                        f"{self.address} does not answer any more: {error}"
                    ) from error
            time.sleep(_PAUSE)

    async def _tail(self, job: str, say: Callable[[str], None], said: int) -> int:
        """Say what follows the first `said` characters of a log; return how many there are now."""
        seen = 0
        async for lines in self._client.tail_job_logs(job):
            new = lines[max(0, said - seen) :]
            seen += len(lines)
            if new:
                say(new)
            said = max(said, seen)
        return said

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in a sentence what the job server, or the way to it, refused."""
        try:
            yield
        except AuthenticationError:
            raise CommandError(
                f"the cluster at {self.address} does not take this token; set RAY_AUTH_MODE=token,"
                " and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token that the cluster was"
                " started with (`ray get-auth-token` on its head shows it)"
            ) from None
        except (ConnectionError, requests.RequestException) as error:
            raise SilentError(
                f"No Ray job server answers at {self.address}; start the cluster with its dashboard"
                f" (`ray start --head`), or the tunnel to it (`{TUNNEL}`)"
            ) from error


def _job(found: JobDetails) -> Job:
    metadata = found.metadata or {}
    return Job(
        id=str(found.submission_id),
        run=metadata.get(RUN, ""),
        name=metadata.get(NAME, ""),
        state=str(found.status.value),
        message=found.message or "",
        code=found.driver_exit_code,
        started=(found.start_time or 0) / 1000,
    )
