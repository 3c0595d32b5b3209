"""A generated text is the model's own: each token falls where its number lies in the distribution.

Shapes: S sequences, T positions, V tokens of the vocabulary.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.workers import tiny
from workers.generating import _drawn, generate
from workers.loading import Model

every_causal = pytest.mark.parametrize("name", ["opt", "mistral"])
SPECIALS = {"bos": tiny.BOS, "pad": tiny.PAD, "eos": tiny.EOS, "mask": tiny.MASK}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def causal(name: str, parent: Path) -> Model:
    """Return a tiny model whose special tokens are known."""
    model = tiny.shared(name, parent)
    model.facts.specials.update(SPECIALS)
    return model


def begun(count: int) -> list[NDArray[np.int64]]:
    return [np.array([tiny.BOS])] * count


def made(model: Model, numbers: list[int], lengths: list[int], *, seed: int = 0) -> list[list[int]]:
    texts = generate(
        model,
        begun(len(numbers)),
        lengths,
        seed=seed,
        sequence_S=np.array(numbers),
    )
    return [text.tolist() for text in texts]


@every_causal
def test_texts_have_the_lengths_asked_for_and_begin_with_their_prompts(
    name: str, parent: Path
) -> None:
    model = causal(name, parent)
    prompts = [np.array([tiny.BOS]), np.array([7, 8, 9]), np.array([5, 6, 7, 8, 9])]
    texts = generate(model, prompts, [9, 12, 3], seed=1, sequence_S=np.array([4, 5, 6]))
    assert [len(text) for text in texts] == [9, 12, 3]
    assert [text[:3].tolist() for text in texts] == [
        [tiny.BOS, *texts[0][1:3]],
        [7, 8, 9],
        [5, 6, 7],
    ]
    assert all(text.dtype == np.int64 for text in texts)


@every_causal
def test_every_token_is_where_its_number_falls_in_the_librarys_own_distribution(
    name: str, parent: Path
) -> None:
    """Without the cache, without the batch: the whole text again before every token."""
    model = causal(name, parent)
    length = tiny.WINDOW + 1
    texts = made(model, [3, 8], [length, length], seed=2)
    for number, text in zip([3, 8], texts, strict=True):
        key = np.array([2, number], np.uint64)
        counter = np.array([0, 0, 0, 21], np.uint64)
        uniform_T = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(length)
        for t in range(1, length):
            with torch.inference_mode():
                logits_V = model.module(input_ids=torch.tensor([text[:t]])).logits[0, -1]
            p_V = torch.softmax(logits_V.double(), dim=0).numpy()
            p_V[list(SPECIALS.values())] = 0
            end_V = (p_V / p_V.sum()).cumsum()
            start = end_V[text[t]] - p_V[text[t]] / p_V.sum()
            assert start - 1e-5 <= uniform_T[t] <= end_V[text[t]] + 1e-5


@every_causal
def test_special_tokens_are_never_generated_and_all_others_may_be(name: str, parent: Path) -> None:
    texts = made(causal(name, parent), list(range(200)), [tiny.WINDOW] * 200)
    seen = {token for text in texts for token in text[1:]}
    assert seen == set(range(tiny.VOCABULARY)) - set(SPECIALS.values())


@every_causal
def test_a_text_does_not_depend_on_what_it_is_generated_beside(name: str, parent: Path) -> None:
    model = causal(name, parent)
    many = made(model, [1, 2, 3, 4], [10, 12, 9, 16], seed=5)
    alone = [made(model, [n], [k], seed=5)[0] for n, k in ((4, 16), (2, 12), (1, 10), (3, 9))]
    assert alone == [many[3], many[1], many[0], many[2]]
    longer = made(model, [1, 2], [16, 16], seed=5)
    assert [longer[0][:10], longer[1][:12]] == many[:2]


def test_seed_and_number_each_make_another_text_and_the_same_the_same(parent: Path) -> None:
    model = causal("opt", parent)
    one = made(model, [1], [16])
    assert one == made(model, [1], [16])
    assert one != made(model, [2], [16])
    assert one != made(model, [1], [16], seed=1)
    assert one != made(model, [1], [16], seed=2**32)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    p_V = torch.tensor([0.4, 0.3, 0.2, 0.1])
    uniform_S = torch.from_numpy((np.arange(1000) + 0.5) / 1000)
    token_S = _drawn(p_V.log().expand(1000, 4), uniform_S, torch.tensor([1]))
    share_V = torch.bincount(token_S, minlength=4).double() / 1000
    assert share_V.tolist() == pytest.approx([4 / 7, 0, 2 / 7, 1 / 7], abs=2e-3)


def test_the_largest_number_gives_the_last_token_that_has_a_chance() -> None:
    edge = torch.full((1,), 1 - 2.0**-53, dtype=torch.float64)
    assert _drawn(torch.zeros(1, 5), edge, torch.tensor([3, 4])).tolist() == [2]
    assert _drawn(torch.zeros(1, 5), torch.ones(1).double(), torch.tensor([4])).tolist() == [3]
    assert _drawn(torch.zeros(1, 5), torch.zeros(1).double(), torch.tensor([0])).tolist() == [1]


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        _drawn(torch.full((1, 5), torch.nan), torch.zeros(1).double(), torch.tensor([0]))


def test_what_cannot_be_generated_is_refused(parent: Path) -> None:
    with pytest.raises(ValueError, match="only causal models generate"):
        made(tiny.shared("roberta", parent), [0], [4])
    model = causal("opt", parent)
    with pytest.raises(ValueError, match=f"{tiny.WINDOW + 2} tokens .* Ask for {tiny.WINDOW + 1}"):
        made(model, [0], [tiny.WINDOW + 2])
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(model, [np.array([], np.int64)], [4], seed=0, sequence_S=np.array([0]))


def test_no_texts_are_none(parent: Path) -> None:
    assert made(causal("opt", parent), [], []) == []
