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
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import centres, partials
from orchestrator.feed import batched, counted, donated
from orchestrator.names import canonical
from orchestrator.prepare import donors_digest
from orchestrator.shards import of_pilot, of_role, of_shard
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.actor import Replica
from workers.messages import Batch, CellAnswer, CellOrder, ModelRef
from workers.positions import strata
from workers.selection import held
from workers.under import Passes, in_sequence, under
from workers.windows import stacked


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
            "again": self._collect,
            "under": self._under,
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
        chosen = self._sample(a)
        windows = self.replica.pilot(
            self._batched(a, chosen),
            site=a["site"],
            bins=a["bins"],
            positions=a["positions"],
            seed=a["seed"],
            counted=counted(a["counted"]),
        )
        numbers = chosen.column("sequence").to_pylist()
        self._commit(task, partials.from_windows(windows, pilot=numbers))
        return {"neurons": windows.first.size, "sequences": len(numbers)}

    def _collect(self, task: Task) -> dict[str, object]:
        """Count one shard, in the pilot's windows or, of some rows, in wider ones."""
        a = task.arguments
        table = self._table(a["from"])
        kept, windows = counted(a["counted"]), partials.to_windows(table)
        again = task.kind == "again"
        if not again:  # every stratum begins with the windows of all
            windows = stacked([windows] * strata(kept))
        histogram = self.replica.collect(
            self._batches(a, "collect", shard=a["shard"]),
            site=a["site"],
            windows=windows,
            shard=a["shard"],
            counted=kept,
            rows=partials.rows_of(table) if again else None,
        )
        self._commit(task, partials.from_histogram(histogram))
        return {"tokens": int(histogram.finite.max(initial=0))}

    def _recount(self, task: Task) -> dict[str, object]:
        a = task.arguments
        low_R, high_R = partials.ends(self._table(a["from"]))
        if a["ends"] == "of all neurons":
            low_R, high_R = np.full_like(low_R, low_R.min()), np.full_like(high_R, high_R.max())
        fixed = self.replica.recount(
            self._batches(a, "collect", shard=a["shard"]),
            site=a["site"],
            low=low_R,
            high=high_R,
            bins=a["bins"],
            shard=a["shard"],
            counted=counted(a["counted"]),
        )
        self._commit(task, partials.from_fixed(fixed))
        return {"shard": a["shard"]}

    def _under(self, task: Task) -> dict[str, object]:
        """Count all shards while some neurons are held, at given constants or layer by layer."""
        a = task.arguments
        assert self.ref is not None
        passes = Passes(
            pilot=self._batched(a, self._sample(a)),
            shards=[(i, self._batches(a, "collect", shard=i)) for i in range(a["shards"])],
            site=a["site"],
            bins=a["bins"],
            positions=a["positions"],
            seed=a["seed"],
            counted=counted(a["counted"]),
        )
        held_LK = self._held(a)
        if a["centres"] is None:
            estimator = a["parameters"].get("estimator", "")
            centre = partial(centres.centre, method=a["method"], estimator=estimator)
            histogram = in_sequence(self.replica.model, passes, held_LK, centre)
        else:
            values_LN = centres.values(self._table(a["centres"]), self.ref.facts.layers)
            histogram = under(self.replica.model, passes, held_LK, values_LN)
        self._commit(task, partials.from_histogram(histogram))
        return {"tokens": int(histogram.finite.max(initial=0))}

    def _commit(self, task: Task, table: pa.Table) -> None:
        partials.commit(self.store, task.file, table, task.name)

    def _evaluate(self, task: Task) -> dict[str, object]:
        a = task.arguments
        assert self.ref is not None
        cells: Mapping[str, Mapping[str, Any]] = a["cells"]
        orders = [self._order(name, cell) for name, cell in cells.items()]
        fed = self._batches(a, "evaluate")
        donor_files = dict.fromkeys(o.donors for o in orders if o.donors is not None)
        pad = self.ref.facts.specials.get("pad", 0)
        data = self._table(a["data"])
        given = {f: donated(data, self._table(f), fed, pad) for f in donor_files}
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
        """Compare fold and plain hook on one batch, once per (model, method that folds)."""
        if order.values is not None and order.starts is None and method not in self._checked:
            self._checked[method] = self.replica.check(batch, order)

    def _order(self, name: str, cell: Mapping[str, Any]) -> CellOrder:
        assert self.ref is not None
        file, starts = cell.get("centres"), cell.get("starts")
        values = None
        if isinstance(file, str):
            strata = len(starts) if starts else None
            values = centres.values(self._table(file), self.ref.facts.layers, strata)
        donors = cell.get("donors")
        return CellOrder(
            cell=name,
            site="attn_pre_out",
            held=tuple(self._held(cell)),
            values=values,
            donors=donors if isinstance(donors, str) else None,
            starts=tuple(starts) if starts else None,
        )

    def _held(self, a: Mapping[str, Any]) -> list[NDArray[np.int64]]:
        """Return the neurons held in every layer, ascending."""
        assert self.ref is not None
        facts, each = self.ref.facts, a["each"]
        if each in (0, facts.neurons):
            return [np.arange(each)] * facts.layers
        orders = self._table(str(a["selection"])).column("order").to_pylist()
        return [held(np.asarray(order, np.int64), each) for order in orders]

    def _sample(self, a: Mapping[str, Any]) -> pa.Table:
        """Return the sequences of the pilot."""
        assert self.ref is not None
        facts = self.ref.facts
        return of_pilot(
            of_role(self._table(a["data"]), "collect"),
            documents=a["documents"],
            positions=a["positions"],
            each=facts.window if facts.modality == "image" else None,
            seed=a["seed"],
        )

    def _batches(
        self, a: Mapping[str, Any], role: str, shard: int | None = None
    ) -> tuple[Batch, ...]:
        table = of_role(self._table(a["data"]), role)
        return self._batched(a, table if shard is None else of_shard(table, shard, a["shards"]))

    def _batched(self, a: Mapping[str, Any], table: pa.Table) -> tuple[Batch, ...]:
        assert self.ref is not None
        return batched(table, self.ref.facts, a["batch_tokens"])

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
