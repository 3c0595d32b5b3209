"""Aggregate: seconds and peak memory of all derived tables, by how many rows of results there are.

Makes answers of a made-up sweep in a temporary folder, in Parquet parts as evaluation commits
them (a call of cells after the other, each cell's sequences in order), and makes all tables of
them in a process of its own. The sweep has one model, `--documents` documents of one sequence
in four rounds, five methods at ten fractions, and as many masks as the rows need. `--stopped`
lets cells of one mask in two stop after half of the rounds.

    python -m benchmarks.aggregate --rows 1e6 1e7

Memory is the peak resident set of that process; `grown` is by how much it exceeds what the
process had when its libraries and the table of cells were there. The last line is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from orchestrator import aggregate
from orchestrator.store import parquet, rows

METHODS = (
    ("mean", "{}"),
    ("median", "{}"),
    ("peak", '{"estimator":"smooth"}'),
    ("resample", '{"source":"dataset"}'),
    ("zero", "{}"),
)
FRACTIONS = tuple(i / 10 for i in range(1, 11))
ROUNDS = 4
PART_ROWS = 200_000
"""Rows of one part, about: a part holds the cells of one call."""


def main() -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--stopped", action="store_true")
    parser.add_argument("--made", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.made is not None:
        say(json.dumps(measured(asked.made)))
        return
    found = []
    for count in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            made = write(Path(folder), int(count), asked.documents, stopped=asked.stopped)
            command = [sys.executable, "-m", "benchmarks.aggregate", "--made", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append({**made, **json.loads(done.stdout)})
            say(", ".join(f"{name} {value:,}" for name, value in found[-1].items()))
    say(json.dumps({"documents": asked.documents, "stopped": asked.stopped, "sizes": found}))


def write(folder: Path, count: int, documents: int, *, stopped: bool) -> dict[str, int]:
    """Write the cells and about so many results of a sweep; say how many of each there are."""
    masks = max(2, count // (documents * len(METHODS) * len(FRACTIONS)))
    points = cells(masks)
    points.write_parquet(folder / "cells.parquet")
    names = points["cell"].unique(maintain_order=True)
    (folder / "results").mkdir()
    written = size = 0
    for part, table in enumerate(answered(names, points, documents, stopped=stopped)):
        content = parquet(table)
        (folder / "results" / f"{part:06}.parquet").write_bytes(content)
        written, size = written + table.num_rows, size + len(content)
    return {"rows": written, "cells": len(names), "masks": masks, "results_mb": size // 10**6}


def cells(masks: int) -> pl.DataFrame:
    """Return the nominal points: the unablated model, and every method, fraction and mask."""
    keys = {"model": "made", "modality": "causal", "data": "up", "dtype": "float32"}
    keys |= {"basis": "own", "site": "mlp_mid", "unit": "neuron", "layers": "all"}
    methods = pl.DataFrame(METHODS, schema=["method", "parameters"], orient="row")
    points = (
        methods.join(pl.DataFrame({"fraction": [0.0, *FRACTIONS]}), how="cross")
        .join(pl.DataFrame({"seed": range(masks)}), how="cross")
        .filter((pl.col("fraction") > 0) | (pl.col("seed") == 0))
    )
    bare = pl.col("fraction") == 0
    text = pl.concat_str("method", "fraction", "seed", separator="-")
    # Names of cells are hashes: they say nothing of what is near what.
    digest = text.hash(seed=1).cast(pl.String).str.zfill(24)
    none = pl.lit(None, pl.Int64)
    return points.with_columns(
        **{name: pl.lit(value) for name, value in keys.items()},
        complement=pl.lit(value=False),
        selection=pl.lit("random"),
        donor_seed=none,
        noise_seed=none,
        masking_seed=none,
        units_held=(pl.col("fraction") * 1000).round().cast(pl.Int64),
        units_total=pl.lit(1000, pl.Int64),
        cell=pl.when(bare).then(pl.lit("0" * 24)).otherwise(digest),
    )


def answered(
    names: pl.Series, points: pl.DataFrame, documents: int, *, stopped: bool
) -> Iterator[pa.Table]:
    """Yield parts of the answers."""
    rng = np.random.default_rng(0)
    tokens_G = rng.integers(50, 500, documents)
    round_G = np.arange(documents) * ROUNDS // documents
    first = points.unique("cell", maintain_order=True)
    half_C = (first["seed"] % 2 == 1).to_numpy() & stopped
    size = max(1, PART_ROWS // documents)
    for start in range(0, len(names), size):
        here = np.arange(start, min(start + size, len(names)))
        cell_R, document_R = (x.ravel() for x in np.meshgrid(here, range(documents), indexing="ij"))
        kept_R = ~half_C[cell_R] | (round_G[document_R] < ROUNDS // 2)
        cell_R, document_R = cell_R[kept_R], document_R[kept_R]
        tokens_R = tokens_G[document_R]
        top1_R = rng.binomial(tokens_R, 0.3)
        columns = {
            "cell": names.gather(cell_R).to_arrow(),
            "document": pl.Series([f"document {d:06}" for d in range(documents)])
            .gather(document_R)
            .to_arrow(),
            "sequence": document_R,
            "round": round_G[document_R],
            "tokens": tokens_R,
            "top1": top1_R,
            "top10": top1_R + rng.binomial(tokens_R - top1_R, 0.2),
            "loss": rng.gamma(4.0, 1.0, len(cell_R)) * tokens_R,
            "nan": np.zeros(len(cell_R), np.int64),
        }
        yield rows("results", columns, len(cell_R))


def measured(folder: Path) -> dict[str, float]:
    """Make all tables of a folder; say how long it took and how much memory."""
    points = pl.scan_parquet(folder / "cells.parquet")
    height = points.collect().height
    before, begun = peak_mb(), time.perf_counter()
    made = aggregate.tables(
        points, pl.scan_parquet(folder / "results" / "*.parquet"), [("peak", "mean")]
    )
    heights = {name: table.height for name, table in made}
    seconds, peak = time.perf_counter() - begun, peak_mb()
    found = {"seconds": round(seconds, 1), "peak_mb": peak, "grown_mb": peak - before}
    return found | {"points": height} | heights


def peak_mb() -> int:
    """Return the largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
