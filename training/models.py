"""The shapes of the bundled models, as the libraries' own configurations.

Every text model is 128 wide and 4 layers deep; every one ties its output
embedding to its input. They differ where their families differ: positions,
normalisation, gating, grouped keys and values, and the direction of attention.
"""

import torch
from torch import nn
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from training.tokenizer import SIZE
from training.windows import BOS, EOS, PAD


def opt() -> PreTrainedModel:
    """Return an untrained OPT: learned positions, ReLU, biases everywhere."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=SIZE,
            hidden_size=128,
            word_embed_proj_dim=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            ffn_dim=512,
            max_position_embeddings=128,
            dropout=0.0,
            attention_dropout=0.0,
            layerdrop=0.0,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    )


def mistral() -> PreTrainedModel:
    """Return an untrained Mistral: rotary positions, SwiGLU, half as many keys as queries."""
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=SIZE,
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=16,
            max_position_embeddings=128,
            sliding_window=64,
            attention_dropout=0.0,
            tie_word_embeddings=True,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    )


def roberta() -> PreTrainedModel:
    """Return an untrained RoBERTa: learned positions, GELU, attention both ways."""
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=SIZE,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=66,  # 64, and the two that RoBERTa never uses
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    )


BUILD = {"opt": opt, "mistral": mistral, "roberta": roberta}


def drawn(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with every matrix drawn anew from N(0, 0.02), in the order of its names."""
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
    return model
