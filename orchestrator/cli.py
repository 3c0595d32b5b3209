"""The command line: the verbs of a sweep.

Exit codes: 0 all done · 1 some tasks failed, the rest is there · 2 the sweep or
the command is wrong · 3 the cluster cannot hold the plan · 4 the run folder is
another driver's, unwritable or full · 5 parity failed · 70 our own error · 130 and 143
interrupted; run the same command again to go on.
"""

import json
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from orchestrator import absent, printing
from orchestrator import budget as budgeting
from orchestrator.buckets import DifferingAnswersError
from orchestrator.inspection import ModelError
from orchestrator.mistakes import SpecError
from orchestrator.plan import Plan
from orchestrator.pool import PoolError
from orchestrator.scratch import ScratchError
from orchestrator.standing import status_table
from orchestrator.status import status as status_of
from orchestrator.store import Store, StoreError
from orchestrator.sums import DifferingRoundsError
from orchestrator.tasks import Failure
from orchestrator.written import as_yaml, resolved

app = typer.Typer(
    help="Neuron-ablation sweeps of transformers: what breaks when these neurons are held at that"
    " value?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A sweep file (YAML).")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its URI.")]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Run folder, or a URI (s3://…); runs/NAME if not given."),
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; one is started here if not given.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Replicas at once.")]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A module with methods of your own."),
]


@app.command()
def plan(
    spec: SpecFile,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plugin: Plugins = None,
) -> None:
    """Cells, tasks, bytes and hours; changes nothing."""
    from orchestrator import sweep  # the figures' libraries take a second; `--help` should not

    made = sweep.plan(spec, plugins=plugin or ())
    needs = budgeting.budget(made)
    if as_json and out.is_terminal:
        out.print_json(data=_plan_json(made, needs))
    elif as_json:  # colours take minutes for a million cells
        json.dump(_plan_json(made, needs), sys.stdout, indent=2)
    else:
        printing.plan_table(out, made, needs)
        out.print("\nThe sweep with every default filled in:\n")
        out.print(as_yaml(made.spec), markup=False, highlight=False, soft_wrap=True)


@app.command()
def run(
    spec: SpecFile,
    where: Out = None,
    address: Address = None,
    workers: Workers = None,
    only: Annotated[
        str | None, typer.Option(help="SQL condition on the cells, e.g. \"method = 'peak'\".")
    ] = None,
    local: Local = False,
    plugin: Plugins = None,
) -> None:
    """All stages; resumes by itself."""
    from orchestrator import results, sweep

    ended = sweep.run(
        spec,
        out=where,
        address=address,
        workers=workers,
        only=only,
        local=local,
        plugins=plugin or (),
    )
    store = Store.of(ended.run)
    tables = [results.table(store, kind).collect() for kind in ("cells", "summary", "curves")]
    for part in printing.summary_tables(*tables):
        out.print(part)
    out.print(
        "\nIntervals are 95 % and pointwise; they cover documents and masks (documents alone where"
        " there is one mask, as with all neurons held)."
    )
    for line in printing.contrast_lines(results.table(store, "contrasts").collect()):
        out.print(line, markup=False, highlight=False)
    for note in results.notes(store):
        out.print("[yellow]note[/] " + escape(note))
    out.print(
        f"\n{ended.computed:,} cells computed now, {ended.found:,} found."
        f"{printing.fetched(ended.fetched)} Tables: {ended.run}   Report: {ended.page}",
        soft_wrap=True,
    )
    _end(store, ended.failures)


@app.command()
def collect(
    spec: SpecFile,
    where: Out = None,
    address: Address = None,
    workers: Workers = None,
    local: Local = False,
    plugin: Plugins = None,
) -> None:
    """The statistics alone; a later run finds them done."""
    from orchestrator import results, sweep

    ended = sweep.collect(
        spec, out=where, address=address, workers=workers, local=local, plugins=plugin or ()
    )
    store = Store.of(ended.run)
    for table in printing.statistics_tables(results.table(store, "statistics")):
        out.print(table)
        out.print()
    out.print(
        f"{ended.computed:,} tasks done now, {ended.found:,} found in the run folder."
        f"{printing.fetched(ended.fetched)} Tables: {store.where('statistics')}",
        soft_wrap=True,
    )
    _end(store, ended.failures)


def _end(store: Store, failures: Sequence[Failure]) -> None:
    """Tell what failed, and end the command with its code."""
    for failure in failures:
        said = (
            f"{failure.label}: {failure.error} ({failure.blocked} tasks not tried because of it);"
            f" details in {store.where(failure.record)}; by hand: {failure.command}"
        )
        err.print("[red]failed[/] " + escape(said), soft_wrap=True)
    raise typer.Exit(1 if failures else 0)


@app.command()
def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds.")] = False,
) -> None:
    """Done, running, missing and failed per stage, from files alone."""
    found = status_of(run)
    if as_json:
        out.print_json(data=asdict(found))
        return
    if watch:
        with Live(status_table(found), console=out) as live:
            while not found.finished and found.holder is not None:
                time.sleep(2)
                found = status_of(run)
                live.update(status_table(found))
        return
    out.print(status_table(found), soft_wrap=True)  # so that a command stays one line


@app.command()
def report(run: Run) -> None:
    """HTML with figures."""
    from orchestrator import results
    from orchestrator.report import report as write

    status_of(run)  # refuses what is no run
    store = Store.of(run)
    results.aggregated(store, results.declared(store), results.metrics(store))
    write(store)
    out.print(store.where("report/index.html"), soft_wrap=True)


@app.command()
def parity(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="zoo:opt, a folder, a hub id, timm:NAME.")
    ],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")] = None,
) -> None:
    """Is this checkpoint read rightly? Logits, sites and heads against the library's own."""
    from orchestrator import parity as comparing  # torch takes seconds; `--help` should not

    try:
        found = comparing.compare(model, dtype=dtype, revision=revision, base=Path.cwd())
    except ModelError as error:
        raise typer.BadParameter(str(error)) from error
    out.print(comparing.table(found))
    for check in found.checks:
        if check.said:
            err.print(f"{check.name}: {check.said}", markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.passed else 5)


def _plan_json(made: Plan, needs: budgeting.Budget) -> dict[str, object]:
    return {
        "spec": resolved(made.spec),
        "points": len(made.rows),
        "cells": made.cells.table().to_pylist(),
        "tasks": [
            {"name": t.name, "stage": t.stage, "kind": t.kind, "label": t.label, "file": t.file}
            for t in made.tasks
        ],
        "models": [asdict(need) for need in needs.needs],
        "seconds": needs.seconds,
        "absent": absent.absent(made),
    }


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _same() -> str:
    """Return the command that this process was started with."""
    return shlex.join(["peaksweep", *sys.argv[1:]])


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn what goes wrong into a sentence and an exit code."""
    try:
        yield
    except SpecError as error:
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except PoolError as error:
        err.print(f"The cluster cannot hold the plan: {error}", markup=False, soft_wrap=True)
        sys.exit(3)
    except (StoreError, ScratchError) as error:
        err.print(str(error), markup=False, soft_wrap=True)
        sys.exit(4)
    except (DifferingAnswersError, DifferingRoundsError) as error:
        err.print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as error:
        if error.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            err.print(
                f"Interrupted. Nothing is lost: to go on, run the same again: {_same()}",
                markup=False,
                soft_wrap=True,
            )
        raise
    except Exception:
        err.print(traceback.format_exc(), markup=False, highlight=False)
        err.print("This is an error of peaksweep's own; what is done is kept. Please report it.")
        sys.exit(70)


def main() -> None:
    """Run the command line; ends the process with one of the exit codes above."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    with _exit_codes():
        app(prog_name="peaksweep", standalone_mode=True)
