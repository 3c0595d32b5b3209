"""The page: everything a report says, in the order a reader needs it.

What was declared beforehand comes first and in words; everything after it is
exploratory and says so. The page is one HTML file without scripts: its figures
are SVG inside it, its policy forbids it to fetch anything, and it can be built
at any time, whatever is there yet.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import polars as pl

from orchestrator.report.account import banner, limits, notes
from orchestrator.report.activations import Activations
from orchestrator.report.curves import changes, differences
from orchestrator.report.densities import densities
from orchestrator.report.figures import Figure
from orchestrator.report.html import Element, bullets, tag, written
from orchestrator.report.provenance import provenance
from orchestrator.report.read import Run, read_run
from orchestrator.report.tables import HEADLINE, contrast_table, held_table, pairs, sentences
from orchestrator.report.words import (
    NBSP,
    SITE,
    count,
    label_name,
    listed,
    meaning,
    percent,
)

TABLES_AT = (HEADLINE, 0.9)
"""Fractions of the printed tables: the paper's."""


def report(run: Path | str) -> Path:
    """Write the report of a run folder into its `report/` and return the page's path.

    `report/index.html` stands alone; each figure is beside it as SVG and PNG. A
    run that isn't complete gives a page that says what is missing.

    Raises FileNotFoundError if there is no such folder, ValueError if a table
    in it lacks a column.
    """
    found = read_run(Path(run))
    folder = found.folder / "report"
    folder.mkdir(exist_ok=True)
    template = Template(
        resources.files("orchestrator.report").joinpath("page.html").read_text(encoding="utf-8")
    )
    title = tag("title", f"Ablation sweep {found.name}")
    page = template.substitute(
        title=written([title]), body=written([_header(found), *_sections(found, folder)])
    )
    beside = folder / "index.html.part"
    beside.write_text(page, encoding="utf-8")
    return beside.replace(folder / "index.html")


def _header(run: Run) -> Element:
    return tag(
        "header",
        tag("p", "Peaksweep report", class_="kind"),
        tag("h1", f"Ablation sweep “{run.name}”"),
        *banner(run),
        tag("p", _statement(run), class_="lead"),
        _methods(run),
    )


def _methods(run: Run) -> Element:
    terms = [
        part
        for name in run.methods
        if meaning(name)
        for part in (tag("dt", name), tag("dd", meaning(name)))
    ]
    return tag("dl", *terms)


def _statement(run: Run) -> str:
    """Return what was swept, in words."""
    cells = run.cells
    if not cells.height:
        return "Nothing has been planned in this folder yet."
    models = [str(model) for model in cells["model"].unique(maintain_order=True)]
    methods = run.methods
    sites = listed([SITE.get(site, site) for site in cells["site"].unique(maintain_order=True)])
    fractions = sorted(f for f in cells["fraction"].unique() if f > 0)
    held = [percent(f).rstrip(f"{NBSP}%") for f in fractions]
    shares = f"{held[0]} to {held[-1]} % ({count(len(held), 'fraction')})" if len(held) > 2 else ""
    shares = shares or f"{listed(held) or 'none'} %"
    return (
        f"In {listed(models)}, a share of the neurons of every layer, at {sites}, is held at a"
        " value that says nothing about the input, and the model is scored on documents that the"
        f" value was not taken from. The share goes from {shares}; which neurons are held is drawn"
        f" at random ({count(cells['seed'].n_unique(), 'mask')}, nested, the same for every"
        f" method). The value is chosen by {count(len(methods), 'method')}: {listed(methods)}."
        " Changes are against the same model with nothing held."
    )


def _sections(run: Run, folder: Path) -> list[Element]:
    panels = [(label, _activations(run, label)) for label in run.panels]
    counted = {label: a.counted() for label, a in panels if a.collected}
    causal = changes(run, ("causal",), name="curves-causal", after="Figure 2")
    others = changes(run, ("masked", "image"), name="curves-masked-image", after="Figure 3")
    drawn = _Numbered(folder)
    declared = _declared(run, drawn)
    tables = [t for t in (held_table(run, f) for f in TABLES_AT) if t is not None]
    exploratory = [
        tag("h2", "Exploratory"),
        tag(
            "p",
            "Nothing from here on was declared before the sweep. Differences seen here are"
            " suggestions to be tested on other documents.",
        ),
        tag("h3", "Damage against the share held"),
        *drawn.draw(causal),
        *drawn.draw(others),
        *([] if causal or others else [tag("p", "No curve can be drawn yet.")]),
        tag("h3", "At one half and at nine tenths"),
        *(tables or [tag("p", "No cell at these fractions is there yet.")]),
        tag("h3", "Activation densities"),
        *(
            drawn.draw(densities(panels, run.methods))
            or [tag("p", "No statistics have been collected yet.")]
        ),
    ]
    return [
        tag("section", tag("h2", "Declared contrasts"), *declared, id="declared"),
        tag("section", *exploratory, id="exploratory"),
        tag(
            "section",
            tag("h2", "What these models can and cannot show"),
            *limits(run, counted),
            id="limits",
        ),
        tag("section", tag("h2", "Notes"), *notes(run, counted), id="notes"),
        tag("section", tag("h2", "Provenance"), *provenance(run), id="provenance"),
    ]


def _activations(run: Run, panel: str) -> Activations:
    points = run.cells if run.cells.height else run.summary
    row = points.filter(pl.col("panel") == panel).row(0, named=True)
    return Activations(run.folder, row["model"], row["site"])


class _Numbered:
    """Draws figures and numbers them in the order of the page."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._drawn = folder, 0

    def draw(self, figure: Figure | None) -> Sequence[Element]:
        if figure is None:
            return []
        self._drawn += 1
        return [figure.draw(self._folder, self._drawn)]


def _declared(run: Run, drawn: _Numbered) -> list[Element]:
    found = pairs(run)
    if not found:
        asked = run.spec.get("contrasts")
        none = (
            "The declared contrasts can’t be computed yet."
            if asked
            else "This sweep declared no contrasts, so everything below is exploratory."
        )
        return [tag("p", none)]
    parts: list[Element] = [
        tag(
            "p",
            "These comparisons were named in the sweep file before anything ran. Both methods hold"
            " the same neurons and are scored on the same documents. Each interval stands by itself"
            " (see the notes).",
        )
    ]
    for a, b in found:
        parts.append(tag("h3", f"{label_name(a)} against {label_name(b)}"))
        parts.append(bullets([tag("span", s, class_="said") for s in sentences(run, a, b)]))
    parts += drawn.draw(differences(run, found))
    parts += [contrast_table(run, a, b, TABLES_AT) for a, b in found]
    return parts
