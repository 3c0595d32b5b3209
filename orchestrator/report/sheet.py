"""Sheet: a whole page, from its title and what stands on it."""

from collections.abc import Sequence
from importlib import resources
from string import Template

from orchestrator.report.html import Element, tag, written
from orchestrator.report.live import scripting


def sheet(title: str, body: Sequence[Element]) -> bytes:
    """Return a page that stands alone: its style and its scripts are in it, and it asks nobody."""
    text = resources.files("orchestrator.report").joinpath("page.html").read_text(encoding="utf-8")
    page = Template(text).substitute(
        title=written([tag("title", title)]), body=written(body), **scripting()
    )
    return page.encode()
