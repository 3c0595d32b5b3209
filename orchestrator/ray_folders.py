"""Folders on nodes: is a run folder one for all machines of the cluster?

A path means something on every machine, and may mean another disk on each. Then half of what a
sweep makes is never seen by those who need it. So before anything is planned the driver leaves a
token in the folder, a task on every machine reads it and leaves one of its own, and the driver
reads them all. Object stores are tried the same way, which shows too whether a machine has
credentials. Shares keep what they listed for some seconds, so each side looks again for a while.

Paths that are only read (models, data) are looked for on every machine at the same time.

Weak where machines join later: they are not asked. A machine that does not answer within a minute
counts as one that does not see the folder, if it is still alive then.
"""

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.mistakes import Mistake, SpecError
from orchestrator.ray_cluster import nodes
from orchestrator.store import Store, StoreError

ANSWERS = 60.0
"""Seconds in which a machine must answer."""
SEEN = 15.0
"""Seconds in which a share must show what another machine wrote; NFS keeps listings for three."""
TOLD = 8
"""Machines that are told by name."""


def check(folders: Sequence[str], needs: Sequence[str] = ()) -> None:
    """Check that all machines of the connected cluster share these folders and have these paths.

    `folders` are absolute paths or URIs, made if they are not there; `needs` are absolute paths.
    Raises StoreError for a folder that is not one for all, SpecError for paths that are missing.
    """
    new = [s for s in map(Store.of, folders) if s.local and not s.root.exists()]
    stores = [Store.open(folder) for folder in folders]
    token = f"shared/{uuid.uuid4().hex}"
    for store in stores:
        store.commit(f"{token}.json", b"{}")
    try:
        said = _answers([store.uri for store in stores], needs, token)
        for i, store in enumerate(stores):
            apart = {at: why for at, (_, blind, _) in said.items() if (why := blind.get(i))}
            unseen = {at: n for at, (n, blind, _) in said.items() if i not in blind}
            seen = _seen(store, {at: f"{token}-{n}.json" for at, n in unseen.items()})
            apart |= {at: "what it writes is not seen here" for at in unseen if at not in seen}
            if apart:
                raise StoreError(_refused(store.uri, apart, len(said)))
        lacking = {at: missing for at, (_, _, missing) in said.items() if missing}
    finally:
        for store in stores:
            _removed(store, token, new=store in new)
    if lacking:
        gone = dict.fromkeys(path for paths in lacking.values() for path in paths)
        raise SpecError([_missing(path, lacking, len(said)) for path in gone])


def _answers(
    folders: Sequence[str], needs: Sequence[str], token: str
) -> dict[str, tuple[str, dict[int, str], list[str]]]:
    """Return what every machine says, by address: its number, what it cannot see, what it lacks."""
    asked = {
        ray.remote(_look)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(folders, needs, token, str(i)): (node, str(i))
        for i, node in enumerate(nodes())
    }
    said: dict[str, tuple[str, dict[int, str], list[str]]] = {}
    end = time.monotonic() + ANSWERS
    for answer, (node, number) in asked.items():
        try:
            blind, missing = ray.get(answer, timeout=max(0.1, end - time.monotonic()))
            said[f"{node.address} ({node.id[:6]})"] = number, blind, missing
        except (GetTimeoutError, RayError) as error:
            ray.cancel(answer, force=True)
            if any(n.id == node.id for n in nodes()):
                why = f"it does not answer ({type(error).__name__})"
                blind = dict.fromkeys(range(len(folders)), why)
                said[f"{node.address} ({node.id[:6]})"] = number, blind, []
    return said


def _look(
    folders: Sequence[str], needs: Sequence[str], token: str, number: str
) -> tuple[dict[int, str], list[str]]:
    """Read the driver's token in every folder and leave one; return what cannot be, and is not."""
    blind = {}
    for i, folder in enumerate(folders):
        store = Store.of(folder)  # not opened: that would make the folder where it is not shared
        try:
            if not _seen(store, {"": f"{token}.json"}):
                blind[i] = "it does not see what the driver wrote"
            else:
                store.commit(f"{token}-{number}.json", b"{}")
        except OSError as error:
            blind[i] = str(error)
    return blind, [path for path in needs if not os.access(path, os.R_OK)]


def _seen(store: Store, files: dict[str, str]) -> set[str]:
    """Return the keys of the files that are there, now or in a while."""
    end, left = time.monotonic() + SEEN, dict(files)
    while left:
        there = set(store.files("shared", ".json"))  # a listing asks the share anew
        left = {key: file for key, file in left.items() if file not in there}
        if not left or time.monotonic() > end:
            break
        time.sleep(0.2)
    return files.keys() - left.keys()


def _removed(store: Store, token: str, *, new: bool) -> None:
    """Take the tokens away, and a folder that was made for them."""
    with suppress(OSError):
        for file in store.files("shared", ".json"):
            if file.startswith(token):
                store.delete(file)
        if store.local:
            (store.root / "shared").rmdir()  # refuses where there is anything in it
            if new:
                store.root.rmdir()


def _refused(uri: str, apart: dict[str, str], asked: int) -> str:
    each = [f"{at}: {why}" for at, why in list(apart.items())[:TOLD]]
    more = f"; and {len(apart) - TOLD} more" if len(apart) > TOLD else ""
    return (
        f"the run folder {uri} is not one for all {asked} nodes ({'; '.join(each)}{more}); choose"
        " with --out a folder of a share that every node has at this path, or an object store such"
        " as s3://bucket/folder that every node may write"
    )


def _missing(path: str, lacking: dict[str, list[str]], asked: int) -> Mistake:
    at = [node for node, missing in lacking.items() if path in missing]
    return Mistake(
        path=path,
        message=f"is missing on {len(at)} of {asked} nodes ({', '.join(at[:TOLD])}); models and"
        " data by an absolute path must be at this path on every node: mount a share there, copy"
        " it, or name it by its hub id",
    )
