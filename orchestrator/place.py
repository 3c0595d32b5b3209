"""Place: where a run folder and a shared store lie, and where they must not.

A Ray job works in a copy of the submitted directory that the cluster throws
away, so a folder inside it would be lost with what it holds.
"""

import os
from pathlib import Path

from orchestrator.files import SECRET, elsewhere, has_password
from orchestrator.mistakes import Mistake, SpecError

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this in the environment of a job's entrypoint."""


def run_folder(out: str | Path | None, name: str) -> str:
    """Return the run folder: `out`, also a URI, or `runs/<name>` under the working directory.

    Raises SpecError where a job's run folder would be thrown away with its working directory, or
    the URI has a password in it.
    """
    chosen = str(out) if out is not None else str(Path("runs") / name)
    if has_password(chosen):
        raise SpecError([Mistake(path="--out", message=f"the URI has {SECRET}")])
    if not elsewhere(chosen):
        _refuse_lost(chosen, "--out", "give --out an absolute path that all nodes share")
    return chosen


def shared_folder(store: str, base: Path) -> Path | str:
    """Return the folder of a sweep's `store`, which starts at the sweep file's folder `base`.

    A URI of another place than this machine's folders is returned as it is.

    Raises SpecError where a job's store would be thrown away with its working directory.
    """
    if elsewhere(store):
        return store
    chosen = base / store.removeprefix("file://")
    _refuse_lost(str(chosen), "store", "write an absolute path that all nodes share")
    return chosen


def _refuse_lost(chosen: str, key: str, cure: str) -> None:
    here = Path.cwd().resolve()
    chosen = chosen.removeprefix("file://")
    if IN_JOB in os.environ and Path(chosen).resolve().is_relative_to(here):
        raise SpecError(
            [
                Mistake(
                    path=key,
                    message=f"{chosen} lies in the job's working directory ({here}), which the"
                    f" cluster throws away; {cure}",
                )
            ]
        )
