"""The driver of a submitted sweep: `python -m orchestrator.job … -- run SPEC …`, in the cluster.

It does what `python -m orchestrator run …` does, and two things about it: before, it looks whether
all nodes share the run folder and have what the sweep names by absolute paths; after, it writes
into the run folder how the sweep ended, because Ray's own command line flattens exit codes to 1.
SIGTERM (`peaksweep stop`) ends it like any sweep; that there is a record then depends on the three
seconds which Ray leaves.

What it tells people to run again is what they ran: the command on their machine, not this one.
"""

import argparse
import json
import shlex
import signal
import sys
import time
from contextlib import suppress

from orchestrator import ray_cluster, ray_folders
from orchestrator.cli import app
from orchestrator.store import Store
from orchestrator.submit import record
from orchestrator.terminal import exit_codes, on_signal


def main() -> None:
    """Run a submitted sweep; ends the process with the sweep's exit code."""
    reader = argparse.ArgumentParser(prog="python -m orchestrator.job")
    reader.add_argument("--id", required=True)
    reader.add_argument("--out", required=True)
    reader.add_argument("--again", default="")
    reader.add_argument("--folder", action="append", default=[])
    reader.add_argument("--needs", action="append", default=[])
    reader.add_argument("words", nargs="+")
    asked = reader.parse_args()
    sys.argv = shlex.split(asked.again) or sys.argv  # what a message says to run again
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    code: object = 70
    try:
        with exit_codes():
            with ray_cluster.connected(None):
                ray_folders.check([asked.out, *asked.folder], asked.needs)
            app(asked.words, prog_name="peaksweep", standalone_mode=True)
    except SystemExit as ended:
        code = ended.code or 0
        raise
    finally:
        told = json.dumps({"code": code, "ended": time.time()})
        with suppress(OSError):  # the folder may be what is wrong; Ray has the code too
            Store.of(asked.out).replace(record(asked.id), told.encode())


if __name__ == "__main__":
    main()
