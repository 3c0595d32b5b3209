"""Live figures: data a script reads, and a policy that lets no other script run."""

import base64
import json
import re
from hashlib import sha256

import altair as alt
import pytest

from orchestrator.report import report
from orchestrator.report.explored import MEAN
from orchestrator.report.figures import part
from orchestrator.report.html import written
from orchestrator.report.live import SCRIPTS, columnar, compiled, payload
from tests.orchestrator.synthetic_run import MODELS, write_run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("live") / "run"
    write_run(folder, models=MODELS[:1], layers=1, neurons=8, masks=3)
    return report(folder).read_text(encoding="utf-8")


def data(page: str, name: str) -> dict[str, object]:
    found = re.search(f'id="data-{name}"[^>]*>(.*?)</script>', page, flags=re.DOTALL)
    assert found
    told: dict[str, object] = json.loads(found[1])
    return told


def rows(told: dict[str, object]) -> list[dict[str, object]]:
    columns = told["rows"]
    assert isinstance(columns, dict)
    read = {
        name: [c["words"][i] for i in c["at"]] if isinstance(c, dict) else c
        for name, c in columns.items()
    }
    return [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]


def test_rows_come_back_from_their_columns_with_five_digits_and_nothing_infinite() -> None:
    made = [
        {"a": "x", "n": 1.23456789, "m": None},
        {"a": None, "n": float("inf"), "m": 3.0},
        {"a": "x", "n": float("nan"), "m": 1e12},
    ]
    assert rows({"rows": columnar(made)}) == [
        {"a": "x", "n": 1.2346, "m": None},
        {"a": None, "n": None, "m": 3},
        {"a": "x", "n": None, "m": 1e12},
    ]


def test_data_cannot_end_the_script_they_stand_in() -> None:
    hostile = "</script><script>alert(1)</script><!-- & ]]>"
    text = written([payload("x", {"name": hostile})])
    assert text.count("</script>") == 1
    assert "<!--" not in text
    found = re.search(r">(.*)</script>", text)
    assert found
    assert json.loads(found[1]) == {"name": hostile}


def test_the_policy_names_every_script_of_the_page_and_no_other(page: str) -> None:
    run = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(run) == 1 + len(SCRIPTS)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    named = re.findall(r"'sha256-([^']+)'", policy[1])
    assert named == [base64.b64encode(sha256(s.encode()).digest()).decode() for s in run]
    assert "default-src 'none'" in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert "'unsafe-inline'" not in policy[1].split("script-src")[1]


def test_the_curves_carry_the_still_figures_points_and_every_mask(page: str) -> None:
    told = data(page, "curves-causal")
    found = rows(told)
    assert {row["mask"] for row in found} == {MEAN, "mask 0", "mask 1", "mask 2"}
    means = [row for row in found if row["mask"] == MEAN]
    still = re.findall(r"<title>(?:zero|mean|peak|resample)[^<]*held: (?:CE|Top-1)", page)
    assert len(means) == len(still)
    assert all(row["low"] is not None for row in means)
    assert {row["metric"] for row in means} == set(told["charts"])  # type: ignore[arg-type]


def test_a_chart_is_compiled_without_its_data_and_its_legend() -> None:
    chart = alt.Chart(alt.NamedData(name="rows")).mark_line().encode(x="a:Q", y="b:Q", color="c:N")
    with_legend, without = (compiled(part(alt.layer(chart)), legend=kept) for kept in (True, False))
    assert with_legend["legends"]
    assert "legends" not in without
    assert next(d for d in without["data"] if d["name"] == "rows").keys() == {"name"}
