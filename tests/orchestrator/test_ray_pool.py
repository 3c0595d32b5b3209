"""The Ray pool on a local cluster with two logical GPUs."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from orchestrator import ray_pool
from orchestrator.budget import Demand
from orchestrator.pool import Done, Event, Lost, PoolError, Raised, Ready
from orchestrator.ray_pool import RayPool, Written, homes
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.orchestrator import bundled
from workers.messages import ModelRef

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray_pool.listen_on_loopback()
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def ref() -> ModelRef:
    return bundled.vit()


@pytest.fixture
def pool(cluster: None, tmp_path: Path) -> Iterator[RayPool]:
    made = RayPool(Store.open(tmp_path), workers=2, spare=2, demand=Demand(cpus=1, gpus=1))
    yield made
    made.close()


def wait_for(pool: RayPool, count: int) -> list[Event]:
    found: list[Event] = []
    for _ in range(120):
        found += pool.wait(1.0)
        if len(found) >= count:
            return found
    raise AssertionError(f"only {found} after two minutes")


def selection(**more: object) -> Task:
    arguments = {
        "model": "zoo:vit",
        "data_name": "digits",
        "sites": ["attn_pre_out"],
        "unit": "neuron",
        "label": "random",
        "rule": "random",
        "parameters": {},
        "over": "layer",
        "basis": None,
        "seed": 0,
        "layers": 2,
        "units": [8],
    }
    return Task(
        name="order",
        stage="prepare",
        kind="selection",
        label="order",
        file="selections/order.parquet",
        model=None,
        arguments={**arguments, **more},
    )


def test_every_replica_sees_exactly_its_own_device(pool: RayPool, ref: ModelRef) -> None:
    for worker in range(2):
        pool.load(worker, ref)
    assert set(wait_for(pool, 2)) == {Ready(worker=0), Ready(worker=1)}
    seen = [pool.sees(worker) for worker in range(2)]
    assert {s["CUDA_VISIBLE_DEVICES"] for s in seen} == {"0", "1"}
    assert {s["OMP_NUM_THREADS"] for s in seen} == {"1"}
    assert len({s["pid"] for s in seen} | {str(os.getpid())}) == 3


def test_a_task_without_a_model_is_done_and_its_file_is_there(
    pool: RayPool, tmp_path: Path
) -> None:
    pool.submit(selection())
    (done,) = wait_for(pool, 1)
    assert isinstance(done, Done)
    assert done.worker is None
    assert (tmp_path / "selections/order.parquet").exists()


def test_the_node_that_wrote_most_bytes_comes_first() -> None:
    written = {
        "a": Written(node="one", size=5),
        "b": Written(node="two", size=3),
        "c": Written(node="two", size=3),
        "d": Written(node="three", size=99),
    }
    assert homes(["a", "b", "c"], written) == ["two", "one"]
    assert homes(["a", "b"], written) == ["one", "two"]
    assert homes(["b", "made before this run"], written) == ["two"]
    assert homes(["made before this run"], written) == []


def later(number: int) -> Task:
    """Return a task that reads what `selection` made."""
    return replace(selection(), file=f"selections/{number}.parquet", after=(selection().file,))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Return what tasks without a model will have been sent to: (node, softly)."""
    asked = []
    real = ray_pool.NodeAffinitySchedulingStrategy

    def watched(node: str, soft: bool) -> object:
        asked.append((node, soft))
        return real(node, soft=soft)

    monkeypatch.setattr(ray_pool, "NodeAffinitySchedulingStrategy", watched)
    return asked


def test_a_task_goes_to_the_node_that_wrote_what_it_reads(
    pool: RayPool, sent: list[tuple[str, bool]]
) -> None:
    pool.submit(selection())
    wait_for(pool, 1)
    pool.submit(later(1))
    assert isinstance(wait_for(pool, 1)[0], Done)
    assert sent == [(ray.nodes()[0]["NodeID"], True)]


def test_no_more_tasks_go_near_their_files_than_the_node_has_cpus(
    pool: RayPool, sent: list[tuple[str, bool]]
) -> None:
    pool.submit(selection())
    wait_for(pool, 1)
    for number in range(3):
        pool.submit(later(number))
    assert len(sent) == 2
    assert {type(event) for event in wait_for(pool, 3)} == {Done}
    pool.submit(later(3))
    assert len(sent) == 3
    wait_for(pool, 1)


def test_a_task_is_done_elsewhere_if_the_node_that_wrote_its_files_is_gone(
    pool: RayPool, sent: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "homes", lambda *_: ["0" * 56])
    pool.submit(selection())
    assert isinstance(wait_for(pool, 1)[0], Done)
    assert sent == [("0" * 56, True)]


def test_a_task_that_raises_comes_back_as_a_value_with_its_traceback(pool: RayPool) -> None:
    pool.submit(selection(units=["many"]))
    (raised,) = wait_for(pool, 1)
    assert isinstance(raised, Raised)
    assert "selecting.py" in raised.traceback


def test_a_killed_actor_is_lost_and_can_be_started_again(pool: RayPool, ref: ModelRef) -> None:
    pool.load(0, ref)
    wait_for(pool, 1)
    os.kill(int(pool.sees(0)["pid"] or 0), signal.SIGKILL)
    pool.send(0, selection())
    (lost,) = wait_for(pool, 1)
    assert isinstance(lost, Lost)
    pool.load(0, ref)
    assert wait_for(pool, 1) == [Ready(worker=0)]


def test_a_model_that_cannot_be_loaded_is_a_lost_worker_with_the_reason(
    pool: RayPool, ref: ModelRef, tmp_path: Path
) -> None:
    gone = ModelRef(
        name="gone",
        folder=str(tmp_path / "gone"),
        dtype="float32",
        device="cpu",
        threads=1,
        facts=ref.facts,
    )
    pool.load(1, gone)
    (lost,) = wait_for(pool, 1)
    assert isinstance(lost, Lost)
    assert "gone" in lost.reason


def test_an_address_where_no_cluster_answers_is_named() -> None:
    with pytest.raises(PoolError, match=r"127\.0\.0\.1:1"), ray_pool.connected("127.0.0.1:1"):
        pass
