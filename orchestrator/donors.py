"""Donors: whose activations an evaluated sequence is given when neurons are resampled.

A donor is an input of its own: a collected sequence of another document, or one
that is made up (`orchestrator.giving` has the sources). What it is fed is written
down here once, so neither method, mask nor fraction changes it. It says nothing of
its receiver but how long it is and where special tokens stand: it is cut to the
receiver's length, and they are at the same positions in both.

A sequence has one donor or, where layers, heads or neurons take theirs apart,
several `draws`.

One `shared` donor is a control, as long as the longest receiver and cut for the
others: whatever it happens to say disturbs all sequences alike. Where only some
windows begin with a special token, those that do share one donor and the others
another. It is of no document that is evaluated.

As `published`, by mistake: the i-th evaluated sequence gets the activations that
the shared donor has at position i, at all of its positions, and zeros once there
is no position i. A donor ends where its receiver does, so a short window may get
zeros earlier than its number alone would say.

Generated texts come from a task of their own, before, as rows of the same table: a
text for every (sequence, draw), begun with bos if there is one and one token longer
than its receiver, which may have no bos.

Paired prompts bring their donors along, which stand in the data.

Shapes: T positions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.feed import sequences
from orchestrator.giving import SOURCES, Asked, Window, begins
from orchestrator.names import canonical
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.messages import NOT_SCORED


def donors(task: Task, store: Store) -> dict[str, object]:
    """Write whose donor is whose: one row for every evaluated sequence and draw.

    Raises DonorError where the data or the tokenizer cannot give what is asked.
    """
    a = task.arguments
    texts = store.table(a["generated"]) if a["source"] == "generated" else None
    groups, asked = _asked(store.table(a["data"]), a, texts)
    columns: dict[str, list[Any]] = {c: [] for c in ("sequence", "draw", "donor", "input", "row")}
    gifts = {
        receiver.number: (receiver, given)
        for group, given in zip(groups, SOURCES[a["source"]](asked), strict=True)
        for receiver in group
    }
    for i, (number, (receiver, given)) in enumerate(sorted(gifts.items())):
        for draw, gift in enumerate(given):
            cut = _cut(gift.fed, len(receiver.fed), a["closing"])
            own = gift.donor is not None and cut is gift.donor.fed
            columns["sequence"].append(number)
            columns["draw"].append(draw)
            columns["donor"].append(None if gift.donor is None else gift.donor.number)
            columns["input"].append(None if own else cut.ravel().astype(np.int32))
            columns["row"].append(_row(i, receiver, a))
    fixed = {c: a[c] for c in ("model", "source", "seed")} | {"data": a["data_name"]}
    fixed["parameters"] = canonical({c: a[c] for c in ("donor", "behaviour", "draws")})
    table = rows("donors", {**columns, **fixed}, len(columns["sequence"]))
    store.commit(task.file, parquet(table, task.name))
    return {"sequences": len(gifts)}


def _row(i: int, receiver: Window, told: Mapping[str, Any]) -> int | None:
    """Return which position the i-th sequence is given, as published; None where each is."""
    if told["behaviour"] != "published":
        return None
    positions = told["window"] if told["modality"] == "image" else len(receiver.fed)
    return i if i < positions else -1


def _asked(
    data: pa.Table, told: Mapping[str, Any], texts: pa.Table | None
) -> tuple[list[list[Window]], Asked]:
    """Return the evaluated sequences by donor, and what is asked for the longest of each group."""
    evaluated = _windows(data, "evaluate", told["specials"])
    collected = _windows(data, "collect", told["specials"])
    shared = told["donor"] == "shared" or told["behaviour"] == "published"
    groups = _alike(evaluated, told["opening"]) if shared else [[w] for w in evaluated]
    apart = {w.document for w in evaluated} if shared else set()
    written = {}
    if texts is not None:
        taken = texts.select(["sequence", "draw", "input"]).to_pylist()
        written = {(r["sequence"], r["draw"]): np.asarray(r["input"], np.int64) for r in taken}
    elif told["source"] == "paired":
        taken = data.select(["sequence", "donor"]).to_pylist()
        written = {
            (r["sequence"], 0): np.asarray(r["donor"], np.int64)
            for r in taken
            if r["donor"] is not None
        }
    return groups, Asked(
        told=told,
        receivers=[max(group, key=lambda w: len(w.fed)) for group in groups],
        pool=[w for w in collected if w.document not in apart],
        shared=shared,
        written=written,
    )


def _windows(data: pa.Table, role: str, specials: Mapping[str, int]) -> list[Window]:
    """Return the sequences of a role, ascending by number."""
    table = data.filter(pc.equal(data.column("role"), role)).sort_by("sequence")
    read = sequences(table)
    documents = table.column("document").to_pylist()
    kept = [np.empty(0, np.bool_)] * len(documents)
    if "kind" in table.column_names:
        kinds = table.column("kind").to_pylist()
        kept = [
            np.isin(fed, list(specials.values())) | _hidden(target_T, kind)
            for fed, target_T, kind in zip(read.inputs, read.targets, kinds, strict=True)
        ]
    return [
        Window(number=number, document=document, fed=fed, kept=kept_T)
        for number, document, fed, kept_T in zip(
            read.sequence.tolist(), documents, read.inputs, kept, strict=True
        )
    ]


def _hidden(target_T: NDArray[np.int64], kinds: Sequence[str] | None) -> NDArray[np.bool_]:
    """Return where a masked model is fed a random token."""
    hidden_T = np.zeros(len(target_T), np.bool_)
    if kinds is not None:
        hidden_T[target_T != NOT_SCORED] = [kind == "random" for kind in kinds]
    return hidden_T


def _alike(evaluated: Sequence[Window], opening: int | None) -> list[list[Window]]:
    """Return those that share a donor: the windows that begin with the opening token, or not."""
    split: dict[bool, list[Window]] = {}
    for window in evaluated:
        split.setdefault(begins(window, opening), []).append(window)
    return list(split.values())


def _cut(fed: NDArray[np.integer], length: int, closing: int | None) -> NDArray[np.integer]:
    """Return the start of what a donor is fed, its closing special token moved along."""
    if len(fed) == length:
        return fed
    return fed[:length] if closing is None else np.append(fed[: length - 1], closing)


def donors_digest(table: pa.Table) -> str:
    """Return the SHA-256 of who gives to whom: what a cell records as really used."""
    plain = table.select(["sequence", "draw", "donor", "row"]).to_pydict()
    digest = hashlib.sha256(canonical(plain).encode())
    for made in table.column("input"):  # pixels are too many to be written as JSON
        if made.values is not None:
            digest.update(made.values.to_numpy().astype("<i4").tobytes())
        digest.update(b"|")
    return digest.hexdigest()
