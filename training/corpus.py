"""The text corpus: CPython's own documentation, frozen once.

The three text models are trained and measured on what the Python interpreter
says about itself: the language topics behind `help()` (`pydoc_data.topics`),
every docstring in the standard library's sources, and the docstrings of its
compiled modules. The text differs between versions of Python, so it is written
to a file and that file is shipped; nothing rebuilds it at run time.

A *document* is one topic or one module. Ten in a hundred are set aside for
testing by the SHA-256 of their name, so the split depends on nothing else. A
*paragraph* is a run of lines between blank ones, its white space squeezed to
single spaces; in a document, one line is one paragraph. Three rules keep the
held-out text held out:

    repeated   a paragraph longer than 60 characters is kept once
    exact      a test paragraph, however short, that occurs in train is dropped
    near       a test paragraph is dropped if more than half of its 5-word
               shingles occur anywhere in train

What the rules cannot catch is a paraphrase.

    python -m training.corpus workers/zoo/text/corpus.jsonl.xz
"""

import argparse
import ast
import hashlib
import importlib
import importlib.machinery
import inspect
import json
import lzma
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

TEST_SHARE = 0.10
SHORTEST_DOCSTRING = 40  # characters; anything shorter says too little
SHORTEST_UNIQUE = 60  # characters; paragraphs longer than this are kept once
SHORTEST_DOCUMENT = 200  # characters; less would be nearly all padding
SHINGLE = 5  # words
NOT_DOCUMENTATION = {"test", "tests", "idle_test", "site-packages", "__phello__", "pydoc_data"}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text with their white space squeezed."""
    squeezed = (" ".join(block.split()) for block in re.split(r"\n[ \t]*\n", text))
    return [paragraph for paragraph in squeezed if paragraph]


def split_of(document: str) -> str:
    """Return the split of a document, decided by its name alone."""
    digest = hashlib.sha256(document.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64 else "train"


def shingles(paragraph: str) -> set[tuple[str, ...]]:
    """Return the runs of five words in a paragraph, in lower case and without punctuation."""
    words = re.findall(r"\w+", paragraph.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def docstrings_of_source(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module's source in the order in which they stand."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Documented)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        yield ast.get_docstring(node) or ""


def docstring(member: object) -> str:
    """Return a member's docstring, or nothing where it has none of its own."""
    text = getattr(member, "__doc__", None)
    return inspect.cleandoc(text) if isinstance(text, str) else ""


def docstrings_of_module(module: ModuleType) -> Iterator[str]:
    """Yield the docstrings of a compiled module: its own, its members', their members'."""
    yield docstring(module)
    for _, member in sorted(vars(module).items()):
        if isinstance(member, type) and member.__module__ == module.__name__:
            yield docstring(member)
            for _, part in sorted(vars(member).items()):
                if callable(part):
                    yield docstring(part)
        elif inspect.isroutine(member):
            yield docstring(member)


def raw_documents() -> dict[str, list[str]]:
    """Return every document's paragraphs before any de-duplication, sorted by name."""
    found: dict[str, list[str]] = {}
    for topic, text in topics.items():
        found[f"topic/{topic}"] = paragraphs(text)

    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if not NOT_DOCUMENTATION.isdisjoint(parts) or parts[0].startswith(("config-", "_sysconf")):
            continue
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        try:
            texts = list(docstrings_of_source(path.read_bytes()))
        except (SyntaxError, ValueError):  # lib2to3 carries files that are wrong on purpose
            continue
        found[f"module/{name}"] = [
            p for text in texts if len(text) > SHORTEST_DOCSTRING for p in paragraphs(text)
        ]

    for name in sorted(sys.stdlib_module_names):
        spec = importlib.machinery.PathFinder.find_spec(name)
        origin = (spec.origin or "") if spec else ""
        if name in sys.builtin_module_names or origin.endswith(".so"):
            if name.startswith(("_test", "_xx", "xx")):
                continue
            found[f"compiled/{name}"] = [
                p
                for text in docstrings_of_module(importlib.import_module(name))
                if len(text) > SHORTEST_DOCSTRING
                for p in paragraphs(text)
            ]
    return dict(sorted(found.items()))


def kept_once(documents: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the documents with every long paragraph kept where it stands first.

    Train comes before test, so what stands in both is kept for training.
    """
    seen: set[str] = set()
    kept: dict[str, list[str]] = {}
    for name in sorted(documents, key=lambda name: (split_of(name) == "test", name)):
        kept[name] = []
        for paragraph in documents[name]:
            if len(paragraph) <= SHORTEST_UNIQUE or paragraph not in seen:
                kept[name].append(paragraph)
            seen.add(paragraph)
    return dict(sorted(kept.items()))


def given_away(paragraph: str, train: set[tuple[str, ...]]) -> bool:
    """Say whether more than half of a paragraph's shingles occur in train."""
    found = shingles(paragraph)
    return 2 * len(found & train) > len(found)


def held_out(documents: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the documents without the test paragraphs that train gives away."""
    train = [p for name in documents if split_of(name) == "train" for p in documents[name]]
    exact = set(train)
    near = set().union(*map(shingles, train))
    return {
        name: [
            paragraph
            for paragraph in found
            if split_of(name) == "train"
            or (paragraph not in exact and not given_away(paragraph, near))
        ]
        for name, found in documents.items()
    }


def freeze(path: Path) -> dict[str, tuple[int, int]]:
    """Write the corpus and return (documents, bytes) of each split."""
    sizes = {"train": (0, 0), "test": (0, 0)}
    lines = []
    for name, found in held_out(kept_once(raw_documents())).items():
        text = "\n".join(found)
        if len(text) < SHORTEST_DOCUMENT:
            continue
        split = split_of(name)
        row = {"document": name, "split": split, "text": text}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        documents, size = sizes[split]
        sizes[split] = (documents + 1, size + len(text.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    return sizes


def main() -> None:
    """Freeze the corpus of the interpreter that runs this."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path)
    for split, (documents, size) in freeze(parser.parse_args().path).items():
        sys.stdout.write(f"{split}: {documents} documents, {size / 1e6:.3f} MB\n")


if __name__ == "__main__":
    main()
