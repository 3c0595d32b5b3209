"""Learning cost: how much memory a backward pass keeps, known before anything runs.

Evaluation forgets a layer as soon as the next has its output. Learning constants
(`workers.learn`) cannot: what a layer's backward pass needs is kept until the
whole forward pass is done. Weights are frozen, so the inputs of linear layers are
not kept; what is kept for each position is, in every layer,

    the inputs of both norms (in float32, four times over, where a norm is
    written out in Python as in Mistral; those models' MLPs are gated)
    queries, keys and values, one of each for every query head, and their mix
    the input of the MLP's nonlinearity; where it is gated, two factors more
    which neurons were held, one byte each

and once the attention's mask. One layer's gradients come on top, and for each
neuron its constant with what Adam remembers.

This is an upper estimate, from the shapes alone: as if the first layer were
held. It assumes attention that never writes out all pairs of positions
(`scaled_dot_product_attention` with a fused kernel); where a device falls back to
writing them, positions x window x heads values in each layer are missing here.
The weights, and the scores that `logits_bytes` bounds, are not included.
"""

from workers.messages import ModelFacts

_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
_PER_NEURON = 64
"""Bytes: constants, starts and scales in float64; gradient, moments and steps in float32."""


def memory_bytes(facts: ModelFacts, batch_tokens: int, dtype: str) -> int:
    """Return the bytes that a learning step keeps beside the weights and the scores.

    `batch_tokens` are the positions of the largest batch, padding included;
    `dtype` is the model's: float32, bfloat16 or float16.
    """
    width = _WIDTH[dtype]
    norms = 8 * facts.d_model * 4 if facts.gated else 2 * facts.d_model * width
    attention = 6 * facts.neurons * width
    mlp = (4 if facts.gated else 2) * facts.d_mlp * width
    held = facts.neurons + facts.d_mlp
    layer = norms + attention + mlp + held
    mask = max(facts.window * width, facts.d_model * width)
    constants = facts.layers * held * _PER_NEURON
    return batch_tokens * (layer * (facts.layers + 1) + mask) + constants
