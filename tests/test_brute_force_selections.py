"""Every rule that says which units are held, recomputed by code that shares nothing with ours.

Orders by scores are made again from the statistics table and the checkpoint's weights, the
regression's masks are evaluated again by hooks and regressed again by another route, lists are
read as they were written; and every cell is evaluated again, a sequence at a time, as in
`tests.test_brute_force_methods`.

Shapes: L layers, N neurons and U units of one hookpoint, K masks, S sequences.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests import brute_force as plainly
from tests import brute_force_held
from tests.brute_force import Row
from tests.recomputed import TIES, Finished, agree, assert_recomputed, finished_once, held

DATA = """
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 4}
  more:
    source: zoo:text
    collect: {split: train, sequences: 36}
    evaluate: {split: test, sequences: 4}
methods: [mean]
statistics: {shards: 4}
"""
SCORES = """
name: scores
models: [zoo:roberta]
seeds: 1
fractions: [0.3]
sites: [attn_pre_out, mlp_mid]
selections:
  - random
  - random(global)
  - score(mean, low)
  - score(std, high)
  - score(rms, low, global)
  - score(abs_mean, high)
  - score(positive, low)
  - score(mean_minus_peak, low, global)
  - score(modes, high)
  - score(kurtosis, high)
  - score(fluctuation, low)
  - score(wanda, high, global)
  - score(rms, high, against=more)
  - score(difference, low, against=more)
  - score(standardised, high, global, against=more)
  - score(peak_centred, low, against=more)
"""
JOINT = """
name: joint
models: [zoo:mistral]
seeds: 1
fractions: [0.35]
sites: [[attn_pre_out, mlp_mid]]
selections: [random, random(global), "score(positive, low)", "score(positive, high, global)",
             explicit(units.parquet)]
complement: true
basis: {rotate: 1}
"""
HEADS = """
name: heads
models: [zoo:mistral]
methods: [zero, mean, resample(per_head)]
seeds: 1
fractions: [0.25, 1]
units: [head]
layers: LAYERS
complement: COMPLEMENT
selections: [random, random(global), "score(wanda, low)", explicit(heads.npy),
             "regression(masks=48, block=2)",
             "regression(masks=36, block=3, share=0.25, ridge=0.1, high)"]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 10}
    evaluate: {split: test, sequences: 3}
"""
AGAIN = """
name: again
models: [zoo:opt]
methods: [mean, peak]
seeds: 1
fractions: [0.25, 0.5, 0.75]
selections: ["score(rms, low, each_fraction)", "score(kurtosis, high, global, each_fraction)"]
statistics: {shards: 2, mode: MODE}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with plainly.one_thread():
        yield


def lists(folder: Path) -> None:
    """Write the lists that the sweeps name: units of both sites in turns, and some heads."""
    draw = np.random.default_rng(0)
    sizes = {"attn_pre_out": 128, "mlp_mid": 320}
    rows = [
        {"site": site, "layer": layer, "neuron": int(n)}
        for site, size in sizes.items()
        for layer in (0, 1, 3)
        for n in draw.permutation(size)[:17]
    ]
    table = pl.DataFrame([rows[i] for i in draw.permutation(len(rows))])
    table.with_columns(rank=pl.Series(draw.permutation(len(rows)))).write_parquet(
        folder / "units.parquet"
    )
    np.save(folder / "heads.npy", np.array([[3, 1], [0, 7], [2, 2], [0, 0], [1, 5], [3, 6]]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Finished]:
    return finished_once(tmp_path_factory, DATA, prepare=lists)


def scores(of: Finished, row: Row, site: str, under: str | None = None) -> np.ndarray:
    """Return what a row of `selections` should rank by at one site, (L, U)."""
    p, plain = json.loads(row["parameters"]), of.bases[row["basis"]]
    names = ("mean", "std", "abs_mean", "positive", "peak", "kurtosis", "modes")
    where = {"basis": row["basis"]}

    def of_data(data: str) -> dict[str, np.ndarray]:
        return brute_force_held.columns(of.tables, site, names, cell=under, data=data, **where)

    x = of_data(row["data"])
    if "against" in p:
        score_LN = brute_force_held.between(p["by"], x, of_data(p["against"]), plain, site)
    else:
        score_LN = brute_force_held.scored(p["by"], x, plain, site)
    if row["unit"] == "head":
        score_LN = score_LN.reshape(len(score_LN), plain.heads, -1).mean(axis=2)
    return score_LN


def ranked_right(of: Finished, row: Row, under: str | None = None, kept: int = 0) -> None:
    """Assert that a row's order is by its scores, and those by their formulas."""
    layers = [scores(of, row, site, under) for site in row["site"].split("+")]
    flat = np.concatenate([s.ravel() for s in layers])
    score_U = flat if row["layer"] is None else layers[0][row["layer"]]
    order_U = np.array(row["order"])
    new_U = order_U[kept:]
    np.testing.assert_allclose(row["score"][kept:], score_U[new_U], rtol=1e-9, atol=1e-12)
    said_U = score_U.copy()  # equal but for rounding; ties are those of the scores as written
    said_U[new_U] = row["score"][kept:]
    first = json.loads(row["parameters"]).get("first", "low")
    renumbered = np.argsort(np.argsort(new_U))
    brute_force_held.assert_ranked(renumbered.tolist(), said_U[np.sort(new_U)], first)
    assert sorted(order_U) == list(range(len(score_U)))


@pytest.mark.slow
def test_orders_by_scores_are_those_of_the_statistics_and_the_weights(
    finished: Callable[[str, str], Finished],
) -> None:
    for of in (finished(SCORES, "zoo:roberta"), finished(JOINT, "zoo:mistral")):
        rows = [r for r in of.tables.rows("selections") if r["selection"].startswith("score")]
        assert len(rows) > 2
        for row in rows:
            ranked_right(of, row)


def test_random_orders_are_permutations_that_differ_between_layers_and_sites(
    finished: Callable[[str, str], Finished],
) -> None:
    of = finished(SCORES, "zoo:roberta")
    rows = [r for r in of.tables.rows("selections") if r["selection"] == "random"]
    assert len(rows) == 8
    for row in rows:
        assert sorted(row["order"]) == list(range({"mlp_mid": 512}.get(row["site"], 128)))
        assert (row["score"], row["basis"]) == (None, None)
    assert len({tuple(r["order"][:50]) for r in rows}) == len(rows)
    whole = [r for r in of.tables.rows("selections") if r["selection"] == "random(global)"]
    assert {(r["site"], len(r["order"])) for r in whole} == {
        ("attn_pre_out", 4 * 128),
        ("mlp_mid", 4 * 512),
    }


def test_cells_of_every_score_hold_what_its_order_says(
    finished: Callable[[str, str], Finished],
) -> None:
    of = finished(SCORES, "zoo:roberta")
    assert len(of.distinct) == 1 + 2 * 16
    assert_recomputed(of, of.distinct.values())


def test_all_but_the_chosen_of_two_sites_and_bases_are_held(
    finished: Callable[[str, str], Finished],
) -> None:
    of = finished(JOINT, "zoo:mistral")
    assert len(of.distinct) == 2 * (1 + 5)
    assert_recomputed(of, of.distinct.values())
    listed = pl.read_parquet(of.run.parent / "units.parquet").sort("rank")
    (row,) = [r for r in of.tables.rows("selections") if r["selection"].startswith("explicit")][:1]
    starts = {"attn_pre_out": (0, 128), "mlp_mid": (4 * 128, 320)}
    flat = [starts[s][0] + i * starts[s][1] + n for s, i, n, _ in listed.iter_rows()]
    assert row["order"] == flat


@pytest.mark.parametrize(
    ("layers", "complement"),
    [
        ("all", "false"),
        ("[0, 2, 3]", "true"),
        pytest.param("each", "false", marks=pytest.mark.slow),
        pytest.param("each", "true", marks=pytest.mark.slow),
    ],
)
def test_heads_are_held_in_some_layers_or_in_all_but_those(
    finished: Callable[[str, str], Finished], layers: str, complement: str
) -> None:
    text = HEADS.replace("LAYERS", layers).replace("COMPLEMENT", complement)
    if layers == "each":  # a list of some layers' heads may have none of one
        text = text.replace("explicit(heads.npy),", "").replace("resample(per_head)", "median")
    if complement == "true":  # the regression knows of neither
        text = text.replace('"regression(masks=48, block=2)",', "")
    of = finished(text, "zoo:mistral")
    assert_recomputed(of, of.distinct.values())
    if layers == "[0, 2, 3]":
        whole = [
            c for c in of.distinct.values() if c["fraction"] == 1 and "expl" not in c["selection"]
        ]
        assert {c["units_held"] for c in whole} == {8}  # the layer that nothing is chosen from


def masks(units: int, number: int, share: float) -> np.ndarray:
    """Return the random masks of a regression with seed 0, (K, U), as its page says."""
    held_KU = np.zeros((number, units), bool)
    size = int(share * units + 0.5)
    for k in range(number):
        if k % 2 and 2 * size == units:
            held_KU[k] = ~held_KU[k - 1]
            continue
        philox = np.random.Philox(key=[0, k], counter=[0, 0, 0, 13])
        uniform_U = np.random.Generator(philox).random(units)
        held_KU[k, np.argsort(uniform_U)[:size]] = True
    return held_KU


@pytest.mark.parametrize(
    ("selection", "number", "share", "block", "ridge", "first"),
    [
        ("regression(block=2, masks=48)", 48, 0.5, 2, 0.01, "low"),
        ("regression(high, block=3, masks=36, ridge=0.1, share=0.25)", 36, 0.25, 3, 0.1, "high"),
    ],
)
def test_effects_are_those_of_masks_evaluated_by_hooks(
    finished: Callable[[str, str], Finished],
    selection: str,
    number: int,
    share: float,
    block: int,
    ridge: float,
    first: str,
) -> None:
    of = finished(HEADS.replace("LAYERS", "all").replace("COMPLEMENT", "false"), "zoo:mistral")
    plain, depth = of.bases["own"], 4
    means = of.tables.centres("mean", "{}")
    blocks = -(-plain.heads // block)
    held_KU = masks(depth * blocks, number, share)
    losses, tokens = np.zeros(number + 1), 0
    for row in of.tables.role("collect"):
        target_T = plainly.target(row)
        for k, held_U in enumerate([*held_KU, np.zeros(held_KU.shape[1], bool)]):
            heads_LH = np.repeat(held_U.reshape(depth, -1), block, axis=1)[:, : plain.heads]
            neurons_LN = [np.flatnonzero(np.repeat(heads_H, 16)) for heads_H in heads_LH]
            holding = [(n, mean_N[n]) for n, mean_N in zip(neurons_LN, means, strict=True)]
            logits_TV = plainly.logits_while_held(plain, plainly.fed(row), holding)
            score = plainly.score(logits_TV, target_T, rounding=0)
            losses[k] += score.loss
        tokens += score.tokens
    change_K = losses[:-1] / tokens - losses[-1] / tokens
    # Ridge with an unpenalised level: the number of units held. Solved as one linear system.
    x_KU, a_K = held_KU.astype(float), held_KU.sum(axis=1) / np.linalg.norm(held_KU.sum(axis=1))
    z_KU = x_KU - np.outer(a_K, a_K @ x_KU)
    strength = ridge * np.square(z_KU).sum() / z_KU.shape[1]
    gamma_U = np.linalg.solve(z_KU.T @ z_KU + strength * np.eye(z_KU.shape[1]), z_KU.T @ change_K)
    level = (a_K @ change_K - a_K @ x_KU @ gamma_U) / np.linalg.norm(held_KU.sum(axis=1))
    effect_LB = (gamma_U + level).reshape(depth, blocks)
    effect_U = np.repeat(effect_LB, block, axis=1)[:, : plain.heads].ravel()
    (row,) = [r for r in of.tables.rows("selections") if r["selection"] == selection]
    order_U, score_U = np.array(row["order"]), np.array(row["score"])
    np.testing.assert_allclose(score_U, effect_U[order_U], rtol=1e-4, atol=1e-6)
    assert np.all(np.diff(score_U) * (1 if first == "low" else -1) >= 0)
    assert np.all(row["score_low"] < score_U)
    assert np.all(score_U < row["score_high"])
    assert sorted(order_U) == list(range(32))


@pytest.mark.parametrize("mode", ["one_shot", pytest.param("per_fraction", marks=pytest.mark.slow)])
def test_scores_are_taken_again_while_what_is_chosen_is_held(
    finished: Callable[[str, str], Finished], mode: str
) -> None:
    of = finished(AGAIN.replace("MODE", mode), "zoo:opt")
    chains: dict[tuple[str, str], list[Row]] = {}
    for cell in of.distinct.values():
        if cell["fraction"]:
            chains.setdefault((cell["selection"], cell["method"]), []).append(cell)
    assert len(chains) == 4
    ties = 0
    for chain in chains.values():
        before: Row | None = None
        said: list[Row] = []
        for cell in sorted(chain, key=lambda c: c["fraction"]):
            rows = _again(of, cell, before, said)
            which = held(of, cell, rows)
            ties += sum(agree(of, cell, which).values())
            before, said = cell, rows
    assert ties <= TIES


def _again(of: Finished, cell: Row, before: Row | None, said: list[Row]) -> list[Row]:
    """Return the rows that a cell's units are a prefix of: by the scores under the cell before."""
    size = brute_force_held.size(of.bases["own"], cell)
    under = None if before is None else before["cell"]
    found: dict[int | None, list[Row]] = {}
    for row in brute_force_held.orders(of.tables, cell):
        number = sum(size.units.values()) * (size.depth if row["layer"] is None else 1)
        kept = brute_force_held.count(before["fraction"], number) if before is not None else 0
        (front,) = [r["order"][:kept] for r in said if r["layer"] == row["layer"]] or [[]]
        if row["order"][:kept] == front:
            try:
                ranked_right(of, row, under, kept)
            except AssertionError:
                continue  # of another method or fraction: the table does not say which
            found.setdefault(row["layer"], []).append(row)
    assert set(found) == ({None} if "global" in cell["selection"] else set(range(size.depth)))
    assert all(all(r["order"] == rows[0]["order"] for r in rows) for rows in found.values())
    return [rows[0] for rows in found.values()]


def test_what_is_held_already_stays_in_front(finished: Callable[[str, str], Finished]) -> None:
    of = finished(AGAIN.replace("MODE", "one_shot"), "zoo:opt")
    # Bare, and under each of two methods at two fractions, for every layer or once.
    rows = of.tables.rows("selections")
    assert len([r for r in rows if "global" not in r["selection"]]) == (1 + 2 * 2) * 4
    assert len([r for r in rows if "global" in r["selection"]]) == 1 + 2 * 2
    assert torch.get_num_threads() == 1
