"""Inspection: what is known of a sweep's models before anything runs.

A model is named in one of five ways; here the name becomes a folder, and the
folder becomes facts:

    zoo:opt                 one that comes with this package
    models/mine             a folder, from where the sweep file lies; `local-dir:models/mine` too
    facebook/opt-1.3b       a hub id, with a `revision`
    timm:vit_base_patch16_224.augreg_in21k_ft_in1k
                            timm's name for the hub id `timm/vit_base_…`, with a `revision`

Reading facts needs torch and transformers, seconds to import, so it happens in a
process of its own (`python -m workers.loading`) and the answer is kept in the
user's cache under a key made of the folder's files: names, sizes, inodes and
times. Planning a sweep whose models were seen before costs milliseconds. Of a
model that was not seen before, all weights are read once for their digest and
nothing else; whoever waits for that is told how many bytes it is.

Of a few hub models the configuration comes along (`known_models`), so that they
can be planned with where no weights are: `symbolic`. Such facts have shapes and
sizes and no digest, so names made from them are provisional, and nothing runs.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from orchestrator import hub
from orchestrator.names import canonical
from workers import digests, zoo
from workers.messages import ModelFacts, ModelRef

FORMAT = 4
"""Raise when facts are read differently, so that kept ones are read again."""
KNOWN = Path(__file__).parent / "known_models"
"""One JSON file a hub model: its id, its config.json, its special tokens by role."""
TELLING = 10**9
"""Bytes to be read of which whoever waits is told."""


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
    on_hub, nowhere = hub_id(model), ""
    if not model.startswith("timm:"):
        path, there = _local(model.removeprefix("local-dir:"), base)
        if there:
            return path
        if on_hub is None:
            raise ModelError(f"there is no folder {path}; paths are relative to the sweep file")
        nowhere = f"there is no folder {path}, and "
    if on_hub is None:
        raise ModelError(f"{model!r} names no model of timm; write `timm:` and the model's name")
    if revision is None:
        raise ModelError(
            f"{nowhere}{model!r} as a hub id needs a `revision` (a commit; a branch or tag is"
            " resolved to its commit), so that the same sweep means the same weights tomorrow"
        )
    try:
        return hub.snapshot(on_hub, revision, fetch=fetch)
    except hub.HubError as error:
        raise ModelError(str(error)) from error


def _local(said: str, base: Path) -> tuple[Path, bool]:
    """Return the path that a name is of, from `base`, and whether a folder is there."""
    try:
        path = (base / Path(said).expanduser()).absolute()
        return path, path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, not allowed, no such user
        raise ModelError(f"{said!r} cannot be looked for ({error}); give a folder") from None


def hub_id(model: str) -> str | None:
    """Return the hub id that a model's name can stand for; None where it can only be a folder."""
    if model.startswith("timm:"):
        name = model.removeprefix("timm:")
        return f"timm/{name}" if name and "/" not in name else None
    local = model.startswith((".", "/", "~", "zoo:", "local-dir:")) or model.count("/") != 1
    return None if local else model


def commit(folder: str | Path) -> str | None:
    """Return the commit of a model that came from the hub; None of any other folder."""
    return hub.commit(Path(folder))


def here(ref: ModelRef) -> ModelRef:
    """Return the reference with a folder that this machine has; raises as `present` does."""
    return replace(ref, folder=present(ref.name, ref.folder))


def present(model: str, planned: str) -> str:
    """Return a folder of this machine that has what the planned one has.

    A hub model that is not in it is downloaded, at the commit it was planned with;
    processes of one machine wait for each other and share what came.
    Raises ModelError where it cannot be had.
    """
    folder = Path(planned)
    on_hub, pinned = hub_id(model), commit(folder)
    if on_hub is None or pinned is None or hub.whole(folder):
        return planned
    try:
        return str(hub.snapshot(on_hub, pinned, fetch=True))
    except hub.HubError as error:
        raise ModelError(str(error)) from error


def downloads(ref: ModelRef) -> bool:
    """Whether a machine that lacks a model's folder downloads it."""
    return hub_id(ref.name) is not None and commit(ref.folder) is not None


def lacks(ref: ModelRef) -> bool:
    """Whether this machine would download a model now; the hub is not asked."""
    on_hub, pinned = hub_id(ref.name), commit(ref.folder)
    if on_hub is None or pinned is None or hub.whole(Path(ref.folder)):
        return False
    try:
        hub.snapshot(on_hub, pinned, fetch=False)
    except hub.HubError:
        return True
    return False


def symbolic(model: str, revision: str | None) -> ModelFacts | None:
    """Return the facts of a hub model from its configuration alone; None where that is not known.

    The digest is provisional: enough to count tasks, bytes and hours with, and nothing may run.
    """
    known = {file.stem: file for file in KNOWN.glob("*.json")}
    file = known.get(model.replace("/", "--"))
    if revision is None or hub_id(model) is None or file is None:
        return None
    place = _file_of([file.name, hashlib.sha256(file.read_bytes()).hexdigest()])
    if (kept := _kept(place)) is not None:
        return kept
    (answer,) = _asked(["--without-weights", str(file)], [file])
    if isinstance(answer, ModelError):
        raise answer
    digests.keep(place, json.dumps(asdict(answer)))
    return answer


def provisional(facts: ModelFacts) -> bool:
    """Return whether facts are of a configuration alone, so that no name made of them will last."""
    return facts.digest.startswith(digests.PROVISIONAL)


def facts(folders: Sequence[Path]) -> list[ModelFacts | ModelError]:
    """Return the facts of each folder, or what is wrong with it."""
    places = {folder: _place(folder) for folder in folders}
    known: dict[Path, ModelFacts | ModelError | None] = {f: _kept(p) for f, p in places.items()}
    unseen = [f for f in places if known[f] is None]
    if unseen:
        _tell(unseen)
        for path, answer in zip(unseen, _read(unseen), strict=True):
            known[path] = answer
            if isinstance(answer, ModelFacts):
                digests.keep(places[path], json.dumps(asdict(answer)))
    return [found for path in folders if (found := known[path]) is not None]


def _tell(folders: Sequence[Path]) -> None:
    """Say how much is read where that takes a while; a plan is on the standard output."""
    weights = [file for folder in folders for file in folder.glob("*.safetensors")]
    try:
        size = digests.unread(weights)
    except OSError:
        return  # said by who reads it
    if size > TELLING:
        sys.stderr.write(f"Reading {size / 1e9:.1f} GB of weights for their digest, once.\n")
        sys.stderr.flush()


def _read(folders: Sequence[Path]) -> list[ModelFacts | ModelError]:
    """Return the facts of folders, read in a process of its own that a folder may bring down."""
    return _asked([str(folder) for folder in folders], folders)


def _asked(arguments: list[str], paths: Sequence[Path]) -> list[ModelFacts | ModelError]:
    """Return what `workers.loading` answers, of each path."""
    command = [sys.executable, "-m", "workers.loading", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and len(paths) > 1:  # one by one, to know which it was
        return [answer for one in paths for answer in _read([one])]
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [
            ModelError(
                f"reading {paths[0]} ended the process that did (exit code {done.returncode}:"
                f" {last[:500]}); check its files against their source"
            )
        ]
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    return [ModelError(a["error"]) if "error" in a else _facts(a) for a in answers]


def _facts(plain: dict[str, object]) -> ModelFacts:
    image = plain.get("image")
    values = {**plain, "image": tuple(image) if isinstance(image, list) else None}
    return ModelFacts(**values)  # type: ignore[arg-type]  # written by asdict


def _place(folder: Path) -> Path:
    """Return the file of a folder's facts: another one as soon as a file of it changed."""
    stats = [(p.name, p.stat()) for p in sorted(folder.iterdir()) if p.is_file()]
    seen = [(n, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for n, s in stats]
    return _file_of([str(folder), seen])


def _file_of(what: object) -> Path:
    key = canonical([FORMAT, what, version("transformers"), version("timm")])
    return digests.cache() / "facts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _kept(place: Path) -> ModelFacts | None:
    try:
        return _facts(json.loads(place.read_text()))
    except (OSError, ValueError, TypeError, AttributeError):  # a kept file of another kind
        return None
