"""The graph of tasks, and what is refused once models and sources are looked at."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import plan as planning
from orchestrator.inspection import ModelError
from orchestrator.mistakes import SpecError
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
        "colour": planned.facts("image", image=(224, 224, 3)),
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


def test_every_task_comes_after_the_tasks_whose_files_it_reads(base: Path) -> None:
    plan = planned.make(base, models=["a", "m"])
    made_by = {t.file: t for t in plan.tasks}
    for task in plan.tasks:
        read = {v for v in texts(task.arguments) if v in made_by}
        assert set(task.after) == read - {task.file}, task.label


def test_tasks_stand_in_an_order_in_which_they_can_be_done(base: Path) -> None:
    done: set[str] = set()
    for task in planned.make(base, models=["a", "m"]).tasks:
        assert set(task.after) <= done
        done.add(task.file)


def test_only_what_needs_weights_is_bound_to_a_model(base: Path) -> None:
    for task in planned.make(base).tasks:
        assert (task.model is not None) == (task.kind in ("pilot", "collect", "again", "recount"))


def test_no_two_tasks_write_one_file(base: Path) -> None:
    files = Counter(t.file for t in planned.make(base, models=["a", "b", "m"]).tasks)
    assert set(files.values()) == {1}


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
    for row in plan.rows:
        assert owners.setdefault(row["cell"], row["model"]) == row["model"]
    assert {c.model for c in plan.cells.values()} == {"a", "b", "m"}


def test_a_plan_is_the_same_every_time(base: Path) -> None:
    assert planned.make(base, models=["a", "m"]) == planned.make(base, models=["a", "m"])


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
        ({"data": {"t": {"source": "hf:x/y"}}}, "data.t.source", "not built yet"),
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
        ({"models": ["colour"], "data": DIGITS}, "models[0]", "8 x 8 grey images"),
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


def test_a_call_is_named_by_its_cells_in_whatever_order(base: Path) -> None:
    plan = planned.make(base)
    chosen = list(plan.cells.values())[2:6]
    one = planning.evaluate_call(plan, chosen)
    other = planning.evaluate_call(plan, chosen[::-1])
    assert (one.name, one.file, one.cells) == (other.name, other.file, other.cells)
    assert one.name != planning.evaluate_call(plan, chosen[:3]).name
    assert set(one.cells) == {c.name for c in chosen}


def test_a_call_waits_for_all_that_its_cells_need_and_runs_on_their_model(base: Path) -> None:
    plan = planned.make(base, models=["a", "m"])
    chosen = [c for c in plan.cells.values() if c.model == "m"][:7]
    task = planning.evaluate_call(plan, chosen)
    assert set(task.after) == {n for c in chosen for n in c.after}
    assert task.model == plan.models["m"]
    assert task.arguments["data"] == "data/m/texts.parquet"
    assert task.arguments["cells"].keys() == {c.name for c in chosen}
    assert task.cost == 7 * planning.evaluate_call(plan, chosen[:1]).cost


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
