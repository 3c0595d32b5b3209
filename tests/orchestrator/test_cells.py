"""Which points of a sweep are one question, and what a cell's name depends on (law 3)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cells, names
from orchestrator.names import canonical
from orchestrator.plan import Plan
from tests.orchestrator import planned
from tests.orchestrator.planned import asked, listing, plugin, points

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
    assert plan.cells[cell].arguments == {}
    assert not plan.cells[cell].donors


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
    assert (row["basis"], row["site"], row["unit"]) == ("own", "attn_pre_out", "neuron")
    assert (row["layers"], row["complement"], row["selection"]) == ("all", False, "random")
    assert row["parameters"] == {"estimator": "smooth"}
    assert (row["donor_seed"], row["noise_seed"], row["masking_seed"]) == (None, None, None)
    masked, *_ = points(make("masked"), method="resample", fraction=0.5)
    assert (masked["donor_seed"], masked["masking_seed"]) == (0, 0)


def test_a_cell_names_the_files_it_needs_and_no_others(make: Make) -> None:
    plan = make(methods=["mean", "resample", "noise"])
    for row in points(plan):
        cell = plan.cells[row["cell"]]
        data, *others = cell.after
        assert data == "data/a/texts.parquet"
        if row["fraction"] == 0:
            assert others == []
            continue
        value = cell.arguments["value"]
        needed = [cell.arguments["selection"]] if row["fraction"] < 1 else []
        folder, files = {
            "mean": ("centres/", [value.get("centres", {}).get("attn_pre_out")]),
            "resample": ("donors/", [value.get("donors")]),
            "noise": ("statistics/", value.get("statistics", {}).get("attn_pre_out")),
        }[row["method"]]
        assert all(file.startswith(folder) for file in files)
        assert others == needed + files
        assert cell.donors == (files[0] if row["method"] == "resample" else "")


def test_a_cell_that_holds_everything_reads_no_order(make: Make) -> None:
    plan = make()
    for row in points(plan, fraction=1.0):
        assert plan.cells[row["cell"]].arguments["selection"] is None
        assert row["units_held"] == row["units_total"] == 30


def by_point(plan: Plan) -> dict[tuple[object, ...], str]:
    """Return the cell of every point, by what the sweep file says of it."""
    keys = ("method", "parameters", "selection", "fraction", "seed", "donor_seed", "noise_seed")
    return {tuple(canonical(r[k]) for k in keys): r["cell"] for r in points(plan)}


@pytest.mark.parametrize("modality", ["causal", "masked"])
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"cluster": {"workers": 7, "device": "cpu", "ready_seconds": 1.0}},
        {"device": "cuda"},
        {"methods": ["resample", "peak(paper)", "peak", "mean", "zero"]},
        {"contrasts": [["peak", "mean"]]},
        {"evaluation": {"metrics": ["top10", "perplexity", "ce"]}},  # sums that are always there
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


ALL = {"fraction 0", "zero", "mean", "peak", "peak(paper)", "resample", "noise", "nearest_peak"}
COUNTED = {"mean", "peak", "peak(paper)", "noise", "nearest_peak"}
EVERY_KIND = ["zero", "mean", "peak", "peak(paper)", "resample", "noise", "nearest_peak"]


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
        ({"evaluation": {"metrics": ["ce", "kl"]}}, ALL),
        ({"evaluation": {"positions": {"skip_first": 1}}}, ALL),
        ({"evaluation": {"positions": {"last": 4}}}, ALL),
        ({"evaluation": {"positions": {"specials": "out"}}}, ALL),
        ({"statistics": {"shards": 3}}, COUNTED),
        ({"statistics": {"shards": 2, "bins": 128}}, COUNTED),
        ({"statistics": {"shards": 2, "pilot_positions": 64}}, COUNTED),
        ({"seeds": {"masks": [10, 11]}}, ALL - {"fraction 0"}),
        ({"seeds": {"masks": 2, "donors": [1]}}, {"resample"}),
        ({"seeds": {"masks": 2, "noise": [1]}}, {"noise"}),
    ],
    ids=lambda c: str(c) if isinstance(c, dict) else "",
)
def test_what_changes_an_answer_changes_its_name(
    make: Make, changes: dict[str, Any], renamed: set[str]
) -> None:
    def named(plan: Plan) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {"fraction 0": asked(plan, fraction=0.0)}
        for row in points(plan, fraction=0.5):
            paper = row["parameters"].get("estimator") == "paper"
            found.setdefault("peak(paper)" if paper else row["method"], set()).add(row["cell"])
        return found

    before, after = (named(make(methods=EVERY_KIND, **c)) for c in ({}, changes))
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


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((k, "mean") for k in ("cell", "data", "selection", "pilot", "collect", "merge")),
        ("centres", "mean"),
        ("donors", "resample"),
        ("generate", "resample(generated)"),
        ("statistics", "noise"),
        ("learn", "optimal"),
    ],
)
def test_a_new_algorithm_renames_what_is_made_with_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: str, method: str
) -> None:
    before = asked(make(methods=[method]), fraction=0.5)
    monkeypatch.setattr(names, "ALGORITHM", {**names.ALGORITHM, kind: 99})
    assert not before & asked(make(methods=[method]), fraction=0.5)


def test_the_data_of_a_model_is_the_one_the_plan_filled_in(make: Make) -> None:
    spec = make().spec
    assert cells.data_of(spec, "a") == "texts"
    model = replace(make().models["a"], name="b")
    with pytest.raises(StopIteration):
        cells.data_of(spec, model.name)


# What is held.

SELECTIONS = ["random", "random(global)", "score(rms, low)", "regression"]


def test_holding_nothing_is_one_cell_per_basis_whatever_else_is_asked(make: Make) -> None:
    plan = make(
        sites=["attn_pre_out", "mlp_mid", ["attn_pre_out", "mlp_mid"]],
        methods=["mean", "noise", "resample", "mean(alpha=0.5)"],
        selections=["random", "random(global)"],
        layers="each",
        basis={"rotate": [0, 7]},
    )
    bare = [asked(plan, fraction=0.0, basis=b) for b in ("own", "rotated 0", "rotated 7")]
    assert [len(of) for of in bare] == [1, 1, 1]
    assert len(set.union(*bare)) == 3
    (own,) = bare[0]
    assert own in make(methods=["zero"]).cells  # and of any other sweep of this model


def test_holding_everything_is_one_cell_per_method_whatever_the_selection_or_unit(
    make: Make, tmp_path: Path
) -> None:
    every = listing(tmp_path, [(layer, n) for layer in range(3) for n in range(10)])
    heads = make(units=["neuron", "head"], selections=SELECTIONS, fractions=[0.5, 1])
    for method in ("zero", "mean", "resample"):
        assert len(asked(heads, fraction=1.0, method=method)) == 1
    listed = make(selections=[f"explicit({every})"])
    assert asked(listed, fraction=1.0) == asked(heads, fraction=1.0)


def test_sites_share_no_cell_but_that_of_the_model_itself(make: Make) -> None:
    both = ["attn_pre_out", "mlp_mid"]
    plan = make(sites=[*both, both], methods=["zero", "mean"])
    held = [
        {r["cell"] for r in points(plan, site=site) if r["fraction"]}
        for site in (*both, "attn_pre_out+mlp_mid")
    ]
    assert all(held)
    assert sum(map(len, held)) == len(set.union(*held)) == len(plan.cells) - 1


def test_two_sites_together_hold_units_of_both(make: Make) -> None:
    plan = make(sites=[["mlp_mid", "attn_pre_out"]], methods=["mean"])
    row = points(plan, fraction=0.5)[0]
    assert row["site"] == "attn_pre_out+mlp_mid"
    assert (row["units_held"], row["units_total"]) == (3 * (5 + 10), 3 * (10 + 20))
    arguments = plan.cells[row["cell"]].arguments
    assert arguments["sites"] == ["attn_pre_out", "mlp_mid"]
    assert arguments["chosen"] == [5, 10]
    assert arguments["value"]["centres"].keys() == {"attn_pre_out", "mlp_mid"}


def test_heads_are_counted_as_heads_and_drawn_apart(make: Make) -> None:
    plan = make(units=["neuron", "head"], methods=["zero"])
    row = points(plan, unit="head", fraction=0.5)[0]
    assert (row["units_held"], row["units_total"]) == (3, 6)
    assert not asked(plan, unit="head", fraction=0.5) & asked(plan, unit="neuron", fraction=0.5)


def test_each_layer_has_cells_of_its_own_with_its_number_in_the_table(make: Make) -> None:
    plan = make(layers="each", methods=["zero", "mean"], seeds=1)
    assert {r["layers"] for r in points(plan)} == {"0", "1", "2"}
    held = [
        {r["cell"] for r in points(plan, layers=layer) if r["fraction"]}
        for layer in ("0", "1", "2")
    ]
    assert [len(of) for of in held] == [4, 4, 4]
    assert len(set.union(*held)) == 12
    assert {r["units_total"] for r in points(plan)} == {10}


def test_some_layers_are_named_and_all_of_them_are_all(make: Make) -> None:
    some, every = make(layers=[2, 0]), make(layers=[0, 1, 2])
    assert {r["layers"] for r in points(some)} == {"0,2"}
    assert {r["layers"] for r in points(every)} == {"all"}
    assert by_point(every) == by_point(make())
    row = points(some, fraction=0.5)[0]
    assert (row["units_held"], row["units_total"]) == (10, 20)


def test_one_layer_asked_for_alone_shares_its_cells_with_each(make: Make) -> None:
    each, one = make(layers="each"), make(layers=[1])
    assert asked(each, layers="1") == set(one.cells)


def test_with_complement_the_chosen_are_left_and_the_rest_is_held(make: Make) -> None:
    plan = make(complement=True, methods=["mean"], fractions=[0.2, 1])
    held = {r["fraction"]: (r["units_held"], r["units_total"]) for r in points(plan)}
    assert held == {0.0: (0, 30), 0.2: (24, 30), 1.0: (0, 30)}
    # All chosen, none held: the model itself; the share that is held falls.
    assert asked(plan, fraction=1.0) == asked(plan, fraction=0.0)
    assert not asked(plan, fraction=0.2) & set(make(methods=["mean"], fractions=[0.2, 1]).cells)


def test_all_of_a_layer_held_is_all_but_the_other_layers(make: Make) -> None:
    one = make(layers=[1], methods=["mean", "noise"])
    rest = make(layers=[0, 2], complement=True, methods=["mean", "noise"])
    for method in ("mean", "noise"):
        (held,) = asked(one, fraction=1.0, method=method)
        assert asked(rest, fraction=1.0, method=method) == {held}
    assert not asked(one, fraction=0.5) & asked(rest, fraction=0.5)


def test_a_choice_from_one_layer_leaves_the_others_held(make: Make) -> None:
    plan = make(layers="each", complement=True, methods=["mean"])
    row = points(plan, layers="0", fraction=0.5)[0]
    assert (row["units_held"], row["units_total"]) == (25, 30)


@pytest.mark.parametrize("selection", ["score(rms, low)", "score(rms, low, global)", "regression"])
def test_what_is_not_drawn_stands_once_with_no_seed(make: Make, selection: str) -> None:
    plan = make(selections=["random", selection], seeds=4, methods=["mean"])
    label = next(r["selection"] for r in points(plan) if r["selection"] != "random")
    assert {r["seed"] for r in points(plan, selection="random")} == {0, 1, 2, 3}
    (row,) = points(plan, selection=label, fraction=0.5)
    assert row["seed"] is None


def test_over_all_layers_other_units_are_drawn_than_within_each(make: Make) -> None:
    plan = make(selections=["random", "random(global)"], methods=["zero"], fractions=[0.5, 0.55])
    within, over_all = (
        asked(plan, selection=label, fraction=0.5) for label in ("random", "random(global)")
    )
    assert not within & over_all
    row = points(plan, selection="random(global)", fraction=0.55)[0]
    assert row["units_held"] == 17  # of 30 together, where 0.55 of 10 is 6 in each layer
    assert points(plan, selection="random", fraction=0.55)[0]["units_held"] == 18


def test_a_fraction_of_a_list_is_of_the_units_it_lists(make: Make, tmp_path: Path) -> None:
    file = listing(tmp_path, [(2, 9), (0, 0), (1, 4), (1, 5)])
    selection = f"explicit({file})"
    plan = make(selections=[selection], methods=["mean"], fractions=[0.5, 0.7, 1])
    held = {r["fraction"]: r["units_held"] for r in points(plan, selection=selection)}
    assert held == {0.0: 0, 0.5: 2, 0.7: 3, 1.0: 4}
    assert {r["units_total"] for r in points(plan)} == {30}
    assert not asked(plan, fraction=1.0) & asked(make(methods=["mean"]), fraction=1.0)


def test_a_list_is_taken_apart_by_layer(make: Make, tmp_path: Path) -> None:
    selection = f"explicit({listing(tmp_path, [(2, 9), (0, 0), (2, 4)])})"
    plan = make(selections=[selection], methods=["mean"], fractions=[1], layers="each")
    held = {r["layers"]: r["units_held"] for r in points(plan, fraction=1.0)}
    assert held == {"0": 1, "1": 0, "2": 2}
    assert asked(plan, layers="1", fraction=1.0) == asked(plan, fraction=0.0)


def test_the_content_of_a_list_is_part_of_the_name_and_its_place_is_not(
    make: Make, tmp_path: Path
) -> None:
    def held(pairs: list[tuple[int, int]], name: str) -> set[str]:
        file = listing(tmp_path, pairs, name)
        return asked(make(selections=[f"explicit({file})"], methods=["mean"]), fraction=0.5)

    one = held([(0, 1), (2, 3)], "one.npy")
    assert held([(0, 1), (2, 4)], "one.npy") != one


# What is put in.


@pytest.mark.parametrize("method", ["noise", "marginal", "clipped"])
def test_what_is_drawn_anew_has_a_cell_per_noise_seed(make: Make, method: str) -> None:
    own = [plugin("clipped", "replacing")]
    plan = make(methods=[method], seeds={"masks": 1, "noise": [3, 4]}, plugins=own)
    for fraction in (0.5, 1.0):
        rows = points(plan, fraction=fraction)
        assert [(r["noise_seed"], r["donor_seed"]) for r in rows] == [(3, None), (4, None)]
        assert len({r["cell"] for r in rows}) == 2
    seeds = {plan.cells[r["cell"]].arguments["value"]["seed"] for r in points(plan, fraction=0.5)}
    assert seeds == {3, 4}


@pytest.mark.parametrize("method", ["mean", "nearest_peak", "resample"])
def test_what_is_not_has_none(make: Make, method: str) -> None:
    plan = make(methods=[method], seeds={"masks": 1, "noise": [3, 4]})
    assert [r["noise_seed"] for r in points(plan, fraction=0.5)] == [None]


VARIANTS = [
    "resample", "resample(per_layer)", "resample(per_head)", "resample(per_neuron)",
    "resample(shared)", "resample(published)", "resample(random)", "resample(random_characters)",
    "resample(generated)", "resample(alpha=0.5)", "zero", "zero(alpha=0.5)", "mean",
    "mean(position)", "mean(alpha=0.5)", "mean(alpha=0.25)", "median", "quantile(0.5)",
    "quantile(0.25)", "peak", "peak(half_sample)", "peak(half_sample, position)", "peak(paper)",
    "peak(paper_global)", "noise", "noise(alpha=0.5)", "marginal", "nearest_peak", "optimal",
    "optimal(shared)", "optimal(steps=20)", "optimal(lr=0.01)", "optimal(seed=1)",
]  # fmt: skip


def test_every_variant_of_a_method_has_a_name_of_its_own(make: Make) -> None:
    plan = make(
        methods=VARIANTS, seeds=1, statistics={"shards": 2, "strata": ["position"]}, fractions=[0.5]
    )
    assert len(asked(plan, fraction=0.5)) == len(points(plan, fraction=0.5)) == len(VARIANTS)


def test_alpha_is_told_beside_the_same_constants(make: Make) -> None:
    plan = make(methods=["mean", "mean(alpha=0.25)"], seeds=1)
    (whole,), (mixed,) = (
        [plan.cells[r["cell"]] for r in points(plan, fraction=0.5, parameters=p)]
        for p in ({}, {"alpha": 0.25})
    )
    assert (whole.arguments["share"], mixed.arguments["share"]) == (1.0, 0.25)
    assert whole.arguments["value"] == mixed.arguments["value"]
    assert whole.name != mixed.name


@pytest.mark.parametrize(("name", "kind"), [("trimmed", "constant"), ("clipped", "replacing")])
def test_the_text_of_a_plug_in_and_its_parameters_are_part_of_the_name(
    make: Make, name: str, kind: str
) -> None:
    def held(digest: str, written: str) -> set[str]:
        own = [plugin(name, kind, digest=digest, share=0.1)]
        return asked(make(methods=[written], plugins=own, seeds=1), fraction=0.5)

    one = held("text", name)
    assert one == held("text", f"{name}(share=0.1)")
    assert len({*one, *held("other text", name), *held("text", f"{name}(share=0.2)")}) == 3


def test_a_method_that_fits_a_model_is_not_asked_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    methods = ["zero", "resample(generated)", "resample(random_characters)"]
    plan = planned.make(tmp_path, models=["a", "m"], methods=methods)
    found = {m: {r["parameters"].get("source") for r in points(plan, model=m)} for m in "am"}
    assert found["a"] == {None, "generated", "random_characters"}
    assert found["m"] == {None, "random_characters"}


def test_the_baseline_knows_nothing_of_what_else_is_asked(make: Make) -> None:
    bare = asked(make(), fraction=0.0)
    for changes in (
        {"methods": ["noise"]},
        {"fractions": [0.3]},
        {"sites": ["mlp_mid"]},
        {"units": ["head"]},
        {"selections": ["score(std, high)"]},
        {"layers": [0]},
        {"complement": True},
        {"statistics": {"bins": 64}},
        {"seeds": {"masks": [9], "donors": [9], "noise": [9]}},
    ):
        assert asked(make(**changes), fraction=0.0) == bare


def test_a_rotation_makes_no_cells_where_there_are_no_heads(make: Make) -> None:
    plan = make(sites=["attn_pre_out", "mlp_mid", ["attn_pre_out", "mlp_mid"]], basis={"rotate": 2})
    assert {r["site"] for r in points(plan, basis="own")} == {
        "attn_pre_out",
        "mlp_mid",
        "attn_pre_out+mlp_mid",
    }
    turned = {r["site"] for r in points(plan, basis="rotated 2")}
    assert turned == {"attn_pre_out", "attn_pre_out+mlp_mid"}
