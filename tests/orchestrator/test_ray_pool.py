"""The Ray pool on a local cluster of two nodes, one of them with two logical GPUs."""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from orchestrator import ray_cluster, ray_pool
from orchestrator.budget import Demand
from orchestrator.pool import Done, Event, Lost, PoolError, Raised, Ready
from orchestrator.ray_actor import LINES, Answer, Trouble, attempt
from orchestrator.ray_pool import RayPool, homes, why
from orchestrator.store import Store, StoreError
from orchestrator.tasks import Task
from tests.orchestrator import bundled
from workers.messages import ModelRef

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

STORE = 80 * 2**20
"""Bytes of a node's object store, the least that Ray allows."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    ray_cluster.listen_on_loopback()
    nodes = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "num_gpus": 2,
            "object_store_memory": STORE,
            "include_dashboard": False,
        },
    )
    nodes.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def ref() -> ModelRef:
    return bundled.vit()


@pytest.fixture
def pool(cluster: Cluster, tmp_path: Path) -> Iterator[RayPool]:
    made = RayPool(Store.open(tmp_path), most=2, spare=2, demand=Demand(cpus=1, gpus=1))
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


def wrote(node: str, size: int) -> Answer:
    return Answer(summary={}, node=node, size=size)


def test_the_node_that_wrote_most_bytes_comes_first() -> None:
    answers = {
        "a": wrote("one", 5),
        "b": wrote("two", 3),
        "c": wrote("two", 3),
        "d": wrote("three", 99),
    }
    assert homes(["a", "b", "c"], answers) == ["two", "one"]
    assert homes(["a", "b"], answers) == ["one", "two"]
    assert homes(["b", "made before this run"], answers) == ["two"]
    assert homes(["made before this run"], answers) == []


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
    assert sent[0] == sent[1]


def test_no_more_tasks_go_near_their_files_than_the_node_has_cpus(
    pool: RayPool, sent: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = sorted(ray_cluster.nodes(), key=lambda node: -node.cpus)
    monkeypatch.setattr(ray_pool, "homes", lambda *_: [large.id])
    for number in range(3):
        pool.submit(later(number))
    assert sent == [(large.id, True)] * 2 + [(small.id, True)]
    assert {type(event) for event in wait_for(pool, 3)} == {Done}
    pool.submit(later(3))
    assert sent[-1] == (large.id, True)
    wait_for(pool, 1)


def test_a_task_that_is_under_way_is_done_again_on_another_node(
    pool: RayPool, sent: list[tuple[str, bool]]
) -> None:
    pool.submit(selection())
    pool.submit(selection())
    assert {node for node, _ in sent} == {node.id for node in ray_cluster.nodes()}
    assert {type(event) for event in wait_for(pool, 2)} == {Done}


def test_a_task_is_done_elsewhere_if_the_node_that_it_was_sent_to_is_gone(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_place", lambda _: "0" * 56)
    pool.submit(selection())
    assert isinstance(wait_for(pool, 1)[0], Done)


def test_a_task_that_raises_comes_back_as_a_value_with_its_traceback(pool: RayPool) -> None:
    pool.submit(selection(units=["many"]))
    (raised,) = wait_for(pool, 1)
    assert isinstance(raised, Raised)
    assert "selecting.py" in raised.traceback
    assert not raised.lost


def test_a_task_whose_process_is_killed_is_lost_and_did_not_raise(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(task: Task, store: Store) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pool, "_task", ray.remote(num_cpus=0, max_retries=0)(killed))
    pool.submit(selection())
    (raised,) = wait_for(pool, 1)
    assert isinstance(raised, Raised)
    assert (raised.worker, raised.lost, raised.memory) == (None, True, False)
    assert "WorkerCrashedError" in raised.error


@pytest.mark.parametrize(
    ("error", "lost", "memory"),
    [
        (OutOfMemoryError("full"), True, True),
        (WorkerCrashedError(), True, False),
        (NodeDiedError("silent"), True, False),
        (RayTaskError("do", "trace", ImportError("no such library")), False, False),
    ],
)
def test_what_ray_says_of_a_task_without_a_model_tells_a_lost_process_from_one_that_raised(
    tmp_path: Path, error: RayError, lost: bool, memory: bool
) -> None:
    pool = RayPool(Store.open(tmp_path), most=1, spare=1, demand=Demand(cpus=1, gpus=0))
    event = pool._gone(None, selection(), error)
    assert isinstance(event, Raised)
    assert (event.lost, event.memory) == (lost, memory)


def test_what_a_process_printed_before_its_task_raised_comes_along(pool: RayPool) -> None:
    pool.submit(selection(rule="no such rule"))
    (raised,) = wait_for(pool, 1)
    assert isinstance(raised, Raised)
    assert ":job_id:" not in raised.log
    assert len(raised.log.splitlines()) <= LINES


class Unspeakable(Exception):
    """An exception that can neither be pickled nor printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        raise ValueError


def raises(error: BaseException) -> Trouble:
    def act() -> None:
        os.write(2, b"a line of native code\n")
        sys.stderr.write("a line of Python's\n")
        raise error

    found = attempt(act)
    assert isinstance(found, Trouble)
    return pickle.loads(pickle.dumps(found))  # type: ignore[no-any-return]


def test_an_exception_that_cannot_travel_comes_as_a_value_with_the_last_lines(
    capfd: pytest.CaptureFixture[str],  # makes the descriptor a file, as Ray does
) -> None:
    found = raises(Unspeakable())
    assert found.error == "Unspeakable"
    assert "in act" in found.traceback
    assert found.log == "a line of native code\na line of Python's"


def test_a_library_that_exits_and_a_run_folder_that_fails_are_told_apart() -> None:
    assert raises(SystemExit(3)).error == "SystemExit(3)"
    assert not raises(SystemExit(3)).storage
    assert raises(StoreError("full")).storage


def test_there_are_as_many_workers_as_fit_on_the_nodes_that_are_alive(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "LOOK_SECONDS", 0.0)
    store, one = Store.open(tmp_path), Demand(cpus=1, gpus=0)
    free, bounded = (RayPool(store, most=most, spare=1, demand=one) for most in (None, 4))
    large = RayPool(store, most=None, spare=1, demand=one, memory=2**50)
    assert (free.workers, bounded.workers, large.workers) == (3, 3, 0)
    joined = cluster.add_node(num_cpus=5, object_store_memory=STORE)
    assert (free.workers, bounded.workers, large.workers) == (8, 4, 0)
    cluster.remove_node(joined)
    assert (free.workers, bounded.workers) == (3, 3)


def test_what_one_worker_asks_for_and_what_the_nodes_have_is_said(cluster: Cluster) -> None:
    said = ray_cluster.asks_and_has(Demand(cpus=1, gpus=1), 3 * 2**29)
    assert said.startswith("One worker asks for 1 CPU and 1 GPU and 1.5 GiB of memory.")
    assert "2 CPU (2 free), 2 GPU (2 free)" in said
    assert "1 CPU (1 free), 0 GPU (0 free)" in said


def test_what_ray_says_of_the_dead_is_said_in_a_sentence() -> None:
    full = OutOfMemoryError("1 worker(s) were killed\nOOM kill reason: 9 GB of 8\nmore")
    assert why(full) == "its machine ran out of memory: 9 GB of 8 (OutOfMemoryError)"
    died = ActorDiedError()
    assert why(died).endswith("(ActorDiedError)")


def test_a_replica_that_fits_on_no_node_is_merely_never_ready(
    cluster: Cluster, tmp_path: Path, ref: ModelRef
) -> None:
    demand = Demand(cpus=64, gpus=0)
    unplaced = RayPool(Store.open(tmp_path), most=None, spare=1, demand=demand)
    assert unplaced.workers == 0
    unplaced.load(0, ref)
    assert unplaced.wait(0.5) == []
    unplaced.close()
    assert unplaced.wait(0.1) == []


def test_a_killed_actor_is_lost_and_can_be_started_again(pool: RayPool, ref: ModelRef) -> None:
    pool.load(0, ref)
    wait_for(pool, 1)
    os.kill(int(pool.sees(0)["pid"] or 0), signal.SIGKILL)
    pool.send(0, selection())
    (lost,) = wait_for(pool, 1)
    assert isinstance(lost, Lost)
    assert "its worker process has died" in lost.reason
    assert not lost.memory
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


class StoppedError(Exception):
    """What a handler of a signal raises."""


def test_a_signal_while_ray_is_waited_for_raises_what_its_handler_raises(
    pool: RayPool, ref: ModelRef
) -> None:
    def stop(number: int, frame: object) -> None:
        raise StoppedError

    pool.load(0, ref)
    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    try:
        timer.start()
        with pytest.raises(StoppedError):
            wait_for(pool, 2)  # there will be one
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)


def test_an_address_where_no_cluster_answers_is_named() -> None:
    with pytest.raises(PoolError, match=r"127\.0\.0\.1:1"), ray_cluster.connected("127.0.0.1:1"):
        pass
