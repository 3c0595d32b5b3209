"""Hosts that are network namespaces: machines with addresses of their own, on one machine.

A switch is a namespace with a bridge; every host is a namespace with one cable to it (a pair
of virtual interfaces), its own loopback, ports and folder for temporary files. Nothing is made
in the namespace of the machine itself, so its network is left as it is. What hosts share with
each other is the disk and the clock: on real machines the disk would be apart too.

It needs root, `ip` and a kernel that allows namespaces. Whatever was started on a host ends
with it, and what a killed test left behind goes when the next one begins.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import alive

PREFIX = "peaksweep"
"""Of the names of namespaces: then the process that made them, then the host."""
NET = "10.213.7"
"""Addresses: they mean something in these namespaces alone."""
PROGRAMS = ("ip", "ss")
"""Of the package iproute2: one makes namespaces, the other tells who listens."""


class Refused(Exception):
    """This machine lets us make no namespaces; says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One namespace, with an address on the network."""

    name: str
    space: str
    """The name of its namespace."""
    address: str
    folder: Path
    """Where its programs put temporary files."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *words: str | Path) -> list[str]:
        """Return the command line that runs these words on the host."""
        return ["ip", "netns", "exec", self.space, *map(str, words)]

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a program on the host: this process's, without its Ray."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return {**kept, "TMPDIR": str(self.folder), **more}

    def start(
        self, words: Sequence[str | Path], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program that goes on; what it says is in `said` in the host's folder."""
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                env=self.environment(environment),
            )
        self.started.append(process)
        return process

    def run(
        self,
        words: Sequence[str | Path],
        environment: Mapping[str, str],
        *,
        timeout: float = 300,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end, however that is."""
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=cwd,
            env=self.environment(environment),
        )

    def processes(self) -> set[int]:
        """Return the processes of the host."""
        return {int(p) for p in _ip("netns", "pids", self.space).split()}

    def cut(self) -> None:
        """Pull its cable: what is sent either way is lost, and nobody is told."""
        _ip("-n", self.space, "link", "set", "eth0", "down")

    def listening(self) -> list[tuple[str, int]]:
        """Return the addresses and ports at which programs of the host accept connections."""
        found = []
        for line in self.run(["ss", "-ltnH"], {}).stdout.splitlines():
            address, _, port = line.split()[3].rpartition(":")
            found.append((address.strip("[]").removeprefix("::ffff:"), int(port)))
        return sorted(found)


@dataclass
class Network:
    """A switch, and the hosts that are connected to it."""

    folder: Path
    """Short, as paths of sockets are limited to 107 bytes."""
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def _switch(self) -> str:
        return f"{PREFIX}-{os.getpid()}-switch"

    def lay(self) -> None:
        """Make the switch; raises Refused where this machine makes none."""
        if os.geteuid() != 0:
            raise Refused("network namespaces need root")
        _sweep()
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
        except subprocess.CalledProcessError as error:
            raise Refused(f"the kernel makes no namespaces here: {error.stderr.strip()}") from error

    def host(self, name: str) -> Host:
        """Connect another host, and return it; its name has at most 15 letters."""
        space = f"{PREFIX}-{os.getpid()}-{name}"
        address = f"{NET}.{len(self.hosts) + 1}"
        host = Host(name=name, space=space, address=address, folder=self.folder / name)
        host.folder.mkdir()
        self.hosts[name] = host
        _ip("netns", "add", space)
        _ip("-n", space, "link", "set", "lo", "up")
        cable = ("type", "veth", "peer", "name", name, "netns", self._switch)
        _ip("-n", space, "link", "add", "eth0", *cable)
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
        return host

    def remove(self) -> None:
        """End every program of every host, and remove the hosts and the switch."""
        for space in [*(host.space for host in self.hosts.values()), self._switch]:
            _remove(space)
        for process in (p for host in self.hosts.values() for p in host.started):
            process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Have a network without hosts; raises Refused where this machine makes none."""
    made = Network(Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp")))
    try:
        made.lay()
        yield made
    finally:
        made.remove()


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def _spaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line]


def _sweep() -> None:
    """Remove what processes that have ended left behind."""
    for space in _spaces():
        prefix, _, rest = space.partition("-")
        maker = rest.partition("-")[0]
        if prefix == PREFIX and maker.isdigit() and not alive(int(maker)):
            _remove(space)


def _remove(space: str) -> None:
    """End the programs of a namespace and remove it, if it is there."""
    if space not in _spaces():
        return
    while left := _ip("netns", "pids", space).split():
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
    _ip("netns", "delete", space)
