"""Words: numbers, names and sentences as a report prints them.

A number has as many digits as its interval deserves: two significant digits of
the interval's half-width, and the same decimals for all that stands beside it.
A spread always says what it is: an interval and what it covers, or a standard
deviation over masks; never a bare plus-or-minus. Shares are printed in per
cent, their differences in percentage points, losses in nats.

A method is never named without the parameter that can change the result, so
`peak` is always "peak (smooth)" here, also where a sweep file leaves it out.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Metric = Literal["ce", "top1"]

METRIC_NAME: Mapping[Metric, str] = {"ce": "CE", "top1": "Top-1"}
UNIT: Mapping[Metric, str] = {"ce": "nats", "top1": "points"}
SCALE: Mapping[Metric, float] = {"ce": 1, "top1": 100}
"""Factor from the tables' unit (nats, share) to the printed one (nats, points or per cent)."""

SITE = {
    "attn_pre_out": "the input of the attention output projection",
    "mlp_mid": "the input of the MLP’s output projection",
}

NBSP = "\N{NO-BREAK SPACE}"

_UNSAID = {"peak": "smooth", "resample": "dataset"}
"""The parameter that a bare name stands for."""


_MEANINGS = {
    "zero": "0",
    "mean": "the neuron’s mean on collection data",
    "peak (smooth)": "the mode of its activations: the top of the kernel-smoothed histogram",
    "peak (paper)": "the mode as the paper takes it: the middle of the fullest of 100 bins between"
    " the smallest and the largest activation",
    "resample (dataset)": "its own activations, position by position, while the model read another"
    " document of the collection data",
}


def method_name(method: str, parameters: str) -> str:
    """Return a method's full name from its columns, for example `peak (smooth)`."""
    values = ", ".join(str(value) for value in json.loads(parameters or "{}").values())
    return _full(method, values)


def label_name(label: str) -> str:
    """Return a method's full name from its label: `peak` becomes `peak (smooth)`."""
    match = re.fullmatch(r"(\w+)\s*\((.*)\)", label)
    return _full(match[1], match[2]) if match else _full(label, "")


def _full(method: str, values: str) -> str:
    values = values or _UNSAID.get(method, "")
    return f"{method} ({values})" if values else method


def meaning(name: str) -> str:
    """Return what a method's value is, in words; nothing for one that is not known here."""
    return _MEANINGS.get(name, "")


def doing(name: str) -> str:
    """Return what is done to a neuron by the method with this full name, as a noun phrase."""
    method, _, parameters = name.partition(" ")
    if method == "zero":
        return "holding at zero"
    if method in ("mean", "median", "peak"):
        return f"holding at the {name}"
    if method == "resample":
        return f"resampling {parameters}".strip()
    return f"holding by {name}"


def decimals(low: float, high: float) -> int:
    """Return how many decimals show two significant digits of an interval's half-width."""
    half = abs(high - low) / 2
    if not math.isfinite(half) or half == 0:
        return 3
    return min(max(1 - math.floor(math.log10(half)), 0), 6)


def number(value: float | None, places: int) -> str:
    """Return a number with that many decimals and a true minus; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def change(value: float | None, places: int) -> str:
    """Return a number with its sign, plus too."""
    text = number(value, places)
    positive = value is not None and value > 0 and any(digit in text for digit in "123456789")
    return f"+{text}" if positive else text


def interval(low: float | None, high: float | None, places: int) -> str:
    """Return an interval in brackets."""
    return f"[{number(low, places)},{NBSP}{number(high, places)}]"


def percent(share: float, places: int = 0) -> str:
    """Return a share between 0 and 1 in per cent."""
    return f"{number(100 * share, places)}{NBSP}%"


def count(number_of: int, thing: str) -> str:
    """Return `1 mask`, `5 masks`, `1,024 cells`."""
    return f"{number_of:,} {thing}{'' if number_of == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def covers(documents: int, masks: int) -> str:
    """Return what a contrast's interval covers, in words."""
    if masks == 1:
        return f"over {count(documents, 'document')}, for one set of held neurons"
    return f"over {count(documents, 'document')} and {count(masks, 'mask')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """One row of the contrasts table; its numbers are None where it could not be computed."""

    a: str
    b: str
    fraction: float
    estimate: float | None
    """`a` minus `b`, in the table's unit: nats, or a share."""
    low: float | None
    high: float | None
    documents: int
    masks: int


def contrast_sentence(panel: str, ce: Contrast, top1: Contrast | None) -> str:
    """Return a declared contrast in words: CE first, then Top-1 where there is one."""
    where = f"On {panel} at f = {ce.fraction:g}"
    over = covers(ce.documents, ce.masks)
    if ce.estimate is None or ce.low is None or ce.high is None:
        return f"{where}, no interval can be given {over}."
    places = decimals(ce.low, ce.high)
    a, b = doing(label_name(ce.a)), doing(label_name(ce.b))
    within = f"95{NBSP}% interval {interval(ce.low, ce.high, places)} nats {over}"
    if ce.low <= 0 <= ce.high:
        said = (
            f"{where}, {a} and {b} can’t be told apart: the difference in CE is"
            f" {change(ce.estimate, places)} nats ({within}, which includes zero)"
        )
    else:
        more = "more" if ce.estimate > 0 else "less"
        costs = number(abs(ce.estimate), places)
        said = f"{where}, {a} costs {costs} nats {more} than {b} ({within})"
    return f"{said}{_top1_clause(top1)}."


def _top1_clause(top1: Contrast | None) -> str:
    if top1 is None or top1.estimate is None or top1.low is None or top1.high is None:
        return ""
    estimate, low, high = (SCALE["top1"] * v for v in (top1.estimate, top1.low, top1.high))
    places = decimals(low, high)
    unclear = ", which includes zero" if low <= 0 <= high else ""
    way = "higher" if estimate > 0 else "lower"
    return (
        f"; Top-1 is {number(abs(estimate), places)} points {way}"
        f" {interval(low, high, places)}{unclear}"
    )
