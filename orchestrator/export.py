"""Export: a cell of a run, to be taken to other tools.

    checkpoint   the ablated model as an ordinary checkpoint: the held values are in its weights
    masks        which neurons were held, and at what, as safetensors

The cell is found by planning the run's own sweep file again (`orchestrator.rerun`), so what is
exported is what answered, or nothing. Before a checkpoint is handed over it is loaded again as
anybody would load it, its held columns are counted, and it is run, without a hook, on sequences
that the cell has answered. In float32 it must say the same. Below float32 its biases are
rounded, as those of the cell are not (`workers.saving`), so it may differ; the model card says how
far it did.

A folder appears whole or not at all. Weak where the run was made on a GPU: here everything runs on
the CPU, and below float32 some of the difference that the card tells is the device's.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import polars as pl
import pyarrow.compute as pc

from orchestrator import batching, masks, values
from orchestrator.card import Done, Measured, card, masks_card
from orchestrator.cells import Cell, data_of, scored
from orchestrator.feed import batched, told
from orchestrator.inspection import ModelError
from orchestrator.names import data_file
from orchestrator.opened import NotInRunError, Run, open
from orchestrator.plan import Plan
from orchestrator.rerun import NotTheSameError, loaded, planned
from orchestrator.store import Store
from workers.evaluate import evaluate
from workers.families import FAMILIES
from workers.loading import CheckpointError, Model, facts, load
from workers.messages import CellOrder, ModelRef
from workers.saving import SavingError, held_columns, save

CHECKED = 32
"""Sequences that an exported checkpoint is tried on."""
TOLERANCE = 1e-3
"""Most that float32 may differ by in a sequence's cross-entropy per token: a share, or nats."""

Form = Literal["checkpoint", "masks"]


class ExportError(ValueError):
    """A cell that cannot be exported as it was asked for, and what to do instead."""


REFUSED = (ExportError, SavingError, NotInRunError, NotTheSameError, CheckpointError, ModelError)
"""What a user can mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    held: int
    """Neurons, over layers and sites."""
    settings: tuple[str, ...] = ()
    """Settings of the configuration that were turned on, so that projections have a bias."""
    measured: Measured | None = None
    """None for masks, and where the run has no answer to compare with."""


def export(
    run: str | Path | Run,
    cell: str,
    folder: str | Path,
    *,
    form: Form = "checkpoint",
    base: str | Path = ".",
    plugins: Sequence[str | Path] = (),
) -> Exported:
    """Write a cell of a run into a new folder of this machine.

    `cell` is its name, or an SQL condition on the table `cells` that one cell meets; `base` is the
    folder of the sweep file, where its relative paths start; `plugins` are modules with a user's
    own methods. Raises SpecError where checkpoint or data are not here, one of `REFUSED` where the
    cell is not in the run, cannot be had again or cannot be exported in this form.
    """
    opened = run if isinstance(run, Run) else open(run)
    cell = named(opened, cell)
    _refuse_inside(opened.store, Path(folder))
    made = planned(opened, cell, Path(base).absolute(), "cpu", plugins)
    of = made.cells[cell]
    order = values.order(of.ref.facts, cell, of.arguments, opened.store, {})
    with _whole(Path(folder)) as there:
        if form == "masks":
            exported = _masks(opened, made, of, order, there)
        else:
            exported = _checkpoint(opened, made, of, order, there)
    return replace(exported, folder=Path(folder))


def named(run: Run, said: str) -> str:
    """Return the name of a cell, given as such or as an SQL condition that one cell meets.

    Raises ExportError where the condition is none, or no cell or several meet it.
    """
    if said.isalnum():  # a name is a hash
        return said
    try:
        met = run.cells.filter(pl.sql_expr(said)).select("cell").unique().collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        columns = ", ".join(run.cells.collect_schema().names())
        why = str(error).splitlines()[0].split(";")[0]  # Polars goes on with its own plan
        raise ExportError(
            f"{said!r} is neither the name of a cell nor an SQL condition on the cells ({why})."
            f" Columns are {columns}."
        ) from None
    if met.height != 1:
        raise ExportError(
            f"{met.height:,} cells of {run.store.uri} meet {said!r}; one is exported. Say more of"
            " it, for example its model, fraction and seed, or give the name in the column `cell`."
        )
    return str(met["cell"][0])


def sentence(made: Exported) -> str:
    """Return what was written, for the one who asked."""
    said = f"{made.held:,} neurons held; written to {made.folder}, with a card (README.md)."
    if made.settings:
        said += f" Turned on in config.json: {', '.join(made.settings)}."
    if (m := made.measured) is not None:
        said += (
            f" Loaded again and run on {m.sequences} sequences: cross-entropy {m.ce:.6f} nats per"
            f" token, that of the cell {m.ce_cell:.6f}; at most {m.largest:.2g} apart in one."
        )
    return said


def _checkpoint(run: Run, made: Plan, of: Cell, order: CellOrder, there: Path) -> Exported:
    if of.ref.packed is not None:
        raise ExportError(
            f"The cell {of.name} ran with weights packed as {of.ref.packed}, into which nothing"
            " folds; a checkpoint of plain weights would be another model. Export it with"
            " `--format masks`, or sweep the model unpacked."
        )
    saved = save(loaded(of.ref), order, there)
    written = _written(of.ref, there)
    found = held_columns(written, order)
    if order.share == 1 and found != saved.held:
        raise ExportError(
            f"Of {saved.held} columns that were to be zero in the exported weights, {found} are:"
            f" the library wrote or read {of.model} under other names. Please report its name, and"
            " export the masks instead (`--format masks`)."
        )
    measured = _measured(run, made, of, written)
    if measured is not None and of.ref.dtype == "float32":
        _refuse_other(of, measured)
    text = card(_done(run, made, of, saved.held), saved.settings, measured, written.facts.digest)
    (there / "README.md").write_text(text, encoding="utf-8")
    return Exported(folder=there, held=saved.held, settings=saved.settings, measured=measured)


def _written(ref: ModelRef, folder: Path) -> Model:
    """Load what was written, as it would be loaded by anybody: an ordinary checkpoint."""
    plain = replace(ref, folder=str(folder), basis=None, shards=1, device="cpu")
    return load(replace(plain, facts=facts(folder)))


def _measured(run: Run, made: Plan, of: Cell, written: Model) -> Measured | None:
    """Run an exported checkpoint on what the cell was answered on first; None without answers."""
    columns = ("sequence", "tokens", "top1", "loss")
    of_cell = run.results.filter(pl.col("cell") == of.name).select(columns)
    answered = of_cell.sort("sequence").head(CHECKED).collect()
    if answered.is_empty():
        return None
    table = run.store.table(data_file(of.model, data_of(made.spec, of.model)))
    evaluated = pc.equal(table["role"], "evaluate")
    some = pc.is_in(table["sequence"], answered["sequence"].to_arrow())
    batches = batched(
        table.filter(pc.and_(evaluated, some)),
        of.ref.facts,
        batching.tokens(made.spec, of.ref),
        scored=told(scored(made.spec, of.ref.facts)),
    )
    bare, most = CellOrder(cell=of.name), made.spec.evaluation.logits_bytes
    (found,) = evaluate(written, batches, [bare], {}, logits_bytes=most)
    tokens_S = answered["tokens"].to_numpy()
    apart_S = np.abs(found.loss - answered["loss"].to_numpy()) / np.maximum(tokens_S, 1)
    tokens = int(tokens_S.sum())
    return Measured(
        sequences=answered.height,
        tokens=tokens,
        ce=float(found.loss.sum()) / max(tokens, 1),
        ce_cell=float(answered["loss"].sum()) / max(tokens, 1),
        largest=float(apart_S.max()),
        top1=int(found.top1.sum()),
        top1_cell=int(answered["top1"].sum()),
    )


def _refuse_other(of: Cell, measured: Measured) -> None:
    if not measured.largest <= TOLERANCE * max(1.0, measured.ce_cell):
        raise ExportError(
            f"The exported checkpoint's cross-entropy differs from that of the cell {of.name} by"
            f" {measured.largest:.3g} nats per token in one of {measured.sequences} sequences; at"
            f" most {TOLERANCE * max(1.0, measured.ce_cell):.3g} was expected in float32. Nothing"
            f" was written. Please report {of.model}, and export the masks instead"
            " (`--format masks`)."
        )


def _masks(run: Run, made: Plan, of: Cell, order: CellOrder, there: Path) -> Exported:
    """Write held sets and values as arrays, with a header that says what they are."""
    if of.ref.basis is not None:
        raise ExportError(
            f"The cell {of.name} holds neurons in axes that were rotated (rotated {of.ref.basis}),"
            " which the checkpoint does not have. Export the rotated model as a checkpoint"
            " (`--format checkpoint`)."
        )
    if not order.holds:
        raise ExportError(
            f"The cell {of.name} holds nothing: it is the bare model. Name a cell that holds"
            " neurons."
        )
    held = sum(len(held_H) for hold in order.holds for held_H in hold.held)
    done = _done(run, made, of, held)
    arrays = masks.write(there, of.ref.facts, order, done.header())
    (there / "README.md").write_text(masks_card(done, arrays), encoding="utf-8")
    return Exported(folder=there, held=held)


def _done(run: Run, made: Plan, of: Cell, held: int) -> Done:
    """Return what a card says was done: a point of the sweep that the cell answers."""
    point, how, nominal = (
        table.filter(pl.col("cell") == of.name).head(1).collect()
        for table in (run.summary, run.executions, run.cells)
    )
    if point.is_empty():  # answered after the summary was last made
        point = nominal
    versions = json.loads(how["versions"][0]) if how.height else {}
    digest = how["statistics_digest"][0] if how.height else None
    revision = next(m.revision for m in made.spec.models if m.id == of.model)
    return Done(
        run=Path(run.store.uri).name,
        point=point.row(0, named=True),
        held=held,
        revision=revision,
        digest=of.ref.facts.digest,
        values_digest=digest,
        versions=versions,
        library=next(f.library for f in FAMILIES if f.name == of.ref.facts.family),
    )


def _refuse_inside(store: Store, folder: Path) -> None:
    if store.local and folder.resolve().is_relative_to(Path(str(store.place)).resolve()):
        raise ExportError(f"{folder} is inside the run {store.uri}; give a place outside of it")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Yield a folder beside the one wanted, which takes its place when all went well."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(
            f"{folder} is there already. Give a new folder, or delete what is in this one: nothing"
            " is written over."
        )
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.absolute().parent, prefix=".export-") as beside:
        there = Path(beside) / "model"
        there.mkdir()
        yield there
        for file in there.iterdir():  # safetensors keeps what it writes to its owner
            file.chmod((there / "README.md").stat().st_mode)
        there.replace(folder)
