"""Damage: the curves of a run in the order of a page.

A plain sweep, where every model has one panel, has the paper's figures 2 and 3; one with several
groups of curves has a figure per model and metric.
"""

from orchestrator.report.curves import APART, Curves, changes, metrics, multiples
from orchestrator.report.explored import explored
from orchestrator.report.html import Element, tag
from orchestrator.report.live import Live, Numbered
from orchestrator.report.read import Run
from orchestrator.report.tables import more_settings


def damage(run: Run, drawn: Numbered) -> list[Element]:
    """Return the curves: of a plain sweep as the paper's figures, else a figure per model."""
    parts: list[Element] = [tag("h3", "Damage against the share held", id="damage")]
    if run.grouped:
        for model in run.settings["model"].unique(maintain_order=True):
            for metric in metrics(run):
                parts += drawn.draw(_explored(run, multiples(run, str(model), metric)))
        more = more_settings(run, "curves")
        parts += [tag("p", more)] if more else []
        if not run.shown and run.curves.height:
            parts.append(tag("p", "Every setting chooses units of a single layer: see below."))
            return parts
    else:
        pair = [m for m in metrics(run) if m not in APART]
        causal, others = ("causal",), ("masked", "image")
        for modalities, name, after in (
            (causal, "curves-causal", "Figure 2"),
            (others, "curves-masked-image", "Figure 3"),
        ):
            found = changes(run, modalities, name=name, after=after, shown=pair)
            parts += drawn.draw(_explored(run, found))
        every = (*causal, *others)
        for metric in (m for m in metrics(run) if m in APART):
            name = f"curves-{metric.replace('_', '-')}"
            found = changes(run, every, name=name, after="", shown=[metric])
            parts += drawn.draw(_explored(run, found))
    return parts if len(parts) > 1 else [*parts, tag("p", "No curve can be drawn yet.")]


def _explored(run: Run, curves: Curves | None) -> Live | None:
    return None if curves is None else explored(run, curves)
