"""Cases: cells answered on a loaded model, with what shows that the answers are of what was asked.

Before a replica answers its first cells of a model, it is tried: every activation
replaced by itself must change nothing, nothing held must change nothing, and a layer held
far away must change something (`workers.canaries`). Every method that folds is
compared with a plain hook once. What was held in every cell is measured, and stands
beside its answers with the digest of what it was held at.

Shapes: S sequences.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator import values
from orchestrator.feed import batched, common_tokens, donated, sequences, told
from orchestrator.names import canonical
from orchestrator.rounds import assigned, of_rounds
from orchestrator.shards import of_role
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Differing, Task
from workers.ablation import folds_into
from workers.actor import Replica
from workers.messages import Batch, CellAnswer, CellOrder, ModelRef

_ALWAYS = ("tokens", "top1", "top10", "loss", "nan")
_SOMETIMES = (
    *("kl", "tokens_rare", "top1_rare", "tokens_mask", "top1_mask", "loss_mask"),
    *("logit_diff", "choice"),
)
"""Sums that are null where they do not apply."""


class Cases:
    """Answers cells on whatever model its replica holds."""

    def __init__(self, store: Store, worker: str, replica: Replica) -> None:
        """Have tried nothing yet; `worker` is the name recorded beside every cell."""
        self.store, self.worker, self.replica = store, worker, replica
        self._checked: dict[str, float] = {}
        self._tried: set[tuple[str, ...]] = set()
        self._table = lru_cache(maxsize=64)(store.table)  # committed files never change
        self._common = lru_cache(maxsize=8)(self._common_tokens)  # a table is of one tokenizer
        self._own = lru_cache(maxsize=1)(lambda file: sequences(self._table(file)))
        self._round_of = lru_cache(maxsize=8)(self._rounds)
        self._fed = lru_cache(maxsize=1)(self._batches)  # the calls of a sweep ask for the same

    def forget(self) -> None:
        """Try everything anew: another model was loaded."""
        self._checked.clear()
        self._tried.clear()
        self._fed.cache_clear()
        self._own.cache_clear()

    @property
    def _ref(self) -> ModelRef:
        return self.replica.model.ref

    def evaluate(self, task: Task) -> dict[str, object]:
        """Answer a call's cells, and commit results and executions."""
        a, facts = task.arguments, self._ref.facts
        cells: Mapping[str, Mapping[str, Any]] = a["cells"]
        known: values.Known = {}
        orders = [values.order(facts, c, asked, self.store, known) for c, asked in cells.items()]
        fed = self._fed(
            *(a[key] for key in ("data", "batch_tokens", "rounds", "visits")),
            tuple(a["asked"]),
            canonical(a["scored"]),
        )
        pad = facts.specials.get("pad", 0)
        files = {str(c["value"]["donors"]) for c in cells.values() if c and "donors" in c["value"]}
        given = {f: donated(self._own(a["data"]), self._table(f), fed, pad) for f in sorted(files)}
        canaries = self._try(orders, cells, fed[0]) if fed else {}
        how = {key: a[key] for key in ("logits_bytes", "kl", "compile")}
        # With fewer documents than rounds the last rounds have none.
        answers = (
            self.replica.evaluate(fed, orders, given, **how)
            if fed
            else [_nothing(order.cell) for order in orders]
        )
        digests = [values.digest(facts, asked, self.store, known) for asked in cells.values()]
        # Results first: a cell counts as done when its execution is there.
        results = self._results(a, answers)
        if not self.store.commit(task.file, parquet(results, task.name)):
            self._compare(task, results)
        held = [values.counts(self.store, facts, asked) for asked in cells.values()]
        about = self.replica.describe()
        executions = self._executions(a["asked"], about, answers, digests, held)
        self.store.commit(a["executions"], parquet(executions, task.name))
        return {
            "answers": len(answers),
            "seconds": sum(x.seconds for x in answers),
            "tokens": sum(int(x.tokens.sum()) for x in answers),
            "fold_minus_hook": self._checked,
            "canaries": canaries,
            **{k: about[k] for k in ("compiled", "shared") if k in about},
        }

    def _batches(
        self, file: str, tokens: int, rounds: int, visits: int, asked: tuple[int, ...], scored: str
    ) -> tuple[Batch, ...]:
        """Return what the model is fed in some rounds, round by round."""
        facts, table = self._ref.facts, of_role(self._table(file), "evaluate")
        common = None if facts.modality == "image" else self._common(file)
        positions = told(json.loads(scored))
        return tuple(
            batch
            for part in of_rounds(table, self._round_of(file, visits, rounds), asked)
            for batch in batched(part, facts, tokens, common=common, scored=positions)
        )

    def _rounds(self, file: str, visits: int, rounds: int) -> dict[str, int]:
        """Return the round of every evaluated document of a data table."""
        documents = of_role(self._table(file), "evaluate").column("document").to_pylist()
        return assigned(documents, visits, rounds)

    def _common_tokens(self, file: str) -> frozenset[int]:
        """Return the commonest tokens of a data table."""
        # Windows begin and end with these, and they are no text.
        special = self._ref.facts.specials
        without = [special[k] for k in ("bos", "eos", "pad", "mask") if k in special]
        return common_tokens(self._table(file), without=without)

    def _try(
        self, orders: Sequence[CellOrder], cells: Mapping[str, Mapping[str, Any]], batch: Batch
    ) -> dict[str, object]:
        """Run the canaries of every site once, and compare every fold with a hook once."""
        said: dict[str, object] = {}
        for order, cell in zip(orders, cells.values(), strict=True):
            sites = tuple(hold.site for hold in order.holds)
            if sites and sites not in self._tried:
                said["+".join(sites)] = asdict(self.replica.canaries(batch, sites))
                self._tried.add(sites)
            method = f"{cell.get('method')} at {'+'.join(sites)}"
            if sites and method not in self._checked and folds_into(self.replica.model, order):
                self._checked[method] = self.replica.check(batch, order)
        return said

    def _compare(self, task: Task, results: pa.Table) -> None:
        """Raise unless the answers that are there already are these (law 4)."""
        if not self.store.table(task.file).equals(results):
            raise Differing(
                f"{self.store.where(task.file)} holds other answers to the same cells than were"
                " computed now; one of them is wrong. Delete it and its twin under executions/ to"
                " have them computed again, and look at what differs between the two machines"
            )

    def _results(self, a: Mapping[str, Any], answers: Sequence[CellAnswer]) -> pa.Table:
        table = self._table(a["data"]).select(["sequence", "document"]).to_pydict()
        round_of = self._round_of(a["data"], a["visits"], a["rounds"])
        document = dict(zip(table["sequence"], table["document"], strict=True))
        numbers = np.concatenate([x.sequence for x in answers])
        documents = [document[n] for n in numbers.tolist()]
        columns = {
            "cell": [x.cell for x in answers for _ in x.sequence],
            "document": documents,
            "sequence": numbers,
            "round": [round_of[d] for d in documents],
            **{c: np.concatenate([getattr(x, c) for x in answers]) for c in _ALWAYS},
        }
        # All cells of a call are of one model, so a sum is there for all of them or for none.
        there = [c for c in _SOMETIMES if getattr(answers[0], c) is not None]
        columns |= {c: np.concatenate([getattr(x, c) for x in answers]) for c in there}
        return rows("results", columns, len(numbers))

    def _executions(
        self,
        asked: Sequence[int],
        about: Mapping[str, str],
        answers: Sequence[CellAnswer],
        digests: Sequence[str],
        held: Sequence[Sequence[int]],
    ) -> pa.Table:
        columns = {
            "cell": [x.cell for x in answers],
            "rounds": [list(asked) for _ in answers],
            "told": [x.told for x in answers],
            "held": [x.held for x in answers],
            "held_by_layer": [list(counts) for counts in held],
            "seconds": [x.seconds for x in answers],
            "worker": self.worker,
            "device": about["device"],
            "threads": self._ref.threads,
            "versions": canonical(about),
            "statistics_digest": list(digests),
            "hostname_hash": _hash(platform.node()),
        }
        return rows("executions", columns, len(answers))


def _nothing(cell: str) -> CellAnswer:
    """Return the answer over no sequence."""
    none = np.empty(0, np.int64)
    known = dict.fromkeys(_SOMETIMES)
    return CellAnswer(
        cell=cell,
        sequence=none,
        tokens=none,
        top1=none,
        top10=none,
        loss=np.empty(0),
        nan=none,
        told=0,
        held=0,
        seconds=0.0,
        **known,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
