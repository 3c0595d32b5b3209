"""The laws of docs/design.md: each holds, and its check fails when the law is broken.

A law has a `Law`: `holds` asserts it, and `breaks` damages the code in one place.
The first test asserts that every law holds; the second damages the code and
asserts that the same check now fails, so no check is one that cannot fail.
Deeper tests of single laws stand beside the modules they are about.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch

from orchestrator import aggregate, calls, cases, cells, naming, plan, spec, sweep
from orchestrator.mistakes import Mistake, SpecError
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.orchestrator import planned
from tests.sweeps import answers, assert_same, written
from tests.workers import holding, tiny
from workers import ablation, folding, histogram, hooks, rotation, selection
from workers.histogram import MOMENTS, Histogram, MergeError, Windows
from workers.selection import Scope

TOY = """
name: toy
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 20}
methods: [zero, mean, peak(paper), resample]
fractions: [0.3, 1]
seeds: 2
statistics: {shards: 5}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    holds: Callable[[Path], None]
    breaks: Callable[[pytest.MonkeyPatch], None]


# 1 Split anywhere, same answer.


def shard(number: int) -> Histogram:
    random = np.random.default_rng(number)
    windows = Windows(exponent=np.array([-3, 0], np.int32), first=np.array([-4, -4]), bins=8)
    names = ("zeros", "below", "above", "positive", "firsts")
    counted = {name: random.integers(0, 9, 2) for name in names}
    return Histogram(
        windows=windows,
        shards=(number,),
        counts=random.integers(0, 99, (2, 8)),
        nan=np.zeros(2, np.int64),
        pos_inf=np.zeros(2, np.int64),
        neg_inf=np.zeros(2, np.int64),
        minimum=random.normal(size=2),
        maximum=random.normal(size=2) + 5,
        moments=random.normal(size=(1, 2, len(MOMENTS))) * 10.0 ** random.integers(-9, 9),
        **counted,
    )


def split_anywhere(_: Path) -> None:
    parts = [shard(i) for i in range(4)]
    flat = histogram.merge(parts)
    tree = histogram.merge([histogram.merge([parts[3], parts[1]]), histogram.merge(parts[::2])])
    assert flat.shards == tree.shards == (0, 1, 2, 3)
    assert np.array_equal(flat.counts, tree.counts)
    one, other = histogram.summarise(flat), histogram.summarise(tree)
    assert one.mean.tobytes() == other.mean.tobytes()
    assert one.kurtosis.tobytes() == other.kurtosis.tobytes()
    with pytest.raises(MergeError):
        histogram.merge([parts[0], histogram.merge(parts[:2])])


def added_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "_refuse_second_delivery", lambda had, shards: None)


# 2 The same sweep gives the same numbers (on Ray: tests/test_sweep.py).


def same_numbers(folder: Path) -> None:
    file = written(folder, TOY)
    sweep.run(file, out=folder / "one", local=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "CONSTANTS_PER_CALL", 3)
        patch.setattr(calls, "DONATED_PER_CALL", 1)
        # Interrupted: one model's share now, the rest later.
        sweep.run(file, out=folder / "other", local=True, only="method = 'mean'")
        sweep.run(file, out=folder / "other", local=True)
    assert_same(folder / "one", folder / "other")


def batches_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the shape of a batch depend on how many cells share a call."""
    whole = cases.Cases.evaluate

    def evaluate(self: cases.Cases, task: Task) -> dict[str, object]:
        fewer = {**task.arguments, "batch_tokens": 17 * len(task.cells)}
        return whole(self, replace(task, arguments=fewer))

    monkeypatch.setattr(cases.Cases, "evaluate", evaluate)


# 3 A cell is named by the recipe of everything that changes its answer, and by nothing else.


def named(
    folder: Path, *, device: str = "cpu", digest: str = "weights", **changes: object
) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        planned.know(patch, {"a": planned.facts(digest=digest)})
        planned.documents(folder)
        made = plan.make(spec.parse(planned.raw(**changes)), base=folder, device=device)
    return set(made.cells)


def named_by_recipe(folder: Path) -> None:
    usual = named(folder)
    assert named(folder, device="cuda") == usual
    assert named(folder, cluster={"workers": 7}) == usual
    assert named(folder, methods=["resample", "peak(paper)", "peak", "mean", "zero"]) == usual
    assert named(folder, digest="other weights").isdisjoint(usual)
    assert named(folder, models=[{"id": "a", "dtype": "bfloat16"}]).isdisjoint(usual)
    assert named(folder, evaluation={"batch_tokens": 512}).isdisjoint(usual)


def named_without_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cells.bare
    monkeypatch.setattr(
        naming, "bare", lambda *of: {k: v for k, v in whole(*of).items() if k != "dtype"}
    )


# 4 Done is a fact on disk.


def done_on_disk(folder: Path) -> None:
    store = Store.open(folder / "run")
    assert store.commit("results/part", b"first")
    assert not store.commit("results/part", b"second")
    assert store.path("results/part").read_bytes() == b"first"
    counts = dict.fromkeys(("tokens", "top1", "top10", "nan"), 3)
    row = {"cell": "c", "document": "d", "sequence": 1, "loss": 2.0, **counts}
    row |= dict.fromkeys(("kl", "tokens_rare", "top1_rare"))
    row |= dict.fromkeys(("tokens_mask", "top1_mask", "loss_mask"))
    twice = pl.LazyFrame([row, row])
    assert aggregate.distinct(twice).collect().height == 1
    with pytest.raises(aggregate.DifferingAnswersError, match="c"):
        aggregate.distinct(pl.LazyFrame([row, {**row, "loss": 2.5}])).collect()


def last_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(self: Store, file: str, content: bytes) -> bool:
        self.replace(file, content)
        return True

    monkeypatch.setattr(Store, "commit", commit)


# 5 Folding equals hooking.


def folding_is_hooking(folder: Path) -> None:
    model = tiny.model("opt", folder)
    batch = tiny.batch(model, [1, 2, 3])
    held, values = holding.random_held(model, 0.5), holding.random_values(model)
    before = holding.bits(model)
    with torch.inference_mode():
        with holding.hooked_at(model, held, values):
            hooked = hooks.hidden(model, batch)
        with ablation.folded(model, "attn_pre_out", held, values):
            folded = hooks.hidden(model, batch)
    assert holding.difference(folded, hooked) < 1e-5
    assert holding.bits(model) == before
    assert holding.hooks_left(model) == 0


def never_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding.ExitStack, "close", lambda self: None)


# 6 Proof of effect is measured.


def effect_is_measured(folder: Path) -> None:
    model = tiny.model("opt", folder)
    held, values = holding.random_held(model, 0.5), holding.random_values(model)
    with ablation.folded(model, "attn_pre_out", held, values) as proof:
        assert proof.told == proof.held == sum(map(len, held))
    with pytest.MonkeyPatch.context() as patch:
        # The fold writes to copies that the forward pass never sees.
        patch.setattr(folding, "_own", lambda p, name: getattr(p, name).detach().clone())
        with (
            pytest.raises(folding.AblationError),
            ablation.folded(model, "attn_pre_out", held, values),
        ):
            pass


def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_back(fold: folding.Fold, before: object) -> folding.Proof:
        told = sum(len(part.columns_H) for part in fold._parts)
        return folding.Proof(told=told, held=told, zero_before=0)

    monkeypatch.setattr(folding.Fold, "_read_back", read_back)


# 7 Masks are nested and shared between methods.


def masks_are_nested(folder: Path) -> None:
    drawn = selection.order(64, seed=3, layer=1)
    held: set[int] = set()
    for fraction in ("0.1", "0.35", "0.5", "1"):
        k = selection.count(Decimal(fraction), 64)
        more = set(selection.held(drawn, k).tolist())
        assert held < more
        assert len(more) == k
        held = more
    assert held == set(range(64))
    assert selection.count(Decimal("0.35"), 10) == 4
    with pytest.raises(SpecError, match="holds nothing"):
        named(folder, fractions=[0.01])


def any_k(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(order: np.ndarray, k: int) -> np.ndarray:
        return np.sort(np.random.default_rng(k).permutation(order)[:k])

    monkeypatch.setattr(selection, "held", held)


# 8 A wrong input is refused before anything runs, every mistake at once.


def all_mistakes_at_once(folder: Path) -> None:
    file = written(
        folder,
        "modles: []\nmodels: [zoo:optt, ./nowhere]\nmethods: [peek]\nfractions: [1.2]\nseeds: []\n",
    )
    with pytest.raises(SpecError) as refused:
        sweep.run(file, out=folder / "run", local=True)
    paths = [m.path for m in refused.value.mistakes]
    assert sorted(paths) == ["fractions", "methods[0]", "models[0]", "models[1]", "modles", "seeds"]
    assert not (folder / "run").exists()


def first_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(self: SpecError, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes[:1]

    monkeypatch.setattr(SpecError, "__init__", init)


# New with rotations, scores and complements (science.md: Basis; design.md: law 7).


CONTROL = """
name: control
models: [zoo:vit]
data:
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 12}
methods: [zero, mean]
fractions: [0.5]
units: [head]
seeds: 2
basis: {rotate: 5}
statistics: {shards: 2}
"""


def rotation_keeps_heads(folder: Path) -> None:
    """The unablated model, heads at zero and whole heads at their mean are the same when turned."""
    run = Path(sweep.run(written(folder, CONTROL), out=folder / "run", local=True).run)
    sums = answers(run).group_by("cell").agg(pl.col("loss").sum())
    points = pl.read_parquet(run / "cells.parquet").join(sums, on="cell")
    own, turned = (
        points.filter(pl.col("basis") == basis).sort("method", "seed", "fraction")
        for basis in ("own", "rotated 5")
    )
    assert len(own) == len(turned) == 2 * 2 * 2
    assert set(own["cell"]).isdisjoint(turned["cell"])
    # Rounding: 12 images lose some nats, and float32 keeps 1e-7 of every product.
    np.testing.assert_allclose(turned["loss"], own["loss"], rtol=1e-4)
    # And it is another basis: what single neurons say is something else.
    statistics = pl.read_parquet(run / "statistics" / "**" / "*.parquet")
    means = [
        statistics.filter(pl.col("basis") == basis).sort("layer", "neuron")["mean"].to_numpy()
        for basis in ("own", "rotated 5")
    ]
    assert not np.allclose(means[0], means[1], atol=0.01)
    # Law 6: every model, in every basis, was tried before it answered.
    done = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    tried = [e for e in done if e["event"] == "done" and e.get("canaries")]
    assert len(tried) == 2
    assert all(set(e["canaries"]) == {"attn_pre_out"} for e in tried)
    compared = [e["fold_minus_hook"] for e in done if e["event"] == "done" and "answers" in e]
    assert {m for c in compared for m in c} == {"zero at attn_pre_out", "mean at attn_pre_out"}
    assert all(difference < 1e-4 for c in compared for difference in c.values())


def turned_forth_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have values turned and not turned back; and nobody look."""
    put = rotation._put

    def forth(projection: torch.nn.Linear, name: str, first: int, rows: torch.Tensor) -> None:
        if projection.out_features > projection.in_features:  # makes queries, keys and values
            put(projection, name, first, rows)

    monkeypatch.setattr(rotation, "_put", forth)
    monkeypatch.setitem(rotation.TOLERANCE, torch.float32, np.inf)


def scopes() -> list[tuple[Scope, dict[tuple[int, int] | None, np.ndarray]]]:
    """Return scopes of one and two sites, within layers and over all, with some orders."""
    found: list[tuple[Scope, dict[tuple[int, int] | None, np.ndarray]]] = []
    for layers in ((0, 1, 2), (0, 2)):
        for units, widths in (((6,), (4,)), ((6, 10), (1, 1))):
            scope = Scope(layers=layers, depth=3, units=units, widths=widths)
            apart: dict[tuple[int, int] | None, np.ndarray] = {
                (site, layer): selection.order(n, seed=1, layer=layer)
                for site, n in enumerate(units)
                for layer in range(3)
            }
            found += [
                (scope, apart),
                (scope, {None: selection.order_over_all(3 * sum(units), seed=2)}),
            ]
    return found


def prefixes_grow_and_complements_are_the_rest(_: Path) -> None:
    """Of every rule a larger fraction holds what a smaller one does, its complement the rest."""
    for scope, orders in scopes():
        everything = _flat(scope, [[np.arange(n)] * scope.depth for n in scope.units])
        held: set[tuple[int, int, int]] = set()
        for fraction in ("0.1", "0.25", "0.5", "0.9", "1"):
            over: Literal["layer", "all"] = "all" if None in orders else "layer"
            some = selection.chosen(scope, Decimal(fraction), over=over)
            more = _flat(scope, selection.units_held(scope, some, orders))
            assert held <= more
            assert len(more) == some.held(scope)
            others = replace(scope, complement=True)
            rest = _flat(scope, selection.units_held(others, some, orders))
            assert len(rest) == some.held(others)
            assert not more & rest
            assert more | rest == everything
            held = more
        assert {layer for _, layer, _ in held} == set(scope.layers)


def _flat(scope: Scope, units: list[list[np.ndarray]]) -> set[tuple[int, int, int]]:
    return {
        (site, layer, int(unit))
        for site, per_layer in enumerate(units)
        for layer, some in enumerate(per_layer)
        for unit in some
    }


def complements_of_the_same_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a complement leave out the layers that nothing was chosen from."""
    whole = selection.units_held

    def held(scope: Scope, *rest: object) -> list[list[np.ndarray]]:
        found = whole(scope, *rest)  # type: ignore[arg-type]
        none = np.empty(0, np.int64)
        return [[u if i in scope.layers else none for i, u in enumerate(of)] for of in found]

    monkeypatch.setattr(selection, "units_held", held)


LAWS: dict[int | str, Law] = {
    1: Law(holds=split_anywhere, breaks=added_twice),
    2: Law(holds=same_numbers, breaks=batches_by_call),
    3: Law(holds=named_by_recipe, breaks=named_without_dtype),
    4: Law(holds=done_on_disk, breaks=last_one_wins),
    5: Law(holds=folding_is_hooking, breaks=never_restored),
    6: Law(holds=effect_is_measured, breaks=believed),
    7: Law(holds=masks_are_nested, breaks=any_k),
    8: Law(holds=all_mistakes_at_once, breaks=first_wins),
    "basis": Law(holds=rotation_keeps_heads, breaks=turned_forth_only),
    "rest": Law(
        holds=prefixes_grow_and_complements_are_the_rest, breaks=complements_of_the_same_layers
    ),
}


@pytest.mark.parametrize("number", LAWS)
def test_the_law_holds(number: int | str, tmp_path: Path) -> None:
    LAWS[number].holds(tmp_path)


@pytest.mark.parametrize("number", LAWS)
def test_a_breach_of_the_law_is_noticed(
    number: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAWS[number].breaks(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        LAWS[number].holds(tmp_path)
