"""What every kind of method needs before its cells, and what they are told."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.graph import DRAWS
from orchestrator.plan import Plan
from tests.orchestrator import planned
from tests.orchestrator.planned import asked, names, plugin, points, tasks

BOTH = ["attn_pre_out", "mlp_mid"]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    return tmp_path


def make(base: Path, *methods: object, **changes: Any) -> Plan:
    return planned.make(base, **{"seeds": 2, "fractions": [0.5, 1], **changes}, methods=methods)


def told(plan: Plan, fraction: float = 0.5, **where: object) -> dict[str, Any]:
    """Return what the cells at a fraction hold their units at, which is the same for all."""
    found = [plan.cells[c].arguments["value"] for c in asked(plan, fraction=fraction, **where)]
    assert found
    assert all(value == found[0] for value in found)
    return dict(found[0])


@pytest.mark.parametrize("sites", [["attn_pre_out"], ["mlp_mid"], [BOTH]])
def test_a_constant_is_a_table_per_site(base: Path, sites: list[Any]) -> None:
    plan = make(base, "median", sites=sites)
    value = told(plan)
    flat = sites[0] if isinstance(sites[0], list) else sites
    files = {t.arguments["site"]: t.file for t in tasks(plan, "centres")}
    assert value == {"kind": "constant", "centres": files, "starts": None}
    assert list(value["centres"]) == flat


def test_a_constant_by_position_says_where_its_buckets_begin(base: Path) -> None:
    statistics = {"shards": 2, "strata": [{"position": 4}]}
    plan = make(base, "mean", "mean(position)", statistics=statistics)
    assert told(plan, parameters={})["starts"] is None
    assert told(plan, parameters={"by": "position"})["starts"] == [0, 8, 16, 24]


@pytest.mark.parametrize("method", ["noise", "marginal", "nearest_peak"])
def test_what_is_made_of_statistics_reads_them_at_every_site(base: Path, method: str) -> None:
    plan = make(base, method, sites=[BOTH])
    files = {
        site: [t.file for t in tasks(plan, "statistics") if t.arguments["site"] == site]
        for site in BOTH
    }
    seed = None if method == "nearest_peak" else 0
    assert told(plan) == {"kind": method, "statistics": files, "seed": seed}
    assert not tasks(plan, "centres")


def test_a_users_replacing_method_travels_with_its_text(base: Path) -> None:
    own = [plugin("clipped", "replacing", width=2.0)]
    plan = make(base, "clipped(width=3, alpha=0.5)", plugins=own)
    value = told(plan)
    assert value["kind"] == "custom"
    assert value["plugin"] == own[0].told()
    assert value["parameters"] == {"width": 3.0}
    shares = {plan.cells[c].arguments["share"] for c in asked(plan, fraction=0.5)}
    assert shares == {0.5}


def test_a_users_constant_is_made_from_the_statistics(base: Path) -> None:
    own = [plugin("trimmed")]
    plan = make(base, "trimmed", plugins=own)
    (centre,) = tasks(plan, "centres")
    assert centre.arguments["plugin"] == own[0].told()
    assert list(centre.after) == [t.file for t in tasks(plan, "statistics")]
    assert told(plan)["centres"] == {"attn_pre_out": centre.file}


@pytest.mark.parametrize(
    ("method", "drawn", "draws"),
    [
        ("resample", "joint", 1),
        ("resample(per_layer)", "per_layer", DRAWS),
        ("resample(per_head)", "per_head", DRAWS),
        ("resample(per_neuron)", "per_neuron", DRAWS),
        ("resample(shared)", "joint", 1),
    ],
)
def test_what_is_drawn_apart_needs_several_donors_of_a_sequence(
    base: Path, method: str, drawn: str, draws: int
) -> None:
    plan = make(base, method, seeds={"masks": 2, "donors": [6]})
    (donors,) = tasks(plan, "donors")
    assert (donors.arguments["draws"], donors.arguments["seed"]) == (draws, 6)
    value = {"kind": "donated", "donors": donors.file, "drawn": drawn, "seed": 6}
    assert told(plan) == value


def test_layers_heads_and_neurons_that_draw_apart_share_their_donors(base: Path) -> None:
    plan = make(base, "resample(per_layer)", "resample(per_head)", "resample(per_neuron)")
    assert len(tasks(plan, "donors")) == 1
    assert len(asked(plan, fraction=1.0)) == 3


def test_as_published_everyone_has_one_donor_and_a_row_of_it(base: Path) -> None:
    plan = make(base, "resample(published)", "resample(shared)")
    told = [(t.arguments["donor"], t.arguments["behaviour"]) for t in tasks(plan, "donors")]
    assert told == [("own", "published"), ("shared", "by_position")]


def test_generated_donors_are_written_by_the_model_first(base: Path) -> None:
    plan = make(base, "resample(generated, per_layer)", "resample(random)")
    (texts,) = tasks(plan, "generate")
    assert texts.arguments["draws"] == DRAWS
    readers = {t.arguments["source"]: texts.file in t.after for t in tasks(plan, "donors")}
    assert readers == {"generated": True, "random_tokens": False}


def test_a_masked_models_made_up_donors_are_corrupted_as_its_data_is(base: Path) -> None:
    def donors(seed: int, source: str) -> set[str]:
        seeds = {"masks": 1, "masking": seed}
        return names(make(base, f"resample({source})", models=["m"], seeds=seeds), "donors")

    for source in ("random", "dataset"):
        assert donors(0, source) != donors(1, source)


# Learned constants.


def learned(plan: Plan) -> list[dict[str, Any]]:
    return [dict(t.arguments) for t in tasks(plan, "learn")]


def test_every_held_set_has_constants_learned_for_it(base: Path) -> None:
    plan = make(base, "optimal(steps=20)", fractions=[0.2, 0.5, 1], seeds=3)
    assert len(tasks(plan, "learn")) == 3 + 3 + 1  # at 1 all masks hold alike; at 0 nothing
    for task in tasks(plan, "learn"):
        cell = plan.cells[task.arguments["cell"]]
        assert cell.arguments["value"]["centres"] == {"attn_pre_out": task.file}
        (some,) = task.arguments["sets"]
        assert {k: cell.arguments[k] for k in some} == some
        assert (some["selection"] is None) or some["selection"] in task.after


def test_nothing_is_learned_where_nothing_is_held(base: Path) -> None:
    plan = make(base, "optimal", fractions=[0])
    assert tasks(plan, "learn") == []
    assert len(plan.cells) == 1


def test_shared_constants_are_learned_once_for_all_sets_of_an_arm(base: Path) -> None:
    plan = make(base, "optimal(shared)", fractions=[0.2, 0.5, 1], seeds=3,
                selections=["random", "score(rms, low)"])  # fmt: skip
    found = learned(plan)
    assert [len(a["sets"]) for a in found] == [3 + 3 + 1, 2 + 1]
    assert [a["cell"] for a in found] == [None, None]
    for selection, task in zip(("random", "score(rms, low)"), tasks(plan, "learn"), strict=True):
        for row in points(plan, selection=selection):
            assert (task.file in plan.cells[row["cell"]].after) == (row["fraction"] > 0)


def test_each_layer_is_an_arm_of_its_own(base: Path) -> None:
    plan = make(base, "optimal(shared)", layers="each")
    assert [{tuple(s["layers"]) for s in a["sets"]} for a in learned(plan)] == [
        {(0,)}, {(1,)}, {(2,)},
    ]  # fmt: skip


def test_learning_starts_at_the_sweeps_constants_and_at_mean_and_zero(base: Path) -> None:
    statistics = {"shards": 2, "strata": ["position"]}
    own = [plugin("trimmed"), plugin("clipped", "replacing")]
    plan = make(
        base,
        *("peak", "mean(position)", "median(alpha=0.5)", "noise", "resample", "trimmed"),
        *("clipped", "optimal"),
        statistics=statistics,
        plugins=own,
    )
    files = {t.file: t.arguments["method"] for t in tasks(plan, "centres")}
    for task in learned(plan):
        started = {k: files[of["attn_pre_out"]] for k, of in task["starts"].items()}
        assert started == {"peak": "peak", "trimmed": "trimmed", "mean": "mean", "zero": "zero"}


def test_another_start_may_end_elsewhere_so_it_changes_the_name(base: Path) -> None:
    one, two = make(base, "optimal"), make(base, "optimal", "peak")
    assert not names(one, "learn") & names(two, "learn")
    # Mean and zero are always there; asking for them changes nothing.
    assert names(one, "learn") == names(make(base, "optimal", "zero", "mean"), "learn")


def test_learning_is_on_what_was_collected(base: Path) -> None:
    data = {
        "texts": {"source": "documents.jsonl", "document": "name"},
        "others": {"source": "documents.jsonl", "document": "name", "bos": "first"},
    }
    plan = make(base, "optimal", data=data, statistics={"shards": 2, "data": "others"})
    for task in learned(plan):
        assert (task["data_name"], task["data"]) == ("others", "data/a/others.parquet")
    assert {t.arguments["data_name"] for t in tasks(plan, "donors")} == set()


def test_two_sites_are_learned_together_in_one_table(base: Path) -> None:
    plan = make(base, "optimal", sites=[BOTH], seeds=1, fractions=[0.5])
    (task,) = tasks(plan, "learn")
    assert task.arguments["sites"] == BOTH
    assert all(list(of) == BOTH for of in task.arguments["starts"].values())
    assert list(task.arguments["statistics"]) == BOTH
    assert told(plan)["centres"] == dict.fromkeys(BOTH, task.file)


def test_learning_comes_before_its_cell_and_after_its_statistics(base: Path) -> None:
    plan = make(base, "optimal")
    kinds = {t.file: t.kind for t in plan.tasks}
    for task in tasks(plan, "learn"):
        assert {"data", "centres", "statistics"} <= {kinds[f] for f in task.after}
        assert len(set(task.after)) == len(task.after)
        assert task.stage == "learn"


@pytest.mark.parametrize("other", ["steps=200", "lr=0.1", "seed=2", "shared"])
def test_how_is_learned_is_part_of_the_name(base: Path, other: str) -> None:
    one, two = make(base, "optimal"), make(base, f"optimal({other})")
    assert not names(one, "learn") & names(two, "learn")


def test_learning_twice_as_long_costs_about_twice_as_much(base: Path) -> None:
    short, long = (make(base, f"optimal(steps={n})") for n in (1000, 2000))
    costs = [sum(t.cost for t in tasks(p, "learn")) for p in (short, long)]
    assert 1.8 < costs[1] / costs[0] < 2.2


def test_other_methods_of_the_sweep_change_no_value(base: Path) -> None:
    alone = make(base, "mean", "noise", "resample")
    among = make(base, "mean", "noise", "resample", "zero", "peak(paper)", "optimal", "marginal")
    assert alone.cells.keys() < among.cells.keys()
