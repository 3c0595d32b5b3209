"""Arithmetic with prime numbers, so that a term that is lost cannot hide."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import budget as budgeting
from orchestrator import footprint
from orchestrator.budget import PROCESS_BYTES, Demand
from orchestrator.graph import DRAWS
from orchestrator.plan import Plan
from orchestrator.pool import PoolError
from orchestrator.tasks import FLOPS
from tests.orchestrator import planned
from workers.learning_cost import memory_bytes
from workers.loading import facts

ROOT = Path(__file__).parents[2]
LAYERS, HEADS, D_HEAD, D_MODEL, WINDOW, PARAMETERS = 3, 5, 7, 37, 41, 100_003
NEURONS, D_MLP = HEADS * D_HEAD, 47
BATCH, LOGITS, BINS = 1009, 65_537, 64
GIB = 2**30


@pytest.fixture
def prime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Plan a sweep over a model all of whose sizes are different primes."""
    planned.documents(tmp_path)

    def build(*, device: str = "cpu", dtype: str = "float32", **changes: Any) -> Plan:
        facts = planned.facts(
            layers=LAYERS,
            heads=HEADS,
            d_head=D_HEAD,
            d_model=D_MODEL,
            d_mlp=D_MLP,
            window=WINDOW,
            parameters=PARAMETERS,
        )
        planned.know(monkeypatch, {"a": facts, "fixed": facts})
        given: dict[str, Any] = {
            "models": [{"id": "a", "dtype": dtype}],
            "evaluation": {"batch_tokens": BATCH, "logits_bytes": LOGITS},
            "statistics": {"bins": BINS, "shards": 2, "pilot_positions": 64},
            "data": {
                "texts": {
                    "source": "documents.jsonl",
                    "collect": {"sequences": 53},
                    "evaluate": {"sequences": 59},
                }
            },
        }
        return planned.make(tmp_path, device=device, **{**given, **changes})

    return build


def recorded(places: int, width: int = 4, neurons: int = NEURONS) -> int:
    """Return the bytes of what is recorded of a batch, so that passes begin at some places."""
    return BATCH * (places * (2 * D_MODEL + neurons) + D_MODEL) * width


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_a_replica_holds_weights_projections_activations_and_donors(
    prime, dtype: str, width: int
) -> None:  # type: ignore[no-untyped-def]
    (need,) = budgeting.budget(prime(dtype=dtype)).needs
    weights = PARAMETERS * width
    projections = 3 * LAYERS * NEURONS * D_MODEL * width
    activations = BATCH * D_MODEL * 24 * width
    donors = BATCH * LAYERS * NEURONS * width
    held = donors + recorded(1, width) + 4 * LOGITS
    assert need.replica_bytes == PROCESS_BYTES + weights + projections + activations + held


def test_counting_may_need_more_than_evaluating(prime) -> None:  # type: ignore[no-untyped-def]
    evaluation = {"batch_tokens": WINDOW, "logits_bytes": LOGITS}
    statistics = {"bins": 1024, "shards": 2, "pilot_positions": 64}
    (need,) = budgeting.budget(prime(evaluation=evaluation, statistics=statistics)).needs
    fixed = PARAMETERS * 4 + 3 * LAYERS * NEURONS * D_MODEL * 4 + WINDOW * D_MODEL * 24 * 4
    histogram = LAYERS * NEURONS * (1024 * 28 + 200 + 48 * 2)
    assert need.replica_bytes == PROCESS_BYTES + fixed + histogram
    assert need.partial_bytes == LAYERS * NEURONS * (1024 * 8 + 200 + 48 * 2)


def test_the_pilot_may_need_more_than_either(prime) -> None:  # type: ignore[no-untyped-def]
    statistics = {"bins": BINS, "shards": 2, "pilot_positions": 99_991}
    (need,) = budgeting.budget(prime(statistics=statistics)).needs
    fixed = PARAMETERS * 4 + 3 * LAYERS * NEURONS * D_MODEL * 4 + BATCH * D_MODEL * 24 * 4
    assert need.replica_bytes == PROCESS_BYTES + fixed + 2 * 99_991 * LAYERS * NEURONS * 4


def at_once(prime, **changes: Any) -> int:  # type: ignore[no-untyped-def]
    """Return the bytes of a replica beside what every sweep with these batches holds."""
    (need,) = budgeting.budget(prime(**changes)).needs
    fixed = PARAMETERS * 4 + BATCH * D_MODEL * 24 * 4 + 4 * LOGITS
    return int(need.replica_bytes) - PROCESS_BYTES - fixed


def test_donors_drawn_apart_lie_side_by_side(prime) -> None:  # type: ignore[no-untyped-def]
    joint, apart = (at_once(prime, methods=[m]) for m in ("resample", "resample(per_neuron)"))
    assert apart - joint == (DRAWS - 1) * BATCH * LAYERS * NEURONS * 4


def test_what_is_drawn_from_histograms_needs_them(prime) -> None:  # type: ignore[no-untyped-def]
    projections = 3 * LAYERS * NEURONS * D_MODEL * 4
    layer = BATCH * NEURONS * 8 * 3
    marginal, noise = (at_once(prime, methods=["zero", m]) for m in ("marginal", "noise"))
    assert marginal == projections + LAYERS * NEURONS * BINS * 16 + layer + recorded(1)
    assert noise == projections + LAYERS * NEURONS * 64 + layer + recorded(1)


def test_projections_of_sites_apart_are_not_held_at_once_and_donors_of_both_are(prime) -> None:  # type: ignore[no-untyped-def]
    attention, mlp = ["attn_pre_out"], ["mlp_mid"]

    def held(sites: list[Any]) -> int:
        return at_once(prime, sites=sites, methods=["resample"])

    projection, donors = LAYERS * D_MODEL * 4, LAYERS * BATCH * 4  # of one neuron
    both = NEURONS + D_MLP
    # Of every projection that was written to there is a clone for good, and two copies while held.
    assert held(attention) == (3 * projection + donors) * NEURONS + recorded(1)
    assert held(mlp) == (3 * projection + donors) * D_MLP + recorded(1, neurons=D_MLP)
    assert held([*attention, *mlp]) == projection * (both + 2 * D_MLP) + donors * both + recorded(
        2, neurons=D_MLP
    )
    together = (3 * projection + donors) * both
    assert held([[*attention, *mlp]]) == together + recorded(1, neurons=D_MLP)


def test_every_layer_held_by_itself_is_a_place_to_begin_at(prime) -> None:  # type: ignore[no-untyped-def]
    def held(**changes: Any) -> int:
        return at_once(prime, **{"methods": ["mean"], **changes})

    projections = 3 * LAYERS * NEURONS * D_MODEL * 4
    assert held() == projections + recorded(1)
    assert held(layers=[1, 2]) == projections + recorded(1)
    assert held(layers="each") == projections + recorded(LAYERS)
    assert held(layers=[0, 1], selections=["score(rms, low, over=global)"]) == (
        projections + recorded(2)
    )
    assert held(layers=[1], complement=True) == projections + recorded(LAYERS)


def test_there_are_no_more_places_than_cells_in_a_call(prime, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(footprint, "CONSTANTS_PER_CALL", 2)
    monkeypatch.setattr(footprint, "DONATED_PER_CALL", 2)
    projections = 3 * LAYERS * NEURONS * D_MODEL * 4
    assert at_once(prime, methods=["mean"], layers="each") == projections + recorded(2)
    donors = 2 * BATCH * NEURONS * 4  # of the layers of two cells
    found = at_once(prime, methods=["resample"], layers="each")
    assert found == projections + recorded(2) + donors


def test_donors_are_kept_of_the_layers_that_are_held(prime) -> None:  # type: ignore[no-untyped-def]
    some, every = (at_once(prime, methods=["resample"], layers=n) for n in ([0, 2], "all"))
    assert every - some == (LAYERS - 2) * BATCH * NEURONS * 4


def test_divergence_keeps_the_bare_models_answer_and_holds_more_logits(prime) -> None:  # type: ignore[no-untyped-def]
    evaluation = {"batch_tokens": BATCH, "logits_bytes": LOGITS, "metrics": ["ce", "kl"]}
    more = at_once(prime, evaluation=evaluation) - at_once(prime)
    hidden = 1 + 16  # of the bare model, and of the cells of the largest call
    assert more == hidden * BATCH * D_MODEL * 4 + 2 * LOGITS


def test_learning_needs_what_a_backward_pass_keeps(prime) -> None:  # type: ignore[no-untyped-def]
    plan = prime(methods=["optimal(steps=1000)"])
    backward = memory_bytes(plan.models["a"].facts, BATCH, "float32")
    fixed = PARAMETERS * 4 + 3 * LAYERS * NEURONS * D_MODEL * 4 + BATCH * D_MODEL * 24 * 4
    (need,) = budgeting.budget(plan).needs
    assert need.replica_bytes == PROCESS_BYTES + fixed + backward
    fewer = prime(methods=["optimal(steps=10)"])
    assert need.seconds > 20 * budgeting.budget(fewer).seconds


def test_every_basis_is_collected_and_evaluated_again(prime) -> None:  # type: ignore[no-untyped-def]
    own, two = (
        budgeting.budget(prime(methods=["mean"], basis=basis)).needs[0]
        for basis in ("own", {"rotate": 0})
    )
    assert two.cells == 2 * own.cells
    assert two.seconds == pytest.approx(2 * own.seconds)
    assert two.replica_bytes == own.replica_bytes


def test_random_masks_of_a_regression_cost_a_pass_each(prime) -> None:  # type: ignore[no-untyped-def]
    few, many = (
        prime(methods=["mean"], selections=[f"regression(masks={n}, block=5)"]) for n in (75, 100)
    )
    more = budgeting.budget(many).seconds - budgeting.budget(few).seconds
    assert more == pytest.approx(2 * PARAMETERS * WINDOW * 53 * 25 / FLOPS["cpu"])


def test_a_gpu_holds_neither_the_process_nor_a_file_beside_what_was_cloned(prime) -> None:  # type: ignore[no-untyped-def]
    cpu, cuda = (budgeting.budget(prime(device=d)).needs[0] for d in ("cpu", "cuda"))
    clones = 2 * LAYERS * NEURONS * D_MODEL * 4
    assert cpu.replica_bytes - cuda.replica_bytes == PROCESS_BYTES + clones


@pytest.mark.parametrize(("methods", "passes"), [(["mean"], 2.01), (["mean", "peak(paper)"], 3.01)])
def test_time_counts_every_pass_and_every_cell(prime, methods: list[str], passes: float) -> None:  # type: ignore[no-untyped-def]
    plan = prime(methods=methods)
    (need,) = budgeting.budget(plan).needs
    positions = WINDOW * (53 * passes + 59 * len(plan.cells))
    assert need.cells == len(plan.cells)
    assert need.seconds == pytest.approx(2 * PARAMETERS * positions / FLOPS["cpu"], rel=1e-12)


def test_a_models_name_costs_no_time(prime) -> None:  # type: ignore[no-untyped-def]
    one, other = (budgeting.budget(prime(models=[m], methods=["mean"])) for m in ("a", "fixed"))
    assert one.seconds == other.seconds


def test_time_grows_with_the_tokens_that_are_asked_for(prime) -> None:  # type: ignore[no-untyped-def]
    def seconds(tokens: int) -> float:
        role = {"tokens": tokens}
        texts = {"source": "documents.jsonl", "collect": role, "evaluate": role}
        return budgeting.budget(prime(data={"texts": texts})).seconds

    assert seconds(10**6) > 5 * seconds(10**5)


def test_the_whole_plan_takes_the_sum_and_needs_the_largest(prime) -> None:  # type: ignore[no-untyped-def]
    needs = budgeting.budget(prime(models=["a", {"id": "fixed", "dtype": "bfloat16"}]))
    first, second = needs.needs
    assert needs.seconds == first.seconds + second.seconds
    assert needs.largest == first
    assert first.replica_bytes > second.replica_bytes


def cluster(cpus: int = 8, gpus: int = 0, gib: float = 64) -> dict[str, float]:
    return {"CPU": float(cpus), "GPU": float(gpus), "memory": gib * GIB}


def test_there_is_a_replica_for_every_unit_of_the_device(prime) -> None:  # type: ignore[no-untyped-def]
    assert budgeting.workers(prime(), cluster(cpus=5, gpus=2)) == 5
    assert budgeting.workers(prime(device="cuda"), cluster(cpus=5, gpus=2)) == 2
    assert budgeting.demand(prime()) == Demand(cpus=1, gpus=0)
    assert budgeting.demand(prime(device="cuda")) == Demand(cpus=1, gpus=1)


def test_fewer_may_be_asked_for_on_the_command_line_or_in_the_sweep(prime) -> None:  # type: ignore[no-untyped-def]
    assert budgeting.workers(prime(), cluster(), asked=3) == 3
    assert budgeting.workers(prime(cluster={"workers": 2}), cluster()) == 2
    assert budgeting.workers(prime(cluster={"workers": 2}), cluster(), asked=4) == 4


def test_a_device_kind_that_the_cluster_lacks_is_refused_with_what_there_is(prime) -> None:  # type: ignore[no-untyped-def]
    plan = prime(device="cuda", cluster={"device": "cuda"})
    with pytest.raises(PoolError, match=r"`cluster.device: cuda`.*has no GPU.*8 CPUs, 0 GPUs"):
        budgeting.workers(plan, cluster())
    with pytest.raises(PoolError, match="has no CPU"):
        budgeting.workers(prime(), {"memory": 64.0 * GIB})


def test_more_workers_than_units_are_refused(prime) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PoolError, match=r"asks for 9 workers, one CPU each.*8 CPUs"):
        budgeting.workers(prime(), cluster(), asked=9)
    with pytest.raises(PoolError, match=r"asks for 3 workers, one GPU each.*2 GPUs"):
        budgeting.workers(prime(device="cuda"), cluster(gpus=2), asked=3)


def test_a_replica_that_no_memory_holds_is_refused_with_what_would_help(prime) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        PoolError, match=r"one replica of a needs 1.2 GiB.*0.5 GiB of memory; lower"
    ):
        budgeting.workers(prime(), cluster(gib=0.5))


def test_a_replica_that_no_gpu_holds_is_refused_with_what_would_help(prime) -> None:  # type: ignore[no-untyped-def]
    need = budgeting.budget(prime(device="cuda")).largest.replica_bytes
    least = need + footprint.MARGIN

    def workers(memory: int) -> int:
        plan = prime(device="cuda", cluster={"device_memory": memory})
        return budgeting.workers(plan, cluster(gpus=2))

    assert workers(least) == 2
    with pytest.raises(PoolError, match=r"of a GPU .*`cluster.device_memory` is.*`shards: auto`"):
        workers(least - 1)


def test_no_more_replicas_than_memory_holds(prime) -> None:  # type: ignore[no-untyped-def]
    plan = prime()
    need = budgeting.budget(plan).largest.replica_bytes
    assert budgeting.workers(plan, {"CPU": 8, "memory": 3.0 * need}) == 3
    assert budgeting.workers(plan, {"CPU": 8, "memory": 3.0 * need - 1}) == 2


def test_more_workers_than_memory_holds_are_refused(prime) -> None:  # type: ignore[no-untyped-def]
    plan = prime()
    need = budgeting.budget(plan).largest.replica_bytes
    with pytest.raises(PoolError):
        budgeting.workers(plan, {"CPU": 8, "memory": 2.0 * need}, asked=4)


CALL = """
import sys
from pathlib import Path

import numpy as np
import torch

from workers import messages as m
from workers.evaluate import evaluate
from workers.loading import facts, load

folder, layers, positions, logits = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
about = facts(Path(folder))
model = load(m.ModelRef(name="a", folder=folder, dtype="float32", device="cpu", threads=1,
                        facts=about))


def batch(positions, first):
    shape = positions // about.window, about.window
    ids = np.random.default_rng(first).integers(5, about.vocabulary, shape)
    return m.Batch(sequence=first + np.arange(shape[0]), inputs=ids,
                   attended=np.ones(shape, bool), targets=ids)


def cell(i):
    held = [np.arange(about.neurons // 2) if layers == "all" or i % about.layers == layer
            else np.arange(0) for layer in range(about.layers)]
    hold = m.Hold(site="attn_pre_out", held=tuple(held), value=m.Donated(donors="d"))
    return m.CellOrder(cell=str(i), holds=(hold,))


def call(positions, cells):
    donors = {"d": m.Donors(passes=((batch(positions, 10**6),),))}
    orders = [cell(i) for i in range(cells)]
    evaluate(model, [batch(positions, 0)], orders, donors, logits_bytes=logits)


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


call(2 * about.window, 2)  # what is made once for a model
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
call(positions, 16)
sys.stdout.write(f"{before} {status('VmHWM')}")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux measures the peak")
@pytest.mark.parametrize("layers", ["all", "each"])
def test_a_call_needs_what_was_said_and_not_much_less(
    layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, batch, logits = ROOT / "workers" / "zoo" / "opt", 8192, 2**22
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": facts(folder)})
    plan = planned.make(
        tmp_path,
        methods=["resample"],
        layers=layers,
        evaluation={"batch_tokens": batch, "logits_bytes": logits},
        statistics={"bins": 64, "shards": 2},
    )
    (need,) = budgeting.budget(plan).needs
    told = [sys.executable, "-c", CALL, str(folder), layers, str(batch), str(logits)]

    def measured(**heap: str) -> tuple[int, int]:
        made = subprocess.run(
            told, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **heap}
        )
        before, peak = map(int, made.stdout.split())
        return before, peak

    _, peak = measured()
    assert peak < need.replica_bytes
    # What the heap keeps of what was given back differs from run to run by half of all a call
    # needs. A heap that gives everything back at once shows what is needed, to the megabyte.
    before, peak = measured(MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")
    said = need.replica_bytes - PROCESS_BYTES
    assert peak - before < said < 2 * (peak - before)
