"""Notation: the ways a sweep file may write a method, fractions and seeds.

Each function turns one of the accepted spellings into the single form that the
spec keeps, or raises ValueError saying what was found and what to write. What
is designed but not built yet is refused by name.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from orchestrator.files import SECRET, has_password
from orchestrator.mistakes import one_of
from workers.messages import SITES

LARGEST_SEED = 2**63 - 1
"""Seeds are columns of 64-bit integers."""


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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
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
    """Return the sites that are held together, a tuple; one by itself for its name alone."""
    names = value if isinstance(value, (list, tuple)) else str(value).split("+")
    found = tuple(one_of(str(name), SITES, (), "site") for name in names)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"found {value!r}, expected one site, or two that are held together")
    return tuple(site for site in SITES if site in found)


def unit(value: object) -> object:
    """Return the name of a unit that can be held."""
    return one_of(str(value), ("neuron", "head"), (), "unit")


def layers(value: object) -> object:
    """Return `all`, `each`, or the numbers of some layers, ascending."""
    if value in ("all", "each"):
        return value
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(
            f"found {value!r}, expected `all`, `each` (every layer by itself) or a list of layers"
            " that are held together (`[0, 3]`)"
        )
    if not all(type(v) is int and v >= 0 for v in value) or len(set(value)) < len(value):
        raise ValueError(f"found {value!r}, expected the numbers of layers from 0, each once")
    return tuple(sorted(value))


def basis(value: object) -> object:
    """Return the seeds of rotations, after None for the checkpoint's own axes.

    `own`, `{rotate: 0}` or `{rotate: [0, 1]}`: a control stands beside what it controls.
    """
    if value == "own":
        return (None,)
    if isinstance(value, (list, tuple)) and value and value[0] is None:  # as resolved
        return tuple(value)
    seeds = value.get("rotate") if isinstance(value, Mapping) and set(value) == {"rotate"} else None
    if seeds is None:
        raise ValueError(f"found {value!r}, expected `own` or the seed of a rotation, {_ROTATE}")
    found = _seed_list([seeds] if type(seeds) is int else seeds, "rotations")
    return (None, *found)


_ROTATE = "`{rotate: 0}`"


def number_or_auto(value: object) -> object:
    """Return a number of at least one, or `auto`."""
    if value == "auto" or (type(value) is int and 0 < value <= LARGEST_SEED):
        return value
    raise ValueError(f"found {value!r}, expected a number from 1 to 2^63 - 1, or `auto`")


def memory(value: object) -> object:
    """Return the bytes of `80GB` (10^9 each) or `80GiB` (2^30), or a number as it is."""
    if value is None or (type(value) is int and 0 < value <= LARGEST_SEED):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", value if type(value) is str else "")
    unit = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
    if found is None or not 0 < float(found[1]) * unit[found[2]] <= LARGEST_SEED:
        raise ValueError(f"found {value!r}, expected bytes: a number, or `80GB` or `80GiB`")
    return int(float(found[1]) * unit[found[2]])


def model(value: object) -> object:
    """Return a model's name as the mapping that says more."""
    return {"id": value} if isinstance(value, str) else value


def strata(value: object) -> object:
    """Return {by, buckets} for `position`, `class`, `{position: 8}` or `{position: [0, 1, 16]}`."""
    if isinstance(value, str):
        by, buckets = value, None
    elif isinstance(value, Mapping) and len(value) == 1:
        by, buckets = next(iter(value.items()))
    elif isinstance(value, Mapping) and set(value) == {"by", "buckets"}:
        by, buckets = value["by"], value["buckets"]
    else:
        raise ValueError(
            f"found {value!r}, expected `position`, `class`, a number of buckets"
            " (`{position: 8}`) or their first positions (`{position: [0, 1, 16]}`)"
        )
    by = one_of(str(by), ("position", "class"), (), "stratum")
    if isinstance(buckets, (list, tuple)):
        starts = tuple(buckets)
        rising = all(type(s) is int for s in starts) and list(starts) == sorted(set(starts))
        if not starts or not rising or starts[0] != 0:
            raise ValueError(
                f"found the first positions {buckets!r}, expected whole numbers that rise from 0"
            )
        buckets = starts
    elif buckets is not None and (type(buckets) is not int or buckets < 1):
        raise ValueError(f"found {buckets!r} buckets, expected a number from 1 or a list of starts")
    if by == "class" and buckets is not None:
        raise ValueError("classes have no buckets; write `class` alone")
    return {"by": by, "buckets": buckets}


def as_tuple(value: object) -> object:
    """Return a list as the tuple that a frozen spec keeps."""
    return tuple(value) if isinstance(value, list) else value


def store(value: object) -> object:
    """Return the folder or the URI of a shared store."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"found {value!r}, expected a folder or a URI")
    if value is not None and has_password(value):
        raise ValueError(f"the URI has {SECRET}")
    return None if value is None else value.removeprefix("file://")
