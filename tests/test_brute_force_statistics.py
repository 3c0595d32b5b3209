"""Strata, other estimators, other data and statistics under ablation, recomputed in the plain.

As `tests.test_brute_force` does for the rest: what a run's tables say is made again
from raw activations, taken by hooks on the library's own model, by code that shares
nothing with ours.

Shapes: N neurons of one layer, P positions, T positions of one sequence.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator import sweep
from tests import brute_force as plainly
from tests.brute_force import Plain, Row, Tables

ZOO = Path(__file__).parents[1] / "workers" / "zoo"
DATA = """
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 6}
  more:
    source: zoo:text
    collect: {split: train, sequences: 40}
    evaluate: {split: test, sequences: 6}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 48}
    evaluate: {split: test, sequences: 8}
"""
STRATA = """
name: strata
models: [zoo:opt, zoo:vit]
methods: [mean(position), peak(half_sample), peak(paper_global), "peak(smooth, position)"]
fractions: [0.5]
seeds: 1
statistics: {shards: 3, strata: [{position: [0, 1, 5]}, class]}
"""
BY_MEAN, BY_PEAK = '{"by":"position"}', '{"by":"position","estimator":"smooth"}'
STARTS = (0, 1, 5)
NAMES = ("position 0", "position 1-4", "position 5-")
OTHER = """
name: other
models: [zoo:opt]
methods: [mean]
fractions: [0.5]
seeds: 1
statistics: {shards: 2, data: more, positions: {skip_first: 2, specials: out}}
"""
AGAIN = """
name: again
models: [zoo:opt]
methods: [mean]
fractions: [0.25, 0.5]
seeds: 1
statistics: {shards: 2, mode: MODE}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with plainly.one_thread():
        yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def run(text: str) -> Path:
        if text not in made:
            folder = tmp_path_factory.mktemp("brute-force")
            file = folder / "sweep.yaml"
            file.write_text(text + DATA)
            outcome = sweep.run(file, out=folder / "run", local=True)
            assert not outcome.failures
            made[text] = Path(outcome.run)
        return made[text]

    return run


@pytest.fixture(scope="module", params=["zoo:opt", "zoo:vit"])
def tables(swept: Callable[[str], Path], request: pytest.FixtureRequest) -> Tables:
    return Tables(swept(STRATA), request.param)


def loaded(tables: Tables, attention: str = "eager") -> Plain:
    return plainly.load(ZOO / tables.model.removeprefix("zoo:"), attention=attention)


Kept = list[tuple[Row, list[Tensor]]]
"""Collected sequences, each with its activations (T, N) per layer."""


def activations(tables: Tables, held: plainly.Held | None = None) -> Kept:
    plain = loaded(tables, "sdpa")
    seen = []
    for row in tables.role("collect"):
        sequence = plainly.fed(row)
        layers = plainly.activations(plain, sequence)
        if held is not None:
            layers = plainly.activations_while_held(plain, sequence, held)
        seen.append((row, layers))
    return seen


@pytest.fixture(scope="module")
def raw(tables: Tables) -> Kept:
    return activations(tables)


def agree(tables: Tables, stratum: str, raw: Kept, chosen: Callable[[Row, int], list[int]]) -> None:
    """Compare a stratum's rows with the activations at chosen positions of every sequence."""
    table = tables.stratum(stratum)
    for layer in range(len(raw[0][1])):
        x_PN = torch.cat([x[layer][chosen(row, len(x[layer]))] for row, x in raw]).double()
        rows = table.filter(table["layer"] == layer)
        sigma_N = x_PN.std(dim=0, correction=0).numpy()
        assert rows["count"].to_list() == [len(x_PN)] * x_PN.shape[1], stratum
        for column, expected_N in (("mean", x_PN.mean(0)), ("std", torch.as_tensor(sigma_N))):
            off_N = np.abs(rows[column].to_numpy() - expected_N.numpy())
            # An activation itself is good to some 1e-7: fed alone it rounds otherwise.
            assert np.all(off_N <= 1e-6 * sigma_N + 1e-6), (stratum, column)
        for column, expected_N in (("min", x_PN.amin(0)), ("max", x_PN.amax(0))):
            np.testing.assert_allclose(rows[column].to_numpy(), expected_N, atol=1e-5)


@pytest.mark.parametrize("bucket", range(3))
def test_a_bucket_of_positions_has_its_own_statistics(
    tables: Tables, raw: Kept, bucket: int
) -> None:
    ends = [*STARTS[1:], 10_000]

    def chosen(row: Row, length: int) -> list[int]:
        return list(range(STARTS[bucket], min(ends[bucket], length)))

    agree(tables, NAMES[bucket], raw, chosen)


@pytest.mark.parametrize("tables", ["zoo:vit"], indirect=True)
def test_a_class_has_its_own_statistics(tables: Tables, raw: Kept) -> None:
    targets = {row["target"] for row, _ in raw}
    assert len(targets) > 5
    for target in targets:
        agree(
            tables,
            f"class {target}",
            raw,
            lambda row, length, own=target: list(range(length)) if row["target"] == own else [],
        )


def test_the_first_position_is_reported_beside_the_peak(tables: Tables, raw: Kept) -> None:
    statistics = tables.statistics
    for layer in range(len(raw[0][1])):
        expected_N = torch.stack([x[layer][0] for _, x in raw]).double().mean(0)
        found_N = statistics.filter(statistics["layer"] == layer)["first_position"].to_numpy()
        np.testing.assert_allclose(found_N, expected_N, atol=1e-6)


def test_the_global_range_is_that_of_all_neurons(tables: Tables, raw: Kept) -> None:
    found = tables.centres("peak", '{"estimator":"paper_global"}')
    layers = [torch.cat([x[layer] for _, x in raw]) for layer in range(len(raw[0][1]))]
    low, high = min(float(x.min()) for x in layers), max(float(x.max()) for x in layers)
    for x_PN, found_N in zip(layers, found, strict=True):
        counts_NB = torch.stack([torch.histc(x_P, 100, low, high) for x_P in x_PN.T])
        place_N = (found_N - low) / ((high - low) / 100) - 0.5
        bin_N = place_N.round().long()
        assert torch.all((place_N - bin_N).abs() < 1e-3)
        assert torch.all(counts_NB.gather(1, bin_N[:, None])[:, 0] >= counts_NB.amax(1) - 1)


def test_the_half_sample_mode_is_in_the_shortest_halves(tables: Tables, raw: Kept) -> None:
    found = tables.centres("peak", '{"estimator":"half_sample"}')
    statistics = tables.statistics
    for layer, found_N in enumerate(found):
        rows = statistics.filter(statistics["layer"] == layer)
        widths = rows["bin_width"].to_list()
        x_PN = torch.cat([x[layer] for _, x in raw]).double()
        for n in range(0, len(found_N), 8):
            x = np.sort(x_PN[:, n].numpy())
            half = len(x) // 2
            shortest = np.min(x[half:] - x[: len(x) - half])
            around = np.abs(x - float(found_N[n])) <= shortest + 2 * widths[n]
            assert around.mean() >= 0.5  # it lies in, or beside, an interval with half of all


@pytest.mark.parametrize(("method", "parameters"), [("mean", BY_MEAN), ("peak", BY_PEAK)])
def test_neurons_held_by_position_are_what_a_hook_says(
    tables: Tables, method: str, parameters: str
) -> None:
    plain = loaded(tables)
    (name,) = {
        r["cell"]
        for r in tables.cells
        if (r["method"], r["parameters"]) == (method, parameters) and r["fraction"] == 0.5
    }
    values = [tables.centres(method, parameters, stratum=stratum) for stratum in NAMES]
    order = tables.order(0)
    answers = {r["sequence"]: r for r in tables.of_cells("results")[name]}
    told = 0
    for row in tables.role("evaluate"):
        sequence = plainly.fed(row)
        length = len(plainly.activations(plain, sequence)[0])
        bucket_T = np.searchsorted(STARTS, np.arange(length), side="right") - 1
        holding = []
        for layer, order_N in enumerate(order):
            neurons = order_N[: len(order_N) // 2]
            at_TN = torch.stack([values[b][layer] for b in bucket_T]).float()
            holding.append((neurons, at_TN[:, neurons]))
            told += length * len(neurons)
        logits_TV = plainly.logits_while_held(plain, sequence, holding)
        score = plainly.score(logits_TV, plainly.target(row), rounding=1e-4)
        answer = answers[row["sequence"]]
        assert answer["loss"] == pytest.approx(score.loss, rel=1e-4, abs=1e-6 * score.tokens)
        assert abs(answer["top1"] - score.top1) <= score.contested["top1"]
    (execution,) = tables.of_cells("executions")[name]
    assert execution["told"] == execution["held"] == told


def test_statistics_may_be_of_other_data_and_fewer_positions(swept: Callable[[str], Path]) -> None:
    tables = Tables(swept(OTHER), "zoo:opt")
    rows = [r for r in tables.rows("data") if r["data"] == "more" and r["role"] == "collect"]
    assert len(rows) == 40
    plain = loaded(tables, "sdpa")
    bos = rows[0]["input"][0]
    kept = [
        [x[[t for t in range(2, len(x)) if row["input"][t] != bos]] for x in layers]
        for row in rows
        for layers in [plainly.activations(plain, plainly.fed(row))]
    ]
    (means,) = [[*zip(*[tables.centres("mean", "{}")], strict=True)]]
    assert set(tables.statistics["data"]) == {"more"}
    for layer, (found_N,) in enumerate(means):
        x_PN = torch.cat([x[layer] for x in kept]).double()
        assert tables.statistics["count"].unique().to_list() == [len(x_PN)]
        np.testing.assert_allclose(found_N, x_PN.mean(0), atol=1e-6)


@pytest.mark.parametrize("mode", ["layers_in_sequence", "per_fraction"])
def test_statistics_follow_the_ablation(swept: Callable[[str], Path], mode: str) -> None:
    tables = Tables(swept(AGAIN.replace("MODE", mode)), "zoo:opt")
    cells = {r["fraction"]: r["cell"] for r in tables.cells if r["fraction"]}
    order = tables.order(0)

    def half(fraction: float) -> list[np.ndarray]:
        return [order_N[: int(fraction * len(order_N))] for order_N in order]

    def mean(held: plainly.Held) -> list[Tensor]:
        seen = activations(tables, held)
        return [
            torch.cat([x[layer] for _, x in seen]).double().mean(0) for layer in range(len(order))
        ]

    def holding(
        neurons: list[np.ndarray], values: list[Tensor], below: int | None = None
    ) -> plainly.Held:
        return [
            (n[: 0 if below is not None and i >= below else None], v[n])
            if below is None or i < below
            else (n[:0], v[n[:0]])
            for i, (n, v) in enumerate(zip(neurons, values, strict=True))
        ]

    bare = mean(holding([o[:0] for o in order], [torch.zeros(len(o)) for o in order]))
    if mode == "per_fraction":
        found = tables.centres("mean", "{}", cell=cells[0.5])
        first = tables.centres("mean", "{}")  # the smallest fraction has those of the bare model
        for own, expected in zip(first, bare, strict=True):
            np.testing.assert_allclose(own, expected, atol=1e-6)
        expected_L = mean(holding(half(0.25), first))
        under = cells[0.25]
    else:
        found = tables.centres("mean", "{}", cell=cells[0.5])
        expected_L = [
            mean(holding(half(0.5), found, below=layer))[layer] for layer in range(len(order))
        ]
        under = cells[0.5]
    for layer, (own, expected) in enumerate(zip(found, expected_L, strict=True)):
        np.testing.assert_allclose(own, expected, atol=2e-5)
        rows = tables.stratum("all", under)
        np.testing.assert_allclose(rows.filter(rows["layer"] == layer)["mean"], expected, atol=2e-5)
    moved = max(float((a - b).abs().max()) for a, b in zip(bare, found, strict=True))
    assert moved > 1e-3  # it is not the bare model's mean
