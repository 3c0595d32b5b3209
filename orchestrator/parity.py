"""Parity: a model by its name, compared with its library, as a table.

`workers.parity` says what is compared; here a model's name becomes a loaded model and
the answer becomes rows. It runs in this process, on a GPU where there is one, with the same
loader as a sweep's replicas. Run it before a long sweep of a checkpoint of your own: it takes
about twenty short forward passes.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from rich.table import Table

from orchestrator import inspection
from orchestrator.inspection import ModelError
from workers.loading import CheckpointError, load
from workers.messages import ModelFacts, ModelRef
from workers.parity import Parity, parity

Dtype = Literal["float32", "bfloat16", "float16"]


def compare(model: str, *, dtype: str, revision: str | None, base: Path) -> Parity:
    """Load a model as a sweep would, and compare it with its library.

    A relative folder starts at `base`; a hub id is downloaded where the cache lacks it.
    Raises ModelError saying what was found where the model or the dtype cannot be used.
    """
    if dtype not in get_args(Dtype):
        raise ModelError(f"{dtype!r} is no dtype; known are {', '.join(get_args(Dtype))}")
    folder = inspection.folder(model, revision=revision, base=base, fetch=True)
    (facts,) = inspection.facts([folder])
    if not isinstance(facts, ModelFacts):
        raise facts
    ref = ModelRef(
        name=model,
        folder=str(folder),
        dtype=dtype,  # type: ignore[arg-type]  # one of these, as seen above
        device="cuda" if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        facts=facts,
    )
    try:
        return parity(load(ref))
    except CheckpointError as error:
        raise ModelError(str(error)) from error


def table(found: Parity) -> Table:
    """Return a row for every claim: whether it holds, how far it was off, how far it may be."""
    made = Table(
        title=f"{found.model}: {found.family}, {found.dtype} on {found.device}, {found.attention}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("", "check", "claim"):
        made.add_column(column)
    for column in ("off by", "allowed"):
        made.add_column(column, justify="right")
    for check in found.checks:
        mark = "[green]ok[/]" if check.passed else "[red]no[/]"
        made.add_row(mark, check.name, check.claim, told(check.worst), told(check.allowed))
    return made


def told(share: float) -> str:
    """Return a difference as it is printed: none, a share, or that there is no number."""
    if share != share:
        return "no answer"
    return "0" if share == 0 else f"{share:.1e}"
