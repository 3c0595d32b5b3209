"""How many processes hold a model together, and what is refused of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import budget, plan, sharded
from orchestrator.budget import Demand, demand
from orchestrator.footprint import MARGIN, footprint
from orchestrator.mistakes import SpecError
from orchestrator.plan import Plan
from orchestrator.pool import PoolError
from orchestrator.ray_actor import Answer, Trouble
from orchestrator.ray_cluster import Node
from orchestrator.ray_group import GRACE_SECONDS, Call
from orchestrator.remarks import remarks
from orchestrator.spec import parse
from tests.orchestrator.planned import documents, facts, know, raw
from workers import cuts

LARGE: dict[str, Any] = {
    "heads": 12,
    "kv_heads": 12,
    "d_head": 64,
    "d_model": 768,
    "d_mlp": 3072,
    "layers": 40,
    "parameters": 40 * 12 * 768**2,
}
GB = 10**9


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Plan a sweep of one large model with these words about it, and others changed."""
    know(monkeypatch, {"a": facts("causal", **LARGE)})
    documents(tmp_path)
    monkeypatch.setattr(sharded, "device_memory", lambda: None)

    def make(model: dict[str, Any], device: str = "cuda", **changes: Any) -> Plan:
        spec = parse(raw(models=[{"id": "a", **model}], **changes))
        return plan.make(spec, base=tmp_path, device=device)

    return make


def refused(make: Any, *arguments: Any, **changes: Any) -> str:
    with pytest.raises(SpecError) as error:
        make(*arguments, **changes)
    (mistake,) = error.value.mistakes
    assert mistake.path == "models[0].shards"
    return str(mistake.message)


def test_shards_are_in_the_names_of_all_that_a_model_computes_and_one_is_not(planned: Any) -> None:
    none, one, two = (planned(m) for m in ({}, {"shards": 1}, {"shards": 2}))
    assert [t.name for t in none.tasks] == [t.name for t in one.tasks]
    assert list(none.cells) == list(one.cells)
    assert not set(none.cells) & set(two.cells)
    assert {t.name for t in two.tasks if t.kind == "data"} == {
        t.name for t in one.tasks if t.kind == "data"
    }
    counted = [{t.name for t in p.tasks if t.kind == "collect"} for p in (one, two)]
    assert not counted[0] & counted[1]


def test_auto_is_the_fewest_shards_that_fit_a_device(planned: Any) -> None:
    ref = planned({}).models["a"]
    spec = planned({}).spec
    needs = {k: footprint(spec, replace(ref, shards=k)).total + MARGIN for k in (1, 2, 3, 4, 6, 12)}
    assert list(needs.values()) == sorted(needs.values(), reverse=True)
    for k, bytes_needed in needs.items():
        made = planned({"shards": "auto"}, cluster={"device_memory": bytes_needed})
        assert made.models["a"].shards == k
    said = refused(planned, {"shards": "auto"}, cluster={"device_memory": needs[12] - 1})
    assert "with 12 shards, of which 1, 2, 3, 4, 6, 12 are possible" in said


def test_a_device_is_as_large_as_is_written_or_as_nvidia_smi_says(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned({"shards": "auto"}, cluster={"device_memory": "80GB"})
    assert made.spec.cluster.device_memory == 80 * GB
    assert made.models["a"].shards == 1
    assert "write `cluster: {device_memory: 80GB}`" in refused(planned, {"shards": "auto"})
    ref = made.models["a"]
    enough = footprint(made.spec, replace(ref, shards=2)).total + MARGIN
    monkeypatch.setattr(sharded, "device_memory", lambda: enough)
    assert planned({"shards": "auto"}).models["a"].shards == 2


@pytest.mark.parametrize(
    ("said", "bytes_of"),
    [("80GB", 80 * GB), ("1.5 GiB", 3 * 2**29), ("24000MB", 24 * GB), (17, 17), ("512MiB", 2**29)],
)
def test_memory_is_written_with_or_without_a_unit(said: object, bytes_of: int) -> None:
    assert parse(raw(cluster={"device_memory": said})).cluster.device_memory == bytes_of


@pytest.mark.parametrize("said", ["80 gigs", "80G", -1, 0, True, "GB", [80]])
def test_memory_that_is_no_number_of_bytes_is_refused(said: object) -> None:
    with pytest.raises(SpecError, match="device_memory"):
        parse(raw(cluster={"device_memory": said}))


@pytest.mark.parametrize("said", [0, -1, 1.5, "two", True])
def test_shards_are_a_number_or_auto(said: object) -> None:
    with pytest.raises(SpecError, match="shards"):
        parse(raw(models=[{"id": "a", "shards": said}]))


def test_what_cannot_be_done_in_shards_is_refused_at_the_model_with_the_cure(planned: Any) -> None:
    assert "12 heads cannot be divided by 5" in refused(planned, {"shards": 5})
    asked = {"compile": True, "basis": [None, 3], "methods": ["zero", "optimal"]}
    said = refused(planned, {"shards": 2}, **asked)
    for what in ("`compile`", "`basis`", "`methods`: optimal"):
        assert what in said
    assert "leave that out, or `shards`" in said
    assert planned({"shards": 1}, **asked)


def test_a_replica_of_shards_asks_for_as_many_devices_of_one_machine(planned: Any) -> None:
    made = planned({"shards": 4})
    assert demand(made) == Demand(cpus=1, gpus=1, ranks=4)
    cluster = {"CPU": 64.0, "GPU": 16.0, "memory": 1e12, "node_GPU": 8.0}
    assert budget.workers(made, cluster) == 4
    with pytest.raises(PoolError, match=r"held in 4 shards.*the largest machine has 2"):
        budget.workers(made, {**cluster, "node_GPU": 2.0})
    with pytest.raises(PoolError, match="`--local` is one process"):
        budget.workers(made, {"CPU": 1.0, "GPU": 1.0, "memory": 1e12}, asked=1)
    node = Node(id="n", address="", total={"CPU": 8.0, "GPU": 7.0, "memory": 1e12})
    assert node.holds(demand(made), 0) == 1
    assert node.holds(Demand(cpus=1, gpus=1), 0) == 7


@given(st.integers(1, 64), st.integers(2, 64), st.integers(1, 10**6), st.integers(0, 10**9))
def test_the_parts_of_a_model_are_never_less_than_the_model(
    shards: int, d_model: int, vocabulary: int, layers: int
) -> None:
    of = facts(
        "causal", d_model=d_model, vocabulary=vocabulary, parameters=d_model * vocabulary + layers
    )
    held = cuts.parameters(of, shards)
    assert held * shards >= of.parameters
    assert held <= of.parameters
    assert cuts.parameters(of, 1) == of.parameters


def test_the_plan_says_what_is_held_in_shards(planned: Any) -> None:
    assert not list(remarks(planned({})))
    (said,) = remarks(planned({"shards": 3}))
    assert said.startswith("a is held in 3 shards")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def trouble(error: str) -> Trouble:
    return Trouble(error=error, traceback="", log="", storage=False, differs=False)


def done(number: int) -> Answer:
    return Answer(summary={"rank": number}, node="", size=0)


def test_a_group_has_answered_when_all_have_and_its_answer_is_the_first_ones() -> None:
    call = Call(refs=["a", "b", "c"])
    assert not call.hear("c", done(2))
    assert not call.hear("a", done(0))
    assert call.hear("b", trouble("too late to matter"))
    assert call.answer == done(0)


def test_a_group_that_raised_tells_what_the_first_raised() -> None:
    call = Call(refs=["a", "b"])
    call.hear("b", trouble("of b"))
    assert call.hear("a", trouble("of a"))
    assert call.answer == trouble("of a")
    loading = Call(refs=["a", "b"])
    loading.hear("a", None)
    assert loading.hear("b", trouble("no memory"))
    assert loading.answer == trouble("no memory")


def test_a_group_one_of_which_raised_while_others_stay_silent_is_broken() -> None:
    clock = Clock()
    call = Call(refs=["a", "b"], clock=clock)
    clock.now = 1000.0  # a long task: nobody has raised
    assert call.broken is None
    call.hear("b", trouble("no memory"))
    assert call.broken is None
    clock.now += GRACE_SECONDS
    assert call.broken == trouble("no memory")
