"""The lease: one driver at a time on a run folder, wherever the folder and the drivers are.

Two drivers would not spoil anything (work is committed by name, never over
what is there), but they would do everything twice. So a driver first claims
the folder's next *epoch*: a file of the folder that can only be created once.
Whoever creates it drives; epochs grow by one and are never given twice, and
every table a driver commits records its own. The claims are kept: they say who
drove the run, and when.

The holder alone writes its claim again, every few seconds: that is its beat, and
at the end that it has released the folder. A holder on this machine is known to
live or not at once (`orchestrator.machine`), however it was ended. One elsewhere
is watched: if its beat does not change in 30 s, by the watcher's own clock and
with as many looks, it is taken for gone. Clocks of two machines are never
compared to take over; for showing how old a beat is they are.

A holder that was stopped for so long, or could not reach the storage, wakes as
one of two. It finds the higher epoch when it looks, which is before its next
turn, and ends; what it has committed by then counts, for a cell is named by its
content. A storage that fails now and then does not take the lease away: only a
higher epoch does.

Assumes that a listing shows what was created before, and that of two who create
a file one is refused; the stores that are opened promise both.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator.machine import Machine, here
from orchestrator.pulse import Pulse
from orchestrator.store import Store, StoreError

BEAT = 5.0
"""Seconds between two beats."""
LIFE = 30.0
"""Seconds without a beat after which a holder elsewhere is taken for gone."""
LOOK = 1.0
"""Seconds between two looks at the beat of a holder elsewhere."""

_CLAIM = re.compile(r"lease/([0-9]{8})\.json")
_LAST = 99_999_999


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Where times come from."""

    wall: Callable[[], float] = time.time
    """Seconds since 1970, to be shown."""
    steady: Callable[[], float] = time.monotonic
    """Seconds that only grow, to be measured with."""
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who drives a run."""

    host: str
    pid: int
    epoch: int
    started: float
    """Seconds since 1970, by the holder's clock."""
    beat: float
    """When it last beat, in seconds since 1970, by the holder's clock."""
    beat_age: float
    """Seconds since then, by the clock of whoever asks; never negative."""


class Lease:
    """A run folder that is held; `epoch` is the number of its holder."""

    def __init__(self, store: Store, epoch: int, claim: Mapping[str, object], clock: Clock) -> None:
        """Hold what was claimed."""
        self.epoch = epoch
        self._store, self._claim, self._clock = store, claim, clock
        self._beats = 0
        self._above = epoch
        self._looked = clock.steady()

    def check(self) -> None:
        """Raise StoreError if another driver has taken over; costs nothing between beats."""
        if self._above == self.epoch and self._clock.steady() - self._looked > 2 * BEAT:
            with suppress(OSError):  # what cannot be read now does not say that it is lost
                self._look()
        if self._above > self.epoch:
            other = _told(_read(self._store, self._above))
            raise StoreError(
                f"{self._store.uri} has been taken over by {other}, because this driver was not"
                f" heard of for {LIFE:g} s (it was stopped, or could not write the folder); nothing"
                " is lost: let the other one go on, or stop it and run the same command again"
            )

    def beat(self) -> None:
        """Show that this driver lives, and see whether it has been taken for gone."""
        with suppress(OSError):  # tried again at the next beat
            self._look()
            if self._above == self.epoch:
                self._beats += 1
                self._write(beats=self._beats)

    def release(self) -> None:
        """Let the next driver in without a wait."""
        with suppress(OSError):  # on a full disk it is only this that others wait for
            self._write(released=True)

    def _look(self) -> None:
        self._looked = self._clock.steady()
        self._above = max(_latest(self._store), self.epoch)

    def _write(self, **changes: object) -> None:
        told = {**self._claim, "beat": self._clock.wall(), **changes}
        self._store.replace(_file(self.epoch), json.dumps(told).encode())


@contextmanager
def leased(
    store: Store,
    *,
    tell: Callable[[str], None] = lambda said: None,
    clock: Clock | None = None,
    machine: Machine | None = None,
) -> Iterator[Lease]:
    """Hold a run folder, and beat; raises StoreError if another driver does.

    `tell` hears a sentence where another driver has to be watched before that is known.
    """
    lease = claimed(store, tell=tell, clock=clock or Clock(), machine=machine or here())
    pulse = Pulse(BEAT, lease.beat)
    try:
        yield lease
    finally:
        if pulse.stop():
            lease.release()


def claimed(store: Store, *, tell: Callable[[str], None], clock: Clock, machine: Machine) -> Lease:
    """Claim the next epoch of a run folder; raises StoreError if a driver lives.

    What is returned must beat, and be released.
    """
    while True:
        last = _latest(store)
        if last == _LAST:
            raise StoreError(
                f"{store.uri} holds {_file(last)}, after which there is no number for another"
                " driver; no run gets that far: delete that file"
            )
        if last and not _gone(store, last, tell, clock, machine):
            continue  # another has claimed it meanwhile
        now = clock.wall()
        about = {"epoch": last + 1, "key": uuid.uuid4().hex, "uri": store.uri, "started": now}
        claim = {**machine.told(), **about}
        content = json.dumps({**claim, "beat": now}).encode()
        # A claim whose answer was lost on the way may have been made all the same.
        if store.commit(_file(last + 1), content) or (
            _read(store, last + 1).get("key") == claim["key"]
        ):
            return Lease(store, last + 1, claim, clock)


def holder(
    store: Store, *, clock: Clock | None = None, machine: Machine | None = None
) -> Holder | None:
    """Return who drives a run, None if nobody does; takes nothing and writes nothing.

    A holder elsewhere counts as gone when its beat is older than LIFE by this machine's clock.
    """
    clock, machine = clock or Clock(), machine or here()
    last = _latest(store)
    claim = _read(store, last) if last else {}
    lives = _lives(store, claim, machine)
    beat = _number(claim.get("beat"))
    age = max(0.0, clock.wall() - beat)
    if not claim or claim.get("released") or lives is False or (lives is None and age > LIFE):
        return None
    return Holder(
        host=str(claim.get("host", "unknown")),
        pid=int(_number(claim.get("pid"))),
        epoch=last,
        started=_number(claim.get("started")),
        beat=beat,
        beat_age=age,
    )


def _gone(
    store: Store, epoch: int, tell: Callable[[str], None], clock: Clock, machine: Machine
) -> bool:
    """Whether the holder of an epoch is gone; False if there is a higher epoch by now.

    Raises StoreError if it lives.
    """
    claim = seen = _read(store, epoch)
    lives = _lives(store, claim, machine)
    if lives is None and not claim.get("released"):
        tell(
            f"{store.uri} was last driven by {_told(claim)}, and whether that still lives cannot"
            f" be seen from here: waiting up to {LIFE:g} s for a sign of it"
        )
        for _ in range(int(LIFE / LOOK)):
            clock.sleep(LOOK)
            if _latest(store) > epoch:
                return False
            seen = _read(store, epoch)
            if seen != claim:
                break
        lives = seen != claim
    if seen.get("released") or not lives:
        return True
    raise StoreError(
        f"{store.uri} is being worked on by {_told(seen)}; wait for it, stop it, or choose another"
        " folder with --out"
    )


def _lives(store: Store, claim: Mapping[str, object], machine: Machine) -> bool | None:
    """Whether a holder lives, None if that cannot be known from here.

    Of a folder that was copied or moved the holder may live and drive the other one.
    """
    lives = machine.lives(claim)
    return None if lives and claim.get("uri") != store.uri else lives


def _told(claim: Mapping[str, object]) -> str:
    """Return who holds a claim, for people."""
    since, beat = (_time(claim.get(key)) for key in ("started", "beat"))
    return (
        f"process {claim.get('pid', 'unknown')} on {claim.get('host', 'an unknown host')}"
        f" (since {since}, last beat {beat})"
    )


def _time(value: object) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(_number(value)))
    except (OSError, OverflowError, ValueError):
        return "at an unknown time"


def _number(value: object) -> float:
    if isinstance(value, (int, float)) and abs(value) < 2**62:  # a damaged claim has any
        return float(value)
    return 0.0


def _file(epoch: int) -> str:
    return f"lease/{epoch:08d}.json"


def _latest(store: Store) -> int:
    """Return the highest epoch that was claimed, 0 if none was."""
    claims = map(_CLAIM.fullmatch, store.files("lease", ".json"))
    return max((int(claim.group(1)) for claim in claims if claim), default=0)


def _read(store: Store, epoch: int) -> Mapping[str, object]:
    """Return a claim; empty if it was damaged."""
    return store.read_json(_file(epoch))
