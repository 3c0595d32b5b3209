"""Effects: what holding each unit does to the loss, where a regression on random masks said it.

A unit's effect is the coefficient of its being held, in nats of CE on the collection data, with
a 95 % interval. Neurons regressed in blocks share one effect. Effects add up only as far as the
regression is right that they do; they choose units, and are tested by the curves.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import polars as pl

from orchestrator.report.html import Element, columns, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import site, words
from orchestrator.report.tables import heading, with_interval
from orchestrator.report.words import count

ENDS = 6
"""Units shown from either end of a ranking."""
TABLES = 8

Numbers = Mapping[str, float | None]
Unit = tuple[str, Numbers]


def effects_section(run: Run) -> list[Element]:
    """Return the units with the largest and the smallest effects; nothing without a regression."""
    rows = run.effects.unique(
        ["model", "data", "site", "unit", "selection", "basis"], keep="first", maintain_order=True
    )
    rows = rows.filter(pl.col("model").is_in(run.settings["model"].to_list()))
    if not rows.height:
        return []
    bodies = []
    for found in rows.head(TABLES).to_dicts():
        layers = _layers(run, found)
        units = _blocks(found, layers)
        known = sum(1 for _, n in units if _clear(n))
        aside = (
            f"{found['selection']}, {words('unit', found['unit'])} of {site(found['site'])}:"
            f" {known:,} of {count(len(units), 'effect')} have an interval clear of zero"
        )
        lines = [heading(str(found["model"]), aside, 2)]
        top, bottom = units[::-1][:ENDS], units[: max(min(ENDS, len(units) - ENDS), 0)][::-1]
        lines += [row(name, with_interval(n, "score", 1)) for name, n in top]
        between = len(units) - len(top) - len(bottom)
        if between > 0:
            lines.append(row(f"… {between:,} between …", ""))
        lines += [row(name, with_interval(n, "score", 1)) for name, n in bottom]
        bodies.append(tag("tbody", *lines))
    left = rows.height - TABLES
    more = f" {left:,} more tables are in selections/." if left > 0 else ""
    caption = (
        "Effect of holding a unit on CE (nats, on collection data), from a ridge regression on"
        " random masks, with its 95 % interval; the largest effects and the smallest. Not adjusted:"
        f" among many units some intervals miss zero by chance.{more}"
    )
    return [
        tag("h3", "Effects of single units"),
        table(caption, [columns("unit", "effect, nats")], bodies, kind="narrow"),
    ]


def _clear(numbers: Numbers) -> bool:
    low, high = numbers["low"], numbers["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _layers(run: Run, found: Mapping[str, object]) -> int:
    """Return how many layers the model has; 1 where that is not recorded."""
    models = run.provenance.get("models")
    facts = models.get(found["model"]) if isinstance(models, Mapping) else None
    layers = facts.get("layers") if isinstance(facts, Mapping) else None
    return layers if isinstance(layers, int) else 1


def _blocks(found: Mapping[str, object], layers: int) -> list[Unit]:
    """Return the units, or blocks of neurons with one effect, by growing effect."""
    sites = len(str(found["site"]).split("+"))
    order, score = _list(found["order"]), _list(found["score"])
    low, high = _list(found["score_low"]), _list(found["score_high"])
    units = sorted(zip(order, score, low, high, strict=True))
    per_layer = max(len(units) // (layers * sites), 1)
    what = "head" if found["unit"] == "head" else "neuron"
    blocks = []
    for (layer, *numbers), members in groupby(
        units, key=lambda unit: (int(unit[0]) // per_layer, *unit[1:])
    ):
        inside = [int(unit[0]) % per_layer for unit in members]
        first, last = inside[0], inside[-1]
        which = f"{what} {first}" if first == last else f"{what}s {first}–{last}"
        part = "" if sites == 1 else f"{site(_site(found, layer, layers))} · "
        name = f"{part}layer {int(layer) % layers} · {which}"
        keyed: Numbers = dict(zip(("score", "low", "high"), numbers, strict=True))
        blocks.append((name, keyed))
    return sorted(blocks, key=lambda block: block[1]["score"] or 0)


def _site(found: Mapping[str, object], layer: float, layers: int) -> str:
    return str(found["site"]).split("+")[int(layer) // layers]


def _list(value: object) -> Sequence[float]:
    return value if isinstance(value, list) else []
