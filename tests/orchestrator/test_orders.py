"""What the order of every rule builds on."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.orders import MASKS_PER_TASK
from orchestrator.plan import Plan
from orchestrator.tasks import Task
from tests.orchestrator import planned
from tests.orchestrator.planned import listing, names, tasks


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    return tmp_path


def make(base: Path, *selections: object, **changes: Any) -> Plan:
    given = {"methods": ["mean"], "seeds": 2, "fractions": [0.5], **changes}
    return planned.make(base, **{**given, "selections": list(selections)})


def orders(plan: Plan) -> list[Task]:
    return tasks(plan, "selection")


def kinds_before(plan: Plan, task: Task) -> set[str]:
    """Return the kinds of the tasks that a task reads from."""
    kinds = {t.file: t.kind for t in plan.tasks}
    return {kinds[file] for file in task.after}


@pytest.mark.parametrize(
    ("selection", "count", "before"),
    [
        ("random", 2, set()),
        ("random(global)", 2, set()),
        ("score(rms, low)", 1, {"statistics"}),
        ("score(rms, low, global)", 1, {"statistics"}),
        ("score(wanda, high)", 1, {"statistics", "norms"}),
        ("score(fluctuation, high)", 1, {"statistics", "norms"}),
        ("regression(masks=90)", 1, {"effects"}),
        ("explicit(units.npy)", 1, set()),
    ],
)
def test_an_order_builds_on_what_its_rule_looks_at(
    base: Path, selection: str, count: int, before: set[str]
) -> None:
    listing(base, [(0, 1), (2, 3)])
    plan = make(base, selection)
    assert [kinds_before(plan, task) for task in orders(plan)] == [before] * count
    looks = selection.startswith(("score", "regression"))
    for task in orders(plan):
        assert task.arguments["label"] in (selection, "explicit(units.npy)")
        assert task.arguments["basis"] == ("own" if looks else None)
        assert (task.arguments["seed"] is None) == (count == 1)


def test_an_order_is_of_all_layers_whichever_are_held(base: Path) -> None:
    selections = ["random", "random(global)", "score(rms, low)", "regression(masks=90)"]
    whole = names(make(base, *selections), "selection")
    for layers in ("each", [1], [0, 2]):
        assert names(make(base, *selections, layers=layers), "selection") == whole
    assert names(make(base, *selections, complement=True), "selection") == whole


def test_an_order_knows_nothing_of_methods_and_fractions(base: Path) -> None:
    selections = ["random", "score(rms, low)"]
    plan = make(base, *selections)
    other = make(base, *selections, methods=["zero", "noise"], fractions=[0.1, 0.2])
    assert names(plan, "selection") == names(other, "selection")


def test_units_and_sites_have_orders_of_their_own(base: Path) -> None:
    asked = [
        {},
        {"units": ["head"]},
        {"sites": ["mlp_mid"]},
        {"sites": [["attn_pre_out", "mlp_mid"]]},
    ]
    made = [names(make(base, "random", **changes), "selection") for changes in asked]
    assert sum(map(len, made)) == len(set.union(*made)) == 8


def test_two_sites_together_are_ranked_by_the_statistics_of_both(base: Path) -> None:
    plan = make(base, "score(wanda, high, global)", sites=[["attn_pre_out", "mlp_mid"]])
    (task,) = orders(plan)
    assert task.arguments["units"] == [10, 20]
    for of in ("statistics", "weights"):
        assert task.arguments[of].keys() == {"attn_pre_out", "mlp_mid"}
    assert {t.arguments["site"] for t in tasks(plan, "norms")} == {"attn_pre_out", "mlp_mid"}


def test_weights_are_looked_at_once_per_site_and_only_where_they_are_weighed_in(
    base: Path,
) -> None:
    assert not tasks(make(base, "score(rms, low)", "random"), "norms")
    both = make(base, "score(wanda, low)", "score(fluctuation, high, global)")
    assert len(tasks(both, "norms")) == 1


OTHERS = {
    "texts": {"source": "documents.jsonl", "document": "name"},
    "others": {"source": "documents.jsonl", "document": "name", "bos": "first"},
}


def test_what_is_compared_against_is_collected_too(base: Path) -> None:
    one = make(base, "score(rms, low)", data=OTHERS)
    two = make(base, "score(rms, low, against=others)", data=OTHERS)
    for kind in ("data", "pilot", "collect", "statistics"):
        assert names(one, kind) < names(two, kind)
        assert {t.arguments["data_name"] for t in tasks(two, kind)} == {"texts", "others"}
    (task,) = orders(two)
    sources = {t.file: t.arguments["data_name"] for t in tasks(two, "statistics")}
    for which, source in (("statistics", "texts"), ("against", "others")):
        assert {sources[f] for f in task.arguments[which]["attn_pre_out"]} == {source}
    # What is evaluated and held is of the model's own source alone.
    assert names(one, "centres") == names(two, "centres")


def test_a_regression_asks_many_masks_and_then_once(base: Path) -> None:
    plan = make(base, "regression(masks=90, block=2, seed=5, ridge=0.5, share=0.3)")
    probes, (effects,), (order,) = tasks(plan, "probe"), tasks(plan, "effects"), orders(plan)
    spans = [(t.arguments["start"], t.arguments["stop"]) for t in probes]
    assert MASKS_PER_TASK == 25
    assert spans == [(0, 25), (25, 50), (50, 75), (75, 90)]
    assert list(effects.after) == effects.arguments["parts"] == [t.file for t in probes]
    assert order.after == (effects.file,)
    (mean,) = tasks(plan, "centres")  # units are held at their means
    for task in probes:
        assert task.arguments["centres"] == mean.file
        told = {k: task.arguments[k] for k in ("masks", "block", "seed", "share", "unit", "site")}
        assert told == {k: effects.arguments[k] for k in told}
        assert (told["masks"], told["block"], told["seed"], told["share"]) == (90, 2, 5, 0.3)
    assert (effects.arguments["ridge"], effects.arguments["units"]) == (0.5, 30)
    assert probes[0].cost == pytest.approx(25 / 15 * probes[3].cost)


def test_a_regression_is_on_what_was_collected_and_held_at_means_even_if_no_one_asks(
    base: Path,
) -> None:
    plan = make(base, "regression(masks=90)", methods=["zero"], data=OTHERS,
                statistics={"shards": 2, "data": "others"})  # fmt: skip
    assert {t.arguments["data_name"] for t in tasks(plan, "probe")} == {"others"}
    methods = {t.arguments["method"] for t in tasks(plan, "centres")}
    assert methods == {"zero", "mean"}
    assert {"centres", "data"} == kinds_before(plan, tasks(plan, "probe")[0])


@pytest.mark.parametrize(
    "other",
    ["masks=91", "masks=90, block=2", "masks=90, seed=1", "masks=90, share=0.4"],
)
def test_other_masks_of_a_regression_have_other_names(base: Path, other: str) -> None:
    one, two = (make(base, f"regression({text})") for text in ("masks=90", other))
    for kind in ("probe", "effects", "selection"):
        assert not names(one, kind) & names(two, kind)


def test_how_much_is_shrunk_and_from_which_end_needs_no_new_masks(base: Path) -> None:
    one = make(base, "regression(masks=90)")
    shrunk = make(base, "regression(masks=90, ridge=0.7)")
    turned = make(base, "regression(masks=90, high)")
    assert names(one, "probe") == names(shrunk, "probe") == names(turned, "probe")
    assert names(one, "effects") == names(turned, "effects")
    assert not names(one, "effects") & names(shrunk, "effects")
    made = [names(p, "selection") for p in (one, shrunk, turned)]
    assert len(set.union(*made)) == 3


def test_heads_have_fewer_effects_than_neurons(base: Path) -> None:
    plan = make(base, "regression(masks=90)", units=["neuron", "head"])
    units = {t.arguments["unit"]: t.arguments["units"] for t in tasks(plan, "effects")}
    assert units == {"neuron": 30, "head": 6}


def test_a_list_is_known_by_its_content(base: Path) -> None:
    def made(pairs: list[tuple[int, int]]) -> set[str]:
        return names(make(base, f"explicit({listing(base, pairs)})"), "selection")

    one = made([(0, 1), (2, 3)])
    assert one != made([(2, 3), (0, 1)])  # the order is what is listed
    assert one == made([(0, 1), (2, 3)])
