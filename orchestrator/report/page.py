"""The page: everything a report says, in the order a reader needs it.

What was declared beforehand comes first and in words; everything after it is
exploratory and says so. The page is one HTML file, and can be built at any time,
whatever is there yet. Its figures are SVG inside it; its scripts, which let a
reader choose, look and zoom (`live`), are named by their digests in its policy,
which forbids it to fetch anything or to run another.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.report.account import limits, notes
from orchestrator.report.activations import Activations
from orchestrator.report.bases import bases_section
from orchestrator.report.box import box
from orchestrator.report.citing import citing
from orchestrator.report.compared import contrast_table, exploratory
from orchestrator.report.contrasts import counted as told
from orchestrator.report.contrasts import questions, sentences
from orchestrator.report.damage import damage
from orchestrator.report.densities import densities
from orchestrator.report.differences import differences
from orchestrator.report.effects import effects_section
from orchestrator.report.forest import forest_live
from orchestrator.report.heat import heat_live
from orchestrator.report.html import Element, bullets, contents, tag
from orchestrator.report.layers import by_layer, layers_tables
from orchestrator.report.live import Numbered
from orchestrator.report.neurons import explorer
from orchestrator.report.opening import header
from orchestrator.report.optimal import gap_section
from orchestrator.report.provenance import provenance
from orchestrator.report.read import Run, read_run
from orchestrator.report.settings import site, sites
from orchestrator.report.sheet import sheet
from orchestrator.report.stops import stops_section
from orchestrator.report.tables import areas_table, held_table, metrics_table
from orchestrator.report.taken import taken
from orchestrator.report.words import count, listed, metric_said
from orchestrator.store import Store

SENTENCES = 10
"""With more settings of one question, its answers are counted in words and listed in a table."""
QUESTIONS = 8
"""Declared questions that are told one by one."""
FOLDED = 8
"""With more settings, long tables are folded away."""
UNMARKED = (
    "No held value has one place to be marked at, so no density is drawn; every neuron is below."
)
TABLES_AT = (0.5, 0.9)
"""Fractions of the printed tables: the paper's."""


def report(run: Path | str | Store) -> Path:
    """Write the report of a run folder into its `report/`; return where on this machine it lies.

    `report/index.html` stands alone; each figure is beside it as SVG and PNG. A
    run that isn't complete gives a page that says what is missing. Of a run in an
    object store the path is that of a copy.

    Raises FileNotFoundError if there is no such folder, ValueError if a table
    in it lacks a column, StoreError if it cannot be written.
    """
    found = read_run(run)
    title = f"Ablation sweep {found.name}"
    sections = _sections(found)
    body = [header(found), *box(found), contents(sections), *sections]
    found.store.replace("report/index.html", sheet(title, body))
    return found.store.path("report/index.html")


def _sections(run: Run) -> list[Element]:
    collected = _collected(run)
    panels = [(label, a) for label, a in collected.items() if a.collected]
    counted = {label: a.counted() for label, a in panels}
    drawn = Numbered(run.store)
    declared = _declared(run, drawn)
    undeclared = exploratory(run)
    parts = [
        tag("h2", "Exploratory"),
        tag(
            "p",
            "Nothing from here on was declared before the sweep, and nothing is adjusted for how"
            " much of it there is. Differences seen here are suggestions to be tested on other"
            " documents.",
        ),
        *damage(run, drawn),
        *_each_against_each(run, drawn),
        *_layers(run, drawn),
        *_tables(run),
        *gap_section(run),
        *bases_section(run),
        *_choices(run, drawn),
        *([tag("h3", "Other comparisons"), *undeclared] if undeclared else []),
        tag("h3", "Activation densities", id="densities"),
        *(
            drawn.draw(densities(panels, run.methods))
            or [tag("p", UNMARKED if panels else "No statistics have been collected yet.")]
        ),
        *_neurons(run, collected),
    ]
    read = stops_section(run)
    stopped = tag("section", tag("h2", "How far documents were read"), *read, id="stops")
    return [
        tag("section", tag("h2", "Declared contrasts"), *declared, id="declared"),
        *([stopped] if read else []),
        tag("section", *parts, id="exploratory"),
        tag(
            "section",
            tag("h2", "What these models can and cannot show"),
            *limits(run, counted),
            id="limits",
        ),
        tag("section", tag("h2", "Notes"), *notes(run, counted), id="notes"),
        tag("section", tag("h2", "Provenance"), *provenance(run), id="provenance"),
        *(
            [tag("section", tag("h2", "How to cite"), *citing(run), id="cite")]
            * bool(run.cells.height)
        ),
    ]


def _collected(run: Run) -> Mapping[str, Activations]:
    """Return the activations of each model at each site, by what they are called."""
    found = {}
    asked = run.spec.get("statistics")
    named = asked.get("data") if isinstance(asked, Mapping) else None
    pairs = run.settings.select("model", "data", "site").unique(maintain_order=True).rows()
    single = {(model, part): data for model, data, both in pairs for part in sites(both)}
    several = {model for model, _ in single if sum(m == model for m, _ in single) > 1}
    for (model, part), data in single.items():
        label = f"{model} · {site(part)}" if model in several else str(model)
        prefer = [str(named)] if named else []
        found[label] = Activations(run.store, model, part, [*prefer, data])
    return found


def _each_against_each(run: Run, drawn: Numbered) -> Sequence[Element]:
    found = drawn.draw(forest_live(run))
    heading = tag("h3", "Every method against every other", id="forest")
    return [heading, *found] if found else []


def _neurons(run: Run, collected: Mapping[str, Activations]) -> Sequence[Element]:
    found = explorer(run, collected)
    return [tag("h3", "Every neuron", id="each-neuron"), *found] if found else []


def _layers(run: Run, drawn: Numbered) -> list[Element]:
    found = [*drawn.draw(by_layer(run)), *drawn.draw(heat_live(run)), *layers_tables(run)]
    return [tag("h3", "Which layer matters", id="layers"), *found] if found else []


def _there(element: Element | None) -> list[Element]:
    return [] if element is None else [element]


def _tables(run: Run) -> list[Element]:
    """Return the levels at some fractions, the areas and the further metrics."""
    if run.cells.height and not run.shown:
        return []
    at = _fractions(run)
    tables = [t for t in (held_table(run, f) for f in at) if t is not None]
    heading = "At one half and at nine tenths" if at == list(TABLES_AT) else "At single fractions"
    empty = [tag("p", "No cell at these fractions is there yet.")]
    parts = [tag("h3", heading), *(_folded(run, tables, "The tables") or empty)]
    areas = _there(areas_table(run))
    if areas:
        parts += [tag("h3", "Areas under the curves"), *_folded(run, areas, "The table")]
    further = _there(metrics_table(run, at[0])) if at else []
    if further:
        asked = [metric_said(m) for m in run.metrics if m not in ("top1", "ce")]
        parts += [tag("h3", "Further metrics"), *_folded(run, further, f"{listed(asked)}")]
    return parts


def _folded(run: Run, tables: Sequence[Element], name: str) -> list[Element]:
    """Return tables as they are, or folded away where they are long."""
    if len(run.shown) <= FOLDED or not tables:
        return list(tables)
    said = f"{name} of {count(len(run.shown), 'setting')}"
    return [tag("details", tag("summary", said), *tables)]


def _fractions(run: Run) -> list[float]:
    """Return the fractions of the printed tables: the paper's, or else the middle one."""
    swept = sorted(f for f in run.cells["fraction"].unique() if f > 0)
    found = [f for f in TABLES_AT if any(abs(f - s) < 1e-9 for s in swept)]
    return found or swept[len(swept) // 2 : len(swept) // 2 + 1]


def _choices(run: Run, drawn: Numbered) -> list[Element]:
    """Return what the selections did: units per layer, and effects of units."""
    figure = drawn.draw(taken(run))
    layers = [tag("h3", "From which layers units are taken"), *figure] if figure else []
    return [*layers, *effects_section(run)]


def _declared(run: Run, drawn: Numbered) -> list[Element]:
    found = questions(run)
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
            "These comparisons were named in the sweep file before anything ran. Both sides are"
            " scored on the same documents. The test is the area between the two curves; its p is"
            " adjusted (Holm) for all areas that were declared, of all models and metrics. Each"
            " interval is that of one comparison by itself.",
        )
    ]
    for question in found[:QUESTIONS]:
        said = sentences(run, question)
        parts.append(tag("h3", question.title))
        if len(said) > SENTENCES:
            parts.append(tag("p", told(run, question), class_="said"))
        else:
            parts.append(bullets([tag("span", s, class_="said") for s in said]))
    left = len(found) - QUESTIONS
    if left > 0:
        parts.append(tag("p", f"{left:,} more were declared; they are in contrasts.parquet."))
    parts += drawn.draw(differences(run, found))
    parts += [contrast_table(run, question, TABLES_AT) for question in found[:QUESTIONS]]
    return parts
