"""Documents: what every source of data yields, and what is told of what it could not.

A source yields documents in a fixed order, each with a name that is unique in the
source. The document is the cluster of all statistics: collection and evaluation
never share one, and standard errors treat the windows of one document as correlated.

What is no document (bad JSON, a broken image, a number where a text is expected) is
yielded as `Broken`, in its place, so that whoever reads can leave it out, count it and
say where it was. Leaving out what is broken changes what is measured by the rows that
are wrong, so it is told, and a source that is mostly wrong is refused (`usable`).

Shapes: H height, W width, C channels of an image.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator import filed

LISTED = 20
"""Broken rows that are kept to be listed; all are counted."""
GIVEN_UP = 10_000
"""Rows after which a source of which none could be used is not read any further."""

Kind: TypeAlias = Literal["text", "images", "pairs"]


class SourceError(ValueError):
    """A source that cannot be read as it is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of a source."""

    name: str
    split: str | None
    """As the source says it; None when it has no splits."""
    text: str | None = None
    """The text, or the input of a pair."""
    image: NDArray[np.uint8] | None = None
    """(H, W, C) pixels of any size; C is 1 for grey and 3 for colours."""
    target: int | None = None
    """Class of the image."""
    donor: str | None = None
    """Pairs: the prompt that activations are taken from; None where the row has none."""
    answer: str | None = None
    """Pairs: what is right after the input."""
    wrong: tuple[str, ...] = ()
    """Pairs: what would be wrong after the input; empty where the row has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A row of a source that is no document."""

    where: str
    """File and line, row or image, so that it can be found."""
    why: str
    """What was expected and what was found."""

    def __str__(self) -> str:
        told = f"{self.where}: {self.why}"  # a file's name may be bytes that are no text
        return told.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where documents come from."""

    kind: Kind
    files: tuple[Path, ...]
    """Files of this machine that it consists of; none where it is read from a hub."""
    splits: tuple[str, ...]
    """Splits that the source itself names; empty when it has none."""
    read: Callable[[], Iterator[Document | Broken]]
    checked_by_reading: bool = False
    """Whether its content is a user's and lies here, so that a plan may look at it."""
    streaming: bool = False
    """Whether it comes over the network as it is read, perhaps without end: take what is needed
    and stop. Splits take turns, so that the second is met before the first ends."""
    read_split: Callable[[str], Iterator[Document | Broken]] | None = None
    """Streams with splits: reads one of them, so that each is read no further than is needed."""
    revision: str | None = None
    """Hub: the commit that is read."""
    identity: str = ""
    """What decides, beside the content of the files, which documents there are."""
    missing: str | None = None
    """Why it cannot be read here and now, with the cure; None when it can. Its digest, and every
    name made from it, is then provisional."""

    def digest(self) -> str:
        """Return the SHA-256 over the source's files and what else decides its documents.

        Raises OSError where a file cannot be read.
        """
        return filed.digest(self.files, self.identity)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How the rows of a source become documents: which columns, which rows, which splits."""

    kind: Kind | None = None
    """What the documents are; told from the columns when None."""
    text: str = "text"
    """Column of the text. A dot leads into a column of mappings, as in all of these."""
    document: str | None = None
    """Column that names a document: rows of one name are one. A row is a document when None."""
    image: str = "image"
    label: str = "label"
    """Column of an image's class."""
    input: str = "input"
    donor: str = "donor"
    answer: str = "answer"
    wrong: str = "wrong"
    where: Mapping[str, tuple[str | int | float | bool, ...]] = field(default_factory=dict)
    """Of each column named here, the values of the rows that are read."""
    labels: str | None = None
    """Image folders: a file that says the classes."""
    config: str | None = None
    """Hub: the configuration of the data set."""
    revision: str | None = None
    """Hub: a commit, or a branch or tag, which is resolved to its commit."""
    split: str = "train"
    """Hub: the split that is read, and divided by hash, where the roles name none."""
    splits: tuple[str, ...] = ()
    """Hub: the splits that the roles name."""
    streaming: bool = False
    """Hub: whether rows are taken over the network as they are needed."""

    @classmethod
    def of(cls, plain: Mapping[str, object]) -> "Reading":
        """Return the reading that plain values describe; what is left out is the default."""
        given = dict(plain)
        where = given.get("where")
        if isinstance(where, Mapping):
            given["where"] = {str(k): tuple(v) for k, v in where.items()}
        if "splits" in given:
            given["splits"] = tuple(given["splits"])  # type: ignore[arg-type]  # a list of JSON
        return cls(**given)  # type: ignore[arg-type]  # names and types are those of `plain`

    def plain(self) -> dict[str, object]:
        """Return what differs from the defaults, as plain values that `of` reads back."""
        default, mine = asdict(Reading()), asdict(self)
        return {k: v for k, v in mine.items() if v != default[k]}


class Skipped:
    """What a reading met: filled by `usable` while it goes."""

    def __init__(self) -> None:
        """Start with nothing met."""
        self.documents = 0
        """Documents that were yielded."""
        self.blank = 0
        """Texts among them without a character that shows."""
        self.broken = 0
        """Rows that were left out."""
        self.first: list[Broken] = []
        """The first `LISTED` of these."""

    def add(self, other: "Skipped") -> None:
        """Count what another reading met, too."""
        self.documents += other.documents
        self.blank += other.blank
        self.broken += other.broken
        self.first = [*self.first, *other.first][:LISTED]


def usable(source: Source, skipped: Skipped, *, most: int | None = None) -> Iterator[Document]:
    """Yield a source's documents without what is broken, and keep count in `skipped`.

    Stops after `most` rows, if given; what was read then is judged as the start of a source.

    Raises SourceError when none of the first `GIVEN_UP` rows is a document, and, where it was
    read to its end, when more than half of its rows are broken, or all are blank.
    """
    for rows, read in enumerate(source.read(), 1):
        found = _named(read)
        if isinstance(found, Broken):
            skipped.broken += 1
            if len(skipped.first) < LISTED:
                skipped.first.append(found)
            if skipped.broken >= GIVEN_UP and not skipped.documents:
                raise SourceError(_mostly_broken(skipped))
        else:
            skipped.documents += 1
            skipped.blank += found.text is not None and not found.text.strip()
            yield found
        if rows == most:
            break
    else:
        _judge(skipped)


def _named(found: Document | Broken) -> Document | Broken:
    """Return a document as it is, but broken where its name, a file's, is no text."""
    if isinstance(found, Document) and not _is_text(found.name):
        return Broken(where=found.name, why="the file's name is not UTF-8; rename the file")
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _judge(skipped: Skipped) -> None:
    """Raise SourceError for a source that was read to its end and should not be used."""
    if skipped.broken > skipped.documents:
        raise SourceError(_mostly_broken(skipped))
    if skipped.documents and skipped.blank == skipped.documents:
        raise SourceError(f"all of its {skipped.documents} documents are blank")


def _mostly_broken(skipped: Skipped) -> str:
    rows = skipped.documents + skipped.broken
    return (
        f"{skipped.first[0]}; {skipped.broken} rows in all cannot be used, of {rows}, which is more"
        " than half. Mend them or take them out"
    )
