"""A finished run, recomputed from its public tables by code that shares nothing with ours.

The sweep is run once, in this process. Then every distinct cell is evaluated again, a
sequence at a time, and every constant and statistic is made again from raw activations;
what comes out must agree, and what was put in (texts, targets, donors, masks) must be
what the sweep file asked for. That masks are nested is part of it: a cell's neurons are
taken from the front of its mask's order.

Shapes: N neurons of one layer, P positions, T positions of one sequence, V tokens.
"""

import ast
import csv
import gzip
import json
import lzma
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from orchestrator import sweep
from tests import brute_force as plainly
from tests.brute_force import Plain, Row, Tables

ZOO = Path(__file__).parents[1] / "workers" / "zoo"
MODELS = ("zoo:opt", "zoo:mistral", "zoo:roberta", "zoo:vit")
SWEEP = """
name: brute-force
models: [zoo:opt, zoo:mistral, {id: zoo:roberta, data: longer}, zoo:vit]
methods: [zero, mean, peak, peak(paper), resample]
fractions: [0.3, 1]
seeds: 2
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 32}
    evaluate: {split: test, sequences: 16}
  longer:
    source: zoo:text
    collect: {split: train, sequences: 128}
    evaluate: {split: test, sequences: 16}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 32}
    evaluate: {split: test, sequences: 16}
"""
METHODS = {
    ("zero", "{}"),
    ("mean", "{}"),
    ("peak", '{"estimator":"smooth"}'),
    ("peak", '{"estimator":"paper"}'),
    ("resample", '{"source":"dataset"}'),
}

ROUNDING = 1e-4
"""Logits closer than this may change places: that far apart were the logits of these models between
float32 and float64, at most. A count may be off only by positions that are so close."""
TIES = 3
"""How many of a model's some 30,000 ranks, and of its fullest bins, rounding may have decided."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with plainly.one_thread():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brute-force")
    file = folder / "sweep.yaml"
    file.write_text(SWEEP)
    outcome = sweep.run(file, out=folder / "run", local=True)
    assert not outcome.failures
    return Path(outcome.run)


@pytest.fixture(scope="module", params=MODELS)
def tables(run: Path, request: pytest.FixtureRequest) -> Tables:
    return Tables(run, request.param)


def folder(tables: Tables) -> Path:
    return ZOO / tables.model.removeprefix("zoo:")


@pytest.fixture(scope="module")
def plain(tables: Tables) -> Plain:
    return plainly.load(folder(tables))


@pytest.fixture(scope="module")
def raw(tables: Tables) -> list[Tensor]:
    """Every activation of collection in memory, (N, positions) per layer."""
    plain = plainly.load(folder(tables), attention="sdpa")
    seen = [plainly.activations(plain, plainly.fed(r)) for r in tables.role("collect")]
    return [torch.cat(layer).T.contiguous() for layer in zip(*seen, strict=True)]


def test_the_recomputation_uses_no_code_of_ours() -> None:
    nodes = list(ast.walk(ast.parse(Path(plainly.__file__).read_text())))
    imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}
    assert "transformers" in imported
    assert not {name.split(".")[0] for name in imported} & {"orchestrator", "workers", "tests"}


def distinct(tables: Tables) -> dict[str, Row]:
    return {r["cell"]: r for r in tables.cells}


def held(tables: Tables, cell: Row) -> list[NDArray[np.int64]]:
    """Return the neurons that a cell holds, per layer."""
    order = tables.order(cell["seed"])
    each, rest = divmod(cell["units_held"], len(order))
    assert rest == 0
    return [order_N[:each] for order_N in order]


def test_every_cell_is_what_the_library_and_a_hook_say(tables: Tables, plain: Plain) -> None:
    given = {s: plainly.activations(plain, tables.donor_of(s)) for s in tables.donors}
    results, evaluated = tables.of_cells("results"), tables.role("evaluate")
    ties: Counter[str] = Counter()
    for name, cell in distinct(tables).items():
        answers = {r["sequence"]: r for r in results[name]}
        assert sorted(answers) == sorted(r["sequence"] for r in evaluated)
        assert len(answers) == len(results[name])
        neurons = held(tables, cell)
        resampled = cell["method"] == "resample"
        constant = [] if resampled else tables.centres(cell["method"], cell["parameters"])
        expected = 0.0
        for row in evaluated:
            values = given[row["sequence"]] if resampled else constant
            holding = [(n, v[..., n]) for n, v in zip(neurons, values, strict=True)]
            logits_TV = plainly.logits_while_held(plain, plainly.fed(row), holding)
            score = plainly.score(logits_TV, plainly.target(row), rounding=ROUNDING)
            answer = answers[row["sequence"]]
            assert answer["document"] == row["document"]
            assert (answer["tokens"], answer["nan"]) == (score.tokens, 0)
            for metric, count in (("top1", score.top1), ("top10", score.top10)):
                assert abs(answer[metric] - count) <= score.contested[metric], (cell, answer)
                ties[metric] += abs(answer[metric] - count)
            assert answer["loss"] == pytest.approx(score.loss, rel=1e-4, abs=1e-6 * score.tokens)
            expected += score.loss
        assert sum(r["loss"] for r in answers.values()) == pytest.approx(expected, rel=1e-5)
    assert max(ties.values()) <= TIES


def test_no_two_cells_answer_alike(tables: Tables) -> None:
    results = tables.of_cells("results")
    answers = [
        tuple(sorted((r["sequence"], r["loss"]) for r in results[c])) for c in distinct(tables)
    ]
    assert len(set(answers)) == len(answers)


def test_as_much_was_held_as_told(tables: Tables, plain: Plain) -> None:
    fed = [plainly.fed(r) for r in tables.role("evaluate")]
    positions = sum(len(plainly.activations(plain, sequence)[0]) for sequence in fed)
    executions = tables.of_cells("executions")
    for name, cell in distinct(tables).items():
        (execution,) = executions[name]
        times = positions if cell["method"] == "resample" else 1
        assert execution["told"] == execution["held"] == cell["units_held"] * times


def test_statistics_are_those_of_the_raw_activations(tables: Tables, raw: list[Tensor]) -> None:
    table = {
        c: v.to_numpy() for c, v in tables.statistics.to_dict().items() if v.dtype.is_numeric()
    }
    x = torch.cat(raw).double().numpy()
    count, mean, sigma = x.shape[1], x.mean(axis=1), x.std(axis=1)
    z = (x - mean[:, None]) / sigma[:, None]
    exact = {"count": np.full(len(x), count), "zeros": (x == 0).sum(1)}
    exact |= dict.fromkeys(("nan", "pos_inf", "neg_inf"), np.zeros(len(x)))
    for column, expected in exact.items():
        np.testing.assert_array_equal(table[column], expected, column)
    in_sigmas = {"mean": mean, "std": sigma, "rms": np.hypot(mean, sigma)}
    in_sigmas |= {"abs_mean": np.abs(x).mean(1), "min": x.min(1), "max": x.max(1)}
    for column, expected in in_sigmas.items():
        # An extreme is one float32 activation, good to some 1e-5 σ; a mean is of thousands.
        tolerance = 1e-4 if column in ("min", "max") else 1e-6
        assert np.all(np.abs(table[column] - expected) <= tolerance * sigma), column
    for column, expected in {"skewness": (z**3).mean(1), "kurtosis": (z**4).mean(1) - 3}.items():
        np.testing.assert_allclose(table[column], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table["positive"], (x > 0).mean(1), atol=1 / count)
    median = np.quantile(x, 0.5, axis=1, method="inverted_cdf")
    assert np.all(np.abs(table["median"] - median) <= table["bin_width"])


def test_counts_are_the_floors_of_the_raw_activations(tables: Tables, raw: list[Tensor]) -> None:
    borderline = total = 0
    for row, x in zip(tables.statistics.to_dicts(), torch.cat(raw).double().numpy(), strict=True):
        mantissa, exponent = np.frexp(row["bin_width"])
        assert mantissa == 0.5
        scaled, first = x[x != 0] * 2.0 ** (1 - exponent), row["bin_start"] * 2.0 ** (1 - exponent)
        assert first == np.floor(first)
        bins = len(row["counts"])
        # Slot 0 is below the window, slot bins + 1 above it.
        slot = np.clip(np.floor(scaled) - first, -1, bins).astype(int) + 1
        own = np.bincount(slot, minlength=bins + 2)
        counts = np.array([row["below"], *row["counts"], row["above"]])
        # Rounding can carry a value over an edge, and only one that lies at it.
        edge = np.rint(scaled)
        at_edge = np.abs(scaled - edge) <= 1e-5 * scaled.std()
        near = np.clip(edge[at_edge] - first, -1, bins + 1).astype(int) + 1
        allowed = np.bincount(near, minlength=bins + 3)[1:-1]
        carried = np.abs(np.cumsum(counts) - np.cumsum(own))
        assert carried[-1] == 0
        assert np.all(carried[:-1] <= allowed), (row["layer"], row["neuron"])
        borderline, total = borderline + int(carried.sum()), total + len(x)
    assert borderline <= 1e-4 * total


def test_constants_are_those_of_the_raw_activations(tables: Tables, raw: list[Tensor]) -> None:
    statistics = tables.statistics
    ties = 0
    for layer, x_NP in enumerate(raw):
        constant = {(m, p): tables.centres(m, p)[layer] for m, p in METHODS if m != "resample"}
        rows = statistics.filter(statistics["layer"] == layer)
        sigma_N = x_NP.double().std(dim=1, correction=0)
        assert not constant["zero", "{}"].any()
        off_N = (constant["mean", "{}"] - x_NP.double().mean(dim=1)).abs()
        assert torch.all(off_N <= 1e-6 * sigma_N)

        low_N, high_N = x_NP.amin(1), x_NP.amax(1)
        bounds = zip(x_NP, low_N.tolist(), high_N.tolist(), strict=True)
        counts_NB = torch.stack([torch.histc(x, 100, low, high) for x, low, high in bounds])
        paper_N, width_N = constant["peak", '{"estimator":"paper"}'], (high_N - low_N) / 100
        place_N = (paper_N - low_N) / width_N - 0.5
        bin_N = place_N.round().long()
        assert torch.all((place_N - bin_N).abs() * width_N <= 1e-4 * sigma_N)
        # Rounding can carry a value from one bin to the next, and so decide a tie.
        assert torch.all(counts_NB.gather(1, bin_N[:, None])[:, 0] >= counts_NB.amax(1) - 1)
        ties += int((bin_N != counts_NB.argmax(1)).sum())

        smooth_N = constant["peak", '{"estimator":"smooth"}']
        assert smooth_N.tolist() == rows["peak"].to_list()
        for n in range(0, len(x_NP), 16):
            assert plainly.is_highest(float(smooth_N[n]), x_NP[n].double(), rows["bandwidth"][n])
    assert ties <= TIES


def test_equal_points_of_the_sweep_share_a_cell(tables: Tables) -> None:
    named: dict[tuple[float, str, str, int], str] = {}
    orders = tables.order(0)
    for row in tables.cells:
        each = int(Fraction(str(row["fraction"])) * len(orders[0]) + Fraction(1, 2))
        assert row["units_held"] == each * len(orders)
        assert row["units_total"] == sum(map(len, orders))
        named[row["fraction"], row["method"], row["parameters"], row["seed"]] = row["cell"]
    assert len(named) == len(tables.cells)
    assert set(named) == {(f, *m, s) for f in (0, 0.3, 1) for m in METHODS for s in (0, 1)}
    assert len({c for (f, *_), c in named.items() if f == 0}) == 1
    assert all(named[1, *m, 0] == named[1, *m, 1] for m in METHODS)
    assert len(set(named.values())) == 1 + 2 * len(METHODS) + len(METHODS)


def test_masks_are_permutations_of_each_layer(tables: Tables) -> None:
    orders = [tables.order(seed) for seed in (0, 1)]
    for order_N in (o for order in orders for o in order):
        assert sorted(order_N) == list(range(len(orders[0][0])))
    assert len({tuple(o) for order in orders for o in order}) == 2 * len(orders[0])


def test_donors_are_of_another_document_and_cover_their_receiver(tables: Tables) -> None:
    special = specials(tables)
    assert sorted(tables.donors) == sorted(r["sequence"] for r in tables.role("evaluate"))
    for number, row in tables.donors.items():
        receiver, donor = tables.sequences[number], tables.sequences[row["donor"]]
        assert donor["role"] == "collect"
        assert donor["document"] != receiver["document"]
        own, given = plainly.fed(receiver), tables.donor_of(number)
        if not special:
            assert own.shape == given.shape
            continue
        assert len(given) >= len(own)
        assert where(given[: len(own)], special) == where(own, special)
        # All but the closing token is the donor's own beginning.
        body = len(own) - (own[-1] in special)
        assert list(given[:body]) == donor["input"][:body]


def specials(tables: Tables) -> set[int]:
    """Return the ids that begin, end and pad a sequence; of images none."""
    config = json.loads((folder(tables) / "config.json").read_text())
    return {config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if k in config}


def where(ids: NDArray[np.int64], wanted: set[int]) -> list[tuple[int, int]]:
    return [(t, int(i)) for t, i in enumerate(ids) if i in wanted]


@pytest.mark.parametrize("tables", MODELS[:3], indirect=True)
def test_texts_are_windows_of_the_documents_of_their_split(tables: Tables) -> None:
    with lzma.open(ZOO / "text" / "corpus.jsonl.xz", "rt", encoding="utf-8") as lines:
        corpus = {r["document"]: r for r in map(json.loads, lines)}
    tokenizer = Tokenizer.from_file(str(folder(tables) / "tokenizer.json"))
    closing = tables.cells[0]["modality"] == "masked"
    step = 62 if closing else 127
    for role in ("collect", "evaluate"):  # of one length, nothing would ever be padded
        assert len({len(r["input"]) for r in tables.role(role)}) > 1
    for row in tables.sequences.values():
        document = corpus[row["document"]]
        assert document["split"] == {"collect": "train", "evaluate": "test"}[row["role"]]
        body = plainly.restored(row)[1 : -1 if closing else None]
        ids = tokenizer.encode(document["text"], add_special_tokens=False).ids
        assert list(body) in [ids[start : start + step] for start in range(0, len(ids), step)]
        assert row["bytes"] == len(tokenizer.decode(body, skip_special_tokens=False).encode())


@pytest.mark.parametrize("tables", MODELS[:2], indirect=True)
def test_causal_targets_are_the_next_tokens(tables: Tables) -> None:
    for row in tables.sequences.values():
        assert row["target"] == [*row["input"][1:], -100]


@pytest.mark.parametrize("tables", ["zoo:roberta"], indirect=True)
def test_masked_texts_are_corrupted_as_bert_does(tables: Tables) -> None:
    mask = Tokenizer.from_file(str(folder(tables) / "tokenizer.json")).token_to_id("<mask>")
    assert mask is not None
    kinds: Counter[str] = Counter()
    for row in tables.sequences.values():
        plain = np.array(plainly.restored(row))
        ordinary = np.flatnonzero(~np.isin(plain, [*specials(tables), mask]))
        scored = np.flatnonzero(plainly.target(row) != -100)
        assert len(scored) == int(Fraction(15, 100) * len(ordinary) + Fraction(1, 2))
        assert set(scored) <= set(ordinary)
        for t, kind in zip(scored, row["kind"], strict=True):
            found = row["input"][t]
            assert (found == mask) == (kind == "mask")
            assert kind != "kept" or found == plain[t]
            assert found not in specials(tables)
            kinds[kind] += 1
    for kind, share in {"mask": 0.8, "random": 0.1, "kept": 0.1}.items():
        deviation = np.sqrt(share * (1 - share) / kinds.total())
        assert abs(kinds[kind] / kinds.total() - share) < 4 * deviation


@pytest.mark.parametrize("tables", ["zoo:vit"], indirect=True)
def test_images_are_the_digits_of_their_split(tables: Tables) -> None:
    with gzip.open(ZOO / "digits" / "digits.csv.gz", "rt", newline="") as lines:
        digits = [list(r.values()) for r in csv.DictReader(lines)]
    known: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for *counts, label, split in digits:
        grey = (int(int(c) * 255 / 16 + 0.5) for c in counts)
        known[split].add((*grey, int(label)))
    for row in tables.sequences.values():
        split = {"collect": "train", "evaluate": "test"}[row["role"]]
        assert row["shape"] == [8, 8, 1]
        assert (*row["image"], row["target"]) in known[split]


def test_collection_and_evaluation_share_no_document(tables: Tables) -> None:
    roles = {role: {r["document"] for r in tables.role(role)} for role in ("collect", "evaluate")}
    assert not roles["collect"] & roles["evaluate"]
    assert len(tables.role("collect")) == (128 if tables.model == "zoo:roberta" else 32)
    assert len(tables.role("evaluate")) == 16
