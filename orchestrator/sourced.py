"""Sourced: the data sources of a sweep, looked at before anything runs.

Each name is made a source, and the start of what lies here is read: enough to say that a
column is missing or that most rows are broken, and no more, since a plan should take seconds
and a folder may hold a hundred gigabytes. What lies further on is judged when it is prepared.
"""

from collections.abc import Mapping
from pathlib import Path

from orchestrator import presets, sources
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.names import slug
from orchestrator.sources import Source, SourceError
from orchestrator.spec import Spec

LOOKED_AT: Mapping[sources.Kind, int] = {"text": 10_000, "pairs": 10_000, "images": 64}
"""Rows that a plan reads, by what they are; an image takes milliseconds to decode."""


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
        if source.checked_by_reading:
            mistakes += _unreadable(key, source, filtered=bool(data.where))
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
