"""What a sweep may ask of paired prompts, and where it is refused."""

import json
from pathlib import Path

import pytest

from orchestrator.mistakes import SpecError
from orchestrator.spec import parse
from tests.orchestrator import planned

ROWS = [
    {"input": f"{i} to the", "donor": f"{i} of the", "answer": " a", "wrong": [" b"]}
    for i in range(40)
]
PAIRS = {"source": "pairs.jsonl"}
TEXTS = {"source": "documents.jsonl"}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    known = {"a": planned.facts(), "m": planned.facts("masked"), "i": planned.facts("image")}
    planned.know(monkeypatch, known)
    return tmp_path


def mistakes(base: Path, **changes: object) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        planned.make(base, **changes)
    return {m.path: m.message for m in caught.value.mistakes}


def test_paired_prompts_are_for_causal_models_and_may_be_asked_what_others_may_not(
    base: Path,
) -> None:
    made = planned.make(
        base,
        data={"pairs": PAIRS},
        methods=["mean", "resample", "resample(paired)"],
        evaluation={"metrics": ["logit_diff", "choice", "ce"]},
    )
    (model,) = made.spec.models
    assert model.data == "pairs"
    said = mistakes(base, models=["m"], data={"pairs": PAIRS})
    assert "the model hides tokens of what it reads" in said["models[0]"]


def test_donors_of_paired_prompts_are_not_drawn_so_no_seed_changes_them(base: Path) -> None:
    made = planned.make(
        base,
        data={"pairs": PAIRS},
        methods=["resample", "resample(paired)"],
        fractions=[1],
        seeds={"masks": 1, "donors": [0, 1, 2]},
    )
    rows = made.rows.to_pylist()
    held = [r for r in rows if r["fraction"] == 1]
    seeds = {"dataset": set(), "paired": set()}  # type: dict[str, set[int | None]]
    for row in held:
        seeds[json.loads(row["parameters"])["source"]].add(row["donor_seed"])
    assert seeds == {"dataset": {0, 1, 2}, "paired": {None}}
    tasks = [t for t in made.tasks if t.kind == "donors"]
    assert sorted(str(t.arguments["seed"]) for t in tasks) == ["0", "1", "2", "None"]


def test_a_paired_donor_is_refused_where_prompts_have_none(base: Path) -> None:
    said = mistakes(base, data={"texts": TEXTS}, methods=["mean", "resample(paired)"])
    assert "a is evaluated on texts, which holds text; name a source with" in said["methods[1]"]


def test_models_that_take_no_text_do_without_a_paired_donor(base: Path) -> None:
    said = mistakes(base, models=["m"], data={"texts": TEXTS}, methods=["resample(paired)"])
    assert "fits none of the models" in said["methods[0]"]


@pytest.mark.parametrize("metric", ["logit_diff", "choice"])
def test_a_metric_of_answers_is_refused_where_there_are_none(base: Path, metric: str) -> None:
    said = mistakes(base, data={"texts": TEXTS}, evaluation={"metrics": ["ce", metric]})
    assert f"{metric} is of paired prompts, and no model" in said["evaluation.metrics[1]"]


def test_bytes_of_a_prompt_are_not_what_is_scored(base: Path) -> None:
    said = mistakes(base, data={"pairs": PAIRS}, evaluation={"metrics": ["bits_per_byte"]})
    assert "of a prompt one token is scored" in said["evaluation.metrics[0]"]


@pytest.mark.parametrize("more", ["per_head", "shared", "published"])
def test_a_paired_donor_leaves_nothing_to_choose(more: str) -> None:
    with pytest.raises(SpecError, match="paired prompts have one donor each"):
        parse({"models": ["a"], "methods": [f"resample(paired, {more})"]})


def test_a_paired_donor_may_be_mixed_in() -> None:
    (method,) = parse({"models": ["a"], "methods": ["resample(paired, alpha=0.5)"]}).methods
    assert method.label == "resample(paired, alpha=0.5)"
    assert (method.paired, method.share) == (True, 0.5)
