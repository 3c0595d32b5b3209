"""Trackers: where a sweep is logged beside its own run folder, if somebody asks for it.

    tensorboard:DIR     event files in a folder; `tensorboard --logdir DIR` shows them
    mlflow:URI          a tracking server, or a store that the library installed here can use
    wandb:PROJECT       Weights & Biases; `WANDB_MODE=offline` keeps it on this machine

Each is a thin adapter to a library that is imported when it is asked for, and not before.
A tracker of one's own is an entry point of the group `peaksweep.trackers`: a callable that takes
what stands behind the colon and returns a `Tracker`.

A tracker is told three things: the resolved sweep file as it begins, numbers as they change
(`orchestrator.meters.Reading.numbers`; the step is the seconds since the driver began), and
the summary and the contrasts when they are made. Every driver of a run folder is one run of its
own there. Nothing is ever read back, and no answer depends on it. What is logged leaves this
machine where the library sends it: paths and names of models and data are in it.
"""

import importlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import polars as pl

from orchestrator.files import has_password
from orchestrator.mistakes import Mistake, SpecError

GROUP = "peaksweep.trackers"
"""Entry points of this group make trackers."""
ROWS = 200
"""Rows of a table that TensorBoard is shown; it has no tables, only text."""


class MissingError(ValueError):
    """The library of a tracker is not installed."""


class Tracker(Protocol):
    """Something that logs a run. All but `begin` may be called from a thread, one at a time."""

    def begin(self, name: str, config: Mapping[str, object]) -> None:
        """Begin a run of this name, with the resolved sweep file."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name; `step` is seconds since the beginning, and never falls."""

    def table(self, name: str, frame: pl.DataFrame) -> None:
        """Log a table that is complete."""

    def close(self, *, finished: bool) -> None:
        """End the run; `finished` is whether the driver came to its end."""


class TensorBoard:
    """Event files in a folder per driver."""

    def __init__(self, where: str) -> None:
        """Write under the folder `where`."""
        self._folder = Path(where)
        self._library = _library("torch.utils.tensorboard", "tensorboard")

    def begin(self, name: str, config: Mapping[str, object]) -> None:
        """Begin a folder, and show the sweep file as text."""
        self._writer: Any = self._library.SummaryWriter(log_dir=str(self._folder / name))
        said = json.dumps(config, indent=2, default=str)
        self._writer.add_text("sweep", "\n".join(f"    {line}" for line in said.splitlines()))
        self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to every curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # people look while it runs

    def table(self, name: str, frame: pl.DataFrame) -> None:
        """Show the first rows as text."""
        self._writer.add_text(name, markdown(frame))
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()


class MLflow:
    """A run of an experiment `peaksweep` on a tracking server."""

    def __init__(self, where: str) -> None:
        """Log to the server or store `where`."""
        self._library = _library("mlflow", "mlflow")
        self._client: Any = self._library.MlflowClient(tracking_uri=where)

    def begin(self, name: str, config: Mapping[str, object]) -> None:
        """Create the run; the sweep file is an artifact, its simple settings are parameters."""
        found = self._client.get_experiment_by_name("peaksweep")
        number = self._client.create_experiment("peaksweep") if found is None else None
        made = self._client.create_run(number or found.experiment_id, run_name=name)
        self._run: str = made.info.run_id
        for key, value in config.items():
            if isinstance(value, (str, int, float)):
                self._client.log_param(self._run, key, value)
        self._client.log_text(self._run, json.dumps(config, indent=2, default=str), "sweep.json")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log all numbers in one request."""
        now, made = int(1000 * time.time()), self._library.entities.Metric
        points = [made(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=points)

    def table(self, name: str, frame: pl.DataFrame) -> None:
        """Keep the table as a CSV file beside the run."""
        self._client.log_text(self._run, csv(frame), f"{name}.csv")

    def close(self, *, finished: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


class WandB:
    """A run of a project of Weights & Biases."""

    def __init__(self, where: str) -> None:
        """Log to the project `where`."""
        self._project = where
        self._library = _library("wandb", "wandb")

    def begin(self, name: str, config: Mapping[str, object]) -> None:
        """Begin the run, with the sweep file as its config."""
        self._run: Any = self._library.init(
            project=self._project,
            name=name,
            config=dict(config),
            job_type="sweep",
            settings={"console": "off", "save_code": False},  # neither was asked for
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        self._run.log(dict(values), step=step)

    def table(self, name: str, frame: pl.DataFrame) -> None:
        """Log the table."""
        plain = _plain(frame)
        rows = [list(row) for row in plain.iter_rows()]
        self._run.log({name: self._library.Table(columns=plain.columns, data=rows)})

    def close(self, *, finished: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if finished else 1)


KINDS: Mapping[str, Callable[[str], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
"""What makes a tracker of what stands behind the colon, by what stands before it."""


def opened(asked: Sequence[str]) -> list[Tracker]:
    """Return a tracker for each `KIND:WHERE`; raises SpecError with all that cannot be had."""
    found: list[Tracker] = []
    mistakes: list[Mistake] = []
    for one in asked:
        try:
            found.append(_opened(one))
        except ValueError as error:
            mistakes.append(Mistake(path="--track", message=str(error)))
    if mistakes:
        raise SpecError(mistakes)
    return found


def _opened(asked: str) -> Tracker:
    kind, _, where = asked.partition(":")
    if has_password(where):
        raise ValueError(
            f"found a password in the place of {kind!r}; commands stand in the run folder and in"
            f" logs, so give it by the environment, as {kind} wants it"
        )
    own = {point.name: point for point in entry_points(group=GROUP)}
    if not where or (kind not in KINDS and kind not in own):
        known = ", ".join(f"{name}:…" for name in sorted({*KINDS, *own}))
        raise ValueError(f"found {asked!r}; expected a kind and a place, one of {known}")
    try:
        made: Tracker = (KINDS[kind] if kind in KINDS else own[kind].load())(where)
    except MissingError:
        raise
    except Exception as error:  # a library of somebody else's may raise what it likes
        raise ValueError(f"{asked!r} cannot be opened: {type(error).__name__}: {error}") from error
    return made


def _library(module: str, package: str) -> ModuleType:
    """Import what a tracker needs; raises MissingError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(
            f"{package} cannot be imported ({error}); to install it:"
            f" pip install 'peaksweep[{package}]'"
        ) from error


def csv(frame: pl.DataFrame) -> str:
    """Return a table as CSV; columns that hold lists or records are JSON."""
    content = io.StringIO()
    _plain(frame).write_csv(content)
    return content.getvalue()


def markdown(frame: pl.DataFrame) -> str:
    """Return the first rows of a table as Markdown, and how many more there are."""
    plain = _plain(frame)
    lines = [plain.columns, ["---"] * plain.width]
    for row in plain.head(ROWS).iter_rows():
        lines.append([_cell(value) for value in row])
    said = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    rest = plain.height - ROWS
    return said if rest <= 0 else f"{said}\n\n… and {rest:,} more rows in the run folder."


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table with one value in every place."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    told = [
        pl.Series(name, [json.dumps(value) for value in frame[name].to_list()], pl.String)
        for name in nested
    ]
    return frame.with_columns(told)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
