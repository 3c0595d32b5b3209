"""Taking: which documents of a source a role has, and in which order it takes them.

A source may be larger than memory, so it is read through, and only so many documents are held
as are asked for. A role takes its documents in the order of the hashes of their names, which is
a random order and the same whoever asks: any prefix is a fair sample, and the order of a file
has no part in it. A few more are held than are asked for, because some are too short or
duplicates; where these do not suffice, the source is read again for the next ones.

A stream has no end to wait for. Of it a role takes its documents as they come, and no more is
read than it takes for both roles to have enough: the same ones, as long as the stream begins
with the same ones (its revision is part of the data's name). Where the roles take splits of it,
each split is read by itself, as one may be a thousand times as long as the other. A stream's
beginning is a fair sample only if it was shuffled before.

Collection and evaluation take different splits: those that are named, or the first and the
last of the source. Where there are fewer than two, documents are divided by the hash of their
content, so that equal documents fall on the same side.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from orchestrator.documents import Broken, Document, Skipped, Source, usable

SplitReader = Callable[[str], Iterator[Document | Broken]]
Role = Literal["collect", "evaluate"]
ROLES: tuple[Role, ...] = ("collect", "evaluate")


def splits_of(splits: Sequence[str], named: Mapping[Role, str | None]) -> Mapping[Role, str] | None:
    """Return the split of each role; None where documents are divided by hash.

    `splits` are those of the source, `named` those that the sweep file names, both or neither.
    """
    collect, evaluate = named["collect"], named["evaluate"]
    if collect is not None and evaluate is not None:
        return {"collect": collect, "evaluate": evaluate}
    if len(splits) < 2:
        return None
    return {"collect": splits[0], "evaluate": splits[-1]}


def content_digest(document: Document) -> bytes:
    """Return the SHA-256 over what a document holds: its pixels, or its text."""
    pixels = document.image.tobytes() if document.image is not None else None
    return hashlib.sha256(pixels or (document.text or "").encode()).digest()


class Taking:
    """The documents of a source, by role, each in its order."""

    def __init__(
        self,
        source: Source,
        splits: Mapping[Role, str] | None,
        enough: Mapping[Role, int],
        *,
        hold: Callable[[Document], Document] = lambda document: document,
    ) -> None:
        """Read nothing yet.

        So many documents of each role as are `enough` are held at once, and `hold` makes of each
        what is held of it.
        """
        self._source, self._splits, self._enough = source, splits, dict(enough)
        self._hold = hold
        self._held: dict[Role, list[tuple[bytes, Document]]] = {}
        self._more: dict[Role, bool] = {}
        self._met: list[Skipped] = []

    @property
    def skipped(self) -> Skipped:
        """What was come across when documents were first read."""
        total = Skipped()
        for one in self._met:
            total.add(one)
        return total

    def of(self, role: Role) -> Iterator[Document]:
        """Yield the documents of a role in its order, as long as there are any.

        Raises SourceError where the source is mostly broken.
        """
        read = self._source.read_split
        if read is not None and self._splits is not None:
            yield from self._alone(read, self._splits[role])
            return
        if not self._more:
            self._met.append(Skipped())
            self._pass(dict.fromkeys(ROLES, b""), self._met[-1])
        while True:
            held = self._held.pop(role, [])
            yield from (document for _, document in held)
            if not self._more[role] or not held:
                return
            self._enough[role] *= 2
            self._pass({role: held[-1][0]}, Skipped())

    def _alone(self, read: SplitReader, split: str) -> Iterator[Document]:
        """Yield the documents of a stream's split as they come; none is held."""
        self._met.append(Skipped())
        part = replace(self._source, read=lambda: read(split))
        yield from map(self._hold, usable(part, self._met[-1]))

    def _pass(self, after: Mapping[Role, bytes], skipped: Skipped) -> None:
        """Read the source for the next documents of some roles, those whose keys come after."""
        heaps: dict[Role, list[tuple[int, int, bytes, Document]]] = {role: [] for role in after}
        self._more |= dict.fromkeys(after, False)
        stream = self._source.streaming
        for number, document in enumerate(usable(self._source, skipped)):
            role = self._role(document)
            if role is None or role not in heaps:
                continue
            name = hashlib.sha256(document.name.encode()).digest()
            key = number.to_bytes(8, "big") if stream else name
            if after[role] and key <= after[role]:
                continue
            heap = heaps[role]
            # The heap's top is the last in the role's order: what it has to leave for.
            item = (-int.from_bytes(key, "big"), -number, key, document)
            if len(heap) < self._enough[role]:
                heapq.heappush(heap, (*item[:3], self._hold(document)))
            else:
                self._more[role] = True
                if item[:2] > heap[0][:2]:
                    heapq.heapreplace(heap, (*item[:3], self._hold(document)))
            if stream and all(len(h) >= self._enough[r] for r, h in heaps.items()):
                self._more |= dict.fromkeys(after, True)
                break
        for role, heap in heaps.items():
            self._held[role] = [(key, held) for _, _, key, held in sorted(heap, key=_order)]

    def _role(self, document: Document) -> Role | None:
        if self._splits is None:
            return "collect" if content_digest(document)[0] % 2 else "evaluate"
        return next((r for r in ROLES if self._splits[r] == document.split), None)


def _order(item: tuple[int, int, bytes, Document]) -> tuple[int, int]:
    return -item[0], -item[1]
