"""Differences: the declared contrasts of methods against the fraction held, as a figure.

They are often too small to see between two curves.
"""

from collections.abc import Sequence

import altair as alt
import polars as pl

from orchestrator.report import style
from orchestrator.report.contrasts import Question, declared
from orchestrator.report.curves import HEIGHT, VALUES, WIDTH
from orchestrator.report.figures import Figure, Rows, Spec, part, wrapped
from orchestrator.report.read import Run
from orchestrator.report.words import change, decimals, interval, label_name, listed

PANELS = 8
"""Panels that are drawn at most."""
_PAIR_LOOKS = (
    ("#AA4499", "circle"),
    ("#555555", "triangle-up"),
    ("#999933", "square"),
    ("#0072B2", "diamond"),
    ("#D55E00", "cross"),
)


def differences(run: Run, questions: Sequence[Question]) -> Figure | None:
    """Return the declared contrasts of methods in CE against the fraction; None without any."""
    found = declared(run).filter(
        pl.col("kind") == "methods",
        pl.col("metric") == "ce",
        *(pl.col(column).is_not_null() for column in ("fraction", "estimate", "low", "high")),
    )
    pairs = [(q.a, q.b) for q in questions if q.kind == "methods"][: len(_PAIR_LOOKS)]
    there = [p for p in run.shown if p in found["panel"]]
    panels = there[:PANELS]
    if not panels or not pairs:
        return None
    names = [f"{label_name(a)} − {label_name(b)}" for a, b in pairs]
    data: dict[str, Rows] = {"zero": [{"zero": 0}]}
    for i, panel in enumerate(panels):
        values: Rows = []
        data[str(i)] = values
        for row in found.filter(pl.col("panel") == panel).to_dicts():
            if (row["a"], row["b"]) not in pairs:
                continue
            which = pairs.index((row["a"], row["b"]))
            places = decimals(row["low"], row["high"])
            values.append(
                {
                    # Side by side, not on top of each other.
                    "share": row["fraction"] + 0.014 * (which - (len(pairs) - 1) / 2),
                    "pair": names[which],
                    "mean": row["estimate"],
                    "low": row["low"],
                    "high": row["high"],
                    "tip": f"{names[which]} at f = {row['fraction']:g}: CE"
                    f" {change(row['estimate'], places)} nats"
                    f" {interval(row['low'], row['high'], places)}",
                }
            )
    charts = [_panel(str(i), panel, names) for i, panel in enumerate(panels)]
    first = f" The first {len(panels)} settings of {len(there)}." if len(there) > PANELS else ""
    return Figure(
        name="contrasts",
        chart=wrapped(charts, columns=2, spacing=34),
        data=data,
        caption=(
            "The declared contrasts of methods: difference in CE (nats) between two methods that"
            " hold the same units, against the nominal fraction. Above zero, the first method costs"
            " more. Bars: 95 % intervals of each difference over documents and masks (where there"
            " is one mask, as at 100 %, they cover documents alone), pointwise and not adjusted for"
            f" their number.{first}"
        ),
        alt=f"Differences in CE with intervals against the fraction held: {listed(names)},"
        f" for {listed(panels)}. The numbers are in the table below.",
    )


def _panel(name: str, label: str, names: Sequence[str]) -> Spec:
    looks = _PAIR_LOOKS[: len(names)]
    legend = style.legend(names)
    base = alt.Chart(alt.NamedData(name=name), width=WIDTH, height=HEIGHT - 30).encode(
        x=alt.X(
            "share:Q",
            title="fraction held",
            scale=alt.Scale(domain=[0, 1.04], nice=False),
            axis=alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1], grid=False),
        ),
        color=alt.Color(
            "pair:N",
            scale=alt.Scale(domain=list(names), range=[colour for colour, _ in looks]),
            legend=legend,
        ),
    )
    shape = alt.Shape(
        "pair:N",
        scale=alt.Scale(domain=list(names), range=[shape for _, shape in looks]),
        legend=legend,
    )
    zero = alt.Chart(alt.NamedData(name="zero")).mark_rule(color=style.INK)
    chart = alt.layer(
        zero.encode(y=alt.Y("zero:Q")),
        base.mark_rule(strokeWidth=1.6).encode(
            y=alt.Y("low:Q", title="difference in CE (nats)", axis=VALUES), y2="high:Q"
        ),
        base.mark_point(filled=True, size=52, opacity=1).encode(
            y=alt.Y("mean:Q"), shape=shape, description="tip:N"
        ),
        title=alt.TitleParams(_lines(label), fontSize=13),
    )
    return part(chart)


def _lines(label: str) -> list[str]:
    """Return a panel's label, the model on a line of its own where more is said."""
    model, found, rest = label.partition(" · ")
    return [model, rest] if found else [model]
