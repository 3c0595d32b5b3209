"""The command line: its verbs, and what each ending is told and coded as."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import orchestrator
from orchestrator import cli, results
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.pool import PoolError, SilentError
from orchestrator.store import Store, StoreError, parquet, rows
from orchestrator.tasks import Failure
from tests.orchestrator import planned
from tests.orchestrator.synthetic_run import MODELS, write_run

Act = Callable[..., object]


class Ended:
    """How a made-up sweep ended."""

    def __init__(self, run: Path, *failures: Failure) -> None:
        self.run, self.page, self.failures = run, run / "report" / "index.html", failures
        self.computed, self.found, self.fetched = 12, 3456, 0


class Shell:
    """Types commands into `main` and remembers how they end."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capsys = patch, capsys
        self.out = self.err = ""

    def sweep(self, **functions: Act) -> None:
        """Have the story's functions be these: the real ones import Ray and the figures."""
        made = ModuleType("orchestrator.sweep")
        for name, function in functions.items():
            setattr(made, name, function)
        self.patch.setitem(sys.modules, "orchestrator.sweep", made)
        self.patch.setattr(orchestrator, "sweep", made, raising=False)

    def __call__(self, *arguments: str | Path) -> int:
        self.patch.setattr(sys, "argv", ["peaksweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        self.out, self.err = self.capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setenv("COLUMNS", "200")
    yield Shell(monkeypatch, capsys)
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(error: BaseException) -> Act:
    def act(*_: object, **__: object) -> object:
        raise error

    return act


def test_the_verbs_are_these_and_no_others() -> None:
    # A new verb is a decision: docs/decisions/ says why there is one.
    names = [c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback]
    assert names == [
        "plan",
        "run",
        "collect",
        "submit",
        "status",
        "logs",
        "stop",
        "query",
        "report",
        "export",
        "parity",
    ]
    assert cli.app.registered_groups == []


def test_the_options_of_a_run_are_these_and_no_others(shell: Shell) -> None:
    # Settings live in the sweep file; an option says where and on what, never what is computed.
    assert shell("run", "--help") == 0
    options = {word for word in shell.out.replace(",", " ").split() if word.startswith("--")}
    assert options == {
        "--out",
        "--address",
        "--workers",
        "--only",
        "--local",
        "--plugin",
        "--track",
        "--help",
    }


def test_a_collection_has_the_options_of_a_run_but_for_the_cells(shell: Shell) -> None:
    assert shell("collect", "--help") == 0
    options = {word for word in shell.out.replace(",", " ").split() if word.startswith("--")}
    assert options == {
        "--out",
        "--address",
        "--workers",
        "--local",
        "--plugin",
        "--track",
        "--help",
    }


def test_help_is_given_without_being_asked(shell: Shell) -> None:
    assert shell() == 2
    assert all(verb in shell.out + shell.err for verb in ("plan", "run", "collect", "status"))


@pytest.mark.parametrize(
    "command",
    [["swep"], ["run"], ["run", "x.yaml", "--worker", "2"], ["run", "x.yaml", "--workers", "0"]],
)
def test_a_wrong_command_ends_with_2(shell: Shell, command: list[str]) -> None:
    shell.sweep(run=raising(AssertionError("it was run all the same")))
    assert shell(*command) == 2
    assert shell.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SpecError([Mistake(path="methods[0]", message="bad [x]")]), 2, "methods[0]: bad [x]"),
        (PoolError("no GPU [here]"), 3, "The cluster cannot hold the plan: no GPU [here]"),
        (SilentError("No cluster is [here]"), 3, "No cluster is [here]"),
        (StoreError("runs/[x] is locked"), 4, "runs/[x] is locked"),
        (KeyError("ours [/x]"), 70, "an error of peaksweep's own"),
        (OSError("not a run folder's"), 70, "Traceback"),
    ],
)
def test_every_error_has_its_code_and_is_told(
    shell: Shell, error: Exception, code: int, said: str
) -> None:
    shell.sweep(run=raising(error))
    assert shell("run", "x.yaml") == code
    assert said in shell.err
    assert shell.out == ""
    if code != 70:
        assert "Traceback" not in shell.err


def test_all_mistakes_are_told_together(shell: Shell) -> None:
    mistakes = [Mistake(path=f"key{i}", message="wrong " * 60) for i in range(3)]
    shell.sweep(plan=raising(SpecError(mistakes)))
    assert shell("plan", "x.yaml") == 2
    assert shell.err.startswith("3 mistakes in the sweep:\n  key0: wrong")
    assert len(shell.err.strip().splitlines()) == 4  # long ones are not broken in two


def test_an_interrupt_that_somebody_raises_is_told_like_a_signal(shell: Shell) -> None:
    shell.sweep(run=raising(KeyboardInterrupt()))
    assert shell("run", "x.yaml") == 130
    assert "Nothing is lost" in shell.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_cleans_up_on_the_way(
    shell: Shell, number: signal.Signals, code: int
) -> None:
    left: list[str] = []

    def run(*_: object, **__: object) -> object:
        try:
            os.kill(os.getpid(), number)
        finally:
            left.append("the pool")
        return None

    shell.sweep(run=run)
    assert shell("run", "x.yaml") == code
    same = "to go on, run the same again: peaksweep run x.yaml"
    assert shell.err == f"Interrupted. Nothing is lost: {same}\n"
    assert left == ["the pool"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with a made-up, small finished sweep."""
    return write_run(tmp_path / "run", models=MODELS[:1], layers=1, neurons=10)


def failure(error: str = "ValueError('bad')") -> Failure:
    return Failure(
        task="t1", file="results/t1.parquet", label="zoo:opt 8 cells", stage="evaluate",
        error=error, traceback="…", attempts=2, cells=("c1",), blocked=3,
    )  # fmt: skip


def test_a_run_that_ends_well_prints_its_summary_and_where_the_report_lies(
    shell: Shell, run_folder: Path
) -> None:
    asked: dict[str, Any] = {}

    def run(spec: Path, **options: Any) -> Ended:
        asked.update(options, spec=spec)
        return Ended(run_folder)

    shell.sweep(run=run)
    more = (
        "--workers",
        "2",
        "--only",
        "seed = 0",
        "--local",
        "--plugin",
        "a.py",
        "--plugin",
        "b.py",
        "--track",
        "tensorboard:logs",
    )
    code = shell("run", "x.yaml", "--out", "o", *more)
    assert code == 0, shell.err
    assert asked == {
        "spec": Path("x.yaml"),
        "out": "o",
        "address": None,
        "workers": 2,
        "only": "seed = 0",
        "local": True,
        "plugins": [Path("a.py"), Path("b.py")],
        "track": ["tensorboard:logs"],
    }
    assert "zoo:opt on stdlib, unablated" in shell.out
    assert "12 cells computed now, 3,456 found." in shell.out
    assert f"Report: {run_folder}/report/index.html" in shell.out
    assert "cover documents and masks" in shell.out


def test_failed_tasks_end_with_1_and_the_rest_is_told(shell: Shell, run_folder: Path) -> None:
    shell.sweep(run=lambda *_, **__: Ended(run_folder, failure()))
    assert shell("run", "x.yaml") == 1
    assert "zoo:opt on stdlib, unablated" in shell.out
    assert "failed zoo:opt 8 cells: ValueError('bad') (3 tasks not tried" in shell.err
    assert "failures/results.t1.json" in shell.err


def counted_run(folder: Path) -> Path:
    """A run folder that holds the statistics of two neurons and nothing else."""
    store = Store.open(folder)
    columns = {
        "model": "a", "data": "texts", "dtype": "float32", "stratum": "all", "neuron": [0, 1],
        "count": 2000, "below": 0, "above": [0, 50], "mean": 1.0, "std": 0.5, "peak": [1.25, 1.5],
    }  # fmt: skip
    store.commit("statistics/a/statistics.1.parquet", parquet(rows("statistics", columns, 2)))
    return store.root


def test_a_collection_that_ends_well_prints_what_it_counted_and_where_it_lies(
    shell: Shell, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    run = counted_run(tmp_path / "run")

    def collect(spec: Path, **options: Any) -> Ended:
        asked.update(options, spec=spec)
        return Ended(run)

    shell.sweep(collect=collect)
    code = shell("collect", "x.yaml", "--out", "o", "--address", "auto", "--workers", "2")
    assert code == 0, shell.err
    assert asked == {
        "spec": Path("x.yaml"),
        "out": "o",
        "address": "auto",
        "workers": 2,
        "local": False,
        "plugins": (),
        "track": (),
    }
    assert "a on texts, float32" in shell.out
    assert "12 tasks done now, 3,456 found in the run folder." in shell.out
    assert f"Tables: {run}/statistics" in shell.out
    assert "shared store" not in shell.out


def test_a_collection_that_fails_ends_with_1_and_tells_the_rest(
    shell: Shell, tmp_path: Path
) -> None:
    run = counted_run(tmp_path / "run")
    shell.sweep(collect=lambda *_, **__: Ended(run, failure()))
    assert shell("collect", "x.yaml") == 1
    assert "a on texts, float32" in shell.out
    assert "failed zoo:opt 8 cells: ValueError('bad')" in shell.err


@pytest.mark.parametrize(("files", "said"), [(1, "1 file found"), (7, "7 files found")])
def test_what_was_found_in_a_shared_store_is_said(
    shell: Shell, run_folder: Path, tmp_path: Path, files: int, said: str
) -> None:
    for verb, run in (("run", run_folder), ("collect", counted_run(tmp_path / "counted"))):
        ended = Ended(run)
        ended.fetched = files
        shell.sweep(**{verb: lambda *_, ended=ended, **__: ended})
        assert shell(verb, "x.yaml") == 0, shell.err
        assert f"{said} in the shared store." in shell.out


@pytest.mark.parametrize("error", ["OSError('[/tmp/x] is full')", "KeyError([layer])"])
def test_a_failure_with_brackets_is_told_as_it_is(
    shell: Shell, run_folder: Path, error: str
) -> None:
    shell.sweep(run=lambda *_, **__: Ended(run_folder, failure(error)))
    assert shell("run", "x.yaml") == 1
    assert error in shell.err


def test_a_plan_is_printed_and_changes_nothing(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    made = planned.make(tmp_path)
    shell.sweep(plan=lambda _, plugins: made)
    before = sorted(tmp_path.rglob("*"))
    assert shell("plan", "x.yaml") == 0
    assert f"{len(made.rows)} points are {len(made.cells)} distinct cells" in shell.out
    assert shell("plan", "x.yaml", "--json") == 0
    said = json.loads(shell.out)
    assert said["points"] == len(made.rows)
    assert [c["name"] for c in said["cells"]] == list(made.cells)
    assert [t["name"] for t in said["tasks"]] == [t.name for t in made.tasks]
    assert said["models"][0]["model"] == "a"
    assert said["spec"]["fractions"] == [0.0, 0.5, 1.0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_status_is_told_as_a_table_or_as_json(shell: Shell, run_folder: Path) -> None:
    columns = {"name": ["t"], "stage": ["prepare"], "file": ["data/none.parquet"]}
    Store(run_folder).replace("plan.parquet", parquet(rows("plan", columns, 1)))
    assert shell("status", run_folder) == 0
    assert "not running here" in " ".join(shell.out.split())
    assert shell("status", run_folder, "--watch") == 0  # nobody drives it: there is nothing to see
    assert "not running here" in " ".join(shell.out.split())
    assert shell("status", run_folder, "--json") == 0
    prepare, *_ = json.loads(shell.out)["stages"]
    assert prepare == {"stage": "prepare", "done": 0, "running": 0, "missing": 1, "failed": 0}


@pytest.mark.parametrize("verb", ["status", "report"])
def test_a_folder_without_a_run_ends_with_4(shell: Shell, tmp_path: Path, verb: str) -> None:
    assert shell(verb, tmp_path) == 4
    assert "holds no run" in shell.err


def test_a_run_is_asked_and_a_wrong_question_ends_with_2(shell: Shell, run_folder: Path) -> None:
    assert shell("query", run_folder, "SELECT COUNT(*) AS n FROM cells", "--format", "csv") == 0
    assert shell.out == "n\n275\n"
    assert shell("query", run_folder, "SELECT x FROM sumary") == 2
    assert "did you mean 'summary'?" in shell.err
    assert "Traceback" not in shell.err
    assert shell("query", run_folder.parent, "slowest") == 4
    assert "holds no run" in shell.err
    assert shell("query", "--list") == 0
    assert "best-method" in shell.out


def test_help_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys; from orchestrator import cli;"
        "sys.exit(any(m in sys.modules for m in ('ray', 'torch', 'altair', 'transformers')))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == 0


def test_a_sweep_of_which_nothing_succeeded_is_told_so(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    made = planned.make(tmp_path)
    store = Store.open(tmp_path / "run")
    store.replace("cells.parquet", parquet(made.rows))
    results.aggregated(store, [("peak", "mean")])
    shell.sweep(run=lambda *_, **__: Ended(store.root, failure()))
    assert shell("run", "x.yaml") == 1, shell.err
    assert "a: its baseline is not answered" in shell.out
    assert "failed zoo:opt 8 cells" in shell.err
