"""Forest: every pair of methods in one look, as areas with their intervals.

A row is a pair, `a − b`: the mean difference between the two curves over the held share, which
is the default test, and its 95 % interval. Where a setting has a single fraction there is no
area, and the row is the difference there. Pairs that the sweep declared come first, in its
order, with filled squares; all others are exploratory, with hollow circles. They follow the
order of the methods and never their size: the largest of many differences is large by chance.

`p` is adjusted for what was declared, and only for that; an exploratory pair has none, because
nothing says how many others would have been shown in its place. So an interval that misses zero
is a finding for a declared pair and a suggestion for another.

The figure that is printed has the first settings and two metrics. The live one has more
settings and all metrics, within `ROWS` points whatever the sweep's size; `contrasts.parquet`
has everything. `differences` shows declared pairs against the fraction, which areas hide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from orchestrator.contrasts import MANY as LABELS
from orchestrator.report.contrasts import GAP, covers, nearest, p_value, questions, with_kind
from orchestrator.report.figures import Figure, Rows, Spec, below, beside, of
from orchestrator.report.forest_marks import (
    BESIDE,
    DECLARED,
    EXPLORATORY,
    KINDS,
    LINE,
    live_panel,
    still_panel,
)
from orchestrator.report.live import Choice, Live
from orchestrator.report.read import Run
from orchestrator.report.words import (
    METRIC_NAME,
    SCALE,
    change,
    decimals,
    interval,
    label_name,
    listed,
    metric_said,
)

PANELS = 6
"""Settings that the printed figure shows at most."""
METRICS = 2
"""Metrics that it shows side by side."""
PAIRS = 45
"""Pairs of a setting that are shown at most: those of ten methods."""
ROWS = 4000
"""Points of the live figure at most."""
FEW = 4
"""With more settings, the live figure shows one at first."""

FURTHER = 4
"""A difference so many times further from zero than all declared ones is printed as an arrow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Forest:
    """What both forms draw, in printed units."""

    pairs: Sequence[str]
    """Names of the pairs, in the order of the rows."""
    hidden: int
    """Pairs that are left out."""
    panels: Sequence[str]
    left: int
    """Settings that are left out."""
    metrics: Sequence[str]
    rows: Rows


def forest(run: Run) -> Figure | None:
    """Return the areas between every two methods, as it is printed; None where there is none."""
    found = _found(run, PANELS, METRICS)
    return None if found is None else _still(run, found)


def forest_live(run: Run) -> Live | None:
    """Return the same with more settings and every metric, to be chosen from."""
    still, found = forest(run), _found(run)
    if still is None or found is None:
        return None
    return Live(
        still=still,
        charts={metric_said(m): live_panel(m, found.pairs) for m in found.metrics},
        by="metric",
        rows=[{k: v for k, v in row.items() if k not in ("tip", "numbers")} for row in found.rows],
        choices=[
            Choice(field="metric", label="Metric", values=[metric_said(m) for m in found.metrics]),
            Choice(
                field="setting",
                label="Setting",
                values=found.panels,
                every="all settings",
                first=found.panels[0] if len(found.panels) > FEW else "",
            ),
            Choice(field="kind", label="Pairs", values=KINDS, every="declared and exploratory"),
            Choice(field="pair", label="Pair", values=found.pairs, every="all"),
        ],
        facets=["setting"],
        columns={
            "pair": "difference",
            "kind": "kind",
            "metric": "metric",
            "estimate": "estimate",
            "low": "95 % from",
            "high": "to",
            "p": "adjusted p",
            "what": "what",
        },
        height=LINE * len(found.pairs) + 10,
    )


def _found(run: Run, panels: int | None = None, metrics: int | None = None) -> _Forest | None:
    """Return what is shown; without limits on panels and metrics, as many as `ROWS` has room for.

    Of the settings that have a place on the page; single layers are told by the heat map.
    """
    whole = run.settings.filter(~pl.col("layered"))["panel"]
    every_area = with_kind(run.contrasts).filter(
        pl.col("kind") == "methods",
        pl.col("metric") != GAP,
        pl.col("fraction").is_null() | (pl.col("fraction") > 0),
        pl.col("panel").is_in(whole.implode()),
    )
    areas = every_area.filter(pl.col("panel").is_in(run.shown))
    if not areas.height:
        return None
    asked = sorted(run.metrics, key=lambda m: (m != "ce", m != "top1"))
    wanted = [m for m in asked if m in areas["metric"]][:metrics]
    every = _pairs(run, areas)
    pairs = every[:PAIRS]
    room = max(ROWS // max(len(pairs) * len(wanted), 1), 1) if panels is None else panels
    there = [p for p in run.shown if p in areas["panel"]]
    shown = there[:room]
    names = {pair: f"{label_name(pair[0])} − {label_name(pair[1])}" for pair in pairs}
    place = {metric: i for i, metric in enumerate(wanted)}
    rows: Rows = []
    for panel in shown:
        own = nearest(areas.filter(pl.col("panel") == panel))
        for row in own.to_dicts():
            pair = (row["a"], row["b"])
            if row["metric"] in place and pair in names:
                rows.append(_row(row, names[pair]))
    order = {name: i for i, name in enumerate(names.values())}
    rows.sort(key=lambda r: (shown.index(str(r["setting"])), order[str(r["pair"])]))
    return _Forest(
        pairs=list(names.values()),
        hidden=len(every) - len(pairs),
        panels=shown,
        left=every_area["panel"].n_unique() - len(shown),
        metrics=wanted,
        rows=rows,
    )


def _pairs(run: Run, areas: pl.DataFrame) -> list[tuple[str, str]]:
    """Return the pairs of methods: as declared, then in the order of the methods."""
    said = [(q.a, q.b) for q in questions(run) if q.kind == "methods"]
    there = set(areas.select("a", "b").unique().rows())
    first = [pair for pair in said if pair in there]
    rank = {name: i for i, name in enumerate(run.methods)}

    def place(pair: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
        a, b = (rank.get(label_name(label), len(rank)) for label in pair)
        return min(a, b), max(a, b), pair

    return first + sorted(there - set(first), key=place)


def _row(row: dict[str, object], name: str) -> dict[str, object]:
    """Return a contrast in printed units; one that is not compared has no numbers."""
    metric, declared = str(row["metric"]), bool(row["declared"])
    scale = SCALE.get(metric, 1)
    values = [row[key] for key in ("estimate", "low", "high")]
    known = all(value is not None for value in values)
    estimate, low, high = (scale * float(str(v)) if known else None for v in values)
    area = row["fraction"] is None
    what = "area" if area else f"at f = {row['fraction']:g}"
    p = row["p_adjusted"]
    adjusted = p_value(float(str(p))) if declared and p is not None else ""
    over = covers(int(str(row["documents"])), int(str(row["masks"])))
    if low is None or high is None:
        said = "not compared" if row["reason"] is not None else "no interval"
        why = f": {row['reason']}" if row["reason"] is not None else ""
    else:
        places = decimals(low, high)
        said = f"{change(estimate, places)} {interval(low, high, places)}"
        why = f" {over}" + (f", adjusted {adjusted}" if adjusted else "")
    return {
        "setting": row["panel"],
        "pair": name,
        "kind": DECLARED if declared else EXPLORATORY,
        "metric": metric_said(metric),
        "estimate": estimate,
        "low": low,
        "high": high,
        "p": (adjusted.removeprefix("p = ").removeprefix("p ") or "–") if declared else "none",
        "what": what if known else f"{what}; {said}{why}",
        "numbers": said,
        "said": f"{name}: {said}",
        "tip": f"{name}, {'declared' if declared else 'exploratory, not adjusted'}, {what}:"
        f" {metric_said(metric)} {said}{why}",
    }


def _still(run: Run, found: _Forest) -> Figure:
    data: dict[str, Rows] = {}
    charts: list[Spec] = []
    first = found.metrics[0]
    drawn = {m: still_panel(m, found.pairs, first=m == first) for m in found.metrics}
    for i, panel in enumerate(found.panels):
        sides: list[Spec] = []
        for metric in found.metrics:
            name, unit = f"{i}-{metric}", metric_said(metric)
            own = [r for r in found.rows if r["setting"] == panel and r["metric"] == unit]
            limit = _limit(own)
            data[name] = [_limited(row, limit) for row in own]
            sides.append(of(name, drawn[metric]))
        charts.append({**beside(sides, title=panel, spacing=BESIDE), "bounds": "flush"})
    return Figure(
        name="forest",
        chart=below(charts, spacing=22),
        data=data,
        caption=_caption(run, found, arrows=any(r["arrow"] for own in data.values() for r in own)),
        alt=f"Forest plot of the differences in {listed([METRIC_NAME[m] for m in found.metrics])}"
        f" between every two methods, for {listed(found.panels)}: {_clear(found)}",
    )


def _limit(rows: Sequence[Mapping[str, object]]) -> float | None:
    """Return where an axis ends, so that declared differences can be seen; None if it need not."""
    reach = {kind: [0.0] for kind in KINDS}
    for row in rows:
        ends = [row[key] for key in ("low", "high")]
        reach[str(row["kind"])] += [abs(float(str(end))) for end in ends if end is not None]
    limit = FURTHER * max(reach[DECLARED])
    return limit if 0 < limit < max(reach[EXPLORATORY]) else None


def _limited(row: Mapping[str, object], limit: float | None) -> dict[str, object]:
    """Return a row within the axis, with an arrow where its estimate lies beyond."""
    known = [row[key] for key in ("estimate", "low", "high")]
    if limit is None or None in known:
        return {**row, "arrow": "", "edge": 0}
    estimate, low, high = (float(str(value)) for value in known)
    if abs(estimate) <= limit:
        return {**row, "low": max(low, -limit), "high": min(high, limit), "arrow": "", "edge": 0}
    at = ("→", limit) if estimate > 0 else ("←", -limit)
    return {**row, **dict.fromkeys(("estimate", "low", "high")), "arrow": at[0], "edge": at[1]}


def _caption(run: Run, found: _Forest, *, arrows: bool) -> str:
    declared = any(row["kind"] == DECLARED for row in found.rows)
    what = "mean difference over the held share (area between the curves)"
    if any(row["estimate"] is not None and row["what"] != "area" for row in found.rows):
        what = "mean difference over the held share, or at a fraction where no area can be made,"
    filled = (
        "Filled squares: declared, with a p that is adjusted for all that was declared, in the"
        " tables. Hollow circles: exploratory; nothing is adjusted for how many they are, and among"
        " many some miss zero by chance."
        if declared
        else "None was declared, so all are exploratory: nothing is adjusted for how many they are,"
        " and among many some miss zero by chance."
    )
    shown, empty = len(found.panels), sum(row["estimate"] is None for row in found.rows)
    parts = [
        f"Methods against each other: {what} between two methods that hold the same units, with"
        " its pointwise 95 % interval over documents and masks. Right of zero the first costs more"
        " CE, or keeps more Top-1.",
        filled,
        "Arrows, in print: so much larger than the declared ones that they lie beyond the axis."
        if arrows
        else "",
        f"{empty:,} pairs are not compared and have an empty row." if empty else "",
        f"{found.hidden:,} more pairs are in contrasts.parquet." if found.hidden else "",
        f"Printed are {shown} settings of {shown + found.left:,}; all are in contrasts.parquet."
        if found.left
        else "",
        f"Of more than {LABELS} methods only pairs with the first were made."
        if len(run.methods) > LABELS
        else "",
    ]
    return " ".join(p for p in parts if p)


def _clear(found: _Forest) -> str:
    known = [r for r in found.rows if r["low"] is not None]
    apart = sum(float(str(r["low"])) * float(str(r["high"])) > 0 for r in known)
    return f"the interval of {apart:,} of {len(known):,} misses zero."
