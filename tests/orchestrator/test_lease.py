"""One driver at a time: on one machine, on several, and whatever becomes of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import lease as leasing
from orchestrator.lease import BEAT, LIFE, LOOK, Clock, Lease, claimed, holder, leased
from orchestrator.machine import HIDDEN, Machine, here
from orchestrator.store import Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def asleep(seconds: float) -> None:
    raise AssertionError(f"slept {seconds} s where all is known at once")


AT_ONCE = Clock(sleep=asleep)


class Time:
    """Time that passes when somebody sleeps, and what happens meanwhile."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        self.now, self.meanwhile = 1000.0, meanwhile
        self.clock = Clock(wall=lambda: self.now, steady=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)


def elsewhere(pid: int = 7, host: str = "other") -> Machine:
    """Return a process on a machine that this one knows nothing of."""
    return Machine(host=host, pid=pid, boot=f"boot of {host}", space="s", born=lambda pid: "1")


def claim_of(store: Store, machine: Machine, clock: Clock | None = None) -> Lease:
    return claimed(store, tell=lambda said: None, clock=clock or Clock(), machine=machine)


def test_a_second_driver_is_refused_and_told_who_is_there_and_what_to_do(store: Store) -> None:
    said = rf"being worked on by process {os.getpid()} on \S+ \(since .* UTC, last beat .* UTC\)"
    with (
        leased(store),
        pytest.raises(StoreError, match=said + "; wait for it, stop it, or choose another folder"),
        leased(store, clock=AT_ONCE),
    ):
        pass


def test_the_holder_is_known_while_there_is_one(store: Store) -> None:
    assert holder(store) is None
    with leased(store) as lease:
        found = holder(store)
        assert found is not None
        assert (found.pid, found.epoch) == (os.getpid(), lease.epoch)
        assert found.host == here().host
        assert found.beat_age < LIFE
    assert holder(store) is None


def test_epochs_grow_also_after_an_error(store: Store) -> None:
    with leased(store) as first:
        assert first.epoch == 1
    with pytest.raises(KeyError), leased(store, clock=AT_ONCE):
        raise KeyError
    with leased(store, clock=AT_ONCE) as third:
        assert third.epoch == 3
        third.check()


def test_two_run_folders_have_two_leases(tmp_path: Path) -> None:
    with leased(Store.open(tmp_path / "a")), leased(Store.open(tmp_path / "b")):
        pass


@pytest.mark.parametrize("where", ["", "memory://leases/run"])
def test_of_two_that_claim_at_once_one_is_refused(tmp_path: Path, where: str) -> None:
    store = Store.open(where or tmp_path)
    start, ended = threading.Barrier(8), list[object]()

    def driver(number: int) -> None:
        # Each as a process of its own, of which the others know that it lives.
        machine = replace(here(), pid=number, born=lambda pid: str(pid))
        start.wait()
        try:
            ended.append(claim_of(store, machine, AT_ONCE).epoch)
        except StoreError as error:
            ended.append(error)

    threads = [threading.Thread(target=driver, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e for e in ended if isinstance(e, int)) == [1]
    assert sum(isinstance(e, StoreError) for e in ended) == 7


CHILD = """
import signal, sys, time
from orchestrator.lease import leased
from orchestrator.store import Store

def ended(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, ended)
with leased(Store.open(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def other_driver(store: Store) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a run folder in another process."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, store.uri], stdout=subprocess.PIPE, cwd=root
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            yield other
        finally:
            other.kill()


def test_a_killed_driver_is_known_dead_at_once_even_as_a_zombie(store: Store) -> None:
    with other_driver(store) as other:
        found = holder(store)
        assert found is not None
        assert found.pid == other.pid
        os.kill(other.pid, signal.SIGSTOP)
        with (
            pytest.raises(StoreError, match=f"process {other.pid} on"),
            leased(store, clock=AT_ONCE),
        ):
            pass  # one that is stopped lives
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and not taken note of
        assert holder(store) is None
        with leased(store, clock=AT_ONCE) as lease:
            assert lease.epoch == 2


def test_a_driver_that_is_told_to_end_releases_the_folder(store: Store) -> None:
    with other_driver(store) as other:
        other.terminate()
        assert other.wait() == 128 + signal.SIGTERM
    assert holder(store, machine=elsewhere()) is None  # which could not see that it is dead
    claim_of(store, elsewhere(), AT_ONCE)


def test_a_process_that_was_given_the_number_of_a_dead_holder_is_not_the_holder(
    store: Store,
) -> None:
    me = here()
    claim_of(store, replace(me, born=lambda pid: "earlier"))
    assert holder(store) is None
    with leased(store, clock=AT_ONCE):
        pass


def test_a_holder_elsewhere_is_watched_and_lives_if_it_beats(store: Store) -> None:
    lease = claim_of(store, elsewhere())
    said: list[str] = []
    passing = Time(lambda now: lease.beat() if now == 1000 + LIFE - LOOK else None)
    with pytest.raises(StoreError, match="process 7 on other"):
        claimed(store, tell=said.append, clock=passing.clock, machine=here())
    (sentence,) = said
    assert "was last driven by process 7 on other" in sentence
    assert "waiting up to 30 s" in sentence
    lease.check()


def test_a_holder_elsewhere_is_gone_after_so_long_without_a_beat(store: Store) -> None:
    lease = claim_of(store, elsewhere())
    passing = Time()
    assert claim_of(store, here(), passing.clock).epoch == 2
    assert passing.now == 1000 + LIFE
    lease.beat()  # it wakes, and finds that another drives
    with pytest.raises(
        StoreError, match=r"has been taken over by process \d+ on .*nothing is lost"
    ):
        lease.check()


def test_a_holder_that_wakes_finds_out_at_its_first_check(store: Store) -> None:
    passing = Time()
    lease = claim_of(store, elsewhere(), passing.clock)
    claim_of(store, here(), passing.clock)  # 30 s pass
    with pytest.raises(StoreError, match="taken over"):
        lease.check()


def test_a_holder_elsewhere_that_ends_meanwhile_is_followed_at_once(store: Store) -> None:
    lease = claim_of(store, elsewhere())
    passing = Time(lambda now: lease.release() if now == 1003 else None)
    assert claim_of(store, here(), passing.clock).epoch == 2
    assert passing.now == 1003


def test_clocks_that_disagree_take_nothing_away(store: Store) -> None:
    ahead = Clock(wall=lambda: time.time() + 86400)
    lease = claim_of(store, elsewhere(), ahead)
    passing = Time(lambda now: lease.beat())  # a day ahead
    with pytest.raises(StoreError, match="being worked on"):
        claim_of(store, here(), passing.clock)


@pytest.mark.parametrize(
    "claim", [b"", b"\xff\x00", b"[]", b'{"pid": 1e999, "started": "x"}', b"[" * 100_000]
)
def test_a_damaged_claim_is_watched_like_one_from_elsewhere(store: Store, claim: bytes) -> None:
    store.replace("lease/00000004.json", claim)
    assert holder(store) is None
    assert claim_of(store, here(), Time().clock).epoch == 5


def test_a_copied_folder_is_not_held_by_who_drives_the_original(
    tmp_path: Path, store: Store
) -> None:
    copy = Store.open(tmp_path / "copy")
    with leased(store):
        copy.replace("lease/00000001.json", store.read("lease/00000001.json"))
        assert claim_of(copy, here(), Time().clock).epoch == 2


def test_a_process_that_is_not_shown_is_not_taken_for_dead(store: Store) -> None:
    claim_of(store, here())
    blind = replace(here(), pid=1, born=lambda pid: HIDDEN)
    assert holder(store, machine=blind) is not None
    passing = Time()
    claim_of(store, blind, passing.clock)
    assert passing.now == 1000 + LIFE  # it was watched


def test_without_a_proc_nothing_is_known_of_others() -> None:
    other = here().told()
    assert here().lives(other)
    assert replace(here(), boot="", space="").lives(other) is None
    assert replace(here(), space="pid:[1]").lives(other) is None
    assert here().lives({**other, "pid": -1}) is False


def test_a_beat_shows_that_the_driver_lives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "BEAT", 0.01)
    with leased(store) as lease:
        while cast(int, store.read_json("lease/00000001.json").get("beats", 0)) < 2:
            time.sleep(0.01)
        lease.check()
    assert not [t for t in threading.enumerate() if t.name == "peaksweep-pulse"]


def test_a_claim_whose_answer_was_lost_is_still_ones_own() -> None:
    world = World()
    world.lost_answer = True
    assert claim_of(world.store, elsewhere()).epoch == 1


def test_a_storage_that_fails_now_and_then_takes_nothing_away() -> None:
    world, passing = World(), Time()
    lease = claim_of(world.store, elsewhere(), passing.clock)
    world.broken = True
    for _ in range(20):
        passing.sleep(BEAT)
        lease.beat()
        lease.check()
    lease.release()  # what cannot be written cannot hide why a driver ends
    world.broken = False
    lease.beat()
    lease.check()
    claim_of(world.store, here(), passing.clock)
    passing.sleep(3 * BEAT)
    with pytest.raises(StoreError, match="taken over"):
        lease.check()


class World:
    """A run folder in memory that can be broken, and hears before each use of it."""

    def __init__(self) -> None:
        self.files_: dict[str, bytes] = {}
        self.broken = self.lost_answer = False
        self.before: Callable[[str, str], None] = lambda act, file: None
        self.uri = "memory://world"

    @property
    def store(self) -> Store:
        return cast(Store, self)

    def _use(self, act: str, file: str) -> None:
        self.before(act, file)
        if self.broken:
            raise StoreError("the storage is away")

    def files(self, folder: str, ending: str) -> list[str]:
        self._use("list", folder)
        return sorted(f for f in self.files_ if f.startswith(folder) and f.endswith(ending))

    def read_json(self, file: str) -> dict[str, object]:
        self._use("read", file)
        found: dict[str, object] = json.loads(self.files_.get(file, b"{}"))
        return found

    def commit(self, file: str, content: bytes) -> bool:
        self._use("commit", file)
        if file in self.files_:
            return False
        self.files_[file] = content
        return not self.lost_answer

    def replace(self, file: str, content: bytes) -> None:
        self._use("replace", file)
        self.files_[file] = content


class Killed(BaseException):
    """A driver's process has ended."""


class Driver:
    """A driver as a thread that goes on when it is told, from one use of the folder to the next."""

    def __init__(self, world: World, number: int, host: int, now: Callable[[], float]) -> None:
        self.number, self.host, self.now = number, host, now
        self.world = world
        self.lease: Lease | None = None
        self.wrong: AssertionError | None = None
        self.ended = self.killed = False
        self.wakes = 0.0
        self.reads: dict[str, float] = {}
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def lives(self) -> bool:
        return not self.killed and not self.ended

    def step(self) -> None:
        """Go on to the next use of the folder; one that sleeps goes on sleeping."""
        if not self.ended and self.now() >= self.wakes:
            self._go.release()
            self._paused.acquire()
        if self.wrong is not None:
            raise self.wrong

    def kill(self) -> None:
        self.killed = True
        while not self.ended:
            self.wakes = 0.0
            self.step()
        self._thread.join()

    def pause(self, wakes: float = 0.0) -> None:
        """Let others go on: called by the driver itself."""
        self.wakes = wakes
        self._paused.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self._drive()
        except (Killed, StoreError):
            pass
        except AssertionError as error:
            self.wrong = error
        self.ended = True
        self._paused.release()

    def _drive(self) -> None:
        skew = 1e6 * self.number  # no two clocks agree
        clock = Clock(
            wall=lambda: self.now() + skew,
            steady=lambda: self.now() + skew,
            sleep=lambda seconds: self.pause(self.now() + seconds),
        )
        hosts = {pid: d for pid, d in self.drivers.items() if d.host == self.host}
        machine = Machine(
            host=str(self.host), pid=self.number, boot=str(self.host), space="s",
            born=lambda pid: str(pid) if pid in hosts and not hosts[pid].killed else None,
        )  # fmt: skip
        self.lease = claim_of(self.world.store, machine, clock)
        for _ in range(20):
            clock.sleep(BEAT)
            self.lease.beat()
            self.lease.check()
        self.lease.release()

    drivers: Mapping[int, "Driver"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(0, 2), st.integers(1, 12)),
        st.tuples(st.just("pass"), st.just(0), st.sampled_from([1, 1, 5, 20, 40])),
        st.tuples(st.just("run"), st.integers(0, 2), st.integers(5, 45)),
        st.tuples(st.just("kill"), st.integers(0, 2), st.just(0)),
    ),
    min_size=10,
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hosts=st.tuples(*[st.integers(0, 1)] * 3), steps=STEPS)
def test_however_drivers_come_stop_wake_and_die_one_drives_at_a_time(
    hosts: tuple[int, ...], steps: list[tuple[str, int, int]]
) -> None:
    world, now = World(), [0.0]
    drivers: dict[int, Driver] = {}
    Driver.drivers = drivers
    claims: list[tuple[int, Driver]] = []
    beats: dict[str, list[float]] = defaultdict(list)
    current: list[Driver] = []
    final: list[bool] = []

    def before(act: str, file: str) -> None:
        if final:  # the end is looked at in one go
            return
        driver = current[0]
        driver.pause()
        if act == "read":
            driver.reads[file] = now[0]
        if act == "replace":
            beats[file].append(now[0])
        if act == "commit" and file not in world.files_:
            epoch = int(file[6:14])
            # Epochs are claimed one after the other, and never over one that lives and beats.
            assert epoch == len(claims) + 1
            if claims:
                _, last = claims[-1]
                name = f"lease/{epoch - 1:08d}.json"
                released = json.loads(world.files_[name]).get("released")
                seen = driver.reads[name]
                quiet = not any(seen - LIFE < beat <= seen for beat in beats[name])
                assert released or last.killed or (last.host != driver.host and quiet)
            claims.append((epoch, driver))

    world.before = before

    def step(driver: Driver) -> None:
        current[:] = [driver]
        driver.step()

    drivers.update({n: Driver(world, n, host, lambda: now[0]) for n, host in enumerate(hosts)})
    for act, number, amount in steps:
        driver = drivers[number]
        if act == "pass":
            now[0] += amount
        elif act == "kill":
            current[:] = [driver]
            driver.kill()
        else:
            for _ in range(amount):
                for _ in range(4 if act == "run" else 1):  # all that it does in a second
                    step(driver)
                now[0] += act == "run"
    now[0] += 100
    final.append(True)
    passed = 0
    for driver in drivers.values():
        if driver.lease is not None and driver.lives:
            try:
                driver.lease.check()
            except StoreError:
                continue
            passed += 1
            assert driver.lease.epoch == claims[-1][0]
    assert passed <= 1
    for driver in drivers.values():
        current[:] = [driver]
        driver.kill()


def test_what_is_no_claim_counts_for_nothing_and_the_last_number_is_told(store: Store) -> None:
    for name in ("99999999999", "7", "٣" * 8):
        store.commit(f"lease/{name}.json", b"{}")
    with leased(store) as lease:
        assert lease.epoch == 1
    store.commit("lease/99999999.json", b'{"released": true}')
    with pytest.raises(StoreError, match=r"lease/99999999\.json.*delete that file"), leased(store):
        pass
