"""The graph of tasks, and what is refused once models and sources are looked at."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import plan as planning
from orchestrator import stages
from orchestrator.calls import call
from orchestrator.cells import data_of
from orchestrator.host import Host
from orchestrator.inspection import ModelError
from orchestrator.labels import rotated
from orchestrator.mistakes import SpecError
from orchestrator.names import ALGORITHM, canonical
from orchestrator.plan import Plan
from orchestrator.store import Store
from orchestrator.tables import SCHEMAS
from orchestrator.tasks import STAGES
from tests.orchestrator import planned

TEXTS = {"texts": {"source": "documents.jsonl", "document": "name"}}
DIGITS = {"digits": {"source": "zoo:digits"}}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the sweep file; known are `a` and `b` (texts), `m` (masked), `i` (images)."""
    planned.documents(tmp_path)
    known = {
        "a": planned.facts(),
        "b": planned.facts(digest="other weights", heads=3),
        "m": planned.facts("masked"),
        "i": planned.facts("image"),
        "pickled": ModelError("it holds pytorch_model.bin alone; convert it to safetensors"),
    }
    planned.know(monkeypatch, known)
    return tmp_path


def mistakes(base: Path, **changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        planned.make(base, **changes)
    return {m.path: m.message for m in caught.value.mistakes}


def texts(value: object) -> Iterator[str]:
    """Yield every text in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


METHODS = [
    "zero", "mean", "mean(position)", "median", "quantile(0.9)", "peak", "peak(paper)",
    "peak(paper_kde)", "mean(alpha=0.5)", "resample(per_head)", "resample(random)",
    "resample(published)", "resample(generated)", "noise", "marginal", "nearest_peak",
    "optimal(steps=20)", "optimal(shared, steps=20)", "trimmed", "clipped",
]  # fmt: skip
PLUGINS = [planned.plugin("trimmed"), planned.plugin("clipped", "replacing")]
ON_MODEL = {
    "pilot", "collect", "again", "under", "recount", "norms", "generate", "probe", "learn",
}  # fmt: skip


def everything(base: Path, **changes: Any) -> list[Plan]:
    """Plan a sweep of all kinds of methods and rules, and those that go by themselves."""
    file = planned.listing(base, [(0, 1), (2, 3), (1, 4)])
    selections = [
        "random", "random(global)", "score(rms, low)", "score(wanda, high, global)",
        "score(standardised, high, against=others)", f"explicit({file})",
    ]  # fmt: skip
    data = {**TEXTS, "others": {**TEXTS["texts"], "bos": "first"}, **DIGITS}
    strata = {"shards": 2, "strata": [{"position": 2}]}
    whole = {"models": ["a", "m", "i"], "data": data, "seeds": 1, **changes}
    own = {"plugins": PLUGINS, "methods": METHODS, "statistics": strata}
    texts_only = {**whole, "models": ["a", "m"]}
    both = ["attn_pre_out", "mlp_mid"]
    again = {"methods": ["zero", "mean", "peak"], "fractions": [0.3, 0.6, 1], "sites": both}
    iterative = ["score(wanda, low, each_fraction)", "score(rms, high, global, each_fraction)"]
    return [
        planned.make(base, **{**texts_only, **own, "selections": selections}),
        planned.make(base, **{**whole, "units": ["neuron", "head"], "methods": ["mean", "optimal"],
                              "selections": ["regression(masks=90)"], "layers": "each"}),
        planned.make(base, **{**whole, "methods": ["zero", "noise", "optimal(shared)"],
                              "sites": [both], "complement": True, "layers": [0, 2],
                              "basis": {"rotate": [0, 1]}}),
        planned.make(base, **{**whole, **again, "selections": ["random", *iterative]}),
        planned.make(base, **{**whole, **again, "statistics": {"mode": "per_fraction"},
                              "selections": ["random", *iterative, f"explicit({file})"]}
                     | {"sites": ["attn_pre_out"]}),
        planned.make(base, **{**whole, **again, "statistics": {"mode": "layers_in_sequence"},
                              "basis": {"rotate": 3}}),
    ]  # fmt: skip


@pytest.fixture
def plans(base: Path) -> list[Plan]:
    return everything(base)


def test_a_sweep_of_everything_has_tasks_of_every_kind(plans: list[Plan]) -> None:
    kinds = {t.kind for plan in plans for t in plan.tasks}
    assert kinds == ALGORITHM.keys() - {"cell"}


def test_somebody_can_do_every_task(plans: list[Plan], tmp_path: Path) -> None:
    hosts = Host(Store.open(tmp_path / "run"), "worker")._kinds.keys()
    assert hosts == ON_MODEL | {"evaluate"}
    for plan in plans:
        for task in plan.tasks:
            assert task.kind in (hosts if task.model is not None else stages.KINDS), task.label
            assert (task.model is not None) == (task.kind in ON_MODEL)
            assert task.cost > 0 or task.model is None
            assert task.stage in STAGES


def test_every_task_comes_after_the_tasks_whose_files_it_reads(plans: list[Plan]) -> None:
    for plan in plans:
        made_by = {t.file: t for t in plan.tasks}
        for task in plan.tasks:
            read = {v for v in texts(task.arguments) if v in made_by}
            assert set(task.after) == read - {task.file}, task.label
        for cell in plan.cells.values():
            read = {v for v in texts(cell.arguments) if v in made_by}
            assert set(cell.after) - {f"data/{cell.model}/{data_of(plan.spec, cell.model)}.parquet"
                                      } == read  # fmt: skip


def test_tasks_stand_in_an_order_in_which_they_can_be_done(plans: list[Plan]) -> None:
    for plan in plans:
        done: set[str] = set()
        for task in plan.tasks:
            assert set(task.after) <= done, task.label
            done.add(task.file)
        for cell in plan.cells.values():
            assert set(cell.after) <= done, cell.label


def lists(value: Any) -> Any:
    """Return nested values with lists in the place of tuples."""
    if isinstance(value, Mapping):
        return {key: lists(item) for key, item in value.items()}
    return [lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_what_a_task_is_told_travels_as_json(plans: list[Plan]) -> None:
    for plan in plans:
        made = [call(plan, [cell], [0]) for cell in plan.cells.values()]
        for task in [*plan.tasks, *made]:
            assert json.loads(canonical(task.arguments)) == lists(task.arguments), task.label


def test_no_two_tasks_write_one_file(plans: list[Plan]) -> None:
    for plan in plans:
        assert set(Counter(t.file for t in plan.tasks).values()) == {1}


def test_a_task_is_named_in_its_file_and_says_whose_model_it_is_of(plans: list[Plan]) -> None:
    for plan in plans:
        for task in plan.tasks:
            assert task.name in task.file or task.kind == "data"
            assert task.arguments["model"] in plan.models
            assert task.label.startswith(task.arguments["model"])


def test_every_row_has_its_cell_and_every_cell_a_row(plans: list[Plan]) -> None:
    for plan in plans:
        rows = plan.rows.to_pylist()
        assert {row["cell"] for row in rows} == plan.cells.keys()
        for row in rows:
            cell = plan.cells[str(row["cell"])]
            assert cell.model == row["model"]
            assert (row["units_held"] == 0) == (cell.arguments == {})
            assert row["basis"] == rotated(cell.ref.basis)


def test_rows_fit_the_table_of_cells(plans: list[Plan]) -> None:
    for plan in plans:
        assert plan.rows.schema == SCHEMAS["cells"]
        plan.rows.validate(full=True)


def test_what_is_for_one_cell_says_which_and_that_cell_needs_it(plans: list[Plan]) -> None:
    found = 0
    for plan in plans:
        for task in plan.tasks:
            cell = task.arguments.get("cell")
            if task.kind in ("learn", "centres") and cell is not None:
                found += 1
                assert task.file in plan.cells[cell].after
            elif task.kind == "statistics" and cell is not None:
                assert cell in plan.cells
    assert found > 50


def test_models_that_are_alike_share_names_and_never_a_file(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = {"a": planned.facts(), "b": planned.facts(digest="other weights")}
    planned.know(monkeypatch, alike)
    tasks = planned.make(base, models=["a", "b"]).tasks
    assert len({t.file for t in tasks}) == len(tasks)
    of = {m: {t.name: t for t in tasks if t.arguments["model"] == m} for m in "ab"}
    assert len(of["a"]) + len(of["b"]) == len(tasks)
    shared = of["a"].keys() & of["b"].keys()
    assert {of["a"][n].kind for n in shared} == {"data", "selection", "donors", "centres"}
    assert {of["a"][n].arguments.get("method") for n in shared} == {None, "zero"}
    for task in tasks:  # nobody waits for a file of the other model
        other = {t.file for t in tasks if t.arguments["model"] != task.arguments["model"]}
        assert not other & set(task.after)


def test_counts_are_kept_per_shard_and_merged_eight_at_a_time(base: Path) -> None:
    plan = planned.make(base, statistics={"shards": 20})
    kinds = Counter(t.kind for t in plan.tasks)
    assert kinds["collect"] == kinds["again"] == kinds["recount"] == 20
    assert kinds["merge_fixed"] == 4  # 8 + 8 + 4, then one
    assert kinds["merge"] == 8  # the same for either pass
    assert {len(t.after) for t in plan.tasks if t.kind == "merge"} == {8, 4, 3}


def test_one_shard_needs_no_merging(base: Path) -> None:
    plan = planned.make(base, statistics={"shards": 1})
    assert not any(t.kind.startswith("merge") for t in plan.tasks)


def test_what_no_method_needs_is_not_planned(base: Path) -> None:
    kinds = {t.kind for t in planned.make(base, methods=["mean"]).tasks}
    assert kinds == {
        "data", "selection", "pilot", "collect", "widen", "again", "merge", "statistics", "centres",
    }  # fmt: skip


def test_every_constant_has_its_table_zero_too(base: Path) -> None:
    tasks = [t for t in planned.make(base).tasks if t.kind == "centres"]
    assert {(t.arguments["method"], *t.arguments["parameters"].values()) for t in tasks} == {
        ("zero",),
        ("mean",),
        ("peak", "smooth"),
        ("peak", "paper"),
    }


def test_models_of_one_sweep_share_no_cell(base: Path) -> None:
    plan = planned.make(base, models=["a", "b", "m"])
    owners = {}
    for row in plan.rows.to_pylist():
        assert owners.setdefault(row["cell"], row["model"]) == row["model"]
    assert {c.model for c in plan.cells.values()} == {"a", "b", "m"}


def test_a_plan_is_the_same_every_time(base: Path, plans: list[Plan]) -> None:
    assert everything(base) == plans


def test_a_rotated_model_shares_its_data_donors_and_random_orders_and_nothing_counted(
    base: Path,
) -> None:
    methods = ["zero", "mean", "resample", "resample(generated)", "noise", "optimal(steps=10)"]
    selections = ["random", "random(global)", "score(wanda, low)"]
    asked = {"methods": methods, "selections": selections}
    own, both = (planned.make(base, **asked, basis=b) for b in ("own", {"rotate": 4}))
    assert set(own.cells) < set(both.cells)
    assert len(both.cells) == 2 * len(own.cells)
    assert both.tasks[: len(own.tasks)] == own.tasks  # the same files, made once
    more = Counter(t.kind for t in both.tasks[len(own.tasks) :])
    once = Counter(t.kind for t in own.tasks)
    scored = sum(t.arguments["rule"] == "score" for t in planned.tasks(own, "selection"))
    generated = sum(t.arguments["source"] == "generated" for t in planned.tasks(own, "donors"))
    del once["data"]
    assert more == {**once, "selection": scored, "donors": generated}
    for task in both.tasks[len(own.tasks) :]:
        assert task.model is None or task.model.basis == 4
        assert task.arguments.get("basis", "rotated 4") == "rotated 4"
    pairs = zip(
        planned.points(both, basis="own"), planned.points(both, basis="rotated 4"), strict=True
    )
    for one, other in pairs:
        told = [both.cells[r["cell"]].arguments for r in (one, other)]
        if one["selection"].startswith("random") and one["units_held"]:
            assert told[0]["selection"] == told[1]["selection"]
        assert {**one, "basis": None, "cell": None} == {**other, "basis": None, "cell": None}
        assert one["cell"] != other["cell"]


def test_a_model_takes_the_first_data_that_fits_it(base: Path) -> None:
    more = {"more": {"source": "documents.jsonl"}}
    plan = planned.make(base, models=["a", "i", {"id": "b", "data": "more"}],
                        data={**DIGITS, **TEXTS, **more})  # fmt: skip
    assert [m.data for m in plan.spec.models] == ["texts", "digits", "more"]


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"models": ["none"]}, "models[0]", "there is no model none"),
        ({"models": ["a", "pickled"]}, "models[1]", "safetensors"),
        ({"data": {"t": {"source": "none.jsonl"}}}, "data.t.source", "there is no file"),
        ({"data": {"t": {"source": "hf:x/y/z"}}}, "data.t.source", "hf:owner/name"),
        (
            {"data": {"t": {"source": "zoo:text", "collect": {"split": "trian"},
                            "evaluate": {"split": "test"}}}},
            "data.t.collect.split",
            "It has: train, test",
        ),
        (
            {"data": {"t": {"source": "documents.jsonl", "collect": {"split": "train"},
                            "evaluate": {"split": "test"}}}},
            "data.t.evaluate.split",
            "leave the splits out",
        ),
        ({"models": ["i"]}, "models[0]", "no data source fits it: texts holds text"),
        ({"models": ["a"], "data": DIGITS}, "models[0]", "digits holds images"),
        (
            {"models": [{"id": "a", "data": "digits"}], "data": {**TEXTS, **DIGITS}},
            "models[0].data",
            "data source digits holds images, and the model takes text",
        ),
        (
            {"data": {"t": {"source": "documents.jsonl", "stride": 32}}},
            "models[0]",
            "asks for a stride of 32, and a window holds 31 tokens",
        ),
        (
            {"data": {"t": {"source": "documents.jsonl", "sequence_length": 33}}},
            "models[0]",
            "asks for 33 positions; the model takes 32 at most",
        ),
        ({"fractions": [0.04]}, "fractions", "0.04 of the 10 neurons of a layer of a holds"),
        (
            {"models": [{"id": "a", "dtype": "bfloat16"}], "statistics": {"bins": 512}},
            "statistics.bins",
            "finer than bfloat16 can tell apart",
        ),
        ({"evaluation": {"batch_tokens": 31}}, "evaluation.batch_tokens", "one window of a (32"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(
    base: Path, changes: dict[str, Any], path: str, said: str
) -> None:
    found = mistakes(base, **changes)
    assert said in found[path]


def test_the_least_fraction_that_is_told_is_enough(base: Path) -> None:
    assert "0.05" in mistakes(base, fractions=[0.04])["fractions"]
    assert planned.make(base, fractions=[0.05]).cells


def test_models_sources_and_fractions_are_refused_together(base: Path) -> None:
    found = mistakes(
        base,
        models=["a", "none", "pickled"],
        data={**TEXTS, "t": {"source": "none.jsonl"}},
        fractions=[0.01],
    )
    assert set(found) == {"models[1]", "models[2]", "data.t.source", "fractions"}


def test_two_models_that_would_share_a_folder_are_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.know(monkeypatch, {"x/y": planned.facts(), "x:y": planned.facts(digest="other")})
    found = mistakes(base, models=["x/y", "x:y"])
    assert "would share a folder" in found["models[1]"]


def test_a_plan_of_some_cells_keeps_its_tasks(base: Path) -> None:
    plan = planned.make(base)
    some = dict(list(plan.cells.items())[:3])
    fewer = planning.with_cells(plan, some)
    assert fewer.cells == some
    assert fewer.tasks == plan.tasks


def test_the_device_is_passed_on_and_threads_are_fixed(base: Path) -> None:
    refs = [planned.make(base, device=d).models["a"] for d in ("cpu", "cuda")]
    assert [r.device for r in refs] == ["cpu", "cuda"]
    assert [r.threads for r in refs] == [1, 1]
