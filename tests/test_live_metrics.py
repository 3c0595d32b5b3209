"""A run on a real Ray cluster, watched while it runs: in the cluster's own metrics, and from files.

One model's cells are answered and the other's are held at a gate, so that what is read is known.
"""

import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from orchestrator import sweep, trackers
from orchestrator.status import status
from orchestrator.watching import screen
from tests.faults import SPEC, Gates, Nodes, driving, until
from tests.sweeps import SMALL, answers, events, written

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

OFTEN = 500
"""Milliseconds between two reports of Ray's processes; ten seconds if nobody says otherwise."""


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    folder = tmp_path / "gates"
    folder.mkdir()
    return Gates(folder)


@pytest.fixture
def nodes(gates: Gates) -> Iterator[Nodes]:
    made = Nodes(gates.environment(), metrics_report_interval_ms=OFTEN)
    yield made
    made.shutdown()


def exported(nodes: Nodes) -> dict[str, float]:
    """Return our metrics as Ray's agents on loopback export them: name and worker to value."""
    found: dict[str, float] = {}
    for node in [nodes.cluster.head_node, *nodes.workers]:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_export_port}/metrics") as page:
            text = page.read().decode()
        for name, labels, value in re.findall(
            r"^ray_peaksweep_(\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE
        ):
            tags = dict(re.findall(r'(\w+)="(.*?)"', labels))
            assert tags["run"] == "run"
            worker = f" {tags['worker']}" if "worker" in tags else ""
            found[name + worker] = float(value)
    return found


def test_the_clusters_metrics_and_the_status_tell_where_a_run_is(
    nodes: Nodes, gates: Gates, tmp_path: Path
) -> None:
    run, wanted = tmp_path / "run", {}
    gates.close("evaluate", label="zoo:opt", always=True)
    environment = {**gates.environment(), "RAY_metrics_report_interval_ms": str(OFTEN)}
    address = ("--address", nodes.address)
    with driving(written(tmp_path, SPEC), run, *address, environment=environment) as driver:

        def answered() -> bool:
            done = [e for e in events(run, "done") if "answers" in e]
            return sum(e["answers"] for e in done) >= wanted["cells_done"]

        def told() -> bool:
            found = exported(nodes)
            return all(found.get(name) == value for name, value in wanted.items())

        gates.caught("evaluate")
        (begin,) = events(run, "begin")
        cells = begin["left"]["evaluate"]
        wanted = {"cells_done": cells / 2, "cells_left": cells / 2}
        until(answered, "one model's cells to be answered")
        until(told, f"the cluster's metrics to say {wanted}")
        found = exported(nodes)
        assert found["workers_ready"] == 2
        assert (found["failures"], found["retries"], found["workers_lost"]) == (0, 0, 0)
        speeds = [found[f"tokens_per_second {worker}"] for worker in (0, 1)]
        assert max(speeds) > 0  # the other may just have taken another model
        counted = sum(found.get(f"tokens_total {worker}", 0.0) for worker in (0, 1))
        assert counted == sum(e.get("tokens", 0) for e in events(run, "done")) > 0

        held = Console(width=100, record=True, file=(tmp_path / "screen").open("w"))
        held.print(screen(status(run), height=40))
        shown = held.export_text()
        assert f"{cells // 2}/{cells}" in shown
        assert re.search(r"zoo:opt .*zoo:opt \d+ cells", shown), shown

        gates.open()
        driver.ends()
    scored = answers(run)["tokens"].sum()
    ended = [e for e in events(run, "done") if "answers" in e]
    assert sum(e["tokens"] for e in ended) == scored
    assert not events(run, "untracked")


class Notebook:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.config: Mapping[str, object] = {}
        self.numbers: dict[str, float] = {}
        self.tables: dict[str, pl.DataFrame] = {}
        self.ended: list[bool] = []

    def begin(self, name: str, config: Mapping[str, object]) -> None:
        self.name, self.config = name, config

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.numbers |= values

    def table(self, name: str, frame: pl.DataFrame) -> None:
        self.tables[name] = frame

    def close(self, *, finished: bool) -> None:
        self.ended.append(finished)


def test_a_tracked_sweep_is_logged_from_its_file_to_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Notebook] = {}

    def notebook(where: str) -> Notebook:
        return made.setdefault(where, Notebook())

    monkeypatch.setattr(trackers, "KINDS", {"notebook": notebook})
    spec, run = written(tmp_path, SMALL), tmp_path / "run"
    for where in ("first", "second"):  # the second finds everything done
        ended = sweep.run(spec, out=run, local=True, track=[f"notebook:{where}"])
    first, second = made["first"], made["second"]
    assert [first.name, second.name] == ["run-1", "run-2"]
    assert first.config["name"] == "small"
    assert (first.numbers["cells/done"], first.numbers["cells/left"]) == (3.0, 0.0)
    assert first.numbers["tokens_per_second/0"] > 0
    assert second.numbers["cells/done"] == ended.found == 3
    for tracker in made.values():
        assert tracker.ended == [True]
        for kind in ("summary", "contrasts"):
            assert tracker.tables[kind].equals(pl.read_parquet(run / f"{kind}.parquet"))
