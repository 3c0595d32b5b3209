"""What the README shows is run; what docs/methods.md shows is planned, and nothing is left out.

Links of both, of the map and of the decisions lead to files, and those within a page to headings.
"""

import re
from pathlib import Path
from typing import get_args

import duckdb
import polars as pl
import pytest
import yaml

from orchestrator import cli, sweep
from orchestrator.methods import METHODS, SOURCES
from orchestrator.rules import rule
from orchestrator.scores import BETWEEN, SCORES
from orchestrator.sections import Metric
from orchestrator.spec import parse
from orchestrator.stops import SCHEMA
from tests.orchestrator.synthetic_run import MODELS, ask_precision, write_run
from tests.sweeps import written
from workers.published import PUBLISHED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
STOPPING = (ROOT / "docs" / "statistics.md").read_text().split("## Stopping early\n")[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]

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
    return Path(sweep.run(written(folder, SMALL), out=folder / "run", local=True).run)


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


def test_the_query_of_the_page_on_stopping_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_run(tmp_path / "run", models=MODELS[:1], layers=1, neurons=8, masks=2)
    ask_precision(made, 0.02)
    found = re.search(r"```python\n(.*?)```", STOPPING, re.DOTALL)
    assert found is not None
    exec(found[1].replace("runs/precise", str(made)), {})
    assert "shape: (10, 10)" in capsys.readouterr().out  # fractions x columns


def test_the_precision_that_is_shown_is_right() -> None:
    (shown,) = re.findall(r"```yaml\n(precision:.*?)```", README, re.DOTALL)
    whole = yaml.safe_load(block("yaml")) | yaml.safe_load(shown)
    assert parse(whole).precise == (("peak", "mean"),)


def test_the_page_on_stopping_names_every_column_of_its_table() -> None:
    point = ("data", "dtype", "basis", "site", "unit", "layers", "complement", "selection")
    named = [c for c in SCHEMA.names() if c not in point]
    assert [c for c in named if f"`{c}`" not in STOPPING] == []


def test_every_verb_is_shown() -> None:
    verbs = [c.callback.__name__ for c in cli.app.registered_commands if c.callback]
    assert all(f"peaksweep {verb} " in README for verb in verbs)


def test_every_example_is_linked() -> None:
    examples = {file.name for file in (ROOT / "examples").glob("*.yaml")} - {"embedded.yaml"}
    assert examples == set(re.findall(r"\(examples/(\w+\.yaml)\)", README))


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", METHODS_PAGE, re.DOTALL))
def test_the_sweep_files_of_the_page_on_methods_plan(text: str, tmp_path: Path) -> None:
    pl.DataFrame({"layer": [0, 3], "neuron": [5, 0]}).write_parquet(tmp_path / "units.parquet")
    assert sweep.plan(written(tmp_path, text)).cells


def test_the_page_on_methods_has_every_name_that_a_sweep_file_may_say() -> None:
    names = [*METHODS, *SOURCES[1:], *PUBLISHED, *SCORES, *BETWEEN, *get_args(Metric)]
    names += [key for parameters in METHODS.values() for key in parameters if key != "q"]
    names += ["random(global)", "explicit(", "regression", "alpha", "complement", "rotate"]
    code = " ".join(
        re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", METHODS_PAGE, flags=re.DOTALL))
    )
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}", code)] == []


def test_the_defaults_of_a_regression_are_those_that_the_page_shows() -> None:
    shown = re.search(r"`({regression: {first.*?}})`", METHODS_PAGE)
    assert shown is not None
    said = rule(yaml.safe_load(shown[1]))["parameters"]
    assert said == rule("regression")["parameters"]  # what is the default leaves no trace


def headings(text: str) -> set[str]:
    """Return the anchors that a page's headings have on GitHub."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and anchor not in headings(there.read_text())):
            lost.append(link)
    assert lost == []
