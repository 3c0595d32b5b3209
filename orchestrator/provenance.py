"""Provenance: what a run was made with, for whoever reads its numbers later."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from orchestrator.names import ALGORITHM
from orchestrator.plan import Plan

LIBRARIES = (
    "peaksweep",
    "ray",
    "torch",
    "transformers",
    "timm",
    "tokenizers",
    "numpy",
    "pyarrow",
    "polars",
)


def gather(plan: Plan) -> dict[str, object]:
    """Return versions, hardware, models and data of a plan, as JSON-like values."""
    models = {
        ref.name: {
            "folder": ref.folder,
            "revision": next(m.revision for m in plan.spec.models if m.id == ref.name),
            "digest": ref.facts.digest,
            "family": ref.facts.family,
            "parameters": ref.facts.parameters,
            "layers": ref.facts.layers,
            "neurons": ref.facts.neurons,
            "mlp_neurons": ref.facts.d_mlp,
            "activation": ref.facts.activation,
            "dtype": ref.dtype,
            "packed": ref.packed,
            "device": ref.device,
            "threads": ref.threads,
        }
        for ref in plan.models.values()
    }
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "algorithms": dict(ALGORITHM),
        "models": models,
        "data": {name: data.model_dump(mode="json") for name, data in plan.spec.data.items()},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
