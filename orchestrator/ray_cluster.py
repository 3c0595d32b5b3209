"""The Ray cluster: being connected to one, and what it has at this moment.

Without an address a cluster is started on this machine, on loopback alone and
without a dashboard; it ends with the process, however that ends. Inside a Ray job,
or with an address, the cluster that is there is used.

Machines come and go while a sweep runs, so what a cluster has is asked again and
again; the question goes to one process of the cluster and takes well under a
millisecond. Ray calls a machine alive until it has been silent for a time that the
cluster was started with, about a minute unless somebody chose otherwise.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from ray._private import ray_constants
from ray._private.state import actors, available_resources_per_node
from ray.exceptions import RayError

from orchestrator.budget import Demand
from orchestrator.devices import Device, device
from orchestrator.pool import SilentError

KINDS = ("CPU", "GPU", "memory")
NODE_LABEL = "ray.io/node-id"
"""Ray's own label of a machine's name."""
NODES_TOLD = 8
"""Machines that are told apart in a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One machine of the cluster that is alive."""

    id: str
    """Ray's name of it."""
    address: str
    total: Mapping[str, float]
    """What it has: CPU, GPU, memory in bytes."""
    device: Device = field(default_factory=Device)
    """What its GPUs are, if it has any."""

    @property
    def cpus(self) -> int:
        """Tasks without a model that it may well have at once, at least 1."""
        return max(1, int(self.total.get("CPU", 0)))

    def holds(self, demand: Demand, memory: int) -> int:
        """Return how many replicas fit on it, each process asking for `demand` and `memory`."""
        if demand.gpus and not self.device.suits(demand.kinds, demand.gpu_memory):
            return 0
        asked = {kind: amount * demand.ranks for kind, amount in _asked(demand, memory).items()}
        # A fifth of a GPU fits five times, whatever floating point makes of it.
        return min(int(self.total.get(k, 0) / amount + 1e-9) for k, amount in asked.items())

    def refuses(self, demand: Demand) -> bool:
        """Whether it has GPUs, and not such as are asked for: Ray is to be told to leave it out."""
        has = demand.gpus > 0 and self.total.get("GPU", 0) > 0
        return has and not self.device.suits(demand.kinds, demand.gpu_memory)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster: the one at `address`, the job's own, or one started here.

    Raises SilentError if there is none at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # Ray puts a handler of its own in place, with another exit code.
        with signals_wait(signal.SIGTERM):
            if address is None:
                listen_on_loopback()
                ray.init(
                    address="local",
                    include_dashboard=False,
                    configure_logging=False,
                    log_to_driver=False,
                )
            else:
                try:
                    ray.init(address=address, configure_logging=False, log_to_driver=False)
                except (ConnectionError, RayError, RuntimeError, ValueError) as error:
                    raise SilentError(f"No Ray cluster answers at {address}: {error}") from error
        yield
    finally:
        ray.shutdown()


@contextmanager
def signals_wait(
    *numbers: signal.Signals,
) -> Iterator[None]:
    """Keep SIGTERM and SIGINT, or these, from what is called inside, and deliver them afterwards.

    While Ray waits it lets signals be handled, and makes of whatever a handler raises
    an exit with code 1. Only the main thread has handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    waiting = numbers or (signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.getsignal(number) for number in waiting}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for arrived in came:
        signal.raise_signal(arrived)


def listen_on_loopback() -> None:
    """Have the cluster that is started next listen on 127.0.0.1 and nowhere else.

    Ray listens on every interface, whatever address it is given; the switch that
    keeps laptops from forming clusters is the only thing that changes that. It is
    read when Ray is imported, so the constant is set too. One process, one choice.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def nodes() -> list[Node]:
    """Return the machines that are alive, in an order that does not change while they are."""
    found = [
        Node(
            id=n["NodeID"],
            address=n["NodeManagerAddress"],
            total=n["Resources"],
            device=device(n["Labels"], n["Resources"]),
        )
        for n in ray.nodes()  # type: ignore[no-untyped-call]
        if n["Alive"]
    ]
    return sorted(found, key=lambda node: node.id)


def cluster(demand: Demand | None = None) -> dict[str, float]:
    """Return what the connected cluster has in all: CPU, GPU, memory in bytes.

    `node_CPU` and so on are the most that any node has. With a demand, machines whose GPUs are
    not such as it asks for are left out.
    """
    total = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    there = [node for node in nodes() if demand is None or not node.refuses(demand)]
    total["GPU"] = sum(node.total.get("GPU", 0.0) for node in there)
    most = {kind: max((n.total.get(kind, 0.0) for n in there), default=0.0) for kind in KINDS}
    return {**total, **{f"node_{kind}": amount for kind, amount in most.items()}}


def asks_and_has(demand: Demand, memory: int) -> str:
    """Return two sentences: what one worker asks for, and what each machine has and has free."""
    asked, has = _asked(demand, memory), nodes()
    kinds = [k for k in KINDS if k in asked or any(k in n.total for n in has)]
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    each = [_has(node, free.get(node.id, {}), kinds) for node in has[:NODES_TOLD]]
    rest = f" … and {len(has) - NODES_TOLD} more" if len(has) > NODES_TOLD else ""
    one = " and ".join(_amount(kind, amount) for kind, amount in asked.items())
    if demand.ranks > 1:
        one = f"{demand.ranks} times {one} on one node"
    return (
        f"One worker asks for {one}. Of the {len(has)} nodes that are alive,"
        f" {'; '.join(each) or 'none has anything'}{rest}."
    )


def killed_for_memory(actor_id: str) -> bool:
    """Whether Ray's memory monitor ended the process of an actor, as the cluster remembers."""
    cause = actors(actor_id).get("DeathCause")
    return cause is not None and cause.HasField("oom_context")


def _asked(demand: Demand, memory: int) -> dict[str, float]:
    """Return what one replica asks for, without what it asks nothing of."""
    asked = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": float(memory)}
    return {kind: amount for kind, amount in asked.items() if amount} or {"CPU": 1.0}


def leaving_out(unfit: Sequence[Node]) -> dict[str, str]:
    """Return Ray's selector of all machines but these; an empty one where there are none."""
    return {NODE_LABEL: f"!in({','.join(node.id for node in unfit)})"} if unfit else {}


def _has(node: Node, free: Mapping[str, float], kinds: Sequence[str]) -> str:
    each = [
        f"{_amount(kind, node.total.get(kind, 0.0))} ({_free(kind, free.get(kind, 0.0))} free)"
        for kind in kinds
    ]
    gpus = f" of kind {node.device.said}" if node.device != Device() else ""
    return f"{node.address} has {', '.join(each)}{gpus}"


def _amount(kind: str, amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB of memory" if kind == "memory" else f"{amount:g} {kind}"


def _free(kind: str, amount: float) -> str:
    return f"{amount / 2**30:.1f}" if kind == "memory" else f"{amount:g}"
