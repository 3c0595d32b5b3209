"""Inspection: what is known of a sweep's models before anything runs.

A model is named as `zoo:opt`, as a local folder, or as a hub id with a revision;
here the name becomes a folder, and the folder becomes facts. Reading facts needs
torch and transformers, seconds to import, so it happens in a process of its own
(`python -m workers.loading`) and the answer is kept in the user's cache under a
key made of the folder's file names, sizes and times. Planning a sweep whose
models were seen before costs milliseconds.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from orchestrator.names import canonical
from workers import zoo
from workers.messages import ModelFacts

FORMAT = 2
"""Raise when facts are read differently, so that kept ones are read again."""


class ModelError(ValueError):
    """A model that cannot be used as it is named."""


def folder(model: str, *, revision: str | None, base: Path, fetch: bool = False) -> Path:
    """Return the folder of a model; a relative path starts at `base`.

    A hub id is looked up in the local cache, and downloaded with `fetch` alone.

    Raises ModelError saying what was found and what to write.
    """
    if model.startswith("zoo:"):
        name = model.removeprefix("zoo:")
        if name not in zoo.NAMES:
            known = ", ".join(f"zoo:{n}" for n in zoo.NAMES)
            raise ModelError(f"there is no bundled model {model!r}. Known: {known}")
        return zoo.folder(name)
    try:
        path = (base / Path(model).expanduser()).absolute()
        if path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, not allowed, no such user
        raise ModelError(f"{model!r} cannot be looked for ({error}); give a folder") from None
    looks_local = model.startswith((".", "/", "~")) or model.count("/") != 1
    if looks_local:
        raise ModelError(f"there is no folder {path}; paths are relative to the sweep file")
    if revision is None:
        raise ModelError(
            f"there is no folder {path}, and {model!r} as a hub id needs a `revision` (a commit),"
            " so that the same sweep means the same weights tomorrow"
        )
    return _hub(model, revision, fetch)


def _hub(model: str, revision: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download  # seconds to import; hub ids alone need it

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        found = snapshot_download(
            model, revision=revision, allow_patterns=wanted, local_files_only=not fetch
        )
        return Path(found)
    except Exception as error:
        raise ModelError(
            f"{model} at {revision} is not in the local cache"
            + (f" and could not be had from the hub ({type(error).__name__})" if fetch else "")
            + "; check the id, the revision and the connection (`run` downloads it), or download it"
            " and name the folder"
        ) from error


def facts(folders: Sequence[Path]) -> list[ModelFacts | ModelError]:
    """Return the facts of each folder, or what is wrong with it."""
    known: dict[Path, ModelFacts | ModelError | None] = {f: _kept(f) for f in folders}
    unseen = [f for f in dict.fromkeys(folders) if known[f] is None]
    if unseen:
        for path, answer in zip(unseen, _read(unseen), strict=True):
            known[path] = answer
            if isinstance(answer, ModelFacts):
                _keep(path, answer)
    return [found for path in folders if (found := known[path]) is not None]


def _read(folders: Sequence[Path]) -> list[ModelFacts | ModelError]:
    """Return the facts of folders, read in a process of its own that a folder may bring down."""
    command = [sys.executable, "-m", "workers.loading", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and len(folders) > 1:  # one by one, to know which it was
        return [answer for one in folders for answer in _read([one])]
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [
            ModelError(
                f"reading {folders[0]} ended the process that did (exit code {done.returncode}:"
                f" {last[:500]}); check its files against their source"
            )
        ]
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    return [ModelError(a["error"]) if "error" in a else _facts(a) for a in answers]


def _facts(plain: dict[str, object]) -> ModelFacts:
    image = plain.get("image")
    values = {**plain, "image": tuple(image) if isinstance(image, list) else None}
    return ModelFacts(**values)  # type: ignore[arg-type]  # written by asdict


def _place(path: Path) -> Path:
    files = sorted(p for p in path.iterdir() if p.is_file())
    seen = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    key = canonical([FORMAT, str(path), seen, version("transformers"), version("timm")])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "peaksweep" / "facts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _kept(path: Path) -> ModelFacts | ModelError | None:
    try:
        return _facts(json.loads(_place(path).read_text()))
    except (OSError, ValueError, TypeError, AttributeError):  # a kept file of another kind
        return None


def _keep(path: Path, found: ModelFacts) -> None:
    place = _place(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(asdict(found)))
        beside.replace(place)
    except OSError:
        return  # a cache that cannot be written only costs time
