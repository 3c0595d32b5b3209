"""Luggage: what a submitted sweep takes along, and what its nodes must have already.

Three things travel: the code that runs here (the packages `orchestrator` and `workers`, from
wherever they were imported, so that a checkout and an installed package are the same), the sweep
file, and the files that it names by a relative path. Nothing else of the folder around them is
looked at, so no `.git`, run folder, cache or virtual environment can slip in. Nodes whose image has
peaksweep baked in need no code.

Models go by reference: a name of the zoo, a hub id, or an absolute path that all nodes have. So do
data that are too large to send. A path that only this machine knows is refused, with its cure; an
absolute one cannot be judged from here, and the job looks for it on every node before it begins.

The files keep their places relative to each other, `..` too, because the names of cells know a
source by what its sweep file calls it. Links are followed. Weak where a file changes while it is
copied: what arrived is what is run.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import filed
from orchestrator.files import elsewhere
from orchestrator.inspection import hub_id
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.spec import Spec

LARGEST = 100 * 10**6
"""Bytes sent at most: Ray's job server takes 100 MiB, and keeps them in the head's memory."""
CODE = ("orchestrator", "workers")
_BAKED = "bake peaksweep into the nodes' image and add --no-code"
_SHARE = "put it where all nodes have it at the same absolute path, and write that path"


@dataclass(frozen=True, kw_only=True, slots=True)
class Luggage:
    """What a submitted sweep takes along."""

    files: Mapping[str, Path]
    """What travels: its place in the job's working directory, and where it lies here."""
    code: Mapping[str, Path]
    """The same of the code; empty where nodes have it."""
    sweep: str
    """Place of the sweep file."""
    plugins: tuple[str, ...]
    """Places of the modules of a user's own."""
    needs: tuple[str, ...]
    """Absolute paths that every node must have."""

    @property
    def digest(self) -> str:
        """SHA-256 over what the user wrote: the sweep, its files and plug-ins; not the code."""
        seen = hashlib.sha256()
        for place, file in sorted(self.files.items()):
            seen.update(f"{place}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return seen.hexdigest()

    def lay_out(self, folder: Path) -> None:
        """Copy everything into a folder, which becomes the job's working directory."""
        for place, file in {**self.code, **self.files}.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)


def packed(file: Path, spec: Spec, *, plugins: Sequence[Path] = (), code: bool = True) -> Luggage:
    """Return what a sweep takes along; `file` is the sweep file that says `spec`.

    Without `code`, nodes are to have peaksweep. Raises SpecError with every path that nodes
    cannot see, every file that is not there, and where it is too much.
    """
    base = file.absolute().parent.resolve()  # as the system reads `..` behind a link
    mistakes: list[Mistake] = []
    taken, needs = [base / file.name], []
    for key, named in _paths(spec):
        if named.startswith("~"):
            cure = "nodes have other home folders; write the absolute path"
            mistakes.append(Mistake(path=key, message=f"found {named!r}; {cure}"))
        elif Path(named).is_absolute():
            needs.append(named)
        elif (base / named).is_dir():
            taken += filed.walk(base / named)
        elif (base / named).is_file():
            taken.append(base / named)
        else:
            said = f"there is no file {base / named}; paths are relative to the sweep file"
            mistakes.append(Mistake(path=key, message=said))
    mistakes += _models(spec, base, needs)
    if spec.store is not None and not elsewhere(spec.store) and not Path(spec.store).is_absolute():
        cure = "write an absolute path that all nodes share, or a URI"
        found = f"{spec.store} starts at the sweep file's folder, which nodes do not have; {cure}"
        mistakes.append(Mistake(path="store", message=found))
    if mistakes:
        raise SpecError(mistakes)
    taken = [Path(os.path.normpath(one)) for one in taken]
    top = Path(os.path.commonpath([one.parent for one in taken]))
    files = {f"sweep/{one.relative_to(top).as_posix()}": one for one in taken}
    own = {f"plugins/{i}/{one.name}": one.absolute() for i, one in enumerate(plugins)}
    luggage = Luggage(
        files=files | own,
        code=_code() if code else {},
        sweep=f"sweep/{taken[0].relative_to(top).as_posix()}",
        plugins=tuple(own),
        needs=tuple(dict.fromkeys(needs)),
    )
    _refuse_much(luggage)
    return luggage


def _paths(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield where a sweep names data by a path, and the path as it is written."""
    for name, data in spec.data.items():
        if not data.source.startswith(("zoo:", "hf:")):
            yield f"data.{name}.source", data.source
        if data.labels is not None:
            yield f"data.{name}.labels", data.labels
    for i, selection in enumerate(spec.selections):
        if selection.rule == "explicit":
            yield f"selections[{i}]", str(selection.parameters["file"])


def _models(spec: Spec, base: Path, needs: list[str]) -> Iterator[Mistake]:
    """Yield the models that are folders of this machine alone; note those by absolute paths."""
    for i, model in enumerate(spec.models):
        if model.id.startswith(("zoo:", "timm:")):
            continue
        path = Path(model.id.removeprefix("local-dir:"))
        if path.is_absolute():
            needs.append(str(path))
        elif hub_id(model.id) is None or (base / path).is_dir():
            found = f"{model.id!r} is a folder of this machine, which nodes do not have"
            cure = f"{_SHARE}; or give a hub id with its revision"
            yield Mistake(path=f"models[{i}].id", message=f"{found}; models are not sent: {cure}")


def _code() -> dict[str, Path]:
    """Return the files of the packages that this process runs."""
    top = Path(__file__).parents[1]
    return {
        one.relative_to(top).as_posix(): one
        for package in CODE
        for one in filed.walk(top / package)
        if "__pycache__" not in one.parts
    }


def _refuse_much(luggage: Luggage) -> None:
    sizes = {place: file.stat().st_size for place, file in luggage.files.items()}
    code = sum(file.stat().st_size for file in luggage.code.values())
    total = code + sum(sizes.values())
    if total <= LARGEST:
        return
    most = max(sizes, key=lambda place: sizes[place])
    said = (
        f"what the job would take along has {total / 1e6:,.0f} MB (code {code / 1e6:,.0f}), and"
        f" {LARGEST / 1e6:,.0f} can be sent; the largest file is {luggage.files[most]}"
        f" ({sizes[most] / 1e6:,.0f} MB): {_SHARE}"
    )
    if code > LARGEST / 2:
        said += f"; or {_BAKED}"
    raise SpecError([Mistake(path="", message=said)])
