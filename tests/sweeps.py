"""Small sweeps, and how to compare what two of them left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

TOY = """
name: toy
models: [zoo:opt, zoo:vit]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 12}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 48}
    evaluate: {split: test, sequences: 24}
methods: [zero, mean, peak, peak(paper), resample]
fractions: [0.25, 0.5, 1]
seeds: 2
contrasts: [[peak, mean]]
statistics: {shards: 4}
"""

SMALL = """
name: small
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 20}
methods: [zero, mean]
fractions: [0.5]
seeds: 1
contrasts: [[zero, mean]]
statistics: {shards: 2}
"""
"""A sweep of seconds."""

OF_THE_PROCESS = ("seconds", "worker", "hostname_hash")
"""Columns of `executions` that say who did it, not what came out."""


def written(folder: Path, text: str = TOY) -> Path:
    """Return the path of a sweep file with this text."""
    file = folder / "sweep.yaml"
    file.write_text(text)
    return file


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of peaksweep with this interpreter."""
    return [sys.executable, "-m", "orchestrator", *map(str, arguments)]


def peaksweep(*arguments: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run peaksweep in a process of its own and return how it ended."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
    )


def answers(run: Path | str) -> pl.DataFrame:
    """Return every result of a run in an order that does not depend on who made it."""
    return pl.read_parquet(Path(run) / "results" / "**" / "*.parquet").sort("cell", "sequence")


def executions(run: Path | str) -> pl.DataFrame:
    """Return what was measured of every cell, without who measured it."""
    table = pl.read_parquet(Path(run) / "executions" / "**" / "*.parquet")
    return table.drop(OF_THE_PROCESS).sort("cell", pl.col("rounds").list.first())


def events(run: Path | str, event: str) -> list[dict[str, Any]]:
    """Return what a run's story tells of one kind."""
    lines = (Path(run) / "events.jsonl").read_text().splitlines()
    return [e for line in lines if line and (e := json.loads(line))["event"] == event]


def tables(run: Path | str) -> dict[str, pl.DataFrame]:
    """Return the public tables of a run that do not depend on who made them."""
    run = Path(run)
    kinds = [k for k in ("statistics", "centres", "donors") if (run / k).exists()]
    made = {kind: run / kind / "**" / "*.parquet" for kind in kinds}
    made |= {kind: run / f"{kind}.parquet" for kind in ("summary", "contrasts", "curves", "cells")}
    return {kind: pl.read_parquet(path) for kind, path in made.items()}


def assert_same(one: Path, other: Path) -> None:
    """Assert that two runs ended with the same numbers, to the last bit."""
    assert answers(one).equals(answers(other), null_equal=True)
    assert executions(one).equals(executions(other), null_equal=True)
    here, there = tables(one), tables(other)
    assert here.keys() == there.keys()
    for kind, table in here.items():
        assert table.equals(there[kind], null_equal=True), kind
