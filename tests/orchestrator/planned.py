"""Plans of models that do not exist: what planning needs of a checkpoint, made by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import inspection, plan
from orchestrator.inspection import ModelError
from orchestrator.plan import Plan
from orchestrator.spec import parse
from workers.messages import ModelFacts

SPECIALS = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}

_FACTS: dict[str, dict[str, Any]] = {
    "causal": {"family": "opt", "window": 32, "tokenizer": "tokenizer", "specials": SPECIALS},
    "masked": {"family": "roberta", "window": 24, "tokenizer": "tokenizer", "specials": SPECIALS},
    "image": {"family": "vit", "window": 17, "tokenizer": None, "specials": {}},
}


def facts(modality: str = "causal", **changes: Any) -> ModelFacts:
    """Return the facts of a made-up model: 3 layers of 2 heads of 5 neurons."""
    values: dict[str, Any] = {
        "modality": modality,
        "layers": 3,
        "heads": 2,
        "d_head": 5,
        "d_model": 12,
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


def make(base: Path, *, device: str = "cpu", **changes: Any) -> Plan:
    """Return the plan of that sweep; relative paths start at `base`."""
    return plan.make(parse(raw(**changes)), base=base, device=device)
