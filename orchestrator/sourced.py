"""Sourced: the data sources of a sweep, looked at before anything runs.

Each name is made a source, and the start of what lies here is read: enough to say that a
column is missing or that most rows are broken, and no more, since a plan should take seconds
and a folder may hold a hundred gigabytes. What lies further on is judged when it is prepared.
"""

from collections.abc import Mapping
from pathlib import Path

from orchestrator import imaged, presets, sources, tabled
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.names import slug
from orchestrator.sections import DataSpec
from orchestrator.sources import Source, SourceError
from orchestrator.spec import Spec

LOOKED_AT: Mapping[sources.Kind, int] = {"text": 10_000, "pairs": 10_000, "images": 64}
"""Rows that a plan reads, by what they are; an image takes milliseconds to decode."""

_COLUMNS: Mapping[sources.Kind, tuple[str, ...]] = {
    "text": ("text", "document"),
    "images": ("image", "label", "labels"),
    "pairs": ("input", "donor", "answer", "wrong"),
}
"""Keys of a data section that are of one kind of documents."""
_HUB = ("config", "revision", "split", "streaming")


def found(spec: Spec, base: Path, *, fetch: bool) -> tuple[dict[str, Source], list[Mistake]]:
    """Return the sources of a spec by name, and what is wrong with them.

    With `fetch` a hub is asked for the commits that are not written.
    """
    here: dict[str, Source] = {}
    mistakes: list[Mistake] = []
    slugs: dict[str, str] = {}
    for key, data in spec.data.items():
        twin = slugs.setdefault(slug(key), key)
        if twin != key:
            message = f"{key!r} and {twin!r} would share a file; rename one"
            mistakes.append(Mistake(path=f"data.{key}", message=message))
        try:
            source = sources.find(
                data.source,
                base=base,
                text=data.text,
                document=data.document,
                reading=data.reading(),
                fetch=fetch,
            )
        except SourceError as error:
            mistakes.append(Mistake(path=f"data.{key}.source", message=str(error)))
            continue
        here[key] = source
        broken = _unreadable(key, source, filtered=bool(data.where))
        mistakes += broken or _idle(key, data, source)
        for role in ("collect", "evaluate"):
            split = getattr(data, role).split
            if split is not None and split not in source.splits:
                known = ", ".join(source.splits) or "none; leave the splits out"
                message = f"{data.source} has no split {split!r}. It has: {known}"
                mistakes.append(Mistake(path=f"data.{key}.{role}.split", message=message))
    return here, mistakes


def named(key: str, source: str, base: Path) -> list[Mistake]:
    """Return what is wrong with the name of a source."""
    whole = presets.filled({"source": source})
    assert isinstance(whole, Mapping)
    try:
        sources.find(str(whole["source"]), base=base)
    except SourceError as error:
        return [Mistake(path=f"data.{key}.source", message=str(error))]
    return []


def digests(here: Mapping[str, Source]) -> dict[str, str]:
    """Return the digest of every source, by name; raises SpecError for those that went."""
    made, mistakes = {}, []
    for key, source in here.items():
        try:
            made[key] = source.digest()
        except OSError as error:  # it was there a moment ago
            message = f"it cannot be read any more: {error.strerror or error}"
            mistakes.append(Mistake(path=f"data.{key}.source", message=message))
    if mistakes:
        raise SpecError(mistakes)
    return made


def pinned(spec: Spec, here: Mapping[str, Source]) -> Spec:
    """Return the spec with the commit of every hub's set in place of the branch or tag."""
    data = {
        key: given.model_copy(update={"revision": source.revision})
        if (source := here.get(key)) is not None and source.revision is not None
        else given
        for key, given in spec.data.items()
    }
    return spec.model_copy(update={"data": data})


def _unreadable(key: str, source: Source, *, filtered: bool) -> list[Mistake]:
    """Return what is wrong with the content of a user's own files."""
    if not source.checked_by_reading:
        return []
    skipped = sources.Skipped()
    try:
        for _ in sources.usable(source, skipped, most=LOOKED_AT[source.kind]):
            pass
    except (SourceError, OSError) as error:
        return [Mistake(path=f"data.{key}", message=str(error))]
    if skipped.documents or skipped.broken:
        return []
    message = "it has no documents"
    message += ": no row has the values that `where` asks for" if filtered else ""
    return [Mistake(path=f"data.{key}.source", message=message)]


def _idle(key: str, data: DataSpec, source: Source) -> list[Mistake]:
    """Return the keys that are not read for such a source: they would only change its name."""
    name = data.source
    of_kinds = [c for columns in _COLUMNS.values() for c in columns]
    others = [c for c in of_kinds if c not in _COLUMNS[source.kind]]
    first = source.files[0].name if source.files else ""
    why: dict[str, str] = {}
    if name.startswith("zoo:"):
        why = dict.fromkeys(
            ("kind", "where", *of_kinds, *_HUB), "a bundled source is read in one way; leave it out"
        )
    else:
        what = f"{name} is read as {source.kind}; leave it out, or say another `kind`"
        why = dict.fromkeys(others, what)
        if imaged.is_image(first):
            what = "of files of images their folders or `labels` say the class; leave it out"
            why |= dict.fromkeys(("image", "label"), what)
        if tabled.format_of(first) == "texts":
            why["text"] = "texts have no columns; leave it out"
        if source.files:
            why |= dict.fromkeys(_HUB, f"it is for a hub's set, and {name} lies here; leave it out")
        else:
            why["labels"] = "a hub's set numbers its classes itself; leave it out"
        if not source.files and source.splits:
            why["split"] = (
                "`collect` and `evaluate` name their splits; leave it out, or write `split: null`"
                " in both to have this one divided"
            )
    given = data.model_dump(exclude_defaults=True)
    return [
        Mistake(path=f"data.{key}.{field}", message=f"is not read: {what}")
        for field, what in why.items()
        if field in given
    ]
