"""Searches: what a loaded model is asked on the way to a held set or a constant.

    generate   texts of its own, as donors
    probe      the loss under random masks, document by document, for a regression
    learn      the constants that hurt least, for given held sets

None of it touches the evaluation's sequences, but for the lengths of the texts: masks
are scored, and constants learned, on what was collected. A fifth of the collection's
documents, by hash, is kept apart to choose the best step of learning by.

Shapes: K masks, U units, S sequences, G documents, L layers, N neurons.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator import partials, values
from orchestrator.described import columns
from orchestrator.feed import batched, sequences, told
from orchestrator.names import canonical
from orchestrator.shards import of_role, of_shard
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.actor import Replica
from workers.learn import Place, Search
from workers.messages import Batch, CellOrder, Constant, Hold, ModelFacts, Site
from workers.regression import random_masks

FIFTHS = 5
"""Parts of the collection's documents, of which the first chooses the best step."""


class Searches:
    """Does these tasks on whatever model its replica holds."""

    def __init__(self, store: Store, replica: Replica) -> None:
        """Use a replica that something else loads."""
        self.store, self.replica = store, replica

    @property
    def _facts(self) -> ModelFacts:
        return self.replica.model.facts

    def generate(self, task: Task) -> dict[str, object]:
        """Write a text of the model's own for every draw of every evaluated sequence."""
        a, facts = task.arguments, self._facts
        data = self.store.table(a["data"])
        receivers = sequences(of_role(data, "evaluate"))
        # One more than is fed: where a receiver has no bos, the one a text begins with is dropped.
        length_S = [len(input_T) + 1 for input_T in receivers.inputs]
        bos = facts.specials.get("bos")
        first = sequences(of_role(data, "collect")).inputs
        # Without a bos a text begins as one of the collection's does.
        prompts = [
            np.array([bos] if bos is not None else first[i % len(first)][:1], np.int64)
            for i in range(len(length_S))
        ]
        most = max(1, int(a["batch_tokens"]) // facts.window)
        found: dict[str, list[Any]] = {"sequence": [], "draw": [], "input": []}
        for draw in range(int(a["draws"])):
            for start in range(0, len(length_S), most):
                some = slice(start, start + most)
                written = self.replica.generate(
                    prompts[some],
                    length_S[some],
                    seed=int(a["seed"]) + draw * 2**32,
                    sequence=receivers.sequence[some],
                )
                found["sequence"] += receivers.sequence[some].tolist()
                found["draw"] += [draw] * len(written)
                found["input"] += [text.astype(np.int32) for text in written]
        fixed = {"model": a["model"], "data": a["data_name"], "source": "generated"}
        table = rows("donors", {**fixed, "seed": a["seed"], **found}, len(found["sequence"]))
        partials.commit(self.store, task.file, table, task.name)
        return {"texts": table.num_rows}

    def probe(self, task: Task) -> dict[str, object]:
        """Write the summed loss of every document under some random masks."""
        a, facts = task.arguments, self._facts
        site: Site = a["site"]
        held_KU = masks(facts, a)[a["start"] : a["stop"]]
        values_LN = values.constants(self.store, facts, site, a["centres"])
        orders = [
            _holding(facts, site, a, i, held_U, values_LN)
            for i, held_U in enumerate(held_KU, a["start"])
        ]
        if a["start"] == 0:  # the unablated model, beside the first masks
            orders.append(CellOrder(cell=f"mask {a['masks']}"))
        collected = of_role(self.store.table(a["data"]), "collect")
        fed = self._batched(a, collected)
        answers = self.replica.evaluate(fed, orders, {}, logits_bytes=a["logits_bytes"])
        plain = collected.select(["sequence", "document"]).to_pydict()
        document = dict(zip(plain["sequence"], plain["document"], strict=True))
        table = pa.table(
            {
                "mask": [int(x.cell.rpartition(" ")[2]) for x in answers for _ in x.sequence],
                "document": [document[n] for x in answers for n in x.sequence.tolist()],
                "loss": np.concatenate([x.loss for x in answers]),
                "tokens": np.concatenate([x.tokens - x.nan for x in answers]),
            }
        )
        summed = table.group_by(["mask", "document"], use_threads=False).aggregate(
            [("loss", "sum"), ("tokens", "sum")]
        )
        partials.commit(self.store, task.file, summed, task.name)
        return {"masks": len(answers)}

    def learn(self, task: Task) -> dict[str, object]:
        """Write the constants learned for one held set, or for several together."""
        a, facts = task.arguments, self._facts
        sites: Sequence[Site] = a["sites"]
        collected = of_role(self.store.table(a["data"]), "collect")
        check = self._batched(a, of_shard(collected, 0, FIFTHS))
        fit = [
            batch
            for shard in range(1, FIFTHS)
            for batch in self._batched(a, of_shard(collected, shard, FIFTHS))
        ]
        sets = []
        for asked in a["sets"]:
            held = values.neurons(self.store, facts, asked)
            sets.append([Place(site=s, held=tuple(h)) for s, h in zip(sites, held, strict=True)])
        starts = {
            name: [values.constants(self.store, facts, site, of[site]) for site in sites]
            for name, of in a["starts"].items()
        }
        scales = [
            columns(self.store, a["statistics"][site], ["std"], facts.layers)["std"]
            for site in sites
        ]
        search = Search(
            steps=a["steps"],
            lr=a["lr"],
            every=a["every"],
            seed=a["seed"],
            logits_bytes=a["logits_bytes"],
        )
        learned = self.replica.learn(fit, check, sets, starts, scales, search)
        tables = [
            rows("centres", self._column(a, site, value_LN), value_LN.size)
            for site, value_LN in zip(sites, learned.values, strict=True)
        ]
        self.store.commit(task.file, parquet(pa.concat_tables(tables), task.name))
        return {
            "start": learned.start,
            "start_loss": learned.start_loss,
            "check_loss": learned.check_loss,
            "fit_loss": learned.fit_loss,
            "step": learned.step,
            "steps": learned.steps,
            "stopped": learned.stopped,
        }

    def _column(
        self, a: Mapping[str, Any], site: Site, value_LN: NDArray[np.float64]
    ) -> dict[str, object]:
        layers, neurons = value_LN.shape
        return {
            "model": a["model"],
            "data": a["data_name"],
            "basis": a["basis"],
            "site": site,
            "stratum": "all",
            "layer": np.repeat(np.arange(layers), neurons),
            "neuron": np.tile(np.arange(neurons), layers),
            "method": a["method"],
            "parameters": canonical(a["parameters"]),
            "cell": a["cell"],
            "value": value_LN.reshape(-1),
        }

    def _batched(self, a: Mapping[str, Any], table: pa.Table) -> tuple[Batch, ...]:
        return batched(table, self._facts, a["batch_tokens"], scored=told(a["scored"]))


def masks(facts: ModelFacts, a: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the random masks of a regression, over heads or blocks of neurons, (K, U)."""
    units = _units(facts, a)
    blocks = -(-units // a["block"])
    return random_masks(facts.layers * blocks, a["masks"], a["share"], seed=a["seed"])


def _units(facts: ModelFacts, a: Mapping[str, Any]) -> int:
    return facts.heads if a["unit"] == "head" else facts.neurons_at(a["site"])


def _holding(
    facts: ModelFacts,
    site: Site,
    a: Mapping[str, Any],
    number: int,
    held_U: NDArray[np.bool_],
    values_LN: NDArray[np.float64],
) -> CellOrder:
    """Return the cell of one mask: its blocks of units held at their means."""
    width = facts.d_head if a["unit"] == "head" else 1
    held_LB = held_U.reshape(facts.layers, -1)
    held_LN = np.repeat(held_LB, a["block"] * width, axis=1)[:, : facts.neurons_at(site)]
    held = tuple(np.flatnonzero(held_N) for held_N in held_LN)
    hold = Hold(site=site, held=held, value=Constant(values=values_LN))
    return CellOrder(cell=f"mask {number}", holds=(hold,))
