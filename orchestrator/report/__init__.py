"""The report: one page that says what a sweep found, and how sure one can be.

    read         what is in the run folder, complete or not
    settings     which group of curves a number is about, in words; how many a page shows
    words        numbers, names and sentences
    style        how a method looks
    figures      a chart as SVG and PNG; curves, differences, forest, layers, heat, taken and
                 densities are the charts
    live         a figure that a reader can ask, with its script; explored has the curves so, mask
                 by mask, and damage puts them in order
    neurons      every neuron, searched and sorted; carried says which of many a page carries
    contrasts    what was declared, as questions with answers; compared has their tables
    stops        how far documents were read, where a precision is asked
    tables       levels at some fractions, areas, further metrics
    optimal, bases, effects   the gap to optimal, rotated axes, effects of single units
    account      how much is there, what these models can show, and notes
    opening, box, provenance  what was swept, on what, and where the numbers come from
    citing       how a paper names the sweep
    page, sheet  all of it on one page
    html         elements, escaped by construction

It reads tables alone: no model, no cluster, no network.
"""

from orchestrator.report.page import report

__all__ = ["report"]
