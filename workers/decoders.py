"""Decoders: the rows of causal language models, all of transformers.

Most of them name their parts as Llama does, and their rows are written as what differs.
What makes them different models (rotary angles, windows of attention, norms of queries and
keys, scaled embeddings) lies inside the library's forward pass, where nobody here looks.

In a parallel block (GPT-NeoX, GPT-J, Phi) attention and MLP read the same hidden state, and
holding the one does not change what the other is fed in that layer.

GPT-2 writes its projections as `Conv1D`, whose weight is transposed; `workers.conv1d` makes
them linear layers of the same memory.
"""

from dataclasses import replace

from workers.row import Family

_ROTARY = ("*.rotary_emb.inv_freq",)  # angles that older versions wrote beside the weights
_MASKS = ("*.attn.bias", "*.attn.masked_bias", "*.attention.bias", "*.attention.masked_bias")

_LLAMA = Family(
    name="llama",
    library="transformers",
    architectures=("LlamaForCausalLM",),
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
    spare=_ROTARY,
)
_WITH_NORMS = ("q_proj", "k_proj", "q_norm", "k_norm")  # of queries and keys, never of values

DECODERS = (
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
        name="gpt2",
        library="transformers",
        architectures=("GPT2LMHeadModel",),
        modality="causal",
        layers="transformer.h",
        attention_out="attn.c_proj",
        mlp_out="mlp.c_proj",
        values="attn.c_attn",
        activation="config.activation_function",
        head="lm_head",
        heads="config.num_attention_heads",
        vocabulary="config.vocab_size",
        fused="blocks",
        window="config.max_position_embeddings",
        spare=_MASKS,
    ),
    Family(
        name="gpt-neox",  # Pythia
        library="transformers",
        architectures=("GPTNeoXForCausalLM",),
        modality="causal",
        layers="gpt_neox.layers",
        attention_out="attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        values="attention.query_key_value",
        activation="config.hidden_act",
        head="lm_head",
        heads="config.num_attention_heads",
        vocabulary="config.vocab_size",
        fused="groups",
        window="config.max_position_embeddings",
        spare=(*_MASKS, *_ROTARY),
    ),
    Family(
        name="gpt-j",
        library="transformers",
        architectures=("GPTJForCausalLM",),
        modality="causal",
        layers="transformer.h",
        attention_out="attn.out_proj",
        mlp_out="mlp.fc_out",
        values="attn.v_proj",
        activation="config.activation_function",
        head="lm_head",
        heads="config.num_attention_heads",
        vocabulary="config.vocab_size",
        harmless=("q_proj", "k_proj"),
        window="config.max_position_embeddings",
        spare=_MASKS,
    ),
    _LLAMA,
    replace(_LLAMA, name="mistral", architectures=("MistralForCausalLM",), spare=()),
    replace(_LLAMA, name="gemma", architectures=("GemmaForCausalLM",)),
    replace(
        _LLAMA,
        name="gemma2",
        architectures=("Gemma2ForCausalLM",),
        activation="config.hidden_activation",
        softcap="config.final_logit_softcapping",
    ),
    replace(
        _LLAMA,
        name="gemma3",
        architectures=("Gemma3ForCausalLM",),
        activation="config.hidden_activation",
        softcap="config.final_logit_softcapping",
        harmless=_WITH_NORMS,
    ),
    replace(_LLAMA, name="qwen2", architectures=("Qwen2ForCausalLM",)),
    replace(_LLAMA, name="qwen3", architectures=("Qwen3ForCausalLM",), harmless=_WITH_NORMS),
    replace(_LLAMA, name="olmo2", architectures=("Olmo2ForCausalLM",), harmless=_WITH_NORMS),
    replace(
        _LLAMA,
        name="phi",  # 1, 1.5 and 2
        architectures=("PhiForCausalLM",),
        attention_out="self_attn.dense",
        mlp_out="mlp.fc2",
        harmless=("q_proj", "k_proj", "q_layernorm", "k_layernorm"),
    ),
    replace(
        _LLAMA,
        name="phi3",
        architectures=("Phi3ForCausalLM",),
        values="self_attn.qkv_proj",
        fused="blocks",
        harmless=(),
    ),
)
