"""Row: what one architecture calls its parts, as plain names.

Nothing about a model is coded. A row is a handful of paths, and each is looked up on the
live module (`workers.parts`). That matters because the names in a checkpoint's file are
not those of the module: transformers 5 loads a ViT file that says
`vit.encoder.layer.0.attention.output.dense` into `vit.layers.0.attention.o_proj`.

A path is dotted and starts at the module, or at one layer of it. What is not in a row is
read off the module (widths, for instance), so that a row cannot contradict it.

A row also says where the values of attention are made. Heads lie in blocks of d_head rows
there, and where fewer heads have values than ask for them, query head h takes those of head
h // (heads / kv_heads). What makes them may be a projection of its own, or one that makes
queries and keys too, in one of two layouts:

    blocks   all queries, then all keys, then all values (GPT-2, Phi-3, timm)
    groups   key-value head by key-value head: its queries, its key, its value (GPT-NeoX)

Weak point: a row can be wrong in ways that raise no error (a layout, a cap). So every row is
compared with its library, on a tiny model in the tests and on yours by `peaksweep parity`.
"""

from dataclasses import dataclass
from typing import Literal

from workers.messages import Modality


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What one architecture calls its parts."""

    name: str
    library: Literal["transformers", "timm"]
    """Which library builds the module from its configuration."""
    architectures: tuple[str, ...]
    """Names in config.json: class names of transformers, model names of timm (`*` matches any)."""
    modality: Modality
    but: tuple[str, ...] = ()
    """Names that these patterns match and that are built otherwise."""
    layers: str
    """Path on the module of its list of layers."""
    attention_out: str
    """Path in a layer of the attention output projection; its input is `attn_pre_out`."""
    mlp_out: str
    """Path in a layer of the MLP output projection; its input is `mlp_mid`."""
    values: str
    """Path in a layer of the projection that makes the values of attention."""
    activation: str
    """Path on the module of what makes the MLP's neurons: its name, or the activation itself."""
    head: str
    """Path on the module of the last part that turns hidden states into scores."""
    heads: str
    """Path on the module of the number of query heads of one layer."""
    vocabulary: str
    """Path on the module of the number of tokens or classes scored."""
    fused: Literal["blocks", "groups"] | None = None
    """How values lie beside queries and keys, where one projection makes all of them."""
    norm: str | None = None
    """Path in a layer of a norm between the heads and their projection; may be an `Identity`, or
    missing."""
    harmless: tuple[str, ...] = ()
    """What else the module that has the values may hold: nothing that touches them on their way."""
    softcap: str | None = None
    """Path of the c behind the head's c·tanh(scores / c); what it leads to may be None: no cap."""
    window: str | None = None
    """Path on the module of the largest number of positions; None for images."""
    padding: str | None = None
    """Path of the padding id after which positions are numbered; None where they start at 0."""
    patches: str | None = None
    """Path on the module of the patch embedding; None for text."""
    prefix: int = 1
    """Positions before the patches, where the module does not say `num_prefix_tokens`."""
    spare: tuple[str, ...] = ()
    """Tensors that a checkpoint may hold although this head does not use them (`*` matches any)."""
