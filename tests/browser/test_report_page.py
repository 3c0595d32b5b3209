"""The report as a browser shows it: opened from disk, nothing fetched, nothing missing.

`tests/browser/conftest.py` says which browser, and what happens without one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from orchestrator.report import report
from tests.browser.needed import OVERLAPS
from tests.orchestrator.synthetic_run import MODELS, write_run
from tests.orchestrator.test_report_groups import spread

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The page, what it complained of and which addresses it asked for."""

    page: "Page"
    complaints: list[str]
    requests: list[str]


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [*MODELS, replace(MODELS[0], name=HOSTILE)]
    folder = tmp_path_factory.mktemp("browser") / "run"
    return write_run(folder, models=models, layers=2, neurons=32)


@pytest.fixture(scope="module")
def opened(browser: "Browser", run: Path) -> Iterator[Opened]:
    yield from _opened(browser, run)


@pytest.fixture(scope="module")
def grouped(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The page of a sweep of several groups, some of them of single layers."""
    folder = tmp_path_factory.mktemp("grouped") / "run"
    write_run(folder, models=MODELS[:1], layers=2, neurons=16, masks=2)
    spread(folder, "site", ["attn_pre_out", "attn_pre_out+mlp_mid"])
    spread(folder, "selection", ["random", "score(fluctuation, low, global)"])
    spread(folder, "layers", ["all", "0", "1", "2"])
    yield from _opened(browser, folder)


def _opened(browser: "Browser", run: Path) -> Iterator[Opened]:
    file = report(run)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")
    yield Opened(page=page, complaints=complaints, requests=requests)
    page.close()


def test_it_opens_without_a_complaint_and_asks_for_nothing_but_itself(
    opened: Opened, run: Path
) -> None:
    assert opened.complaints == []
    assert [u for u in opened.requests if not u.startswith("data:")] == [
        (run / "report" / "index.html").as_uri()
    ]


@pytest.mark.parametrize("width", [1400, 800])
def test_every_figure_is_drawn_and_legible(opened: Opened, width: int) -> None:
    page = opened.page
    page.set_viewport_size({"width": width, "height": 1000})
    assert page.locator("figure").count() >= 4
    page.wait_for_function(f"({_SIZES})().every(([w, h, words]) => words > 9.5)")
    for width_of, height_of, _ in page.evaluate(_SIZES):
        assert width_of > 250
        assert height_of > 120
    for still in page.locator("figure > svg").all():
        assert still.locator("path").count() > 20
        assert len(still.get_attribute("aria-label") or "") > 60
    assert page.evaluate("document.documentElement.scrollWidth") <= width


_SIZES = """() => [...document.querySelectorAll('figure > svg, .plot svg')]
    .filter(s => s.checkVisibility())
    .map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height,
        Math.min(...[...s.querySelectorAll('text')].filter(t => t.textContent)
            .map(t => parseFloat(getComputedStyle(t).fontSize) * s.getScreenCTM().a))])"""
"""Width, height and smallest letters of every drawing that is seen, in pixels."""


def test_headings_and_tables_have_their_structure(opened: Opened) -> None:
    page = opened.page
    assert page.locator("h1").count() == 1
    assert page.locator("h2").all_inner_texts() == [
        "Declared contrasts",
        "Exploratory",
        "What these models can and cannot show",
        "Notes",
        "Provenance",
        "How to cite",
    ]
    tables = page.locator("table:has(caption)")
    assert tables.count() >= 6
    for table in tables.all():
        assert table.locator("caption").text_content()  # one is folded away
        assert table.locator("tbody tr").count() > 0
        assert table.locator("th:not([scope])").count() == 0


def test_sentences_and_table_agree_with_each_other_and_with_the_run(
    opened: Opened, run: Path
) -> None:
    page = opened.page
    rows = pl.read_parquet(run / "contrasts.parquet").filter(
        pl.col("fraction").is_null(), pl.col("metric") == "ce"
    )
    said = [_plain(text) for text in page.locator(".said").all_inner_texts()]
    cells = [
        _plain(text)
        for table in page.locator("table.stacked").all()
        for text in table.locator("tbody td:nth-of-type(3)").all_inner_texts()
    ]
    assert len(said) == len(cells) == rows.height
    assert sum(HOSTILE in text for text in said) == 2
    by_pair = rows.sort("b", maintain_order=True).to_dicts()
    for text, cell, row in zip(said, cells, by_pair, strict=True):
        assert row["model"] in text
        estimate, low, high = map(float, re.findall(r"[-+]?\d+\.\d+", cell))
        interval = re.search(r"interval \[(\S+), (\S+)\]", text)
        assert interval
        assert (float(interval[1]), float(interval[2])) == (low, high)
        assert f" {abs(estimate)}" in text.replace("-", "") or f"{abs(estimate):.3f}" in text
        places = len(re.findall(r"\.(\d+)", cell)[0])
        for shown, true in ((estimate, "estimate"), (low, "low"), (high, "high")):
            assert shown == pytest.approx(row[true], abs=0.51 * 10**-places)


def _plain(text: str) -> str:
    return " ".join(text.replace("−", "-").split())


def test_a_point_says_its_numbers_when_pointed_at(opened: Opened) -> None:
    page = opened.page
    tips = page.locator("#figure-curves-causal path > title").all_text_contents()
    assert any(re.fullmatch(r"mean, 50\.0.% held: CE \+\S+ nats \[\S+,.\S+\]", t) for t in tips)


@pytest.mark.parametrize("width", [1400, 800])
def test_a_page_of_many_groups_fits_and_no_words_of_a_figure_overlap(
    grouped: Opened, width: int
) -> None:
    page = grouped.page
    page.set_viewport_size({"width": width, "height": 1000})
    assert grouped.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator("figure")
    assert {figure.get_attribute("id") for figure in figures.all()} >= {
        "figure-curves-zoo-opt-ce",
        "figure-curves-zoo-opt-top1",
        "figure-layers",
        "figure-taken",
    }
    for figure in figures.all():
        overlapping = figure.evaluate(OVERLAPS)
        assert overlapping == [], figure.get_attribute("id")


def test_what_is_folded_away_opens_and_has_its_tables(grouped: Opened) -> None:
    page = grouped.page
    folded = page.locator("#exploratory details, #declared details")
    assert folded.count() > 0
    for fold in folded.all():
        table = fold.locator("table").first
        assert not table.is_visible()
        fold.locator("summary").click()
        assert table.is_visible()
        assert table.locator("tbody tr").count() > 1
