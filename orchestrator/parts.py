"""Parts: which part of a plan is to be done now.

A run folder belongs to a whole sweep. One may ask for a part of it: for the
cells of a condition, or for the statistics alone. What that part needs is done
with it; the rest stays in the plan and is done another time.
"""

import re
from dataclasses import replace

import polars as pl

from orchestrator.mistakes import Mistake, SpecError
from orchestrator.plan import Plan, with_cells
from orchestrator.tables import SCHEMAS
from orchestrator.tasks import with_needs

_TEXTS = re.compile(r"'(?:[^']|'')*'")
_QUERY = re.compile(r"\b(select|from|table|read_\w+|scan_\w+)\b", re.IGNORECASE)
"""Words that only a query has: a condition needs no other table, and may read no file."""


def with_condition(made: Plan, condition: str | None) -> Plan:
    """Return the plan with the cells of an SQL condition on the cells table alone; None: all.

    Raises SpecError if it is no condition, or no cell has it.
    """
    if condition is None:
        return made
    table = pl.from_arrow(made.rows)
    assert isinstance(table, pl.DataFrame)
    try:
        other = _QUERY.search(_TEXTS.sub("''", condition))
        if other is not None:
            raise ValueError(f"{other[0]!r} is of a query, and other tables and files are not read")
        kept = table.filter(pl.sql_expr(condition)).select("cell").unique(maintain_order=True)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        columns = ", ".join(SCHEMAS["cells"].names)
        why = str(error).splitlines()[0].split(";")[0]  # Polars goes on with its own plan
        message = f"{condition!r} is not a condition on the cells: {why}. Columns: {columns}"
        raise SpecError([Mistake(path="--only", message=message)]) from None
    if kept.is_empty():
        raise SpecError([Mistake(path="--only", message=f"no cell has {condition}")])
    return with_cells(made, kept["cell"])


def statistics_alone(made: Plan) -> Plan:
    """Return the part of a plan that makes statistics of unablated models.

    Those that are collected again while neurons are held belong to the cells.
    """
    bare = [t.file for t in made.tasks if t.kind == "statistics" and t.arguments["cell"] is None]
    wanted = with_needs(made.tasks, bare)
    tasks = tuple(task for task in made.tasks if task.file in wanted)
    return replace(with_cells(made, ()), tasks=tasks)
