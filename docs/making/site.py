"""Hooks of mkdocs: pages from outside docs/ and from the code join those that are written."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads a hook as a file, not of a package

import mirror
import notebook
import reference

_HOME: dict[str, str] = {}
"""Where a page that was brought in lies in the repository, by where it lies in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the code says, the notebooks, and all that pages lead to."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for file in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        made = notebook.page(file)
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=made))
    written = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for path, content in mirror.reached(written).items():
        page = mirror.at(path)
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=content))
            _HOME[page] = path
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where things are in the site."""
    there = page.file.src_uri
    return mirror.rewritten(_HOME.get(there, f"docs/{there}"), markdown)
