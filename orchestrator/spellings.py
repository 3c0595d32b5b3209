"""Spellings: the ways a sweep file may write a value, as JSON Schema.

The classes of `orchestrator.spec` keep one form of each value; a file may write several
(`seeds: 3`, `models: zoo:opt`, `{peak: {estimator: paper}}`). `WRITTEN` has what may be
written by the function that reads it, made from the schema of what the spec keeps.

Weak where a value is words in a text: `peak(paper, alpha=0.5)` is any text here.
"""

from collections.abc import Callable, Mapping

from pydantic.json_schema import JsonSchemaValue

from orchestrator.methods import ALPHA, METHODS, Number, Parameters, Words
from orchestrator.presets import PRESETS
from orchestrator.rules import RULES
from orchestrator.scores import BETWEEN
from workers.messages import SITES

Json = JsonSchemaValue

_TEXT: Json = {"type": "string"}
_SEED: Json = {"type": "integer", "minimum": 0}
_SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}


def _or(*ways: Json) -> Json:
    return {"anyOf": list(ways)}


def _listed(item: Json) -> Json:
    return {"type": "array", "items": item, "minItems": 1}


def _mapping(properties: Mapping[str, Json], *required: str) -> Json:
    made = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return made | ({"required": list(required)} if required else {})


def _different(item: Json) -> Json:
    return _listed(item) | {"uniqueItems": True}


_SEEDS = _or({"type": "integer", "minimum": 1, "maximum": 10_000}, _different(_SEED))


def _seeds(inner: Json) -> Json:
    several = {
        "masks": "Of random selections: which units are held",
        "donors": "Of the sequences that donors are",
        "noise": "Of what is drawn at every position",
    }
    one = {
        "masking": "Of the tokens that masked models are shown masked",
        "visits": "Of the order in which documents are evaluated",
    }
    lists = {key: _SEEDS | {"description": said} for key, said in several.items()}
    return _or(_SEEDS, _mapping(lists | {k: _SEED | {"description": s} for k, s in one.items()}))


def _named(inner: Json) -> Json:
    section = inner["additionalProperties"]
    whole = {"allOf": [section], "required": ["source"]}
    presets = {name: _or(_TEXT, section) for name in PRESETS}
    by_name = {
        "type": "object",
        "properties": presets,
        "additionalProperties": _or(_TEXT, whole),
        "minProperties": 1,
    }
    return _or(_TEXT, _listed(_TEXT), by_name)


def _strata(inner: Json) -> Json:
    buckets = _or({"type": "integer", "minimum": 1}, _listed(_SEED))
    return _or(
        {"enum": ["position", "class"]},
        _mapping({"position": buckets}, "position"),
        _mapping({"class": {"type": "null"}}, "class"),
        _mapping({"by": {"enum": ["position", "class"]}, "buckets": _or(buckets, {"type": "null"})})
        | {"required": ["by", "buckets"]},
    )


def _parameter(kind: Words | Number) -> Json:
    if isinstance(kind, Words):
        return {"enum": list(kind.words), "default": kind.default, "description": kind.what}
    made: Json = {
        "type": "integer" if kind.whole else "number",
        "minimum": kind.low,
        "maximum": kind.high,
        "description": kind.what,
    }
    return _or(made, _AS_TEXT) | ({} if kind.default is None else {"default": kind.default})


_AS_TEXT: Json = {
    "type": "string",
    "pattern": r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$",
}
"""A number that is written as text: what YAML 1.1 takes `1e-3` for."""


def _spelled(known: Mapping[str, Parameters], others: Mapping[str, Json]) -> Json:
    """Return the ways to write a name with parameters: bare, in brackets, as a mapping."""
    needed = {
        name: [
            key for key, kind in parameters.items() if kind.default is None or (name, key) in _SAID
        ]
        for name, parameters in known.items()
    }
    bare = [name for name in known if not needed[name]]
    mappings = {
        name: _mapping({k: _parameter(kind) for k, kind in parameters.items()}, *needed[name])
        for name, parameters in known.items()
    }
    mappings = {n: m if needed[n] else _or(m, {"type": "null"}) for n, m in mappings.items()}
    one = {"type": "object", "minProperties": 1, "maxProperties": 1}
    return _or({"enum": bare}, _TEXT, one | {"properties": mappings | dict(others)})


_SAID = {("score", "by"), ("score", "first")}
"""Parameters that have a default in the table and must be said all the same."""


def _method(inner: Json) -> Json:
    return _spelled({n: {**p, "alpha": ALPHA} for n, p in METHODS.items()}, {})  # or a plug-in


def _rule(inner: Json) -> Json:
    made = _spelled(RULES, {"explicit": _mapping({"file": _TEXT}, "file")})
    mapping = made["anyOf"][2]
    mapping["additionalProperties"] = False
    against = f"another source of data; {', '.join(BETWEEN)} need one"
    mapping["properties"]["score"]["properties"]["against"] = _TEXT | {"description": against}
    return made


def _same(inner: Json) -> Json:
    return inner


def _layers(inner: Json) -> Json:
    return _or({"enum": ["all", "each"]}, _different({"type": "integer", "minimum": 0}))


_AUTO: Json = {"const": "auto"}
_RANGE = ("start", "stop", "step")

WRITTEN: Mapping[str, Callable[[Json], Json]] = {
    "notation.as_tuple": _same,
    "notation.unit": _same,
    "notation.layers": _layers,
    "notation.store": _same,
    "pairs._pair": _same,
    "sections.DataSpec._preset": lambda inner: {k: v for k, v in inner.items() if k != "required"},
    "notation.model": lambda inner: _or(_TEXT, inner),
    "notation.number_or_auto": lambda inner: _or({"type": "integer", "minimum": 1}, _AUTO),
    "notation.memory": lambda inner: _or(
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^\d+(\.\d+)? ?(MB|GB|MiB|GiB)$"},
        {"type": "null"},
    ),
    "notation.site": lambda inner: _or(
        {"enum": [*SITES, "+".join(SITES), "+".join(reversed(SITES))]},
        {"type": "array", "items": {"enum": list(SITES)}, "minItems": 1, "uniqueItems": True},
    ),
    "notation.fractions": lambda inner: _or(
        _listed(_SHARE),
        _mapping(dict.fromkeys(_RANGE, _SHARE), *_RANGE),
    ),
    "notation.seeds": _seeds,
    "notation.basis": lambda inner: _or(
        {"const": "own"}, _mapping({"rotate": _or(_SEED, _different(_SEED))}, "rotate")
    ),
    "notation.strata": _strata,
    "presets.named": _named,
    "arms._method": _method,
    "rules.rule": _rule,
    "pairs._number": lambda inner: _or(inner, _AS_TEXT),
    "pairs._pairs": lambda inner: _or(inner, inner["items"]),
}
"""By the function that reads a value, what may be written, from what the spec keeps."""
