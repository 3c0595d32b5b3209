"""`peaksweep parity`: a line for each claim, and a code that says whether all hold."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner, Result

from orchestrator import cli, inspection, parity
from workers import loading
from workers.loading import Model
from workers.parity import Parity


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts are read here: another process would take its seconds to import the libraries."""
    monkeypatch.setattr(inspection, "facts", lambda folders: [loading.facts(f) for f in folders])
    monkeypatch.setenv("COLUMNS", "200")


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["parity", *arguments])


def test_a_model_that_is_read_rightly_ends_with_0() -> None:
    ended = asked("zoo:vit")
    assert ended.exit_code == 0
    assert "zoo:vit: timm-vit, float32 on" in ended.output
    lines = [line.split() for line in ended.output.splitlines()]
    found = {line[1]: line[-2:] for line in lines if line[0] == "ok"}
    assert list(found) == ["logits", "loss", "baseline", "removed", "head", "neurons", "groups"]
    assert found["logits"] == ["0", "0"]


def test_the_dtype_is_the_one_that_was_asked_for() -> None:
    ended = asked("zoo:vit", "--dtype", "bfloat16")
    assert ended.exit_code == 0
    assert "bfloat16 on" in ended.output


def test_a_model_that_is_not_ends_with_5(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = parity.parity

    def misled(model: Model) -> Parity:
        return honest(replace(model, family=replace(model.family, fused="groups", head="norm")))

    monkeypatch.setattr(parity, "parity", misled)
    ended = asked("zoo:vit")
    assert ended.exit_code == 5
    lines = [line.split() for line in ended.output.splitlines()]
    assert {line[1] for line in lines if line[:1] == ["no"]} >= {"logits", "neurons"}
    assert "no answer" in ended.output
    assert "logits: RuntimeError" in ended.output  # what went wrong there, in full


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/at/all"], "there is no folder"),
        (["zoo:nobody"], "there is no bundled model"),
        (["zoo:vit", "--dtype", "float64"], "'float64' is no dtype; known are float32"),
    ],
)
def test_a_model_that_cannot_be_used_ends_with_2(arguments: list[str], said: str) -> None:
    ended = asked(*arguments)
    assert ended.exit_code == 2
    assert said in " ".join(ended.output.replace("│", " ").split())
