"""Questions in SQL: what they answer, what they refuse and that they write nothing."""

import hashlib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import polars as pl
import pytest

from orchestrator import query as querying
from orchestrator.frames import NAMES, frames
from orchestrator.query import QueryError, query
from orchestrator.questions import QUESTIONS
from orchestrator.store import Store, StoreError
from tests.orchestrator.synthetic_run import MODELS, write_run
from tests.sweeps import TOY, command, written

PAGE = (Path(__file__).parents[2] / "docs" / "query.md").read_text()
GROUP = ["model", "data", "dtype", "basis", "site", "unit", "layers", "complement", "selection"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up finished run, with areas, curves of single layers and shares of the gap."""
    folder = write_run(
        tmp_path_factory.mktemp("runs") / "made", models=MODELS[:1], layers=2, neurons=12
    )
    curves = pl.read_parquet(folder / "curves.parquet")
    areas = curves.filter(held_share=0.5, band="pointwise").rename({"mean": "area"})
    areas.with_columns(documents=60).write_parquet(folder / "areas.parquet")
    single = curves.filter(pl.col("metric") == "d_ce").with_columns(layers=pl.lit("1"))
    pl.concat([curves, single]).write_parquet(folder / "curves.parquet")
    contrasts = pl.read_parquet(folder / "contrasts.parquet")
    gaps = contrasts.filter(metric="ce").with_columns(metric=pl.lit("gap_closed"))
    gaps = gaps.with_columns(reason=pl.lit(None, dtype=pl.String))
    pl.concat([contrasts, gaps], how="diagonal_relaxed").write_parquet(folder / "contrasts.parquet")
    return folder


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def everything(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file with its digest and the time of its last change, folders too."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }


def refused(run: Path, sql: str) -> str:
    with pytest.raises(QueryError) as caught:
        query(run, sql)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_an_answer_is_what_polars_says_of_the_files(run: Path) -> None:
    sql = (
        "SELECT model, method, AVG(d_ce) AS rise FROM summary GROUP BY model, method ORDER BY rise"
    )
    wanted = pl.read_parquet(run / "summary.parquet").group_by("model", "method")
    means = wanted.agg(rise=pl.col("d_ce").mean()).sort("rise")
    found = query(run, sql)
    assert found.select("model", "method").equals(means.select("model", "method"))
    assert found["rise"].to_list() == pytest.approx(means["rise"].to_list())


def test_every_table_can_be_asked_and_begins_with_the_run(run: Path) -> None:
    for name, frame in frames(Store.of(run)).items():
        found = query(run, f"SELECT * FROM {name} LIMIT 1")
        assert found.columns == ["run", *frame.collect_schema().names()], name
        assert found["run"].to_list() in ([], ["made"])


def test_a_table_that_no_question_names_is_not_looked_up(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    class Counting(dict[str, pl.LazyFrame]):
        def __getitem__(self, name: str) -> pl.LazyFrame:
            looked.append(name)
            return frames(Store.of(run))[name]

    monkeypatch.setattr(querying, "frames", lambda store: Counting())
    # `data` is a column here, not the table.
    query(run, "SELECT s.data, c.cell FROM summary AS s JOIN cells AS c ON s.cell = c.cell")
    assert looked == ["summary", "cells"]


def test_many_runs_are_asked_by_a_pattern_and_told_apart(run: Path, tmp_path: Path) -> None:
    copied(run, tmp_path / "one")
    other = copied(run, tmp_path / "two")
    # Of another version, or with another metric: a column more.
    table = pl.read_parquet(other / "summary.parquet")
    table.with_columns(extra=1).write_parquet(other / "summary.parquet")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "notes.txt").write_text("…")
    found = query(
        tmp_path / "*",
        "SELECT run, COUNT(*) AS n, COUNT(extra) AS m FROM summary GROUP BY run ORDER BY run",
    )
    assert found.rows() == [("one", table.height, 0), ("two", table.height, table.height)]
    named = query([tmp_path / "one", tmp_path / "two", tmp_path / "one"], "SELECT run FROM summary")
    assert named.height == 2 * table.height


def test_runs_of_one_name_are_told_apart_by_their_paths(run: Path, tmp_path: Path) -> None:
    for user in ("ann", "bob"):
        copied(run, tmp_path / user / "demo")
    found = query(tmp_path / "*" / "demo", "SELECT DISTINCT run FROM cells ORDER BY run")
    assert found["run"].to_list() == ["ann/demo", "bob/demo"]


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run [1]")
    assert query(folder, "SELECT DISTINCT run FROM summary").item() == "run [1]"


def test_runs_in_an_object_store_are_asked_by_uri_and_by_pattern(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    driver = fsspec.filesystem("memory")
    driver.put(f"{run}/", "/asked/made/", recursive=True)
    try:
        sql = "SELECT run, COUNT(*) AS n FROM summary GROUP BY run"
        wanted = query(run, sql)
        assert query("memory://asked/made", sql).equals(wanted)
        assert query("memory://asked/*", sql).equals(wanted)
    finally:
        driver.rm("/asked", recursive=True)


def test_a_folder_without_a_run_and_a_pattern_without_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        query(tmp_path, "SELECT 1 AS one")
    with pytest.raises(QueryError, match="matches no folder that holds a run"):
        query(tmp_path / "*", "SELECT 1 AS one")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM sumary", "no table 'sumary'; did you mean 'summary'? Tables: areas, "),
        ("SELECT modl FROM summary", "no column 'modl' in summary; did you mean 'model'? Columns:"),
        ("SELECT MODEL FROM summary", "did you mean 'model'?"),
        ("SELECT s.methd FROM summary AS s", "no column 'methd' in s; did you mean 'method'?"),
        ("SELECT summary.celll FROM summary JOIN cells USING (cell)", "did you mean 'cell'?"),
        ("SELECT model FROM summary ORDER BY modle", "did you mean 'model'?"),
        ("SELECT AVG(ce) AS level FROM summary ORDER BY levle", "did you mean 'level'?"),
        ("SELECT sumary.ce FROM summary", "is called 'sumary'; did you mean 'summary'?"),
        ('SELECT ce FROM summary WHERE model = "zoo:opt"', "single quotes ('zoo:opt')"),
        ("SELECT median_of(ce) FROM summary", "unsupported function 'median_of'"),
        ("SELECT ce FROM", "Expected: identifier, found: EOF"),
        ("SELECT CAST(model AS DOUBLE) FROM summary", "failed in column 'model'"),
        ("SELECT * FROM read_csv('/nowhere/labels.csv')", "/nowhere/labels.csv"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(run: Path, sql: str, said: str) -> None:
    assert said in refused(run, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE summary",
        "DELETE FROM summary",
        "TRUNCATE summary",
        "UPDATE summary SET ce = 0",
        "INSERT INTO summary SELECT * FROM summary",
        "CREATE TABLE more AS SELECT * FROM summary",
        "COPY summary TO 'out.csv'",
        "-- SELECT\nDROP TABLE summary",
        "/* SELECT */ DELETE FROM summary",
        "SELECT 1; DROP TABLE summary",
        "SELECT * INTO more FROM summary",
        "WITH x AS (SELECT 1) DELETE FROM summary",
        "WITH x AS (DELETE FROM summary) SELECT * FROM x",
        "EXPLAIN DELETE FROM summary",
        "",
    ],
)
def test_a_statement_that_is_no_select_is_refused_and_nothing_changes(run: Path, sql: str) -> None:
    before = everything(run)
    refused(run, sql)
    assert everything(run) == before


def test_asking_changes_no_file_of_a_run_even_where_tables_are_not_there_yet(
    run: Path, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path / "run")
    for name in ("summary", "contrasts", "curves", "areas"):
        (folder / f"{name}.parquet").unlink()
    before = everything(folder)
    for question in QUESTIONS.values():
        query(folder, question.sql)
    for name in frames(Store.of(folder)):
        query(folder, f"SELECT * FROM {name}")
    assert everything(folder) == before


def test_a_file_of_ones_own_can_be_joined(run: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("method,label\nzero,nothing\nmean,average\n")
    found = query(
        run,
        "SELECT DISTINCT l.label FROM cells"
        f" JOIN read_csv('{labels}') AS l ON cells.method = l.method ORDER BY l.label",
    )
    assert found["label"].to_list() == ["average", "nothing"]


def test_a_select_may_begin_with_a_comment_a_bracket_or_a_name(run: Path) -> None:
    for sql in (
        "-- how many?\nSELECT COUNT(*) AS n FROM cells",
        "/* how\nmany? */ select COUNT(*) AS n FROM cells;",
        "(SELECT COUNT(*) AS n FROM cells)",
        "WITH c AS (SELECT * FROM cells) SELECT COUNT(*) AS n FROM c",
    ):
        assert query(run, sql)["n"].item() == 275


def test_a_run_that_joins_its_files_meanwhile_is_asked_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone.parquet"
    left = [2]

    def looked(store: Store) -> Mapping[str, pl.LazyFrame]:
        table = pl.read_parquet(run / "cells.parquet")
        table.write_parquet(gone)
        frame = pl.scan_parquet(gone, glob=False, schema=table.schema)
        if left[0]:
            left[0] -= 1
            gone.unlink()
        return {"cells": frame}

    monkeypatch.setattr(querying, "frames", looked)
    assert query(run, "SELECT COUNT(cell) AS n FROM cells")["n"].item() == 275
    left[0] = 99
    assert "ask again" in refused(run, "SELECT cell FROM cells")


def test_a_damaged_file_is_told_as_one(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    file = folder / "executions" / "part.parquet"
    content = bytearray(file.read_bytes())
    content[4:-400] = bytes(len(content) - 404)
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"cannot be read .* run the same sweep again"):
        query(folder, "SELECT * FROM executions")


def test_the_pages_questions_are_answered(run: Path) -> None:
    commands = [shlex.split(line) for line in re.findall(r"^peaksweep query (.*)$", PAGE, re.M)]
    asked = [words[1] for words in commands if not words[1].startswith("--")]
    blocks = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(asked) == 4
    assert len(blocks) == 2
    for question in [*asked, *blocks]:
        sql = QUESTIONS[question].sql if question in QUESTIONS else question
        assert query(run, sql).width > 1
    names: dict[str, pl.DataFrame] = {}
    exec(python.replace("runs/*", f"{run.parent}/*"), names)
    assert names["slow"].columns == ["run", "cell", "seconds"]


def test_the_page_has_every_question_and_every_table() -> None:
    assert re.findall(r"^\| `([a-z]+(?:-[a-z]+)*)` \|", PAGE.split("## The language")[0], re.M) == [
        *QUESTIONS
    ]
    rows = PAGE.split("## The tables")[1].split("`cells` and `summary` have")[0]
    told = [name for line in rows.splitlines() if line.startswith("| `") for name in
            re.findall(r"`(\w+)`", line.split("|")[1])]  # fmt: skip
    assert sorted(told) == sorted(NAMES)


def by_group(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield from frame.partition_by(GROUP, maintain_order=True)


def test_the_best_method_is_that_of_the_smallest_area(run: Path) -> None:
    found = query(run, QUESTIONS["best-method"].sql)
    areas = pl.read_parquet(run / "areas.parquet").filter(metric="d_ce")
    assert found.height == areas.height > 1
    for group in by_group(found):
        assert group["rank"].to_list() == list(range(1, group.height + 1))
        assert group["area"].is_sorted()


def test_layers_are_told_at_their_largest_share_worst_first(run: Path) -> None:
    found = query(run, QUESTIONS["layers"].sql)
    assert found.height
    assert found["layers"].unique().to_list() == ["1"]
    assert found["held_share"].unique().to_list() == [1.0]
    for _, rows in found.group_by("method", "parameters"):
        assert rows["mean"].is_sorted(descending=True)


def test_bimodal_neurons_are_those_whose_two_highest_modes_weigh_a_tenth(
    run: Path, tmp_path: Path
) -> None:
    folder = copied(run, tmp_path / "run")
    file = folder / "statistics" / "zoo-opt" / "made.parquet"
    table = pl.read_parquet(file)
    kinds = [[1.0], [0.3, 0.7], [0.97, 0.03], [0.05, 0.95], [0.5, 0.4, 0.1], [0.05, 0.05, 0.9]]
    weights = [kinds[neuron % len(kinds)] for neuron in table["neuron"]]
    table = table.with_columns(
        mode_weights=pl.Series(weights), mode_values=pl.Series([[0.0, 3.0, 1.0]] * table.height)
    )
    table.with_columns(std=pl.lit(2.0)).write_parquet(file)
    found = query(folder, QUESTIONS["bimodal-neurons"].sql)
    half = found.height // 2
    assert half == table.height // 6
    assert (found["neuron"] % len(kinds)).to_list() == [4] * half + [1] * half
    assert found["apart"].unique().to_list() == [1.5]


def test_warnings_of_bins_count_each_kind_of_neuron(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    file = folder / "statistics" / "zoo-opt" / "made.parquet"
    table = pl.read_parquet(file).with_columns(
        peak_stable=pl.col("neuron") >= 2,
        bandwidth=pl.when(pl.col("neuron") < 3).then(0.5).otherwise(2) * pl.col("bin_width"),
        mean=pl.col("peak") + 0.5 * pl.col("bin_width") * pl.when(neuron=0).then(1).otherwise(9),
        below=pl.when(neuron=5).then(pl.col("count")).otherwise(0),
        above=pl.lit(0, dtype=pl.Int64),
    )
    table.write_parquet(file)
    wanted = table.group_by("layer").agg(
        neurons=pl.len(),
        unstable=(pl.col("neuron") < 2).sum(),
        coarse=(pl.col("neuron") < 3).sum(),
        alike=(pl.col("neuron") == 0).sum(),
        outside=(pl.col("neuron") == 5).sum(),
    )
    found = query(folder, QUESTIONS["bin-width-warnings"].sql).select(wanted.columns)
    assert sorted(found.rows()) == sorted(wanted.rows())


def test_gaps_to_the_optimum_are_the_rows_that_say_so(run: Path) -> None:
    found = query(run, QUESTIONS["gap-to-optimal"].sql)
    rows = pl.read_parquet(run / "contrasts.parquet").filter(metric="gap_closed")
    assert found.height == rows.height > 0
    assert sorted(found["share_closed"]) == sorted(rows["estimate"])


def test_the_slowest_cells_are_counted_once_however_many_points_they_answer(run: Path) -> None:
    cells = pl.read_parquet(run / "cells.parquet")
    assert cells["cell"].n_unique() < cells.height  # else the test shows nothing
    found = query(run, QUESTIONS["slowest"].sql)
    spent = (
        pl.read_parquet(run / "executions" / "part.parquet")
        .group_by("cell")
        .agg(pl.col("seconds").sum())
    )
    top = spent.sort("seconds", descending=True).head(20)
    assert found["seconds"].to_list() == pytest.approx(top["seconds"].to_list())
    assert found["cell"].n_unique() == 20


@pytest.mark.slow
def test_a_run_is_asked_all_the_while_it_goes_on_and_ends_as_if_it_were_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    spec = written(tmp_path, TOY)
    driver = subprocess.Popen(
        command("run", spec, "--out", folder, "--local"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answered: list[int] = []
    try:
        while driver.poll() is None:
            time.sleep(0.2)
            if not (folder / "cells.parquet").exists():
                continue
            for question in QUESTIONS.values():
                query(folder, question.sql)
            counted = query(folder, "SELECT COUNT(DISTINCT cell) AS n FROM results")
            answered.append(counted["n"].item())
    finally:
        driver.kill()
    assert driver.wait() == 0
    assert answered == sorted(answered)
    assert any(0 < n < answered[-1] for n in answered)
    twice = "SELECT cell, sequence, COUNT(*) AS n FROM results GROUP BY cell, sequence HAVING n > 1"
    assert query(folder, twice).is_empty()
    cells = query(folder, "SELECT COUNT(DISTINCT cell) AS n FROM cells")["n"].item()
    assert query(folder, "SELECT COUNT(DISTINCT cell) AS n FROM results")["n"].item() == cells
    assert query(folder, QUESTIONS["best-method"].sql).height


def test_a_run_that_is_given_twice_counts_once(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    given = [run, f"{run}/", run / ".." / run.name, f"file://{run}", f"{run.parent}/*"]
    answer = query([*given, tmp_path / "link"], "SELECT run, COUNT(*) AS n FROM cells GROUP BY run")
    assert answer.rows() == [(run.name, frames(Store(run))["cells"].collect().height)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT cell FROM (SELECT model FROM cells)",
        "SELECT s.model FROM (SELECT model FROM cells) AS s WHERE s.cell = 'a'",
    ],
)
def test_a_column_that_an_inner_question_leaves_out_is_not_told_as_its_own_nearest(
    run: Path, sql: str
) -> None:
    with pytest.raises(QueryError, match=r"no column 'cell' .* has the columns that it selects"):
        query(run, sql)


def test_a_question_whose_pattern_fits_no_column_is_told(run: Path) -> None:
    with pytest.raises(QueryError, match="no column: name some after SELECT"):
        query(run, "SELECT COLUMNS('^nothing$') FROM cells")


def test_a_file_elsewhere_that_cannot_be_reached_is_told(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(frame: pl.LazyFrame) -> None:
        raise ConnectionRefusedError("object-store error: nobody answers")

    monkeypatch.setattr(pl.LazyFrame, "collect_schema", refused)
    with pytest.raises(QueryError, match="cannot be read: object-store error: nobody answers"):
        query(run, "SELECT * FROM read_csv('https://host/labels.csv')")
