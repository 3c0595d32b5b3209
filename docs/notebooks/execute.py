"""Execute: a notebook made from plain cells, with what they answered.

    python docs/notebooks/execute.py docs/notebooks/from_spec_to_figure.py

A notebook in a repository is hard to review and easily stale. So its cells are written in a plain
file (`# %%` begins a cell, `# %% [markdown]` one of text), and this makes the notebook beside it:
cells run in order, in a new folder and in this process, and the value of the last expression is
kept as Jupyter would show it. Tables are kept as HTML, charts as SVG, which need nothing to
be looked at. A cell that raises ends it, and no notebook is written.

Weak where a cell needs a kernel: magics, input and widgets.
"""

import ast
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

Cell = dict[str, Any]


def cells(text: str) -> list[Cell]:
    """Return the cells of a plain file, not yet run; ids are their places, so nothing changes."""
    made: list[Cell] = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        first, _, body = part.partition("\n")
        body = body.strip("\n")
        cell: Cell = {"id": f"cell-{len(made)}", "metadata": {}}
        if "[markdown]" in first:
            lines = [re.sub(r"^# ?", "", line) for line in body.splitlines()]
            cell |= {"cell_type": "markdown", "source": "\n".join(lines)}
        else:
            cell |= {"cell_type": "code", "source": body, "execution_count": None, "outputs": []}
        made.append(cell)
    return made


def executed(made: list[Cell]) -> list[Cell]:
    """Return the cells with their outputs; they run in the working folder, in one namespace."""
    names: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for cell in made:
        if cell["cell_type"] == "code":
            count += 1
            cell |= {"execution_count": count, "outputs": _outputs(cell["source"], names, count)}
    return made


def notebook(made: list[Cell]) -> str:
    """Return cells as the text of a notebook, format 4.5."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


@contextmanager
def in_new_folder() -> Iterator[None]:
    """Work in a folder that is gone afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _outputs(source: str, names: dict[str, object], count: int) -> list[Cell]:
    """Run a cell; return what it printed, and the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):  # progress is no output
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[Cell] = []
    if said := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": said})
    if value is not None:
        shown = {"output_type": "execute_result", "execution_count": count, "metadata": {}}
        outputs.append({**shown, "data": _shown(value)})
    return outputs


def _shown(value: object) -> dict[str, str]:
    if isinstance(value, pl.DataFrame):
        return {"text/html": value._repr_html_(), "text/plain": str(value)}
    if isinstance(value, alt.TopLevelMixin):
        svg = vl_convert.vegalite_to_svg(value.to_json())
        return {"image/svg+xml": svg, "text/plain": "a chart"}
    return {"text/plain": repr(value)}


def main(files: list[str]) -> None:
    """Write the notebook of every plain file beside it."""
    for file in map(Path, files):
        made = cells(file.read_text())
        with in_new_folder():
            executed(made)
        file.with_suffix(".ipynb").write_text(notebook(made))


if __name__ == "__main__":
    main(sys.argv[1:])
