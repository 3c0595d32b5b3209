"""Encoders: the rows of masked language models and of image classifiers.

A head of several modules (DistilBERT's) is cut before the last of them, so that what is kept
of a position is as small as can be; a head that is one module (BERT's) is kept whole.

timm's names cover what its model names say and no more: `deit_*_distilled_*` has two heads
whose answers are averaged, so its patterns leave it out. Where timm puts a norm between the
heads and their projection (`attn.norm`), the neuron is what comes out of the norm: the
projection's input, as everywhere. docs/families.md says what that means for a head.
"""

from dataclasses import replace

from workers.row import Family

_BERT = Family(
    name="bert",
    library="transformers",
    architectures=("BertForMaskedLM",),
    modality="masked",
    layers="bert.encoder.layer",
    attention_out="attention.output.dense",
    mlp_out="output.dense",
    values="attention.self.value",
    activation="config.hidden_act",
    head="cls",
    heads="config.num_attention_heads",
    vocabulary="config.vocab_size",
    harmless=("query", "key"),
    window="config.max_position_embeddings",
    spare=(  # the published checkpoints have them
        "*pooler.dense.*",
        "*embeddings.position_ids",
        "cls.seq_relationship.*",
    ),
)

_VIT = Family(
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
)

_TIMM = Family(
    name="timm-vit",
    library="timm",
    architectures=(
        "vit_*",
        "deit_tiny_patch*",
        "deit_small_patch*",
        "deit_base_patch*",
        "deit3_*",
    ),
    but=("vit_dwee_*", "vit_dlittle_*"),  # differences of two attentions, normed head by head
    modality="image",
    layers="blocks",
    attention_out="attn.proj",
    mlp_out="mlp.fc2",
    values="attn.qkv",
    activation="blocks.0.mlp.act",
    head="head",
    heads="blocks.0.attn.num_heads",
    vocabulary="num_classes",
    fused="blocks",
    norm="attn.norm",
    harmless=("q_norm", "k_norm"),
    patches="patch_embed",
)

ENCODERS = (
    replace(
        _BERT,
        name="roberta",
        architectures=("RobertaForMaskedLM",),
        layers="roberta.encoder.layer",
        head="lm_head",
        padding="config.pad_token_id",
        spare=("*pooler.dense.*", "*embeddings.position_ids"),
    ),
    _BERT,
    replace(
        _BERT,
        name="distilbert",
        architectures=("DistilBertForMaskedLM",),
        layers="distilbert.transformer.layer",
        attention_out="attention.out_lin",
        mlp_out="ffn.lin2",
        values="attention.v_lin",
        activation="config.activation",
        head="vocab_projector",
        harmless=("q_lin", "k_lin"),
        spare=("*embeddings.position_ids",),
    ),
    _VIT,
    replace(
        _VIT,
        name="deit",
        architectures=("DeiTForImageClassification",),
        layers="deit.layers",
        patches="deit.embeddings.patch_embeddings",
        prefix=2,  # for the class, and for the teacher
    ),
    _TIMM,
    replace(
        _TIMM,
        name="timm-eva",  # one projection for queries, keys and values, their biases beside it
        architectures=(
            "eva_giant_*",
            "eva02_tiny_*",
            "eva02_small_*",
            "eva02_enormous_*",
        ),
    ),
    replace(
        _TIMM,
        name="timm-eva-split",  # three
        architectures=("eva02_base_*", "eva02_large_*"),
        values="attn.v_proj",
        fused=None,
        harmless=("q_proj", "k_proj", "q_norm", "k_norm"),
    ),
)
