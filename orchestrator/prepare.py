"""Prepare: exactly what the models are fed.

The windows and their corruption are drawn here, once, from seeds of the spec, and
written down. Later stages only read, so every cell sees the same data and anyone
can check a number without our code.

Roles never share a document: collection and evaluation take different splits
or, where a source has none, documents are divided by the hash of their content
(`orchestrator.taking`). What is evaluated is also compared with what was collected, and
what is nearly the same is left out (`orchestrator.duplicates`): documents, windows that
begin alike, images, which are compared as they came. Where near duplicates are kept, as they
must be in texts made from a template, only equal documents are left out.

Rows of a source that are broken are left out, and documents too short for a window. All that
is left out is counted in the summary, which is a line of the run's story.

Images are made the model's size as its own library makes them (`workers.images`).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator import paired, sources
from orchestrator.cutting import AT_ONCE, Window, cut, in_turns
from orchestrator.documents import LISTED, Broken, Document, Kind, Source
from orchestrator.duplicates import Picture, Pictures, Texts, by_nature, look
from orchestrator.sections import DEFAULT_SEQUENCES, MOST, SHORTEST
from orchestrator.store import Store, parquet, rows
from orchestrator.taking import ROLES, Role, Taking, content_digest, splits_of
from orchestrator.tasks import Task
from workers.data import causal_targets, corrupt
from workers.images import Transform, fed

Made = tuple[pa.Table, tuple[Broken, ...]]
"""A data table, and rows that were found to be broken only when it was made."""


class PrepareError(ValueError):
    """The source does not hold what the sweep asks of it."""


def data(task: Task, store: Store) -> dict[str, object]:
    """Write the data table of one (model, data); the summary says what was left out.

    Raises PrepareError where the source cannot serve a role, or is not what was planned.
    """
    a = task.arguments
    source = sources.again(a)
    taking = _taking(a, source)
    left_out: Counter[str] = Counter()
    table, more = _KINDS[source.kind](task, taking, left_out)
    broken = _broken(taking, more)
    if source.digest() != a["digest"]:  # the table is named by what was planned
        raise PrepareError(
            f"{a['source']} has changed since the sweep was planned, or is another on this machine;"
            " plan and run it again, or restore what was there"
        )
    store.commit(task.file, parquet(table, task.name))
    return {"sequences": table.num_rows, **broken, **+left_out}


def _taking(a: Mapping[str, Any], source: Source) -> Taking:
    """Return what takes the documents of a source, a few more than are asked for."""
    window = 1 if source.kind == "images" else a["window"]
    limits = {role: _limit(a, role, window) for role in ROLES}
    enough = {role: limit + limit // 4 + 2 * AT_ONCE for role, limit in limits.items()}
    if source.kind == "pairs" and not source.streaming:
        enough = dict.fromkeys(ROLES, MOST)  # which of them fit the model is not known yet
    told = a.get("transform")
    how = None if told is None else Transform.of(told)
    nearly = _nearly(a)

    def hold(document: Document) -> Document:
        if document.image is None:
            return document
        image = document.image if how is None else fed(document.image, how)
        return Picture.of(document, image, look(document.image) if nearly else None)

    splits = splits_of(source.splits, {role: a["roles"][role]["split"] for role in ROLES})
    return Taking(source, splits, enough, hold=hold)


def _limit(a: Mapping[str, Any], role: Role, window: int) -> int:
    """Return how many sequences a role takes; a number of tokens means full windows."""
    asked = a["roles"][role]
    if asked["tokens"] is not None:
        return -(-int(asked["tokens"]) // window)
    return int(asked["sequences"] or DEFAULT_SEQUENCES[role])


def _broken(taking: Taking, more: tuple[Broken, ...]) -> dict[str, object]:
    """Return how many rows were skipped, and the first of them; refuse a source mostly broken.

    One that was read to its end was judged already; of a stream the beginning was read.
    """
    found = taking.skipped
    if found.broken > found.documents:
        raise PrepareError(
            f"of the first {found.broken + found.documents} rows of the source {found.broken}"
            f" cannot be used (first {found.first[0]}); mend them, or name the columns that hold"
            " what is meant"
        )
    count = found.broken + len(more)
    listed = [str(row) for row in [*found.first, *more][:LISTED]]
    return {"skipped": count, "broken": listed} if count else {}


def _text(task: Task, taking: Taking, left_out: Counter[str]) -> Made:
    a = task.arguments
    looked_at: dict[str, Document] = {}
    made = cut(a, _noted(taking.of("collect"), looked_at), scored=False)
    collected = _turns(a, "collect", _long(made, left_out), left_out)
    documents = [looked_at[name] for name in {w.document: None for w in collected}]
    fresh = _fresh(a, taking.of("evaluate"), documents, left_out)
    made = cut(a, fresh, scored=True)
    if _nearly(a):
        made = _unlike(made, collected, left_out)
    evaluated = _turns(a, "evaluate", _long(made, left_out), left_out)
    taken = [("collect", w) for w in collected] + [("evaluate", w) for w in evaluated]
    columns: dict[str, list[Any]] = {c: [] for c in _TEXT}
    for number, (role, window) in enumerate(taken):
        kinds = None
        if a["modality"] == "masked":
            input_T, target_T, kind_T = corrupt(
                window.input,
                seed=a["masking"],
                sequence=number,
                specials=a["specials"],
                vocabulary=a["vocabulary"],
            )
            kinds = [kind for kind in kind_T if kind is not None]
        else:
            input_T, target_T = window.input, causal_targets(window.input, window.first)
        values = (role, window.document, number, window.bytes, input_T, target_T, kinds)
        for column, value in zip(_TEXT, values, strict=True):
            columns[column].append(value)
    fixed = {"model": a["model"], "data": a["data_name"]}
    lists = {c: [v.astype(np.int32) for v in columns[c]] for c in ("input", "target")}
    return rows("text", {**columns, **lists, **fixed}, len(taken)), ()


_TEXT = ("role", "document", "sequence", "bytes", "input", "target", "kind")


def _nearly(a: Mapping[str, Any]) -> bool:
    """Whether what is nearly a collected document is left out too; bundled sources have none."""
    return bool(a.get("near_duplicates") == "drop")


def _noted(documents: Iterable[Document], by_name: dict[str, Document]) -> Iterator[Document]:
    for document in documents:
        by_name[document.name] = document
        yield document


def _fresh(
    a: Mapping[str, Any],
    documents: Iterable[Document],
    collected: list[Document],
    left_out: Counter[str],
) -> Iterator[Document]:
    """Yield the texts that are not collected ones."""
    equal = {content_digest(document) for document in collected}
    seen = Texts(d.text or "" for d in collected) if _nearly(a) else None
    for document in documents:
        if content_digest(document) in equal or (seen and seen.has(document.text or "")):
            left_out["duplicates"] += 1
        else:
            yield document


def _unlike(
    made: Iterable[list[Window]], collected: Iterable[Window], left_out: Counter[str]
) -> Iterator[list[Window]]:
    """Yield windows without those that are, token by token, what is collected: a shared start."""
    fed_before = {hashlib.sha256(w.input.tobytes()).digest() for w in collected}
    for windows in made:
        kept = [w for w in windows if hashlib.sha256(w.input.tobytes()).digest() not in fed_before]
        left_out["duplicate_windows"] += len(windows) - len(kept)
        if kept or not windows:
            yield kept


def _long(made: Iterable[list[Window]], left_out: Counter[str]) -> Iterator[list[Window]]:
    """Yield the windows of documents that have any."""
    for windows in made:
        if windows:
            yield windows
        else:
            left_out["too_short"] += 1


def _turns(
    a: Mapping[str, Any], role: Role, made: Iterable[list[Window]], left_out: Counter[str]
) -> list[Window]:
    found = in_turns(made, _limit(a, role, a["window"]))
    if not found:
        raise PrepareError(
            f"the source has no sequence for {role!r}: no document of its split is at least"
            f" {SHORTEST} positions long{_without(left_out)}"
        )
    return found


def _without(left_out: Counter[str]) -> str:
    """Return what to say of documents that are left out because they were collected."""
    count = left_out["duplicates"]
    return (
        f" ({count} are nearly documents that are collected; where that is meant, as in texts made"
        " from a template, write `near_duplicates: keep`)"
        if count
        else ""
    )


def _images(task: Task, taking: Taking, left_out: Counter[str]) -> Made:
    a = task.arguments
    collected = list(islice(taking.of("collect"), _limit(a, "collect", 1)))
    seen = Pictures(collected)
    limit = _limit(a, "evaluate", 1)
    evaluated: list[Document] = []
    for document in taking.of("evaluate"):
        if seen.has(document):
            left_out["duplicates"] += 1
        else:
            evaluated.append(document)
        if len(evaluated) == limit:
            break
    if _nearly(a) and (why := by_nature(left_out["duplicates"], len(evaluated))):
        raise PrepareError(why)
    columns: dict[str, list[Any]] = {c: [] for c in _IMAGE}
    by_role: dict[Role, list[Document]] = {"collect": collected, "evaluate": evaluated}
    for role, documents in by_role.items():
        if not documents:
            raise PrepareError(f"the source has no image for {role!r}{_without(left_out)}")
        for document in documents:
            image = _pixels(document)
            number = len(columns["sequence"])
            target = _target(document, a["classes"])
            values = (role, document.name, number, image.ravel(), list(image.shape), target)
            for column, value in zip(_IMAGE, values, strict=True):
                columns[column].append(value)
    fixed = {"model": a["model"], "data": a["data_name"]}
    return rows("images", {**columns, **fixed}, len(columns["sequence"])), ()


_IMAGE = ("role", "document", "sequence", "image", "shape", "target")


def _pixels(document: Document) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert document.image is not None
    return document.image


def _target(document: Document, classes: int) -> int:
    """Return an image's class, which the model's head must have."""
    target = document.target
    if target is None or not 0 <= target < classes:
        raise PrepareError(
            f"the image {document.name!r} is of class {target}, and the model scores the classes 0"
            f" to {classes - 1}; take a source, or a split, with the labels that the model was"
            " trained on"
        )
    return target


def _pairs(task: Task, taking: Taking, left_out: Counter[str]) -> Made:
    """Make the table of paired prompts; of these, only equal inputs are duplicates."""
    equal: set[bytes] = set()

    def drawn() -> Iterator[Document]:
        for document in taking.of("collect"):
            equal.add(content_digest(document))
            yield document

    def fresh() -> Iterator[Document]:
        for document in taking.of("evaluate"):
            if content_digest(document) in equal:
                left_out["duplicates"] += 1
            else:
                yield document

    return paired.table(task, {"collect": drawn(), "evaluate": fresh()})


_KINDS: Mapping[Kind, Callable[[Task, Taking, Counter[str]], Made]] = {
    "text": _text,
    "images": _images,
    "pairs": _pairs,
}
