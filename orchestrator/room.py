"""Room: which GPUs a replica of a plan is put on, and how many replicas share one.

A replica is put on a GPU of the kinds that `cluster.gpu` names, if it names any, that has memory
for the largest replica of the plan and the margin of `orchestrator.footprint`. All workers of a
sweep are alike, because any of them may be told to hold any model; so machines with smaller GPUs
are left out, also for the plan's smaller models. A GPU whose memory nobody knows is believed to
do, unless `cluster.device_memory` says what a GPU has.

With `cluster.per_gpu: auto` so many replicas share a GPU as the smallest of those that one fits
on has memory for, each with a margin, and `MOST` at most: they take turns at computing, so beyond
a few nothing is gained. Each is kept to its share of the memory by torch (`ray_actor`). Weak
where it was not measured: how much sharing gains has not been seen on a GPU, so it is asked for.
Models in shards share no GPU: NCCL refuses two processes of a group on one.
"""

from collections.abc import Iterable
from dataclasses import replace

from orchestrator import budget
from orchestrator.budget import Demand
from orchestrator.devices import Device, known
from orchestrator.footprint import MARGIN
from orchestrator.plan import Plan
from orchestrator.pool import PoolError

MOST = 4
"""Replicas that share a GPU with `auto`."""


def demand(plan: Plan, there: Iterable[Device]) -> Demand:
    """Return what a replica asks for, of machines with these GPUs now; one entry a machine.

    Raises PoolError where there are GPUs and none of them will do.
    """
    asked, cluster = budget.demand(plan), plan.spec.cluster
    if not asked.gpus:
        return asked
    need, found = replica_bytes(plan), set(there)
    known_of = {d: d.memory or cluster.device_memory for d in found}
    fitting = [d for d in found if Device(kind=d.kind, memory=known_of[d]).suits(cluster.gpu, need)]
    if found and not fitting and not cluster.autoscale:
        raise PoolError(
            f"one replica of {budget.budget(plan).largest.model} needs {need / 1e9:.1f} GB of a"
            f" GPU{_of(cluster.gpu)}, and the cluster has {_told(found)}; add machines with such"
            " GPUs, name other kinds in `cluster.gpu`, put the model on several (`shards: auto`),"
            " or lower `evaluation.batch_bytes`"
        )
    memories = [known_of[d] for d in fitting] or [m for m, _ in expected(plan)]
    sharing = share(plan, memories)
    gpus = int(10**4 / sharing) / 10**4  # Ray counts in such parts, and rounds
    return replace(asked, gpus=gpus, kinds=cluster.gpu, gpu_memory=need * sharing)


def share(plan: Plan, memories: Iterable[int | None]) -> int:
    """Return how many replicas share each of some GPUs, given their bytes, None where unknown.

    Raises PoolError where more are asked for than there is memory for.
    """
    asked, need = plan.spec.cluster.per_gpu, replica_bytes(plan)
    sharded, sizes = budget.demand(plan).ranks > 1, [*memories]
    least = min((m for m in sizes if m is not None), default=None)
    if asked == "auto":
        if sharded or least is None or None in sizes:
            return 1
        return max(1, min(MOST, least // need))
    if asked > 1 and sharded:
        raise PoolError(
            f"`cluster.per_gpu: {asked}` asks for several replicas on a GPU, and a model in shards"
            " has each of its GPUs alone; leave `per_gpu` out, or sweep that model in another file"
        )
    if asked > 1 and least is not None and asked * need > least:
        raise PoolError(
            f"`cluster.per_gpu: {asked}` asks for {asked} replicas of {need / 1e9:.1f} GB each,"
            f" margin included, on a GPU of {least / 1e9:.0f} GB; {least // need} fit"
        )
    return asked


def sharing(demand: Demand) -> int:
    """Return how many replicas with a demand share a GPU; 1 where they use none."""
    return int(1 / demand.gpus) if 0 < demand.gpus < 1 else 1


def grown(plan: Plan, most: int | None, useful: int) -> int:
    """Return how many replicas the autoscaler is asked to have room for; 0 to ask it nothing.

    `most` are asked for by whoever runs the sweep, and `useful` have something to do.
    Raises PoolError where nobody says how many, or where a replica fits no GPU spoken of.
    """
    if not plan.spec.cluster.autoscale:
        return 0
    if most is None:
        raise PoolError(
            "`cluster.autoscale` asks for machines, and nothing says how many; give `--workers N`"
            " or `cluster: {workers: N}`, the replicas to have room for"
        )
    need, sizes = replica_bytes(plan), expected(plan)
    if budget.demand(plan).gpus and sizes and max(sizes)[0] < need:
        raise PoolError(
            f"one replica of {budget.budget(plan).largest.model} needs {need / 1e9:.1f} GB of a"
            f" GPU, and those that `cluster` speaks of have {max(sizes)[0] / 1e9:.0f} GB; name"
            " larger ones in `cluster.gpu`, or put the model on several (`shards: auto`)"
        )
    return min(most, useful)


def expected(plan: Plan) -> list[tuple[int, str]]:
    """Return the GPUs that a sweep file speaks of: their bytes, and what they are called."""
    cluster = plan.spec.cluster
    kinds = [(size, kind) for kind in cluster.gpu if (size := known(kind)) is not None]
    if cluster.device_memory is not None and not kinds:
        return [(cluster.device_memory, "a GPU")]
    return kinds


def replica_bytes(plan: Plan) -> int:
    """Return the bytes of a GPU that the largest replica takes, its margin included."""
    return budget.budget(plan).largest.replica_bytes + MARGIN


def remark(plan: Plan) -> str | None:
    """Return a sentence on how many replicas share a GPU, by what the sweep file says of GPUs.

    What the cluster has is not looked at; None where the sweep says nothing, or uses no GPU.
    """
    told = expected(plan)
    if not budget.demand(plan).gpus or not told:
        return None
    need, per_gpu = replica_bytes(plan), plan.spec.cluster.per_gpu
    each = "; ".join(f"{name} of {size / 1e9:.0f} GB holds {size // need}" for size, name in told)
    return (
        f"a replica takes {need / 1e9:.1f} GB of a GPU, margin included: {each}; `cluster.per_gpu`"
        f" is {per_gpu}, so {_shared(plan, [size for size, _ in told])}"
    )


def _shared(plan: Plan, sizes: list[int]) -> str:
    if min(sizes) < replica_bytes(plan):
        return "this is refused before anything runs, unless the cluster has larger ones"
    number = share(plan, sizes)
    return "each has a GPU alone" if number == 1 else f"{number} share a GPU"


def _of(kinds: tuple[str, ...]) -> str:
    return f" of kind {' or '.join(kinds)}" if kinds else ""


def _told(found: Iterable[Device]) -> str:
    return ", ".join(sorted(device.said for device in found)) or "none"
