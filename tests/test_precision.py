"""A sweep that stops early answers what one that reads everything answers, as far as it reads."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from orchestrator import sweep
from orchestrator.status import status
from tests.sweeps import answers, assert_same, peaksweep, tables, written

SWEEP = """
name: precise
models: [zoo:opt]
data: {stdlib: {source: zoo:text, collect: {sequences: 24}, evaluate: {sequences: 96}}}
methods: [mean, peak, resample]
fractions: [0.1, 1]
seeds: 1
contrasts: [[peak, mean]]
statistics: {shards: 2, intervals: false}
evaluation: {batch_tokens: 512, metrics: [top1, ce, kl]}
"""
PRECISE = SWEEP + "precision: {halfwidth: 0.03}\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert not sweep.run(written(folder, SWEEP), out=folder / "run", local=True).failures
    return folder / "run"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    assert not sweep.run(written(folder, PRECISE), out=folder / "run", local=True).failures
    return folder / "run"


def test_what_is_read_has_the_bits_it_has_without_precision(whole: Path, stopped: Path) -> None:
    some, every = answers(stopped), answers(whole)
    assert some.height < every.height
    keys = ["cell", "sequence"]
    assert some.equals(every.join(some.select(keys), on=keys, how="semi").sort(keys))


def test_it_stops_where_the_table_of_stops_says(stopped: Path) -> None:
    stops = pl.read_parquet(stopped / "stops.parquet")
    assert stops["fraction"].to_list() == [0.1, 1.0]
    assert stops.filter("reached").height > 0
    assert (stops["rounds"] < stops["rounds_total"]).any()
    summary = pl.read_parquet(stopped / "summary.parquet").filter(pl.col("fraction") > 0)
    read = summary.group_by("fraction").agg(pl.col("documents").unique())
    assert {f: d for f, (d,) in read.iter_rows()} == dict(
        stops.select("fraction", "documents").iter_rows()
    )
    assert status(stopped).finished


def test_dropping_precision_reads_the_rest_and_no_more(
    whole: Path, stopped: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    read = answers(stopped).height
    ended = sweep.run(written(tmp_path, SWEEP), out=run, local=True)
    assert not ended.failures
    assert answers(run).equals(answers(whole))
    here, there = tables(run), tables(whole)
    assert all(table.equals(there[kind]) for kind, table in here.items())
    parts = (pl.read_parquet(f) for f in run.glob("results/**/*.parquet"))
    assert sum(part.height for part in parts) == answers(whole).height > read
    assert not (run / "stops.parquet").exists()


@pytest.mark.slow
def test_two_workers_stop_where_one_process_does(stopped: Path, tmp_path: Path) -> None:
    file = written(tmp_path, PRECISE)
    ended = peaksweep("run", file, "--out", tmp_path / "run", "--workers", "2")
    assert ended.returncode == 0, ended.stderr
    assert_same(tmp_path / "run", stopped)
    stops = [pl.read_parquet(run / "stops.parquet") for run in (tmp_path / "run", stopped)]
    assert stops[0].equals(stops[1])


def test_more_rounds_than_documents_leave_the_last_ones_empty(tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    texts = [f'{{"id": "{i}", "text": "{f"the text of number {i}, " * 40}"}}' for i in range(12)]
    one.write_text("\n".join(texts) + "\n")
    source = (
        f"{{source: {one}, document: id, collect: {{sequences: 4}}, evaluate: {{sequences: 40}}}}"
    )
    plain = (
        f"models: [zoo:opt]\ndata: {{few: {source}}}\nmethods: [mean, peak]\nfractions: [0.5]\n"
        "seeds: 1\ncontrasts: [[peak, mean]]\nstatistics: {shards: 1, intervals: false}\n"
        "evaluation: {batch_tokens: 128}\n"
    )
    file = written(tmp_path, plain + "precision: {halfwidth: 0.001}\n")
    assert not sweep.run(file, out=tmp_path / "run", local=True).failures
    stops = pl.read_parquet(tmp_path / "run" / "stops.parquet")
    assert stops["documents"].to_list() == stops["documents_total"].to_list()
    assert stops["rounds_total"][0] < 10  # the plan had ten
    before = answers(tmp_path / "run")
    assert not sweep.run(written(tmp_path, plain), out=tmp_path / "run", local=True).failures
    assert answers(tmp_path / "run").equals(before)
