"""Against: one page that compares runs, every other run against the first.

It says in this order whether the runs are the same; how they are compared, that is whether
documents and masks are paired; how the damage differs, in words, curves, differences and
tables; how declared contrasts differ; what the runs were made of; and whether cells of one name
agree. The page stands alone like a run's report and lies in a folder of its own with its figures
and tables: a run folder is never written for the sake of another.

Everything on it is exploratory: nobody declared a comparison of two runs before they ran.
"""

import io
from collections.abc import Sequence
from pathlib import Path, PurePath

import polars as pl

from orchestrator import results
from orchestrator.agreement import agreement
from orchestrator.frames import frames
from orchestrator.report.against_figures import forest, overlaid
from orchestrator.report.against_tables import (
    agreement_parts,
    baselines_table,
    contrasts_table,
    damage_table,
    facts_tables,
)
from orchestrator.report.against_words import (
    Against,
    about,
    documents_said,
    masks_said,
    named,
    points_said,
    sentence,
    stopped_said,
    tokens_said,
)
from orchestrator.report.figures import Figure
from orchestrator.report.html import Element, bullets, contents, tag
from orchestrator.report.sheet import sheet
from orchestrator.report.words import count, listed
from orchestrator.seals import BLANK, KEY
from orchestrator.store import Store
from orchestrator.unlike import facts

METRICS = ("ce", "bits_per_byte", "top1", "kl", "logit_diff", "choice")
"""Metrics that the page tells of, where both runs have them; the tables have all."""
SENTENCES = 12
"""Differences that are told in words."""
TABLES = ("differences", "contrasts", "baselines", "facts", "differing")


def look(a: Store, b: Store) -> Against:
    """Return everything that is told of two runs; nothing is written."""
    found = results.compare_runs(a, b)
    runs = frames(a), frames(b)
    asked = [run["cells"].select("cell").unique().collect() for run in runs]
    answered = [
        run["results"].join(cells.lazy(), on="cell", how="semi")
        for run, cells in zip(runs, asked, strict=True)
    ]
    return Against(
        a=PurePath(a.uri).name,
        b=PurePath(b.uri).name,
        where=(a.uri, b.uri),
        found=found,
        facts=facts(a, b, found.matched),
        agreement=agreement(answered[0], answered[1]),
        planned=(asked[0].height, asked[1].height),
        same_cells=set(asked[0]["cell"]) == set(asked[1]["cell"]),
    )


def write(found: Sequence[Against], out: Store) -> Path:
    """Write the page, its figures and its tables into a folder; return where the page lies.

    `found` compares each other run with the same first one. Raises StoreError if it cannot be
    written.
    """
    body: list[Element] = [_header(found)]
    sections: list[Element] = []
    drawn: list[str] = []
    for number, one in enumerate(found):
        figures: list[Element] = []
        for figure in _figures(one, number):
            drawn += [f"{figure.name}.svg", f"{figure.name}.png"]
            figures.append(figure.draw(out, len(drawn) // 2))
        sections += _sections(one, number, figures, alone=len(found) == 1)
    for name in TABLES:
        content = io.BytesIO()
        made = pl.concat([_table(one, name) for one in found])
        made.write_parquet(content, metadata={KEY.decode(): BLANK.decode()})
        out.replace(f"{name}.parquet", content.getvalue())
    drawings = {f"report/{file}" for file in drawn}
    for file in out.files("report", (".svg", ".png")):
        if file not in drawings:  # of an earlier comparison of this name
            out.delete(file)
    title = f"{listed([one.b for one in found])} against {found[0].a}"
    out.replace("report/index.html", sheet(title, [*body, contents(sections), *sections]))
    return out.path("report/index.html")


def _table(one: Against, name: str) -> pl.DataFrame:
    """Return a table of a comparison, with the runs that it is of."""
    told = {"facts": one.facts, "differing": one.agreement.differing}
    frame = told[name] if name in told else getattr(one.found, name)
    runs = [pl.lit(where).alias(f"run_{end}") for where, end in zip(one.where, "ab", strict=True)]
    made: pl.DataFrame = frame.select(*runs, pl.all())
    return made


def _header(found: Sequence[Against]) -> Element:
    first = found[0]
    lines = [tag("li", tag("b", "A"), f": {first.a} ", tag("code", first.where[0]))]
    lines += [
        tag(
            "li",
            tag("b", "B" if len(found) == 1 else f"B ({i + 1})"),
            f": {one.b} ",
            tag("code", one.where[1]),
        )
        for i, one in enumerate(found)
    ]
    return tag(
        "header",
        tag("p", "Comparison of ablation sweeps", class_="kind"),
        tag("h1", f"{listed([one.b for one in found])} against {first.a}"),
        tag("ul", *lines),
        tag(
            "p",
            "Every difference is B − A: above zero there is more of it in B. Nothing here was"
            " declared before the sweeps ran, so intervals hold for one number each; differences"
            " are suggestions to be tested on other documents.",
        ),
    )


def _figures(one: Against, number: int) -> list[Figure]:
    made: list[Figure | None] = []
    for metric in _shown(one):
        made.append(overlaid(one.found.differences, metric, f"curves-{number}-{metric}"))
    for metric in _shown(one):
        made.append(forest(one.found.differences, metric, f"areas-{number}-{metric}"))
    return [figure for figure in made if figure is not None]


def _shown(one: Against) -> list[str]:
    """Return the metrics of the page: bits per byte only where a token is not the same in both."""
    there = set(one.found.differences["metric"])
    cut = any(tokens_said(pairing) for pairing in one.found.pairings)
    return [m for m in METRICS if f"d_{m}" in there and (m != "bits_per_byte" or cut)]


def _sections(
    one: Against, number: int, figures: Sequence[Element], *, alone: bool
) -> list[Element]:
    differences, suffix = one.found.differences, "" if alone else f": {one.b}"
    shown = _shown(one)
    damage: list[Element] = []
    if differences.is_empty():
        damage.append(tag("p", "No point is answered in both runs yet."))
    else:
        damage += [*_told(differences), *figures]
        damage += [damage_table(differences, metric) for metric in shown]
        if one.found.baselines.height:
            damage.append(baselines_table(one.found.baselines))
    contrasts = [
        contrasts_table(one.found.contrasts, metric)
        for metric in shown
        if metric in set(one.found.contrasts["metric"])
    ] or [tag("p", "No contrast is declared by both sweeps and answered in both.")]
    told: list[tuple[str, str, list[Element]]] = [
        ("how", "How they are compared", _how(one)),
        ("damage", "How damage differs", damage),
        ("contrasts", "How declared contrasts differ", contrasts),
        ("made", "What the runs were made of", facts_tables(one.facts)),
        ("cells", "Cells of the same name", agreement_parts(one.agreement)),
    ]
    return [
        tag("section", tag("h2", f"{heading}{suffix}"), *parts, id=f"{name}-{number}")
        for name, heading, parts in told
    ]


def _how(one: Against) -> list[Element]:
    parts: list[Element] = []
    if one.coincide:
        said = (
            "The runs coincide: they ask for the same cells and have the same answers, to the bit,"
            " so every difference is exactly 0."
        )
        parts.append(tag("p", said, class_="lead"))
    for end, planned, answered in zip("AB", one.planned, one.agreement.cells, strict=True):
        if answered < planned:
            said = (
                f"Run {end} is incomplete: {answered:,} of {count(planned, 'cell')} have an answer."
                " What is missing is left out; make this page again when it has gone on."
            )
            parts.append(tag("p", said, class_="banner"))
    for pairing in one.found.pairings:
        rows = _of(one.found.differences, pairing.a, pairing.b)
        lines = [
            points_said(pairing),
            documents_said(pairing),
            stopped_said(pairing, rows),
            masks_said(rows) if rows.height else "",
            tokens_said(pairing),
            "" if pairing.answered else "Not both have answers over these documents yet.",
        ]
        parts += [
            tag("h3", f"Models: {named(pairing.a, pairing.b)}"),
            bullets([x for x in lines if x]),
        ]
    for end, left in zip("AB", one.found.matched.left, strict=True):
        if left:
            said = f"Only run {end} has {listed([str(x) for x in left])}; compared with nothing."
            parts.append(tag("p", said))
    return parts


def _of(differences: pl.DataFrame, a: object, b: object) -> pl.DataFrame:
    same = [
        pl.col(f"{column}_{end}") == getattr(subject, column)
        for end, subject in (("a", a), ("b", b))
        for column in ("model", "data", "dtype")
    ]
    return differences.filter(*same)


def _told(differences: pl.DataFrame) -> list[Element]:
    """Return the areas of CE in words."""
    areas = differences.filter(pl.col("metric") == "d_ce", pl.col("fraction").is_null())
    if areas.is_empty():
        return []
    told = about(areas)
    lines = []
    for r in areas.head(SENTENCES).to_dicts():
        label = told(r)
        lines.append(sentence(r, f"{label}, " if label else ""))
    more = areas.height - len(lines)
    lead = "Mean damage over the held share, in CE, with 95 % intervals:"
    rest = [tag("p", f"{more:,} more are in the table below.")] if more > 0 else []
    return [tag("p", lead), bullets(lines), *rest]
