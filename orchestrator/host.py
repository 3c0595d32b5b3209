"""The host: what runs in the process that holds a model.

It stands between tables and tensors: it reads the run folder's Parquet files
into the workers' plain messages, lets the replica compute, and commits what
comes back. Only small dictionaries travel to the driver. A host keeps no state
that matters: what it remembers are tables it would read again.

Shapes: S sequences, T positions, L layers, N neurons.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import centres, partials
from orchestrator.names import canonical
from orchestrator.prepare import donors_digest
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.actor import Replica
from workers.data import batches
from workers.messages import NOT_SCORED, Batch, CellAnswer, CellOrder, ModelRef, Sequences
from workers.selection import held


class Host:
    """One process of the pool: a replica and the run folder beside it."""

    def __init__(self, store: Store, worker: str) -> None:
        """Hold no model yet; `worker` is the name recorded beside every cell."""
        self.store = store
        self.worker = worker
        self.replica = Replica()
        self.ref: ModelRef | None = None
        self._checked: dict[str, float] = {}
        self._kinds: Mapping[str, Callable[[Task], dict[str, object]]] = {
            "pilot": self._pilot,
            "collect": self._collect,
            "recount": self._recount,
            "evaluate": self._evaluate,
        }
        self._table = lru_cache(maxsize=64)(store.table)  # committed files never change

    def load(self, ref: ModelRef) -> None:
        """Load a model in place of the one before."""
        self.replica.load(ref)
        self.ref = ref
        self._checked.clear()

    def do(self, task: Task) -> dict[str, object]:
        """Do a task on the loaded model, commit its file, return a summary of it."""
        return self._kinds[task.kind](task)

    def _pilot(self, task: Task) -> dict[str, object]:
        a = task.arguments
        windows = self.replica.pilot(
            self._batches(a, "collect"),
            site=a["site"],
            bins=a["bins"],
            positions=a["positions"],
            seed=a["seed"],
        )
        self.store.commit(task.file, parquet(partials.from_windows(windows), task.name))
        return {"neurons": windows.first.size}

    def _collect(self, task: Task) -> dict[str, object]:
        a = task.arguments
        histogram = self.replica.collect(
            self._batches(a, "collect", shard=a["shard"]),
            site=a["site"],
            windows=partials.to_windows(self._table(a["windows"])),
            shard=a["shard"],
        )
        self.store.commit(task.file, parquet(partials.from_histogram(histogram), task.name))
        return {"tokens": int(histogram.finite.max(initial=0))}

    def _recount(self, task: Task) -> dict[str, object]:
        a = task.arguments
        merged = partials.to_histogram(self._table(a["of"]))
        fixed = self.replica.recount(
            self._batches(a, "collect", shard=a["shard"]),
            site=a["site"],
            low=merged.minimum,
            high=merged.maximum,
            bins=a["bins"],
            shard=a["shard"],
        )
        self.store.commit(task.file, parquet(partials.from_fixed(fixed), task.name))
        return {"shard": a["shard"]}

    def _evaluate(self, task: Task) -> dict[str, object]:
        a = task.arguments
        cells: Mapping[str, Mapping[str, Any]] = a["cells"]
        orders = [self._order(name, cell) for name, cell in cells.items()]
        fed = self._batches(a, "evaluate")
        donor_files = dict.fromkeys(o.donors for o in orders if o.donors is not None)
        given = {f: self._donors(a["data"], f, fed) for f in donor_files}
        for order, cell in zip(orders, cells.values(), strict=True):
            self._check_once(str(cell["method"]), order, fed[0])
        answers = self.replica.evaluate(fed, orders, given, logits_bytes=a["logits_bytes"])
        digests = [self._digest(cell) for cell in cells.values()]
        # Results first: a cell counts as done when its execution is there.
        results = self._results(a["data"], answers)
        if not self.store.commit(task.file, parquet(results, task.name)):
            self._compare(task, results)
        executions = self._executions(answers, digests)
        self.store.commit(a["executions"], parquet(executions, task.name))
        seconds = sum(x.seconds for x in answers)
        return {"answers": len(answers), "seconds": seconds, "fold_minus_hook": self._checked}

    def _compare(self, task: Task, results: pa.Table) -> None:
        """Raise unless the answers that are there already are these (law 4)."""
        if not self.store.table(task.file).equals(results):
            raise RuntimeError(
                f"{self.store.path(task.file)} holds other answers to the same cells than were"
                " computed now; one of them is wrong. Delete it and its twin under executions/ to"
                " have them computed again, and look at what differs between the two machines"
            )

    def _check_once(self, method: str, order: CellOrder, batch: Batch) -> None:
        """Compare fold and plain hook on one batch, once per (model, method)."""
        if order.values is not None and method not in self._checked:
            self._checked[method] = self.replica.check(batch, order)

    def _order(self, name: str, cell: Mapping[str, Any]) -> CellOrder:
        assert self.ref is not None
        facts = self.ref.facts
        each = cell["each"]
        if each == facts.neurons or each == 0:
            held_LK = [np.arange(each)] * facts.layers
        else:
            table = self._table(str(cell["selection"]))
            orders = table.column("order").to_pylist()
            held_LK = [held(np.asarray(order, np.int64), each) for order in orders]
        file = cell.get("centres")
        values = centres.values(self._table(file), facts.layers) if isinstance(file, str) else None
        donors = cell.get("donors")
        return CellOrder(
            cell=name,
            site="attn_pre_out",
            held=tuple(held_LK),
            values=values,
            donors=donors if isinstance(donors, str) else None,
        )

    def _batches(
        self, a: Mapping[str, Any], role: str, shard: int | None = None
    ) -> tuple[Batch, ...]:
        assert self.ref is not None
        facts = self.ref.facts
        table = self._table(a["data"])
        keep = np.asarray(table.column("role").to_pylist()) == role
        if shard is not None:
            shards = a["shards"]
            documents = table.column("document").to_pylist()
            keep &= np.asarray([shard_of(d, shards) == shard for d in documents])
        tokens = a["batch_tokens"]
        return batches(
            sequences(table.filter(pa.array(keep))),
            tokens=tokens,
            pad=facts.specials.get("pad", 0),
            positions_each=facts.window if facts.modality == "image" else None,
        )

    def _donors(self, data: str, donors: str, fed: Sequence[Batch]) -> list[Batch]:
        """Return what the donors are fed, row by row and shape by shape as the receivers."""
        assert self.ref is not None
        own = sequences(self._table(data))
        inputs = dict(zip(own.sequence.tolist(), own.inputs, strict=True))
        given: dict[int, NDArray[np.int64] | NDArray[np.uint8]] = {}
        for row in self._table(donors).select(["sequence", "donor", "input"]).to_pylist():
            cut = row["input"]
            given[row["sequence"]] = inputs[row["donor"]] if cut is None else np.asarray(cut)
        made = []
        for batch in fed:
            filled = np.full_like(batch.inputs, self.ref.facts.specials.get("pad", 0))
            for i, number in enumerate(batch.sequence.tolist()):
                donor = given[number]
                filled[i, : len(donor)] = donor
            unscored = np.full_like(batch.targets, NOT_SCORED)
            made.append(
                Batch(
                    sequence=batch.sequence,
                    inputs=filled,
                    attended=batch.attended,
                    targets=unscored,
                )
            )
        return made

    def _results(self, data: str, answers: Sequence[CellAnswer]) -> pa.Table:
        table = self._table(data).select(["sequence", "document"]).to_pydict()
        document = dict(zip(table["sequence"], table["document"], strict=True))
        numbers = np.concatenate([x.sequence for x in answers])
        columns = {
            "cell": [x.cell for x in answers for _ in x.sequence],
            "document": [document[n] for n in numbers.tolist()],
            "sequence": numbers,
            **{
                c: np.concatenate([getattr(x, c) for x in answers])
                for c in ("tokens", "top1", "top10", "loss", "nan")
            },
        }
        return rows("results", columns, len(numbers))

    def _executions(self, answers: Sequence[CellAnswer], digests: Sequence[str]) -> pa.Table:
        assert self.ref is not None
        about = self.replica.describe()
        columns = {
            "cell": [x.cell for x in answers],
            "told": [x.told for x in answers],
            "held": [x.held for x in answers],
            "seconds": [x.seconds for x in answers],
            "worker": self.worker,
            "device": about["device"],
            "threads": self.ref.threads,
            "versions": canonical(about),
            "statistics_digest": list(digests),
            "hostname_hash": _hash(platform.node()),
        }
        return rows("executions", columns, len(answers))

    def _digest(self, cell: Mapping[str, Any]) -> str:
        """Return the digest of the constants or donors really used; empty for a baseline."""
        if "centres" in cell:
            return centres.digest(self._table(cell["centres"]))
        return donors_digest(self._table(cell["donors"])) if "donors" in cell else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shard_of(document: str, shards: int) -> int:
    """Return the shard of a document: a fixed set of whole documents, by the hash of its name."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % shards


def sequences(table: pa.Table) -> Sequences:
    """Return the rows of a data table as the workers' message, ascending by number."""
    table = table.sort_by("sequence")
    number_S = table.column("sequence").to_numpy().astype(np.int64)
    target = table.column("target")
    if "image" in table.column_names:
        images = table.column("image").to_pylist()
        shapes = table.column("shape").to_pylist()
        pixels = zip(images, shapes, strict=True)
        return Sequences(
            sequence=number_S,
            inputs=tuple(np.asarray(i, np.uint8).reshape(s) for i, s in pixels),
            targets=tuple(np.asarray([t], np.int64) for t in target.to_pylist()),
        )
    return Sequences(
        sequence=number_S,
        inputs=tuple(np.asarray(i, np.int64) for i in table.column("input").to_pylist()),
        targets=tuple(np.asarray(t, np.int64) for t in target.to_pylist()),
    )
