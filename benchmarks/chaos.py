"""A small sweep again and again, each time with a fault of a random kind at a random moment.

    python -m benchmarks.chaos --runs 100

A cluster of three nodes is kept up between the runs. Every run has a folder of its own and
gets one fault while it is under way; where the fault ends the driver, the same command is
given again. Where it came too late, or had nothing to hit, another one is drawn: that was no
run. What a run leaves is compared with what an undisturbed one left, to the
last bit. Half of the runs are on Ray and half in one process, where the fault is the driver's
death or a spoilt file; both are drawn from `--seed`.

    fault             what is done
    driver            kill -9 of the driver                     on Ray and in one process
    interrupted       SIGTERM, as `ray job stop` sends it       on Ray and in one process
    deleted, flipped  a partial result is deleted, or a bit of it turned, and the driver killed
    actor             kill -9 of a process that holds a model
    task              kill -9 of a process that does tasks without one
    node              kill -9 of a node; another one joins
    stopped           SIGSTOP of a process that holds a model: it hangs

Printed are the faults by kind, the cells that were computed more than once, the seconds that
a fault of the kind cost (median, against undisturbed runs of the same sort), and what came of it
all. The last line is JSON.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import polars as pl

from tests.faults import SPEC, Nodes, story
from tests.processes import alive, descendants, title
from tests.sweeps import answers, assert_same, written

HASTY = SPEC.replace("patience_seconds: 60", "patience_seconds: 4")
ON_RAY = ("driver", "interrupted", "actor", "actor", "task", "node", "stopped")
IN_PROCESS = ("driver", "driver", "interrupted", "deleted", "flipped")
UNDISTURBED = 3
"""Runs without a fault, of either sort, whose median is what time is lost against."""
FORKS = multiprocessing.get_context("forkserver")


def sweep(spec: Path, run: Path, address: str | None) -> None:
    """Run a sweep in this process or on a cluster; the report, which no fault reaches, is left out.

    A process of its own, as `python -m orchestrator run` is, but forked from one that has the
    libraries already.
    """
    from orchestrator import sweep, terminal

    said = run.with_suffix(".said").open("a")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sweep.report = lambda run: Path()  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, terminal.on_signal)
    sweep.run(spec, out=run, address=address, local=address is None)


def start(spec: Path, run: Path, address: str | None) -> ForkServerProcess:
    """Start a sweep in a process of its own."""
    driver = FORKS.Process(target=sweep, args=(spec, run, address))
    driver.start()
    return driver


class Chaos:
    """Drives sweeps, and disturbs them."""

    def __init__(self, folder: Path, nodes: Nodes, seed: int) -> None:
        self.folder, self.nodes, self.draw = folder, nodes, random.Random(seed)
        self.spec = written(folder, HASTY)
        self.usual: dict[bool, float] = {}
        self.faults, self.lost_seconds = Counter[str](), defaultdict[str, list[float]](list)
        self.recomputed = self.lost = self.duplicated = self.identical = 0

    def undisturbed(self) -> None:
        """Make the run that all are compared with, and see how long runs take."""
        for on_ray in (False, True):
            took = []
            for number in range(UNDISTURBED):
                began, run = time.monotonic(), self.folder / f"undisturbed-{on_ray}-{number}"
                driver = start(self.spec, run, self.nodes.address if on_ray else None)
                driver.join()
                assert driver.exitcode == 0, run.with_suffix(".said").read_text()[-3000:]
                took.append(time.monotonic() - began)
            self.usual[on_ray] = statistics.median(took)
        self.pattern = self.folder / "undisturbed-False-0"
        self.tasks = len(story(self.pattern, "done"))

    def once(self, number: int) -> bool:
        """Run a sweep with one fault, and compare; return False if the fault came too late."""
        on_ray = self.draw.random() < 0.5
        kind = self.draw.choice(ON_RAY if on_ray else IN_PROCESS)
        moment, pause = self.draw.randrange(self.tasks), self.draw.random() * 0.2
        run, address = self.folder / f"run-{number}", self.nodes.address if on_ray else None
        began = time.monotonic()
        driver = start(self.spec, run, address)
        while driver.is_alive() and not (story(run, "begin") and len(story(run, "done")) >= moment):
            time.sleep(0.01)
        time.sleep(pause)
        struck = driver.is_alive() and self.disturb(kind, run, driver)
        driver.join()
        for _ in range(3):
            if driver.exitcode != 0:
                driver = start(self.spec, run, address)
                driver.join()
        seconds = time.monotonic() - began
        self.nodes.heal()
        if not struck and driver.exitcode == 0:
            shutil.rmtree(run)
            return False
        name = kind if struck else "none"
        self.faults[name] += 1
        self.lost_seconds[name].append(seconds - self.usual[on_ray])
        where = "on Ray" if on_ray else "in process"
        same = self.compare(run)  # whatever the driver said: what is missing is lost
        came = "same" if same else "DIFFERS"
        if driver.exitcode != 0:
            came = f"ENDED {driver.exitcode}"
        self.identical += came == "same"
        print(f"{number:4} {name:12} {where:10} {seconds:6.1f} s  {came}")
        if came == "same":
            shutil.rmtree(run)
        return True

    def disturb(self, kind: str, run: Path, driver: ForkServerProcess) -> bool:
        """Do what a kind of fault is; return whether there was something to do it to."""
        assert driver.pid is not None
        how = {"interrupted": signal.SIGTERM, "stopped": signal.SIGSTOP}.get(kind, signal.SIGKILL)
        match kind:
            case "driver" | "interrupted":
                return hit(driver.pid, how)
            case "deleted" | "flipped":
                return hit(driver.pid, how) and spoil(self.draw, run, kind)
            case "actor" | "stopped":
                return self.hit_one("ray::Actor", how)
            case "task":
                while driver.is_alive():  # it lives for a moment only
                    if self.hit_one("ray::do", how):
                        return True
                    time.sleep(0.005)
                return False
            case "node":
                node = self.draw.choice(self.nodes.workers)
                gone = hit(self.nodes.raylet(node), how)
                self.nodes.heal()
                return gone
        raise ValueError(kind)

    def hit_one(self, titled: str, how: signal.Signals) -> bool:
        """Send a signal to one of the cluster's processes with this title."""
        raylets = [self.nodes.raylet(node) for node in self.nodes.workers]
        found = sorted(p for r in raylets for p in descendants(r) if title(p).startswith(titled))
        return bool(found) and hit(self.draw.choice(found), how)

    def compare(self, run: Path) -> bool:
        """Compare what a run left with what it should have; return whether it is the same."""
        nominal = pl.read_parquet(self.pattern / "cells.parquet")["cell"]
        try:
            rows = answers(run).select("cell", "sequence")
        except (pl.exceptions.PolarsError, OSError):  # it has none at all
            self.lost += len(nominal)
            return False
        lost, twice = set(nominal) - set(rows["cell"]), int(rows.is_duplicated().sum())
        self.lost += len(lost)
        self.duplicated += twice
        begun = Counter(c for e in story(run) for c in started(e))
        self.recomputed += sum(times - 1 for times in begun.values())
        try:
            assert_same(self.pattern, run)
        except (AssertionError, pl.exceptions.PolarsError, OSError):
            return False
        return not (lost or twice)


def started(event: dict[str, object]) -> list[str]:
    """Return the cells whose computing an event says has begun."""
    cells = event.get("cells", ())
    return list(cells) if event["event"] == "started" else []  # type: ignore[call-overload]


def hit(process: int, how: signal.Signals) -> bool:
    """Send a signal to a process; return whether it was there and ran."""
    with contextlib.suppress(ProcessLookupError):
        if alive(process):
            os.kill(process, how)
            return True
    return False


def spoil(draw: random.Random, run: Path, kind: str) -> bool:
    """Delete or damage one of the files that a later step reads."""
    found = sorted(f for f in run.glob("partials/**/*") if f.suffix in (".arrow", ".parquet"))
    if not found:
        return False
    file = draw.choice(found)
    if kind == "deleted":
        file.unlink()
        return True
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.chmod(0o600)
    file.write_bytes(content)
    return True


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}
    FORKS.set_forkserver_preload(["orchestrator.cli", "orchestrator.sweep", "orchestrator.host"])
    nodes = Nodes({})
    chaos, began = Chaos(folder, nodes, asked.seed), time.monotonic()
    try:
        chaos.undisturbed()
        usual = {("on Ray" if ray else "in process"): s for ray, s in chaos.usual.items()}
        print("undisturbed:", ", ".join(f"{s:.1f} s {where}" for where, s in usual.items()))
        for number in range(asked.runs):
            while not chaos.once(number):
                pass
    finally:
        nodes.shutdown()
    print(f"\n{'fault':12} runs  seconds lost (median)")
    for kind, times in sorted(chaos.faults.items()):
        print(f"{kind:12} {times:4}  {statistics.median(chaos.lost_seconds[kind]):6.1f}")
    print(f"\n{chaos.recomputed} cells computed more than once, in {asked.runs} runs")
    print(f"{(time.monotonic() - began) / 60:.0f} minutes in all")
    print(f"{chaos.lost} lost, {chaos.duplicated} duplicated, {chaos.identical} identical")
    if chaos.identical == asked.runs:
        shutil.rmtree(folder)
    else:
        print(f"what differs is kept in {folder}")
    told = ("lost", "duplicated", "identical")
    print(json.dumps({"runs": asked.runs, **{name: getattr(chaos, name) for name in told}}))


if __name__ == "__main__":
    main()
