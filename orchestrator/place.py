"""Place: where a run folder lies when nobody said so, and where it must not.

A Ray job works in a copy of the submitted directory that the cluster throws
away, so a run folder inside it would be lost with its results.
"""

import os
from pathlib import Path

from orchestrator.mistakes import Mistake, SpecError

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this in the environment of a job's entrypoint."""


def run_folder(out: str | Path | None, name: str) -> str:
    """Return the run folder: `out`, or `runs/<name>` under the working directory.

    Raises SpecError where a job's run folder would be thrown away with its working directory.
    """
    chosen = str(out) if out is not None else str(Path("runs") / name)
    if IN_JOB in os.environ and "://" not in chosen:
        here = Path.cwd().resolve()
        if Path(chosen).resolve().is_relative_to(here):
            raise SpecError(
                [
                    Mistake(
                        path="--out",
                        message=f"{chosen} lies in the job's working directory ({here}), which the"
                        " cluster throws away; give --out an absolute path that all nodes share",
                    )
                ]
            )
    return chosen
