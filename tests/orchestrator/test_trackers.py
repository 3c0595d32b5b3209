"""Trackers: what each library is told, and how one that cannot be had is refused."""

import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import polars as pl
import pytest

from orchestrator import trackers
from orchestrator.mistakes import SpecError
from orchestrator.trackers import ROWS, Tracker, csv, markdown, opened

CONFIG: Mapping[str, object] = {"name": "toy", "methods": [{"name": "peak"}], "seeds": 2}
TABLE = pl.DataFrame(
    {"method": ["peak", "a|b"], "ce": [1.23456789, None], "parameters": [[1], []]},
    schema_overrides={"parameters": pl.List(pl.Int64)},
)


class Recorder:
    """Stands in for an object of a library: remembers the calls of whatever method."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            return self.answers.get(name)

        return called

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments, _ in self.calls if called == name]


def installed(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    made = ModuleType(name)
    for key, value in members.items():
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)


def used(asked: str) -> None:
    """Use a tracker as a run does."""
    (tracker,) = opened([asked])
    tracker.begin("toy-1", CONFIG)
    tracker.log({"cells/done": 3.0, "tokens_per_second/0": 10.0}, 5)
    tracker.table("summary", TABLE)
    tracker.close(finished=True)


def test_tensorboard_has_a_folder_per_driver_with_curves_and_texts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer, folders = Recorder(), list[str]()

    def made(log_dir: str) -> Recorder:
        folders.append(log_dir)
        return writer

    installed(monkeypatch, "torch.utils.tensorboard", SummaryWriter=made)
    used(f"tensorboard:{tmp_path}/logs")
    assert folders == [f"{tmp_path}/logs/toy-1"]
    assert writer.of("add_scalar") == [("cells/done", 3.0, 5), ("tokens_per_second/0", 10.0, 5)]
    (sweep, config), (name, summary) = writer.of("add_text")
    assert sweep == "sweep"
    assert '"name": "toy"' in config
    assert name == "summary"
    assert "| peak | 1.235 | [1] |" in summary
    assert writer.calls[-1][0] == "close"


def test_mlflow_has_parameters_metrics_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Recorder(
        create_experiment="7", create_run=SimpleNamespace(info=SimpleNamespace(run_id="r"))
    )
    asked: list[str] = []

    def connected(tracking_uri: str) -> Recorder:
        asked.append(tracking_uri)
        return client

    entities = SimpleNamespace(Metric=lambda *point: point)
    installed(monkeypatch, "mlflow", MlflowClient=connected, entities=entities)
    used("mlflow:http://127.0.0.1:5000")
    assert asked == ["http://127.0.0.1:5000"]
    assert client.of("create_run") == [("7",)]
    assert client.of("log_param") == [("r", "name", "toy"), ("r", "seeds", 2)]
    (points,) = [named["metrics"] for name, _, named in client.calls if name == "log_batch"]
    assert [(name, value, step) for name, value, _, step in points] == [
        ("cells/done", 3.0, 5),
        ("tokens_per_second/0", 10.0, 5),
    ]
    files = {file: text for _, text, file in client.of("log_text")}
    assert files["summary.csv"].startswith("method,ce,parameters\npeak,1.23456789,[1]\n")
    assert '"peak"' in files["sweep.json"]
    assert client.of("set_terminated") == [("r", "FINISHED")]


def test_wandb_has_a_config_points_and_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun = Recorder(), list[dict[str, Any]]()

    def init(**named: Any) -> Recorder:
        begun.append(named)
        return run

    installed(monkeypatch, "wandb", init=init, Table=lambda columns, data: (columns, data))
    used("wandb:neurons")
    (asked,) = begun
    assert (asked["project"], asked["name"], asked["config"]) == ("neurons", "toy-1", CONFIG)
    assert asked["settings"] == {"console": "off", "save_code": False}
    (points,), (table,) = run.of("log")
    assert points == {"cells/done": 3.0, "tokens_per_second/0": 10.0}
    columns, rows = table["summary"]
    assert columns == ["method", "ce", "parameters"]
    assert rows == [["peak", 1.23456789, "[1]"], ["a|b", None, "[]"]]
    assert run.calls[-1] == ("finish", (), {"exit_code": 0})


@pytest.mark.parametrize("asked", ["tensorboard", "tensorboard:", "logs", "wb:x", ""])
def test_an_unknown_kind_or_a_missing_place_is_refused_with_what_there_is(asked: str) -> None:
    with pytest.raises(SpecError, match=r"expected a kind and a place, one of mlflow:…, tensorb"):
        opened([asked])


def test_every_tracker_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(SpecError) as caught:
        opened(["wandb:p", "nothing:x", "mlflow:http://h"])
    said = str(caught.value)
    assert "pip install 'peaksweep[wandb]'" in said
    assert "pip install 'peaksweep[mlflow]'" in said
    assert "'nothing:x'" in said
    assert len(caught.value.mistakes) == 3


def test_a_library_that_refuses_the_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(tracking_uri: str) -> None:
        raise RuntimeError(f"unsupported {tracking_uri}")

    installed(monkeypatch, "mlflow", MlflowClient=refuses)
    with pytest.raises(SpecError, match="cannot be opened: RuntimeError: unsupported ftp://x"):
        opened(["mlflow:ftp://x"])


class Own:
    """A tracker of an installed package."""

    def __init__(self, where: str) -> None:
        self.where = where


def test_an_installed_package_may_bring_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="own", group=trackers.GROUP, value=f"{__name__}:Own")
    monkeypatch.setattr(trackers, "entry_points", lambda group: [point])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Own)
    found: list[Tracker] = opened(["own:place"])
    assert isinstance(found[0], Own)
    assert found[0].where == "place"


def test_tables_are_cut_where_they_are_shown_as_text_and_whole_as_files() -> None:
    long = pl.DataFrame({"x": range(ROWS + 5)})
    assert markdown(long).endswith("… and 5 more rows in the run folder.")
    assert len(csv(long).splitlines()) == ROWS + 6
    assert "a\\|b" in markdown(TABLE)


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    names = ("mlflow", "wandb", "torch.utils.tensorboard")
    before = {name for name in names if name in sys.modules}
    assert opened([]) == []
    assert {name for name in names if name in sys.modules} == before


def test_the_real_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    used(f"tensorboard:{tmp_path}")
    read = EventAccumulator(str(tmp_path / "toy-1"))
    read.Reload()
    assert [(p.step, p.value) for p in read.Scalars("cells/done")] == [(5, 3.0)]
    assert set(read.Tags()["tensors"]) == {"sweep/text_summary", "summary/text_summary"}


@pytest.mark.parametrize("kind", ["mlflow", "own"])
def test_a_password_in_a_place_is_refused_and_not_repeated(kind: str) -> None:
    with pytest.raises(SpecError, match=f"password in the place of '{kind}'.*environment") as told:
        opened([f"{kind}:https://me:s3cret@host/logs"])
    assert "s3cret" not in str(told.value)
