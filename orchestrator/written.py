"""Written: a spec as a sweep file again, every default filled in.

What is written reads back as the same spec, plug-ins' methods included: it is what a
run folder keeps, and what `plan` prints.
"""

from collections.abc import Mapping

import yaml

from orchestrator.methods import Parameter
from orchestrator.spec import Spec


def as_yaml(spec: Spec) -> str:
    """Return the spec as a sweep file with every default filled in."""
    return yaml.safe_dump(resolved(spec), sort_keys=False, allow_unicode=True)


def resolved(spec: Spec) -> dict[str, object]:
    """Return the spec as plain values that `parse` reads back as the same spec."""
    plain = spec.model_dump(mode="json")
    plain["fractions"] = [float(f) for f in spec.fractions]
    plain["methods"] = [_spelled(m.method, m.parameters) for m in spec.methods]
    plain["selections"] = [_spelled(s.rule, s.parameters) for s in spec.selections]
    plain["sites"] = [list(group) if len(group) > 1 else group[0] for group in spec.sites]
    rotations = list(spec.basis[1:])
    plain["basis"] = {"rotate": rotations} if rotations else "own"
    return plain


def _spelled(name: str, parameters: Mapping[str, Parameter]) -> object:
    return {name: dict(parameters)} if parameters else name
