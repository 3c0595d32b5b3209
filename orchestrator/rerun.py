"""Rerun: one cell of a run, computed again, to look at what its sums are sums of.

A run folder says everything that was put into a cell: what the model was fed, which
neurons were held and at what. With the checkpoint that is enough to have the forward pass again,
through the code that answered the cell. `run_cell` gives its logits; `Logits.answers` adds
them up as the sweep does, to be laid beside `results`.

The cell is found by planning the run's own sweep file again, for its model alone, so checkpoint and
data source must be where they were, or in the same places under `base`, which stands for the
folder of the sweep file. A name is the
hash of everything that decides an answer: where the plan has the cell, the checkpoint, the data
and the method are those of the run, and where it has not, something differs and nothing runs.

Nothing is written. Weak where the run was made on another device, compiled or in shards: one
process runs the model as it is, and numbers differ in their last digits. Not for many cells: each
call loads the model.

Shapes: S sequences, T positions, V tokens or classes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import calls, inspection, plan, rounds, values
from orchestrator.feed import batched, donated, sequences, told
from orchestrator.frames import asked
from orchestrator.mistakes import SpecError
from orchestrator.opened import NotInRunError, Run, open
from orchestrator.plan import Plan
from orchestrator.plugins import discover, known
from orchestrator.shards import of_role
from orchestrator.spec import parse
from orchestrator.store import Store
from workers.loading import Model, load
from workers.logits import logits
from workers.messages import NOT_SCORED, Batch, Donors, ModelRef

MOST = 8 << 30
"""Bytes of logits above which sequences must be named."""


class NotTheSameError(ValueError):
    """The cell of the run is not one that can be computed here and now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logits:
    """What a model said while a cell's neurons were held."""

    cell: str
    model: str
    sequence: NDArray[np.int64]
    """(S,) numbers, ascending, as in the tables `data` and `results`."""
    inputs: tuple[NDArray[np.int64] | NDArray[np.uint8], ...]
    """Text: (T,) token ids of each; images: (H, W, C) pixels."""
    targets: tuple[NDArray[np.int64], ...]
    """(T,) each: what was to be said, −100 where nothing is scored; images: (1,)."""
    logits: tuple[NDArray[np.float32], ...]
    """(T, V) each, row t beside target t; images: (1, V)."""

    def answers(self) -> pl.DataFrame:
        """Return sequence, tokens, top1 (counts) and loss (sum, nats), as `results` has them.

        Computed here from the logits, in float64. Equal logits count as the first of them.
        """
        rows = [_sums(*of) for of in zip(self.logits, self.targets, strict=True)]
        counted = pl.DataFrame(rows, schema=["tokens", "top1", "loss"], orient="row")
        return counted.select(pl.Series("sequence", self.sequence), pl.all())


def run_cell(
    run: str | Path | Run,
    cell: str,
    *,
    sequences: Collection[int] | None = None,
    base: str | Path = ".",
    device: Literal["cpu", "cuda"] = "cpu",
    plugins: Sequence[str | Path] = (),
) -> Logits:
    """Compute a cell of a run again and return its logits, of all evaluated sequences or of some.

    `cell` is a name of the column `cell`; `base` is the folder of the sweep file, where its
    relative paths start, `plugins` are modules with a user's own methods. Raises NotInRunError for
    a cell or sequence that the run does not have, NotTheSameError where checkpoint, data or version
    differ from the run's, SpecError where they are not here, ValueError for more logits than fit.
    """
    opened = run if isinstance(run, Run) else open(run)
    made = planned(opened, cell, Path(base).absolute(), device, plugins)
    return _answered(opened.store, made, cell, sequences)


def planned(run: Run, cell: str, base: Path, device: str, plugins: Sequence[str | Path]) -> Plan:
    """Return the plan of the cell's model alone, which has the cell."""
    models = run.cells.filter(pl.col("cell") == cell).select("model").unique().collect()
    if models.is_empty():
        raise NotInRunError(
            f"{run.store.uri} has no cell {cell!r}. Names of cells stand in the column `cell` of"
            " `run.cells` and `run.summary`."
        )
    own = discover([Path(module) for module in plugins])
    spec = parse(asked(run.store), known(own))
    only = tuple(model for model in spec.models if model.id == models["model"][0])
    try:
        made = plan.make(
            spec.model_copy(update={"models": only}),
            base=base,
            device=device,
            plugins={plugin.name: plugin.told() for plugin in own},
        )
    except SpecError as error:
        *others, last = error.mistakes
        where = (
            f"{last.message}. Relative paths were looked for in {base}; they start in the folder"
            " that the sweep file was in: begin there (in Python: `base`)"
        )
        raise SpecError([*others, replace(last, message=where)]) from None
    if cell not in made.cells:
        raise NotTheSameError(
            f"{run.store.uri} has the cell {cell}, and its sweep file planned here has not: the"
            " checkpoint, the data source, a plug-in or the version of peaksweep is another than"
            " that of the run, or a source is not on this machine. `provenance.json` in the run"
            " folder says what it was made with."
        )
    return made


def loaded(ref: ModelRef) -> Model:
    """Return a model of a plan, loaded whole: shards say how it is spread over processes."""
    return load(replace(inspection.here(ref), shards=1))


def _answered(store: Store, made: Plan, cell: str, wanted: Collection[int] | None) -> Logits:
    of = made.cells[cell]
    every = range(calls.rounds_of(made, of.ref))
    a = calls.call(made, [of], every).arguments
    table = store.table(a["data"])
    batches = _batches(table, of.ref, a)
    fed = {n: (batch, i) for batch in batches for i, n in enumerate(batch.sequence.tolist())}
    names = sorted(fed if wanted is None else wanted)
    _refuse(store, of.ref, fed, names)
    order = values.order(of.ref.facts, cell, of.arguments, store, {})
    given: dict[str, Donors] = {}
    if of.donors:
        pad = of.ref.facts.specials.get("pad", 0)
        given[of.donors] = donated(sequences(table), store.table(of.donors), batches, pad)
    model = loaded(of.ref)
    found = dict(logits(model, batches, order, given, wanted=set(names)))
    inputs, targets = zip(*(_row(*fed[n]) for n in names), strict=True)
    return Logits(
        cell=cell,
        model=of.model,
        sequence=np.array(names, np.int64),
        inputs=inputs,
        targets=targets,
        logits=tuple(found[n] for n in names),
    )


def _batches(table: pa.Table, ref: ModelRef, a: Mapping[str, Any]) -> tuple[Batch, ...]:
    """Return what the model was fed in all rounds, as the sweep put it together."""
    evaluated = of_role(table, "evaluate")
    documents = evaluated.column("document").to_pylist()
    round_of = rounds.assigned(documents, a["visits"], a["rounds"])
    return tuple(
        batch
        for part in rounds.of_rounds(evaluated, round_of, a["asked"])
        for batch in batched(part, ref.facts, a["batch_tokens"], scored=told(a["scored"]))
    )


def _refuse(
    store: Store, ref: ModelRef, fed: Mapping[int, tuple[Batch, int]], names: Sequence[int]
) -> None:
    """Raise where sequences are not evaluated, or are too many to keep the logits of."""
    if not names or (unknown := [n for n in names if n not in fed]):
        said = f"sequence {unknown[0]} is not evaluated" if names else "no sequence was named"
        raise NotInRunError(
            f"In {store.uri} {said}. Those of `run.data` with role `evaluate` are: {ref.name} has"
            f" {len(fed)}, from {min(fed)} to {max(fed)}."
        )
    bytes_ = sum(len(_row(*fed[n])[1]) for n in names) * ref.facts.vocabulary * 4
    if bytes_ > MOST:
        raise ValueError(
            f"The logits of {len(names)} sequences take {bytes_ / 2**30:.0f} GiB; at most"
            f" {MOST / 2**30:.0f} are kept. Name fewer, for example `sequences=[{names[0]}]`."
        )


def _row(batch: Batch, row: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return input and targets of a sequence, without its padding."""
    if batch.attended is None:
        return batch.inputs[row], batch.targets[row]
    there_T = batch.attended[row]
    return batch.inputs[row][there_T], batch.targets[row][there_T]


def _sums(logits_TV: NDArray[np.float32], target_T: NDArray[np.int64]) -> tuple[int, int, float]:
    scored_T = target_T != NOT_SCORED
    logits_MV, target_M = logits_TV[scored_T].astype(np.float64), target_T[scored_T]
    said_M = np.take_along_axis(logits_MV, target_M[:, None], axis=1)[:, 0]
    top_M = logits_MV.max(axis=1, initial=-np.inf)
    loss_M = top_M + np.log(np.exp(logits_MV - top_M[:, None]).sum(axis=1)) - said_M
    return len(target_M), int((logits_MV.argmax(axis=1) == target_M).sum()), float(loss_M.sum())
