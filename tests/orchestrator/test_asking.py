"""The verb `query`: how an answer is shown, sent and written, and what is refused."""

import io
import json
from pathlib import Path

import polars as pl
import pytest

from orchestrator import asking, terminal
from orchestrator.asking import ROWS, ask, laid_out, listed
from orchestrator.frames import NAMES
from orchestrator.questions import QUESTIONS
from orchestrator.terminal import CommandError
from tests.orchestrator.synthetic_run import MODELS, write_run

LISTS = "SELECT layer, neuron, mode_values FROM statistics ORDER BY layer, neuron"
FLAT = "SELECT layer, neuron, mean FROM statistics ORDER BY layer, neuron"

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "made"
    return str(write_run(folder, models=MODELS[:1], layers=2, neurons=12))


@pytest.fixture
def table(run: str) -> pl.DataFrame:
    found = pl.read_parquet(Path(run) / "statistics" / "**" / "*.parquet").sort("layer", "neuron")
    return found.select("layer", "neuron", "mean", "mode_values")


def sent(capsysbinary: pytest.CaptureFixture[bytes], *words: str, form: str) -> bytes:
    ask(words, form, None)  # type: ignore[arg-type]
    return capsysbinary.readouterr().out


def test_every_format_holds_the_whole_answer_with_all_digits(
    run: str, table: pl.DataFrame, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = sent(capsysbinary, run, FLAT, form="csv")
    assert pl.read_csv(io.BytesIO(text)).equals(table.drop("mode_values"))
    found = sent(capsysbinary, run, LISTS, form="parquet")
    assert pl.read_parquet(io.BytesIO(found)).equals(table.drop("mean"))
    assert json.loads(sent(capsysbinary, run, LISTS, form="json")) == table.drop("mean").to_dicts()


def test_a_number_that_is_none_is_null_in_json(
    run: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    sql = "SELECT CAST('NaN' AS DOUBLE) AS x FROM cells LIMIT 1"
    assert json.loads(sent(capsysbinary, run, sql, form="json")) == [{"x": None}]


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_a_file_is_written_as_its_ending_says_over_an_older_one(
    run: str, table: pl.DataFrame, tmp_path: Path, ending: str, capsys: Said
) -> None:
    file = tmp_path / f"answer.{ending}"
    file.write_text("older")
    ask([run, FLAT], None, file)
    assert getattr(pl, f"read_{ending}")(file).equals(table.drop("mode_values"))
    assert list(tmp_path.iterdir()) == [file]
    said = capsys.readouterr()
    assert said.out == ""
    assert "Written" in said.err


def test_a_question_that_fails_leaves_an_older_file_as_it_was(run: str, tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    file.write_text("older")
    with pytest.raises(CommandError, match="'model'"):
        ask([run, "SELECT CAST(model AS DOUBLE) AS x FROM cells"], None, file)
    assert file.read_text() == "older"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("words", "form", "file", "said"),
    [
        ((), None, None, "then a question"),
        (("RUN",), None, None, "then a question"),
        (("RUN", "best-metod"), None, None, "did you mean 'best-method'?"),
        (("RUN", "SELECT x FROM sumary"), None, None, "did you mean 'summary'?"),
        (("RUN", "DROP TABLE summary"), None, None, "is no question"),
        (("RUN", LISTS), "csv", None, "CSV holds no lists, as mode_values is"),
        (("RUN", LISTS), None, "x.csv", "CSV holds no lists, as mode_values is"),
        (("RUN", FLAT), None, "x.xlsx", "give --format csv, json or parquet"),
        (("RUN", FLAT), "table", "x.txt", "a table is for a terminal"),
        (("RUN", FLAT), None, "nowhere/x.csv", "there is no folder"),
        (("RUN", FLAT), None, "RUN/cells.parquet", "is inside the run"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(
    run: str,
    tmp_path: Path,
    words: tuple[str, ...],
    form: terminal.Form | None,
    file: str | None,
    said: str,
) -> None:
    given = [run if word == "RUN" else word for word in words]
    place = None if file is None else tmp_path / file.replace("RUN", run)
    before = (Path(run) / "cells.parquet").read_bytes()
    with pytest.raises(CommandError) as caught:
        ask(given, form, place)
    assert said in str(caught.value)
    assert (Path(run) / "cells.parquet").read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_a_ready_made_question_is_asked_by_its_name(run: str, capsys: Said) -> None:
    ask([run, "slowest"], None, None)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "model", "data"]
    assert len(rows) == 20


def test_a_table_has_its_numbers_right_and_a_line_per_row() -> None:
    frame = pl.DataFrame(
        {
            "name": ["naïve 漢字", "b", None],
            "n": [1, 20, 300],
            "x": [0.123456789, float("nan"), 1e-9],
            "ok": [True, False, None],
            "many": [list(range(7)), [], [1]],
        },
        schema_overrides={"many": pl.List(pl.Int64)},
    )
    assert [line.plain for line in laid_out(frame, None)] == [
        "name          n        x  ok     many",
        "naïve 漢字    1  0.12346  true   [0, 1, 2, 3, … 3 more]",
        "b            20      nan  false  []",
        "null        300    1e-09  null   [1]",
    ]


def test_a_table_wider_than_the_terminal_becomes_records() -> None:
    frame = pl.DataFrame({"method": ["zero", "mean"], "area": [1.5, 0.25]})
    assert len(laid_out(frame, 12)) == 3
    assert [line.plain for line in laid_out(frame, 11)] == [
        "row 1",
        "  method  zero",
        "  area    1.5",
        "row 2",
        "  method  mean",
        "  area    0.25",
    ]


def test_a_long_table_says_that_it_goes_on_and_an_empty_one_that_it_is_empty(
    run: str, capsys: Said
) -> None:
    ask([run, "SELECT cell FROM cells"], None, None)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == ROWS + 1
    assert f"The first {ROWS} rows" in said.err
    ask([run, "SELECT cell FROM cells WHERE model = 'none'"], None, None)
    said = capsys.readouterr()
    assert said.out == "cell\n"
    assert "No rows" in said.err


def test_text_with_brackets_is_shown_as_it_is(run: str, capsys: Said) -> None:
    ask([run, "SELECT '[red]a[/] [x]' AS told FROM cells LIMIT 1"], None, None)
    assert capsys.readouterr().out == "told\n[red]a[/] [x]\n"


def test_a_run_that_is_going_on_is_said_beside_the_answer(
    run: str, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "holder", lambda store: object())
    ask([run, "SELECT COUNT(*) AS n FROM cells"], "csv", None)
    said = capsys.readouterr()
    assert said.out == "n\n275\n"
    assert "made is going on" in said.err


def test_the_list_has_every_question_with_its_sql_and_a_runs_tables(run: str, capsys: Said) -> None:
    listed([])
    said = capsys.readouterr().out
    assert all(name in said and q.about in said and q.sql in said for name, q in QUESTIONS.items())
    listed([run])
    more = capsys.readouterr().out.removeprefix(said)
    assert all(f"\n{name}  " in more for name in NAMES)
    assert "d_ce_low (Float64)" in more
