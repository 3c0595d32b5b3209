"""The hub: where a model comes from that is named by an id, and what to do when it does not come.

A hub id is one of huggingface.co: `facebook/opt-1.3b`, at a revision. A revision
may be a commit, or a branch, a tag or a pull request (`refs/pr/3`): those move, so
each is resolved to its commit, and the folder that comes back ends in it. What was
downloaded lies in the hub's own cache, is found there without a network, and is
never downloaded twice.

Only what is read is downloaded: configuration, tokenizer, safetensors of the
names that transformers and timm write. No pickle, no code, no folder below.

The library has an exception for everything that can go wrong; here each becomes
one sentence with its cure. Its own messages advise a programmer, and ours are
read by someone who waits for a sweep.
"""

import errno
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.tokenising import unreadable

WANTED = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
"""Patterns of what is downloaded."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
LONGEST = 300
"""Characters of a library's own message that are passed on."""


class HubError(ValueError):
    """A model that cannot be had from the hub, and what to do."""


def snapshot(model: str, revision: str, *, fetch: bool) -> Path:
    """Return the folder with a hub model at the commit that its revision names.

    Without `fetch` the hub is not asked: what is not in the local cache is refused.
    Raises HubError, with the cure.
    """
    from huggingface_hub import snapshot_download  # seconds to import; hub ids alone need it

    try:
        with _quiet():
            found = snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(WANTED),
                ignore_patterns=["*/*"],
                local_files_only=not fetch,
            )
    except Exception as error:  # as many kinds as networks, disks and permissions have faults
        raise HubError(_said(error, model, revision, fetch=fetch)) from error
    folder = Path(found)
    if not (_has_weights(folder) if fetch else whole(folder)):
        raise HubError(_without_weights(folder, model, revision, fetch=fetch))
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own account of each attempt off the terminal: what came of it is said."""
    told = logging.getLogger("huggingface_hub")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.setLevel(level)


def commit(folder: Path) -> str | None:
    """Return the commit of a folder of the hub's cache; None of any other folder."""
    inside = folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name)
    return folder.name if inside else None


def whole(folder: Path) -> bool:
    """Return whether a folder has weights, and what is read of a tokenizer or of an image's size.

    A file of the hub's cache is there once all of it is, so this can be asked while
    another process downloads. Where a library has put only weights there, it is not whole.
    """
    if not _has_weights(folder):
        return False
    if (folder / "preprocessor_config.json").is_file() or unreadable(folder) is None:
        return True
    try:
        return "pretrained_cfg" in json.loads((folder / "config.json").read_bytes())  # timm's
    except ValueError:
        return False


def _has_weights(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    try:
        shards = json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"]
        return all((folder / shard).is_file() for shard in set(shards.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _said(error: Exception, model: str, revision: str, *, fetch: bool) -> str:
    """Return what went wrong and what to do, in a sentence or two."""
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{model}"
    named = f"{model} at {revision}"
    cause = error.__cause__  # not in the cache, because the hub answered with a refusal
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(
        cause, errors.HfHubHTTPError
    ):
        error = cause
    if isinstance(error, errors.GatedRepoError):
        token = (
            "the token in use has no access; use one that may read gated repositories"
            if get_token()
            else f"then {LOG_IN}"
        )
        return f"{model} is gated: accept its licence at {page}, {token}, and run again"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no model {model}, or it is private; check the id at {page}, and if it is"
            f" private {LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{model} has no revision {revision!r}; give a commit of {page}/commits/main, or a"
            " branch or tag that is there"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"{model} was disabled on the hub; name another model, or a folder that has it"
    if isinstance(error, errors.HFValidationError):
        return f"{model!r} at {revision!r} is not a hub id and a revision: write `owner/name`"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_here(error, named, model, revision, fetch=fetch)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"the hub refused the token in use while {named} was asked for; {LOG_IN}"
        if status == 429:
            return f"the hub says it was asked too often for {named}; wait, or {LOG_IN}"
        return f"the hub answered {status} when asked for {named}; try again later ({page})"
    return _broke_off(error, named, constants.HF_HUB_CACHE)


def _not_here(error: Exception, named: str, model: str, revision: str, *, fetch: bool) -> str:
    from huggingface_hub import constants, errors

    partly = isinstance(error, errors.IncompleteSnapshotError)
    where = f"{named} is {'only partly' if partly else 'not'} in the local cache"
    where += f" ({constants.HF_HUB_CACHE})"
    elsewhere = (
        f"`hf download {model} --revision {revision}` where there is a network, and copy the cache"
        " or name the folder"
    )
    if constants.HF_HUB_OFFLINE:
        return (
            f"{where}, and HF_HUB_OFFLINE is set, so it is not asked for; unset it, or {elsewhere}"
        )
    if not fetch:
        return f"{where}; `run` downloads it, or do {elsewhere}"
    cause = error.__cause__ or error
    return (
        f"{where}, and the hub could not be reached ({type(cause).__name__}); check the connection"
        f" and the proxy, or do {elsewhere}"
    )


def _broke_off(error: Exception, named: str, cache: str) -> str:
    """Return what stopped a download on its way: the disk or the line."""
    text = " ".join(str(error).split())[:LONGEST]
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return (
            f"the disk filled up while {named} was downloaded to {cache}; free space there, or set"
            " HF_HOME to a folder of a larger disk. What was downloaded is kept"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{named} cannot be written to {cache}; set HF_HOME to a folder that may be written"
    return (
        f"{named} could not be downloaded ({type(error).__name__}: {text}); check the connection"
        " and run again. What was downloaded is kept"
    )


def _without_weights(folder: Path, model: str, revision: str, *, fetch: bool) -> str:
    from huggingface_hub import constants

    if not fetch:
        return (
            f"{model} at {revision} is only partly in the local cache ({folder}); `run` downloads"
            " what is missing"
        )
    return (
        f"{model} at {revision} has no configuration with safetensors, and pickles are never read;"
        f" look at {constants.ENDPOINT}/{model}/discussions for a conversion and give it as"
        " `revision: refs/pr/N`, or convert it: load it where you trust it, `save_pretrained`, and"
        " name the folder"
    )
