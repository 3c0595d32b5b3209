"""Rules: what a sweep file may say of which units are held, and in which order.

    random                  within every layer by itself, as many in each
    random(global)          over all layers
    score(rms, low)         by a score of the statistics, the lowest first
    explicit(units.npy)     a list from a file, in its order
    regression              by the effect of each unit, from many random masks

A rule has a label, which `contrasts` can name. Only random rules have mask seeds:
others say the same whatever the seed, and stand once in the table of cells.
"""

from collections.abc import Mapping

from orchestrator.methods import Number, Parameter, Parameters, Words, read, spelled
from orchestrator.mistakes import nearest
from orchestrator.scores import BETWEEN, SCORES

_OVER = Words(words=("layer", "global"), what="`over`")
_FIRST = Words(words=("low", "high"), what="`first`")
RULES: Mapping[str, Parameters] = {
    "random": {"over": _OVER},
    "score": {
        "by": Words(words=(*SCORES, *BETWEEN), what="score"),
        "first": _FIRST,
        "over": _OVER,
        "again": Words(words=("once", "each_fraction"), what="`again`"),
    },
    "regression": {
        "first": _FIRST,
        "masks": Number(low=8, high=100_000, default=200, whole=True, what="number of masks"),
        "share": Number(low=0.01, high=0.99, default=0.5, what="share held"),
        "ridge": Number(low=0.0, high=1e6, default=0.01, what="ridge"),
        "block": Number(low=1, high=2**20, default=1, whole=True, what="units of a block"),
        "seed": Number(low=0, high=2**53, default=0, whole=True, what="seed"),
    },
}


def rule(value: object) -> dict[str, object]:
    """Return {rule, parameters} of a selection as a sweep file writes it.

    Raises ValueError saying what was found and what to write.
    """
    name, given = spelled(value, "selection", "`score(rms, low)`")
    names = (*RULES, "explicit")
    if name == "explicit":
        return {"rule": name, "parameters": _listed(given)}
    if name not in names:
        message = f"unknown selection {name!r}{nearest(name, names)} Known: {', '.join(names)}"
        raise ValueError(message)
    against: dict[str, Parameter] = {}
    if name == "score":
        given, against = _against(given)
    parameters = read(name, given, RULES[name], "selection")
    if name == "score":
        parameters |= _scored(given, parameters, against)
    return {"rule": name, "parameters": parameters}


def _listed(given: Mapping[str, object] | list[str]) -> dict[str, Parameter]:
    file = given.get("file") if isinstance(given, Mapping) else (given[0] if given else None)
    extra = set(given) - {"file"} if isinstance(given, Mapping) else set(given[1:])
    if not isinstance(file, str) or extra:
        raise ValueError(
            f"found {given!r}, expected one file: `{{explicit: {{file: units.parquet}}}}` (Parquet,"
            " safetensors or a numpy array)"
        )
    return {"file": file}


def _against(
    given: Mapping[str, object] | list[str],
) -> tuple[Mapping[str, object] | list[str], dict[str, Parameter]]:
    """Return the parameters without the name of the other data set, and that."""
    if isinstance(given, list):
        found = [w for w in given if w.partition("=")[0].strip() == "against"]
        rest = [w for w in given if w not in found]
        return rest, {"against": found[0].partition("=")[2].strip()} if found else {}
    found_key = given.get("against")
    rest_keys = {k: v for k, v in given.items() if k != "against"}
    return rest_keys, {} if found_key is None else {"against": str(found_key)}


def _scored(
    given: Mapping[str, object] | list[str],
    parameters: Mapping[str, Parameter],
    against: Mapping[str, Parameter],
) -> dict[str, Parameter]:
    """Return what a score is always said with: its name, which end comes first, the other data."""
    by, first = parameters.get("by", next(iter(SCORES))), parameters.get("first", "low")
    words = list(given.values()) if isinstance(given, Mapping) else given
    if not any(str(w).rpartition("=")[2].strip() == by for w in words):
        raise ValueError(f"a score must be named, one of: {', '.join((*SCORES, *BETWEEN))}")
    if not any(str(w).rpartition("=")[2].strip() in ("low", "high") for w in words):
        raise ValueError(
            f"say which end of {by!r} is held first: `score({by}, low)` or `score({by}, high)`"
        )
    if by in BETWEEN and not against:
        raise ValueError(
            f"{by!r} compares two data sets; name the other one: `against: <a source of data>`"
        )
    if by == "kurtosis" and against:
        raise ValueError("kurtosis may be negative, so it has no ratio; leave `against` out")
    if parameters.get("again") == "each_fraction" and against:
        raise ValueError(
            "a score against another data set is of the bare model; leave `again` or `against` out"
        )
    return {"by": by, "first": first, **against}
