"""What else is wrong with a file that could not be parsed."""

from pathlib import Path

import pytest

from orchestrator import inspection
from orchestrator.glance import glance
from orchestrator.inspection import ModelError
from orchestrator.mistakes import SpecError
from orchestrator.spec import Plugins, parse
from tests.orchestrator import planned


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models = {"a": planned.facts(), "pickled": ModelError("its weights are pickled")}
    planned.know(monkeypatch, models)
    planned.documents(tmp_path)
    return tmp_path


def seen(raw: object, base: Path) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        parse(raw)
    return {m.path: m.message for m in glance(raw, refused.value.mistakes, base)}


def test_models_and_sources_are_looked_at_where_they_are_certainly_meant(base: Path) -> None:
    raw = {
        "models": ["a", "none", {"id": "pickled"}, {"id": 3}, 4, None],
        "data": {"t": {"source": "none.jsonl"}, "u": {"source": 7}, "v": None},
        "fractions": [1.2],
    }
    assert set(seen(raw, base)) == {"models[1]", "models[2]", "data.t.source"}


def test_a_known_hub_model_may_be_elsewhere(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"org/known": planned.facts(digest="provisional")}
    monkeypatch.setattr(inspection, "symbolic", lambda model, revision: known.get(model))
    models = [{"id": name, "revision": "main"} for name in ("org/known", "org/unknown")]
    assert set(seen({"models": [*models, {"id": 3}]}, base)) == {"models[1]"}


def test_what_shows_only_in_a_plan_is_found_beside_a_typo(base: Path) -> None:
    data = {"texts": {"source": "documents.jsonl", "document": "name"}}
    data["texts"] |= {"collect": {"split": "trian"}, "evaluate": {"split": "test"}}
    raw = planned.raw(methods=["maen"], fractions=[0.001], data=data, typo=1)
    assert set(seen(raw, base)) == {
        "fractions",
        "data.texts.collect.split",
        "data.texts.evaluate.split",
    }


def test_an_unknown_contrast_is_found_beside_a_wrong_fraction(base: Path) -> None:
    raw = planned.raw(fractions=[1.2], contrasts=[["peak", "median"]])
    assert set(seen(raw, base)) == {"contrasts[0]"}


def test_what_may_be_wrong_only_because_of_another_mistake_is_not_said(base: Path) -> None:
    raw = planned.raw(methods=["zero", "maen"], contrasts=[["maen", "zero"]])
    assert seen(raw, base) == {}


@pytest.mark.parametrize("wrong", [{"selections": ["randum"]}, {"basis": "turned"}])
def test_a_contrast_may_be_of_what_was_refused(base: Path, wrong: dict[str, object]) -> None:
    contrasts = [["own", "rotated 0"], ["random", "score(rms, low)"]]
    assert seen(planned.raw(contrasts=contrasts, **wrong), base) == {}


def test_layers_and_lists_are_looked_at_beside_a_typo(base: Path) -> None:
    raw = planned.raw(selections=["explicit(none.npy)"], layers=[7], typo=1)
    assert set(seen(raw, base)) == {"selections[0]", "layers"}


def test_a_users_own_methods_are_known_here_too(base: Path) -> None:
    raw = planned.raw(methods=["trimmed"], fractions=[0.001], typo=1)
    plugins: Plugins = {"trimmed": ("constant", {})}
    with pytest.raises(SpecError) as refused:
        parse(raw, plugins)
    assert {m.path for m in glance(raw, refused.value.mistakes, base, plugins)} == {"fractions"}


def test_a_typo_beside_a_users_own_method_is_all_there_is(base: Path) -> None:
    raw = planned.raw(methods=["trimmed", "clipped"], typo=1)
    plugins: Plugins = {"trimmed": ("constant", {}), "clipped": ("replacing", {})}
    with pytest.raises(SpecError) as refused:
        parse(raw, plugins)
    assert glance(raw, refused.value.mistakes, base, plugins) == []


@pytest.mark.parametrize("raw", [None, [], "x", {}, {"models": "a", "data": 3}])
def test_at_nonsense_nothing_is_seen(base: Path, raw: object) -> None:
    assert seen(raw, base) == {}
