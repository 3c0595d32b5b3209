"""Sharding: two processes that hold a model together do what one that holds it whole does.

What they compute differs by rounding: sums over ranks are made in another order. So hidden
states are compared to a few ulps of their size, losses to 1e-5, and a count may only have
moved to the next bin, where its activation lies within rounding of the edge.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.workers import tiny
from tests.workers.cells import BUDGET, KINDS, batches, donors, held_at, needed
from tests.workers.ranks import on_ranks
from workers import cuts, hooks, sharding
from workers.ablation import checked_by_hook
from workers.canaries import canaries
from workers.collect import collect, pilot, recount
from workers.evaluate import evaluate
from workers.generating import generate
from workers.histogram import Histogram
from workers.loading import Model, load
from workers.messages import SITES, CellAnswer, CellOrder, ModelRef
from workers.under import Passes, in_sequence
from workers.weights import column_norms

CUT = [name for name in tiny.EVERY if name in cuts.CUTS and name != "gemma"]  # one kv head
LAYOUTS = ["opt", "gpt2", "gpt-neox", "phi3", "timm-vit"]
"""Families whose layers are cut in ways that differ."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def reference(name: str, parent: Path, shards: int = 1, dtype: Any = "float32") -> ModelRef:
    path = parent / name
    return replace(
        tiny.ref(path if path.is_dir() else tiny.folder(name, parent), dtype), shards=shards
    )


def hidden(refs: list[ModelRef]) -> list[NDArray[np.float32]]:
    found = []
    for ref in refs:
        model = load(ref)
        found.append(hooks.hidden(model, tiny.batch(model, [1, 2, 3])).float().numpy())
    return found


@pytest.mark.parametrize("names", [LAYOUTS, pytest.param(CUT, marks=pytest.mark.slow)])
def test_hidden_states_are_those_of_the_whole_model(names: list[str], checkpoints: Path) -> None:
    refs = [reference(name, checkpoints) for name in names]
    whole = hidden(refs)
    ranks = on_ranks(2, hidden, [replace(ref, shards=2) for ref in refs])
    for name, whole_STD, first_STD, second_STD in zip(names, whole, *ranks, strict=True):
        np.testing.assert_array_equal(first_STD, second_STD, err_msg=name)
        size = np.abs(whole_STD).max()
        np.testing.assert_allclose(first_STD, whole_STD, atol=4e-6 * size, rtol=0, err_msg=name)


def test_four_processes_and_half_precision(checkpoints: Path) -> None:
    refs = [reference("opt", checkpoints), reference("roberta", checkpoints, 1, "bfloat16")]
    whole = hidden(refs)
    (found, *others) = on_ranks(4, hidden, [replace(ref, shards=4) for ref in refs])
    for other in others:
        for one_STD, other_STD in zip(found, other, strict=True):
            np.testing.assert_array_equal(one_STD, other_STD)
    np.testing.assert_allclose(found[0], whole[0], atol=2e-5)
    np.testing.assert_allclose(found[1], whole[1], atol=0.1)


def everything(ref: ModelRef) -> dict[str, Any]:
    """Return what is asked of a model in the course of a sweep."""
    model = load(ref)
    return {
        "cells": answers(model),
        "hooked": checked_by_hook(
            model, batches(model)[0], held_at(model, "constant", sites=SITES)
        ),
        "canaries": canaries(model, batches(model)[0], sites=SITES),
        "norms": [column_norms(model, site) for site in SITES],
        "counts": [counts(model, batches(model), rows) for rows in (None, np.array([1, 2, 60]))],
        "texts": texts(model) if model.facts.modality == "causal" else None,
        "under": beneath(model),
    }


def cells(model: Model) -> list[CellOrder]:
    kinds = [held_at(model, kind) for kind in KINDS if model.facts.modality != "image"]
    return [
        CellOrder(cell="bare"),
        *kinds,
        held_at(model, "constant", 1.0, sites=SITES),
        held_at(model, "constant", 0.3, alpha=0.5, sites=SITES[1:]),
        held_at(model, "noise", 0.5, sites=SITES),
    ]


def answers(model: Model) -> list[CellAnswer]:
    orders, mine = cells(model), batches(model)
    given = needed(orders, donors(model))
    return evaluate(model, mine, orders, given, logits_bytes=BUDGET, kl=True)


def counts(model: Model, mine: list[Any], rows: NDArray[np.intp] | None) -> tuple[Any, ...]:
    windows = pilot(model, mine, site="attn_pre_out", bins=64, positions=30, seed=0)
    if rows is not None:
        windows = windows.taken(rows)
    found = collect(model, mine, site="attn_pre_out", windows=windows, rows=rows, shard=3)
    if rows is not None:
        return windows, found, None
    ends = {"low": found.minimum - 1, "high": found.maximum + 1}
    return windows, found, recount(model, mine, site="attn_pre_out", bins=10, shard=3, **ends)


def texts(model: Model) -> list[NDArray[np.int64]]:
    prompts = [np.array([tiny.BOS]), np.array([tiny.BOS, 7])]
    return generate(model, prompts, [9, 12], seed=1, sequence_S=np.array([4, 5]))


def beneath(model: Model) -> Histogram:
    passes = Passes(pilot=batches(model), shards=[(0, batches(model))], bins=64)
    held = [np.arange(0, model.facts.neurons, 2)] * model.facts.layers
    return in_sequence(model, passes, held, lambda h: h.minimum)


@pytest.fixture(
    scope="module",
    params=[
        "mistral",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "roberta", "vit")),
    ],
)
def both(
    request: pytest.FixtureRequest, checkpoints: Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return everything of one whole model, and of both processes that hold it together."""
    ref = reference(request.param, checkpoints)
    first, second = on_ranks(2, everything, replace(ref, shards=2))
    return everything(ref), first, second


def test_cells_have_the_answers_and_the_proof_of_the_whole_model(both: Any) -> None:
    for whole, *ranks in zip(*(one["cells"] for one in both), strict=True):
        for rank in ranks:
            assert (rank.cell, rank.told, rank.held) == (whole.cell, whole.told, whole.held)
            np.testing.assert_array_equal(rank.tokens, whole.tokens)
            np.testing.assert_allclose(rank.loss, whole.loss, rtol=2e-5, err_msg=whole.cell)
            np.testing.assert_allclose(rank.kl, whole.kl, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(ranks[0].loss, ranks[1].loss)


def test_canaries_sing_and_a_fold_is_its_hook(both: Any) -> None:
    whole, *ranks = both
    for rank in ranks:
        assert rank["hooked"] < 1e-5
        assert rank["canaries"].hookpoints == whole["canaries"].hookpoints
        assert rank["canaries"].least == pytest.approx(whole["canaries"].least, rel=1e-2)


def test_norms_of_columns_are_exactly_those_of_the_whole_model(both: Any) -> None:
    for whole, *ranks in zip(*(one["norms"] for one in both), strict=True):
        for rank in ranks:
            np.testing.assert_allclose(rank.l1, whole.l1, rtol=1e-12)
            np.testing.assert_allclose(rank.l2, whole.l2, rtol=1e-12)


def test_counts_differ_only_where_an_activation_is_at_an_edge(both: Any) -> None:
    for whole, *ranks in zip(*(one["counts"] for one in both), strict=True):
        for rank in ranks:
            compare(whole, rank)
    compare_tables(both[0]["under"], both[1]["under"])


def compare(whole: tuple[Any, ...], rank: tuple[Any, ...]) -> None:
    placed, table, fixed = whole
    windows, found, again = rank
    same = (windows.exponent == placed.exponent) & (windows.first == placed.first)
    assert same.mean() > 0.98  # a pilot's quantile may lie at an edge too
    compare_tables(table, found, same)
    if fixed is not None:
        assert (again.counts.sum(axis=1) == fixed.counts.sum(axis=1)).all()
        assert np.abs(again.counts - fixed.counts).sum() <= 2 * flips(fixed.counts)


def flips(counts_RB: NDArray[np.int64]) -> int:
    """Return how many activations may have moved: a thousandth, rounded up."""
    return int(counts_RB.sum() // 1000 + 1)


def compare_tables(
    whole: Histogram, found: Histogram, same_R: NDArray[np.bool_] | None = None
) -> None:
    where = np.ones(len(whole.counts), np.bool_) if same_R is None else same_R
    assert found.shards == whole.shards
    np.testing.assert_array_equal(found.finite, whole.finite)
    np.testing.assert_allclose(found.minimum, whole.minimum, atol=2e-5)
    np.testing.assert_allclose(found.maximum, whole.maximum, atol=2e-5)
    moved = np.abs(found.counts[where] - whole.counts[where]).sum()
    assert moved <= 2 * flips(whole.counts)


def test_a_model_writes_the_same_texts(both: Any) -> None:
    whole, *ranks = both
    for rank in ranks:
        if whole["texts"] is None:
            continue
        for text, other in zip(whole["texts"], rank["texts"], strict=True):
            np.testing.assert_array_equal(text, other)


def weights(ref: ModelRef) -> tuple[int, int]:
    """Return the parameters that a process holds, and as many as the arithmetic says."""
    model = load(ref)
    held = sum(parameter.numel() for parameter in model.module.parameters())
    return held, cuts.parameters(model.facts, ref.shards)


def test_a_process_holds_its_share_of_the_layers_and_no_more_than_is_said(
    checkpoints: Path,
) -> None:
    for name in ("opt", "mistral"):
        ref = reference(name, checkpoints)
        whole, _ = weights(ref)
        (held, said), other = on_ranks(2, weights, replace(ref, shards=2))
        assert (held, said) == other
        assert 0.5 * whole < held <= said < whole


def test_a_sharded_model_is_refused_where_nobody_shares_it(checkpoints: Path) -> None:
    with pytest.raises(sharding.ShardingError, match="has not joined others"):
        load(reference("opt", checkpoints, 2))


def test_what_cannot_be_divided_is_refused_with_what_could_be_written(checkpoints: Path) -> None:
    facts = replace(reference("opt", checkpoints).facts, heads=12, kv_heads=4, d_mlp=64)
    assert cuts.refusal(facts, 1) is None
    assert cuts.refusal(facts, 4) is None
    assert "its 4 heads with keys and values" in str(cuts.refusal(facts, 3))
    assert "write `shards: 4`" in str(cuts.refusal(facts, 6))
    assert "leave `shards` out" in str(cuts.refusal(replace(facts, kv_heads=1), 2))
    assert "olmo2 model cannot be sharded" in str(cuts.refusal(replace(facts, family="olmo2"), 2))


def test_a_rank_that_dies_makes_the_sums_of_the_others_fail(checkpoints: Path) -> None:
    with pytest.raises(AssertionError, match=r"RuntimeError|Connection"):
        on_ranks(2, dies)


def dies() -> float:
    if sharding.ranks().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(sharding.ranks().sum(torch.ones(3)).sum())
