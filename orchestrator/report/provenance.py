"""Provenance: where the numbers come from.

Cells asked for and answered, the data of either role, tasks that failed, the
models and the versions of what read them, and the sweep file itself.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from orchestrator.report.account import standing
from orchestrator.report.html import Element, columns, row, table, tag
from orchestrator.report.read import Run
from orchestrator.report.words import count, listed, number

_FACTS = (
    *("family", "parameters", "layers", "neurons", "mlp_neurons", "activation"),
    *("dtype", "device", "revision", "digest"),
)
"""What is shown of a model, of what is recorded."""


def provenance(run: Run) -> list[Element]:
    """Return cells per model, data, failures, versions and the sweep file."""
    parts = [
        table(
            "Cells: distinct evaluations. Points of the sweep that ask the same share one.",
            [columns("model", "planned", "done", "failed", "missing")],
            [
                tag(
                    "tbody",
                    *(
                        row(model, *(f"{n:,}" for n in state))
                        for model, state in standing(run).items()
                    ),
                )
            ],
        )
    ]
    parts += _data(run)
    if run.failures:
        parts += _failures(run)
    seconds = run.executions["seconds"].sum()
    if seconds:
        workers = run.executions["worker"].n_unique()
        parts.append(
            tag(
                "p",
                f"Evaluation took {_duration(float(seconds))} of replicas’ time, on"
                f" {count(workers, 'replica')} ({listed(_distinct(run, 'device'))}; threads of"
                f" each: {listed(_distinct(run, 'threads'))}).",
            )
        )
    parts += _recorded(run)
    if run.spec_text:
        parts.append(
            tag("details", tag("summary", "The sweep file"), tag("pre", tag("code", run.spec_text)))
        )
    return parts


def _recorded(run: Run) -> list[Element]:
    """Return the models and versions, then everything recorded, folded away."""
    parts = []
    models = run.provenance.get("models")
    if isinstance(models, Mapping):
        facts = {str(name): fact for name, fact in models.items() if isinstance(fact, Mapping)}
        shown = [key for key in _FACTS if any(key in fact for fact in facts.values())]
        rows = [row(name, *(_fact(f.get(k)) for k in shown)) for name, f in facts.items()]
        caption = (
            "Models. Neurons are those of one layer: of the attention’s output, and of the MLP’s"
            " middle."
        )
        parts.append(
            table(
                caption,
                [columns("model", *(s.replace("_", " ") for s in shown))],
                [tag("tbody", *rows)],
                kind="text",
            )
        )
    if versions := libraries(run):
        python = run.provenance.get("python")
        said = listed([*([f"Python {python}"] if python else []), *versions])
        parts.append(tag("p", f"Versions: {said}."))
    everything = _flat(run.provenance)
    if everything:
        rows = [row(key, tag("code", value)) for key, value in everything]
        parts.append(
            tag(
                "details",
                tag("summary", "Everything recorded when the sweep ran"),
                table(
                    "As it stands in provenance.json.",
                    [columns("what", "recorded")],
                    [tag("tbody", *rows)],
                    kind="text",
                ),
            )
        )
    return parts


def libraries(run: Run) -> list[str]:
    """Return the libraries that are recorded, with their versions."""
    found = run.provenance.get("libraries")
    return [f"{k} {version}" for k, version in found.items()] if isinstance(found, Mapping) else []


def _fact(value: object) -> str:
    if value is None:
        return "–"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 20 else f"{text[:12]}…"


def _distinct(run: Run, column: str) -> list[str]:
    return [str(value) for value in run.executions[column].unique().sort()]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds, 0)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _data(run: Run) -> list[Element]:
    if not run.data.height:
        return []
    sources = run.spec.get("data")
    tokens = dict(run.summary.group_by("model").agg(pl.col("tokens").max()).rows())
    dtypes = dict(run.cells.select("model", "dtype").unique().rows())
    rows = []
    order = list(dict.fromkeys(run.cells["model"]))
    placed = [r for r in run.data.to_dicts() if r["model"] in order]
    for r in sorted(placed, key=lambda r: (order.index(r["model"]), r["role"])):
        source = sources.get(r["data"]) if isinstance(sources, Mapping) else None
        source = source if isinstance(source, Mapping) else {}
        role = source.get(r["role"])
        split = role.get("split") if isinstance(role, Mapping) else None
        scored = tokens.get(r["model"]) if r["role"] == "evaluate" else None
        rows.append(
            row(
                r["model"],
                *(dtypes.get(r["model"], "–"), f"{r['data']} ({source.get('source', '–')})"),
                *(r["role"], str(split or "by hash")),
                *(f"{r['documents']:,}", f"{r['sequences']:,}", f"{scored:,}" if scored else "–"),
            )
        )
    head = columns("model", "dtype", "data", "role", "split", "documents", "sequences", "scored")
    caption = (
        "Data: statistics come from the documents of role collect, scores from those of role"
        " evaluate. Scored: text positions, or images, of a cell that read all of them."
    )
    return [table(caption, [head], [tag("tbody", *rows)], kind="mixed")]


def _failures(run: Run) -> list[Element]:
    rows = [
        row(
            str(f.get("label", "?")),
            str(f.get("stage", "?")),
            str(f.get("attempts", "?")),
            tag(
                "details",
                tag("summary", str(f.get("error", "?"))),
                tag("pre", str(f.get("traceback", ""))),
            ),
        )
        for f in run.failures
    ]
    return [
        table(
            "Tasks that failed each time they were tried. Deleting a task’s file in failures/ has"
            " it tried again.",
            [columns("task", "stage", "attempts", "error")],
            [tag("tbody", *rows)],
            kind="text",
        )
    ]


def _flat(value: Mapping[str, object], above: str = "") -> list[tuple[str, str]]:
    """Return nested facts as (path, text)."""
    found: list[tuple[str, str]] = []
    for key, inner in value.items():
        path = f"{above} · {key}" if above else str(key)
        if isinstance(inner, Mapping):
            found += _flat(inner, path)
        elif isinstance(inner, Sequence) and not isinstance(inner, str):
            found.append((path, ", ".join(str(item) for item in inner) or "none"))
        else:
            found.append((path, str(inner)))
    return found
