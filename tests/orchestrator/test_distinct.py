"""A million cells are columns, and say of each what a cell made of it says."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.cells import Cell
from orchestrator.plan import Plan, with_cells
from tests.orchestrator import planned


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Return a plan of two models, one of them in two bases, with donors and noise."""
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    return planned.make(
        tmp_path,
        models=["a", "m"],
        methods=["mean", "noise", "resample"],
        fractions=[0, 0.5, 1],
        seeds={"masks": 2, "donors": 2},
        basis={"rotate": 0},
    )


def test_cells_are_a_mapping_in_the_order_of_the_sweep_file(plan: Plan) -> None:
    cells = plan.cells
    assert isinstance(cells, Mapping)
    assert list(cells) == list(dict.fromkeys(plan.rows.column("cell").to_pylist()))
    assert len(cells) == len(list(cells.items())) == len({c.name for c in cells.values()})
    assert all(name in cells and cells[name] == cell for name, cell in cells.items())
    assert [cells.place(name) for name in cells] == list(range(len(cells)))
    assert "another" not in cells
    assert cells.get("another") is None
    with pytest.raises(KeyError):
        cells["another"]


def test_what_is_said_of_a_name_is_what_its_cell_says(plan: Plan) -> None:
    cells = plan.cells
    for name, cell in cells.items():
        assert cells.ref(name) is cell.ref
        assert cells.model(name) == cell.model
        assert cells.donors(name) == cell.donors
        assert cells.after(name) == cell.after
    assert {cells.donors(name) != "" for name in cells} == {True, False}


def test_what_is_said_of_all_is_what_each_cell_says(plan: Plan) -> None:
    every: list[Cell] = list(plan.cells.values())
    said = [{"name": c.name, "model": c.model, "label": c.label} for c in every]
    assert plan.cells.table().to_pylist() == said
    counts = {m: sum(c.model == m for c in every) for m in ("a", "m")}
    assert plan.cells.counts == counts
    assert plan.cells.files(plan.cells) == {file for c in every for file in c.after}
    some = [c.name for c in every[3:5]]
    assert plan.cells.files(some) == {file for c in every[3:5] for file in c.after}
    assert plan.cells.files([]) == set()


def test_some_cells_keep_their_order_and_what_they_are(plan: Plan) -> None:
    every = list(plan.cells)
    names = [every[-1], every[0], every[7], every[0]]
    some = plan.cells.only(names)
    assert list(some) == [every[0], every[7], every[-1]]
    assert all(some[name] == plan.cells[name] for name in some)
    assert some.table().column("name").to_pylist() == list(some)
    assert sum(some.counts.values()) == 3
    assert with_cells(plan, names).cells == some
    assert with_cells(plan, names).rows is plan.rows
    with pytest.raises(KeyError):
        plan.cells.only(["another"])


def test_there_may_be_none(plan: Plan) -> None:
    none = with_cells(plan, ()).cells
    assert (len(none), list(none), none.counts) == (0, [], {"a": 0, "m": 0})
    assert none.table().num_rows == 0
