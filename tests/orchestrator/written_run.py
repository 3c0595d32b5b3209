"""A run folder written from points and made-up answers: what comparing two runs reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from orchestrator.names import slug
from orchestrator.tables import SCHEMAS

TEXT = ("zoo:opt", "zoo:roberta")


def write(
    folder: Path,
    points: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    contrasts: Sequence[tuple[str, str]] = (("peak", "mean"),),
    source: str = "zoo:text",
    said: Mapping[str, str] | None = None,
    orders: int = 0,
    digest: str = "d1",
    torch: str = "2.14.0",
) -> Path:
    """Write a run of these points and answers; return its folder.

    `said` is what a document's text is, where it is not that of its name; `orders` the seed of the
    orders in which units are held.
    """
    folder.mkdir(parents=True)
    points.write_parquet(folder / "cells.parquet")
    plan = points.unique("cell").select("model", name="cell", kind=pl.lit("cell"))
    plan = plan.with_columns(rounds=pl.lit(int(rows["round"].max() or 0) + 1))  # type: ignore[arg-type]
    _table(folder / "plan.parquet", plan.to_dicts(), "plan")
    _table(folder / "results" / "part.parquet", rows.to_dicts(), "results")
    rounds = rows.group_by("cell").agg(pl.col("round").unique().sort())
    done = [
        {"cell": cell, "rounds": found, "told": 1, "held": 1, "device": "cpu", "threads": 1}
        for cell, found in rounds.iter_rows()
    ]
    _table(folder / "executions" / "part.parquet", done, "executions")
    windows = rows.select("document", "sequence").unique().sort("sequence")
    for model, data in points.select("model", "data").unique().iter_rows():
        text = model in TEXT
        kind = "text" if text else "images"
        fed = [_fed(model, data, d, s, (said or {}).get(d, d)) for d, s in windows.iter_rows()]
        _table(folder / "data" / slug(model) / f"{data}.parquet", fed, kind)
    held = [
        {
            **{"model": model, "data": data, "site": "attn_pre_out", "unit": "neuron"},
            **{"selection": "random", "parameters": "{}", "seed": seed, "layer": 0},
            "order": [(i * 7 + seed + orders) % 20 for i in range(20)],
        }
        for model, data in points.select("model", "data").unique().iter_rows()
        for seed in points["seed"].drop_nulls().unique().sort()
    ]
    _table(folder / "selections" / "part.parquet", held, "selections")
    models = {m: {"digest": digest, "layers": 1} for m in points["model"].unique().sort()}
    versions = {"peaksweep": "0.1.0", "torch": torch}
    (folder / "provenance.json").write_text(json.dumps({"models": models, "libraries": versions}))
    swept = {
        "name": folder.name,
        "contrasts": [list(pair) for pair in contrasts],
        "data": {d: {"source": source} for d in points["data"].unique()},
        "evaluation": {"metrics": ["top1", "ce"]},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(swept))
    return folder


def _fed(model: str, data: str, document: str, sequence: int, text: str) -> dict[str, object]:
    row: dict[str, object] = {"model": model, "data": data, "role": "evaluate"}
    row |= {"document": document, "sequence": sequence}
    tokens = [*text.encode(), sequence]
    if model in TEXT:
        return row | {"bytes": 40, "input": tokens, "target": [*tokens[1:], -100]}
    return row | {"image": tokens, "shape": [1, 1, len(tokens)], "target": 3}


def _table(file: Path, rows: Sequence[Mapping[str, object]], schema: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    full = [dict.fromkeys(SCHEMAS[schema].names) | dict(row) for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=SCHEMAS[schema]), file)
