"""A hub id becomes a folder at a commit, or one sentence with its cure."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from orchestrator import hub, inspection, provenance
from orchestrator.hub import HubError, snapshot
from orchestrator.inspection import ModelError, folder, here
from tests.orchestrator import planned as made_up
from tests.orchestrator.standin_hub import Hub, Repository, standing_in
from tests.workers import tiny
from workers import loading
from workers.messages import ModelRef

COMMIT = "c" * 40
PLANNED = ModelRef(
    name="org/model", folder="", dtype="float32", device="cpu", threads=1, facts=made_up.facts()
)
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"code",
    "onnx/config.json": b"{}",
    "consolidated.safetensors": b"the same weights again",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with standing_in() as running:
        yield running


@pytest.fixture
def site(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The stand-in in place of the hub, with an empty cache and nobody logged in."""
    server.asked.clear()
    server.repositories = {"org/model": Repository(files=FILES)}
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    return server


def refused(model: str = "org/model", revision: str = "main", *, fetch: bool = True) -> str:
    with pytest.raises(HubError) as caught:
        snapshot(model, revision, fetch=fetch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", COMMIT])
def test_a_revision_of_any_kind_ends_in_the_folder_of_its_commit(site: Hub, revision: str) -> None:
    site.repositories["org/model"].revisions = ("main", "v1.0", "refs/pr/3")
    found = snapshot("org/model", revision, fetch=True)
    assert inspection.commit(found) == COMMIT
    assert {p.name for p in found.rglob("*")} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    before = len(site.asked)
    assert snapshot("org/model", revision, fetch=False) == found
    assert len(site.asked) == before  # planning asks nobody


def test_a_branch_that_moved_is_another_commit_when_it_is_fetched_and_not_before(
    site: Hub,
) -> None:
    first = snapshot("org/model", "main", fetch=True)
    site.repositories["org/model"] = Repository(
        files={**FILES, "model.safetensors": b"new"}, commit="d" * 40
    )
    assert snapshot("org/model", "main", fetch=False) == first
    moved = snapshot("org/model", "main", fetch=True)
    assert inspection.commit(moved) == "d" * 40
    assert (moved / "model.safetensors").read_bytes() == b"new"
    assert (first / "model.safetensors").read_bytes() == b"weights"


def test_a_commit_that_is_here_is_fetched_again_without_a_word_to_the_hub(site: Hub) -> None:
    snapshot("org/model", COMMIT, fetch=True)
    site.asked.clear()
    snapshot("org/model", COMMIT, fetch=True)
    assert site.asked == []


def test_a_name_of_timm_is_a_hub_id(site: Hub, tmp_path: Path) -> None:
    site.repositories["timm/vit_tiny.augreg"] = Repository(files=FILES)
    found = folder("timm:vit_tiny.augreg", revision="main", base=tmp_path, fetch=True)
    assert "models--timm--vit_tiny.augreg" in found.parts
    with pytest.raises(ModelError, match="needs a `revision`"):
        folder("timm:vit_tiny.augreg", revision=None, base=tmp_path)
    for name in ("timm:", "timm:a/b"):
        with pytest.raises(ModelError, match="names no model of timm"):
            folder(name, revision="main", base=tmp_path)


def test_shards_are_fetched_with_the_index_that_lists_them(site: Hub) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    site.repositories["org/model"].files = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "tokenizer.json": b"{}",
        **dict.fromkeys(shards, b"x"),
    }
    found = snapshot("org/model", "main", fetch=True)
    assert hub.whole(found)
    (found / shards[1]).unlink()
    assert not hub.whole(found)
    assert "only partly in the local cache" in refused(fetch=False)


def test_weights_that_a_library_fetched_alone_are_only_part_of_a_model(site: Hub) -> None:
    found = snapshot("org/model", "main", fetch=True)
    assert hub.whole(found)
    (found / "tokenizer.json").unlink()
    assert not hub.whole(found)
    assert "only partly in the local cache" in refused(fetch=False)
    snapshot("org/model", "main", fetch=True)
    assert hub.whole(found)


def test_what_was_fetched_is_loaded_as_a_folder_is(site: Hub, tmp_path: Path) -> None:
    mine = tiny.folder("opt", tmp_path)
    site.repositories["org/opt"] = Repository(
        files={path.name: path.read_bytes() for path in mine.iterdir()}
    )
    fetched = snapshot("org/opt", "main", fetch=True)
    assert loading.facts(fetched) == loading.facts(mine)
    model = loading.load(tiny.ref(fetched))
    expected = loading.load(tiny.ref(mine)).module.state_dict()
    found = model.module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Refusals


def test_a_gated_model_says_where_its_licence_is_and_how_to_log_in(
    site: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.repositories["org/model"].token = "hf_right"
    said = refused()
    assert f"is gated: accept its licence at {site.address}/org/model" in said
    assert "`hf auth login`, or set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the token in use has no access" in refused()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert hub.whole(snapshot("org/model", "main", fetch=True))


@pytest.mark.usefixtures("site")
def test_a_model_that_is_missing_or_private_says_both() -> None:
    assert "the hub has no model org/none, or it is private; check the id at" in refused("org/none")


@pytest.mark.usefixtures("site")
def test_a_revision_that_is_missing_says_where_commits_are() -> None:
    said = refused(revision="v9")
    assert "has no revision 'v9'; give a commit of" in said
    assert "/org/model/commits/main" in said


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refused the token in use while org/model at main was asked for; log in with"),
        (403, "answered 403 when asked for org/model at main; try again later"),
        (429, "asked too often for org/model at main"),
        (503, "answered 503"),
    ],
)
def test_any_other_answer_of_the_hub_is_told(site: Hub, status: int, said: str) -> None:
    site.repositories["org/model"].fails = status
    assert said in refused()


def test_without_a_network_it_is_said_and_what_is_here_is_used(
    site: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = snapshot("org/model", "main", fetch=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert snapshot("org/model", "main", fetch=True) == found
    site.repositories["org/other"] = Repository(files=FILES)
    said = refused("org/other")
    assert "the hub could not be reached (ConnectError); check the connection" in said
    assert "`hf download org/other --revision main` where there is a network" in said


@pytest.mark.usefixtures("site")
def test_offline_mode_works_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = snapshot("org/model", "main", fetch=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert snapshot("org/model", "main", fetch=True) == found
    assert "HF_HUB_OFFLINE is set, so it is not asked for; unset it, or" in refused("org/other")


@pytest.mark.usefixtures("site")
def test_planning_says_that_running_downloads() -> None:
    assert "is not in the local cache" in refused(fetch=False)
    assert "`run` downloads it" in refused(fetch=False)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk filled up while org/model at"),
        (RuntimeError("xet: No space left on device"), "set HF_HOME to a folder of a larger disk"),
        (PermissionError(errno.EACCES, "no"), "cannot be written to"),
        (ConnectionResetError("peer\n\nleft"), "(ConnectionResetError: peer left); check the"),
    ],
)
def test_what_stops_a_download_on_its_way_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def write(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.file_download.http_get", write)
    assert said in refused()


def test_a_repository_with_pickles_alone_says_where_a_conversion_may_be(site: Hub) -> None:
    site.repositories["org/model"].files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    said = refused()
    assert "pickles are never read" in said
    assert "give it as `revision: refs/pr/N`" in said


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ["org/na me", "org/--x", "org/x..y"])
def test_what_is_no_hub_id_is_refused(name: str) -> None:
    assert "is not a hub id and a revision" in refused(name)


# What is recorded


def test_a_plan_and_its_provenance_name_the_commit_of_a_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.know(monkeypatch, {COMMIT: made_up.facts()}, tmp_path / "snapshots")
    made_up.documents(tmp_path)
    branch = {"id": COMMIT, "revision": "main"}
    plan = made_up.make(tmp_path, models=[branch])
    assert plan.spec.models[0].revision == COMMIT
    assert provenance.gather(plan)["models"][COMMIT]["revision"] == COMMIT  # type: ignore[index]
    made_up.know(monkeypatch, {COMMIT: made_up.facts()}, tmp_path / "my own")
    plan = made_up.make(tmp_path, models=[branch])
    assert plan.spec.models[0].revision == "main"


# On the machines of a cluster


def test_a_machine_without_the_planned_folder_downloads_its_commit(
    site: Hub, tmp_path: Path
) -> None:
    planned = replace(
        PLANNED,
        name="org/model",
        folder=str(tmp_path / "elsewhere" / "snapshots" / COMMIT),
    )
    site.repositories["org/model"].revisions = ()  # no branch is asked for
    found = here(planned)
    assert Path(found.folder).is_relative_to(tmp_path / "hub")
    assert hub.whole(Path(found.folder))
    assert replace(found, folder=planned.folder) == planned
    site.asked.clear()
    assert here(found) == found
    assert site.asked == []
    site.repositories.clear()
    with pytest.raises(ModelError, match="the hub has no model org/other"):
        here(replace(planned, name="org/other"))


def test_a_folder_that_is_not_the_hubs_is_left_to_loading(tmp_path: Path) -> None:
    for name in ("zoo:opt", "./mine", "org/model"):
        planned = replace(PLANNED, name=name, folder=str(tmp_path / "gone"))
        assert here(planned) == planned


@pytest.mark.slow
def test_the_library_asks_the_endpoint_of_the_environment(server: Hub, tmp_path: Path) -> None:
    server.repositories = {"org/model": Repository(files=FILES)}
    script = (
        "from orchestrator.hub import snapshot; import sys;"
        "sys.stdout.write(str(snapshot('org/model', 'main', fetch=True)))"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert inspection.commit(done.stdout) == COMMIT
