"""Card: the README of what was exported, so that a folder says by itself what it is.

A model whose neurons are held looks like any other checkpoint, and is worth nothing, or worse, to
whoever takes it for one. So the card says first what was done to it, then how to load
it, how it was measured and how far the copy is from the cell, and last what identifies it. Numbers
are those of the run's tables; none is computed here.

Text is Markdown; what stands between the lines of dashes is for hubs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import loads
from typing import Any, Literal

from orchestrator.labels import OWN, label

_LEFT_OUT = ("label", "cell", "model", "modality", "data", "dtype", "tokens", "documents")
"""Columns of a point that are said elsewhere."""
_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "image": "AutoModelForImageClassification",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What was done to a model: a point of a sweep."""

    run: str
    """Name of the run folder."""
    point: Mapping[str, Any]
    """A row of `summary`; of `cells` where the summary has none yet."""
    held: int
    """Neurons, over layers and sites."""
    revision: str | None
    digest: str
    """SHA-256 of the checkpoint that was ablated."""
    values_digest: str | None
    """SHA-256 of the values that the cell was given when it was answered."""
    versions: Mapping[str, str]
    """Of libraries, and the device that answered the cell."""
    library: Literal["transformers", "timm"]

    def header(self) -> dict[str, object]:
        """Return what a header of arrays says of it."""
        what = ("cell", "model", "modality", "data", "dtype", "site", "unit", "method")
        more = ("selection", "fraction", "seed", "complement", "units_held", "units_total")
        return {
            "run": self.run,
            "held": self.held,
            "revision": self.revision,
            "digest": self.digest,
            "parameters": loads(self.point["parameters"]),
            **{column: self.point[column] for column in (*what, *more)},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """An exported checkpoint and its cell, on the same sequences."""

    sequences: int
    tokens: int
    """Scored positions; images: images."""
    ce: float
    """Nats per token, of the exported checkpoint, without a hook."""
    ce_cell: float
    """Nats per token, of the cell, as `results` has it."""
    largest: float
    """Largest difference of the two in one sequence, nats per token."""
    top1: int
    """Positions that the exported checkpoint gets right."""
    top1_cell: int


def card(done: Done, settings: Sequence[str], measured: Measured | None, written: str) -> str:
    """Return the card of an exported checkpoint; `written` is the digest of what was written."""
    name = done.point["model"]
    base = [f"base_model: {name.replace('timm:', 'timm/')}"] if done.revision else []
    said = ["---", f"library_name: {done.library}", *base, "tags: [peaksweep, ablated]", "---", ""]
    return _joined(
        *said,
        f"# {name}, ablated",
        "",
        f"**This is not {name}.** {_sentence(done)} Each is held at one value, whatever the input,"
        " and the values are in the weights: the columns of the output projections that these"
        " neurons feed are zero (in a soft mixture, smaller), and what they contribute is in the"
        f" biases.{_settings(settings)}{_turned(done)}",
        "",
        *_point(done),
        "## Loading",
        "",
        *_loading(done),
        "",
        "## Measured",
        "",
        *_summary(done),
        *_copy(done, measured),
        "",
        *_identity(done),
        f"| weights written here | SHA-256 `{written}` |",
        "",
        "The licence is that of the checkpoint this was made from.",
    )


def masks_card(done: Done, arrays: Sequence[str]) -> str:
    """Return the card of exported masks and values."""
    return _joined(
        f"# Neurons held in {done.point['model']}",
        "",
        f"{_sentence(done)} `masks.safetensors` says which, for tools with hooks of their own:"
        f" {', '.join(f'`{name}`' for name in arrays)}. Rows are layers, columns the inputs of the"
        " attention output projection (`attn_pre_out`, head by head) or of the MLP's (`mlp_mid`)."
        f" `held` is true where a neuron is held. {_values(arrays)} The file's metadata has the"
        " table below.",
        "",
        *_point(done),
        *_summary(done),
        "",
        *_identity(done),
    )


def _sentence(done: Done) -> str:
    point = done.point
    method = label(point["method"], loads(point["parameters"]))
    where = "" if point["layers"] == "all" else f" in layers {point['layers']}"
    return f"{done.held:,} neurons at {point['site']}{where} are held, by the method `{method}`."


def _values(arrays: Sequence[str]) -> str:
    if any(name.startswith("values.") for name in arrays):
        return (
            "`values` is what it is held at, float64, in the units of the activations; neurons that"
            " are not held have one too."
        )
    return "There are no values, because what this method puts in differs between positions."


def _settings(settings: Sequence[str]) -> str:
    if not settings:
        return ""
    named = ", ".join(f"`{setting}`" for setting in settings)
    return f" To have these, {named} was turned on in config.json; other biases it adds are zero."


def _turned(done: Done) -> str:
    if done.point["basis"] == OWN:
        return ""
    return " Its heads are written in rotated axes, in which the bare model computes the same."


def _point(done: Done) -> list[str]:
    """Return the table of what tells this point of the sweep from others."""
    rows = [("run", done.run), ("cell", done.point["cell"]), ("data", done.point["data"])]
    for column, value in done.point.items():
        if column in _LEFT_OUT or value is None or value is False:
            continue
        if column == "units_total":
            rows.append((column, value))
            break  # what follows was measured
        rows.append((column, value))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]


def _loading(done: Done) -> list[str]:
    dtype = done.point["dtype"]
    if done.library == "timm":
        cast = "" if dtype == "float32" else f".to(torch.{dtype})"
        line = f'model = timm.create_model("local-dir:FOLDER", pretrained=True){cast}'
        return ["```python", "import timm", *(["import torch"] if cast else []), "", line, "```"]
    kind = _CLASSES[done.point["modality"]]
    return [
        "```python",
        f"import torch\nfrom transformers import {kind}",
        "",
        f'model = {kind}.from_pretrained("FOLDER", dtype=torch.{dtype})',
        "```",
    ]


def _words(done: Done) -> tuple[str, str]:
    """Return what is scored, one and many."""
    image = done.point["modality"] == "image"
    return ("image", "images") if image else ("token", "scored positions")


def _summary(done: Done) -> list[str]:
    """Return what the sweep measured of the point."""
    point = done.point
    if point.get("ce") is None:
        return ["The run has no summary of this point yet.", ""]
    each, scored = _words(done)
    level = f"Cross-entropy {point['ce']:.4f} nats per {each}"
    if point.get("ce_se") is not None:
        level += f" (standard error {point['ce_se']:.4f})"
    said = f"{level}, top-1 {point['top1']:.4f}, over {point['tokens']:,} {scored}"
    said += f" of {point['documents']:,} documents of `{point['data']}`."
    if point.get("d_ce_low") is not None:
        said += (
            f" Against the unablated model: cross-entropy {point['d_ce']:+.4f}"
            f" [{point['d_ce_low']:+.4f}, {point['d_ce_high']:+.4f}], a 95 % interval over"
            " documents, of this mask alone."
        )
    return [said, ""]


def _copy(done: Done, measured: Measured | None) -> list[str]:
    """Return how far the checkpoint is from the cell."""
    if measured is None:
        return ["The run has no answer of this cell yet, so the copy was compared with nothing."]
    m, (each, scored) = measured, _words(done)
    apart = "in every sequence they are the same, to the last bit"
    if m.largest:
        apart = f"in no sequence do they differ by more than {m.largest:.2g}"
    said = (
        f"This copy was loaded again and run without a hook on {m.sequences} of these sequences"
        f" ({m.tokens:,} {scored}): cross-entropy {m.ce:.6f} nats per {each}, that of the cell"
        f" {m.ce_cell:.6f}; {apart}. It is right at {m.top1:,} of them, the cell at"
        f" {m.top1_cell:,}."
    )
    if done.point["dtype"] != "float32":
        said += (
            f" In {done.point['dtype']} the two are not the same: the cell adds what held neurons"
            " contribute in float32, and here it is rounded into the bias. Differences between"
            " methods that are no larger than this are not to be read from exported checkpoints."
        )
    return [said]


def _identity(done: Done) -> list[str]:
    rows = ["| | |", "|---|---|"]
    revision = f", revision `{done.revision}`" if done.revision else ""
    rows.append(f"| made from | {done.point['model']}{revision}, SHA-256 `{done.digest}` |")
    if done.values_digest:
        rows.append(f"| values held | SHA-256 `{done.values_digest}` |")
    if done.versions:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(done.versions.items()))
        rows.append(f"| the cell was answered with | {listed} |")
    return rows


def _joined(*lines: str) -> str:
    return "\n".join(lines) + "\n"
