"""What docs/security.md says, as far as one process shows it; more is in tests/test_hosts.py."""

import ast
import contextlib
import io
import json
import pickle
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import EpsImagePlugin, Image
from rich.console import Console

from orchestrator import pixels, specfile, sweep, tabled
from orchestrator.mistakes import SpecError
from tests.planted import PLANTED, assert_nowhere
from tests.sweeps import SMALL, written
from tests.workers import tiny
from workers.families import UnknownFamilyError
from workers.loading import CheckpointError, facts

ROOT = Path(__file__).parents[1]
SECRET = "planted-in-a-uri"
RUNS_CODE = {"cloudpickle", "dill", "jinja2", "joblib", "marshal", "pickle", "runpy", "shelve"}
"""Modules that run what they read, or can be made to."""
RUN = {"eval", "exec", "os.system", "torch.load", "yaml.load", "__import__"}
"""Calls that do."""
OFF = {"trust_remote_code", "allow_pickle", "shell", "weights_only"}
"""Arguments that are False wherever they stand, but `weights_only`, which nothing says at all."""


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("planted")
def test_secrets_of_the_environment_are_in_no_file_and_in_nothing_that_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "said").open("w") as told:
        sweep.run(
            written(tmp_path, SMALL), out=tmp_path / "run", local=True, told=Console(file=told)
        )
    told_at_all = assert_nowhere([tmp_path, *capfd.readouterr()])
    assert told_at_all > 100_000
    assert (tmp_path / "run" / "provenance.json").exists()


def test_what_looks_for_secrets_finds_them(tmp_path: Path) -> None:
    table = pa.table({"text": ["nothing", f"of {PLANTED['HF_TOKEN']}"] * 1000})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(AssertionError, match="hf_Planted"):
        assert_nowhere([tmp_path])
    with pytest.raises(AssertionError, match="planted%2Fsecret"):
        assert_nowhere(["s3://k:planted%2Fsecret%2Bof%2Fa%2Fbucket000000000000001@bucket"])


@pytest.mark.parametrize("uri", ["s3://key:{}@bucket/run", "s3://key:a/{}@bucket", "gs://:{}@b"])
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str, tmp_path: Path) -> None:
    stored = f"{SMALL}store: {uri.format(SECRET)}\n"
    for text, out in ((stored, str(tmp_path / "run")), (SMALL, uri.format(SECRET))):
        with pytest.raises(SpecError) as refused:
            sweep.run(written(tmp_path, text), out=out, local=True)
        assert "has a password in it" in str(refused.value)
        assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)
        assert SECRET not in str(refused.value)
    assert not (tmp_path / "run").exists()


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules in which one of the words stands at all."""
    words = re.compile(rf"\b({'|'.join(sorted(map(re.escape, RUNS_CODE | RUN | OFF)))})\b")
    for folder in ("orchestrator", "workers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if words.search(text := file.read_text()):
                yield file.relative_to(ROOT).as_posix(), ast.parse(text)


def _arguments(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield what is given by name, in a call or in a mapping that may become one."""
    if isinstance(node, ast.Call):
        yield from ((k.arg, k.value) for k in node.keywords if k.arg)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, value


def test_code_comes_from_plugins_alone() -> None:
    """No module unpickles, trusts remote code, or hands text to Python or to a shell, but one."""
    found = set()
    for name, module in _modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                found |= {(name, a.name) for a in node.names if a.name in RUNS_CODE}
            elif isinstance(node, ast.ImportFrom):
                found |= {(name, node.module)} if node.module in RUNS_CODE else set()
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in RUN:
                    found.add((name, called))
            for argument, value in _arguments(node):
                if argument in OFF and not (isinstance(value, ast.Constant) and not value.value):
                    found.add((name, argument))
    assert found == {("workers/plugins.py", "exec"), ("orchestrator/specfile.py", "yaml.load")}
    assert issubclass(specfile._Loader, yaml.SafeLoader)  # the one that makes plain values alone


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.proof), "w")


@pytest.mark.filterwarnings("ignore")  # that the file it opened was not closed
@pytest.mark.parametrize("kind", ["arrow.py_extension_type", "ray.data.arrow_tensor"])
def test_pickles_in_the_schema_of_a_table_are_not_read(kind: str, tmp_path: Path) -> None:
    """CVE-2023-47248 of Arrow and CVE-2026-41486 of Ray: code ran before the first row was read."""
    proof = tmp_path / "it ran"
    said = {"ARROW:extension:name": kind, "ARROW:extension:metadata": ""}
    metadata = {**said, "ARROW:extension:metadata": pickle.dumps(Payload(proof))}
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.exists()
    proof.unlink()

    field = pa.field("text", pa.string(), metadata=metadata)
    table = pa.table([["a text of some words"]], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as to, pa.ipc.new_file(to, table.schema) as out:
        out.write_table(table)
    for file in (tmp_path / "a.parquet", tmp_path / "a.arrow"):
        tabled.schema(file)
        (row,) = tabled.rows(file, prefix="a", split=None, columns=["text"])
        assert not isinstance(row, tabled.Broken)
        assert row.values["text"] == "a text of some words"
    assert not proof.exists()


def test_an_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads EPS with Ghostscript, whatever the name of the file."""
    proof, ghostscript = tmp_path / "it ran", tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{proof}'\n")
    ghostscript.chmod(0o700)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # not looked for yet
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    drawn = io.BytesIO()
    Image.new("RGB", (4, 4)).save(drawn, "EPS")
    with contextlib.suppress(OSError), Image.open(drawn) as opened:
        opened.load()
    assert proof.exists()
    proof.unlink()
    with pytest.raises(ValueError, match="no whole image"):
        pixels.decoded(drawn.getvalue())
    assert not proof.exists()


def test_a_configuration_cannot_allow_its_own_code(tmp_path: Path) -> None:
    """CVE-2026-5241 of transformers: a nested configuration said that it was to be trusted."""
    folder = tiny.folder("opt", tmp_path)
    proof = tmp_path / "it ran"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    trusting = {
        "trust_remote_code": True,
        "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"},
    }
    file = folder / "config.json"
    own = json.loads(file.read_text())
    for changed in (
        {**own, **trusting},
        {**own, **trusting, "text_config": {**own, **trusting}},
        {"model_type": "lightglue", "architectures": ["LightGlueForKeypointMatching"], **trusting}
        | {"keypoint_detector_config": {"_name_or_path": str(folder), **trusting}},
    ):
        file.write_text(json.dumps(changed))
        with contextlib.suppress(CheckpointError, UnknownFamilyError):
            facts(folder)
        assert not proof.exists()


def test_the_audit_is_of_the_versions_that_are_installed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    page = (ROOT / "docs" / "security.md").read_text().partition("## Dependencies")[2]
    audited = dict(re.findall(r"^\| ([\w-]+) \| (\d[\w.]*) \|", page, re.MULTILINE))
    assert {name: pinned[name] for name in audited} == audited
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^\w-]", asked)[0].lower() for asked in project["dependencies"]}
    assert needed <= {name.lower() for name in audited}
