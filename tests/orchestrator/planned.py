"""Plans of models that do not exist: what planning needs of a checkpoint, made by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import inspection, plan
from orchestrator.inspection import ModelError
from orchestrator.plan import Plan
from orchestrator.plugins import Plugin, known
from orchestrator.spec import parse
from orchestrator.tasks import Task
from workers.messages import ModelFacts

SPECIALS = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}

_FACTS: dict[str, dict[str, Any]] = {
    "causal": {
        "family": "opt",
        "activation": "relu",
        "window": 32,
        "tokenizer": "tokenizer",
        "specials": SPECIALS,
    },
    "masked": {
        "family": "roberta",
        "activation": "gelu",
        "window": 24,
        "tokenizer": "tokenizer",
        "specials": SPECIALS,
    },
    "image": {
        "family": "vit",
        "activation": "gelu",
        "window": 17,
        "tokenizer": None,
        "specials": {},
    },
}


def facts(modality: str = "causal", **changes: Any) -> ModelFacts:
    """Return the facts of a made-up model: 3 layers of 2 heads of 5 neurons."""
    values: dict[str, Any] = {
        "modality": modality,
        "layers": 3,
        "heads": 2,
        "d_head": 5,
        "kv_heads": 2,
        "d_model": 12,
        "d_mlp": 20,
        "vocabulary": 400,
        "image": (8, 8, 1) if modality == "image" else None,
        "parameters": 1000,
        "bytes": 4000,
        "digest": f"weights of a {modality} model",
        **_FACTS[modality],
        **changes,
    }
    return ModelFacts(**values)


def know(
    monkeypatch: pytest.MonkeyPatch,
    models: Mapping[str, ModelFacts | ModelError],
    folder: Path = Path("checkpoints"),
) -> None:
    """Have inspection know these models and no others; all of them lie under one folder."""

    def find(model: str, *, revision: str | None, base: Path, fetch: bool = False) -> Path:
        if model not in models:
            raise ModelError(f"there is no model {model}")
        return folder / model.replace("/", "%")

    def read(folders: list[Path]) -> list[ModelFacts | ModelError]:
        return [models[f.name.replace("%", "/")] for f in folders]

    monkeypatch.setattr(inspection, "folder", find)
    monkeypatch.setattr(inspection, "facts", read)


def documents(folder: Path, texts: Mapping[str, str] | None = None) -> Path:
    """Write a JSON-lines file of named documents and return its path."""
    texts = texts or {f"document {i}": f"text number {i}" for i in range(4)}
    file = folder / "documents.jsonl"
    rows = (json.dumps({"name": n, "text": t}, ensure_ascii=False) for n, t in texts.items())
    file.write_text("\n".join(rows) + "\n")
    return file


def raw(**changes: Any) -> dict[str, Any]:
    """Return a small sweep file as plain values, with these keys changed."""
    return {
        "models": ["a"],
        "data": {"texts": {"source": "documents.jsonl", "document": "name"}},
        "methods": ["zero", "mean", "peak", "peak(paper)", "resample"],
        "fractions": [0.5, 1],
        "seeds": 2,
        "statistics": {"shards": 2},
        **changes,
    }


def listing(folder: Path, pairs: Sequence[tuple[int, int]], name: str = "units.npy") -> str:
    """Write a list of units, (layer, unit) each, and return the name of its file."""
    np.save(folder / name, np.array(pairs, np.int64))
    return name


def plugin(
    name: str, kind: str = "constant", digest: str = "text", **parameters: str | int | float
) -> Plugin:
    """Return a user's own method, as planning knows it; its text is never executed."""
    return Plugin(
        name=name,
        kind="replacing" if kind == "replacing" else "constant",
        parameters=parameters,
        needs=("mean",),
        origin=f"{name}.py",
        source="",
        digest=digest,
    )


def make(
    base: Path, *, device: str = "cpu", plugins: Sequence[Plugin] = (), **changes: Any
) -> Plan:
    """Return the plan of that sweep; relative paths start at `base`."""
    spec = parse(raw(**changes), known(plugins))
    told = {own.name: own.told() for own in plugins}
    return plan.make(spec, base=base, device=device, plugins=told)


def points(made: Plan, **where: object) -> list[dict[str, Any]]:
    """Return the rows of the cells table that say all of this."""
    rows = [{**r, "parameters": json.loads(str(r["parameters"]))} for r in made.rows.to_pylist()]
    return [r for r in rows if all(r[k] == v for k, v in where.items())]


def asked(made: Plan, **where: object) -> set[str]:
    """Return the names of the cells of those rows."""
    return {r["cell"] for r in points(made, **where)}


def tasks(made: Plan, *kinds: str) -> list[Task]:
    """Return the tasks of some kinds, in their order."""
    return [t for t in made.tasks if t.kind in kinds]


def names(made: Plan, *kinds: str) -> set[str]:
    """Return the names of the tasks of some kinds."""
    return {t.name for t in tasks(made, *kinds)}
