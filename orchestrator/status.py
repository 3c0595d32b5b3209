"""Status: where a run stands, from its files alone.

Right at any moment and from any machine that sees the folder: nothing is asked
of the process that runs the sweep, and nothing is believed that is not a file.
What is under way is the one thing files cannot prove; it is read from the story
(`events.jsonl`) while a driver holds the folder's lock.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.lock import holder
from orchestrator.results import unread
from orchestrator.resume import FOLDERS, MEANS
from orchestrator.store import Store, StoreError
from orchestrator.tasks import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """How far one stage is, in tasks; for `evaluate`, in cells."""

    stage: str
    done: int
    running: int
    missing: int
    """Neither done, running nor failed."""
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Where a run stands."""

    run: str
    driver: int | None
    """Process that works on it now, None if none does on this machine."""
    stages: tuple[StageStatus, ...]
    failures: tuple[str, ...]
    """One line each: what failed and why."""

    @property
    def finished(self) -> bool:
        """Whether everything is done."""
        left = any(s.running or s.missing or s.failed for s in self.stages)
        return bool(self.stages) and not left


def status(run: str | Path) -> Status:
    """Return where the run in a folder stands.

    Raises StoreError if there is no run in it.
    """
    root = Path(run)
    if not (root / "plan.parquet").is_file():
        raise StoreError(
            f"{root} holds no run (no plan.parquet); give a folder made by `run` or `collect`"
        )
    store = Store(root.absolute())
    plan = store.table("plan.parquet").to_pylist()
    files = {f for kind in FOLDERS for f in store.files(kind) if store.whole(f)}
    cells = {row["name"] for row in plan if row["kind"] == "cell"} - unread(store)
    failures = [store.read_json(f) for f in store.files("failures", ".json")]
    failed = {str(f["file"]) for f in failures} | {
        c for f in failures for c in _list(f.get("cells"))
    }
    driver = holder(store)
    running = _running(store) if driver is not None else set()
    made = files | (cells - running)
    # A partial that is gone is not missed once all that is made from it is there.
    unfinished = {r["model"] for r in plan if r["kind"] not in MEANS and _key(r) not in made}
    made |= {_key(r) for r in plan if r["kind"] in MEANS and r["model"] not in unfinished}
    stages = []
    for stage in STAGES:
        names = {_key(r) for r in plan if r["stage"] == stage}
        if not names:  # a sweep that learns nothing has no such stage
            continue
        done = names & made
        here, wrong = (names & running) - done, (names & failed) - done
        stages.append(
            StageStatus(
                stage=stage,
                done=len(done),
                running=len(here),
                failed=len(wrong - here),
                missing=len(names - done - here - wrong),
            )
        )
    return Status(
        run=str(root),
        driver=driver,
        stages=tuple(stages),
        failures=tuple(f"{f['label']}: {f['error']}" for f in failures),
    )


def _key(row: Mapping[str, str]) -> str:
    """Return what stands for a row of the plan: a task's file, a cell's name."""
    return row["name"] if row["kind"] == "cell" else row["file"]


def _list(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else []


def _running(store: Store) -> set[str]:
    """Return the tasks and cells that the story says were started and not ended since."""
    open_tasks: dict[str, list[str]] = {}
    if not store.exists("events.jsonl"):
        return set()
    with store.path("events.jsonl").open() as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # an empty line, or one that was cut off
                continue
            match event.get("event"):
                case "begin":
                    open_tasks.clear()
                case "started":
                    open_tasks[event["file"]] = [event["file"], *_list(event.get("cells"))]
                case "done" | "failed" | "retried" | "blocked":
                    open_tasks.pop(event.get("file"), None)
    return {name for names in open_tasks.values() for name in names}
