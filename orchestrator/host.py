"""The host: what runs in the process that holds a model.

It stands between tables and tensors: it reads the run folder's Parquet files
into the workers' plain messages, lets the replica compute, and commits what
comes back. Only small dictionaries travel to the driver. A host keeps no state
that matters: what it remembers are tables it would read again.

Counting is here; evaluating is `orchestrator.cases`, learning and the like
`orchestrator.searches`.

Shapes: S sequences, T positions, L layers, N neurons.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator import centres, inspection, partials
from orchestrator.cases import Cases
from orchestrator.feed import batched, counted
from orchestrator.searches import Searches
from orchestrator.selecting import norms_table
from orchestrator.shards import of_pilot, of_role, of_shard
from orchestrator.store import Store
from orchestrator.tasks import Task
from orchestrator.values import constants, neurons
from workers.actor import Replica
from workers.messages import Batch, ModelRef
from workers.positions import strata
from workers.under import Passes, in_sequence, under
from workers.windows import stacked


class Host:
    """One process of the pool: a replica and the run folder beside it."""

    def __init__(self, store: Store, worker: str) -> None:
        """Hold no model yet; `worker` is the name recorded beside every cell."""
        self.store = store
        self.replica = Replica()
        self.ref: ModelRef | None = None
        self._cases = Cases(store, worker, self.replica)
        searches = Searches(store, self.replica)
        self._kinds: Mapping[str, Callable[[Task], dict[str, object]]] = {
            "pilot": self._pilot,
            "collect": self._collect,
            "again": self._collect,
            "under": self._under,
            "recount": self._recount,
            "norms": self._norms,
            "generate": searches.generate,
            "probe": searches.probe,
            "learn": searches.learn,
            "evaluate": self._cases.evaluate,
        }
        self._table = lru_cache(maxsize=64)(store.table)  # committed files never change

    def load(self, ref: ModelRef) -> None:
        """Load a model in place of the one before."""
        self.replica.load(inspection.here(ref))
        self.ref = ref
        self._cases.forget()

    def do(self, task: Task) -> dict[str, object]:
        """Do a task on the loaded model, commit its file, return a summary of it.

        Raises RuntimeError where another model is loaded than the task is for.
        """
        if task.model != self.ref:
            held, wanted = (ref and ref.label for ref in (self.ref, task.model))
            raise RuntimeError(f"{task.label} is for {wanted}, and this process holds {held}")
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
            self._batches(a, shard=a["shard"]),
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
            self._batches(a, shard=a["shard"]),
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
            shards=[(i, self._batches(a, shard=i)) for i in range(a["shards"])],
            site=a["site"],
            bins=a["bins"],
            positions=a["positions"],
            seed=a["seed"],
            counted=counted(a["counted"]),
        )
        (held_LK,) = neurons(self.store, self.ref.facts, a)
        if a["centres"] is None:
            centre = partial(centres.centre, method=a["method"], parameters=a["parameters"])
            histogram = in_sequence(self.replica.model, passes, held_LK, centre)
        else:
            values_LN = constants(self.store, self.ref.facts, a["site"], a["centres"])
            histogram = under(self.replica.model, passes, held_LK, values_LN)
        self._commit(task, partials.from_histogram(histogram))
        return {"tokens": int(histogram.finite.max(initial=0))}

    def _norms(self, task: Task) -> dict[str, object]:
        norms = self.replica.norms(task.arguments["site"])
        self._commit(task, norms_table(norms))
        return {"neurons": norms.l1.size}

    def _commit(self, task: Task, table: pa.Table) -> None:
        partials.commit(self.store, task.file, table, task.name)

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

    def _batches(self, a: Mapping[str, Any], shard: int) -> Sequence[Batch]:
        table = of_role(self._table(a["data"]), "collect")
        return self._batched(a, of_shard(table, shard, a["shards"]))

    def _batched(self, a: Mapping[str, Any], table: pa.Table) -> tuple[Batch, ...]:
        assert self.ref is not None
        return batched(table, self.ref.facts, a["batch_tokens"])
