"""Which folder a model is, and what is kept of it between plans."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from orchestrator import inspection
from orchestrator.inspection import ModelError, facts, folder
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
        names = [Path(f).name for f in command[3:]]
        self.asked.append(names)
        if self.fails:
            return subprocess.CompletedProcess(command, 1, "", self.fails)
        found = [self.answers[name] for name in names]
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


@pytest.mark.parametrize("change", ["size", "time", "another file"])
def test_a_folder_that_changed_is_read_again(
    checkpoints: dict[str, Path], reader: Reader, change: str
) -> None:
    place = checkpoints["text"]
    facts([place])
    if change == "size":
        (place / "config.json").write_text("{ }")
    elif change == "time":
        os.utime(place / "config.json", ns=(1, 1))
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


def test_a_hub_id_is_fetched_at_its_revision_and_never_with_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, list[str], bool]] = []

    def fetch(
        model: str, *, revision: str, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        asked.append((model, revision, allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    for wanted in (False, True):  # planning downloads nothing
        found = folder("facebook/opt-125m", revision="27dcfa7", base=tmp_path, fetch=wanted)
        assert found == tmp_path
    assert [local for *_, local in asked] == [True, False]
    model, revision, patterns, _ = asked[0]
    assert (model, revision) == ("facebook/opt-125m", "27dcfa7")
    assert not any(p.endswith((".bin", ".pt", ".py")) for p in patterns)


def test_a_hub_that_does_not_answer_is_told_with_what_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"facebook/opt at 1 .*ConnectionError.*name the folder"):
        folder("facebook/opt", revision="1", base=tmp_path, fetch=True)
