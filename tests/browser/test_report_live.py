"""Live figures as a reader uses them: with a mouse, with the keyboard, in the dark, on paper.

`tests/browser/conftest.py` says which browser, and what happens without one. Accessibility is
checked by axe-core.
"""

import importlib.resources
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.report import report
from tests.browser.needed import absent
from tests.orchestrator.synthetic_run import MODELS, write_run
from tests.orchestrator.test_report_groups import spread

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow

CAUSAL = [model for model in MODELS if model.modality == "causal"]
FIGURE = "#figure-curves-causal"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the addresses of two pages: of a plain sweep, and of one of several groups."""
    folder = tmp_path_factory.mktemp("live")
    plain = write_run(folder / "plain", models=CAUSAL, layers=1, neurons=16, masks=3)
    grouped = write_run(folder / "grouped", models=MODELS[:1], layers=2, neurons=16, masks=2)
    spread(grouped, "selection", ["random", "score(fluctuation, low, global)"])
    spread(grouped, "layers", ["all", "0", "1", "2"])
    return {"plain": report(plain).as_uri(), "grouped": report(grouped).as_uri()}


@pytest.fixture
def page(browser: "Browser", runs: dict[str, str]) -> Iterator["Page"]:
    found, complaints = opened(browser, runs["plain"])
    yield found
    assert complaints == []
    found.close()


def opened(
    browser: "Browser", address: str, *, width: int = 1400, scheme: str = "light"
) -> tuple["Page", list[str]]:
    kind = "dark" if scheme == "dark" else "light"
    found = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=kind)
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.goto(address)
    found.wait_for_load_state("networkidle")
    found.locator(f"{FIGURE} .plot svg, .plot svg").first.wait_for()
    return found, complaints


def pick(page: "Page", label: str, value: str) -> None:
    page.locator(FIGURE).get_by_label(label, exact=True).select_option(value)


def charts(page: "Page") -> "Locator":
    return page.locator(f"{FIGURE} .chart")


def ticks(page: "Page") -> list[str]:
    """Return the first chart's labels of ticks, sorted: one that stays keeps its element."""
    found = page.locator(f"{FIGURE} .plot").first.locator(".role-axis-label text")
    return sorted(str(text) for text in found.all_text_contents())


def settles(page: "Page", found: Callable[[], bool]) -> bool:
    """Wait until something is so: a drawing follows its signals a moment later."""
    for _ in range(100):
        if found():
            return True
        page.wait_for_timeout(50)
    return False


def numbers(page: "Page") -> list[list[str]]:
    """Return the table of what is drawn."""
    details = page.locator(f"{FIGURE} details.numbers")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    rows = details.locator("tbody tr")
    found: list[list[str]] = rows.evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    return found


def test_choices_change_what_is_drawn_and_said(page: "Page") -> None:
    all_of_them = charts(page).count()
    assert all_of_them == 2 * len(CAUSAL)
    pick(page, "Metric", "CE (nats)")
    assert charts(page).count() == all_of_them // 2
    pick(page, "Setting", CAUSAL[0].name)
    assert charts(page).count() == 1
    assert CAUSAL[0].name in charts(page).inner_text()
    means = numbers(page)
    pick(page, "Masks", "mask 1")
    single = numbers(page)
    assert single != means
    assert {row[-1] for row in single} == {"mask 1"}
    page.locator(FIGURE).get_by_role("checkbox", name="zero", exact=True).uncheck()
    left = numbers(page)
    assert {row[2] for row in single} - {row[2] for row in left} == {"zero"}
    assert page.locator(f"{FIGURE} .status").inner_text() == f"1 chart, {len(left)} points."


def test_nothing_chosen_is_said(page: "Page") -> None:
    for box in page.locator(f"{FIGURE} input[type=checkbox]").all():
        box.uncheck()
    assert page.locator(f"{FIGURE} .status").inner_text() == "Nothing is there for this choice."


def test_a_point_says_its_numbers_under_the_pointer(page: "Page") -> None:
    pick(page, "Metric", "CE (nats)")
    symbol = page.locator(f"{FIGURE} .plot").first.locator(".mark-symbol path").nth(5)
    symbol.hover(force=True)
    tip = page.locator(".tip")
    tip.wait_for()
    assert re.search(r"method: \w+", tip.inner_text())
    assert re.search(r"share held: [\d.]+ %", tip.inner_text())
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_the_mouse_and_the_keyboard_zoom_and_go_back(page: "Page") -> None:
    before = ticks(page)
    plot = page.locator(f"{FIGURE} .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 120, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 240, box["y"] + 140, steps=5)
    page.mouse.up()
    assert settles(page, lambda: ticks(page) != before)
    reset = page.locator(FIGURE).get_by_role("button", name="Reset")
    reset.focus()
    page.keyboard.press("Enter")
    assert settles(page, lambda: ticks(page) == before)
    page.locator(FIGURE).get_by_role("button", name="Zoom in").focus()
    page.keyboard.press("Space")
    assert settles(page, lambda: ticks(page) != before)


def test_every_control_can_be_reached_and_used_with_the_keyboard(page: "Page") -> None:
    page.locator(f"{FIGURE} select").first.focus()
    reached = set()
    for _ in range(20):
        reached.add(
            page.evaluate(
                "(() => { const e = document.activeElement;"
                " return `${e.closest('figure')?.id} ${e.tagName}` })()"
            )
        )
        page.keyboard.press("Tab")
    kinds = {found.split()[1] for found in reached if found.startswith(FIGURE[1:])}
    assert {"SELECT", "BUTTON", "INPUT", "SUMMARY"} <= kinds
    box = page.locator(f"{FIGURE} input[type=checkbox]").first
    box.focus()
    points = page.locator(f"{FIGURE} .status").inner_text()
    page.keyboard.press("Space")
    assert page.locator(f"{FIGURE} .status").inner_text() != points


def test_a_chart_is_downloaded_as_it_is_drawn(page: "Page", tmp_path: Path) -> None:
    pick(page, "Metric", "CE (nats)")
    with page.expect_download() as started:
        page.locator(f"{FIGURE} button.save").first.click()
    file = tmp_path / "chart.svg"
    started.value.save_as(file)
    assert re.fullmatch(r"curves-causal-[a-z0-9-]+-ce-nats\.svg", started.value.suggested_filename)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert CAUSAL[0].name in text
    assert text.count("aria-roledescription") > 0 or text.count("<path") > 20


def test_the_page_turns_dark_and_light(page: "Page") -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    def ink() -> str | None:
        return page.locator(f"{FIGURE} .role-axis-label text").first.get_attribute("fill")

    assert paper() == "rgb(255, 255, 255)"
    light = ink()
    page.get_by_role("button", name="Dark page").click()
    label = f"document.querySelector('{FIGURE} .role-axis-label text')"
    page.wait_for_function(f"({label})?.getAttribute('fill') != '{light}'")
    assert paper() != "rgb(255, 255, 255)"
    page.get_by_role("button", name="Light page").click()
    assert paper() == "rgb(255, 255, 255)"


def test_on_paper_the_still_figures_stand_and_no_control(page: "Page") -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(f"{FIGURE} > svg").is_visible()
    assert not page.locator(f"{FIGURE} .tools").is_visible()
    assert not page.locator(f"{FIGURE} .charts").is_visible()
    hidden = "ts => ts.filter(t => !t.closest('details, #neurons') && !t.checkVisibility()).length"
    assert page.locator("table:has(caption)").evaluate_all(hidden) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_scripts_the_still_figures_are_there(
    browser: "Browser", runs: dict[str, str]
) -> None:
    context = browser.new_context(java_script_enabled=False)
    found = context.new_page()
    found.goto(runs["plain"])
    assert found.locator(f"{FIGURE} > svg").is_visible()
    context.close()


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),  # each pair of two of them is there
    [
        ("plain", 1400, "light"),
        ("plain", 800, "dark"),
        ("grouped", 1400, "dark"),
        ("grouped", 800, "light"),
    ],
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browser: "Browser", runs: dict[str, str], kind: str, width: int, scheme: str
) -> None:
    found, complaints = opened(browser, runs[kind], width=width, scheme=scheme)
    for folded in found.locator("details:not([open]) > summary").all():
        if folded.is_visible():
            folded.click()
    assert violations(found) == []
    assert found.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert complaints == []
    found.close()


def violations(page: "Page") -> list[str]:
    """Return what axe-core finds, as the rule and the first element that breaks it."""
    try:
        axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js")
    except ImportError:
        absent("axe-core (the package axe-playwright-python) is not installed")
    page.evaluate(axe.read_text(encoding="utf-8") + "; undefined")
    found = page.evaluate("axe.run()")["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found]
