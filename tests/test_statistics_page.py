"""What docs/statistics.md shows is run: its sweep files, its two programs, its links."""

import re
from pathlib import Path

import pytest
import yaml

from orchestrator import sweep
from orchestrator.spec import parse
from tests.sweeps import written

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
TEXT = PAGE.read_text()

SMALL = """
name: small
models: [zoo:opt, zoo:vit]
data:
  texts:
    source: zoo:text
    collect: {split: train, sequences: 32}
    evaluate: {split: test, sequences: 2}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 2}
methods: [zero]
fractions: [0.5]
seeds: 1
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_sweep_files_are_right(text: str) -> None:
    parse(yaml.safe_load(text))


@pytest.mark.slow
def test_the_query_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(sweep.collect(written(tmp_path, SMALL), out=tmp_path / "run", local=True).run)
    exec(blocks("python")[0].replace("runs/embedded", str(run)), {})
    assert "zoo:opt" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_in_memory_is_counted_without_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[1], {})
    assert "mean without first positions" in capsys.readouterr().out


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert not [link for link in links if not (PAGE.parent / link).exists()]
