"""Prepare: exactly what the models are fed, whose donor is whose, and what is held first.

Everything that is drawn at random is drawn here, once, from seeds of the spec,
and written down: the windows and their corruption (`data/`), each evaluated
sequence's donor (`donors/`) and the order in which neurons are held
(`selections/`). Later stages only read, so every cell sees the same data and
anyone can check a number without our code.

Roles never share a document: collection and evaluation take different splits
or, where a source has none, documents are divided by the hash of their content,
so that equal texts fall on the same side. Windows are taken in turns, one per
document in a seeded order, so that few windows still mean many documents.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import sources
from orchestrator.names import canonical
from orchestrator.sources import Document
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.data import causal_targets, corrupt, windows
from workers.selection import order
from workers.tokenising import encode

SHORTEST = 16
"""Positions of the shortest window that is kept: shorter ones say little and pad much."""
_PURPOSE = 3  # keeps this stream apart from those of `workers.selection` and `workers.data`
DEFAULT_SEQUENCES = {"collect": 256, "evaluate": 64}


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


def _turns(windows_of: Mapping[str, Sequence[Window]]) -> list[Window]:
    """Return all windows, taken one per document in turns, documents in hashed order."""
    ordered = sorted(windows_of, key=lambda name: hashlib.sha256(name.encode()).digest())
    longest = max((len(w) for w in windows_of.values()), default=0)
    return [windows_of[n][i] for i in range(longest) for n in ordered if i < len(windows_of[n])]


def _take(role: str, found: Sequence[Window], roles: Mapping[str, Any]) -> list[Window]:
    asked = roles[role]
    tokens, limit = asked["tokens"], asked["sequences"]
    if isinstance(tokens, int):
        totals = np.cumsum([len(w.input) for w in found])
        limit = int(np.searchsorted(totals, tokens)) + 1
    taken = list(found[: limit if isinstance(limit, int) else DEFAULT_SEQUENCES[role]])
    if not taken:
        raise PrepareError(
            f"the source has no sequence for {role!r}: no document of its split is at least"
            f" {SHORTEST} positions long"
        )
    return taken


def _text(
    task: Task, documents: Sequence[tuple[str, Document]], roles: Mapping[str, Any]
) -> pa.Table:
    a = task.arguments
    specials = a["specials"]
    masked = a["modality"] == "masked"
    encodings = encode(Path(a["folder"]), [d.text or "" for _, d in documents])
    found: dict[str, dict[str, list[Window]]] = {"collect": {}, "evaluate": {}}
    for (role, document), encoding in zip(documents, encodings, strict=True):
        cut = windows(
            encoding.ids,
            length=a["window"],
            bos=specials.get("bos"),
            eos=specials.get("eos") if masked else None,
            shortest=SHORTEST,
        )
        around = (specials.get("bos") is not None) + (masked and specials.get("eos") is not None)
        made, start = [], 0
        for input_T in cut:
            end = start + len(input_T) - around
            before = encoding.ends[start - 1] if start else 0
            size = int(encoding.ends[end - 1] - before)
            made.append(Window(document=document.name, input=input_T, bytes=size))
            start = end
        found[role][document.name] = made
    columns: dict[str, list[Any]] = {c: [] for c in _TEXT}
    for role in ("collect", "evaluate"):
        for window in _take(role, _turns(found[role]), roles):
            number = len(columns["sequence"])
            kinds = None
            if masked:
                input_T, target_T, kind_T = corrupt(
                    window.input,
                    seed=a["masking"],
                    sequence=number,
                    specials=specials,
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


_TEXT = ("role", "document", "sequence", "bytes", "input", "target", "kind")


def _images(
    task: Task, documents: Sequence[tuple[str, Document]], roles: Mapping[str, Any]
) -> pa.Table:
    a = task.arguments
    by_name = {d.name: d for _, d in documents}
    columns: dict[str, list[Any]] = {
        c: [] for c in ("role", "document", "sequence", "image", "shape", "target")
    }
    for role in ("collect", "evaluate"):
        empty = np.zeros(0, np.int64)
        found = {
            d.name: [Window(document=d.name, input=empty, bytes=0)]
            for r, d in documents
            if r == role
        }
        for window in _take(role, _turns(found), roles):
            document = by_name[window.document]
            assert document.image is not None
            columns["role"].append(role)
            columns["document"].append(document.name)
            columns["sequence"].append(len(columns["sequence"]))
            columns["image"].append(document.image.ravel())
            columns["shape"].append(list(document.image.shape))
            columns["target"].append(document.target)
    fixed = {"model": a["model"], "data": a["data_name"]}
    return rows("images", {**columns, **fixed}, len(columns["sequence"]))


def donors(task: Task, store: Store) -> dict[str, object]:
    """Write whose donor is whose.

    A donor is a collection sequence of another document, chosen by (donor seed,
    sequence) alone, so method, mask and fraction never change it. It is cut to
    the length of its receiver, its closing special token moved along, so that
    special tokens stand at the same positions in both.
    """
    a = task.arguments
    columns = ["sequence", "role", "document"]
    file, seed = a["data"], a["seed"]
    closing = a["closing"]
    text = "input" in store.table(file).column_names
    table = store.table(file, [*columns, "input"] if text else columns).to_pylist()
    pool = [r for r in table if r["role"] == "collect"]
    received = [r for r in table if r["role"] == "evaluate"]
    chosen, inputs = [], []
    for row in received:
        length = len(row["input"]) if text else 0
        fit = [
            c
            for c in pool
            if c["document"] != row["document"] and (not text or len(c["input"]) >= length)
        ]
        if not fit:
            raise PrepareError(
                f"no collection sequence of another document is as long as sequence"
                f" {row['sequence']} ({length} positions); collect more sequences"
            )
        key = np.array([seed, row["sequence"]], np.uint64)
        counter = np.array([0, 0, 0, _PURPOSE], np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key, counter=counter))
        donor = fit[int(draw.integers(len(fit)))]
        chosen.append(donor["sequence"])
        inputs.append(_cut(donor["input"], length, closing) if text else None)
    table_out = rows(
        "donors",
        {
            "model": a["model"],
            "data": a["data_name"],
            "source": a["source"],
            "seed": seed,
            "sequence": [r["sequence"] for r in received],
            "donor": chosen,
            "input": inputs,
        },
        len(received),
    )
    store.commit(task.file, parquet(table_out, task.name))
    return {"sequences": len(received)}


def _cut(donor: list[int], length: int, closing: int | None) -> list[int] | None:
    """Return what is fed instead of the donor's own input, or None when that has the length."""
    if len(donor) == length:
        return None
    return donor[:length] if closing is None else [*donor[: length - 1], closing]


def donors_digest(table: pa.Table) -> str:
    """Return the SHA-256 of who gives to whom: what a cell records as really used."""
    plain = table.select(["sequence", "donor", "input"]).to_pydict()
    return hashlib.sha256(canonical(plain).encode()).hexdigest()


def selection(task: Task, store: Store) -> dict[str, object]:
    """Write the order in which neurons are held, per layer, for one mask seed."""
    a = task.arguments
    layers, neurons, seed = a["layers"], a["neurons"], a["seed"]
    table = rows(
        "selections",
        {
            "model": a["model"],
            "data": a["data_name"],
            "site": a["site"],
            "unit": a["unit"],
            "selection": a["selection"],
            "parameters": "{}",
            "seed": seed,
            "layer": list(range(layers)),
            "order": [order(neurons, seed=seed, layer=i).astype(np.int32) for i in range(layers)],
        },
        layers,
    )
    store.commit(task.file, parquet(table, task.name))
    return {"layers": layers}
