"""Account: what the numbers can bear.

How much of the sweep is there, what models of this size can and cannot show,
and notes on everything that weakens a number.
"""

from collections.abc import Mapping

import polars as pl

from orchestrator import results
from orchestrator.report.activations import NEAR, Counted
from orchestrator.report.html import Child, Element, bullets, tag
from orchestrator.report.read import Run
from orchestrator.report.words import count, listed, percent

FEW_MASKS = 10
PAPER = "OPT 1.3B, Mistral 7B, RoBERTa-large and ViT-B"
PAPER_NEURONS = (9_216, 131_072)
"""Attention neurons of the paper's smallest and largest model."""
_NAMED = 8
"""Models and sites whose shares are listed, at most."""


def standing(run: Run) -> dict[str, tuple[int, int, int, int]]:
    """Return per model the distinct cells planned, done, failed and missing.

    A cell that was answered over some rounds of documents, in one part or several, is done
    unless the precision that is asked needs it read further.
    """
    done = set(run.executions["cell"]).difference(run.unread)
    failed = {str(c) for f in run.failures for c in _list(f.get("cells"))} - done
    found = {}
    for (model,), rows in run.cells.group_by("model", maintain_order=True):
        cells = set(rows["cell"])
        bad = len(cells & failed)
        found[str(model)] = (len(cells), len(cells & done), bad, len(cells - done) - bad)
    return found


def in_all(run: Run) -> tuple[int, int, int, int]:
    """Return the distinct cells of all models: planned, done, failed and missing."""
    states = standing(run).values()
    planned, done, failed, missing = (sum(s[i] for s in states) for i in range(4))
    return planned, done, failed, missing


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def banner(run: Run) -> list[Element]:
    """Return what is missing, in words; nothing when all is there."""
    planned, done, failed, missing = in_all(run)
    said: list[str] = []
    if not planned:
        said.append("The plan has not been written yet: there are no cells in this folder.")
    elif missing or failed:
        said.append(
            f"This sweep is not complete: of {count(planned, 'cell')}, {done:,} are done,"
            f" {failed:,} failed and {missing:,} are missing. What follows is what is there."
        )
    absent = [
        name
        for name, frame in (("curves", run.curves), ("contrasts", run.contrasts))
        if planned and not frame.height
    ]
    if absent and not (absent == ["contrasts"] and not run.spec.get("contrasts")):
        said.append(
            f"There is no table of {listed(absent)} yet; run the sweep to its end and report again."
        )
    if run.failures:
        said.append(
            f"{count(len(run.failures), 'task')} failed and stopped being tried; see below."
        )
    return [tag("p", " ".join(said), class_="banner", role="note")] if said else []


def limits(run: Run, counted: Mapping[str, Counted]) -> list[Element]:
    """Return what models of this size can and cannot show."""
    said: list[Element] = []
    counted = dict(list(counted.items())[:_NAMED])
    sizes = [f"{p} {c.neurons:,}" for p, c in counted.items()]
    modes = [f"{p} {percent(c.two_modes, 1)}" for p, c in counted.items()]
    apart = [f"{p} {percent(c.apart)}" for p, c in counted.items()]
    low, high = PAPER_NEURONS
    if any(str(model).startswith("zoo:") for model in run.cells["model"].unique()):
        said.append(
            tag(
                "p",
                f"The bundled models are small{_parameters(run)}. They can show that the sweep"
                " works, how fast damage grows with the share held, and that the choice of"
                " estimator changes the result. They cannot decide whether holding at the peak"
                f" beats holding at the mean in the paper’s models ({PAPER}): whatever the sign of"
                " a contrast here, it says nothing about those.",
            )
        )
    else:
        said.append(
            tag(
                "p",
                "A contrast holds for these checkpoints, on these data, at these sites, with units"
                " chosen in these ways; another model can give the opposite sign.",
            )
        )
    if sizes:
        said.append(
            tag(
                "p",
                f"Neurons counted: {listed(sizes)}; the paper’s models have {low:,} to"
                f" {high:,} attention neurons. The methods differ where a neuron’s mean is not its"
                " mode. The share of"
                f" neurons with a second mode of at least a tenth of the weight: {listed(modes)};"
                f" with mean and peak more than half an s.d. apart: {listed(apart)}.",
            )
        )
    return said


def _parameters(run: Run) -> str:
    """Return how many parameters the models have, in words; nothing where that isn't recorded."""
    models = run.provenance.get("models")
    facts = models if isinstance(models, Mapping) else {}
    each = [
        f"{model} {fact['parameters'] / 1e6:.2f} million"
        for model, fact in facts.items()
        if isinstance(fact, Mapping) and isinstance(fact.get("parameters"), int)
    ]
    return f" (parameters: {listed(each)})" if each else ""


def notes(run: Run, counted: Mapping[str, Counted]) -> list[Element]:
    """Return what a careful reader should know before believing a number."""
    said = results.notes(run.store, axes=0)
    said += atoms(run, counted)
    masks = run.curves["masks"].max()
    if isinstance(masks, int) and 1 < masks < FEW_MASKS:
        error = (2 * (masks - 1)) ** -0.5
        said.append(
            f"With {masks} masks, a standard deviation over masks is itself uncertain by about"
            f" {percent(error)}; the default is {FEW_MASKS} masks."
        )
    declared = run.contrasts.filter("declared")
    if declared.height > 1:
        said.append(
            f"The {declared.height:,} intervals of the declared contrasts are each of one"
            " comparison by itself: were there no difference anywhere, about"
            f" {declared.height / 20:.0f} would still miss zero. The adjusted p-values hold for all"
            " of them together. Those of one model share documents and masks, so they err together."
        )
    for panel, c in counted.items():
        if c.wide:
            said.append(
                f"{panel}: {percent(c.wide, 1)} of the neurons have a bin wider than 0.25 of their"
                " s.d.; their peaks are coarse."
            )
        if c.outside:
            said.append(
                f"{panel}: {percent(c.outside, 1)} of the neurons have more than 1 % of their"
                " activations outside the counted window."
            )
    if counted and not any(c.wide or c.outside for c in counted.values()):
        said.append(
            "No neuron’s bin is wider than 0.25 of its s.d., and none has more than 1 % of its"
            " activations outside the counted window."
        )
    said += _proof(run)
    return [bullets(list[Child](said))] if said else [tag("p", "Nothing to note yet.")]


def atoms(run: Run, counted: Mapping[str, Counted]) -> list[str]:
    """Return what to know of peaks in the MLP's middle, which an activation function shapes."""
    said = []
    for name, c in counted.items():
        if c.site != "mlp_mid":
            continue
        activation = _activation(run, c.model)
        by = f" ({activation})" if activation else ""
        if c.zeros > 0.01 or activation == "relu":
            said.append(
                f"{name}{by}: {percent(c.zeros)} of the activations of the MLP’s middle are exactly"
                f" 0, and so is the peak of {percent(c.peak_zero)} of its neurons: there holding at"
                " the peak is holding at zero."
            )
        elif "gelu" in activation or (not activation and c.at_minimum > 0.1):
            said.append(
                f"{name}{by}: a GELU’s density diverges at its minimum, −0.17. The peak of"
                f" {percent(c.at_minimum)} of the neurons of the MLP’s middle lies within {NEAR:g}"
                " of it, and there says more of the function than of the neuron."
            )
    return said


def _activation(run: Run, model: str) -> str:
    """Return a model's activation function by its recorded name; nothing where there is none."""
    models = run.provenance.get("models")
    facts = models.get(model) if isinstance(models, Mapping) else None
    name = facts.get("activation") if isinstance(facts, Mapping) else None
    return name if isinstance(name, str) else ""


def _proof(run: Run) -> list[str]:
    ran = run.executions
    if not ran.height:
        return []
    differ = ran.filter(pl.col("told") != pl.col("held"))["cell"].n_unique()
    cells = ran["cell"].n_unique()
    if differ:
        return [
            f"In {count(differ, 'cell')} of {cells:,}, what was read back as held from the model is"
            " not what was to be held: do not use them."
        ]
    return [
        f"In all {count(cells, 'cell')}, what was read back as held from the model is what was to"
        " be held."
    ]
