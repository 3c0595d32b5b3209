"""A cell's answer is its own: whatever shares its call, in whatever order batches come.

Law 2 for every kind of value. A small sweep of all of them is run once; then its cells are
evaluated again, split into other calls, in another order, with batches in another order, as
another worker would who finds half of the work done. The sums must be those of the run, to
the last bit.

Shapes: S sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import sweep, values
from orchestrator.feed import batched, common_tokens, donated, sequences
from orchestrator.plan import Plan
from orchestrator.shards import of_role
from orchestrator.store import Store
from tests import brute_force as plainly
from workers.actor import Replica
from workers.messages import Batch, CellOrder, Donors

CLIPPED = Path(__file__).parents[1] / "examples" / "plugins" / "clipped.py"
MIXED = """
name: mixed
models: [zoo:roberta]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 12}
    evaluate: {split: test, sequences: 9}
methods: [zero, mean, mean(alpha=0.5), mean(position), optimal(steps=2), noise, marginal,
          nearest_peak, resample, resample(per_neuron), resample(published), resample(random),
          clipped]
fractions: [0.3]
sites: [attn_pre_out, mlp_mid]
selections: [random, "score(rms, low, global)"]
seeds: 1
statistics: {shards: 2, strata: [{position: [0, 1, 9]}]}
evaluation: {batch_tokens: 130, metrics: [top1, ce, kl]}
"""
SUMS = ("tokens", "top1", "top10", "loss", "kl", "tokens_rare", "top1_rare")
MASKED_SUMS = ("tokens_mask", "top1_mask", "loss_mask", "nan")


@dataclass(frozen=True)
class Ready:
    """What a worker has that is about to answer cells."""

    replica: Replica
    fed: tuple[Batch, ...]
    orders: dict[str, CellOrder]
    donors: dict[str, Donors]
    logits_bytes: int
    answers: dict[str, pl.DataFrame]
    """What the run says, by cell, ascending by sequence."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with plainly.one_thread():
        yield


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    folder = tmp_path_factory.mktemp("mixed")
    file = folder / "sweep.yaml"
    file.write_text(MIXED)
    outcome = sweep.run(file, out=folder / "run", local=True, plugins=[CLIPPED])
    assert not outcome.failures
    made: Plan = sweep.plan(file, plugins=[CLIPPED])
    store, cells = Store.open(Path(outcome.run)), made.cells
    replica = Replica()
    ref = next(iter(cells.values())).ref
    replica.load(ref)
    known: values.Known = {}
    orders = {
        name: values.order(ref.facts, name, cell.arguments, store, known)
        for name, cell in cells.items()
    }
    data = store.table("data/zoo-roberta/stdlib.parquet")
    specials = [ref.facts.specials[k] for k in ("bos", "eos", "pad", "mask")]
    fed = batched(
        of_role(data, "evaluate"), ref.facts, 130, common=common_tokens(data, without=specials)
    )
    assert len(fed) > 3
    files = {cell.donors for cell in cells.values() if cell.donors}
    pad = ref.facts.specials["pad"]
    results = pl.read_parquet(Path(outcome.run) / "results" / "**" / "*.parquet").sort("sequence")
    return Ready(
        replica=replica,
        fed=fed,
        orders=orders,
        donors={f: donated(sequences(data), store.table(f), fed, pad) for f in files},
        logits_bytes=32 * 2**20,
        answers={str(c): part for (c,), part in results.group_by("cell", maintain_order=True)},
    )


def shuffled(donors: Donors, order: Sequence[int]) -> Donors:
    """Return donors for batches in another order."""
    return Donors(
        passes=tuple(tuple(fed[i] for i in order) for fed in donors.passes),
        rows=None if donors.rows is None else tuple(donors.rows[i] for i in order),
    )


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_answer_depends_on_no_other_cell_of_the_call_nor_on_the_order_of_batches(
    ready: Ready, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(ready.fed))), label="batches")
    names = data.draw(st.permutations(sorted(ready.orders)), label="cells")
    taken = names[: data.draw(st.integers(6, 18), label="how many")]
    size = data.draw(st.integers(1, 7), label="cells of a call")
    for start in range(0, len(taken), size):
        call = [ready.orders[name] for name in taken[start : start + size]]
        named = {getattr(hold.value, "donors", "") for cell in call for hold in cell.holds}
        answers = ready.replica.evaluate(
            tuple(ready.fed[i] for i in order),
            call,
            {f: shuffled(ready.donors[f], order) for f in named if f},
            logits_bytes=ready.logits_bytes,
            kl=True,
        )
        for answer in answers:
            said = ready.answers[answer.cell]
            assert answer.sequence.tolist() == said["sequence"].to_list()
            for name in (*SUMS, *MASKED_SUMS):
                found = np.asarray(getattr(answer, name))
                assert found.tobytes() == said[name].to_numpy().tobytes(), (answer.cell, name)


def test_the_cells_are_of_every_kind(ready: Ready) -> None:
    kinds = {type(h.value).__name__ for cell in ready.orders.values() for h in cell.holds}
    assert kinds == {
        *("Constant", "ByPosition", "Donated", "Noise", "Marginal", "NearestPeak", "Custom")
    }
    assert set(ready.orders) == set(ready.answers)
    assert {order.share for order in ready.orders.values()} == {0.5, 1.0}
