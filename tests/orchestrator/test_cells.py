"""Which points of a sweep are one question, and what a cell's name depends on (law 3)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cells, names
from orchestrator.plan import Plan
from tests.orchestrator import planned

Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Plan the small sweep over one model; `facts` replaces some of what is known of it."""
    planned.documents(tmp_path)

    def build(
        modality: str = "causal", facts: dict[str, Any] | None = None, **changes: Any
    ) -> Plan:
        known = planned.facts(modality, **(facts or {}))
        device = changes.pop("device", "cpu")
        planned.know(monkeypatch, {"a": known}, tmp_path / changes.pop("where", "checkpoints"))
        return planned.make(tmp_path, device=device, **changes)

    return build


def points(plan: Plan, **where: object) -> list[dict[str, Any]]:
    rows = [r for r in plan.rows if all(r[k] == v for k, v in where.items())]
    return [dict(r) for r in rows]


def asked(plan: Plan, **where: object) -> set[str]:
    return {r["cell"] for r in points(plan, **where)}


def test_the_demos_shape_is_231_cells_per_model(make: Make) -> None:
    tenths = {"start": 0, "stop": 1, "step": 0.1}
    plan = make(fractions=tenths, seeds=5, facts={"d_head": 16})
    assert len(plan.cells) == 231
    assert len(plan.rows) == 5 * 11 * 5
    assert set(plan.cells) == asked(plan)


def test_holding_nothing_is_one_cell_whatever_the_method_and_mask(make: Make) -> None:
    plan = make()
    assert len(points(plan, fraction=0.0)) == 5 * 2
    (cell,) = asked(plan, fraction=0.0)
    assert plan.cells[cell].arguments["each"] == 0
    assert not plan.cells[cell].donated


def test_holding_everything_is_one_cell_per_method_and_donor_seed(make: Make) -> None:
    plan = make(seeds={"masks": 3, "donors": [4, 5]})
    full = points(plan, fraction=1.0)
    assert len({r["cell"] for r in full}) == 4 + 2
    for row in full:
        key = {k: row[k] for k in ("method", "parameters", "donor_seed")}
        assert len(asked(plan, fraction=1.0, **key)) == 1


def test_a_fraction_that_rounds_to_everything_is_everything(make: Make) -> None:
    plan = make(fractions=[0.96, 1])
    assert asked(plan, fraction=0.96) == asked(plan, fraction=1.0)


def test_fractions_that_hold_the_same_number_share_a_cell(make: Make) -> None:
    plan = make(fractions=[0.5, 0.52])
    assert asked(plan, fraction=0.5) == asked(plan, fraction=0.52)


def test_between_the_ends_every_method_mask_and_donor_seed_has_a_cell(make: Make) -> None:
    plan = make(seeds={"masks": 3, "donors": 2})
    assert len(asked(plan, fraction=0.5)) == 4 * 3 + 3 * 2


def test_a_row_says_what_is_held_and_leaves_unused_seeds_out(make: Make) -> None:
    row, *_ = points(make(), method="peak", fraction=0.5, seed=1)
    assert (row["units_held"], row["units_total"]) == (15, 30)
    assert (row["model"], row["data"], row["modality"]) == ("a", "texts", "causal")
    assert json.loads(row["parameters"]) == {"estimator": "smooth"}
    assert (row["donor_seed"], row["noise_seed"], row["masking_seed"]) == (None, None, None)
    masked, *_ = points(make("masked"), method="resample", fraction=0.5)
    assert (masked["donor_seed"], masked["masking_seed"]) == (0, 0)


def test_a_cell_names_the_files_it_needs_and_no_others(make: Make) -> None:
    plan = make()
    for row in points(plan):
        cell = plan.cells[row["cell"]]
        held = {"selection", "centres", "donors"} & cell.arguments.keys()
        needed = {str(cell.arguments[k]) for k in held}
        data, *others = cell.after
        assert data == "data/a/texts.parquet"
        assert set(others) == needed
        if row["fraction"] == 0:
            assert not needed
        else:
            assert ("donors" in held) == (row["method"] == "resample") == cell.donated
            assert ("centres" in held) == (row["method"] != "resample")
            assert ("selection" in held) == (row["fraction"] < 1)


def by_point(plan: Plan) -> dict[tuple[object, ...], str]:
    """Return the cell of every point, by what the sweep file says of it."""
    keys = ("method", "parameters", "fraction", "seed", "donor_seed")
    return {tuple(r[k] for k in keys): r["cell"] for r in points(plan)}


@pytest.mark.parametrize("modality", ["causal", "masked"])
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"cluster": {"workers": 7, "device": "cpu", "ready_seconds": 1.0}},
        {"device": "cuda"},
        {"methods": ["resample", "peak(paper)", "peak", "mean", "zero"]},
        {"contrasts": [["peak", "mean"]]},
        {"where": "moved"},
        {"models": [{"id": "a", "revision": "1234", "data": "texts"}]},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_changes_no_answer_changes_no_name(
    make: Make, modality: str, changes: dict[str, Any]
) -> None:
    assert by_point(make(modality, **changes)) == by_point(make(modality))


def test_asking_for_more_leaves_the_names_of_the_rest(make: Make) -> None:
    few = by_point(make(methods=["mean"], fractions=[0.5], seeds=1))
    many = by_point(make())
    assert few.items() <= many.items()


def test_where_the_sweep_file_lies_changes_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.know(monkeypatch, {"a": planned.facts()})
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        planned.documents(tmp_path / name)
        found.append(by_point(planned.make(tmp_path / name)))
    assert found[0] == found[1]


ALL = {"fraction 0", "zero", "mean", "peak", "peak(paper)", "resample"}
COUNTED = {"mean", "peak", "peak(paper)"}


@pytest.mark.parametrize(
    ("changes", "renamed"),
    [
        ({"facts": {"digest": "other weights"}}, ALL),
        ({"facts": {"tokenizer": "other tokenizer"}}, ALL),
        ({"facts": {"window": 31}}, ALL),
        ({"models": [{"id": "a", "dtype": "bfloat16"}]}, ALL),
        ({"data": {"texts": {"source": "documents.jsonl", "document": None}}}, ALL),
        ({"evaluation": {"batch_tokens": 512}}, ALL),
        ({"evaluation": {"logits_bytes": 2**20}}, ALL),
        ({"statistics": {"shards": 3}}, COUNTED),
        ({"statistics": {"shards": 2, "bins": 128}}, COUNTED),
        ({"statistics": {"shards": 2, "pilot_positions": 64}}, COUNTED),
        ({"seeds": {"masks": [10, 11]}}, ALL - {"fraction 0"}),
        ({"seeds": {"masks": 2, "donors": [1]}}, {"resample"}),
    ],
    ids=lambda c: str(c) if isinstance(c, dict) else "",
)
def test_what_changes_an_answer_changes_its_name(
    make: Make, changes: dict[str, Any], renamed: set[str]
) -> None:
    def named(plan: Plan) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {"fraction 0": asked(plan, fraction=0.0)}
        for row in points(plan, fraction=0.5):
            paper = "paper" in row["parameters"]
            found.setdefault("peak(paper)" if paper else row["method"], set()).add(row["cell"])
        return found

    before, after = named(make()), named(make(**changes))
    assert {label for label in ALL if not before[label] & after[label]} == renamed
    assert all(before[label] == after[label] for label in ALL - renamed)


@pytest.mark.parametrize(
    "changes",
    [
        {"collect": {"sequences": 9}},
        {"evaluate": {"sequences": 9}},
        {"evaluate": {"tokens": 900}},
        {"sequence_length": 20},
    ],
)
def test_how_much_data_is_taken_changes_every_name(make: Make, changes: dict[str, Any]) -> None:
    texts = {"source": "documents.jsonl", "document": "name", **changes}
    after = make(data={"texts": texts})
    assert not set(by_point(make()).values()) & set(by_point(after).values())


def test_the_content_of_the_source_changes_every_name(make: Make, tmp_path: Path) -> None:
    before = make()
    planned.documents(tmp_path, {"document 0": "another text"})
    assert not set(before.cells) & set(make().cells)


def test_the_masking_seed_changes_masked_models_and_no_others(make: Make) -> None:
    other = {"masks": 2, "masking": 1}
    assert not set(make("masked").cells) & set(make("masked", seeds=other).cells)
    assert set(make("causal").cells) == set(make("causal", seeds=other).cells)


@pytest.mark.parametrize(
    "facts", [{"vocabulary": 300}, {"specials": {**planned.SPECIALS, "mask": 9}}]
)
def test_what_the_corruption_draws_from_is_part_of_the_datas_name(
    make: Make, facts: dict[str, Any]
) -> None:
    def name(plan: Plan) -> str:
        return next(t.name for t in plan.tasks if t.kind == "data")

    assert name(make("masked")) != name(make("masked", facts=facts))


@pytest.mark.parametrize("kind", ["cell", "data", "selection", "pilot", "collect", "merge"])
def test_a_new_algorithm_renames_what_is_made_with_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = asked(make(), method="mean", fraction=0.5)
    monkeypatch.setattr(names, "ALGORITHM", {**names.ALGORITHM, kind: 99})
    assert not before & asked(make(), method="mean", fraction=0.5)


def test_the_data_of_a_model_is_the_one_the_plan_filled_in(make: Make) -> None:
    spec = make().spec
    assert cells.data_of(spec, "a") == "texts"
    model = replace(make().models["a"], name="b")
    with pytest.raises(StopIteration):
        cells.data_of(spec, model.name)
