"""Opening: the head of the page, which says in words what was swept."""

from orchestrator.report.account import banner
from orchestrator.report.html import Element, tag
from orchestrator.report.read import Run
from orchestrator.report.settings import chosen, site, sites, words
from orchestrator.report.words import NBSP, count, listed, meaning, percent


def header(run: Run) -> Element:
    """Return the head of the page: the sweep's name, what is missing, what was swept."""
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
    fractions = sorted(f for f in cells["fraction"].unique() if f > 0)
    shares = [percent(f).rstrip(f"{NBSP}%") for f in fractions]
    span = f"is {listed(shares) or 'none'}{NBSP}%"
    if len(shares) > 2:
        span = f"goes from {shares[0]} to {shares[-1]}{NBSP}% ({count(len(shares), 'fraction')})"
    masks = cells["seed"].drop_nulls().n_unique()
    drawn = f" Random choices are drawn {count(masks, 'time')}." if masks else ""
    number = run.settings.height
    many = f" That makes {count(number, 'setting')} with curves of their own." if number > 1 else ""
    return (
        f"In {listed(models)}, {_what(run)} are held at a value that says nothing about the input,"
        " and the model is scored on documents that the value was not taken from. The share"
        f" {span}; the chosen units are nested and the same for every method.{drawn} The value"
        f" is chosen by {count(len(methods), 'method')}: {listed(methods)}. Changes are against the"
        f" same model with nothing held.{many if run.grouped else ''}"
    )


def _what(run: Run) -> str:
    """Return what is held, chosen how, of all settings together."""

    def each(column: str) -> list[str]:
        return [words(column, v) for v in run.settings[column].unique(maintain_order=True)]

    units, layers = each("unit"), each("layers")
    values = run.settings["site"].unique(maintain_order=True)
    where = [site(value) for value in values if len(sites(value)) == 1]
    joint = [site(value) for value in values if len(sites(value)) > 1]
    where += [f"{both} together" if not where else "both together" for both in joint]
    if run.settings["layered"].all():
        layers = [f"one layer at a time ({len(layers)})"]
    elif len(layers) > 3:
        layers = [f"{len(layers)} sets of layers"]
    rules = [chosen(v) for v in run.settings["selection"].unique(maintain_order=True)]
    if len(rules) > 4:
        rules = [*rules[:3], f"by {len(rules) - 3} other rules"]
    complement = run.settings["complement"]
    but = "all but " if complement.all() else "a share of, or all but, " if complement.any() else ""
    share = "a share of " if not complement.any() or complement.all() else ""
    what = f"{but}{share}the {listed(units)} of {listed(where)}"
    return f"{what}, in {listed(layers)}, {listed(rules)},"
