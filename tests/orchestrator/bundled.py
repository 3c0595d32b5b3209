"""A bundled model, as planning knows it."""

from pathlib import Path

from orchestrator.inspection import facts, folder
from workers.messages import ModelFacts, ModelRef


def vit() -> ModelRef:
    """Return the bundled ViT on the CPU."""
    path = folder("zoo:vit", revision=None, base=Path())
    known = facts([path])[0]
    assert isinstance(known, ModelFacts)
    return ModelRef(
        name="zoo:vit", folder=str(path), dtype="float32", device="cpu", threads=1, facts=known
    )
