"""Which GPUs a replica is put on, and how many replicas share one."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.util.accelerators import accelerators

from orchestrator import budget, room
from orchestrator.budget import Demand
from orchestrator.devices import GIGABYTES, MEMORY_LABEL, Device, device, known
from orchestrator.footprint import MARGIN
from orchestrator.plan import Plan
from orchestrator.pool import PoolError
from orchestrator.ray_cluster import Node, leaving_out
from orchestrator.remarks import remarks
from tests.orchestrator import planned

GB = 10**9
KIND = "ray.io/accelerator-type"


@pytest.fixture
def made(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Plan a sweep of a small model on GPUs, with these words about the cluster."""
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts("causal", heads=4, kv_heads=4)})

    def make(shards: int = 1, on: str = "cuda", **cluster: Any) -> Plan:
        models = [{"id": "a", "shards": shards}]
        return planned.make(tmp_path, device=on, models=models, cluster=cluster)

    return make


def node(name: str, gpus: float, of: Device, cpus: float = 64.0) -> Node:
    total = {"CPU": cpus, "GPU": gpus, "memory": 1e12}
    return Node(id=name, address="", total=total, device=of)


# What a machine's GPUs are


def test_a_gpu_is_what_its_label_says_and_as_large_as_the_label_or_the_table() -> None:
    assert device({KIND: "A100"}, {}) == Device(kind="A100", memory=40 * GB)
    assert device({}, {"GPU": 1.0, "accelerator_type:T4": 1.0}).kind == "T4"
    assert device({KIND: "A100", MEMORY_LABEL: "80GB"}, {}).memory == 80 * GB
    assert device({MEMORY_LABEL: "10GiB"}, {}) == Device(kind=None, memory=10 * 2**30)
    assert device({}, {"GPU": 1.0}) == Device()


def test_a_memory_label_that_cannot_be_read_counts_for_nothing() -> None:
    assert device({KIND: "T4", MEMORY_LABEL: "lots"}, {}).memory == 16 * GB
    assert device({KIND: "new", MEMORY_LABEL: "lots"}, {}).memory is None


def test_the_kinds_of_the_table_are_rays_own() -> None:
    names = {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA")}
    # Ray tells an A10, an A40 and an L40 by their names, and has no constant for them.
    assert GIGABYTES.keys() - names == {"A10", "A40", "L40"}


# Where a replica fits


def test_a_replica_is_put_only_where_it_fits(made: Callable[..., Plan]) -> None:
    plan = made()
    need = room.replica_bytes(plan)
    large, small, unknown = (Device(memory=m) for m in (need, need - 1, None))
    asked = room.demand(plan, [large, small, unknown])
    assert asked == Demand(cpus=1, gpus=1, gpu_memory=need)
    holds = [node("n", 8.0, of).holds(asked, 0) for of in (large, small, unknown)]
    assert holds == [8, 0, 8]
    assert [node("n", 8.0, of).refuses(asked) for of in (large, small)] == [False, True]
    assert not node("n", 0.0, small).refuses(asked), "a machine without GPUs has no wrong ones"


def test_gpus_of_other_kinds_are_left_out_where_the_sweep_names_some(
    made: Callable[..., Plan],
) -> None:
    kinds = {kind: device({KIND: kind}, {}) for kind in ("A100", "H100", "T4")}
    asked = room.demand(made(gpu=["A100", "H100"]), kinds.values())
    holds = {kind: node(kind, 2.0, of).holds(asked, 0) for kind, of in kinds.items()}
    assert holds == {"A100": 2, "H100": 2, "T4": 0}
    assert node("n", 2.0, Device()).holds(asked, 0) == 0, "nobody knows its kind"
    unfit = [node(kind, 2.0, of) for kind, of in kinds.items()]
    told = leaving_out([n for n in unfit if n.refuses(asked)])
    assert told == {"ray.io/node-id": "!in(T4)"}
    assert leaving_out([]) == {}


def test_where_no_gpu_will_do_it_is_said_what_is_asked_and_what_there_is(
    made: Callable[..., Plan],
) -> None:
    there = [device({KIND: "T4"}, {}), Device(memory=3 * GB)]
    with pytest.raises(
        PoolError, match=r"one replica of a needs .* GB of a GPU of kind H100, .*T4 \(16 GB\).*add"
    ):
        room.demand(made(gpu=["H100"]), there)
    need = room.replica_bytes(made())
    with pytest.raises(PoolError, match=r"unnamed \(.* GB\)"):
        room.demand(made(), [Device(memory=need - 1)])


def test_a_gpu_of_unknown_memory_is_as_large_as_the_sweep_says(made: Callable[..., Plan]) -> None:
    need = room.replica_bytes(made())
    assert room.demand(made(device_memory=need), [Device()]).gpu_memory == need
    with pytest.raises(PoolError, match="of unknown memory"):
        room.demand(made(device_memory=need - 1), [Device()])


def test_on_processors_no_gpu_is_asked_for_and_none_looked_at(made: Callable[..., Plan]) -> None:
    asked = room.demand(made(on="cpu", gpu=["H100"]), [Device(kind="T4", memory=1)])
    assert asked == Demand(cpus=1, gpus=0)
    assert not node("n", 1.0, Device(kind="T4", memory=1)).refuses(asked)


# How many share one


@pytest.mark.parametrize(
    ("fit", "number", "gpus"), [(1.9, 1, 1.0), (2.0, 2, 0.5), (3.5, 3, 0.3333), (99, 4, 0.25)]
)
def test_so_many_share_a_gpu_as_it_has_memory_for_and_four_at_most(
    made: Callable[..., Plan], fit: float, number: int, gpus: float
) -> None:
    plan = made(per_gpu="auto")
    need = budget.budget(plan).largest.replica_bytes + MARGIN
    asked = room.demand(plan, [Device(memory=math.ceil(fit * need)), Device(memory=200 * need)])
    assert asked.gpus == gpus
    assert asked.gpu_memory == number * need, "whoever joins must have as much"
    assert room.sharing(asked) == number
    assert node("n", 7.0, Device(memory=200 * need)).holds(asked, 0) == 7 * number
    assert node("n", 7.0, Device(memory=200 * need), cpus=5.0).holds(asked, 0) == 5
    assert budget.workers(plan, {"CPU": 64.0, "GPU": 2.0}, per_gpu=number) == 2 * number


@given(st.integers(1, 4), st.integers(1, 512))
def test_as_many_fit_a_machine_as_share_its_gpus(number: int, gpus: int) -> None:
    share = int(10**4 / number) / 10**4
    assert room.sharing(Demand(cpus=0, gpus=share)) == number
    assert round(share * 10**4) * number <= 10**4, "as Ray counts"
    assert node("n", gpus, Device()).holds(Demand(cpus=0, gpus=share), 0) == gpus * number


def test_without_being_asked_no_two_share_and_what_nobody_knows_is_not_shared(
    made: Callable[..., Plan],
) -> None:
    assert room.demand(made(), [Device(memory=10**15)]).gpus == 1
    assert room.demand(made(per_gpu="auto"), [Device(memory=10**15), Device()]).gpus == 1
    assert room.demand(made(shards=2, per_gpu="auto"), [Device(memory=10**15)]).gpus == 1


def test_a_number_that_share_is_taken_at_its_word_or_refused(made: Callable[..., Plan]) -> None:
    need = room.replica_bytes(made())
    assert room.demand(made(per_gpu=2), [Device()]).gpus == 0.5
    with pytest.raises(PoolError, match=r"per_gpu: 3.*2 fit"):
        room.demand(made(per_gpu=3), [Device(memory=3 * need - 1)])
    with pytest.raises(PoolError, match="a model in shards has each of its GPUs alone"):
        room.demand(made(shards=2, per_gpu=2), [Device()])


def test_the_plan_says_how_many_share_a_gpu_that_the_sweep_speaks_of(
    made: Callable[..., Plan],
) -> None:
    def said(**cluster: Any) -> list[str]:
        return [line for line in remarks(made(**cluster)) if "per_gpu" in line]

    assert said() == []
    need = room.replica_bytes(made())
    (line,) = said(gpu=["T4", "H100"], per_gpu="auto")
    assert f"T4 of 16 GB holds {16 * GB // need}; H100 of 80 GB holds {80 * GB // need}" in line
    assert line.endswith("`cluster.per_gpu` is auto, so 4 share a GPU")
    (line,) = said(device_memory="80GB")
    assert line.endswith("is 1, so each has a GPU alone")
    assert said(on="cpu", gpu=["T4"]) == []


def test_what_is_asked_of_the_cluster_changes_no_name(made: Callable[..., Plan]) -> None:
    plain, placed = made(), made(gpu=["T4"], per_gpu=2, autoscale=True, workers=3)
    assert [t.name for t in plain.tasks] == [t.name for t in placed.tasks]
    assert list(plain.cells) == list(placed.cells)


# What the autoscaler is asked for


def test_the_autoscaler_is_asked_for_what_was_asked_and_has_something_to_do(
    made: Callable[..., Plan],
) -> None:
    assert room.grown(made(), 8, 100) == 0, "nobody wrote `autoscale`"
    assert room.grown(made(autoscale=True), 8, 100) == 8
    assert room.grown(made(autoscale=True), 8, 3) == 3
    with pytest.raises(PoolError, match="nothing says how many; give `--workers N`"):
        room.grown(made(autoscale=True), None, 100)


def test_no_machine_is_asked_for_that_could_not_hold_a_replica(made: Callable[..., Plan]) -> None:
    need = room.replica_bytes(made())
    with pytest.raises(PoolError, match="those that `cluster` speaks of have"):
        room.grown(made(autoscale=True, device_memory=need - 1), 8, 100)
    assert known("T4") is not None
    assert room.grown(made(autoscale=True, gpu=["T4"]), 8, 100) == 8


def test_what_is_not_there_yet_is_not_missed_where_it_can_be_asked_for(
    made: Callable[..., Plan],
) -> None:
    plan = made(gpu=["H100"], per_gpu="auto", autoscale=True, workers=2)
    for there in ([], [device({KIND: "T4"}, {})]):
        assert room.sharing(room.demand(plan, there)) == 4
