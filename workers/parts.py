"""Parts: what a family's row names, on a live module.

A row is only names (`workers.families`); here they are looked up, what is
found is checked to be what the names promise, and the module is asked for its
widths. Whatever is not as the row says is refused with the name that failed.

The neurons of `attn_pre_out` are what the attention output projection is fed,
in blocks of d_head, one a head. Those of `mlp_mid` are what the MLP's output
projection is fed: the activation's output, in a gated MLP times the other
branch, and normalised where the model does that.

Shapes: G key-value heads, E d_head.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from workers.checkpoint import CheckpointError
from workers.families import Family
from workers.messages import ModelFacts, Site


def at(root: object, path: str) -> Any:  # what a name leads to is the model's affair
    """Return what a dotted path leads to; numbers index lists. Raises CheckpointError."""
    for name in path.split("."):
        try:
            root = root[int(name)] if name.isdecimal() else getattr(root, name)  # type: ignore[index]
        except AttributeError:
            raise CheckpointError(
                f"This model's {type(root).__name__} has no `{name}` (of `{path}`), so it is not"
                " built as workers/families.py says. Use a plain checkpoint of the family, or"
                " correct its row."
            ) from None
    return root


def sites(module: nn.Module, family: Family, site: Site) -> list[nn.Linear]:
    """Return the projection of every layer, in order, whose input is the site.

    Raises CheckpointError where one is not a plain Linear, or not as wide as the others.
    """
    path = family.attention_out if site == "attn_pre_out" else family.mlp_out
    return _projections(module, family, path, "its columns need not be neurons")


def values(module: nn.Module, family: Family) -> list[nn.Linear]:
    """Return the projection of every layer, in order, that makes the values of attention.

    Where the family's is `fused`, they are some of its rows: `value_rows`. Raises CheckpointError.
    """
    return _projections(module, family, family.values, "its rows need not be values")


def value_rows(family: Family, facts: ModelFacts) -> NDArray[np.int64]:
    """Return where the rows of each neuron's values are in the projection that makes them, (G, E).

    Heads h of the `heads / kv_heads` that belong to group g read row (g, e) as their neuron e.
    """
    groups, size = facts.kv_heads, facts.d_head
    group_G1, neuron_E = np.arange(groups)[:, None], np.arange(size)
    if family.fused is None:
        return group_G1 * size + neuron_E
    if family.fused == "blocks":
        return (facts.heads + groups + group_G1) * size + neuron_E
    own = facts.heads // groups  # queries of one group; its key and its value follow them
    return (group_G1 * (own + 2) + own + 1) * size + neuron_E


def known(module: nn.Module, family: Family, where: str) -> ModelFacts:
    """Return what a module says of itself: no digest, no tokenizer. Raises CheckpointError.

    `where` names the model in a refusal.
    """
    projections = sites(module, family, "attn_pre_out")
    heads, neurons = int(at(module, family.heads)), projections[0].in_features
    if neurons % heads:
        raise CheckpointError(
            f"{where} has {neurons} neurons before its attention output projection, which"
            f" {heads} heads cannot share equally. Check the number of heads in its config.json."
        )
    vocabulary = int(at(module, family.vocabulary))
    if vocabulary < 1 or not any(True for _ in at(module, family.head).parameters()):
        raise CheckpointError(
            f"{where} has no head: `{family.head}` scores {vocabulary} tokens or classes with no"
            " weights. Use a checkpoint that was saved with its head."
        )
    activation = at(module, family.activation)
    parameters = list(module.parameters())
    return ModelFacts(
        family=family.name,
        modality=family.modality,
        layers=len(projections),
        heads=heads,
        d_head=neurons // heads,
        kv_heads=_value_heads(module, family, heads, neurons // heads, where),
        d_model=projections[0].out_features,
        d_mlp=sites(module, family, "mlp_mid")[0].in_features,
        activation=activation if isinstance(activation, str) else type(activation).__name__.lower(),
        vocabulary=vocabulary,
        window=_window(module, family),
        image=image(module, family),
        parameters=sum(parameter.numel() for parameter in parameters),
        bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        digest="",
        tokenizer=None,
        specials={},
        gated=_gated(module, family),
    )


def image(module: nn.Module, family: Family) -> tuple[int, int, int] | None:
    """Return (H, W, C) of the image that the patch embedding takes, in pixels; None for text."""
    if family.patches is None:
        return None
    patches = at(module, family.patches)
    size = patches.image_size if hasattr(patches, "image_size") else patches.img_size
    height, width = size
    convolution = next(part for part in patches.modules() if isinstance(part, nn.Conv2d))
    return int(height), int(width), convolution.in_channels


def _projections(module: nn.Module, family: Family, path: str, unsure: str) -> list[nn.Linear]:
    found = [at(layer, path) for layer in at(module, family.layers)]
    for projection in found:
        if type(projection) is not nn.Linear:
            raise CheckpointError(
                f"`{path}` of this {family.name} model is a {type(projection).__name__}, where a"
                f" plain Linear was expected: {unsure}. Use a checkpoint that is neither quantised"
                " nor fused."
            )
    if len({projection.weight.shape for projection in found}) > 1:
        raise CheckpointError(
            f"`{path}` of this {family.name} model is not of one shape in all layers"
            f" ({sorted({tuple(projection.weight.shape) for projection in found})}), and tables"
            " here have one width. Use a checkpoint whose layers are alike."
        )
    return found


def _value_heads(module: nn.Module, family: Family, heads: int, d_head: int, where: str) -> int:
    rows = values(module, family)[0].out_features
    own, rest = divmod(rows, d_head)
    if family.fused:  # queries too, of all heads, and keys
        own, odd = divmod(own - heads, 2)
        rest += odd
    if rest or own < 1 or heads % own:
        raise CheckpointError(
            f"{where} makes its values with a projection of {rows} rows (`{family.values}`), which"
            f" {heads} heads of {d_head} neurons cannot share in equal groups. Use a plain"
            " checkpoint of the family, or correct its row in workers/families.py."
        )
    return own


def _gated(module: nn.Module, family: Family) -> bool:
    """Whether the MLP makes two numbers for each neuron, to be multiplied."""
    inside, _, own = family.mlp_out.rpartition(".")
    layer = at(module, family.layers)[0]
    parts = (at(layer, inside) if inside else layer).named_children()
    rows = [p.out_features for name, p in parts if isinstance(p, nn.Linear) and name != own]
    return sum(rows) >= 2 * sites(module, family, "mlp_mid")[0].in_features


def _window(module: nn.Module, family: Family) -> int:
    if family.patches is not None:
        prefix = getattr(module, "num_prefix_tokens", family.prefix)  # timm says
        return int(at(module, family.patches).num_patches) + int(prefix)
    if family.window is None:
        raise ValueError(
            f"The row of {family.name} in workers/families.py says no window: add one."
        )
    used_up = 0 if family.padding is None else int(at(module, family.padding)) + 1
    return int(at(module, family.window)) - used_up
