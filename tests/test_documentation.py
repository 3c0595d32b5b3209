"""What the README shows is run: its sweep file, its two queries, its verbs."""

import re
from pathlib import Path

import duckdb
import pytest
import yaml

from orchestrator import cli, sweep
from orchestrator.spec import parse
from tests.sweeps import written

README = (Path(__file__).parents[1] / "README.md").read_text()

SMALL = """
name: small
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 40}
methods: [zero, peak]
fractions: [0.5]
seeds: 2
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    return sweep.run(written(folder, SMALL), out=folder / "run", local=True).run


def test_the_sweep_file_is_right_and_has_about_ten_lines() -> None:
    text = block("yaml")
    assert parse(yaml.safe_load(text)).name == "mine"
    assert len(text.splitlines()) <= 10


def test_the_polars_query_answers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("python").replace("runs/embedded", str(run)), {})
    assert "zoo:vit" in capsys.readouterr().out


def test_the_duckdb_query_answers(run: Path) -> None:
    rows = duckdb.sql(block("sql").replace("runs/embedded", str(run))).fetchall()
    assert len(rows) == 10
    distances = [abs(row[-1]) for row in rows]
    assert distances == sorted(distances, reverse=True)


def test_every_verb_is_shown() -> None:
    verbs = [c.callback.__name__ for c in cli.app.registered_commands if c.callback]
    assert all(f"peaksweep {verb} " in README for verb in verbs)
