"""Prepare: exactly what the models are fed.

The windows and their corruption are drawn here, once, from seeds of the spec, and
written down. Later stages only read, so every cell sees the same data and anyone
can check a number without our code.

Roles never share a document: collection and evaluation take different splits
or, where a source has none, documents are divided by the hash of their content,
so that equal texts fall on the same side. Windows are taken in turns, one per
document in a seeded order, so that few windows still mean many documents.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import sources
from orchestrator.sections import DEFAULT_SEQUENCES, SHORTEST
from orchestrator.sources import Document
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.data import causal_targets, corrupt, windows
from workers.tokenising import encode


class PrepareError(ValueError):
    """The source does not hold what the sweep asks of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One sequence before it has a number."""

    document: str
    input: NDArray[np.int64]
    bytes: int


def data(task: Task, store: Store) -> dict[str, object]:
    """Write the data table of one (model, data)."""
    a = task.arguments
    source = sources.find(
        a["source"], base=Path(a["base"]), text=a["fields"][0], document=a["fields"][1]
    )
    roles = a["roles"]
    documents = list(_roles(source.read(), source.splits, roles))
    table = (
        _images(task, documents, roles)
        if source.kind == "images"
        else _text(task, documents, roles)
    )
    store.commit(task.file, parquet(table, task.name))
    return {"sequences": table.num_rows}


def _roles(
    documents: Iterator[Document], splits: Sequence[str], roles: Mapping[str, Any]
) -> Iterator[tuple[str, Document]]:
    """Yield each document with its role; a text that is in both splits is left to collection."""
    wanted = {r: roles[r]["split"] for r in ("collect", "evaluate")}
    if splits and None in wanted.values():
        wanted = {"collect": splits[0], "evaluate": splits[-1]}
    collected: set[bytes] = set()
    kept: list[tuple[str, Document, bytes]] = []
    for document in documents:
        content = document.image.tobytes() if document.image is not None else None
        digest = hashlib.sha256(content or (document.text or "").encode()).digest()
        if splits:
            role = next((r for r, split in wanted.items() if split == document.split), None)
        else:
            role = "collect" if digest[0] % 2 else "evaluate"
        if role == "collect":
            collected.add(digest)
        if role is not None:
            kept.append((role, document, digest))
    for role, document, digest in kept:
        if role == "collect" or digest not in collected:
            yield role, document


def _turns(windows_of: Iterable[Sequence[Window]], limit: int) -> list[Window]:
    """Return `limit` windows at most, taken one per document in turns.

    Documents are looked at only as long as the first turn needs more of them.
    """
    first: list[Sequence[Window]] = []
    for made in windows_of:
        if made:
            first.append(made)
        if len(first) == limit:
            break
    longest = max(map(len, first), default=0)
    return [w[i] for i in range(longest) for w in first if i < len(w)][:limit]


def _hashed(documents: Sequence[tuple[str, Document]], role: str) -> list[Document]:
    """Return a role's documents in the order of their names' hashes."""
    mine = [d for r, d in documents if r == role]
    return sorted(mine, key=lambda d: hashlib.sha256(d.name.encode()).digest())


def _limit(asked: Mapping[str, Any], role: str, window: int) -> int:
    """Return how many sequences a role takes; a number of tokens means full windows."""
    if asked["tokens"] is not None:
        return -(-int(asked["tokens"]) // window)
    return int(asked["sequences"] or DEFAULT_SEQUENCES[role])


def _some(found: list[Window], role: str) -> list[Window]:
    if not found:
        raise PrepareError(
            f"the source has no sequence for {role!r}: no document of its split is at least"
            f" {SHORTEST} positions long"
        )
    return found


def _text(
    task: Task, documents: Sequence[tuple[str, Document]], roles: Mapping[str, Any]
) -> pa.Table:
    a = task.arguments
    masked = a["modality"] == "masked"
    columns: dict[str, list[Any]] = {c: [] for c in _TEXT}
    for role in ("collect", "evaluate"):
        limit = _limit(roles[role], role, a["window"])
        for window in _some(_turns(_windows(a, _hashed(documents, role)), limit), role):
            number = len(columns["sequence"])
            kinds = None
            if masked:
                input_T, target_T, kind_T = corrupt(
                    window.input,
                    seed=a["masking"],
                    sequence=number,
                    specials=a["specials"],
                    vocabulary=a["vocabulary"],
                )
                kinds = [kind for kind in kind_T if kind is not None]
            else:
                input_T, target_T = window.input, causal_targets(window.input)
            values = (role, window.document, number, window.bytes, input_T, target_T, kinds)
            for column, value in zip(_TEXT, values, strict=True):
                columns[column].append(value)
    fixed = {"model": a["model"], "data": a["data_name"]}
    lists = {c: [v.astype(np.int32) for v in columns[c]] for c in ("input", "target")}
    return rows("text", {**columns, **lists, **fixed}, len(columns["sequence"]))


def _windows(a: Mapping[str, Any], documents: Sequence[Document]) -> Iterator[list[Window]]:
    """Yield every document's windows, tokenising a few documents at a time.

    A window's bytes are those of its text, whichever of its tokens are scored.
    """
    bos, eos = a["specials"].get("bos"), a["specials"].get("eos")
    opening = bos if a["bos"] == "every_window" else None
    closing = eos if a["modality"] == "masked" else None
    around = (opening is not None) + (closing is not None)
    # A bos for the first window alone is cut like a token of the text, one of no bytes.
    ahead = np.array([bos] if a["bos"] == "first" and bos is not None else [], np.int64)
    for start in range(0, len(documents), _AT_ONCE):
        some = documents[start : start + _AT_ONCE]
        encodings = encode(Path(a["folder"]), [d.text or "" for d in some])
        for document, encoding in zip(some, encodings, strict=True):
            ids = np.concatenate([ahead, encoding.ids])
            cut = windows(ids, length=a["window"], bos=opening, eos=closing, shortest=SHORTEST)
            ends = np.cumsum([len(w) - around for w in cut])  # in tokens of the document
            bytes_at = np.concatenate([np.zeros_like(ahead), encoding.ends])
            bytes_to = np.concatenate([[0], bytes_at[ends - 1] if cut else []])
            yield [
                Window(document=document.name, input=w, bytes=int(size))
                for w, size in zip(cut, np.diff(bytes_to), strict=True)
            ]


_AT_ONCE = 64
"""Documents tokenised together."""
_TEXT = ("role", "document", "sequence", "bytes", "input", "target", "kind")


def _images(
    task: Task, documents: Sequence[tuple[str, Document]], roles: Mapping[str, Any]
) -> pa.Table:
    a = task.arguments
    columns: dict[str, list[Any]] = {
        c: [] for c in ("role", "document", "sequence", "image", "shape", "target")
    }
    for role in ("collect", "evaluate"):
        taken = _hashed(documents, role)[: _limit(roles[role], role, 1)]
        if not taken:
            raise PrepareError(f"the source has no image for {role!r}")
        for document in taken:
            assert document.image is not None
            columns["role"].append(role)
            columns["document"].append(document.name)
            columns["sequence"].append(len(columns["sequence"]))
            columns["image"].append(document.image.ravel())
            columns["shape"].append(list(document.image.shape))
            columns["target"].append(document.target)
    fixed = {"model": a["model"], "data": a["data_name"]}
    return rows("images", {**columns, **fixed}, len(columns["sequence"]))
