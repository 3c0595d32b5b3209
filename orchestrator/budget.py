"""The budget: what a plan needs, in bytes and hours, against what there is.

All of it is arithmetic over facts and shapes, so it is known before anything
runs, and a plan that cannot be held is refused instead of failing hours later.

What a replica holds is `orchestrator.footprint`'s; here a process is added to it where the
model shares the processor's memory, and replicas are compared with what a cluster has.

Time is rough: floating-point operations over a rate that is typical of the
device, to tell minutes from days.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.cells import data_of
from orchestrator.footprint import MARGIN, beside, counted_rows, footprint, rows_in_all
from orchestrator.plan import Plan
from orchestrator.pool import PoolError
from orchestrator.tasks import rough_seconds
from workers.messages import ModelRef

PROCESS_BYTES = 1250 * 2**20
"""A process with torch, transformers, Arrow and Ray imported, in bytes, rounded up. Measured:
0.84e9 on one machine, 1.07e9 on another and about 1.2e9 on a third: the more of the libraries'
files the system maps at once, the more is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What one replica asks of Ray: of one machine, for each of its processes."""

    cpus: float
    gpus: float
    ranks: int = 1
    """Processes: the shards of the model that has most."""
    kinds: tuple[str, ...] = ()
    """Kinds of GPU that will do; any when empty."""
    gpu_memory: int = 0
    """Bytes that a GPU must have, for all that share it (`orchestrator.room`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one model of the plan needs."""

    model: str
    replica_bytes: int
    """Largest memory of one replica."""
    partial_bytes: int
    """The largest merged histogram, in bytes."""
    disk_bytes: int
    """The run folder's share, before compression: partials of every shard, results, data."""
    cells: int
    seconds: float
    """Rough time of one replica for all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What the plan needs in all."""

    needs: tuple[Need, ...]

    @property
    def seconds(self) -> float:
        """Rough time of one replica for the whole plan."""
        return sum(n.seconds for n in self.needs)

    @property
    def largest(self) -> Need:
        """The model whose replica needs the most memory."""
        return max(self.needs, key=lambda n: n.replica_bytes)


def budget(plan: Plan) -> Budget:
    """Return what a plan needs."""
    counts = plan.cells.counts
    every = plan.models.values()
    return Budget(needs=tuple(_need(plan, ref, counts.get(ref.name, 0)) for ref in every))


def _need(plan: Plan, ref: ModelRef, cells: int) -> Need:
    spec, facts = plan.spec, ref.facts
    statistics, data = spec.statistics, data_of(spec, ref.name)
    collected = spec.data[statistics.data or data].positions("collect", facts.window)
    evaluated = spec.data[data].positions("evaluate", facts.window)
    sequences = evaluated // spec.data[data].window(facts.window)
    mine = [t for t in plan.tasks if t.model is not None and t.model.name == ref.name]
    under = sum(t.kind == "under" for t in mine)
    sites = {site for group in spec.sites for site in group}
    rows = facts.layers * max(facts.neurons_at(site) for site in sites)
    counts = rows_in_all(spec, ref) * len(sites) * len(spec.basis)
    # Shards, and an eighth as many merges again; a row of results has about 110 bytes.
    disk = (
        int(counts * (statistics.bins * 4 + 200) * statistics.shards * 1.15)
        + under * rows * (statistics.bins * 8 + 200)
        + sequences * cells * 110
        + 9 * (collected + evaluated)
    )
    passes = sum(t.cost for t in mine)
    process = PROCESS_BYTES if ref.device == "cpu" else 0
    return Need(
        model=ref.name,
        replica_bytes=process + footprint(spec, ref).total,
        partial_bytes=counted_rows(spec, ref) * (statistics.bins * 8 + beside(spec)),
        disk_bytes=disk,
        cells=cells,
        seconds=rough_seconds(passes + facts.parameters * evaluated * cells, ref.device)
        / ref.shards,
    )


def demand(plan: Plan) -> Demand:
    """Return what one replica of a plan asks of Ray."""
    cuda = next(iter(plan.models.values())).device == "cuda"
    return Demand(cpus=1, gpus=1 if cuda else 0, ranks=_ranks(plan))


def _ranks(plan: Plan) -> int:
    """Return the processes of one replica: as many as the model in most shards has."""
    return max(ref.shards for ref in plan.models.values())


def workers(
    plan: Plan, cluster: Mapping[str, float], *, asked: int | None = None, per_gpu: int = 1
) -> int:
    """Return how many replicas to have at once on a cluster with these resources in all.

    Raises PoolError saying what was asked and what the cluster has.
    """
    needs, asked = budget(plan), asked or plan.spec.cluster.workers
    cuda = next(iter(plan.models.values())).device == "cuda"
    kind = "GPU" if cuda else "CPU"
    units = int(cluster.get(kind, 0))
    if units < 1:
        raise PoolError(
            f"the plan asks for `cluster.device: {plan.spec.cluster.device}`, and the cluster has"
            f" no {kind}; it has {_spelled(cluster)}; where an autoscaler is to bring machines,"
            " write `cluster: {device: cuda, autoscale: true, workers: N}`"
        )
    ranks, most = _ranks(plan), int(cluster.get(f"node_{kind}", units))
    if most < ranks:
        raise PoolError(
            f"a model is held in {ranks} shards, on one machine and one {kind} each, and the"
            f" largest machine has {most}; ask for fewer `shards`, or add a larger machine"
            " (`--local` is one process and holds no shards)"
        )
    fitting = units = units * per_gpu // ranks
    if cuda:
        _fits_device(plan, needs.largest)
    else:
        asks = needs.largest.replica_bytes * ranks
        fitting = int(cluster.get("memory", 0) // asks)
        roomiest = cluster.get("node_memory", cluster.get("memory", 0))
        if fitting < 1 or roomiest < asks:
            largest = needs.largest
            raise PoolError(
                f"one replica of {largest.model} needs {asks / 2**30:.1f} GiB, and"
                f" the cluster has {_spelled(cluster)}; lower `evaluation.batch_tokens` or"
                " `statistics.bins`, ask for fewer `statistics.strata`, or use a larger machine"
            )
    count = min(units, fitting)
    if asked is not None and asked > units:
        raise PoolError(
            f"the plan asks for {asked} workers, {'one' if ranks == 1 else ranks} {kind} each, and"
            " the cluster has"
            f" {_spelled(cluster)}"
        )
    if asked is not None and asked > count:
        largest = needs.largest
        raise PoolError(
            f"the plan asks for {asked} workers, {largest.replica_bytes / 2**30:.1f} GiB each for"
            f" {largest.model}, and the cluster has {_spelled(cluster)}"
        )
    return asked or count


def _fits_device(plan: Plan, largest: Need) -> None:
    """Refuse a replica that one GPU cannot hold, where the sweep says what a GPU has."""
    device = plan.spec.cluster.device_memory
    if device is None or largest.replica_bytes + MARGIN <= device:
        return
    raise PoolError(
        f"one replica of {largest.model} needs {largest.replica_bytes / 2**30:.1f} GiB of a GPU and"
        f" {MARGIN / 2**30:.0f} GiB are left free, and `cluster.device_memory` is"
        f" {device / 2**30:.1f} GiB; put the model on several (`shards: auto`), use `dtype:"
        " bfloat16` or `packed: int8`, or lower `evaluation.batch_bytes`"
    )


def _spelled(cluster: Mapping[str, float]) -> str:
    memory = cluster.get("memory", 0) / 2**30
    cpus, gpus = int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    return f"{cpus} CPUs, {gpus} GPUs and {memory:.1f} GiB of memory"
