"""What is evaluated next: by the same rounds, whoever does it and in whichever order."""

import hashlib
import random
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import grid
from orchestrator import calls, resume, rounds, values
from orchestrator.calls import call, filled
from orchestrator.listing import write_plan
from orchestrator.plan import Plan, with_cells
from orchestrator.results import _reading, unread
from orchestrator.stops import SCHEMA, Reading, stops
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from tests.orchestrator import planned
from tests.orchestrator.test_resume import do

DOCUMENTS = [f"document {i}" for i in range(160)]
TOKENS = 9
SPREAD = {"zero": 0.2, "mean": 0.05, "peak": 0.1, "resample": 0.4}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    source = {"source": "documents.jsonl", "document": "name", "evaluate": {"sequences": 40}}
    usual: dict[str, Any] = {
        "methods": list(SPREAD),
        "data": {"texts": source},
        "evaluation": {"batch_tokens": 32},
        "fractions": [0.25, 0.5, 1],
    }
    return lambda **changes: planned.make(tmp_path, **{**usual, **changes})


def precise(halfwidth: float) -> dict[str, Any]:
    return {"precision": {"contrast": ["peak", "mean"], "halfwidth": halfwidth}}


def store_of(folder: Path, name: str = "run") -> Store:
    return Store.open(folder / name)


def data_table() -> pa.Table:
    count = len(DOCUMENTS)
    columns = {
        "model": "a", "data": "texts", "role": "evaluate", "document": DOCUMENTS,
        "sequence": range(count), "input": [[5] * TOKENS] * count,
        "target": [[5] * TOKENS] * count,
    }  # fmt: skip
    return rows("text", columns, count)


def losses(cell: str, method: str) -> dict[str, float]:
    """Return a made-up loss of every document, the same whenever it is asked for."""
    seed = int.from_bytes(hashlib.sha256(cell.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    made = TOKENS * (2 + SPREAD.get(method, 0.0) * rng.standard_normal(len(DOCUMENTS)))
    return dict(zip(DOCUMENTS, made, strict=True))


def evaluate(store: Store, plan: Plan, task: Task) -> None:
    """Pretend to evaluate: commit made-up answers of the rounds that are asked for."""
    assert task.model is not None
    a = task.arguments
    of = rounds.assigned(DOCUMENTS, a["visits"], a["rounds"])
    here = [d for d in DOCUMENTS if of[d] in a["asked"]]
    parts = []
    for cell in task.cells:
        method = str(plan.cells[cell].arguments.get("method", "")).partition("(")[0]
        loss = losses(cell, method)
        columns = {
            "cell": cell, "document": here, "round": [of[d] for d in here], "tokens": TOKENS,
            "top1": 3, "top10": 5, "nan": 0, "loss": [loss[d] for d in here],
            "sequence": [DOCUMENTS.index(d) for d in here],
        }  # fmt: skip
        parts.append(rows("results", columns, len(here)))
    store.commit(task.file, parquet(pa.concat_tables(parts), task.name))
    digests = [values.digest(task.model.facts, told, store, {}) for told in a["cells"].values()]
    asked = [a["asked"]] * len(task.cells)
    columns = {"cell": list(a["cells"]), "statistics_digest": digests, "rounds": asked}
    table = rows("executions", columns, len(task.cells))
    store.commit(a["executions"], parquet(table, task.name))


def finish(
    plan: Plan,
    store: Store,
    order: random.Random,
    most: int = 10**9,
    never: Collection[str] = (),
) -> list[Task]:
    """Do what is left in any order, `most` calls at most; return the calls that were made.

    Of cells that can `never` be answered the calls fail.
    """
    left = resume.left(plan, store)
    write_plan(plan, store)
    for task in left.tasks:
        if task.kind == "data":
            store.commit(task.file, parquet(data_table(), task.name))
        elif task.kind != "evaluate":
            do(store, task)
    waiting = [t for t in left.tasks if t.kind == "evaluate"]
    made: list[Task] = []
    while waiting and len(made) < most:
        task = waiting.pop(order.randrange(len(waiting)))
        parts = calls.split(plan, task)
        if len(parts) > 1 and not set(task.cells).isdisjoint(never):
            waiting += parts
            continue
        if not set(task.cells).isdisjoint(never):
            waiting += left.pace.without(task.cells)
            continue
        evaluate(store, plan, filled(plan, task))
        made.append(task)
        waiting += left.pace.more(task)
    if not waiting:
        assert left.pace.computed(never) == len({cell for task in made for cell in task.cells})
    return made


def read_of(store: Store) -> Reading:
    read = _reading(store)
    assert read is not None
    return read


def answered(tasks: Iterable[Task]) -> set[tuple[str, int]]:
    pairs = [(c, r) for t in tasks for c in t.cells for r in t.arguments["asked"]]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def extents(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for cell, _ in pairs:
        found[cell] = found.get(cell, 0) + 1
    return found


def test_without_precision_every_cell_is_asked_for_all_rounds_at_once(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make()
    every = finish(plan, store_of(tmp_path), random.Random(0))
    assert calls.rounds_of(plan, plan.models["a"]) == 10
    assert {tuple(t.arguments["asked"]) for t in every} == {tuple(range(10))}
    assert extents(answered(every)) == dict.fromkeys(plan.cells, 10)


def test_what_is_read_depends_on_the_answers_alone(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make(**precise(0.06))
    once = answered(finish(plan, store_of(tmp_path), random.Random(0)))
    assert len(set(extents(once).values())) > 1  # they stop at different rounds
    assert len(once) < 10 * len(plan.cells)
    again = answered(finish(plan, store_of(tmp_path, "again"), random.Random(1)))
    assert again == once
    halting = store_of(tmp_path, "halting")
    parts, order = [], random.Random(2)
    while more := finish(plan, halting, order, most=3):
        parts += more
    assert answered(parts) == once


def test_methods_of_a_company_stop_together_and_the_bare_model_never(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make(**precise(0.06))
    extent = extents(answered(finish(plan, store_of(tmp_path), random.Random(0))))
    (bare,) = planned.asked(plan, fraction=0.0)
    assert extent[bare] == 10
    for seed in (0, 1):
        company = planned.asked(plan, fraction=0.5, seed=seed)
        assert len(company) == 4
        assert len({extent[cell] for cell in company}) == 1


def test_more_precision_goes_on_where_less_of_it_stopped(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    store, order = store_of(tmp_path), random.Random(0)
    rough = answered(finish(make(**precise(0.08)), store, order))
    assert not finish(make(**precise(0.08)), store, order)
    fine = answered(finish(make(**precise(0.05)), store, order))
    assert fine
    assert not fine & rough
    alone = answered(finish(make(**precise(0.05)), store_of(tmp_path, "alone"), order))
    assert fine | rough == alone
    assert not finish(make(**precise(0.07)), store, order)
    whole = answered(finish(make(), store, order))
    assert extents(whole | alone) == dict.fromkeys(make().cells, 10)


def test_a_run_says_which_cells_must_be_read_further(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    store, plan = store_of(tmp_path), make(**precise(0.05))
    some = finish(plan, store, random.Random(0), most=6)
    assert unread(store)
    extent = extents(answered([*some, *finish(plan, store, random.Random(0))]))
    assert unread(store) == set()
    (bare,) = planned.asked(plan, fraction=0.0)
    for file in store.files("executions"):
        if bare in store.table(file, ["cell"]).column("cell").to_pylist():
            store.delete(file)
    assert unread(store) == {bare}
    write_plan(make(), store)  # without precision everything is to be read
    assert unread(store) == {bare, *(cell for cell, rounds in extent.items() if rounds < 10)}
    assert unread(store_of(tmp_path, "without")) == set()


def test_an_answer_that_is_there_twice_counts_once(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    store, plan = store_of(tmp_path), make(**precise(0.06))
    finish(plan, store, random.Random(0))
    before = stops(read_of(store))
    for file in store.files("results"):  # as when a worker is lost after it has committed
        path = store.path(file)
        path.with_name(f"again.{path.name}").write_bytes(path.read_bytes())
    assert stops(read_of(store)).equals(before)


def test_a_model_without_data_yet_holds_up_no_other(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, order = store_of(tmp_path), random.Random(0)
    finish(make(**precise(0.06)), store, order)
    planned.know(monkeypatch, {"a": planned.facts(), "b": planned.facts(digest="other")})
    left = resume.left(make(models=["a", "b"], **precise(0.06)), store)
    assert {t.model.name for t in left.tasks if t.stage == "evaluate" and t.model} == {"b"}


def test_a_method_that_decides_nothing_holds_up_nobody(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make(**precise(0.06))
    zeros = planned.asked(plan, method="zero", fraction=0.5)
    store = store_of(tmp_path)
    some = finish(plan, store, random.Random(0), never=zeros)
    decided = planned.asked(plan, method="peak", fraction=0.5)
    extent = extents(answered(some))
    assert min(extent[cell] for cell in decided) > 1
    lacking = [t for t in resume.left(plan, store).tasks if t.stage == "evaluate"]
    assert extents(answered(lacking)) == {
        zero: extent[peak]
        for seed in (0, 1)
        for zero in planned.asked(plan, method="zero", fraction=0.5, seed=seed)
        for peak in planned.asked(plan, method="peak", fraction=0.5, seed=seed)
    }


def test_who_would_have_stopped_with_a_cell_that_is_given_up_is_read_to_the_end(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make(**precise(0.06))
    given_up = set(planned.asked(plan, method="peak", fraction=0.5, seed=0))
    made = finish(plan, store_of(tmp_path), random.Random(0), never=given_up)
    rest = set(planned.asked(plan, fraction=0.5, seed=0)) - given_up
    extent = extents(answered(made))
    assert {cell: extent[cell] for cell in rest} == dict.fromkeys(rest, 10)


def test_a_part_of_the_cells_is_judged_by_the_answers_of_all(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    store, plan = store_of(tmp_path), make(**precise(0.06))
    finish(plan, store, random.Random(0))
    zeros = planned.asked(plan, method="zero", fraction=0.5)
    part = with_cells(plan, {n: c for n, c in plan.cells.items() if n in zeros})
    assert not resume.left(part, store).tasks


def test_where_it_stopped_is_a_table(make: Callable[..., Plan], tmp_path: Path) -> None:
    store, plan = store_of(tmp_path), make(**precise(0.06))
    extent = extents(answered(finish(plan, store, random.Random(0))))
    table = stops(read_of(store))
    assert table.schema == SCHEMA
    assert table.height == 6  # three fractions of two masks
    assert table.filter(rounds=10)["reached"].to_list() in ([], [False], [True])
    for found in table.iter_rows(named=True):
        some = planned.asked(plan, fraction=found["fraction"], seed=found["seed"])
        assert {extent[cell] for cell in some} == {found["rounds"]} or found["fraction"] == 1
        assert found["reached"] == ((found["high"] - found["low"]) / 2 <= 0.06)
        assert found["documents"] == found["rounds"] * 16
        assert (found["rounds_total"], found["documents_total"]) == (10, 160)


def test_a_part_of_the_cells_is_read_to_the_end_where_it_has_nothing_to_compare(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make(**precise(0.06))
    peaks = planned.asked(plan, method="peak", fraction=0.5)
    part = with_cells(plan, {n: c for n, c in plan.cells.items() if n in peaks})
    made = finish(part, store_of(tmp_path), random.Random(0))
    assert extents(answered(made)) == dict.fromkeys(peaks, 10)


def test_calls_are_of_one_model_one_basis_one_set_of_donors_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    seeds = {"masks": 9, "donors": 2}
    methods = ["mean", "noise", "resample"]
    plan = planned.make(
        tmp_path, models=["a", "m"], seeds=seeds, methods=methods, basis={"rotate": 0}
    )
    every = calls.calls(plan, {name: [0] for name in plan.cells})
    for made in every:
        assert made.model is not None
        held = [plan.cells[c] for c in made.cells]
        assert all(c.ref == made.model for c in held)
        assert len({c.donors for c in held}) == 1
        most = calls.DONATED_PER_CALL if held[0].donors else calls.CONSTANTS_PER_CALL
        assert len(held) <= most
    assert sorted(c for made in every for c in made.cells) == sorted(plan.cells)
    assert {c.model.basis for c in every if c.model} == {None, 0}


def test_the_benchmark_puts_as_many_cells_into_a_call() -> None:
    # It runs where the orchestrator is not installed, so it cannot ask.
    sizes = (grid.CONSTANTS_PER_CALL, grid.DONATED_PER_CALL)
    assert sizes == (calls.CONSTANTS_PER_CALL, calls.DONATED_PER_CALL)


def test_cells_that_lack_different_rounds_are_asked_apart(make: Callable[..., Plan]) -> None:
    plan = make()
    one, other, third = list(plan.cells)[1:4]
    every = calls.calls(plan, {one: [0, 1], other: [3], third: [0, 1]})
    assert [(set(t.cells), t.arguments["asked"]) for t in every] == [
        ({one, third}, [0, 1]),
        ({other}, [3]),
    ]


def test_a_call_is_taken_apart_into_its_cells(make: Callable[..., Plan]) -> None:
    plan = make()
    whole = call(plan, list(plan.cells.values())[:5], [2, 3])
    parts = calls.split(plan, whole)
    assert [p.cells for p in parts] == [(c,) for c in whole.cells]
    assert all((p.model, p.arguments["asked"]) == (whole.model, [2, 3]) for p in parts)
    assert calls.split(plan, parts[0]) == [parts[0]]
    assert calls.split(plan, plan.tasks[0]) == [plan.tasks[0]]


def test_a_call_is_named_by_its_cells_and_rounds_in_whatever_order(
    make: Callable[..., Plan],
) -> None:
    plan = make()
    chosen = list(plan.cells.values())[2:6]
    every = range(10)
    one, other = call(plan, chosen, every), call(plan, chosen[::-1], every)
    assert (one.name, one.file, one.cells) == (other.name, other.file, other.cells)
    assert one.name != call(plan, chosen[:3], every).name
    assert one.name != call(plan, chosen, [0]).name
    assert (one.arguments["kl"], one.arguments["scored"]["last"]) == (False, None)
    assert set(one.cells) == {c.name for c in chosen}
    assert call(plan, chosen, [4]).label == "a 4 cells, round 5 of 10"


def test_a_call_waits_for_all_that_its_cells_need(make: Callable[..., Plan]) -> None:
    plan = make()
    chosen = list(plan.cells.values())[:7]
    task = call(plan, chosen, range(10))
    assert set(task.after) == {n for c in chosen for n in c.after}
    assert task.model == plan.models["a"]
    assert task.arguments["data"] == "data/a/texts.parquet"
    assert task.arguments["cells"].keys() == {c.name for c in chosen}
    assert task.cost == pytest.approx(70 * call(plan, chosen[:1], [0]).cost)
