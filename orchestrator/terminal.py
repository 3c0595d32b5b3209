"""The terminal: what every verb of the command line shares.

The two consoles (answers go to `out`, what went wrong and notes to `err`), the arguments that
several verbs take, and how a command ends: with a sentence and an exit code, never with a traceback
unless the error is our own. A verb whose body does not fit `cli` lives in a module of its own
above this one, raises `CommandError` for what its user must change, and knows nothing of codes.

Both consoles find their stream and its width when they print, so what a test or a pipe puts in
their place is what they write to.
"""

import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.buckets import DifferingAnswersError
from orchestrator.mistakes import SpecError
from orchestrator.pool import PoolError, SilentError
from orchestrator.scratch import ScratchError
from orchestrator.store import Store, StoreError
from orchestrator.sums import DifferingRoundsError
from orchestrator.tasks import Failure

out = Console()
err = Console(stderr=True)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A sweep file (YAML).")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its URI.")]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Run folder, or a URI (s3://…); runs/NAME if not given."),
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; one is started here if not given.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Replicas at once.")]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A module with methods of your own."),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="KIND:WHERE", help="Log there too, e.g. tensorboard:logs."),
]
Form = Literal["table", "csv", "json", "parquet"]
"""How an answer is written."""
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


class CommandError(ValueError):
    """A command that cannot be done as it was given; its sentence says what to change. Code 2."""


class LeftError(SystemExit):
    """An interrupt of a command that only watched; what it left behind has been told."""


def end(store: Store, failures: Sequence[Failure]) -> NoReturn:
    """Tell what failed, and end the command with its code."""
    for failure in failures:
        said = (
            f"{failure.label}: {failure.error} ({failure.blocked} tasks not tried because of it);"
            f" details in {store.where(failure.record)}; by hand: {failure.command}"
        )
        err.print("[red]failed[/] " + escape(said), soft_wrap=True)
    raise typer.Exit(1 if failures else 0)


def on_signal(number: int, frame: FrameType | None) -> None:
    """End the process as this signal asks, by way of every `finally`."""
    raise SystemExit(128 + number)


def _same() -> str:
    """Return the command that this process was started with."""
    return shlex.join(["peaksweep", *sys.argv[1:]])


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what goes wrong into a sentence and an exit code."""
    try:
        yield
    except (SpecError, CommandError) as error:
        _tell(str(error), 2)
    except SilentError as error:
        _tell(str(error), 3)
    except PoolError as error:
        _tell(f"The cluster cannot hold the plan: {error}", 3)
    except (StoreError, ScratchError) as error:
        _tell(str(error), 4)
    except (DifferingAnswersError, DifferingRoundsError) as error:
        _tell(str(error), 1)
    except SystemExit as error:
        interrupted = error.code in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        if interrupted and not isinstance(error, LeftError):
            err.print(
                f"Interrupted. Nothing is lost: to go on, run the same again: {_same()}",
                markup=False,
                soft_wrap=True,
            )
        raise
    except Exception:
        err.print(traceback.format_exc(), markup=False, highlight=False)
        err.print("This is an error of peaksweep's own; what is done is kept. Please report it.")
        sys.exit(70)


def _tell(sentence: str, code: int) -> NoReturn:
    err.print(sentence, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
