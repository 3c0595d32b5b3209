"""Statistics and scores that are taken again as ablation proceeds: each link builds on the last."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan import Plan
from orchestrator.tasks import Task
from tests.orchestrator import planned
from tests.orchestrator.planned import asked, listing, points, tasks

ONCE = "score(rms, low)"
AGAIN = "score(rms, low, each_fraction)"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    return tmp_path


def make(base: Path, mode: str = "one_shot", **changes: Any) -> Plan:
    given = {"methods": ["mean"], "seeds": 1, "fractions": [0.2, 0.4, 0.8], **changes}
    return planned.make(base, **given, statistics={"shards": 2, "mode": mode})


def cell(plan: Plan, fraction: float, **where: object) -> dict[str, Any]:
    """Return the arguments of the one cell at a fraction."""
    (name,) = asked(plan, fraction=fraction, **where)
    return dict(plan.cells[name].arguments)


def made_by(plan: Plan, file: str) -> Task:
    (task,) = [t for t in plan.tasks if t.file == file]
    return task


def centres(arguments: dict[str, Any]) -> str:
    (file,) = arguments["value"]["centres"].values()
    return str(file)


def test_in_one_shot_every_fraction_has_the_same_constants_and_order(base: Path) -> None:
    plan = make(base, selections=[ONCE])
    found = [cell(plan, f) for f in (0.2, 0.4, 0.8)]
    assert len({centres(a) for a in found}) == len({a["selection"] for a in found}) == 1
    assert not tasks(plan, "under")


def test_per_fraction_each_ones_constants_are_of_the_model_with_the_one_before_held(
    base: Path,
) -> None:
    plan = make(base, "per_fraction")
    small, middle, large = (cell(plan, f) for f in (0.2, 0.4, 0.8))
    assert made_by(plan, centres(small)).arguments["cell"] is None  # of the bare model
    for before, now in ((small, middle), (middle, large)):
        constants = made_by(plan, centres(now))
        under = made_by(plan, constants.arguments["of"])
        assert under.kind == "under"
        assert under.arguments["centres"] == centres(before)
        assert under.arguments["chosen"] == before["chosen"]
        assert under.arguments["selection"] == before["selection"] == now["selection"]


def test_layers_in_sequence_are_counted_with_the_fraction_itself_held_below(base: Path) -> None:
    plan = make(base, "layers_in_sequence")
    for f in (0.2, 0.4, 0.8):
        arguments = cell(plan, f)
        under = made_by(plan, made_by(plan, centres(arguments)).arguments["of"])
        assert under.arguments["centres"] is None  # of the layers' own statistics, one by one
        assert under.arguments["chosen"] == arguments["chosen"]
        assert under.cost == 3 * sum(task.cost for task in tasks(plan, "collect"))


@pytest.mark.parametrize("mode", ["per_fraction", "layers_in_sequence"])
def test_what_is_held_at_zero_needs_no_statistics(base: Path, mode: str) -> None:
    plan, bare = make(base, mode, methods=["zero"]), make(base, methods=["zero"])
    assert not tasks(plan, "under")
    assert plan.cells.keys() == bare.cells.keys()


@pytest.mark.parametrize("mode", ["per_fraction", "layers_in_sequence"])
def test_other_kinds_of_methods_stay_with_the_bare_models_statistics(base: Path, mode: str) -> None:
    methods = ["noise", "nearest_peak", "resample"]
    assert make(base, mode, methods=methods).cells == make(base, methods=methods).cells


def test_every_chain_is_of_one_method_and_mask(base: Path) -> None:
    plan = make(base, "per_fraction", methods=["mean", "peak"], seeds=3)
    assert len(tasks(plan, "under")) == 2 * 3 * 2


def test_fractions_that_hold_the_same_number_are_one_link(base: Path) -> None:
    plan = make(base, "per_fraction", fractions=[0.2, 0.24, 0.4])
    assert asked(plan, fraction=0.2) == asked(plan, fraction=0.24)
    assert len(tasks(plan, "under")) == 1


def test_an_order_that_is_taken_again_keeps_what_is_held_in_front(base: Path) -> None:
    plan = make(base, selections=[AGAIN])
    small, middle, large = (cell(plan, f) for f in (0.2, 0.4, 0.8))
    first = made_by(plan, small["selection"])
    assert (first.arguments["first"], first.arguments["held"]) == (None, [])
    for before, now in ((small, middle), (middle, large)):
        order = made_by(plan, now["selection"])
        assert order.arguments["first"] == before["selection"]
        assert order.arguments["held"] == before["chosen"] * 3  # in every layer
        (table,) = order.arguments["statistics"]["attn_pre_out"]
        under = made_by(plan, made_by(plan, table).arguments["of"])
        assert under.arguments["chosen"] == before["chosen"]
        assert under.arguments["selection"] == before["selection"]
        assert under.arguments["centres"] == centres(before)
        # Only the order moves on: constants are of the bare model.
        assert centres(before) == centres(now)


def test_over_all_layers_one_number_is_kept_in_front(base: Path) -> None:
    plan = make(base, selections=["score(rms, high, global, each_fraction)"])
    order = made_by(plan, cell(plan, 0.4)["selection"])
    assert order.arguments["held"] == cell(plan, 0.2)["chosen"] == [6]


def test_scores_of_weights_are_weighed_in_again(base: Path) -> None:
    plan = make(base, selections=["score(wanda, low, each_fraction)"])
    (norms,) = tasks(plan, "norms")
    found = tasks(plan, "selection")
    assert len(found) == 3
    assert all(norms.file in task.after for task in found)


def test_orders_and_constants_may_both_move_on(base: Path) -> None:
    plan = make(base, "per_fraction", selections=[AGAIN])
    small, middle, large = (cell(plan, f) for f in (0.2, 0.4, 0.8))
    assert len({centres(a) for a in (small, middle, large)}) == 3
    assert len({a["selection"] for a in (small, middle, large)}) == 3
    assert len(tasks(plan, "under")) == 2  # one count gives both
    constants = made_by(plan, centres(large))
    order = made_by(plan, large["selection"])
    (table,) = order.arguments["statistics"]["attn_pre_out"]
    assert made_by(plan, table).arguments["of"] == constants.arguments["of"]


def test_a_score_that_is_taken_again_depends_on_the_method_also_at_zero(base: Path) -> None:
    plan = make(base, selections=[AGAIN], methods=["zero", "mean"])
    zero, mean = (cell(plan, 0.4, method=m) for m in ("zero", "mean"))
    assert zero["selection"] != mean["selection"]
    small = {cell(plan, 0.2, method=m)["selection"] for m in ("zero", "mean")}
    assert len(small) == 1  # the first is of the bare model
    assert len(tasks(plan, "under")) == 2 * 2


def test_all_held_is_all_held_in_whichever_order(base: Path) -> None:
    full = {"fractions": [0.4, 1], "methods": ["zero"]}
    again, once = (make(base, selections=[s], **full) for s in (AGAIN, ONCE))
    assert asked(again, fraction=1.0) == asked(once, fraction=1.0)
    assert asked(again, fraction=0.0) == asked(once, fraction=0.0)


def test_statistics_of_a_chain_say_which_cell_they_are_under(base: Path) -> None:
    plan = make(base, "per_fraction", selections=[AGAIN], methods=["mean", "zero"])
    under = {t.file for t in tasks(plan, "under")}
    found = [t for t in tasks(plan, "statistics") if t.arguments["of"] in under]
    assert len(found) == len(under) == 4
    for task in found:
        held = plan.cells[task.arguments["cell"]].arguments
        count = made_by(plan, task.arguments["of"])
        told = ("sites", "unit", "chosen", "selection", "layers")
        assert {k: count.arguments[k] for k in told} == {k: held[k] for k in told}


@pytest.mark.parametrize("mode", ["per_fraction", "layers_in_sequence"])
def test_a_list_may_be_held_while_statistics_are_taken_again(base: Path, mode: str) -> None:
    file = listing(base, [(0, 0), (1, 1), (2, 2), (0, 5)])
    plan = make(base, mode, selections=[f"explicit({file})"], fractions=[0.5, 1])
    held = {r["fraction"]: r["units_held"] for r in points(plan)}
    assert held == {0.0: 0, 0.5: 2, 1.0: 4}
    assert len(tasks(plan, "under")) == {"per_fraction": 1, "layers_in_sequence": 2}[mode]


def test_every_sites_chain_is_its_own(base: Path) -> None:
    plan = make(base, "per_fraction", sites=["attn_pre_out", "mlp_mid"])
    sites = [t.arguments["site"] for t in tasks(plan, "under")]
    assert sorted(sites) == ["attn_pre_out"] * 2 + ["mlp_mid"] * 2
    for task in tasks(plan, "under"):
        assert task.arguments["sites"] == [task.arguments["site"]]
