"""Unlike: what two runs were made of, fact by fact, and where that differs.

The facts are those that the runs recorded themselves: models with their digests, revisions and
shapes; sources and what was taken of them; methods, masks, sites and all else that the sweep file
says; library versions, the versions of our own computations; the machines that answered. What
lies where (folders, names of runs) is no fact.

Weak where a run has recorded little: an earlier version, or one that did not come to record it. A
fact that only one run has is a difference.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from orchestrator.frames import asked, frames
from orchestrator.matching import Matched
from orchestrator.store import Store

FACTS = pl.Schema(dict.fromkeys(("topic", "what", "a", "b"), pl.String) | {"same": pl.Boolean})
"""`a` and `b` are what either run recorded, as text; null where it recorded nothing."""

_SPEC = ("name", "models", "data", "cluster", "store")
"""Keys of a sweep file that are told elsewhere, or that change no answer."""
_PLACES = ("folder",)


def facts(a: Store, b: Store, matched: Matched) -> pl.DataFrame:
    """Return a row per fact, in the order of topics: models, data, sweep, versions, machines.

    Models that stand beside each other are compared whatever they are called.
    """
    known = [run.read_json("provenance.json") for run in (a, b)]
    rows = [
        *_models(known, matched),
        *_section("data", [_at(x, "data") for x in known]),
        *_section("sweep", [_swept(run) for run in (a, b)]),
        *_section("versions", [_versions(x) for x in known]),
        *_section("machines", [_machines(run) for run in (a, b)]),
    ]
    return pl.DataFrame(rows, schema=FACTS, orient="row")


def _models(
    known: Sequence[Mapping[str, object]], matched: Matched
) -> Iterator[tuple[object, ...]]:
    both = [_at(x, "models") for x in known]
    beside = dict.fromkeys((a.model, b.model) for a, b in matched.pairs)
    for ours, theirs in beside:
        facts = [
            {"name": name, **{k: v for k, v in _at(x, name).items() if k not in _PLACES}}
            for x, name in zip(both, (ours, theirs), strict=True)
        ]
        yield from _section(f"model {ours}", facts)


def _section(topic: str, pair: Sequence[Mapping[str, object]]) -> Iterator[tuple[object, ...]]:
    flat = [dict(_flat(x)) for x in pair]
    for what in dict.fromkeys([*flat[0], *flat[1]]):
        a, b = (x.get(what) for x in flat)
        yield topic, what, a, b, a == b


def _flat(value: Mapping[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested facts as (path, text)."""
    for key, inner in value.items():
        path = f"{above} · {key}" if above else str(key)
        if isinstance(inner, Mapping):
            yield from _flat(inner, path)
        elif inner is not None:
            text = inner if isinstance(inner, str) else json.dumps(inner, default=str)
            yield path, text


def _at(found: Mapping[str, object], key: str) -> Mapping[str, object]:
    inner = found.get(key)
    return inner if isinstance(inner, Mapping) else {}


def _swept(run: Store) -> Mapping[str, object]:
    return {key: value for key, value in asked(run).items() if key not in _SPEC}


def _versions(known: Mapping[str, object]) -> Mapping[str, object]:
    own = {f"our {kind}": version for kind, version in _at(known, "algorithms").items()}
    python = {"python": known["python"]} if "python" in known else {}
    return {**python, **_at(known, "libraries"), **own}


def _machines(run: Store) -> Mapping[str, object]:
    """Return the distinct devices, threads and kinds of arithmetic that answered."""
    rows = frames(run)["executions"].select("device", "threads").unique().collect()
    return {
        column: ", ".join(str(x) for x in rows[column].drop_nulls().unique().sort())
        for column in ("device", "threads")
    }
