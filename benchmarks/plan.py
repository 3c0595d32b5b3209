"""Planning a million cells: how long it takes, and how much memory.

    plan       from the sweep file to names of all cells and the tasks before them
    budget     bytes and hours
    listing    cells.parquet and plan.parquet, written to a folder
    calls      the tasks that answer all cells, as they wait in the scheduler
    filled     with what workers are told of their cells, one after the other and forgotten
    cells      `Cell` objects of every thousandth cell
    companies  which cells stop together, as precision asks

The sweep is of the bundled models, of both sites and each layer: constants, quantiles, both
draws and donors, at twenty fractions. `--masks` says how many masks; of 130 there are over a
million cells. Seconds are wall time and this process's own, which other work on the machine
disturbs less; memory is the largest resident set so far.

    python -m benchmarks.plan [--masks 130]
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from orchestrator import budget, calls, listing, specfile
from orchestrator import plan as planning
from orchestrator.plan import Plan
from orchestrator.spec import parse
from orchestrator.stopping import companies
from orchestrator.store import Store
from orchestrator.tasks import Task

SWEEP = """
name: large
models: [zoo:opt, zoo:mistral, zoo:roberta, zoo:vit]
sites: [attn_pre_out, mlp_mid]
layers: each
methods:
  [zero, mean, median, peak, peak(paper), quantile(0.1), quantile(0.9), marginal, noise, resample]
fractions: {{start: 0, stop: 1, step: 0.05}}
seeds: {{masks: {masks}, donors: 4}}
contrasts: [[peak, mean]]
"""

T = TypeVar("T")


def peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def planned(file: Path) -> Plan:
    """Return the plan of a sweep file."""
    return planning.make(parse(specfile.raw(file)), base=file.parent, device="cpu")


def called(made: Plan) -> list[Task]:
    """Return the calls that answer all cells, as they wait."""
    return calls.calls(made, {name: [0] for name in made.cells})


class Phases:
    """Times one phase after another."""

    def __init__(self) -> None:
        """Begin now."""
        self.start = peak_bytes()
        self.found: dict[str, dict[str, float]] = {}

    def time(self, name: str, work: Callable[[], T], count: Callable[[T], int]) -> T:
        """Return what the work returns; print and keep what it took."""
        wall, own = time.perf_counter(), time.process_time()
        done = work()
        seconds, own_seconds = time.perf_counter() - wall, time.process_time() - own
        above, number = peak_bytes() - self.start, count(done)
        self.found[name] = {
            "seconds": round(seconds, 2),
            "own_seconds": round(own_seconds, 2),
            "count": number,
            "peak_above_start_mb": round(above / 1e6),
        }
        print(
            f"{name:10} {seconds:7.2f} s  own {own_seconds:7.2f} s  {number:9,} of them,"
            f" {number / own_seconds:10,.0f} a second; peak {above / 1e6:6,.0f} MB above the start"
        )
        return done


def main() -> None:
    """Run all phases; the last line is JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--masks", type=int, default=130)
    masks = parser.parse_args().masks
    with TemporaryDirectory() as folder:
        file, store = Path(folder) / "large.yaml", Store.open(Path(folder) / "run")
        file.write_text(SWEEP.format(masks=masks))
        phases = Phases()
        print(f"at the start {phases.start / 1e6:,.0f} MB")
        made = phases.time("plan", lambda: planned(file), lambda plan: len(plan.cells))
        phases.time("budget", lambda: budget.budget(made), lambda _: len(made.cells))
        phases.time("listing", lambda: listing.write_plan(made, store), lambda _: len(made.cells))
        every = phases.time("calls", lambda: called(made), len)
        phases.time(
            "filled", lambda: sum(calls.filled(made, task) is not task for task in every), int
        )
        some = list(made.cells)[::1000]
        phases.time("cells", lambda: [made.cells[name] for name in some], len)
        found = phases.time("companies", lambda: companies(made.rows, [("peak", "mean")]), len)
        sizes = {f.name: f.stat().st_size for f in sorted(store.root.glob("*.parquet"))}
        print(f"{len(made.rows):,} points, {len(made.tasks):,} tasks before the cells,"
              f" {len(found):,} companies; {sizes}")  # fmt: skip
        plan = phases.found["plan"]
        print(
            json.dumps(
                {
                    "cells": len(made.cells),
                    "seconds": plan["seconds"],
                    "own_seconds": plan["own_seconds"],
                    "cells_a_second": round(len(made.cells) / plan["own_seconds"]),
                    "peak_mb": round(peak_bytes() / 1e6),
                    "phases": phases.found,
                }
            )
        )


if __name__ == "__main__":
    main()
