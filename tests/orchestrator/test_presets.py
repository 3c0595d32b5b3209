"""Presets fill in what a section leaves out, and the page on data lists them all."""

from pathlib import Path

import pytest
import yaml

from orchestrator.mistakes import SpecError
from orchestrator.presets import PRESETS, table
from orchestrator.sections import DataSpec
from orchestrator.sources import find
from orchestrator.spec import Spec, parse
from orchestrator.written import as_yaml

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def spec(data: object) -> Spec:
    return parse({"models": ["zoo:opt"], "methods": ["zero"], "data": data})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_source_with_two_roles_and_columns(name: str, tmp_path: Path) -> None:
    data = spec(name).data[name]
    found = find(data.source, base=tmp_path, text=data.text, reading=data.reading())
    assert data.kind == found.kind
    assert found.missing is not None  # nobody was asked for the commit
    assert found.splits in ((), (data.collect.split, data.evaluate.split))
    assert found.streaming == data.streaming


@pytest.mark.parametrize("data", ["pile", ["pile"], {"pile": {}}, {"pile": "pile"}])
def test_the_ways_to_name_a_preset_mean_the_same(data: object) -> None:
    assert spec(data) == spec({"pile": {"source": "pile"}})


def test_what_a_section_says_goes_before_its_preset() -> None:
    own = spec({"mine": {"source": "c4", "config": "de", "collect": {"tokens": 9_000}}})
    data = own.data["mine"]
    assert (data.config, data.streaming) == ("de", True)
    assert (data.collect.split, data.collect.tokens) == ("train", 9_000)
    assert data.evaluate.split == "validation"


def test_what_is_kept_names_no_preset_and_reads_back_the_same() -> None:
    whole = spec(["pile", "imagenet-1k"])
    kept = yaml.safe_load(as_yaml(whole))
    assert kept["data"]["pile"]["source"] == "hf:monology/pile-uncopyrighted"
    assert parse(kept) == whole


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["pile", "pile"], "data: 'pile' stands here twice"),
        ({"mine": {}}, "data.mine.source: is missing"),
        ({"mine": {"source": "x.jsonl", "where": {"a": []}}}, "data.mine.where.a: is empty"),
        ({"mine": {"source": "x.jsonl", "wher": 1}}, "did you mean 'where'?"),
        (7, "data: found 7"),
    ],
)
def test_a_wrong_section_is_refused(data: object, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(data)
    assert said in str(refused.value)


def test_a_section_without_new_settings_is_read_as_it_always_was() -> None:
    assert DataSpec(source="x.jsonl", text="body", document="page").reading() == {}
    assert DataSpec(source="zoo:text").reading() == {}


def test_the_page_on_data_lists_the_presets_as_they_are() -> None:
    assert table() in PAGE, "docs/data.md is stale: paste what orchestrator.presets.table() returns"


@pytest.mark.parametrize("section", PAGE.split("```yaml\n")[1:])
def test_the_sections_that_the_page_shows_are_right(section: str) -> None:
    shown = yaml.safe_load(section.split("```")[0])
    assert spec(shown["data"]).data


def test_the_page_has_every_key_of_a_data_section() -> None:
    assert [key for key in DataSpec.model_fields if f"`{key}`" not in PAGE] == []
