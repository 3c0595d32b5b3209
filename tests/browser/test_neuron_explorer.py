"""The neuron explorer as a reader meets it: searched, sorted, drawn, and by the keyboard alone.

`tests/browser/conftest.py` says which browser, and what happens without one.
"""

import re
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from orchestrator.report import neurons
from orchestrator.report.activations import Activations
from orchestrator.report.html import tag
from orchestrator.report.read import read_run
from orchestrator.report.sheet import sheet
from tests.browser.needed import OVERLAPS, absent
from tests.orchestrator.synthetic_run import MODELS, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

LAYERS, WIDE = 2, 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explorer") / "run"
    write_run(folder, models=MODELS[:2], layers=LAYERS, neurons=WIDE, masks=2)
    for file in (folder / "statistics").rglob("*.parquet"):
        pl.read_parquet(file).with_columns(
            peak_05=pl.col("peak"),
            peak_10=pl.col("peak"),
            peak_20=pl.col("peak") + pl.col("std") / 4,
            peak_low=pl.col("peak") - pl.col("std") / 9,
            peak_high=pl.col("peak") + pl.col("std") / 9,
            peak_stable=pl.col("neuron") % 2 > 0,
        ).write_parquet(file)
    return folder


@pytest.fixture(scope="module")
def statistics(run: Path) -> pl.DataFrame:
    rows = pl.concat(pl.read_parquet(f) for f in (run / "statistics").rglob("*.parquet"))
    return rows.with_columns(apart=(pl.col("mean") - pl.col("peak")).abs() / pl.col("std"))


def written(run: Path) -> str:
    """Write a page with nothing but the explorer; return its address."""
    models = {made.name: Activations(run, made.name, "attn_pre_out") for made in MODELS[:2]}
    body = [tag("h1", "Neurons"), *neurons.explorer(read_run(run), models)]
    file = run / f"{neurons.NEURONS}.html"
    file.write_bytes(sheet("Neurons", [tag("main", *body)]))
    return file.as_uri()


@pytest.fixture(scope="module")
def file(run: Path) -> str:
    return written(run)


@pytest.fixture(scope="module")
def opened(browser: "Browser", file: str) -> Iterator["Page"]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture
def page(opened: "Page") -> "Page":
    """The page as it was opened: one for all tests, because Vega takes a while to load."""
    opened.set_viewport_size({"width": 1400, "height": 1000})
    opened.locator("#neurons-search").fill("")
    head = opened.locator("#neurons thead").get_by_role("button", name="|mean−peak|")
    while opened.locator("#neurons th[aria-sort=descending] [data-field=apart]").count() == 0:
        head.click()
    opened.get_by_label("Neurons of").select_option("zoo:mistral")
    opened.get_by_label("Neurons of").select_option("zoo:opt")
    return opened


def lines(page: "Page") -> "Locator":
    return page.locator("#neurons .table tbody tr")


def column(page: "Page", heading: str) -> list[str]:
    heads = page.locator("#neurons .table thead th").all_inner_texts()
    (at,) = [i for i, text in enumerate(heads) if text.strip(" ▲▼") == heading]
    found: list[str] = lines(page).evaluate_all(
        "(rows, at) => rows.map((row) => row.cells[at].textContent)", at
    )
    return found


def numbers(page: "Page", heading: str) -> list[float]:
    return [float(t.replace("−", "-").split(" ")[0]) for t in column(page, heading)]


def said(page: "Page") -> str:
    return page.locator("#neurons .status").inner_text()


def title(page: "Page") -> str:
    return page.locator("#neurons .chart strong").inner_text()


def test_it_opens_with_the_neuron_whose_mean_and_peak_are_furthest_apart(
    browser: "Browser", file: str, statistics: pl.DataFrame
) -> None:
    page = browser.new_page()
    page.goto(file)
    first = statistics.filter(model="zoo:opt").sort("apart", descending=True).row(0, named=True)
    assert title(page) == (
        f"zoo:opt · layer {first['layer']} · head {first['head']} · neuron {first['neuron']}"
    )
    assert lines(page).count() == 25
    assert numbers(page, "|mean−peak|") == sorted(numbers(page, "|mean−peak|"), reverse=True)
    assert numbers(page, "|mean−peak|")[0] == pytest.approx(first["apart"], rel=1e-3)
    assert page.locator("#neurons th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.close()


def test_headings_sort_and_say_which_way(page: "Page", statistics: pl.DataFrame) -> None:
    own = statistics.filter(model="zoo:opt")
    for text, name in (("kurtosis", "kurtosis"), ("mean", "mean")):
        head = page.locator("#neurons thead").get_by_role("button", name=text, exact=True)
        head.click()
        heading = page.locator("#neurons th[aria-sort]")
        assert heading.get_attribute("aria-sort") == "descending"
        highest = own.sort(name, descending=True)[name].head(25).to_list()
        assert numbers(page, text) == pytest.approx(highest, rel=1e-3, abs=1e-4)
        page.keyboard.press("Enter")  # the heading keeps the focus
        assert heading.get_attribute("aria-sort") == "ascending"
        assert numbers(page, text)[0] == pytest.approx(own[name].min(), rel=1e-3, abs=1e-4)
        assert heading.count() == 1


def test_a_search_keeps_what_it_names(page: "Page", statistics: pl.DataFrame) -> None:
    own = statistics.filter(model="zoo:opt").select("layer", "head", "neuron").rows()
    for text, kept in (
        ("layer 1", lambda layer, head, neuron: layer == 1),
        ("l1 h2 n17", lambda layer, head, neuron: (layer, head, neuron) == (1, 2, 17)),
        ("Head 3, layer 0", lambda layer, head, neuron: (head, layer) == (3, 0)),
        ("17", lambda layer, head, neuron: neuron == 17),
        ("neuron 3-5", lambda layer, head, neuron: 3 <= neuron <= 5),
        ("l7", lambda layer, head, neuron: False),
    ):
        page.get_by_label("Search").fill(text)
        true = {(row[0], row[2]) for row in own if kept(*row)}
        places = set(zip(numbers(page, "layer"), numbers(page, "neuron"), strict=True))
        assert places <= true, text
        assert len(places) == min(len(true), 25), text
        assert f"{len(true)} of the 64 neurons match" in said(page)


def test_a_search_that_is_not_understood_says_so(page: "Page") -> None:
    page.locator("#neurons-search").fill("l1 purple")
    assert "“purple” is not understood" in said(page)
    assert lines(page).count() == 25  # what was understood still counts
    assert set(numbers(page, "layer")) == {1}


def test_the_keyboard_alone_goes_through_the_table_and_draws(page: "Page") -> None:
    page.locator("#neurons-search").focus()
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.getAttribute('aria-label')"
    names = lines(page).locator("button").evaluate_all("b => b.map(x => x.ariaLabel)")
    assert page.evaluate(focused) == names[0]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == names[1]
    page.keyboard.press("Enter")
    assert f"Draw {title(page).removeprefix('zoo:opt · ')}" == names[1]
    assert page.evaluate(focused) == names[1]
    assert page.locator("#neurons tr[aria-current] button").get_attribute("aria-label") == names[1]
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")  # on to the next page
    assert page.locator("#neurons .pages span").inner_text() == "26–50 of 64"
    assert page.evaluate(focused) not in names
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == names[-1]
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    assert lines(page).count() == 14
    assert page.locator("#neurons .table button[tabindex='0']").count() == 1


def test_a_drawing_marks_every_centre_the_interval_and_the_fixed_scales(
    page: "Page", run: Path, statistics: pl.DataFrame
) -> None:
    page.locator("#neurons-search").fill("l1 n6")
    lines(page).first.click()
    page.locator("#neurons .plot svg").wait_for()
    labels = page.locator("#neurons svg text").all_text_contents()
    marks = ["zero", "mean", "peak (smooth)", "peak (paper)"]
    scales = ["peak, h = 0.05", "peak, h = 0.1", "peak, h = 0.2"]
    assert [text for text in labels if text in (*marks, *scales)] == [*marks, *scales]
    row = statistics.filter(model="zoo:opt", layer=1, neuron=6).row(0, named=True)
    note = page.locator("#neurons .chart .note").inner_text()
    assert "The peak is not stable" in note
    assert "95 % interval" in note
    page.locator("#neurons details summary").click()
    found = page.locator("#neurons details tbody tr")
    assert found.locator("th").all_inner_texts() == [*marks, *scales]
    values = [
        float(t.replace("−", "-")) for t in found.locator("td:nth-child(2)").all_inner_texts()
    ]
    centres = pl.concat(pl.read_parquet(f) for f in (run / "centres").rglob("*.parquet"))
    own = centres.filter(model="zoo:opt", layer=1, neuron=6)["value"].to_list()
    true = [*own, row["peak_05"], row["peak_10"], row["peak_20"]]
    assert values == pytest.approx(true, abs=2e-3 * row["std"])
    ends = re.findall(r"[-\d.e]+", found.nth(2).locator("td").nth(1).inner_text().replace("−", "-"))
    assert [float(end) for end in ends] == pytest.approx(
        [row["peak_low"], row["peak_high"]], abs=2e-3 * row["std"]
    )


def test_a_mark_lies_where_its_value_is(page: "Page") -> None:
    """The rule of the mean is drawn at the mean, by the axis's own ticks."""
    page.locator("#neurons-search").fill("l0 n3")
    lines(page).first.click()
    page.locator("#neurons .plot svg").wait_for()
    mean = numbers(page, "mean")[0]
    at = page.evaluate(_PLACES)
    ticks = sorted((float(t.replace("−", "-")), x) for t, x in at["ticks"])
    (low, left), (high, right) = ticks[0], ticks[-1]
    true = left + (mean - low) / (high - low) * (right - left)
    assert min(abs(x - true) for x in at["rules"]) < 1.5


def test_a_drawing_is_zoomed_by_buttons_and_back(page: "Page") -> None:
    page.locator("#neurons .plot svg").wait_for()

    def ticks() -> set[float]:
        return {float(text.replace("−", "-")) for text, _ in page.evaluate(_PLACES)["ticks"]}

    before = ticks()
    page.locator("#neurons").get_by_role("button", name="Zoom in").click()
    assert ticks() != before
    page.locator("#neurons").get_by_role("button", name="Zoom: reset").click()
    assert ticks() == before


_PLACES = """() => {
    const middle = (e) => { const b = e.getBoundingClientRect(); return b.x + b.width / 2; };
    const all = (s) => [...document.querySelectorAll(`#neurons svg ${s}`)];
    return {
        ticks: all('.role-axis text').filter((t) => /^[−\\d.]+$/.test(t.textContent))
            .map((t) => [t.textContent, middle(t)]),
        rules: all('.mark-rule line').filter((l) => Number(l.getAttribute('x2')) === 0).map(middle),
    };
}"""
"""Numbers of the axis of activations, and the upright lines, in pixels of the page."""


def test_another_model_can_be_chosen_and_a_drawing_taken_away(page: "Page", tmp_path: Path) -> None:
    page.get_by_label("Neurons of").select_option("zoo:mistral")
    assert title(page).startswith("zoo:mistral · layer")
    with page.expect_download() as waited:
        page.get_by_role("button", name=f"Download {title(page)} as SVG").click()
    kept = tmp_path / "kept.svg"
    waited.value.save_as(kept)
    assert re.fullmatch(
        r"zoo-mistral-layer-\d-head-\d-neuron-\d+\.svg", waited.value.suggested_filename
    )
    text = kept.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert title(page) in text
    assert "peak (paper)" in text


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_it_fits_and_no_words_of_a_drawing_overlap(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    plot = page.locator("#neurons .plot")
    fits = "document.querySelector('#neurons .plot svg').clientWidth <= {} && innerWidth == {}"
    page.wait_for_function(fits.format(width, width))  # it is drawn again a moment after
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert plot.evaluate("p => p.querySelector('svg').getBoundingClientRect().right") <= width
    assert plot.evaluate(OVERLAPS) == []


@pytest.mark.slow
def test_axe_finds_nothing_to_complain_of_in_light_and_dark(page: "Page") -> None:
    if find_spec("axe_playwright_python") is None:
        absent("axe-core (axe_playwright_python) is not installed")
    script = resources.files("axe_playwright_python").joinpath("axe.min.js")
    page.evaluate(script.read_text(encoding="utf-8"))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("axe.run('#neurons')")
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found["violations"]] == []


def test_a_neuron_that_is_not_carried_is_said_to_be_elsewhere(
    browser: "Browser", run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neurons, "NEURONS", 12)
    made = browser.new_page()
    made.goto(written(run))
    search = made.locator("#neurons-search")
    here = {
        (int(a), int(b))
        for a, b in zip(numbers(made, "layer"), numbers(made, "neuron"), strict=True)
    }
    assert len(here) == 6
    layer, neuron = next((0, n) for n in range(WIDE) if (0, n) not in here)
    search.fill(f"l{layer} n{neuron}")
    assert lines(made).count() == 0
    assert "0 of the 6 neurons that are here, of 64 collected, match" in said(made)
    assert "asked for by the command" in said(made)
    made.close()
