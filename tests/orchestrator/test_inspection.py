"""Which folder a model is, and what is kept of it between plans."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator import inspection
from orchestrator.inspection import ModelError, facts, folder, provisional, symbolic
from tests.orchestrator import planned
from workers import zoo
from workers.messages import ModelFacts


class Reader:
    """Stands for the process that reads facts, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answers: dict[str, ModelFacts | str] = {}
        self.fails = ""

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "workers.loading"]
        names = [Path(f).name for f in command[3:]]  # after a flag, its name is the first
        self.asked.append(names)
        if self.fails:
            return subprocess.CompletedProcess(command, 1, "", self.fails)
        found = [self.answers[name] for name in names if not name.startswith("-")]
        said = [asdict(a) if isinstance(a, ModelFacts) else {"error": a} for a in found]
        return subprocess.CompletedProcess(command, 0, "a warning\n" + json.dumps(said) + "\n", "")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader()
    monkeypatch.setattr(subprocess, "run", made.run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


@pytest.fixture
def checkpoints(tmp_path: Path, reader: Reader) -> dict[str, Path]:
    known = {"text": planned.facts("masked"), "image": planned.facts("image"), "bad": "no weights"}
    reader.answers.update(known)
    found = {}
    for name in known:
        found[name] = tmp_path / name
        found[name].mkdir()
        (found[name] / "config.json").write_text("{}")
    return found


def kept(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_facts_are_read_for_all_models_in_one_process(
    checkpoints: dict[str, Path], reader: Reader
) -> None:
    assert facts([checkpoints["text"], checkpoints["image"]]) == [
        planned.facts("masked"),
        planned.facts("image"),
    ]
    assert reader.asked == [["text", "image"]]


def test_facts_that_were_read_before_are_not_read_again(
    checkpoints: dict[str, Path], reader: Reader
) -> None:
    first = facts([checkpoints["text"]])
    assert facts([checkpoints["text"], checkpoints["image"], checkpoints["text"]]) == [
        *first,
        planned.facts("image"),
        *first,
    ]
    assert reader.asked == [["text"], ["image"]]


@pytest.mark.parametrize("change", ["size", "time", "the same time", "another file"])
def test_a_folder_that_changed_is_read_again(
    checkpoints: dict[str, Path], reader: Reader, change: str
) -> None:
    place = checkpoints["text"]
    facts([place])
    if change == "size":
        (place / "config.json").write_text("{ }")
    elif change == "time":
        os.utime(place / "config.json", ns=(1, 1))
    elif change == "the same time":
        other = place.parent / "other"
        other.write_text("[]")
        os.utime(other, ns=(0, (place / "config.json").stat().st_mtime_ns))
        other.replace(place / "config.json")
    else:
        (place / "model.safetensors").write_text("")
    reader.answers["text"] = planned.facts("masked", digest="changed")
    assert facts([place]) == [planned.facts("masked", digest="changed")]


def test_other_libraries_read_again(
    checkpoints: dict[str, Path], reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts([checkpoints["text"]])
    monkeypatch.setattr(inspection, "version", lambda _: "99")
    facts([checkpoints["text"]])
    assert len(reader.asked) == 2


def test_what_is_wrong_with_a_folder_is_told_and_not_kept(
    checkpoints: dict[str, Path], reader: Reader, tmp_path: Path
) -> None:
    for _ in range(2):
        good, bad = facts([checkpoints["text"], checkpoints["bad"]])
        assert good == planned.facts("masked")
        assert isinstance(bad, ModelError)
        assert str(bad) == "no weights"
    assert reader.asked == [["text", "bad"], ["bad"]]
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("content", ["", '{"family": "opt"', '{"family": "opt"}', "[]"])
def test_a_spoilt_cache_is_read_anew(
    checkpoints: dict[str, Path], reader: Reader, tmp_path: Path, content: str
) -> None:
    facts([checkpoints["text"]])
    (file,) = kept(tmp_path)
    file.write_text(content)
    assert facts([checkpoints["text"]]) == [planned.facts("masked")]
    assert len(reader.asked) == 2


def test_facts_that_were_kept_when_less_was_known_are_read_anew(
    checkpoints: dict[str, Path], reader: Reader, tmp_path: Path
) -> None:
    facts([checkpoints["text"]])
    (file,) = kept(tmp_path)
    older = json.loads(file.read_text())
    for field in ("kv_heads", "d_mlp", "activation"):
        del older[field]
    file.write_text(json.dumps(older))
    assert facts([checkpoints["text"]]) == [planned.facts("masked")]
    assert len(reader.asked) == 2
    assert json.loads(file.read_text())["kv_heads"] == planned.facts("masked").kv_heads


def test_a_cache_that_cannot_be_written_only_costs_time(
    checkpoints: dict[str, Path], reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert facts([checkpoints["text"]]) == [planned.facts("masked")]
    assert len(reader.asked) == 2


def test_a_folder_that_brings_down_its_reader_is_refused_by_name(
    checkpoints: dict[str, Path], reader: Reader
) -> None:
    reader.fails = "a line\nSegmentation fault"
    (found,) = facts([checkpoints["text"]])
    assert isinstance(found, ModelError)
    assert "text ended the process that did (exit code 1: Segmentation fault)" in str(found)


def test_of_many_folders_each_is_read_by_itself_when_one_brings_down_the_reader(
    checkpoints: dict[str, Path], reader: Reader
) -> None:
    reader.fails = "Killed"
    found = facts([checkpoints["text"], checkpoints["image"]])
    assert reader.asked == [["text", "image"], ["text"], ["image"]]
    assert ["text" in str(found[0]), "image" in str(found[1])] == [True, True]


@pytest.mark.usefixtures("reader")
def test_who_waits_for_large_weights_is_told_how_many_bytes_are_read(
    checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("text", "image"):
        with (checkpoints[name] / "model.safetensors").open("wb") as sparse:
            sparse.truncate(700_000_000)
    facts([checkpoints["text"]])
    assert capsys.readouterr() == ("", "")
    os.utime(checkpoints["text"] / "config.json", ns=(1, 1))
    facts([checkpoints["text"], checkpoints["image"]])
    assert capsys.readouterr() == ("", "Reading 1.4 GB of weights for their digest, once.\n")
    facts([checkpoints["text"], checkpoints["image"]])
    assert capsys.readouterr() == ("", "")


def test_a_known_hub_model_has_facts_without_weights_and_a_provisional_digest(
    reader: Reader,
) -> None:
    imagined = planned.facts(digest="provisional 1234")
    reader.answers["facebook--opt-1.3b.json"] = imagined
    assert [symbolic("facebook/opt-1.3b", "main") for _ in range(2)] == [imagined] * 2
    assert reader.asked == [["--without-weights", "facebook--opt-1.3b.json"]]
    assert provisional(imagined)
    assert not provisional(planned.facts())


@pytest.mark.parametrize(
    ("model", "revision"),
    [
        ("facebook/opt-1.3b", None),  # without a revision it is a mistake, known or not
        ("org/unknown", "main"),
        ("../facebook--opt-1.3b", "main"),
        ("zoo:opt", "main"),
        ("a" * 5_000 + "/b", "main"),
        ("a\0/b", "main"),
    ],
)
def test_of_any_other_model_nothing_is_known_without_its_weights(
    reader: Reader, model: str, revision: str | None
) -> None:
    assert symbolic(model, revision) is None
    assert reader.asked == []


def test_a_known_configuration_that_cannot_be_read_is_refused(reader: Reader) -> None:
    reader.fails = "Killed"
    with pytest.raises(ModelError, match="ended the process that did"):
        symbolic("facebook/opt-1.3b", "main")


def test_a_known_model_lies_under_its_own_name() -> None:
    files = sorted(inspection.KNOWN.glob("*.json"))
    assert len(files) == 4
    for file in files:
        assert json.loads(file.read_text())["id"].replace("/", "--") == file.stem


def test_no_models_need_no_process(reader: Reader) -> None:
    assert facts([]) == []
    assert reader.asked == []


def test_a_bundled_model_lies_in_the_package(tmp_path: Path) -> None:
    for name in zoo.NAMES:
        assert folder(f"zoo:{name}", revision=None, base=tmp_path) == zoo.folder(name)


def test_a_folder_is_found_from_where_the_sweep_file_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    mine = tmp_path / "models" / "mine"
    assert folder("models/mine", revision=None, base=tmp_path) == mine
    assert folder(str(mine), revision=None, base=Path("/")) == mine
    assert folder(f"local-dir:{mine}", revision=None, base=Path("/")) == mine
    assert folder("local-dir:models/mine", revision=None, base=tmp_path) == mine
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder("~/models/mine", revision=None, base=Path("/")) == mine


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("zoo:bert", "Known: zoo:mistral, zoo:opt, zoo:roberta, zoo:vit"),
        ("./mine", "paths are relative to the sweep file"),
        ("/nowhere/mine", "there is no folder /nowhere/mine"),
        ("~/nowhere", "there is no folder"),
        ("mine", "there is no folder"),
        ("local-dir:facebook/opt-125m", "there is no folder"),
        ("a/b/c", "there is no folder"),
        ("facebook/opt-125m", "as a hub id needs a `revision`"),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_what_to_write(
    tmp_path: Path, model: str, said: str
) -> None:
    with pytest.raises(ModelError) as caught:
        folder(model, revision=None, base=tmp_path)
    assert said in str(caught.value)
