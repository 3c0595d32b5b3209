"""The sweep file's JSON Schema: allows what a sweep file may say, and shows what is wrong."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import jsonschema
import pytest
import yaml
from pydantic import BeforeValidator, TypeAdapter

from orchestrator import schema, specfile
from orchestrator.mistakes import SpecError
from orchestrator.spec import Spec, parse
from orchestrator.spellings import WRITTEN

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples").rglob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SAID = [
    {"models": [{"id": "a/b", "revision": "main", "shards": "auto", "packed": "int8"}]},
    {"data": "zoo:text"},
    {"data": ["pile", "c4"]},
    {"data": {"pile": {}}},
    {"data": {"mine": "pile", "other": {"source": "docs.jsonl", "where": {"lang": ["en", 1]}}}},
    {"methods": ["peak(paper)", {"quantile": {"q": 0.9}}, {"mean": None}, "mean(alpha=0.5)"]},
    {"fractions": [0.5]},
    {"seeds": 3},
    {"seeds": [1, 2]},
    {"seeds": {"masks": 3, "noise": [0, 1], "visits": 7}},
    {"contrasts": [["zero", "mean"]], "methods": ["zero", "mean"]},
    {"sites": ["attn_pre_out", "mlp_mid", ["attn_pre_out", "mlp_mid"]]},
    {"sites": ["attn_pre_out+mlp_mid"]},
    {"sites": ["mlp_mid+attn_pre_out"]},
    {"methods": [{"optimal": {"lr": "1e-3", "steps": "7"}}]},  # as YAML 1.1 reads 1e-3
    {"selections": [{"score": {"by": "rms", "first": "low"}}, {"explicit": {"file": "a.npy"}}]},
    {"selections": ["regression(masks=80)", {"regression": {"first": "low"}}, {"random": None}]},
    {"layers": "each"},
    {"layers": [0, 3]},
    {"basis": {"rotate": [0, 1]}},
    {"basis": "own"},
    {"statistics": {"strata": ["class", {"position": 8}], "intervals": "auto"}},
    {"statistics": {"strata": [{"position": [0, 1, 16]}]}},
    {"evaluation": {"batch_tokens": 512, "metrics": ["ce", "kl"]}},
    {"cluster": {"device_memory": "80GB", "device": "cuda"}},
    {"precision": {"contrast": ["peak", "mean"], "halfwidth": 0.1}, "methods": ["peak", "mean"]},
    {"precision": {"contrast": [["peak", "mean"]], "halfwidth": 1}, "methods": ["peak", "mean"]},
    {"store": "shared"},
]
WRONG = [
    ({"method": ["zero"]}, "method"),
    ({"fractions": [1.5]}, "fractions"),
    ({"fractions": {"start": 0, "stop": 1}}, "fractions"),
    ({"seeds": 0}, "seeds"),
    ({"seeds": [1, 1]}, "seeds"),
    ({"basis": {"rotate": [1, 1]}}, "basis"),
    ({"layers": []}, "layers"),
    ({"layers": [-1]}, "layers"),
    ({"layers": [2, 2]}, "layers"),
    ({"store": 5}, "store"),
    ({"methods": [{"optimal": {"lr": "quick"}}]}, "methods"),
    ({"compile": "no"}, "compile"),
    ({"units": ["layer"]}, "units"),
    ({"sites": ["residual"]}, "sites"),
    ({"methods": []}, "methods"),
    ({"methods": [{"peak": {"estimater": "paper"}}]}, "methods"),
    ({"methods": [{"quantile": {}}]}, "methods"),
    ({"selections": [{"score": {"by": "size", "first": "low"}}]}, "selections"),
    ({"data": {"mine": {"split": "train"}}}, "data"),
    ({"data": {"mine": {"source": "a", "colour": "red"}}}, "data"),
    ({"cluster": {"device_memory": "lots"}}, "cluster"),
    ({"precision": {"halfwidth": 0}}, "precision"),
    ({"statistics": {"strata": ["colour"]}}, "statistics"),
    ({"evaluation": {"metrics": ["accuracy"]}}, "evaluation"),
]


@pytest.fixture(scope="module")
def made() -> jsonschema.Draft202012Validator:
    found = schema.schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_published_schema_is_that_of_the_classes() -> None:
    published = (ROOT / "docs" / "schema.json").read_text()
    assert published == schema.text(), (
        "docs/schema.json is stale: python -m orchestrator.schema > docs/schema.json"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_example_is_allowed(made: jsonschema.Draft202012Validator, file: Path) -> None:
    assert [e.message for e in made.iter_errors(specfile.raw(file))] == []


@pytest.mark.parametrize("said", SAID, ids=str)
def test_what_a_sweep_file_may_say_is_allowed(
    made: jsonschema.Draft202012Validator, said: dict[str, object]
) -> None:
    given = {"models": ["zoo:opt"], "methods": ["zero"], **said}
    parse(given)
    assert [e.message for e in made.iter_errors(given)] == []


@pytest.mark.parametrize(("said", "where"), WRONG, ids=lambda x: str(x)[:40])
def test_what_is_wrong_is_shown_where_it_stands(
    made: jsonschema.Draft202012Validator, said: dict[str, object], where: str
) -> None:
    given = {"models": ["zoo:opt"], "methods": ["zero"], **said}
    with pytest.raises(SpecError):
        parse(given)
    found = list(made.iter_errors(given))
    assert found
    assert all(where in (*e.absolute_path, *re.findall(r"'(\w+)'", e.message)) for e in found)


def sweeps() -> Iterator[str]:
    """Yield the sweep files, whole ones, that pages show."""
    for page in PAGES:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            if re.search(r"^models:", text, re.MULTILINE) and "methods:" in text:
                yield text


def test_every_sweep_that_a_page_shows_is_allowed(made: jsonschema.Draft202012Validator) -> None:
    shown = list(sweeps())
    assert len(shown) > 5
    assert [e.message for text in shown for e in made.iter_errors(yaml.safe_load(text))] == []


def defaults(part: object) -> Iterator[tuple[object, object]]:
    """Yield every schema that has a default, with that."""
    if isinstance(part, dict):
        if "default" in part and ("type" in part or "anyOf" in part or "$ref" in part):
            yield part, part["default"]
        for value in part.values():
            yield from defaults(value)
    elif isinstance(part, list):
        for value in part:
            yield from defaults(value)


def test_every_default_may_be_written_where_it_stands() -> None:
    whole = schema.schema()
    found = list(defaults(whole))
    assert len(found) > 50
    for part, default in found:
        assert isinstance(part, dict)
        jsonschema.Draft202012Validator({"$defs": whole["$defs"], **part}).validate(default)


def test_the_defaults_that_are_told_anew_are_those_of_the_classes() -> None:
    told = {k: v["default"] for k, v in schema.schema()["properties"].items() if "default" in v}
    least = {"models": ["zoo:opt"], "methods": ["zero"]}
    assert parse(least | told) == parse(least)


def test_every_key_says_what_it_is() -> None:
    whole = schema.schema()
    for name, part in {"": whole, **whole["$defs"]}.items():
        lost = [key for key, value in part["properties"].items() if not value["description"]]
        assert lost == [], name


def test_what_is_said_of_keys_is_of_keys_that_are_there() -> None:
    known = {"Spec", *schema.schema()["$defs"]}
    assert {key.split(".")[0] for key in schema.KEYS} <= known


def test_a_way_of_writing_that_the_schema_does_not_know_is_an_error() -> None:
    def halved(value: object) -> object:
        return value

    kind = TypeAdapter(Annotated[int, BeforeValidator(halved)])
    with pytest.raises(LookupError, match="halved reads a value of the sweep file"):
        kind.json_schema(schema_generator=schema.Generator)


def test_no_way_of_writing_is_left_from_a_function_that_is_gone() -> None:
    read: set[str] = set()

    class Noted(schema.Generator):
        def function_before_schema(self, given):  # type: ignore[no-untyped-def]
            function = given["function"]["function"]
            read.add(f"{function.__module__}.{function.__qualname__}")
            return super().function_before_schema(given)

    Spec.model_json_schema(schema_generator=Noted)
    assert {f"orchestrator.{name}" for name in WRITTEN} == read
