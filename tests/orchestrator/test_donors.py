"""Who gives to whom, read back from the table as anyone would.

The rules are the same for every source: a donor is as long as its receiver, its
special tokens stand where the receiver's do, and nothing else of it is the receiver's.

Shapes: T positions.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.donors import donors, donors_digest
from orchestrator.giving import DonorError
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.data import causal_targets, corrupt, windows

SPECIALS = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}
WINDOW, VOCABULARY, MASKING = 24, 100, 5
TEXT_SOURCES = ["dataset", "random_tokens", "random_characters", "generated"]
every_bos = pytest.mark.parametrize("bos", ["every_window", "first", "none"])
every_modality = pytest.mark.parametrize("modality", ["causal", "masked"])
Documents = Sequence[tuple[str, str, int]]
"""Role, name and number of tokens."""


def documents(role: str, count: int, tokens: int = 60) -> Documents:
    return [(role, f"{role} {i}", tokens) for i in range(count)]


def texts(made: Documents, modality: str = "causal", bos: str = "every_window") -> pa.Table:
    """Return the data table of documents of random tokens."""
    draw = np.random.default_rng(len(made))
    columns: dict[str, list[Any]] = {
        c: [] for c in ("role", "document", "sequence", "bytes", "input", "target", "kind")
    }
    for role, name, tokens in made:
        ids = draw.integers(5, VOCABULARY, tokens)
        ids[0] = SPECIALS["unk"]
        if bos == "first":
            ids = np.append(SPECIALS["bos"], ids)
        cut = windows(
            ids,
            length=WINDOW,
            bos=SPECIALS["bos"] if bos == "every_window" else None,
            eos=SPECIALS["eos"] if modality == "masked" else None,
            shortest=6,
        )
        for window in cut:
            number = len(columns["sequence"])
            seen, target, kind = window, causal_targets(window), None
            if modality == "masked":
                seen, target, kind = corrupt(
                    window,
                    seed=MASKING,
                    sequence=number,
                    specials=SPECIALS,
                    vocabulary=VOCABULARY,
                )
            scored = None if kind is None else [k for k in kind if k is not None]
            for column, value in zip(
                columns, (role, name, number, 1, seen, target, scored), strict=True
            ):
                columns[column].append(value)
    lists = {c: [v.astype(np.int32) for v in columns[c]] for c in ("input", "target")}
    fixed = {"model": "m", "data": "d"}
    return rows("text", {**columns, **lists, **fixed}, len(columns["sequence"]))


def images(collected: int = 7, evaluated: int = 5) -> pa.Table:
    draw = np.random.default_rng(0)
    count = collected + evaluated
    return rows(
        "images",
        {
            "model": "m",
            "data": "d",
            "role": ["collect"] * collected + ["evaluate"] * evaluated,
            "document": [f"image {i}" for i in range(count)],
            "sequence": list(range(count)),
            "image": [draw.integers(0, 256, 4 * 3 * 2).astype(np.uint8) for _ in range(count)],
            "shape": [[4, 3, 2]] * count,
            "target": [0] * count,
        },
        count,
    )


class Bench:
    """Gives donors to the sequences of a data table in a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        ids = {**SPECIALS, **{chr(32 + i): 5 + i for i in range(95)}}
        tokenizer = Tokenizer(models.BPE(ids, [], unk_token="unk"))  # a token for every character
        tokenizer.save(str(folder / "tokenizer.json"))

    def told(self, data: pa.Table, changes: dict[str, Any]) -> dict[str, Any]:
        text = "input" in data.column_names
        modality = "image" if not text else "causal"
        if text and data["kind"].null_count < data.num_rows:
            modality = "masked"
        return {
            "data": "data/m/d.parquet",
            "data_name": "d",
            "model": "m",
            "source": "dataset",
            "seed": 0,
            "drawn": "joint",
            "donor": "own",
            "behaviour": "each",
            "draws": 1,
            "opening": None,
            "closing": SPECIALS["eos"] if modality == "masked" else None,
            "specials": SPECIALS if text else {},
            "vocabulary": VOCABULARY,
            "modality": modality,
            "generated": "generated.parquet",
            "folder": str(self.folder),
            "window": 3,
            **changes,
        }

    def give(self, data: pa.Table, **changes: Any) -> pa.Table:
        """Return the donors; a generating model that counts upwards stands in for a real one."""
        told = self.told(data, changes)
        self.runs += 1
        store = Store.open(self.folder / f"run-{self.runs}")
        store.commit(told["data"], parquet(data))
        if told["source"] == "generated":
            received = [r for r in data.to_pylist() if r["role"] == "evaluate"]
            lengths = {r["sequence"]: len(r["input"]) for r in received}
            keys = [(number, draw) for draw in range(told["draws"]) for number in lengths]
            columns = {
                "sequence": [number for number, _ in keys],
                "draw": [draw for _, draw in keys],
                "input": [counting(number + draw, lengths[number]) for number, draw in keys],
            }
            store.commit(told["generated"], parquet(rows("donors", columns, len(keys))))
        task = Task(
            name="name", stage="prepare", kind="donors", label="", file="donors.parquet",
            model=None, arguments=told,
        )  # fmt: skip
        assert donors(task, store)["sequences"] == data["role"].to_pylist().count("evaluate")
        assert store.recipe(task.file) == "name"
        return store.table(task.file)


def counting(start: int, length: int) -> list[int]:
    """Return bos and as many tokens, counting upwards."""
    return [SPECIALS["bos"], *(5 + (start + t) % 95 for t in range(length))]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def by_number(data: pa.Table) -> dict[int, dict[str, Any]]:
    return {row["sequence"]: row for row in data.to_pylist()}


def fed(row: dict[str, Any], data: dict[int, dict[str, Any]]) -> list[int]:
    """Return what the donor of a row is fed."""
    made = row["input"]
    return list(data[row["donor"]]["input"] if made is None else made)


@every_modality
def test_a_donor_is_a_collected_sequence_of_another_document_and_as_long(
    bench: Bench, modality: str
) -> None:
    # One name in both roles: a document must not give to itself even then.
    both = [("collect", "both", 60), ("evaluate", "both", 60)]
    table = texts([*both, *documents("collect", 6, 50), *documents("evaluate", 6, 55)], modality)
    data, given = by_number(table), bench.give(table).to_pylist()
    assert [d["sequence"] for d in given] == [n for n, r in data.items() if r["role"] == "evaluate"]
    cut = 0
    for row in given:
        receiver, donor = data[row["sequence"]], data[row["donor"]]
        assert donor["role"] == "collect"
        assert donor["document"] != receiver["document"]
        assert (row["draw"], row["row"]) == (0, None)
        eaten = fed(row, data)
        assert len(eaten) == len(receiver["input"])
        closing = 1 if modality == "masked" else 0
        assert eaten[: len(eaten) - closing] == donor["input"][: len(eaten) - closing]
        if row["input"] is not None:
            cut += 1
            assert modality == "causal" or eaten[-1] == SPECIALS["eos"]
    assert 0 < cut < len(given)


def test_the_choice_by_seed_and_sequence_is_that_of_every_release(bench: Bench) -> None:
    table = texts([*documents("collect", 9, 60), *documents("evaluate", 3, 50)])
    chosen = {seed: bench.give(table, seed=seed)["donor"].to_pylist() for seed in (0, 1)}
    assert chosen == GOLDEN


GOLDEN = {0: [18, 25, 16, 7, 13, 18], 1: [13, 3, 3, 21, 1, 6]}


def test_the_donor_seed_changes_donors_and_the_same_seed_does_not(bench: Bench) -> None:
    table = texts([*documents("collect", 9), *documents("evaluate", 9)])
    for source in TEXT_SOURCES[:3]:
        one, again = (bench.give(table, source=source) for _ in range(2))
        other = bench.give(table, source=source, seed=1)
        assert one.equals(again)
        assert donors_digest(one) == donors_digest(again)
        assert donors_digest(one) != donors_digest(other)


@pytest.mark.parametrize("source", TEXT_SOURCES)
def test_a_sequence_keeps_its_donors_when_fewer_are_evaluated_or_drawn(
    bench: Bench, source: str
) -> None:
    table = texts([*documents("collect", 9), *documents("evaluate", 9)])
    many = bench.give(table, source=source, draws=4).to_pylist()
    few = bench.give(table.slice(0, table.num_rows - 11), source=source, draws=2).to_pylist()
    wanted = ("sequence", "draw", "donor", "input", "row")
    kept = [tuple(r[c] for c in wanted) for r in many if r["draw"] < 2]
    assert kept[: len(few)] == [tuple(r[c] for c in wanted) for r in few]


def test_a_receiver_that_no_donor_is_long_enough_for_is_refused(bench: Bench) -> None:
    table = texts([*documents("collect", 3, 10), *documents("evaluate", 3, 23)])
    with pytest.raises(DonorError, match=r"24 positions\), .* collect more sequences"):
        bench.give(table)


@every_bos
@every_modality
@pytest.mark.parametrize("source", TEXT_SOURCES)
@pytest.mark.parametrize("donor", ["own", "shared"])
def test_a_donor_begins_with_bos_where_its_receiver_does_and_nowhere_else(
    bench: Bench, source: str, modality: str, bos: str, donor: str
) -> None:
    if (source, modality) == ("generated", "masked"):
        return  # masked models generate nothing
    table = texts([*documents("collect", 9), *documents("evaluate", 9)], modality, bos)
    data = by_number(table)
    opening = SPECIALS["bos"] if bos == "first" else None
    begun: Counter[bool] = Counter()
    for row in bench.give(table, source=source, donor=donor, opening=opening).to_pylist():
        eaten, receiver = fed(row, data), data[row["sequence"]]["input"]
        assert len(eaten) == len(receiver)
        assert (eaten[0] == SPECIALS["bos"]) == (receiver[0] == SPECIALS["bos"])
        assert SPECIALS["bos"] not in eaten[1:]
        assert (eaten[-1] == SPECIALS["eos"]) == (receiver[-1] == SPECIALS["eos"])
        begun[eaten[0] == SPECIALS["bos"]] += 1
    assert begun[True] == {"every_window": sum(begun.values()), "first": 9, "none": 0}[bos]


def test_a_receiver_that_no_donor_begins_alike_for_is_refused(bench: Bench) -> None:
    # Every collected document is one window: none is left that begins in the middle of a text.
    made = [*documents("collect", 9, WINDOW - 1), *documents("evaluate", 3, 2 * WINDOW)]
    with pytest.raises(DonorError, match=r"24 positions\), with special tokens where it has"):
        bench.give(texts(made, bos="first"), opening=SPECIALS["bos"])
    assert bench.give(texts(made)).num_rows


def test_a_sequence_whose_document_is_all_that_was_collected_is_refused(bench: Bench) -> None:
    table = texts([("collect", "both", 60), ("evaluate", "both", 60)])
    with pytest.raises(DonorError, match=r"'both'.*collect more documents"):
        bench.give(table)
    more = pa.concat_tables([table, texts([("evaluate", "other", 60)])])
    with pytest.raises(DonorError, match=r"none that is evaluated; collect more documents"):
        bench.give(more.set_column(4, "sequence", pa.array(range(more.num_rows))), donor="shared")


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_draws_differ_until_every_sequence_has_given_and_then_start_again(
    tmp_path_factory: pytest.TempPathFactory, pool: int, draws: int, seed: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("run"))
    table = texts([*documents("collect", pool, 23), *documents("evaluate", 2, 23)])
    given_to: dict[int, list[int]] = {}
    for row in bench.give(table, draws=draws, drawn="per_layer", seed=seed).to_pylist():
        assert row["draw"] == len(given_to.setdefault(row["sequence"], []))
        given_to[row["sequence"]].append(row["donor"])
    for donor in given_to.values():
        assert len(donor) == draws
        counts = Counter(donor)
        assert len(counts) == min(pool, draws)
        assert max(counts.values()) <= -(-draws // pool)


@every_modality
@pytest.mark.parametrize("source", ["random_tokens", "random_characters"])
def test_a_made_up_text_has_special_tokens_and_holes_where_its_receiver_has_them(
    bench: Bench, source: str, modality: str
) -> None:
    table = texts([*documents("collect", 2), *documents("evaluate", 9)], modality)
    special = list(SPECIALS.values())
    alike = []
    for row in bench.give(table, source=source, draws=2).to_pylist():
        receiver = by_number(table)[row["sequence"]]
        assert row["donor"] is None
        own_T, made_T = np.array(receiver["input"]), np.array(row["input"])
        kinds_T = np.full(len(own_T), "", object)
        if modality == "masked":
            kinds_T[np.array(receiver["target"]) != -100] = receiver["kind"]
        kept_T = np.isin(own_T, special) | (kinds_T == "random")
        assert np.array_equal(made_T[kept_T], own_T[kept_T])
        assert not np.isin(made_T[~kept_T], special).any()
        assert made_T.max() < VOCABULARY
        alike.append((made_T == own_T)[~kept_T].mean())
    assert np.mean(alike) < 0.05  # by chance, 1 in 95


def test_a_made_up_text_is_corrupted_as_its_receivers_seed_and_number_would(bench: Bench) -> None:
    table = texts([*documents("collect", 1), *documents("evaluate", 9)], "masked")
    for row in bench.give(table, source="random_tokens").to_pylist():
        receiver = by_number(table)[row["sequence"]]
        hidden = np.array(receiver["target"]) != -100
        bare = np.where(hidden & (np.array(row["input"]) == SPECIALS["mask"]), 59, row["input"])
        seen, target, kinds = corrupt(
            bare,
            seed=MASKING,
            sequence=row["sequence"],
            specials=SPECIALS,
            vocabulary=VOCABULARY,
        )
        assert seen.tolist() == row["input"]
        assert np.array_equal(target != -100, hidden)
        assert [k for k in kinds if k is not None] == receiver["kind"]


def test_every_ordinary_token_and_every_character_has_its_chance(bench: Bench) -> None:
    table = texts([*documents("collect", 1), *documents("evaluate", 40)])
    for source in ("random_tokens", "random_characters"):
        made = bench.give(table, source=source, draws=8)["input"].to_pylist()
        counts = Counter(t for ids in made for t in ids if t not in SPECIALS.values())
        assert set(counts) == set(range(5, VOCABULARY))
        fair = sum(counts.values()) / 95
        assert abs(np.array([*counts.values()]) - fair).max() < 5 * fair**0.5


def test_a_tokenizer_that_makes_next_to_nothing_of_characters_is_refused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.giving._CHARACTERS_PER_TOKEN", 8)
    tokenizer = Tokenizer(models.WordLevel(SPECIALS, unk_token="unk"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = texts([*documents("collect", 1), *documents("evaluate", 1)])
    with pytest.raises(DonorError, match="fewer than 24 tokens of 192 random characters"):
        bench.give(table, source="random_characters")


def test_one_donor_shared_by_all_is_of_no_evaluated_document_and_cut_for_each(
    bench: Bench,
) -> None:
    both = [("collect", "both", 60), ("evaluate", "both", 60)]
    table = texts([*both, *documents("collect", 3), *documents("evaluate", 6, 55)], "masked")
    data = by_number(table)
    for source in ("dataset", "random_tokens", "random_characters"):
        given = bench.give(table, source=source, donor="shared", draws=3).to_pylist()
        for draw in range(3):
            mine = [row for row in given if row["draw"] == draw]
            assert len({row["donor"] for row in mine}) == 1
            whole = max((fed(row, data) for row in mine), key=len)
            for row in mine:
                eaten = fed(row, data)
                assert eaten == [*whole[: len(eaten) - 1], SPECIALS["eos"]]
            if source == "dataset":
                assert data[mine[0]["donor"]]["document"].startswith("collect")
        assert len({tuple(fed(row, data)) for row in given if len(fed(row, data)) == WINDOW}) == 3


def test_as_published_the_ith_sequence_gets_row_i_and_zeros_when_rows_run_out(
    bench: Bench,
) -> None:
    table = texts([*documents("collect", 3), *documents("evaluate", 12, 55)])
    data = by_number(table)
    given = bench.give(table, behaviour="published").to_pylist()
    assert len(given) > WINDOW
    assert len({row["donor"] for row in given}) == 1
    for i, row in enumerate(given):
        length = len(data[row["sequence"]]["input"])
        assert row["row"] == (i if i < length else -1)
    pixels = bench.give(images(), behaviour="published").to_pylist()
    assert [row["row"] for row in pixels] == [0, 1, 2, -1, -1]  # an image has 3 positions here


def test_an_image_is_given_another_image_as_it_is(bench: Bench) -> None:
    data = by_number(images())
    for row in bench.give(images(), draws=3).to_pylist():
        assert data[row["donor"]]["role"] == "collect"
        assert row["input"] is None


def test_shuffled_pixels_are_those_of_the_image_that_would_have_given(bench: Bench) -> None:
    data = by_number(images())
    plain = bench.give(images(), draws=2)
    shuffled = bench.give(images(), source="shuffled_pixels", draws=2)
    assert shuffled["donor"].equals(plain["donor"])
    for row in shuffled.to_pylist():
        before = np.reshape(data[row["donor"]]["image"], (-1, 2)).tolist()
        after = np.reshape(row["input"], (-1, 2)).tolist()
        assert sorted(after) == sorted(before)
        assert after != before


def test_random_pixels_take_every_value_alike_and_differ_between_draws(bench: Bench) -> None:
    given = bench.give(images(evaluated=60), source="random_pixels", draws=8)
    assert given["donor"].null_count == given.num_rows
    made = np.array(given["input"].to_pylist())
    assert made.shape == (480, 24)
    assert (made.min(), made.max()) == (0, 255)
    assert abs(made.mean() - 127.5) < 3
    assert len({tuple(row) for row in made.tolist()}) == 480
    one = bench.give(images(), source="random_pixels", donor="shared")["input"].to_pylist()
    assert all(row == one[0] for row in one)


@every_bos
def test_a_generated_text_is_fed_as_written_but_for_special_tokens(bench: Bench, bos: str) -> None:
    table = texts([*documents("collect", 3), *documents("evaluate", 4)], bos=bos)
    for row in bench.give(table, source="generated", draws=2).to_pylist():
        receiver = np.array(by_number(table)[row["sequence"]]["input"])
        kept_T = np.isin(receiver, [*SPECIALS.values()])
        begins = receiver[0] == SPECIALS["bos"]
        written_T = counting(row["sequence"] + row["draw"], len(receiver))[0 if begins else 1 :]
        expected_T = np.where(kept_T, receiver, written_T[: len(receiver)])
        assert row["input"] == expected_T.tolist()
        assert row["donor"] is None


def test_the_digest_changes_with_whatever_is_fed() -> None:
    columns = {"sequence": [1, 2], "draw": [0, 0], "donor": [3, None], "input": [None, [4, 5]]}
    one = rows("donors", columns, 2)
    others: list[dict[str, Any]] = [
        {"sequence": [1, 3]},
        {"draw": [0, 1]},
        {"donor": [4, None]},
        {"input": [None, [4, 6]]},
        {"input": [[4], [5]]},
        {"row": [0, -1]},
    ]
    digests = {donors_digest(rows("donors", {**columns, **other}, 2)) for other in others}
    assert len(digests | {donors_digest(one)}) == 7
