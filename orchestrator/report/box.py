"""Box: what ran, on what, at a glance; the section on provenance says it in full."""

from collections.abc import Mapping

from orchestrator.report.account import in_all
from orchestrator.report.citing import digest
from orchestrator.report.html import Element, tag
from orchestrator.report.provenance import libraries
from orchestrator.report.read import Run
from orchestrator.report.words import count, listed

MANY = 6
"""Models, data sets or devices that are named one by one."""


def box(run: Run) -> list[Element]:
    """Return models, data, cells, failures, hardware and versions; nothing without a plan."""
    if not run.cells.height:
        return []
    said = {
        "Models": _some(
            [_model(run, str(m)) for m in run.cells["model"].unique(maintain_order=True)]
        ),
        "Data": _some(_data(run)),
        "Cells": _cells(run),
        "Hardware": _hardware(run),
        "Versions": ", ".join(libraries(run)),
        "Digest": f"{digest(run)} (of all cells’ names)",
    }
    terms = [
        part for name, text in said.items() if text for part in (tag("dt", name), tag("dd", text))
    ]
    return [tag("aside", tag("dl", *terms), class_="box", **{"aria-label": "What ran"})]


def _some(items: list[str]) -> str:
    left = len(items) - MANY
    return listed(items) if left <= 0 else f"{', '.join(items[:MANY])} and {left:,} more"


def _model(run: Run, model: str) -> str:
    models = run.provenance.get("models")
    facts = models.get(model) if isinstance(models, Mapping) else None
    if not isinstance(facts, Mapping):
        return model
    size = facts.get("parameters")
    said = [
        f"{size / 1e6:,.3g} M parameters" if isinstance(size, int) else "",
        str(facts.get("dtype") or ""),
        str(facts.get("revision") or facts.get("digest") or "")[:12],
    ]
    return f"{model} ({', '.join(s for s in said if s)})"


def _data(run: Run) -> list[str]:
    found = run.data.unique(["data", "role"], maintain_order=True).to_dicts()
    read: dict[str, list[str]] = {}
    for row in found:
        read.setdefault(str(row["data"]), []).append(
            f"{count(int(row['documents']), 'document')} to {row['role']}"
        )
    return [f"{name} ({', '.join(roles)})" for name, roles in read.items()]


def _cells(run: Run) -> str:
    planned, done, failed, missing = in_all(run)
    points = run.cells.height
    return (
        f"{count(planned, 'distinct cell')} for {count(points, 'point')}: {done:,} done,"
        f" {failed:,} failed, {missing:,} missing"
    )


def _hardware(run: Run) -> str:
    ran = run.executions
    devices = [str(d) for d in ran["device"].drop_nulls().unique().sort()]
    workers = ran["worker"].n_unique()
    platform = str(run.provenance.get("platform") or "")
    on = f"{count(workers, 'replica')} on {_some(devices)}" if devices else ""
    return ", ".join(part for part in (on, platform) if part)
