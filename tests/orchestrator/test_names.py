import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import names, stages
from orchestrator.names import ALGORITHM, canonical, name, slug

law = settings(max_examples=50, deadline=None)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@law
@given(plain)
def test_the_canonical_text_says_the_whole_value(value: object) -> None:
    assert json.loads(canonical(value)) == value


@law
@given(st.dictionaries(st.text(), plain, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_change_a_name(recipe: dict[str, object]) -> None:
    turned = dict(reversed(recipe.items()))
    assert name("cell", recipe) == name("cell", turned)


@law
@given(st.dictionaries(st.text(), st.integers(), min_size=1, max_size=4), st.data())
def test_any_changed_value_changes_the_name(recipe: dict[str, int], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(recipe)))
    assert name("cell", {**recipe, key: recipe[key] + 1}) != name("cell", recipe)


def test_a_name_stays_what_it_was_in_runs_made_before() -> None:
    # A change here orphans every run folder there is: raise an `ALGORITHM` instead.
    assert name("cell", {"model": "w", "each": 0, "é": [1.5, None]}) == "445ac5face29d63fb82883a5"


def test_a_name_is_short_hexadecimal_so_that_it_can_stand_in_a_file_name() -> None:
    assert re.fullmatch(f"[0-9a-f]{{{names.LENGTH}}}", name("pilot", {}))


def test_kinds_of_work_have_names_of_their_own() -> None:
    assert len({name(kind, {"a": 1}) for kind in ALGORITHM}) == len(ALGORITHM)


def test_raising_an_algorithms_version_renames_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name("cell", {}), name("pilot", {})
    monkeypatch.setattr(names, "ALGORITHM", {**ALGORITHM, "cell": ALGORITHM["cell"] + 1})
    assert name("cell", {}) != before[0]
    assert name("pilot", {}) == before[1]


def test_every_kind_of_task_has_a_version() -> None:
    on_a_model = {
        "pilot", "collect", "again", "under", "recount", "norms", "generate", "probe", "learn",
    }  # fmt: skip
    assert set(stages.KINDS) | on_a_model | {"cell"} == set(ALGORITHM)
    assert not set(stages.KINDS) & on_a_model


def test_an_unknown_kind_has_no_name() -> None:
    with pytest.raises(KeyError):
        name("cel", {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_spell_has_no_name(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        name("cell", {"value": value})


@law
@given(st.text())
def test_a_slug_is_one_path_component_and_stays_in_its_folder(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", slug(text))
    assert slug(slug(text)) == slug(text)


long = st.text("ab/.-é", min_size=names.LONGEST + 1, max_size=150)


@law
@given(long, long)
def test_a_long_text_has_a_slug_that_a_file_system_takes(one: str, other: str) -> None:
    assert len(slug(one)) <= names.LONGEST
    folders = {slug(f"{text}{'x' * names.LONGEST}") for text in (one, other)}
    assert len(folders) == len({one, other})  # they differ where they were cut off


@pytest.mark.parametrize("between", [".", "/", "-."])
def test_a_long_text_is_not_hidden_and_its_slug_is_its_own(between: str) -> None:
    kept = names.LONGEST - 13
    for before in range(kept):
        made = slug("y" * names.LONGEST + between + "x" * before)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", made)
        assert slug(made) == made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zoo:opt", "zoo-opt"),
        ("facebook/opt-1.3b", "facebook-opt-1.3b"),
        ("../../etc", "etc"),
        ("..", "unnamed"),
        (".hidden", "hidden"),
        ("", "unnamed"),
    ],
)
def test_slugs(text: str, expected: str) -> None:
    assert slug(text) == expected
