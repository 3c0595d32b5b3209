"""Asking: `peaksweep query`, from the words of a command to an answer on a terminal or in a file.

The last word is the question, as SQL or by the name of a ready-made one (`orchestrator.questions`);
all words before it are runs. The answer alone goes to standard output, so it can be piped; what is
said about it goes to standard error.

A table on a terminal shows the first rows. Where its columns do not fit beside each other each row
becomes a record, a column a line; into a pipe it goes as wide as it is. The other formats hold the
whole answer, numbers with all digits. Parquet keeps the types; JSON is one list of
objects, where numbers that are none are null; CSV has no lists, so a column of lists is refused
there. A file appears whole, at once, and never inside a run that is asked.
"""

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
from rich.cells import cell_len
from rich.text import Text

from orchestrator.frames import NAMES, frames
from orchestrator.lease import holder
from orchestrator.mistakes import nearest
from orchestrator.query import QueryError, answer, stores
from orchestrator.questions import QUESTIONS
from orchestrator.store import Store
from orchestrator.terminal import CommandError, Form, err, out

_FORMS: tuple[Form, ...] = ("table", "csv", "json", "parquet")
ROWS = 100
"""Rows that a table shows at most."""
ITEMS = 4
"""Items of a list that a table shows at most."""

_WRITE: Mapping[Form, Callable[[pl.LazyFrame, Path], object]] = {
    "csv": lambda frame, path: frame.sink_csv(path),
    "json": lambda frame, path: frame.collect(engine="streaming").write_json(path),
    "parquet": lambda frame, path: frame.sink_parquet(path),
}
_SEND: Mapping[Form, Callable[[pl.DataFrame, io.BytesIO], object]] = {
    "csv": lambda frame, content: frame.write_csv(content),
    "json": lambda frame, content: content.write(frame.write_json().encode() + b"\n"),
    "parquet": lambda frame, content: frame.write_parquet(content),
}


def ask(words: Sequence[str], form: Form | None, file: Path | None) -> None:
    """Answer a command's question of its runs, on standard output or in a file.

    `form` is that of the file's ending, or a table, if not given. Raises CommandError for what the
    user must change, and what `orchestrator.query.query` raises else.
    """
    if len(words) < 2:
        raise CommandError(
            'give one or more runs and then a question: peaksweep query RUN "SELECT …", or the'
            f" name of a ready-made one ({', '.join(QUESTIONS)})"
        )
    *places, question = words
    chosen = form or _of_ending(file)
    try:
        sql, runs = _sql(question), stores(places)
        _going_on(runs)
        if file is not None:
            _to_file(runs, sql, chosen, file)
        elif chosen == "table":
            _show(answer(runs, sql, lambda f: f.head(ROWS + 1).collect(engine="streaming")))
        else:
            _send(runs, sql, chosen)
    except QueryError as error:
        raise CommandError(str(error)) from error


def listed(words: Sequence[str]) -> None:
    """Print the ready-made questions with their SQL, and the tables of runs with their columns.

    Raises StoreError where a folder holds no run.
    """
    for name, question in QUESTIONS.items():
        out.print(Text.assemble((name, "bold"), "  ", question.about), soft_wrap=True)
        out.print(Text(question.sql + "\n", style="dim"), soft_wrap=True)
    for run, store in stores(words).items():
        out.print(Text(f"{run}: tables and their columns, after `run`", style="bold"))
        for name in NAMES:
            columns = frames(store)[name].collect_schema()
            told = ", ".join(f"{c} ({_type(kind)})" for c, kind in columns.items())
            out.print(Text.assemble((name, "bold"), "  ", told), soft_wrap=True)


def _type(kind: pl.DataType) -> str:
    return str(kind).replace("String", "text")


def _of_ending(file: Path | None) -> Form:
    ending = "table" if file is None else file.suffix.lstrip(".").lower()
    for form in _FORMS:
        if form == ending:
            return form
    raise CommandError(f"{file} does not say what to write; give --format csv, json or parquet")


def _sql(question: str) -> str:
    """Return a question's SQL; raises QueryError for a name that there is not."""
    if question in QUESTIONS:
        return QUESTIONS[question].sql
    if len(question.split()) > 1:
        return question
    raise QueryError(
        f"{question!r} is neither SQL nor a ready-made question"
        f"{nearest(question, tuple(QUESTIONS))} Questions: {', '.join(QUESTIONS)}"
    )


def _going_on(runs: Mapping[str, Store]) -> None:
    """Say which runs have not ended, so that nobody takes their answers for the last."""
    for run, store in runs.items():
        if holder(store) is not None:
            err.print(f"{run} is going on: this is over what is there now.", markup=False)


def _to_file(runs: Mapping[str, Store], sql: str, form: Form, file: Path) -> None:
    if form == "table":
        raise CommandError(f"a table is for a terminal; for {file} take csv, json or parquet")
    target = file.absolute()
    for store in runs.values():
        if store.local and target.resolve().is_relative_to(Path(str(store.place)).resolve()):
            raise CommandError(f"{file} is inside the run {store.uri}; give a place outside of it")
    if not target.parent.is_dir():
        raise CommandError(f"{file} cannot be written: there is no folder {target.parent}")
    beside = target.with_name(f".{target.name}.{os.getpid()}")

    def write(frame: pl.LazyFrame) -> None:
        _flat(frame, form)
        _WRITE[form](frame, beside)

    try:
        answer(runs, sql, write)
        beside.replace(target)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    err.print(f"Written: {file}", markup=False, soft_wrap=True)


def _send(runs: Mapping[str, Store], sql: str, form: Form) -> None:
    if form == "parquet" and sys.stdout.isatty():
        raise CommandError("Parquet is no text; give --out FILE.parquet, or pipe it")

    def collect(frame: pl.LazyFrame) -> pl.DataFrame:
        _flat(frame, form)
        return frame.collect(engine="streaming")

    content = io.BytesIO()
    _SEND[form](answer(runs, sql, collect), content)
    try:
        sys.stdout.buffer.write(content.getbuffer())
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        out.on_broken_pipe()


def _flat(frame: pl.LazyFrame, form: Form) -> None:
    """Refuse what a format cannot hold."""
    nested = [name for name, kind in frame.collect_schema().items() if kind.is_nested()]
    if form == "csv" and nested:
        raise CommandError(
            f"CSV holds no lists, as {', '.join(nested)} {'is' if len(nested) == 1 else 'are'};"
            " leave it out, take an item with ARRAY_GET(column, 1), or take json or parquet"
        )


def _show(found: pl.DataFrame) -> None:
    shown = found.head(ROWS)
    if not found.width:
        return
    width = out.width if out.is_terminal else None
    for line in laid_out(shown, width):
        out.print(line, soft_wrap=True)
    if found.height > ROWS:
        err.print(
            f"The first {ROWS} rows. For all of them: --format csv, json or parquet, or --out.",
            soft_wrap=True,
        )
    elif not found.height:
        err.print("No rows: nothing in the tables answers this.")


def laid_out(frame: pl.DataFrame, width: int | None) -> list[Text]:
    """Return the lines of a table, or of a record per row where it is wider than `width` cells."""
    columns = [[_text(value) for value in frame[name]] for name in frame.columns]
    widths = [
        max(map(cell_len, (name, *texts)))
        for name, texts in zip(frame.columns, columns, strict=True)
    ]
    if width is not None and frame.height and sum(widths) + 2 * (len(widths) - 1) > width:
        return list(_records(frame.columns, columns))
    right = [kind.is_numeric() for kind in frame.dtypes]
    lines = [Text(_row(frame.columns, widths, right), style="bold")]
    lines += [Text(_row(texts, widths, right)) for texts in zip(*columns, strict=True)]
    return lines


def _records(names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[Text]:
    wide = max(map(cell_len, names))
    lines = []
    for number, texts in enumerate(zip(*columns, strict=True), 1):
        lines.append(Text(f"row {number}", style="bold"))
        lines += [
            Text(f"  {name}{' ' * (wide - cell_len(name))}  {text}")
            for name, text in zip(names, texts, strict=True)
        ]
    return lines


def _row(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cells = []
    for text, width, at_end in zip(texts, widths, right, strict=True):
        space = " " * (width - cell_len(text))
        cells.append(space + text if at_end else text + space)
    return "  ".join(cells).rstrip()


def _text(value: object) -> str:
    """Return a value as a table shows it: floats to five digits, lists by their first items."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.5g}"
        case pl.Series() | list():
            items = [_text(item) for item in value[:ITEMS]]
            more = len(value) - len(items)
            return f"[{', '.join(items)}{f', … {more} more' if more else ''}]"
        case _:
            return " ".join(str(value).split())
