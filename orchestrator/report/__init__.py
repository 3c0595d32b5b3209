"""The report: one page that says what a sweep found, and how sure one can be.

    read       what is in the run folder, complete or not
    words      numbers, names and sentences
    style      how a method looks
    figures    a chart as SVG and PNG; curves and densities are the charts
    tables     the numbers at 50 % and 90 %, and the declared contrasts
    account    how much is there, what these models can show, and notes
    provenance where the numbers come from
    page       all of it on one page
    html       elements, escaped by construction

It reads tables alone: no model, no cluster, no network.
"""

from orchestrator.report.page import report

__all__ = ["report"]
