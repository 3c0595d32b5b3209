"""Words: numbers and names as a report prints them.

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

from orchestrator.labels import label
from orchestrator.methods import ESTIMATORS, SOURCES

METRIC_NAME: Mapping[str, str] = {
    "ce": "CE",
    "top1": "Top-1",
    "kl": "KL",
    "top10": "Top-10",
    "top1_rare": "Top-1 of rarer tokens",
    "top1_mask": "Top-1 at <mask>",
    "ce_mask": "CE at <mask>",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "logit_diff": "logit difference",
    "choice": "choice",
}
_SHARES = ("top1", "top10", "top1_rare", "top1_mask", "choice")
_NATS = ("ce", "kl", "ce_mask", "logit_diff")
COSTS = ("ce", "kl", "ce_mask", "perplexity", "bits_per_byte")
"""Metrics of which more is worse."""
UNIT: Mapping[str, str] = {
    name: "points" if name in _SHARES else "nats" if name in _NATS else "" for name in METRIC_NAME
}
SCALE: Mapping[str, float] = {name: 100 if name in _SHARES else 1 for name in METRIC_NAME}
"""Factor from the tables' unit (nats, share) to the printed one (nats, points or per cent)."""

NBSP = "\N{NO-BREAK SPACE}"

_UNSAID = {"peak": ("smooth", ESTIMATORS), "resample": ("dataset", SOURCES)}
"""The parameter that a bare name stands for, and what else it can be."""

_MEANINGS = {
    "zero": "0",
    "mean": "the neuron’s mean on collection data",
    "median": "the neuron’s median on collection data",
    "quantile": "that quantile of its activations on collection data",
    "peak (smooth)": "the mode of its activations: the top of the kernel-smoothed histogram",
    "peak (paper)": "the mode as the paper takes it: the middle of the fullest of 100 bins between"
    " the smallest and the largest activation",
    "peak": "the mode of its activations by that estimator",
    "optimal": "the constant learned for this very set of held neurons: an approximate floor of"
    " what constants can do",
    "resample (dataset)": "its own activations, position by position, while the model read another"
    " document of the collection data",
    "resample": "its own activations while the model read something else",
    "resample (random)": "its own activations while the model read random tokens, or pixels",
    "resample (random_characters)": "its own activations while the model read random characters",
    "resample (generated)": "its own activations while the model read text that it generated",
    "resample (paired)": "its own activations, position by position, while the model read the donor"
    " that stands beside the prompt",
    "noise": "a draw from a normal distribution with its mean and s.d., anew at every position",
    "marginal": "a draw from its own histogram, anew at every position",
    "nearest_peak": "the nearest of its modes",
}


_CLAUSES = {
    "position": ", of its position",
    "per_layer": ", each layer from a draw of its own",
    "per_head": ", each head from a draw of its own",
    "per_neuron": ", each neuron from a draw of its own",
    "shared": ", one for all sequences",
    "published": "; as published: one row for all positions, then zeros",
}


def metric_said(metric: str) -> str:
    """Return a metric with its printed unit: `CE (nats)`."""
    name, unit = METRIC_NAME.get(metric, metric), UNIT.get(metric, "")
    return f"{name} ({unit})" if unit else name


def method_name(method: str, parameters: str) -> str:
    """Return a method's full name from its columns, for example `peak (smooth)`."""
    return label_name(label(method, json.loads(parameters or "{}")))


def label_name(label: str) -> str:
    """Return a method's full name from its label: `peak` becomes `peak (smooth)`."""
    match = re.fullmatch(r"(\w+)\s*\((.*)\)", label)
    method, values = (match[1], match[2].split(", ")) if match else (label, [])
    unsaid, others = _UNSAID.get(method, ("", ()))
    if unsaid and not set(values) & set(others):
        values = [unsaid, *values]
    return f"{method} ({', '.join(values)})" if values else method


def meaning(name: str) -> str:
    """Return what a method's value is, in words; nothing for one that is not known here."""
    method, _, inner = name.removesuffix(")").partition(" (")
    own = [value for value in inner.split(", ") if value]
    first = f"{method} ({own[0]})" if own else method
    said = _MEANINGS.get(first, _MEANINGS.get(method, ""))
    if not said:
        return ""
    alpha = next((value.partition("=")[2] for value in own if value.startswith("alpha=")), "")
    said += "".join(clause for value, clause in _CLAUSES.items() if value in own)
    return f"{said}; mixed in with weight {alpha}, the rest being its own value" if alpha else said


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
    if not math.isfinite(half) or half < 5e-7:
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
