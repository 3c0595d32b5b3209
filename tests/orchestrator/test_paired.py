"""Paired prompts become rows that fit, or are left out with a reason, whoever looks.

Shapes: T positions.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchestrator import paired
from orchestrator.documents import Document
from orchestrator.donors import donors
from orchestrator.feed import batched, donated, sequences
from orchestrator.giving import DonorError
from orchestrator.paired import PairsError
from orchestrator.store import Store, parquet
from orchestrator.tasks import Task
from workers import zoo
from workers.messages import NOT_SCORED, ModelFacts
from workers.tokenising import encode

FOLDER = Path(zoo.__file__).parent / "opt"
BOS = 0
PROMPT = "When the client and the server start, the server sends a message to the"
DONOR = PROMPT.replace(", the server", ", the parser")


def pair(name: str = "one", **changes: Any) -> Document:
    plain = {"text": PROMPT, "donor": DONOR, "answer": " client", "wrong": (" server",)}
    return Document(name=name, split=None, **{**plain, **changes})


def tokens(text: str) -> list[int]:
    return encode(FOLDER, [text])[0].ids.tolist()


def task(kind: str = "data", **arguments: Any) -> Task:
    plain = {
        "model": "zoo:opt",
        "data_name": "pairs",
        "folder": str(FOLDER),
        "specials": {"bos": BOS, "pad": 1, "eos": 2, "unk": 3},
        "window": 128,
        "bos": "every_window",
        "modality": "causal",
        "roles": {r: {"sequences": 8, "tokens": None} for r in ("collect", "evaluate")},
    }
    return Task(
        name="name",
        stage="prepare",
        kind=kind,
        label="",
        file=f"{kind}.parquet",
        model=None,
        after=(),
        arguments={**plain, **arguments},
    )


def made(
    evaluated: Sequence[Document], **arguments: Any
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the evaluated rows, and what was left out of them with the reason."""
    spare = [pair(f"spare {i}") for i in range(8)]
    found, broken = paired.table(
        task(**arguments),
        {"collect": spare, "evaluate": evaluated},
    )
    rows = [row for row in found.to_pylist() if row["role"] == "evaluate"]
    return rows, {b.where: b.why for b in broken}


def reason(**changes: Any) -> str:
    """Return why a row is left out."""
    return made([pair("good"), pair("bad", **changes)])[1]["bad"]


def test_a_row_is_fed_whole_and_scored_on_the_answer_at_its_last_position_alone() -> None:
    ((row,), broken) = made([pair(wrong=(" server", " parser"))])
    assert row["input"] == [BOS, *tokens(PROMPT)]
    assert row["target"] == [NOT_SCORED] * len(tokens(PROMPT)) + tokens(" client")
    assert row["donor"] == [BOS, *tokens(DONOR)]
    assert sorted(row["wrong"]) == sorted(tokens(" server") + tokens(" parser"))
    assert (row["document"], row["bytes"], row["kind"]) == ("one", None, None)
    assert broken == {}


def test_prompts_begin_with_bos_as_windows_do() -> None:
    rows = {bos: made([pair()], bos=bos)[0][0] for bos in ("every_window", "first", "none")}
    assert rows["every_window"] == rows["first"]
    assert rows["none"]["input"] == tokens(PROMPT)
    assert rows["none"]["donor"] == tokens(DONOR)


def test_a_row_without_a_donor_is_a_question_all_the_same() -> None:
    (row,), broken = made([pair(donor=None)])
    assert row["donor"] is None
    assert broken == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"donor": DONOR + " old"}, r"`input` has 16 tokens and `donor` 17; they must"),
        ({"answer": "client"}, "joins the answer 'client' with the end|is . tokens after"),
        ({"answer": " the client"}, r"' the client' is 2 tokens after the prompt, and must be one"),
        ({"wrong": (" server", " xylophone")}, r"' xylophone' is \d tokens after the prompt"),
        ({"wrong": (" server", " client")}, "' client' is among the wrong ones; take it out"),
        ({"wrong": ()}, "`wrong` is empty"),
        ({"answer": ""}, "`answer` is empty"),
        ({"answer": None}, "`answer` is empty"),
        ({"text": ""}, "`input` has no token"),
    ],
)
def test_a_row_that_does_not_fit_is_left_out_with_what_to_do(
    changes: Mapping[str, Any], said: str
) -> None:
    assert re.search(said, reason(**changes))


def test_a_prompt_is_never_cut() -> None:
    long = " ".join(["list"] * 140)
    said = reason(text=long, donor=None)
    assert "positions, and a window 128" in said
    assert "shorten it" in said


def test_an_answer_that_the_tokenizer_joins_with_the_prompt_is_no_answer_to_it() -> None:
    # "... to the" + "re" is not the prompt's tokens and one more, but "there".
    said = reason(answer="re")
    assert "joins the answer 're' with the end of the prompt" in said


def test_a_source_that_fits_by_chance_is_refused_with_the_first_reasons() -> None:
    bad = [pair(f"bad {i}", answer=" the client") for i in range(3)]
    with pytest.raises(PairsError, match=r"3 of 5 prompts looked at for 'evaluate'.*bad \d: the"):
        made([pair("good"), pair("fine"), *bad])
    with pytest.raises(PairsError, match="no prompt for 'evaluate'"):
        made([])


def test_each_role_takes_as_many_as_it_asks_for_in_their_order() -> None:
    every = [pair(f"row {i}") for i in range(12)]
    one, _ = made(every)
    assert [r["document"] for r in one] == [d.name for d in every[:8]]
    length = len(tokens(PROMPT)) + 1
    roles = {r: {"sequences": None, "tokens": 2 * length + 1} for r in ("collect", "evaluate")}
    some, _ = made(every, roles=roles)
    assert len(some) == 3
    assert [r["document"] for r in some] == [r["document"] for r in one[:3]]


def table(*evaluated: Document) -> pa.Table:
    found, _ = paired.table(task(), {"collect": [pair("spare")], "evaluate": evaluated})
    return found


def given(store: Store, data: pa.Table) -> pa.Table:
    """Return the donors of paired prompts."""
    store.commit("data.parquet", parquet(data))
    how = {"source": "paired", "seed": None, "donor": "own", "behaviour": "by_position", "draws": 1}
    donors(
        task("donors", data="data.parquet", opening=None, closing=None, vocabulary=2048, **how),
        store,
    )
    return store.table("donors.parquet")


def test_every_prompt_is_given_the_donor_of_its_own_row(tmp_path: Path) -> None:
    data = table(pair("one"), pair("two", donor=PROMPT.replace("client", "parser")))
    found = given(Store.open(tmp_path), data)
    beside = {r["sequence"]: r["donor"] for r in data.to_pylist() if r["role"] == "evaluate"}
    assert {r["sequence"]: r["input"] for r in found.to_pylist()} == beside
    assert set(found.column("donor").to_pylist()) == {None}
    assert set(found.column("seed").to_pylist()) == {None}


def test_a_prompt_without_a_donor_cannot_be_given_one(tmp_path: Path) -> None:
    with pytest.raises(DonorError, match=r"1 of 2 evaluated prompts have no donor \(first: 'two'"):
        given(Store.open(tmp_path), table(pair("one"), pair("two", donor=None)))


def test_what_is_fed_has_wrong_answers_and_donors_row_by_row(tmp_path: Path) -> None:
    longer = "After " + PROMPT.lower()
    data = table(pair("one"), pair("two", text=longer, donor=longer, wrong=(" server", " parser")))
    evaluated = data.filter(pc.equal(data["role"], "evaluate"))
    fed = batched(evaluated, _facts(), 4096)
    given_to = donated(sequences(data), given(Store.open(tmp_path), data), fed, 1)
    rows = {r["sequence"]: r for r in evaluated.to_pylist()}
    for batch, donor in zip(fed, given_to.passes[0], strict=True):
        assert batch.wrong is not None
        for s, number in enumerate(batch.sequence.tolist()):
            row, here = rows[number], batch.attended[s]
            wrong_W = batch.wrong[s]
            assert sorted(wrong_W[wrong_W != NOT_SCORED]) == sorted(row["wrong"])
            assert donor.inputs[s][here].tolist() == row["donor"]
            assert np.flatnonzero(batch.targets[s] != NOT_SCORED).tolist() == [here.sum() - 1]


def _facts() -> ModelFacts:
    return ModelFacts(
        family="opt",
        modality="causal",
        layers=4,
        heads=4,
        d_head=32,
        kv_heads=4,
        d_model=128,
        d_mlp=512,
        activation="relu",
        vocabulary=2048,
        window=128,
        image=None,
        parameters=1,
        bytes=4,
        digest="",
        tokenizer="",
        specials={"bos": 0, "pad": 1},
    )
