"""Bases: do peaks mean anything beyond the axes they are read in?

The axes inside a head are arbitrary: a rotation of every head leaves the model as it is, and
zero and the mean of a whole head with it, but it moves every peak. If holding at the peak does
better than the mean in the checkpoint's own axes and not in rotated ones, its axes mean
something; if it does the same in both, peaks are a matter of shape, not of these neurons.
"""

from collections.abc import Mapping

import polars as pl

from orchestrator.labels import OWN
from orchestrator.report.compared import numbers
from orchestrator.report.contrasts import difference
from orchestrator.report.html import Child, Element, columns, folded, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import in_turn, left_out
from orchestrator.report.words import NBSP, count

_PAIRS = ("peak - mean", "mean - peak")


def bases_section(run: Run) -> list[Element]:
    """Return peak − mean in own and in rotated axes; nothing where nothing was rotated."""
    rows = run.contrasts.filter(
        pl.col("basis").is_null(),
        pl.col("method").is_in(list(_PAIRS)),
        pl.col("metric") == "ce",
        pl.col("fraction").is_null(),
    )
    rows = rows.unique(["panel", "method", "b"], maintain_order=True)
    if not rows.height:
        return []
    sides = _sides(run)
    body = []
    by_model = [own.to_dicts() for own in rows.partition_by("model", maintain_order=True)]
    for found in in_turn(by_model):
        cells = [
            str(found["b"]).replace(" ", NBSP),
            _side(sides, found, OWN),
            _side(sides, found, found["b"]),
            numbers(found),
        ]
        body.append(row(found["panel"], *cells))
    hangs = rows.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    said = difference(rows["method"][0])
    verdict = (
        "so nothing here shows that peaks mean more in these axes than in any others"
        if not hangs
        else "so there what peaks do hangs on the axes"
    )
    caption = (
        f"{said}: mean difference in CE (nats) over the held share, in the model’s own axes, in"
        " rotated ones, and own less rotated, each with its 95 % interval over documents and"
        f" masks. {left_out(rows.height - len(body), 'contrasts')}"
    ).strip()
    return [
        tag("h3", "Do peaks survive a rotation"),
        tag(
            "p",
            "Rotating the axes inside every head leaves the unablated model as it is, but moves"
            f" every peak. The difference {said} differs between own and rotated axes, its"
            f" interval clear of zero, in {hangs:,} of {count(rows.height, 'comparison')},"
            f" {verdict}.",
        ),
        folded(
            table(
                caption,
                [columns("setting", "rotation", "own axes", "rotated axes", "difference")],
                [tag("tbody", *body)],
                kind="stacked",
            ),
            f"In {count(len(body), 'setting')}",
            rows=len(body),
        ),
    ]


_SIDE = ("model", "data", "dtype", "site", "unit", "layers", "complement", "selection", "basis")


def _sides(run: Run) -> Mapping[tuple[object, ...], Mapping[str, float | None]]:
    """Return the areas of methods' differences by the columns `_SIDE`, a and b."""
    rows = run.contrasts.filter(
        pl.col("fraction").is_null(), pl.col("metric") == "ce", pl.col("basis").is_not_null()
    )
    return {tuple(row[c] for c in (*_SIDE, "a", "b")): row for row in rows.to_dicts()}


def _side(
    sides: Mapping[tuple[object, ...], Mapping[str, float | None]],
    found: Mapping[str, object],
    basis: str,
) -> Child:
    """Return the difference of the two methods in one basis."""
    a, _, b = str(found["method"]).partition(" - ")
    keys = [*(found[c] for c in _SIDE[:-1]), basis]
    there = sides.get((*keys, a, b))
    if there is not None:
        return numbers(there, adjusted=False)
    other = sides.get((*keys, b, a))
    if other is None:
        return "–"
    turned = {
        "estimate": _minus(other["estimate"]),
        "low": _minus(other["high"]),
        "high": _minus(other["low"]),
    }
    return numbers({**other, **turned}, adjusted=False)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
