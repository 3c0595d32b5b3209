"""Where replicas are put, on a real Ray cluster with made-up GPUs, and what is asked for meanwhile.

The autoscaler is played by the tests: they read from Ray what it would read, and add machines.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster
from rich.console import Console

from orchestrator import ray_cluster, ray_pool, sweep
from orchestrator.budget import Demand
from orchestrator.devices import KIND_LABEL, MEMORY_LABEL
from orchestrator.pool import Event, Lost, Ready
from orchestrator.ray_pool import RayPool
from orchestrator.store import Store
from tests.faults import driving, until
from tests.orchestrator import bundled
from tests.sweeps import SMALL, assert_same, written
from workers.messages import ModelRef

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

STORE = 80 * 2**20
GB = 10**9
GROWING = f"{SMALL}cluster: {{device: cpu, workers: 1, autoscale: true}}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that holds nothing, a machine of two large GPUs, and one of two small ones."""
    ray_cluster.listen_on_loopback()
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # for the processes of its machines
        made = Cluster(initialize_head=True, head_node_args=head)
        add(made, "A100", 2, memory="80GB")
        add(made, "T4", 2)
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


def add(cluster: Cluster, kind: str, gpus: int, *, memory: str | None = None) -> Any:
    labels = {KIND_LABEL: kind, **({MEMORY_LABEL: memory} if memory else {})}
    # So little memory that no replica fits beside the processor.
    return cluster.add_node(
        num_cpus=4, num_gpus=gpus, memory=GB, labels=labels, object_store_memory=STORE
    )


@pytest.fixture
def pooled(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RayPool]]:
    monkeypatch.setattr(ray_pool, "LOOK_SECONDS", 0.0)
    made = []

    def make(most: int | None = None, grow: int = 0, **asked: Any) -> RayPool:
        demand = Demand(**{"cpus": 1, "gpus": 1, **asked})
        made.append(RayPool(Store.open(tmp_path), most=most, spare=1, demand=demand, grow=grow))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def waited(pool: RayPool, count: int) -> list[Event]:
    found: list[Event] = []
    end = time.monotonic() + 240
    while len(found) < count:
        assert time.monotonic() < end, f"only {found}"
        found += pool.wait(1.0)
    return found


def machines(pool: RayPool) -> list[str]:
    """Return the kinds of GPU of the machines that a pool's processes are on."""
    kinds = {node.id: str(node.device.kind) for node in ray_cluster.nodes()}
    processes = [a for group in pool._groups.values() for a in group._actors]
    states = [actors(process._actor_id.hex()) for process in processes]
    return [kinds[state["Address"]["NodeID"]] for state in states]


def demanded() -> list[dict[str, float]]:
    """Return what an autoscaler would be told that it lacks: resources, one entry a replica."""
    client = ray._private.worker.global_worker.gcs_client
    gangs = get_cluster_resource_state(client).pending_gang_resource_requests
    found = []
    for gang in gangs:
        requests = [r for s in gang.bundle_selectors for r in s.resource_requests]
        requests = requests or list(gang.requests)
        kinds = requests[0].resources_bundle.keys()
        found.append({k: sum(r.resources_bundle[k] for r in requests) for k in kinds})
    return found


def test_replicas_are_put_on_gpus_that_will_do_and_on_no_other(
    pooled: Callable[..., RayPool],
) -> None:
    ref = bundled.vit()
    for asked, kind in (({"kinds": ("T4",)}, "T4"), ({"gpu_memory": 17 * GB}, "A100")):
        pool = pooled(**asked)
        assert pool.workers == 2
        pool.load(0, ref)
        assert {type(event) for event in waited(pool, 1)} == {Ready}
        assert machines(pool) == [kind]
        pool.close()
    assert pooled(gpu_memory=16 * GB).workers == 4
    assert pooled(kinds=("H100",)).workers == 0


def test_the_shards_of_a_model_share_a_machine_whose_gpus_will_do(
    pooled: Callable[..., RayPool],
) -> None:
    pool = pooled(ranks=2, kinds=("T4",))
    assert pool.workers == 1
    pool.load(0, replace(bundled.vit(), shards=2))
    assert [type(event) for event in waited(pool, 1)] == [Ready]
    assert machines(pool) == ["T4", "T4"]
    assert {pool.sees(0, rank)["CUDA_VISIBLE_DEVICES"] for rank in range(2)} == {"0", "1"}


def test_two_share_a_gpu_where_that_is_asked_for(pooled: Callable[..., RayPool]) -> None:
    pool = pooled(most=2, gpus=0.5, kinds=("A100",))
    assert pool.workers == 2
    for worker in range(2):
        pool.load(worker, bundled.vit())
    waited(pool, 2)
    assert len({pool.sees(worker)["CUDA_VISIBLE_DEVICES"] for worker in range(2)}) == 1
    assert len({pool.sees(worker)["pid"] for worker in range(2)}) == 2


def test_what_lacks_is_asked_for_as_machines_come_and_go_and_not_any_more_at_the_end(
    cluster: Cluster, pooled: Callable[..., RayPool]
) -> None:
    pool = pooled(most=3, grow=3, kinds=("H100", "H200"))
    assert pool.workers == 0
    assert pool.says().endswith("3 workers are asked of the autoscaler.")
    until(lambda: demanded() == [{"CPU": 1, "GPU": 1}] * 3, "three to be asked for")
    machine = add(cluster, "H100", 2)
    assert pool.workers == 2
    pool.load(0, bundled.vit())
    until(lambda: pool.workers == 2 and len(demanded()) == 1, "one to be asked for")
    assert {type(event) for event in waited(pool, 1)} == {Ready}, "nothing else took the room"
    cluster.remove_node(machine, allow_graceful=False)
    until(lambda: pool.workers == 0 and len(demanded()) == 3, "three to be asked for again")
    pool.close()
    until(lambda: demanded() == [], "nothing to be asked for any more")


def test_shards_are_asked_for_as_one_machine(pooled: Callable[..., RayPool]) -> None:
    pool = pooled(grow=1, ranks=2, kinds=("H100",))
    assert pool.workers == 0
    until(lambda: demanded() == [{"CPU": 2, "GPU": 2}], "a machine of two")


def hub_model(tmp_path: Path, *, there: bool) -> ModelRef:
    """Return a model as a hub's cache has it, or as one does not have it that it was planned in."""
    known, commit = bundled.vit(), "0" * 40
    place = tmp_path / "snapshots" / commit
    if there:
        place.parent.mkdir(parents=True)
        place.symlink_to(known.folder)
    return replace(known, name="org/model", folder=str(place))


def test_a_model_of_the_hub_is_loaded_where_it_is_and_its_turn_ends_where_it_cannot_come(
    pooled: Callable[..., RayPool], tmp_path: Path
) -> None:
    pool = pooled(kinds=("A100",))
    pool.load(0, hub_model(tmp_path, there=True))
    assert [type(event) for event in waited(pool, 1)] == [Ready]
    pool.load(1, hub_model(tmp_path / "elsewhere", there=False))
    (lost,) = waited(pool, 1)
    assert isinstance(lost, Lost)
    assert "org/model" in lost.reason
    assert pool._pulls._at_it == pool._pulls._waiting == pool._lacks == {}


@pytest.fixture
def growing(cluster: Cluster, tmp_path: Path) -> Callable[[], Any]:
    """Start a driver whose only replica has no room until a machine joins."""
    (tmp_path / "growing").mkdir()
    spec = written(tmp_path / "growing", GROWING)
    where = ("--address", cluster.address)
    return lambda: driving(spec, tmp_path / "run", *where, environment={})


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_driver_that_ends_takes_along_what_it_asked_for(
    growing: Callable[[], Any], how: int, code: int
) -> None:
    with growing() as driver:
        until(lambda: [d["CPU"] for d in demanded()] == [1], "a replica to be asked for")
        os.kill(driver.process.pid, how)
        driver.ends(code)
    until(lambda: demanded() == [], "nothing to be asked for any more")


def test_a_sweep_that_begins_without_a_machine_ends_with_one_that_comes(
    growing: Callable[[], Any], cluster: Cluster, tmp_path: Path
) -> None:
    with Path(os.devnull).open("w") as nowhere:
        sweep.run(
            written(tmp_path, SMALL), out=tmp_path / "here", local=True, told=Console(file=nowhere)
        )
    with growing() as driver:
        until(lambda: [d["CPU"] for d in demanded()] == [1], "a replica to be asked for")
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        driver.ends()
    assert demanded() == []
    assert_same(tmp_path / "here", driver.run)
