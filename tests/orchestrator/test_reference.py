"""The pages of the site that are made from the code, and the links of those that are written."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator import cli, tables
from orchestrator.frames import NAMES
from orchestrator.schema import schema

ROOT = Path(__file__).parents[2]


def made(name: str) -> ModuleType:
    """Return a module of docs/making, which is of no package."""
    place = importlib.util.spec_from_file_location(
        f"making_{name}", ROOT / "docs" / "making" / f"{name}.py"
    )
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return dict(made("reference").pages())


def test_the_page_of_the_sweep_file_has_every_key(pages: dict[str, str]) -> None:
    page, whole = pages["reference/sweep_file.md"], schema()
    parts = {"": whole, **whole["$defs"]}
    assert [
        k for part in parts.values() for k in part["properties"] if f"\n| `{k}` |" not in page
    ] == []
    assert [name for name in whole["$defs"] if f"\n## {name}\n" not in page] == []


def test_its_links_lead_to_its_headings(pages: dict[str, str]) -> None:
    page = pages["reference/sweep_file.md"]
    headings = {name.lower() for name in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", page)) <= headings


def test_the_page_of_the_command_line_has_every_verb_and_exit_code(pages: dict[str, str]) -> None:
    page = pages["reference/commands.md"]
    verbs = [c.callback.__name__ for c in cli.app.registered_commands if c.callback]
    assert [verb for verb in verbs if f"\n## {verb}\n" not in page] == []
    assert "--workers" in page
    assert [code for code in (0, 1, 2, 3, 4, 5, 70, 130) if f"\n- {code} " not in page] == []


def test_the_page_of_the_tables_has_every_column_with_what_the_source_says_of_it(
    pages: dict[str, str],
) -> None:
    page = pages["reference/tables.md"]
    for name, table in tables.SCHEMAS.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert [c for c in table.names if f"| `{c}` |" not in section] == []
    assert [name for name in NAMES if name != "data" and f"\n## {name}\n" not in page] == []
    assert "| `p_adjusted` | Float64 |" in page
    assert "| `bytes` | int64 | UTF-8 bytes of the window's text |" in page
    assert "| `basis` | string | own \\| rotated <seed> |" in page


def test_links_out_of_the_docs_lead_into_the_site() -> None:
    mirror = made("mirror")
    page = "See [x](../examples/paper.yaml), [y](statistics.md#bins), [all](../examples/).\n"
    assert mirror.rewritten("docs/a.md", page) == (
        "See [x](examples/paper.yaml), [y](statistics.md#bins), [all](examples/index.md).\n"
    )
    assert mirror.rewritten("docs/howto/a.md", "[c](../../cluster.yaml)") == "[c](../cluster.yaml)"
    assert mirror.rewritten("benchmarks/a.md", "[s](../docs/data.md)") == "[s](../data.md)"


def test_what_is_linked_in_code_or_outside_is_left_alone() -> None:
    page = "```md\n[x](../examples/paper.yaml)\n```\n[o](https://arxiv.org/abs/1) [h](#here)\n"
    assert made("mirror").rewritten("docs/a.md", page) == page


def test_a_list_is_set_apart_from_the_line_before_it() -> None:
    mirror = made("mirror")
    assert mirror.rewritten("docs/a.md", "Two things:\n- a\n- b\n  c\n- d\n") == (
        "Two things:\n\n- a\n- b\n  c\n- d\n"
    )
    bold = mirror.rewritten("docs/a.md", "**Decision.**\n- a\n")
    assert bold == "**Decision.**\n\n- a\n"
    assert mirror.rewritten("docs/a.md", "```\nx:\n- a\n```\n") == "```\nx:\n- a\n```\n"


def test_all_that_pages_lead_to_is_found_and_what_that_leads_to() -> None:
    found = made("mirror").reached({"docs/a.md": "[r](../README.md) [e](../examples)\n"})
    assert {"README.md", "examples/index.md", "examples/paper.yaml", "training/README.md"} <= {
        *found
    }
    assert "paper.yaml" in str(found["examples/index.md"])
    assert not [path for path in found if path.startswith("docs/")]


def test_a_notebook_is_a_page_with_what_its_cells_said(tmp_path: Path) -> None:
    file = tmp_path / "some.ipynb"
    said = {"data": {"text/plain": ["2"], "text/html": "<b>2</b>"}}
    drawn = {"data": {"image/png": "AAAA\n", "text/plain": "a picture"}}
    cells = [
        {"cell_type": "markdown", "source": ["# Some\n", "\n", "Words."]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [said]},
        {"cell_type": "code", "source": "draw()", "outputs": [drawn, {"text": "done\n"}]},
    ]
    file.write_text(json.dumps({"cells": cells, "nbformat": 4}))
    page = made("notebook").page(file)
    assert page.startswith("# Some\n\nWords.\n\n[The notebook](some.ipynb)")
    assert "```python\n1 + 1\n```\n\n```text\n2\n```" in page
    assert "(data:image/png;base64,AAAA)\n\n```text\ndone\n```" in page
    assert "a picture" not in page
