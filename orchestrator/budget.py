"""The budget: what a plan needs, in bytes and hours, against what there is.

All of it is arithmetic over facts and shapes, so it is known before anything
runs, and a plan that cannot be held is refused instead of failing hours later.

A replica holds, at its largest: the weights, a copy of the output projections that are
held together (folding restores from it), the activations of one batch, and the most of

    evaluating   chunks of logits and what the cells of a call share: what is recorded of
                 the pass below their first places, donors' activations, and the bare
                 model's hidden states for KL; or what values are drawn from
    collecting   the histogram of every neuron in every stratum
    learning     what a backward pass keeps

Factors are stated where they are used; they are meant to be somewhat too large.

Time is rough: floating-point operations over a rate that is typical of the
device, to tell minutes from days.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator import batching
from orchestrator.calls import CONSTANTS_PER_CALL, DONATED_PER_CALL
from orchestrator.cells import data_of, scopes
from orchestrator.collection import stratified
from orchestrator.graph import DRAWS
from orchestrator.plan import Plan
from orchestrator.pool import PoolError
from orchestrator.tasks import rough_seconds
from workers.learning_cost import memory_bytes
from workers.messages import ModelRef

PROCESS_BYTES = 1200 * 2**20
"""A process with torch, transformers, Arrow and Ray imported, in bytes, rounded up. Measured:
0.84e9 on one machine and 1.07e9 on another, where more of the libraries' files was mapped."""
SCORING = {False: 4, True: 6}
"""Tensors of `logits_bytes` held at once, without and with KL (`workers.metrics`: 2, and 4¼)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What one replica asks of Ray."""

    cpus: float
    gpus: float


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
    facts, statistics = ref.facts, plan.spec.statistics
    width = batching.BYTES[ref.dtype]
    weights = facts.parameters * width
    # Sites are counted one after the other, and held together where the sweep says so.
    together = max(sum(facts.neurons_at(s) for s in group) for group in plan.spec.sites)
    neurons = max(facts.neurons_at(s) for group in plan.spec.sites for s in group)
    sites = {site for group in plan.spec.sites for site in group}
    projections = facts.layers * together * facts.d_model * width
    positions = batching.tokens(plan.spec, ref)
    activations = positions * facts.d_model * batching.ACTIVATIONS * width
    rows = facts.layers * neurons
    data = data_of(plan.spec, ref.name)
    source = statistics.data or data
    strata = [stratified(plan.spec, facts, source, by) for by in ("position", "class")]
    counted = [rows, *(rows * len(s.starts) for s in strata if s is not None)]
    # A count is int32 while counting; then layers are put together as int64, and narrowed for the
    # file (measured: 26 bytes a bin). Beside them lie windows, moments of every shard, extremes.
    beside = 200 + 48 * statistics.shards
    histogram = max(counted) * (statistics.bins * 28 + beside)
    pilot = statistics.pilot_positions * rows * width * 2  # in parts, and joined
    evaluating = _evaluating(plan, ref, positions, facts.layers * together)
    learned = 0
    if any(t.kind == "learn" for t in plan.tasks):
        learned = memory_bytes(facts, positions, ref.dtype)
    work = max(evaluating, histogram, pilot, learned)
    collected = plan.spec.data[source].positions("collect", facts.window)
    evaluated = plan.spec.data[data].positions("evaluate", facts.window)
    partial = max(counted) * (statistics.bins * 8 + beside)
    sequences = evaluated // plan.spec.data[data].window(facts.window)
    mine = [t for t in plan.tasks if t.model is not None and t.model.name == ref.name]
    under = sum(t.kind == "under" for t in mine)
    counts = sum(counted) * len(sites) * len(plan.spec.basis)
    # Shards, and an eighth as many merges again; a row of results has about 110 bytes.
    disk = (
        int(counts * (statistics.bins * 4 + 200) * statistics.shards * 1.15)
        + under * rows * (statistics.bins * 8 + 200)
        + sequences * cells * 110
        + 9 * (collected + evaluated)
    )
    passes = sum(t.cost for t in mine)
    return Need(
        model=ref.name,
        replica_bytes=PROCESS_BYTES * (ref.device == "cpu")
        + weights
        + projections
        + activations
        + work,
        partial_bytes=partial,
        disk_bytes=disk,
        cells=cells,
        seconds=rough_seconds(passes + facts.parameters * evaluated * cells, ref.device),
    )


def _evaluating(plan: Plan, ref: ModelRef, positions: int, neurons: int) -> int:
    """Return the bytes of what evaluating keeps beside one layer's activations.

    A call has cells that take donors' activations, or others (`orchestrator.calls`), and not both.
    """
    evaluation, each = plan.spec.evaluation, positions * batching.BYTES[ref.dtype]
    kl = "kl" in evaluation.metrics
    drawn = _drawn(plan, positions, neurons, ref.facts.layers)
    shared = [each * _recorded(plan, ref, CONSTANTS_PER_CALL) + drawn]
    if any(method.donated for method in plan.spec.methods):
        shared.append(each * (_recorded(plan, ref, DONATED_PER_CALL) + _donated(plan, ref)))
    # Against the bare model, all cells of a call are scored together.
    cells = max(CONSTANTS_PER_CALL, DONATED_PER_CALL)
    hidden = each * ref.facts.d_model * (1 + cells) if kl else 0
    return max(shared) + hidden + evaluation.logits_bytes * SCORING[kl]


def _recorded(plan: Plan, ref: ModelRef, cells: int) -> int:
    """Return the values recorded of a position, so that a call's cells begin at their first places.

    Of each different place 2 d_model and its neurons, and of all d_model once (`workers.prefix`).
    There are no more of them than cells. A rule that ranks over all layers may begin in any.
    """
    facts, spec = ref.facts, plan.spec
    held = _held(plan, ref)
    anywhere = spec.complement or any(s.over == "all" for s in spec.selections)
    first = {layer for scope in held for layer in (scope if anywhere else scope[:1])}
    places = min(cells, len(first) * len(spec.sites))
    neurons = max(facts.neurons_at(site) for group in spec.sites for site in group)
    return places * (2 * facts.d_model + neurons) + facts.d_model


def _donated(plan: Plan, ref: ModelRef) -> int:
    """Return the donors' activations of a position: of all passes, sites and held layers.

    Draws that are independent lie side by side, and so do sites that are held apart, because
    cells of both may be in a call.
    """
    passes = max(1 if m.word("drawn") == "joint" else DRAWS for m in plan.spec.methods if m.donated)
    sites = {site for group in plan.spec.sites for site in group}
    held = _held(plan, ref)
    layers = sum(sorted(map(len, held))[-DONATED_PER_CALL:])
    return passes * layers * sum(ref.facts.neurons_at(site) for site in sites)


def _held(plan: Plan, ref: ModelRef) -> list[tuple[int, ...]]:
    """Return in which layers units may be held together, scope by scope; none is in two."""
    every = tuple(range(ref.facts.layers))
    return [every] if plan.spec.complement else scopes(plan.spec, ref.facts.layers)


def _drawn(plan: Plan, positions: int, neurons: int, layers: int) -> int:
    """Return the bytes of what values are drawn from, neuron by neuron.

    Beside the tables is a working copy of one layer's activations in double precision.
    """
    tables = 0
    for method in plan.spec.methods:
        if method.method == "marginal":
            tables = max(tables, neurons * plan.spec.statistics.bins * 16)
        elif not method.constant and not method.donated:
            tables = max(tables, neurons * 64)
    return tables + positions * neurons // layers * 8 * 3 if tables else 0


def demand(plan: Plan) -> Demand:
    """Return what one replica of a plan asks of Ray."""
    cuda = next(iter(plan.models.values())).device == "cuda"
    return Demand(cpus=1, gpus=1 if cuda else 0)


def workers(plan: Plan, cluster: Mapping[str, float], *, asked: int | None = None) -> int:
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
            f" no {kind}; it has {_spelled(cluster)}"
        )
    fitting = units
    if not cuda:
        fitting = int(cluster.get("memory", 0) // needs.largest.replica_bytes)
        roomiest = cluster.get("node_memory", cluster.get("memory", 0))
        if fitting < 1 or roomiest < needs.largest.replica_bytes:
            largest = needs.largest
            raise PoolError(
                f"one replica of {largest.model} needs {largest.replica_bytes / 2**30:.1f} GiB, and"
                f" the cluster has {_spelled(cluster)}; lower `evaluation.batch_tokens` or"
                " `statistics.bins`, ask for fewer `statistics.strata`, or use a larger machine"
            )
    count = min(units, fitting)
    if asked is not None and asked > units:
        raise PoolError(
            f"the plan asks for {asked} workers, one {kind} each, and the cluster has"
            f" {_spelled(cluster)}"
        )
    if asked is not None and asked > count:
        largest = needs.largest
        raise PoolError(
            f"the plan asks for {asked} workers, {largest.replica_bytes / 2**30:.1f} GiB each for"
            f" {largest.model}, and the cluster has {_spelled(cluster)}"
        )
    return asked or count


def _spelled(cluster: Mapping[str, float]) -> str:
    memory = cluster.get("memory", 0) / 2**30
    cpus, gpus = int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    return f"{cpus} CPUs, {gpus} GPUs and {memory:.1f} GiB of memory"
