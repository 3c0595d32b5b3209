"""The sweep file's JSON Schema, for editors and for the reference.

    python -m orchestrator.schema > docs/schema.json

It is made from the classes of `orchestrator.spec`, so it has every key, default and
limit of theirs, and allows what `orchestrator.spellings` says that a file may write. A
function that reads a value and stands there nowhere is an error, so that a new way to
write something cannot be left out; so is a key that is described nowhere.

Whatever a sweep file may say, the schema allows. Not all that it allows is a sweep: what
must hold between sections, and what models and data must have, `peaksweep plan` checks.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Mapping
from itertools import pairwise

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from orchestrator.sections import Section
from orchestrator.spec import Spec
from orchestrator.spellings import WRITTEN, Json

_FROM = "orchestrator."
KEYS: Mapping[str, str] = {
    "Spec.name": "Of the sweep; the run folder is runs/NAME unless `--out` says another",
    "Spec.models": "Bundled ones, folders, or ids of a hub (docs/models.md)",
    "Spec.data": "By name, where documents come from; the bundled sets when left out",
    "Spec.methods": "What is put in the place of what is held (docs/methods.md)",
    "Spec.fractions": "Shares of the units of a layer that are held; 0 is always among them",
    "Spec.seeds": "How many random masks, or the seeds of all that is drawn",
    "Spec.contrasts": "Pairs of methods, selections or bases, declared before looking",
    "Spec.units": "What is held at once: a neuron, or a head's neurons together",
    "Spec.selections": "Which units are held first",
    "Spec.statistics": "What activations are counted, and how",
    "Spec.evaluation": "What is measured, where, and in which batches",
    "Spec.cluster": "What a replica asks of the cluster; changes no number",
    "ModelSpec.id": "`zoo:opt`, a folder, `org/name` of a hub, or `timm:NAME`",
    "ModelSpec.revision": "A commit, branch or tag of a hub's id; needed there",
    "ModelSpec.dtype": "Of the weights and activations",
    "DataSpec.image": "Column of the image",
    "DataSpec.input": "Pairs: column of the prompt that is fed",
    "DataSpec.donor": "Pairs: column of the prompt whose activations are taken",
    "DataSpec.answer": "Pairs: column of what is right after the prompt",
    "DataSpec.wrong": "Pairs: column of what is not",
    "DataSpec.collect": "What statistics are taken of",
    "DataSpec.evaluate": "What cells are scored on",
    "RoleSpec.split": "A split of the source; name two, or none and documents are divided by hash",
    "RoleSpec.sequences": "So many windows or images",
    "RoleSpec.tokens": "Windows of so many tokens together",
    "Statistics.positions": "Which positions are counted",
    "Statistics.bins": "Of every histogram, inside its range",
    "Statistics.pilot_seed": "Of the pilot's choice of documents",
    "Evaluation.positions": "Which positions are scored",
    "Cluster.device": "What replicas run on; auto: GPUs where there are any",
    "Precision.metric": "What must be known so well",
}
"""What a key is, where no string under the field says it."""


class Generator(GenerateJsonSchema):
    """Writes what a file may say, not what the spec keeps of it."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Json:
        """Return the schema of what a validator reads, from that of what it gives.

        Raises LookupError for a validator that WRITTEN does not know.
        """
        function = schema["function"]["function"]
        name = f"{function.__module__}.{function.__qualname__}".removeprefix(_FROM)
        if name not in WRITTEN:
            raise LookupError(
                f"{_FROM}{name} reads a value of the sweep file, and what may be written there"
                " stands nowhere; add it to orchestrator.spellings.WRITTEN"
            )
        return WRITTEN[name](super().function_before_schema(schema))


def schema() -> Json:
    """Return the JSON Schema (draft 2020-12) of a sweep file."""
    made = _tidy(Spec.model_json_schema(schema_generator=Generator))
    sections: list[type[BaseModel]] = [*Section.__subclasses__()]
    for section in sections:
        whole = made if section is Spec else made["$defs"].get(section.__name__)
        said = {**_strings(section), **_keys(section)}
        for key, value in ({} if whole is None else whole["properties"]).items():
            value["description"] = said[key]
            if (section.__name__, key) in _DEFAULTS:
                value["default"] = _DEFAULTS[section.__name__, key]
    about = {"$schema": GenerateJsonSchema.schema_dialect, "title": "A Peaksweep sweep file"}
    return about | {key: value for key, value in made.items() if key != "title"}


_DEFAULTS: Mapping[tuple[str, str], object] = {
    ("Spec", "fractions"): {"start": 0, "stop": 1, "step": 0.1},
    ("Spec", "seeds"): 10,
    ("Spec", "data"): {"stdlib": "zoo:text", "digits": "zoo:digits"},
    ("Spec", "selections"): ["random"],
    ("Spec", "sites"): ["attn_pre_out"],
    ("Spec", "basis"): "own",
}
"""Defaults that the spec keeps in another form than a file has, as a file would write them."""


def _tidy(given: Json) -> Json:
    """Return a schema without the titles that pydantic makes of names, and with true lengths."""
    made: Json = {}
    for key, value in given.items():
        if key in ("properties", "$defs"):
            made[key] = {name: _tidy(inner) for name, inner in value.items()}
        elif key == "minLength" and given.get("type") != "string":
            if given.get("type") == "array":  # pydantic calls it so behind a validator
                made["minItems"] = value
        elif isinstance(value, dict) and key != "default":
            made[key] = _tidy(value)
        elif isinstance(value, list) and key in ("anyOf", "allOf", "prefixItems"):
            made[key] = [_tidy(inner) for inner in value]
        elif key != "title":
            made[key] = value
    return made


def _keys(section: type[BaseModel]) -> Mapping[str, str]:
    """Return what KEYS says of a class's fields."""
    named = (key.split(".") for key in KEYS)
    return {field: KEYS[f"{owner}.{field}"] for owner, field in named if owner == section.__name__}


def _strings(section: type[BaseModel]) -> Mapping[str, str]:
    """Return the strings that stand under a class's fields, each on one line."""
    (node,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = below.value if isinstance(below, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                said = " ".join(value.value.split())
                found[field.target.id] = re.sub(r"\bNone\b", "null", said)  # as a file has it
    return found


def text() -> str:
    """Return the schema as docs/schema.json holds it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
