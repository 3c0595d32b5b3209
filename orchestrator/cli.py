"""The command line: the verbs of a sweep.

Exit codes: 0 all done · 1 some tasks failed, the rest is there · 2 the sweep or
the command is wrong · 3 the cluster cannot hold the plan · 4 the run folder is
another driver's, unwritable or full · 5 parity failed · 70 our own error · 130 and 143
interrupted; run the same command again to go on.
"""

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from orchestrator import absent, printing, remote, watching
from orchestrator import budget as budgeting
from orchestrator.inspection import ModelError
from orchestrator.omissions import omissions
from orchestrator.plan import Plan
from orchestrator.standing import status_table
from orchestrator.status import status as status_of
from orchestrator.store import Store
from orchestrator.terminal import (
    Address,
    CommandError,
    Form,
    Json,
    Local,
    Out,
    Plugins,
    Run,
    SpecFile,
    Track,
    Workers,
    end,
    err,
    exit_codes,
    on_signal,
    out,
)
from orchestrator.written import as_yaml, resolved

app = typer.Typer(
    help="Neuron-ablation sweeps of transformers: what breaks when these neurons are held at that"
    " value?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def plan(
    spec: SpecFile,
    as_json: Json = False,
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
    track: Track = None,
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
        track=track or (),
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
    for note in [*results.notes(store), *omissions(store)]:
        out.print("[yellow]note[/] " + escape(note))
    out.print(
        f"\n{ended.computed:,} cells computed now, {ended.found:,} found."
        f"{printing.fetched(ended.fetched)} Tables: {ended.run}   Report: {ended.page}",
        soft_wrap=True,
    )
    end(store, ended.failures)


@app.command()
def collect(
    spec: SpecFile,
    where: Out = None,
    address: Address = None,
    workers: Workers = None,
    local: Local = False,
    plugin: Plugins = None,
    track: Track = None,
) -> None:
    """The statistics alone; a later run finds them done."""
    from orchestrator import results, sweep

    ended = sweep.collect(
        spec,
        out=where,
        address=address,
        workers=workers,
        local=local,
        plugins=plugin or (),
        track=track or (),
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
    end(store, ended.failures)


app.command()(remote.submit)


@app.command()
def status(
    run: Run,
    as_json: Json = False,
    address: remote.Submitted = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until it ends.")] = False,
) -> None:
    """Done, running, missing and failed per stage, from files alone."""
    if address is not None:
        folder = remote.found(run, address)
        if folder is None:
            return
        run = folder
    if watch:
        watching.watch(run, out, as_json=as_json)
        return
    found = status_of(run)
    if as_json:
        out.print_json(data=asdict(found))
        return
    out.print(status_table(found), soft_wrap=True)  # so that a command stays one line


app.command()(remote.logs)
app.command()(remote.stop)


@app.command()
def query(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN… QUESTION", help="Runs; then SQL, or a ready-made question."),
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="How: that of --out, or a table.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", help="Into a file.")] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Ready-made questions; the tables of the runs given.")
    ] = False,
) -> None:
    """SQL over the tables of one run or many; only reads."""
    from orchestrator import asking

    if listed:
        asking.listed(words or ())
    else:
        asking.ask(words or (), form, file)


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="One; or several, against the first.")
    ],
    where: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Of several: comparisons/… if not.")
    ] = None,
) -> None:
    """HTML with figures: of one run, or of several against the first."""
    from orchestrator import reporting  # the figures' libraries take a second

    reporting.report(runs, where)


@app.command()
def export(
    run: Run,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="Its name, or an SQL condition.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    form: Annotated[
        Literal["checkpoint", "masks"], typer.Option("--format", help="A model, or arrays.")
    ] = "checkpoint",
    plugin: Plugins = None,
) -> None:
    """The ablated model as a checkpoint, or what it holds for other tools."""
    from orchestrator import export as exporting  # torch takes seconds; `--help` should not

    try:
        made = exporting.export(run, cell, folder, form=form, plugins=plugin or ())
    except exporting.REFUSED as error:
        raise CommandError(str(error)) from error
    out.print(exporting.sentence(made), markup=False, highlight=False, soft_wrap=True)


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


def main() -> None:
    """Run the command line; ends the process with one of the exit codes above."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    with exit_codes():
        app(prog_name="peaksweep", standalone_mode=True)
