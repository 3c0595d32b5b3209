"""Notation: the ways a sweep file may write a method, fractions and seeds.

Each function turns one of the accepted spellings into the single form that the
spec keeps, or raises ValueError saying what was found and what to write. What
is designed but not built yet is refused by name.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from orchestrator.mistakes import one_of

METHODS = ("zero", "mean", "peak", "resample")
LATER_METHODS = ("median", "quantile", "optimal", "marginal", "noise", "nearest_peak")
ESTIMATORS = ("smooth", "paper")
LATER_ESTIMATORS = ("half_sample",)
LATER_RESAMPLES = ("random", "random_tokens", "random_characters", "generated", "random_pixels")
LARGEST_SEED = 2**63 - 1
"""Seeds are columns of 64-bit integers."""

_PARAMETER = {"peak": ("estimator", "smooth"), "resample": ("source", "dataset")}


def method(value: object) -> object:
    """Return {method, parameters} for `peak`, `peak(paper)` or `{peak: {estimator: paper}}`."""
    name: object
    options: object
    if isinstance(value, str):
        match = re.fullmatch(r"(\w+)\((\w+)\)", value)
        name = match[1] if match else value
        options = {_PARAMETER.get(match[1], ("",))[0]: match[2]} if match else None
    elif isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
    else:
        raise ValueError(
            f"found {value!r}, expected a method's name (`mean`) or a mapping of one name to its"
            " parameters (`{peak: {estimator: paper}}`)"
        )
    name = one_of(str(name), METHODS, LATER_METHODS, "method")
    if name not in _PARAMETER:
        if options:
            raise ValueError(f"method {name!r} takes no parameters, found {options!r}")
        return {"method": name, "parameters": {}}
    key, default = _PARAMETER[name]
    if options is None:
        options = {}
    if not isinstance(options, Mapping) or set(options) - {key}:
        raise ValueError(f"method {name!r} takes the parameter {key!r} alone, found {options!r}")
    chosen = str(options.get(key, default))
    if name == "peak":
        one_of(chosen, ESTIMATORS, LATER_ESTIMATORS, "peak estimator")
    else:
        one_of(chosen, ("dataset",), LATER_RESAMPLES, "resample source")
    return {"method": name, "parameters": {key: chosen}}


def fractions(value: object) -> object:
    """Return exact decimals, ascending and with 0, for a list or {start, stop, step}."""
    if isinstance(value, Mapping):
        if set(value) != {"start", "stop", "step"}:
            raise ValueError("a range of fractions needs exactly `start`, `stop` and `step`")
        start, stop, step = (_decimal(value[k]) for k in ("start", "stop", "step"))
        if step <= 0 or stop < start:
            raise ValueError(f"{start} to {stop} in steps of {step} makes no fractions")
        if (stop - start) / step > 10_000:
            raise ValueError(f"step {step} makes more than 10,000 fractions")
        steps = range(int((stop - start) / step) + 1)
        found = [start + step * i for i in steps]
    elif isinstance(value, (list, tuple)):
        found = [_decimal(item) for item in value]
    else:
        raise ValueError(f"found {value!r}, expected a list or a mapping of start, stop and step")
    wrong = [str(f) for f in found if not 0 <= f <= 1]
    if wrong:
        raise ValueError(f"found {', '.join(wrong)}; a fraction lies between 0 and 1")
    if not found:
        raise ValueError("no fractions; give at least one between 0 and 1")
    # Zero is implied: every change is measured against it.
    return tuple(sorted({Decimal(0), *(f.normalize() + Decimal(0) for f in found)}))


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"found {value!r}, expected a number between 0 and 1")
    return Decimal(repr(value))  # the decimal that was written, not the binary float nearest to it


def seeds(value: object) -> object:
    """Return {masks, donors, noise, masking} for a number, a list or such a mapping."""
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple, Mapping)):
        raise ValueError(f"found {value!r}, expected a number of masks or a list of mask seeds")
    if not isinstance(value, Mapping):
        return {"masks": _seed_list(value, "masks")}
    lists = ("masks", "donors", "noise")
    return {k: _seed_list(v, str(k)) if k in lists else v for k, v in value.items()}


def _seed_list(value: object, what: str) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value > 10_000:
            raise ValueError(f"{what}: found {value}, expected 10,000 seeds at most")
        value = list(range(value))
    if not isinstance(value, (list, tuple)) or not all(
        type(v) is int and 0 <= v <= LARGEST_SEED for v in value
    ):
        raise ValueError(
            f"{what}: found {value!r}, expected a number or a list of seeds from 0 to 2^63 - 1"
        )
    if not value:
        raise ValueError(f"no {what}; at least one seed is needed")
    if len(set(value)) < len(value):
        raise ValueError(f"{what}: a seed stands twice in {value!r}")
    return tuple(value)


def site(value: object) -> object:
    """Return the name of a site that can be held."""
    return one_of(str(value), ("attn_pre_out",), ("mlp_mid",), "site")


def unit(value: object) -> object:
    """Return the name of a unit that can be held."""
    return one_of(str(value), ("neuron",), ("head",), "unit")


def selection(value: object) -> object:
    """Return the name of a rule that chooses units."""
    return one_of(str(value), ("random",), ("score", "explicit"), "selection")


def as_tuple(value: object) -> object:
    """Return a list as the tuple that a frozen spec keeps."""
    return tuple(value) if isinstance(value, list) else value
