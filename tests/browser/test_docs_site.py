"""The documentation as a site: built strictly, and shown without asking anyone for anything.

Needs what the group `docs` installs (`make docs`) and, to be shown, Debian's Chromium with its
driver. Where these are missing the tests are skipped with the reason; under CI that fails.
"""

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.needed import absent

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHOWN = [
    "index.html",
    "tutorial.html",
    "howto/my_cluster.html",
    "reference/sweep_file.html",
    "reference/commands.html",
    "reference/tables.html",
    "reference/python.html",
    "examples/index.html",
    "statistics.html",
    "decisions/index.html",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built without a warning."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        absent("mkdocs-material is not installed; `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Return where the site is served, on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_site_is_built_and_has_every_page(site: Path) -> None:
    assert [page for page in SHOWN if not (site / page).exists()] == []
    assert (site / "schema.json").read_text() == (ROOT / "docs" / "schema.json").read_text()
    assert not (site / "making").exists()


@pytest.mark.parametrize("width", [1400, 800])
def test_pages_ask_nobody_complain_of_nothing_and_fit_the_window(
    browser: "Browser", address: str, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in SHOWN:
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"{name} is {wider} pixels wider than the window"
        pictures = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert page.evaluate(pictures) == 0, f"{name} lacks a picture"
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert complaints == []


def test_the_search_finds_a_key_of_the_sweep_file(browser: "Browser", address: str) -> None:
    page = browser.new_page()
    page.goto(address + "index.html")
    page.fill("input[name=query]", "near_duplicates")
    found = page.locator(".md-search-result__link").first
    found.wait_for(timeout=20_000)
    links = page.locator(".md-search-result__link").evaluate_all("ls => ls.map(l => l.href)")
    assert any("reference/sweep_file.html" in link for link in links)


def test_the_site_opens_from_disk(browser: "Browser", site: Path) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.get_by_role("link", name="tutorial").first.click()
    page.wait_for_url("**/tutorial.html")
    assert page.locator("h1").inner_text().startswith("From zero to a figure")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
