"""Footprint: the memory of one replica, in bytes, from a sweep file and a model's facts.

A replica holds, at its largest: the weights, a copy of the output projections that are
held together (folding restores from it), the activations of one batch, and the most of

    evaluating   chunks of logits and what the cells of a call share: what is recorded of
                 the pass below their first places, donors' activations, and the bare
                 model's hidden states for KL; or what values are drawn from
    collecting   the histogram of every neuron in every stratum
    learning     what a backward pass keeps

Of packed weights (`workers.packed`) the layers' matrices take fewer bytes, nothing is folded and
no projection is copied. Facts do not say how many parameters those matrices have; it is counted
from the widths, which leaves out what is rarely there, so that too little is never said.

Factors are stated where they are used; they are meant to be somewhat too large.
"""

from dataclasses import dataclass

from orchestrator import batching
from orchestrator.batching import CONSTANTS_PER_CALL, DONATED_PER_CALL
from orchestrator.cells import data_of, scopes
from orchestrator.collection import stratified
from orchestrator.graph import DRAWS
from orchestrator.spec import Spec
from workers import cuts
from workers.learning_cost import memory_bytes
from workers.messages import ModelFacts, ModelRef

SCORING = {False: 4, True: 6}
"""Tensors of `logits_bytes` held at once, without and with KL (`workers.metrics`: 2, and 4¼)."""
PACKED = {"int8": 1.0, "int4": 0.625}
"""Bytes of a packed weight. Of 4 bits, every 32 share a scale and an offset of two bytes each."""
MARGIN = 2**30
"""Bytes of a GPU that are no replica's: the context, libraries' workspaces, holes in its memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What one replica holds, in bytes."""

    weights: int
    projections: int
    """Of output projections that are saved while others are folded, and of clones to write to."""
    activations: int
    """Of one batch in one layer."""
    evaluating: int
    collecting: int
    learning: int

    @property
    def total(self) -> int:
        """The most that is held at once; a process and its libraries are not in it."""
        held = self.weights + self.projections + self.activations
        return held + max(self.evaluating, self.collecting, self.learning)


def footprint(spec: Spec, ref: ModelRef) -> Footprint:
    """Return what a replica of a model holds at its largest in this sweep."""
    facts, width = ref.facts, batching.BYTES[ref.dtype]
    # Sites are counted one after the other, and held together where the sweep says so.
    together = max(sum(facts.neurons_at(s) for s in group) for group in spec.sites)
    positions = batching.tokens(spec, ref)
    rows = facts.layers * max(facts.neurons_at(s) for group in spec.sites for s in group)
    pilot = spec.statistics.pilot_positions * rows * width * 2  # in parts, and joined
    # A count is int32 while counting; then layers are put together as int64, and narrowed for the
    # file (measured: 26 bytes a bin). Beside them lie windows, moments of every shard, extremes.
    histogram = counted_rows(spec, ref) * (spec.statistics.bins * 28 + beside(spec))
    # On a CPU the file stays mapped, so what folding wrote to is a clone for good; and as much
    # again was measured (OPT-1.3B: 3.4 times its projections), of what the heap does not give back.
    every = sum(facts.neurons_at(s) for s in {site for group in spec.sites for site in group})
    copied = 2 * together + every if ref.device == "cpu" else together
    projections = facts.layers * copied * facts.d_model * width
    learns = any(method.method == "optimal" for method in spec.methods)
    return Footprint(
        weights=weight_bytes(ref),
        projections=0 if ref.packed else projections // ref.shards,
        activations=positions * facts.d_model * batching.ACTIVATIONS * width,
        evaluating=_evaluating(spec, ref, positions, facts.layers * together),
        collecting=max(histogram, pilot),
        learning=memory_bytes(facts, positions, ref.dtype) if learns else 0,
    )


def weight_bytes(ref: ModelRef) -> int:
    """Return the bytes of a model's weights as a replica, or one of its processes, holds them."""
    whole = cuts.parameters(ref.facts, ref.shards) * batching.BYTES[ref.dtype]
    if ref.packed is None:
        return whole
    inside = layer_weights(ref.facts)
    return int(whole - inside * (batching.BYTES[ref.dtype] - PACKED[ref.packed]))


def layer_weights(facts: ModelFacts) -> int:
    """Return about how many parameters are in the matrices of all layers, never too many."""
    attention = facts.d_model * facts.d_head * 2 * (facts.heads + facts.kv_heads)
    plain, gated = (n * facts.d_model * facts.d_mlp for n in (2, 3))
    embedded = 0 if facts.image else facts.vocabulary * facts.d_model
    room = facts.parameters - embedded
    fits = [facts.layers * (attention + mlp) for mlp in (plain, gated)]
    return max((n for n in fits if n <= room), default=0)


def counted_rows(spec: Spec, ref: ModelRef) -> int:
    """Return the rows of the largest histogram: neurons of a site, in the most strata."""
    return max(_rows(spec, ref))


def rows_in_all(spec: Spec, ref: ModelRef) -> int:
    """Return the rows of a site's histograms, of the whole and of every kind of strata."""
    return sum(_rows(spec, ref))


def beside(spec: Spec) -> int:
    """Return the bytes of a row of a histogram beside its bins."""
    return 200 + 48 * spec.statistics.shards


def _rows(spec: Spec, ref: ModelRef) -> list[int]:
    facts, source = ref.facts, spec.statistics.data or data_of(spec, ref.name)
    neurons = max(facts.neurons_at(s) for group in spec.sites for s in group)
    rows = facts.layers * neurons
    strata = [stratified(spec, facts, source, by) for by in ("position", "class")]
    return [rows, *(rows * len(s.starts) for s in strata if s is not None)]


def _evaluating(spec: Spec, ref: ModelRef, positions: int, neurons: int) -> int:
    """Return the bytes of what evaluating keeps beside one layer's activations.

    A call has cells that take donors' activations, or others (`orchestrator.calls`), and not both.
    """
    evaluation, each = spec.evaluation, positions * batching.BYTES[ref.dtype]
    kl = "kl" in evaluation.metrics
    drawn = _drawn(spec, positions, neurons, ref.facts.layers)
    shared = [each * _recorded(spec, ref, CONSTANTS_PER_CALL) + drawn]
    if any(method.donated for method in spec.methods):
        shared.append(each * (_recorded(spec, ref, DONATED_PER_CALL) + _donated(spec, ref)))
    # Against the bare model, all cells of a call are scored together.
    cells = max(CONSTANTS_PER_CALL, DONATED_PER_CALL)
    hidden = each * ref.facts.d_model * (1 + cells) if kl else 0
    return max(shared) + hidden + evaluation.logits_bytes * SCORING[kl]


def _recorded(spec: Spec, ref: ModelRef, cells: int) -> int:
    """Return the values recorded of a position, so that a call's cells begin at their first places.

    Of each different place 2 d_model and its neurons, and of all d_model once (`workers.prefix`).
    There are no more of them than cells. A rule that ranks over all layers may begin in any.
    """
    facts = ref.facts
    held = _held(spec, ref)
    anywhere = spec.complement or any(s.over == "all" for s in spec.selections)
    first = {layer for scope in held for layer in (scope if anywhere else scope[:1])}
    places = min(cells, len(first) * len(spec.sites))
    neurons = max(facts.neurons_at(site) for group in spec.sites for site in group)
    return places * (2 * facts.d_model + neurons) + facts.d_model


def _donated(spec: Spec, ref: ModelRef) -> int:
    """Return the donors' activations of a position: of all passes, sites and held layers.

    Draws that are independent lie side by side, and so do sites that are held apart, because
    cells of both may be in a call.
    """
    passes = max(1 if m.word("drawn") == "joint" else DRAWS for m in spec.methods if m.donated)
    sites = {site for group in spec.sites for site in group}
    held = _held(spec, ref)
    layers = sum(sorted(map(len, held))[-DONATED_PER_CALL:])
    return passes * layers * sum(ref.facts.neurons_at(site) for site in sites)


def _held(spec: Spec, ref: ModelRef) -> list[tuple[int, ...]]:
    """Return in which layers units may be held together, scope by scope; none is in two."""
    every = tuple(range(ref.facts.layers))
    return [every] if spec.complement else scopes(spec, ref.facts.layers)


def _drawn(spec: Spec, positions: int, neurons: int, layers: int) -> int:
    """Return the bytes of what values are drawn from, neuron by neuron.

    Beside the tables is a working copy of one layer's activations in double precision.
    """
    tables = 0
    for method in spec.methods:
        if method.method == "marginal":
            tables = max(tables, neurons * spec.statistics.bins * 16)
        elif not method.constant and not method.donated:
            tables = max(tables, neurons * 64)
    return tables + positions * neurons // layers * 8 * 3 if tables else 0
