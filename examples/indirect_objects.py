"""Write paired prompts in which a reader must tell who receives something.

    When the client and the server start, the server sends a message to the   →   client

Two things are named, one of them again as the sender: what follows is the other, the
*indirect object* (Wang et al., 2022, "Interpretability in the wild"). The donor names a third
thing as the sender, so that it says nothing of which of the two receives; it is the same
prompt in all else. Which is named first is drawn, and so are things and sentences.

    python examples/indirect_objects.py                    the bundled file, in words that the
                                                           bundled models have as one token
    python examples/indirect_objects.py FILE --names       with first names, for larger models

Weak: the sentences are few and alike, so what is found is found of them.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

FILE = Path(__file__).with_suffix(".jsonl")
ROWS, SEED = 320, 0
THINGS = (
    "client server user parser thread process logger handler parent child iterator manager"
    " interpreter module program socket"
)
NAMES = "Mary John Tom James Dan Martin Amy Scott Adam Anna Paul Mark Kate Laura Alice Robert"
SENTENCES = (
    "When {one} and {other} open a connection, {sender} sends a message to",
    "When {one} and {other} are done, {sender} returns a value to",
    "If {one} and {other} share a lock, {sender} sends a request to",
    "After {one} and {other} start, {sender} gives the result to",
    "Once {one} and {other} read the file, {sender} passes the data to",
    "Before {one} and {other} exit, {sender} writes a line to",
)


def rows(words: Sequence[str], article: str, count: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield prompts, no two alike; `article` stands before every word."""
    draw = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        receiver, sender, third = draw.sample(list(words), 3)
        one, other = draw.sample([receiver, sender], 2)
        sentence = draw.choice(SENTENCES) + article.rstrip()
        named = {"one": article + one, "other": article + other}
        named = {key: value.lstrip() for key, value in named.items()}
        prompt = sentence.format(**named, sender=(article + sender).lstrip())
        if prompt in seen:
            continue
        seen.add(prompt)
        yield {
            "input": prompt,
            "donor": sentence.format(**named, sender=(article + third).lstrip()),
            "answer": f" {receiver}",
            "wrong": [f" {sender}"],
        }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    parser.add_argument("--names", action="store_true", help="first names in place of things")
    asked = parser.parse_args()
    words, article = (NAMES, " ") if asked.names else (THINGS, " the ")
    lines = [json.dumps(row) + "\n" for row in rows(words.split(), article, ROWS, SEED)]
    asked.file.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
