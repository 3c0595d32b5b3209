"""Baselines: what counting alone reaches on the held-out text.

A model that has learnt less than a table of three-token counts is not worth ablating.
The tables are made from the train split with absolute discounting (0.75 taken from every
count and given to the next shorter context) and asked about the same windows as the
causal models, `<s>` included. For the masked model, the question is which token stands
between two known neighbours: the counts of (left, token) times those of (token, right),
asked about every token between two others.

    python -m training.baselines workers/zoo

Shapes: V tokens in the vocabulary.
"""

import argparse
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.tokenizer import SIZE
from training.windows import BOS, PAD, WINDOW, Tokens, fixed_windows, read_corpus, tokens_of

DISCOUNT = 0.75
Table = dict[tuple[int, ...], Counter[int]]
Probabilities = NDArray[np.float64]


def counted(rows: Tokens, context: int) -> Table:
    """Return how often each token follows each context of some length."""
    table: Table = defaultdict(Counter)
    for row in rows.tolist():
        for i in range(max(1, context), len(row)):
            if row[i] == PAD:
                break
            table[tuple(row[i - context : i])][row[i]] += 1
    return table


def discounted(counts: Counter[int] | None, shorter_V: Probabilities) -> Probabilities:
    """Return the probabilities after a context, given those after a shorter one."""
    if not counts:
        return shorter_V
    total = counts.total()
    found_V = shorter_V * (DISCOUNT * len(counts) / total)
    found_V[list(counts)] += (np.fromiter(counts.values(), float) - DISCOUNT) / total
    return found_V


def causal(train: Tokens, test: Tokens) -> list[tuple[float, float]]:
    """Return (nats per token, top-1 share) of the unigram, bigram and trigram."""
    tables = [counted(train, context) for context in range(3)]
    flat_V = np.full(SIZE, 1 / SIZE)
    unigram_V = discounted(tables[0][()], flat_V)
    bigrams = {left: discounted(counts, unigram_V) for (left,), counts in tables[1].items()}
    loss, right, scored = [0.0] * 3, [0] * 3, 0
    for row in test.tolist():
        for i in range(1, len(row)):
            if row[i] == PAD:
                break
            bigram_V = bigrams.get(row[i - 1], unigram_V)
            trigram_V = discounted(tables[2].get(tuple(row[i - 2 : i])), bigram_V)
            answers = (unigram_V, bigram_V, trigram_V if i > 1 else bigram_V)
            for order, found_V in enumerate(answers):
                loss[order] -= math.log(found_V[row[i]])
                right[order] += int(found_V.argmax() == row[i])
            scored += 1
    return [(one / scored, hits / scored) for one, hits in zip(loss, right, strict=True)]


def between(train: Tokens, test: Tokens) -> tuple[float, float]:
    """Return (nats per token, top-1 share) of left bigram times right bigram."""
    tables = [counted(train, context) for context in range(2)]
    unigram_V = discounted(tables[0][()], np.full(SIZE, 1 / SIZE))
    after = {left: discounted(counts, unigram_V) for (left,), counts in tables[1].items()}
    matrix = np.stack([after.get(token, unigram_V) for token in range(SIZE)])
    loss, right, scored = 0.0, 0, 0
    for row in test.tolist():
        for i in range(1, len(row) - 1):
            if row[i + 1] == PAD:
                break
            found_V = matrix[row[i - 1]] * matrix[:, row[i + 1]]
            loss -= math.log(found_V[row[i]] / found_V.sum())
            right += int(found_V.argmax() == row[i])
            scored += 1
    return loss / scored, right / scored


def main() -> None:
    """Print the baselines of the held-out text."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("zoo", type=Path)
    zoo = parser.parse_args().zoo
    corpus = read_corpus(zoo / "text" / "corpus.jsonl.xz")
    rows = {
        split: fixed_windows(
            tokens_of(zoo / "opt", [d for d in corpus if d.split == split]),
            WINDOW["opt"],
            closed=False,
        )
        for split in ("train", "test")
    }
    assert (rows["train"][:, 0] == BOS).all()
    found = causal(rows["train"], rows["test"])
    for name, (loss, top1) in zip(("unigram", "bigram", "trigram"), found, strict=True):
        sys.stdout.write(f"{name}: {loss:.3f} nats, top-1 {top1:.1%}\n")
    loss, top1 = between(rows["train"], rows["test"])
    sys.stdout.write(f"left x right bigram: {loss:.3f} nats, top-1 {top1:.1%}\n")


if __name__ == "__main__":
    main()
