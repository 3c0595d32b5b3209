"""Citing: how a paper can name this sweep, so that another can find out whether it has the same.

A cell's name is a digest of everything that changes its answer, so one digest over the names of
all cells stands for the whole sweep: two runs that have it asked for the same numbers.
"""

from collections.abc import Mapping
from hashlib import sha256

from orchestrator.report.html import Element, tag
from orchestrator.report.read import Run
from orchestrator.report.words import count, listed

PAPER = (
    "Nicholas Pochinkov, Ben Pasero and Skylar Shibayama. Investigating Neuron Ablation in"
    " Attention Heads: The Case for Peak Activation Centering. arXiv 2408.17322, 2024."
)
_ENTRY = """@article{pochinkov2024peak,
  title   = {Investigating Neuron Ablation in Attention Heads:
             The Case for Peak Activation Centering},
  author  = {Pochinkov, Nicholas and Pasero, Ben and Shibayama, Skylar},
  journal = {arXiv preprint arXiv:2408.17322},
  year    = {2024}
}"""
LETTERS = 16
"""Of the digest that are printed."""


def digest(run: Run) -> str:
    """Return the digest of the names of all cells of a run, in hexadecimal letters."""
    names = sorted(set(run.cells["cell"]))
    return sha256("\n".join(names).encode()).hexdigest()[:LETTERS]


def citing(run: Run) -> list[Element]:
    """Return a sentence for a paper's methods, and the entry of the paper behind the method."""
    libraries = run.provenance.get("libraries")
    version = libraries.get("peaksweep") if isinstance(libraries, Mapping) else None
    models = [str(model) for model in run.cells["model"].unique(maintain_order=True)]
    cells = run.cells["cell"].n_unique()
    named = f"Peaksweep {version}" if version else "Peaksweep"
    sentence = (
        f"Neurons of {listed(models)} were held with {named} (sweep “{run.name}”,"
        f" {count(cells, 'cell')}, sha256 of their names {digest(run)}…)."
    )
    return [
        tag("p", "For a paper’s methods:"),
        tag("blockquote", sentence),
        tag(
            "p",
            "The sweep file below and the models’ digests are what another needs to run it again;"
            " a run with the same digest of names asked for the same cells. Holding at the peak is"
            f" due to {PAPER}",
        ),
        tag("details", tag("summary", "BibTeX"), tag("pre", tag("code", _ENTRY), tabindex="0")),
    ]
