"""Generating: texts that a causal model writes itself, to be fed as donors.

A token is drawn from the model's own distribution, at temperature 1 and without
cutting its tail: the most likely continuation repeats itself and is no sample of
what the model takes text to be. A generated text is one that the model finds
likely, so its activations lie where the model works, without being those of any
document. A small model's texts may still look like none, and they are the
model's: two models are given different donors.

Token by token, the library's key-value cache keeps what was computed before.
The number that decides a token depends on the seed, the sequence and the
position alone, and the token is where it falls in the running sum, in float64,
of the float32 softmax. So a text does not depend on what it is generated beside,
but for rounding: sums inside the model depend on the shape of the batch, and a
number within rounding of the edge between two tokens gives the other one, from
where the text goes another way. So fix the batches and the same texts come.

Shapes: S sequences, T positions of the longest, V tokens of the vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.loading import Model

_PURPOSE = 21  # keeps this stream apart from others of the same seed


def generate(
    model: Model,
    prompts_S: Sequence[NDArray[np.int64]],
    lengths_S: Sequence[int],
    *,
    seed: int,
    sequence_S: NDArray[np.int64],
) -> list[NDArray[np.int64]]:
    """Return one text for every prompt, (lengths_S[i],) token ids each, the prompt included.

    All are generated in one batch. No special token is generated. `sequence_S` are
    the numbers that the texts are drawn by. A text may be one longer than the model's
    window, because its last token is never fed.

    Raises ValueError where the model is not causal, a prompt is empty, a text would
    be longer, or the model's scores are not numbers.
    """
    _check(model, prompts_S, lengths_S)
    count, longest = len(prompts_S), max(lengths_S, default=0)
    device = model.device
    token_ST = torch.zeros((count, longest), dtype=torch.int64, device=device)
    given_ST = torch.zeros((count, longest), dtype=torch.bool, device=device)
    for i, prompt in enumerate(prompts_S):
        room = min(len(prompt), longest)
        token_ST[i, :room] = torch.from_numpy(prompt[:room]).to(device)
        given_ST[i, :room] = True
    uniform_ST = torch.from_numpy(_uniform(sequence_S, longest, seed)).to(device)
    never = torch.tensor(sorted(set(model.facts.specials.values())), dtype=torch.int64).to(device)

    cache = None
    with torch.inference_mode():
        for t in range(longest - 1):
            answer = model.module(
                input_ids=token_ST[:, t : t + 1],
                attention_mask=torch.ones((count, t + 1), dtype=torch.int64, device=device),
                past_key_values=cache,
                use_cache=True,
            )
            cache = answer.past_key_values
            drawn_S = _drawn(answer.logits[:, -1].float(), uniform_ST[:, t + 1], never)
            token_ST[:, t + 1] = torch.where(given_ST[:, t + 1], token_ST[:, t + 1], drawn_S)
    texts = token_ST.cpu().numpy()
    return [text[:length] for text, length in zip(texts, lengths_S, strict=True)]


def _check(model: Model, prompts_S: Sequence[NDArray[np.int64]], lengths_S: Sequence[int]) -> None:
    if model.facts.modality != "causal":
        raise ValueError(
            f"{model.ref.name} is a {model.facts.modality} model, and only causal models generate"
            " text. Take donors from another source."
        )
    if any(len(prompt) == 0 for prompt in prompts_S):
        raise ValueError("A prompt is empty; every text begins with one token at least.")
    longest = max(lengths_S, default=0)
    if longest > model.facts.window + 1:
        raise ValueError(
            f"A text of {longest} tokens was asked of {model.ref.name}, whose window holds"
            f" {model.facts.window}. Ask for {model.facts.window + 1} at most."
        )


def _uniform(sequence_S: NDArray[np.int64], positions: int, seed: int) -> NDArray[np.float64]:
    """Return the numbers in [0, 1) that decide tokens, (S, T); more positions change none."""
    uniform_ST = np.empty((len(sequence_S), positions))
    for i, number in enumerate(sequence_S):
        key = np.array([seed, number], dtype=np.uint64)
        counter = np.array([0, 0, 0, _PURPOSE], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        uniform_ST[i] = generator.random(positions)
    return uniform_ST


def _drawn(logits_SV: Tensor, uniform_S: Tensor, never: Tensor) -> Tensor:
    """Return the token (S,) that each number falls on, none of `never`."""
    logits_SV = logits_SV.index_fill(1, never, -torch.inf)
    below_SV = torch.softmax(logits_SV, dim=1).double().cumsum(dim=1)
    whole_S = below_SV[:, -1]
    if not torch.isfinite(whole_S).all():
        raise ValueError("The model's scores are not numbers, so no token can be drawn from them.")
    # Rounded up to the whole, a number would fall behind the last token that has a chance.
    at_S = torch.minimum(uniform_S * whole_S, torch.nextafter(whole_S, torch.zeros_like(whole_S)))
    return torch.searchsorted(below_SV, at_S[:, None], right=True)[:, 0]
