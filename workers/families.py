"""Families: which row of names an architecture has, or why it has none.

A family is a row of names (`workers.row`); the rows are in `workers.decoders` and
`workers.encoders`. The name in a checkpoint's config.json finds the row, and nothing
else does. An architecture without a row is refused by name: guessing where the heads are
would produce numbers that look fine. So is a mixture of experts, whose tokens go through
some of many MLPs: it has no one projection whose input were the layer's neurons.

To add a family, add a row, and a tiny model of it to the tests, which then
compare it with the library; docs/families.md does so once, step by step. A row can only
describe a model whose attention output projection is a plain linear layer of its own (or
GPT-2's transposed one) and whose head, applied to its input alone and then perhaps
capped, gives the scores.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from workers.decoders import DECODERS
from workers.encoders import ENCODERS
from workers.row import Family

__all__ = ["FAMILIES", "Family", "UnknownFamilyError", "family_of"]

FAMILIES: tuple[Family, ...] = (*DECODERS, *ENCODERS)

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Where the libraries' configurations say how many experts a mixture has."""


class UnknownFamilyError(ValueError):
    """A checkpoint's architecture has no row here."""


def family_of(config: Mapping[str, object]) -> Family:
    """Return the row for a checkpoint's config.json, as parsed.

    transformers writes `architectures`, a list of one class name; timm writes
    `architecture`, its model's name. Raises UnknownFamilyError for anything
    that has no row.
    """
    named = config.get("architectures")
    library = "transformers"
    if isinstance(named, list) and named:
        found = str(named[0])
    elif isinstance(config.get("architecture"), str):
        found, library = str(config["architecture"]), "timm"
    else:
        raise UnknownFamilyError(
            "config.json names no architecture (neither `architectures` of transformers nor"
            f" `architecture` of timm). {_KNOWN} Save the model again with its library's own"
            " `save_pretrained`, which writes the name."
        )
    for family in FAMILIES:
        if family.library == library and _is_of(found, family):
            return family
    for key in EXPERTS:
        experts = config.get(key)
        if isinstance(experts, int) and experts > 1:
            raise UnknownFamilyError(
                f"config.json names the {library} architecture `{found}`, a mixture of experts"
                f" (`{key}` is {experts}). A token goes through some of {experts} MLPs, so no one"
                " projection has a layer's neurons as its input, and no row can say where they"
                f" are. {_KNOWN} Use a dense model, one of these or another with a row of its own"
                " (docs/families.md shows how to add one)."
            )
    raise UnknownFamilyError(
        f"config.json names the {library} architecture `{found}`, which has no row in"
        f" workers/families.py. {_KNOWN} Use one of these, or add a row that says where"
        " its layers, projections and head are (docs/families.md shows how)."
    )


def _is_of(architecture: str, family: Family) -> bool:
    matched = any(fnmatchcase(architecture, pattern) for pattern in family.architectures)
    return matched and not any(fnmatchcase(architecture, pattern) for pattern in family.but)


_KNOWN = (
    "Known are " + ", ".join(f"{a} ({f.name})" for f in FAMILIES for a in f.architectures) + "."
)
