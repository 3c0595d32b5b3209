"""Every command that the documentation shows is run, and every sweep and script beside it.

A page is followed from top to bottom, as its reader would: a fence with a title is a file that
is written, lines of `sh` (and lines of a block of no language that begin with our name) are
commands, `python` is run. All pages share one folder, in which
`runs/embedded` and other runs that a page does not make itself are copies of one small sweep.
What cannot be run here stands in ELSEWHERE with what tests it instead; a command that is in
neither place fails.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import sweep
from tests.sweeps import SMALL, written

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md"] + [
    page
    for folder in (ROOT / "docs", ROOT / "docs" / "howto")
    for page in sorted(folder.glob("*.md"))
]
ELSEWHERE = {
    "export RAY_AUTH_MODE=": "tests/test_job.py, where Ray makes the token",
    "ray start": "tests/test_job.py",
    "ray job submit": "tests/test_job.py",
    "peaksweep submit": "tests/orchestrator/test_submit.py",
    "peaksweep status job --address": "tests/orchestrator/test_submit.py",
    "peaksweep logs": "tests/orchestrator/test_submit.py",
    "peaksweep stop": "tests/orchestrator/test_submit.py",
    "peaksweep run examples/embedded.yaml --address": "tests/test_job.py; the demo's whole grid",
    "peaksweep run sweep.yaml --track tensorboard": "tests/orchestrator/test_trackers.py",
    "peaksweep parity facebook/opt-1.3b": "needs a hub; test_parity.py has folders",
    "ray up": "tests/test_cluster.py checks the file; needs a cloud",
    "ray dashboard": "needs a cloud",
    "ray down": "needs a cloud",
    "sbatch": "tests/test_slurm.py",
    "lm_eval --model hf": "tests/test_lm_evaluation_harness.py",
    "peaksweep plan examples/plugins/own.yaml": "tests/orchestrator/test_plugins.py",
    "peaksweep run examples/plugins/own.yaml": "tests/orchestrator/test_plugins.py",
}
"""Beginnings of commands that are not run here, and what runs them."""
SHARED = """
name: embedded
models: [zoo:opt, zoo:vit]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 32}
    evaluate: {split: test, sequences: 32}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 64}
    evaluate: {split: test, sequences: 40}
methods: [zero, mean, peak, peak(paper), {resample: {source: dataset}}, {optimal: {steps: 4}}]
fractions: [0.25, 0.5, 1]
seeds: 2
contrasts: [[peak, mean], [peak, zero]]
statistics: {shards: 4}
"""
"""The sweep that pages look at and do not run: small, with whatever they may ask it for."""
_FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
_LONGEST = 240


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """A block of a page."""

    language: str
    title: str | None
    text: str


def fences(page: Path) -> Iterator[Fence]:
    """Yield the blocks of a page, from top to bottom."""
    for language, title, text in _FENCE.findall(page.read_text()):
        yield Fence(language=language, title=title or None, text=text)


def commands(fence: Fence) -> list[list[str]]:
    """Return the commands of a block, each as its words; comments are left out."""
    if fence.language not in ("sh", "") or fence.title is not None:
        return []
    lines = fence.text.replace("\\\n", " ").splitlines()
    if not fence.language:  # what a command says, or what is typed
        lines = [line for line in lines if line.startswith(("peaksweep ", "ray ", "export "))]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def elsewhere(words: list[str]) -> bool:
    return any(" ".join(words).startswith(start) for start in ELSEWHERE)


# --- what needs no run ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """A command of ours in a block of another language would be run by nothing."""
    other = [f for f in fences(page) if f.language not in ("", "sh", "python", "yaml")]
    started = [line for f in other for line in f.text.splitlines()]
    assert [line for line in started if re.match(r"(\S*/)?(peaksweep|ray) ", line)] == []


def test_every_command_can_be_run_here_or_is_run_elsewhere() -> None:
    shown = [w for p in PAGES for f in fences(p) for w in commands(f)]
    assert shown
    assert [w for w in shown if w[0] != "peaksweep" and not elsewhere(w)] == []
    said = [" ".join(words) for words in shown]
    assert [start for start in ELSEWHERE if not any(s.startswith(start) for s in said)] == []


# --- pages, followed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run that pages look at."""
    folder = tmp_path_factory.mktemp("shared")
    ended = sweep.run(written(folder, SHARED), out=folder / "run", local=True)
    assert not ended.failures
    return Path(ended.run)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader has it: the project's files, a sweep, and room for theirs."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("docs", "examples", "workers", "cluster.yaml"):
        (folder / name).symlink_to(ROOT / name)
    written(folder, SMALL).rename(folder / "mine.yaml")
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "checkpoint").symlink_to(ROOT / "workers" / "zoo" / "opt")
    return folder


def followed(words: list[str], desk: Path, shared: Path) -> None:
    """Run a command of a page; it must end well."""
    verb = words[1]
    if verb not in ("run", "collect", "plan", "parity"):
        for word in words[2:]:
            for name in re.findall(r"runs/([\w.-]+)", word):
                if not (desk / "runs" / name).exists():
                    shutil.copytree(shared, desk / "runs" / name)
    asked = [*words[1:], *(["--local"] if verb in ("run", "collect") else [])]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *asked],
        cwd=desk,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    assert done.returncode == 0, (
        f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )


def needs_running(page: Path) -> bool:
    return any(not elsewhere(words) for fence in fences(page) for words in commands(fence))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if needs_running(page)], ids=lambda page: page.stem
)
def test_a_page_does_what_it_says(
    page: Path, desk: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    names: dict[str, object] = {}
    for fence in fences(page):
        if fence.title is not None:
            (desk / fence.title).write_text(fence.text)
        for words in commands(fence):
            if not elsewhere(words):
                followed(words, desk, shared)
        if fence.title is None and fence.language == "python":
            for name in re.findall(r"runs/([\w.-]+)", fence.text):
                if not (desk / "runs" / name).exists():
                    shutil.copytree(shared, desk / "runs" / name)
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("error")
                exec(compile(fence.text, page.name, "exec"), names)
