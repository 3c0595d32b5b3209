"""Cuts: how a family's layers are divided between processes, as plain names.

Every process of a sharded model (`workers.sharding`) holds whole heads and an equal share of
the MLP's neurons. Most of what to cut a family's own row says already: the projections that
make queries, keys and values lose rows, those that are read at the two sites lose columns.
Here stands what it does not say: what feeds the MLP's neurons, and which numbers the
library's forward pass keeps of its heads. Both are names, so this needs no torch, and
planning can ask.

Embeddings, norms and the head are whole in every process: they are small beside the layers
of a model that needs cutting, and so every process scores by itself.

A family is missing here where a norm reads all heads at once (OLMo 2, EVA): no process
could compute it from its own.
"""

from dataclasses import dataclass, replace

from workers.messages import ModelFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What to divide in a layer, beside what the family's row says."""

    mlp_in: tuple[str, ...]
    """Paths in a layer of the projections whose rows feed the MLP's neurons."""
    stacked: int = 1
    """Blocks of rows in each, one row for every neuron: 2 where gate and value are one."""
    numbers: tuple[str, ...] = ()
    """Paths in a layer of heads or widths that the forward pass reads, and that are divided."""


_GATED = Cut(mlp_in=("mlp.gate_proj", "mlp.up_proj"))
_VIT = Cut(mlp_in=("mlp.fc1",))

CUTS = {
    "opt": Cut(mlp_in=("fc1",), numbers=("self_attn.num_heads",)),
    "gpt2": Cut(mlp_in=("mlp.c_fc",), numbers=("attn.split_size",)),
    "gpt-neox": Cut(mlp_in=("mlp.dense_h_to_4h",)),
    "gpt-j": Cut(mlp_in=("mlp.fc_in",), numbers=("attn.num_attention_heads",)),
    **dict.fromkeys(("llama", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3"), _GATED),
    "phi": Cut(mlp_in=("mlp.fc1",)),
    "phi3": Cut(
        mlp_in=("mlp.gate_up_proj",),
        stacked=2,
        numbers=("self_attn.config.num_attention_heads", "self_attn.num_key_value_heads"),
    ),
    "bert": Cut(mlp_in=("intermediate.dense",)),
    "roberta": Cut(mlp_in=("intermediate.dense",)),
    "distilbert": Cut(mlp_in=("ffn.lin1",)),
    "vit": _VIT,
    "deit": _VIT,
    "timm-vit": Cut(mlp_in=("mlp.fc1",), numbers=("attn.num_heads", "attn.attn_dim")),
}
"""By name of the family."""


def refusal(facts: ModelFacts, shards: int) -> str | None:
    """Return why a model cannot be held by so many processes together; None where it can."""
    if shards == 1:
        return None
    if facts.family not in CUTS:
        return (
            f"a {facts.family} model cannot be sharded; {', '.join(CUTS)} can. Leave `shards` out,"
            " or add a row to workers/cuts.py"
        )
    found = {
        "heads": facts.heads,
        "heads with keys and values": facts.kv_heads,
        "neurons of an MLP": facts.d_mlp,
    }
    for what, count in found.items():
        if count % shards:
            fitting = [k for k in range(2, shards) if not any(n % k for n in found.values())]
            cure = f"write `shards: {fitting[-1]}`" if fitting else "leave `shards` out"
            return (
                f"its {count} {what} cannot be divided by {shards}; {cure}, or write a number that"
                f" divides {' and '.join(f'{n} {of}' for of, n in found.items())}"
            )
    return None


def parameters(facts: ModelFacts, shards: int) -> int:
    """Return about how many parameters one of so many processes holds; rather too many.

    What is whole is taken to be two matrices of the vocabulary's size, though many models
    have one, and one vector for each position.
    """
    whole = facts.d_model * (2 * facts.vocabulary + facts.window)
    return facts.parameters - max(0, facts.parameters - whole) * (shards - 1) // shards


def part(facts: ModelFacts, shards: int) -> ModelFacts:
    """Return the facts of what one of so many processes holds: a narrower model."""
    return replace(
        facts,
        heads=facts.heads // shards,
        kv_heads=facts.kv_heads // shards,
        d_mlp=facts.d_mlp // shards,
    )
