"""A company stops at the first round after which its contrasts are known well enough."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from orchestrator import sequential, stopping
from orchestrator.labels import label
from orchestrator.pairs import Precision
from orchestrator.stopping import Company, Judge, Measured, companies, visits
from tests.orchestrator import planned

DOCUMENTS = [f"document {i}" for i in range(120)]
ROUNDS = 6


def row(
    method: str, cell: str, fraction: float = 0.5, seed: int | None = 0, **more: Any
) -> dict[str, Any]:
    same = dict.fromkeys(stopping.COMPANY, "x")
    same |= {"model": "a", "fraction": fraction, "seed": seed}
    return {**same, "method": method, "parameters": json.dumps(more), "cell": cell}


def data(targets: int = 7) -> pa.Table:
    """Return a data table of which every second document is longer."""
    lists = [[-100, *range(targets + 3 * (i % 2))] for i in range(len(DOCUMENTS))]
    return pa.table(
        {
            "document": [*DOCUMENTS, "another"],
            "role": ["evaluate"] * len(DOCUMENTS) + ["collect"],
            "target": [*lists, list(range(1000))],
        }
    )


SEEN = visits(data(), 0, ROUNDS)


def results(cell: str, level: float, spread: float, seed: int, nan: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    tokens = np.array([7 + 3 * (i % 2) for i in range(len(DOCUMENTS))])
    loss = tokens * (level + spread * rng.standard_normal(len(DOCUMENTS)))
    right = rng.binomial(tokens, 0.5)
    columns = {"cell": [cell] * len(DOCUMENTS), "document": DOCUMENTS, "tokens": tokens}
    return pa.table({**columns, "top1": right, "loss": loss, "nan": np.full(len(DOCUMENTS), nan)})


def judged(
    precision: Precision, *tables: pa.Table, pairs: Any = (("peak", "mean"),)
) -> tuple[Judge, Company]:
    rows = [row("peak", "p"), row("mean", "m"), row("zero", "z")]
    every = companies(pa.Table.from_pylist(rows), pairs)
    judge = Judge(every, lambda model: {"a": SEEN}[model], precision)
    for table in tables:
        judge.measured.add(table)
    return judge, every[0]


def test_cells_of_one_fraction_and_mask_keep_company() -> None:
    rows = [row("peak", "bare", 0.0), row("mean", "bare", 0.0)]
    rows += [row(m, f"{m} {s}", seed=s) for m in ("peak", "mean") for s in (0, 1)]
    rows += [row("mean", "mean 0.9", 0.9), row("resample", "r1", 0.9), row("resample", "r2", 0.9)]
    found = companies(pa.Table.from_pylist(rows), [("peak", "mean"), ("resample", "mean")])
    assert [c.cells for c in found] == [
        ("peak 0", "mean 0"),
        ("peak 1", "mean 1"),
        ("mean 0.9", "r1", "r2"),
    ]
    assert [[(x.a, x.b) for x in c.contrasts] for c in found] == [
        [("peak", "mean")],
        [("peak", "mean")],
        [("resample", "mean")],
    ]
    assert found[2].contrasts[0].cells == (("r1", "r2"), ("mean 0.9",))
    assert list(stopping.left_out(["bare", "peak 0"], found)) == ["bare"]


def test_methods_with_parameters_are_known_by_their_labels() -> None:
    rows = [row("peak", "p", estimator="paper"), row("mean", "m")]
    assert companies(pa.Table.from_pylist(rows), [("peak(paper)", "mean")])[0].contrasts
    assert companies(pa.Table.from_pylist(rows), [("peak", "mean")]) == []


def test_documents_are_counted_with_the_most_targets_any_has() -> None:
    seen = visits(data(), 0, ROUNDS)
    assert (seen.rounds, seen.most, len(seen.round_of)) == (ROUNDS, 10, len(DOCUMENTS))
    assert "another" not in seen.round_of
    images = data().set_column(2, "target", pa.array([3] * (len(DOCUMENTS) + 1)))
    assert visits(images, 0, ROUNDS).most == 1
    assert visits(data(), 0, 500).rounds == len(DOCUMENTS)


@pytest.mark.parametrize("metric", ["ce", "top1"])
def test_what_is_known_is_the_sequence_of_the_documents_read(metric: Any) -> None:
    precision = Precision(metric=metric, halfwidth=0.1)
    tables = {
        c: results(c, level, 0.3, i) for i, (c, level) in enumerate({"p": 2.0, "m": 1.5}.items())
    }
    judge, company = judged(precision, *tables.values())
    for rounds in range(1, ROUNDS + 1):
        (found,) = judge.measured.intervals(company, rounds)
        read = [DOCUMENTS.index(d) for d, r in SEEN.round_of.items() if r < rounds]
        a, b = (
            {k: np.array(tables[c].column(k))[read] for k in ("top1", "loss", "tokens")}
            for c in "pm"
        )
        tokens = a["tokens"].astype(float)
        if metric == "ce":
            expected = sequential.asymptotic(
                a["loss"] - b["loss"], tokens, horizon=len(DOCUMENTS) // 4
            )
        else:
            expected = sequential.empirical_bernstein(
                (a["top1"] - b["top1"]).astype(float), tokens, most=10.0
            )
        assert found == expected


def test_a_company_stops_at_the_first_round_that_does() -> None:
    tables = [results("p", 2.0, 0.1, 0), results("m", 1.5, 0.1, 1)]
    judge, company = judged(Precision(halfwidth=1.0), *tables)
    widths = [judge.measured.intervals(company, r)[0].half_width for r in range(1, ROUNDS + 1)]
    known = [r for r in range(2, ROUNDS) if np.isfinite(widths[r - 2])]
    assert known
    for stop in known:
        assert widths[stop - 1] < min(widths[: stop - 1])
        between = (widths[stop - 1] + min(widths[: stop - 1])) / 2
        fresh, _ = judged(Precision(halfwidth=between), *tables)
        assert fresh.extent(0, stop - 1) is None
        assert fresh.extent(0, ROUNDS) == stop
        assert fresh.extent(0, stop) == stop
    never, _ = judged(Precision(halfwidth=1e-9), *tables)
    assert never.extent(0, ROUNDS - 1) is None
    assert never.extent(0, ROUNDS) == ROUNDS


def test_the_widest_contrast_decides_and_draws_are_averaged() -> None:
    quiet, wild = results("p", 2.0, 0.05, 0), results("z", 3.0, 3.0, 2)
    tables = [quiet, results("m", 1.5, 0.05, 1), wild]
    one, _ = judged(Precision(halfwidth=0.1), *tables)
    both, _ = judged(Precision(halfwidth=0.1), *tables, pairs=[("peak", "mean"), ("zero", "mean")])
    first = one.extent(0, ROUNDS)
    assert first is not None
    assert first < ROUNDS
    assert both.extent(0, ROUNDS) == ROUNDS
    rows = [row("resample", "r1"), row("resample", "r2"), row("mean", "m")]
    (company,) = companies(pa.Table.from_pylist(rows), [("resample", "mean")])
    measured = Measured([company], lambda _: SEEN, "ce")
    parts = [results("r1", 2.0, 0.1, 3), results("r2", 3.0, 0.1, 4), results("m", 1.0, 0.1, 5)]
    for part in parts:
        measured.add(part)
    (found,) = measured.intervals(company, ROUNDS)
    loss = [np.array(p.column("loss")).sum() for p in parts]
    expected = ((loss[0] + loss[1]) / 2 - loss[2]) / np.array(parts[0].column("tokens")).sum()
    assert found.estimate == pytest.approx(expected, rel=1e-12)


def test_where_losses_are_missing_nothing_is_known() -> None:
    broken = [results("p", 2.0, 0.1, 0, nan=1), results("m", 1.5, 0.1, 1)]
    judge, _ = judged(Precision(halfwidth=10.0), *broken)
    assert judge.extent(0, ROUNDS) == ROUNDS
    right, _ = judged(Precision(metric="top1", halfwidth=10.0), *broken)
    assert right.extent(0, ROUNDS) == 1


def test_only_what_is_answered_without_a_gap_counts() -> None:
    assert [stopping.whole(x) for x in ([], [0], [0, 2], [1, 2], [2, 0, 1])] == [0, 1, 1, 0, 3]


def test_companies_of_a_table_are_those_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    made = planned.make(
        tmp_path,
        models=["a", "m"],
        methods=["mean", "peak(paper)", "peak", "resample"],
        fractions=[0, 0.5, 1],
        seeds={"masks": 2, "donors": 2},
        layers="each",
        basis={"rotate": 0},
    )
    pairs = [("peak", "mean"), ("resample", "peak(paper)"), ("zero", "mean")]
    members: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for row in made.rows.to_pylist():
        if row["fraction"]:
            said = label(row["method"], json.loads(row["parameters"]))
            of = members.setdefault(tuple(row[c] for c in stopping.COMPANY), {})
            of.setdefault(said, []).append(row["cell"])
    found = companies(made.rows, pairs)
    assert [tuple(company.key.values()) for company in found] == list(members)
    for company, of in zip(found, members.values(), strict=True):
        assert company.cells == tuple(dict.fromkeys(c for cells in of.values() for c in cells))
        sides = [(tuple(of[a]), tuple(of[b])) for a, b in pairs[:2]]
        assert [contrast.cells for contrast in company.contrasts] == sides
    assert companies(made.rows.slice(0, 0), pairs) == []


def test_a_half_width_may_be_written_with_an_exponent() -> None:
    assert Precision(halfwidth="1e-2").halfwidth == 0.01  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="valid number"):
        Precision(halfwidth="narrow")  # type: ignore[arg-type]
