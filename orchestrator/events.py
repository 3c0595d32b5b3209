"""Events: the story of a run, a line of JSON for everything that happened.

It is for people, and for telling how fast a run goes; nothing is ever decided
by it. On a local folder it is `events.jsonl`, and every line is there as soon
as it is told. An object store cannot append, so there the story is in segments,
`events/<epoch>-<number>.jsonl`: the last one is put again every few seconds and
at the end, and a driver that is killed takes the lines of these seconds along.

A line may be cut short by a kill or a full disk. Whoever writes next begins a
line of its own, and readers leave out what is no event.
"""

import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from threading import Lock
from typing import BinaryIO

from orchestrator.pulse import Pulse
from orchestrator.store import Store, StoreError

FILE = "events.jsonl"
FOLDER = "events"
FLUSH = 3.0
"""Seconds between two times a segment is put."""
SEGMENT = 2**18
"""Bytes from which on a segment is ended and the next begun."""
LONGEST = 2**24
"""Bytes that a line may have; longer ones are left out."""
BEGIN = "begin"
"""The event that a driver begins with."""


class Events:
    """The story of a run, to be gone on with."""

    def __init__(self, store: Store) -> None:
        """Go on with a run's story; raises StoreError if it cannot be written."""
        self._store = store
        self._appended: BinaryIO | None = None
        self._wrong: OSError | None = None
        self._pulse: Pulse | None = None
        if store.local:
            self._append(b"")
        else:
            self._lock = Lock()
            self._name = f"{store.epoch:08d}"
            written = store.files(FOLDER, ".jsonl")
            last = max((f for f in written if self._name in f), default="-0.jsonl")
            self._number = int(last.rpartition("-")[2].removesuffix(".jsonl")) + 1
            self._lines, self._waiting = bytearray(), dict[int, bytearray]()
            self._pulse = Pulse(FLUSH, self._beat)

    def write(self, line: str) -> None:
        """Add a line; raises StoreError if the story cannot be written."""
        content = line.encode() + b"\n"
        if self._pulse is None:
            self._append(content)
            return
        if self._wrong is not None:
            raise self._told(self._wrong)
        with self._lock:
            if self._lines and len(self._lines) + len(content) > SEGMENT:
                self._number, self._lines = self._number + 1, bytearray()
            self._lines += content
            self._waiting[self._number] = self._lines

    def close(self) -> None:
        """Write what is not written yet; raises StoreError if that cannot be done."""
        try:
            if self._appended is not None:
                self._appended.close()
            elif self._pulse is not None and self._pulse.stop():
                self._put()
        except OSError as error:
            raise self._told(error) from error

    def _append(self, content: bytes) -> None:
        try:
            if self._appended is None:
                self._appended = self._store.path(FILE).open("ab")
                if self._appended.tell():
                    self._appended.write(b"\n")  # whoever wrote before may have been cut off
            self._appended.write(content)
            self._appended.flush()
        except OSError as error:
            raise self._told(error) from error

    def _beat(self) -> None:
        try:
            self._put()
            self._wrong = None
        except OSError as error:
            self._wrong = error  # the next line tells, unless it passes before

    def _put(self) -> None:
        """Put the segments that have new lines; whoever writes lines need not wait for that."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
            contents = {number: bytes(lines) for number, lines in taken.items()}
        try:
            for number, content in contents.items():
                self._store.replace(f"{FOLDER}/{self._name}-{number:06d}.jsonl", content)
                del taken[number]
        finally:
            with self._lock:
                self._waiting = {**taken, **self._waiting}

    def _told(self, error: OSError) -> StoreError:
        return StoreError(
            f"the story of {self._store.uri} cannot be written: {error.strerror or error}"
        )


def events(store: Store, *, latest: bool = False) -> Iterator[Mapping[str, object]]:
    """Yield the events of a run in order; with `latest`, at most those of its latest driver.

    Raises StoreError if the story cannot be read; what is no event is left out.
    """
    try:
        if store.exists(FILE):
            with store.path(FILE).open("rb") as file:
                if latest:
                    file.seek(_begun(file))
                yield from _parsed(file)
        segments = store.files(FOLDER, ".jsonl")
        if latest and segments:
            epoch = max(segments).partition("-")[0]
            segments = [segment for segment in segments if segment.startswith(epoch)]
        for segment in segments:
            yield from _parsed(BytesIO(store.read(segment)))
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"the story of {store.uri} cannot be read: {reason}") from error


def _begun(file: BinaryIO) -> int:
    """Return where the line lies that the last driver began with; 0 if there is none."""
    with suppress(ValueError), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.rfind(f'"event": "{BEGIN}"'.encode())
        return content.rfind(b"\n", 0, found) + 1 if found >= 0 else 0
    return 0  # an empty file cannot be mapped


def _parsed(file: BinaryIO) -> Iterator[Mapping[str, object]]:
    skip = False
    while line := file.readline(LONGEST):
        ended = line.endswith(b"\n")
        if ended and not skip:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):  # an empty line, or one that was cut off
                event = None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
        skip = not ended
