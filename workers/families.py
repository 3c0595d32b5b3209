"""Families: what a known model architecture calls its parts.

Nothing about a model is coded; a family is a row of names, and the names are
looked up on the live module. That matters because the names in a checkpoint's
file are not those of the module: transformers 5 loads a ViT file that says
`vit.encoder.layer.0.attention.output.dense` into `vit.layers.0.attention.o_proj`.

A path is dotted and starts at the module, or at one layer of it. What is not
in a row is read off the module (widths, for instance), so that a row cannot
contradict it. An architecture without a row is refused by name: guessing
where the heads are would produce numbers that look fine.

A row also says where the values of attention are made. Heads lie in blocks of
d_head rows there, and where fewer heads have values than ask for them, query
head h takes those of head h // (heads / kv_heads). What makes them may be a
projection of its own or the last third of a fused one.

To add a family, add a row, and a tiny model of it to the tests, which then
compare it with the library. A row can only describe a model whose attention
output projection is a plain linear layer of its own and whose head, applied to
its input alone, gives the scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from workers.messages import Modality


class UnknownFamilyError(ValueError):
    """A checkpoint's architecture has no row here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What one architecture calls its parts."""

    name: str
    library: Literal["transformers", "timm"]
    """Which library builds the module from its configuration."""
    architectures: tuple[str, ...]
    """Names in config.json: class names of transformers, model names of timm (`*` matches any)."""
    modality: Modality
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
    """Path on the module of the part that turns hidden states into scores."""
    heads: str
    """Path on the module of the number of query heads of one layer."""
    vocabulary: str
    """Path on the module of the number of tokens or classes scored."""
    fused: bool = False
    """Whether that projection makes queries, keys and values, in thirds of its rows."""
    harmless: tuple[str, ...] = ()
    """What else the module that has the values may hold: nothing that touches them on their way."""
    window: str | None = None
    """Path on the module of the largest number of positions; None for images."""
    padding: str | None = None
    """Path of the padding id after which positions are numbered; None where they start at 0."""
    patches: str | None = None
    """Path on the module of the patch embedding; None for text."""
    spare: tuple[str, ...] = ()
    """Tensors that a checkpoint may hold although this head does not use them (`*` matches any)."""


FAMILIES = (
    Family(
        name="opt",
        library="transformers",
        architectures=("OPTForCausalLM",),
        modality="causal",
        layers="model.decoder.layers",
        attention_out="self_attn.out_proj",
        mlp_out="fc2",
        values="self_attn.v_proj",
        activation="config.activation_function",
        head="lm_head",
        heads="config.num_attention_heads",
        vocabulary="config.vocab_size",
        harmless=("q_proj", "k_proj"),
        window="config.max_position_embeddings",
    ),
    Family(
        name="mistral",
        library="transformers",
        architectures=("MistralForCausalLM",),
        modality="causal",
        layers="model.layers",
        attention_out="self_attn.o_proj",
        mlp_out="mlp.down_proj",
        values="self_attn.v_proj",
        activation="config.hidden_act",
        head="lm_head",
        heads="config.num_attention_heads",
        vocabulary="config.vocab_size",
        harmless=("q_proj", "k_proj"),
        window="config.max_position_embeddings",
    ),
    Family(
        name="roberta",
        library="transformers",
        architectures=("RobertaForMaskedLM",),
        modality="masked",
        layers="roberta.encoder.layer",
        attention_out="attention.output.dense",
        mlp_out="output.dense",
        values="attention.self.value",
        activation="config.hidden_act",
        head="lm_head",
        heads="config.num_attention_heads",
        vocabulary="config.vocab_size",
        harmless=("query", "key"),
        window="config.max_position_embeddings",
        padding="config.pad_token_id",
        spare=(
            "*pooler.dense.*",
            "*embeddings.position_ids",
        ),  # the published checkpoints have them
    ),
    Family(
        name="vit",
        library="transformers",
        architectures=("ViTForImageClassification",),
        modality="image",
        layers="vit.layers",
        attention_out="attention.o_proj",
        mlp_out="mlp.fc2",
        values="attention.v_proj",
        activation="config.hidden_act",
        head="classifier",
        heads="config.num_attention_heads",
        vocabulary="config.num_labels",
        harmless=("q_proj", "k_proj"),
        patches="vit.embeddings.patch_embeddings",
    ),
    Family(
        name="timm-vit",
        library="timm",
        architectures=("vit_*", "deit_*", "deit3_*"),
        modality="image",
        layers="blocks",
        attention_out="attn.proj",
        mlp_out="mlp.fc2",
        values="attn.qkv",
        activation="blocks.0.mlp.act",
        head="head",
        heads="blocks.0.attn.num_heads",
        vocabulary="num_classes",
        fused=True,
        harmless=("q_norm", "k_norm"),
        patches="patch_embed",
    ),
)


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
        if family.library == library and any(fnmatchcase(found, a) for a in family.architectures):
            return family
    raise UnknownFamilyError(
        f"config.json names the {library} architecture `{found}`, which has no row in"
        f" workers/families.py. {_KNOWN} Use one of these, or add a row that says where"
        " its layers, projections and head are."
    )


_KNOWN = (
    "Known are " + ", ".join(f"{a} ({f.name})" for f in FAMILIES for a in f.architectures) + "."
)
