"""Hosted: rows of a data set on a hub, through `datasets`.

A set is fixed by its commit, its configuration and its splits: they are its digest, and
nothing is read to know it. A branch or a tag moves, so it is resolved to its commit before a
run; a plan may not ask the network, and a set whose commit it cannot tell is planned under
provisional names.

Rows are either downloaded and prepared once, to be mapped into memory from the library's
cache, or streamed: taken over the network in their order, as many as are needed. Splits take
turns, so that a reader who stops when it has enough of both need not read all of the first.

The library falls back to whatever it has in its cache when the hub does not answer. That
would be other data under the same name, so the commit of what it found is compared.

No code of a data set is run: the library does not any more, and data sets that need it are
refused.
"""

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.documents import Broken, Reading, SourceError
from orchestrator.hub import COMMIT, LOG_IN
from orchestrator.names import canonical
from orchestrator.rows import Row, Table

ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
BATCH = 64
"""Rows taken at once: they may be images."""
LARGEST = 2**28
"""Bytes of an image's file that is read."""
SECONDS = 30.0
"""How long the hub may take to say a commit."""


def check(name: str, reading: Reading) -> None:
    """Raise SourceError for what no data set of a hub can be."""
    if not ID.fullmatch(name):
        raise SourceError(f"found {name!r}, expected `hf:owner/name`")
    for split in (*reading.splits, reading.split):
        if re.search(r"[^\w.-]", split):
            raise SourceError(
                f"found the split {split!r}, expected one plain name; parts of splits could share"
                " documents. `collect` and `evaluate` say how much is taken"
            )
    if reading.streaming and reading.document is not None:
        raise SourceError(
            "rows of one document can lie anywhere in a set, and a stream is not read to its end;"
            " leave `document` out, or write `streaming: false`"
        )


def commit(name: str, revision: str | None, *, fetch: bool) -> str | None:
    """Return the commit that a revision names; None where only the hub knows and is not asked.

    Raises SourceError where it is asked and does not say, with the cure.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    if not fetch:
        return None
    from huggingface_hub import HfApi  # a second to import; other sources do without

    try:
        found = HfApi().dataset_info(name, revision=revision, timeout=SECONDS).sha
    except Exception as error:  # as many kinds as networks and permissions have faults
        raise SourceError(_unresolved(error, name, revision)) from error
    if found is None:
        raise SourceError(f"the hub did not say the commit of {name}; write it as `revision`")
    return str(found)


def identity(name: str, at: str | None, reading: Reading) -> str:
    """Return what decides the rows of a set; provisional where the commit is not known."""
    told = {
        "hub": name,
        "commit": at or f"unknown commit of {reading.revision or 'main'}",
        "config": reading.config,
        "split": None if reading.splits else reading.split,
    }
    return canonical(told)


def missing(name: str, revision: str | None) -> str:
    """Return why a set without a known commit cannot be read, and the cure."""
    return (
        f"the commit of {name} at {revision or 'main'} is not known here, so names are provisional;"
        " `run` asks the hub, or write a commit as `revision` (see"
        f" https://huggingface.co/datasets/{name}/commits/main)"
    )


def rows(
    name: str, at: str, reading: Reading, columns: Callable[[tuple[str, ...]], list[str]]
) -> Table:
    """Return the rows of a set at a commit; it is downloaded, or a stream is opened.

    `columns` gives, of the columns there are, those that are needed. Raises SourceError,
    with the cure.
    """
    try:
        parts = _parts(name, at, reading)
        first = next(iter(parts.values()))
        features = first.features or {}
        have = tuple(features) or tuple(first.column_names or ())
        wanted = columns(have) if have else []
    except SourceError:
        raise
    except Exception as error:  # the library's own and those of all that it calls
        raise SourceError(_said(error, name, at, reading)) from error
    names = {c: tuple(f.names) for c, f in features.items() if hasattr(f, "names")}
    return Table(
        rows=lambda: _in_turns(
            [_rows(part, split, f"{name}, {split}", wanted) for split, part in parts.items()]
        ),
        columns=have or None,
        names=names,
    )


def _parts(name: str, at: str, reading: Reading) -> Mapping[str, Any]:
    import datasets  # seconds to import; other sources do without

    builder = datasets.load_dataset_builder(name, reading.config, revision=at)
    if builder.hash != at:
        raise SourceError(
            f"the hub could not be asked for {name} at {at}, and the cache has another commit"
            f" ({builder.hash}); check the connection, or write that commit as `revision`"
        )
    splits = reading.splits or (reading.split,)
    if reading.streaming:
        return {split: builder.as_streaming_dataset(split=split) for split in splits}
    builder.download_and_prepare()
    return {split: builder.as_dataset(split=split) for split in splits}


def _rows(part: Any, split: str, where: str, columns: list[str]) -> Iterator[Row | Broken]:
    """Yield a split's rows as the table has them: images as bytes, classes as numbers."""
    chosen = part.select_columns(columns) if columns else part
    number = 0
    for batch in chosen.with_format("arrow").iter(batch_size=BATCH):
        for values in batch.to_pylist():
            number += 1
            yield Row(
                name=f"{split}:row-{number}",
                split=split,
                where=f"{where}, row {number}",
                values=values,
                opened=_opened,
            )


def _opened(path: str) -> bytes:
    """Return the file that an image of a set names: one of the cache, or of the hub's.

    A set that is laid out as folders of images names its files and holds no bytes of them.
    """
    from datasets.utils.file_utils import xopen

    try:
        with xopen(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path!r}") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path!r} has more than {LARGEST >> 20} MiB")
    return bytes(content)


def _in_turns(iterators: list[Iterator[Row | Broken]]) -> Iterator[Row | Broken]:
    while iterators:
        left = []
        for one in iterators:
            found = next(one, None)
            if found is not None:
                yield found
                left.append(one)
        iterators = left


def _unresolved(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/datasets/{name}"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms at {page}, then {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; give a commit, branch or tag of {page}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no data set {name}, or it is private; check the id at {page}, and if it"
            f" is private {LOG_IN}"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"HF_HUB_OFFLINE is set, and the commit of {name} at {revision or 'main'} is not known;"
            " unset it, or write a commit as `revision` that was read here before"
        )
    return (
        f"the hub could not be asked for the commit of {name} ({type(error).__name__}:"
        f" {_one_line(error)}); check the connection, or write the commit as `revision`"
    )


def _said(error: Exception, name: str, at: str, reading: Reading) -> str:
    """Return what `datasets` could not do, and the cure."""
    text = _one_line(error)
    page = f"https://huggingface.co/datasets/{name}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk filled up while {name} was downloaded; free space, set HF_HOME to a folder"
            " of a larger disk, or write `streaming: true`"
        )
    if "is a gated dataset" in text:
        return f"{name} is gated: accept its terms at {page}, then {LOG_IN}"
    if "Dataset scripts are no longer supported" in text:
        return (
            f"{name} needs code of its own to be read, which is never run; look at {page} for a"
            " conversion to Parquet, and give it as `revision: refs/convert/parquet`"
        )
    if isinstance(error, ConnectionError) or "Couldn't reach" in text:
        return (
            f"{name} at {at} is not in the local cache, and the hub could not be reached ({text});"
            " check the connection and HF_HUB_OFFLINE"
        )
    kind = type(error).__name__
    return (
        f"{name} at {at} cannot be read ({kind}: {text}); check the id, `config`"
        f" ({reading.config!r}) and the splits ({', '.join(reading.splits or (reading.split,))})"
        f" at {page}"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
