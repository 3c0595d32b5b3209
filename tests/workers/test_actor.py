"""A replica: thin, one model at a time, and the same as calling the library."""

import gc
import weakref
from dataclasses import fields, replace
from functools import partial
from logging import getLogger
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers import tiny
from workers import collect, hooks
from workers.actor import NoModelError, Replica
from workers.compiled import Compiled
from workers.evaluate import evaluate
from workers.generating import generate
from workers.learn import Place, Search, learn
from workers.loading import CheckpointError, load
from workers.messages import Batch, CellOrder, Constant, Counted, Hold, ModelRef
from workers.weights import column_norms


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return tiny.ref(tiny.folder("opt", tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def replica(opt: ModelRef) -> Replica:
    made = Replica()
    made.load(opt)
    return made


def half_at_zero(layers: int, neurons: int) -> CellOrder:
    hold = Hold(
        site="attn_pre_out",
        held=(np.arange(0, neurons, 2),) * layers,
        value=Constant(values=np.zeros((layers, neurons))),
    )
    return CellOrder(cell="half at zero", holds=(hold,))


def two(replica: Replica) -> list[Batch]:
    return [tiny.batch(replica.model, [0, 1]), tiny.batch(replica.model, [2])]


def equal(a: object, b: object, *, but: tuple[str, ...] = ()) -> bool:
    """Whether two dataclasses of arrays and plain values are the same."""
    return type(a) is type(b) and all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in fields(a)  # type: ignore[arg-type]
        if field.name not in but
    )


def test_a_replica_answers_as_the_library_does(replica: Replica, opt: ModelRef) -> None:
    model, batches = load(opt), two(replica)
    order = half_at_zero(opt.facts.layers, opt.facts.neurons)
    mine = replica.evaluate(batches, [order], {}, logits_bytes=1 << 20)[0]
    direct = evaluate(model, batches, [order], {}, logits_bytes=1 << 20)[0]
    assert equal(mine, direct, but=("seconds",))
    assert replica.check(batches[0], order) < 1e-5


def test_a_replica_collects_as_the_library_does(replica: Replica, opt: ModelRef) -> None:
    model, batches = load(opt), two(replica)
    windows = replica.pilot(batches, site="attn_pre_out", bins=64, seed=1)
    assert equal(windows, collect.pilot(model, batches, site="attn_pre_out", bins=64, seed=1))
    counted = replica.collect(batches, site="attn_pre_out", windows=windows, shard=3)
    direct = collect.collect(model, batches, site="attn_pre_out", windows=windows, shard=3)
    assert equal(counted, direct, but=("windows",))
    ends = {"low": windows.centre - 1, "high": windows.centre + 1}
    again = replica.recount(batches, site="attn_pre_out", **ends, shard=3)
    assert equal(again, collect.recount(model, batches, site="attn_pre_out", **ends, shard=3))


def test_a_replica_counts_strata_and_some_rows_as_the_library_does(
    replica: Replica, opt: ModelRef
) -> None:
    model, batches = load(opt), two(replica)
    some = Counted(skip_first=2, without=(7,))
    options = {"site": "attn_pre_out", "bins": 64, "seed": 1, "counted": some}
    windows = replica.pilot(batches, **options)
    assert equal(windows, collect.pilot(model, batches, **options))
    ends = {"site": "attn_pre_out", "low": windows.centre - 1, "high": windows.centre + 1}
    again = replica.recount(batches, **ends, shard=3, counted=some)
    assert equal(again, collect.recount(model, batches, **ends, shard=3, counted=some))
    rows = np.array([0, 5, windows.first.size + 3])
    by = Counted(by="position", starts=(0, 4))
    chosen = {"windows": windows.taken(rows % windows.first.size), "rows": rows, "counted": by}
    counted = replica.collect(batches, site="attn_pre_out", shard=3, **chosen)
    direct = collect.collect(model, batches, site="attn_pre_out", shard=3, **chosen)
    assert equal(counted, direct, but=("windows",))
    assert counted.counts.shape == (3, 64)


def test_loading_another_model_lets_the_old_one_go_first(
    replica: Replica, opt: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, gone = weakref.ref(replica.model.module), []
    order = half_at_zero(opt.facts.layers, opt.facts.neurons)
    replica.evaluate(two(replica), [order], {}, logits_bytes=1 << 20)  # weights were cloned

    def watched(ref: ModelRef) -> object:
        gone.append(old() is None)
        return load(ref)

    monkeypatch.setattr("workers.loading.load", watched)
    replica.load(replace(opt, dtype="bfloat16"))
    assert gone == [True]
    assert replica.model.dtype == torch.bfloat16


def test_loading_what_is_held_already_does_nothing(replica: Replica, opt: ModelRef) -> None:
    before = replica.model
    replica.load(replace(opt))
    assert replica.model is before


def test_a_replica_without_a_model_says_so(opt: ModelRef) -> None:
    replica = Replica()
    with pytest.raises(NoModelError, match="Call `load` first"):
        replica.evaluate([], [], {}, logits_bytes=1)
    with pytest.raises(CheckpointError):
        replica.load(replace(opt, facts=replace(opt.facts, digest="0" * 64)))
    with pytest.raises(NoModelError):
        _ = replica.model


def test_a_failed_load_does_not_leave_the_old_model_behind(replica: Replica, opt: ModelRef) -> None:
    with pytest.raises(CheckpointError):
        replica.load(replace(opt, folder=str(Path(opt.folder) / "nowhere")))
    with pytest.raises(NoModelError):
        _ = replica.model


def test_a_replica_tries_its_model_and_weighs_and_writes_as_the_library_does(
    replica: Replica, opt: ModelRef
) -> None:
    model, batch = load(opt), two(replica)[0]
    tried = replica.canaries(batch, ["attn_pre_out", "mlp_mid"])
    assert tried.hookpoints == 2 * opt.facts.layers
    assert equal(replica.norms("mlp_mid"), column_norms(model, "mlp_mid"))
    prompts, numbers = [np.array([1]), np.array([2])], np.array([5, 6])
    texts = replica.generate(prompts, [4, 6], seed=3, sequence=numbers)
    direct = generate(model, prompts, [4, 6], seed=3, sequence_S=numbers)
    assert [t.tolist() for t in texts] == [t.tolist() for t in direct]


def test_a_replica_learns_as_the_library_does(replica: Replica, opt: ModelRef) -> None:
    layers, neurons = opt.facts.layers, opt.facts.neurons
    place = Place(site="attn_pre_out", held=(np.arange(neurons),) * layers)
    zero, one = np.zeros((layers, neurons)), np.ones((layers, neurons))
    search = Search(steps=2, lr=0.1, every=1, seed=0, logits_bytes=1 << 20)
    asked = ([[place]], {"zero": [zero]}, [one], search)
    fit, check = two(replica)[:1], two(replica)[1:]
    mine = replica.learn(fit, check, *asked)
    direct = learn(load(opt), fit, check, *asked)
    assert np.array_equal(mine.values[0], direct.values[0])
    assert mine.check_loss == direct.check_loss <= mine.start_loss


def test_a_replica_describes_what_it_computes_with(replica: Replica) -> None:
    said = replica.describe()
    assert set(said) == {
        "python",
        "torch",
        "transformers",
        "timm",
        "numpy",
        "device",
        "threads",
        "dtype",
        "attention",
    }
    assert (said["torch"], said["dtype"]) == (torch.__version__, "float32")
    assert said["threads"] == "1" == str(torch.get_num_threads())
    assert "dtype" not in Replica().describe()


def test_a_replica_leaves_no_hook_behind(replica: Replica, opt: ModelRef) -> None:
    order = half_at_zero(opt.facts.layers, opt.facts.neurons)
    replica.evaluate(two(replica), [order], {}, logits_bytes=1 << 20)
    replica.check(two(replica)[0], order)
    modules = replica.model.module.modules()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in modules)
    assert hooks.projections(replica.model, "attn_pre_out")
    gc.collect()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiled models run as they were traced: machine code would take a minute."""
    monkeypatch.setattr(
        "workers.actor.Compiled", partial(Compiled, backend=lambda graph, _: graph.forward)
    )
    monkeypatch.setattr(getLogger("torch.__trace"), "handlers", [])  # or all of it is kept
    monkeypatch.setattr(getLogger("torch.__trace"), "disabled", True)


@pytest.mark.usefixtures("traced")
def test_what_is_not_compiled_runs_on_the_model_as_it_was_loaded(home: Path) -> None:
    mistral = tiny.ref(tiny.folder("mistral", home))
    replica, fresh = Replica(), Replica()
    for made in (replica, fresh):
        made.load(mistral)
    batches, order = two(replica)[:1], half_at_zero(mistral.facts.layers, mistral.facts.neurons)
    asked = (batches, [order, CellOrder(cell="bare")], {})
    for _ in range(2):
        compiled = replica.evaluate(*asked, logits_bytes=1 << 20, compile=True)
        assert replica.describe()["compiled"] == "yes"
    projection = hooks.projections(replica.model, "mlp_mid")[0]
    assert projection.bias is not None
    assert replica.check(batches[0], order) == pytest.approx(
        fresh.check(batches[0], order), abs=1e-6
    )
    assert projection.bias is not None  # trying cells out compiles nothing again
    replica.norms("mlp_mid")
    assert projection.bias is None
    assert "compiled" not in replica.describe()
    plain = replica.evaluate(*asked, logits_bytes=1 << 20)
    direct = fresh.evaluate(*asked, logits_bytes=1 << 20)
    for one, other, third in zip(plain, direct, compiled, strict=True):
        assert equal(one, other, but=("seconds",))
        assert np.allclose(one.loss, third.loss, rtol=1e-5)


@pytest.mark.usefixtures("traced")
def test_a_compiled_model_goes_first_too(replica: Replica, opt: ModelRef) -> None:
    order = half_at_zero(opt.facts.layers, opt.facts.neurons)
    replica.evaluate(two(replica)[:1], [order], {}, logits_bytes=1 << 20, compile=True)
    old = weakref.ref(replica.model.module)
    replica.load(replace(opt, dtype="bfloat16"))
    assert old() is None
    assert "compiled" not in replica.describe()


def test_a_replica_says_why_it_did_not_compile(
    replica: Replica, opt: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, read: object) -> object:
        raise FileNotFoundError("no compiler here")

    monkeypatch.setattr("workers.actor.Compiled", partial(Compiled, backend=broken))
    order = half_at_zero(opt.facts.layers, opt.facts.neurons)
    (plain,) = replica.evaluate(two(replica), [order], {}, logits_bytes=1 << 20)
    (found,) = replica.evaluate(two(replica), [order], {}, logits_bytes=1 << 20, compile=True)
    assert equal(found, plain, but=("seconds",))
    assert replica.describe()["compiled"].endswith("FileNotFoundError: no compiler here")


def test_a_replica_that_shares_a_gpu_keeps_to_its_share_less_a_margin(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties())
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, of: kept.append((share, of))
    )
    replica.keep_to(0.5, 100)
    assert kept == [(0.25, 0)]


class Properties:
    total_memory = 400
