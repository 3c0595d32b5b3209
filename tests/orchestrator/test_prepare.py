"""What the models are fed: read back from the tables, as anyone would."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator import prepare, sources
from orchestrator.cutting import Window, in_turns
from orchestrator.documents import Broken, Document, Kind, Source
from orchestrator.prepare import PrepareError
from orchestrator.selecting import selection
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.orchestrator import planned
from workers.images import fed, transform
from workers.messages import NOT_SCORED, ModelFacts

WINDOW = 32
WORDS = ["un", "deux", "trois", "été", "日本", "naïve", "x", *(f"word{i}" for i in range(200))]
VOCABULARY = 220
IDS = {**planned.SPECIALS, **{word: 10 + i for i, word in enumerate(WORDS)}}


def text(words: int, seed: str = "") -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that makes one token of every word."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for model in ("causal", "masked", "image"):
        (folder / model).mkdir()
        tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="unk"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(folder / model / "tokenizer.json"))
    (folder / "image" / "config.json").write_text(
        '{"architectures": ["ViTForImageClassification"]}'
    )
    size = {"height": 8, "width": 8}
    said = {"image_processor_type": "ViTImageProcessor", "size": size}
    (folder / "image" / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


class Bench:
    """Plans tasks for a source and does them in a run folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.checkpoint, self.runs = checkpoint, 0
        self.know()

    def know(self, **others: ModelFacts) -> None:
        known = {m: planned.facts(m, vocabulary=VOCABULARY) for m in ("causal", "masked", "image")}
        known["causal"] = planned.facts("causal", window=WINDOW, vocabulary=VOCABULARY)
        planned.know(self.patch, known | others, self.checkpoint)

    def source(
        self,
        documents: Sequence[Document | Broken],
        splits: tuple[str, ...] = (),
        *,
        streaming: bool = False,
    ) -> None:
        first = next(d for d in documents if isinstance(d, Document))
        kind: Kind = "images" if first.image is not None else "pairs" if first.answer else "text"
        file = self.folder / "source"
        file.write_text(repr(documents))
        made = Source(
            kind=kind,
            files=(file,),
            splits=splits,
            read=lambda: iter(documents),
            streaming=streaming,
        )
        self.patch.setattr(sources, "find", lambda *_, **__: made)

    def tasks(self, model: str, kind: str, data: dict[str, Any], **changes: Any) -> list[Task]:
        given = {"texts": {"source": "any.jsonl", **data}}
        plan = planned.make(self.folder, models=[model], data=given, **changes)
        return [t for t in plan.tasks if t.kind == kind]

    def data(self, model: str, data: dict[str, Any] | None = None, **changes: Any) -> pa.Table:
        (task,) = self.tasks(model, "data", data or {}, **changes)
        self.runs += 1
        self.store = Store.open(self.folder / f"run-{self.runs}")
        said = prepare.data(task, self.store)
        table = self.store.table(task.file)
        assert said.pop("sequences") == table.num_rows
        self.left_out = said
        assert self.store.recipe(task.file) == task.name
        return table


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Bench:
    return Bench(tmp_path, monkeypatch, checkpoint)


def documents(count: int, words: int = 100, split: str | None = None) -> list[Document]:
    """Return texts that all differ, of this many words."""
    return [
        Document(
            name=f"{split} {i}",
            split=split,
            text=f"unseen{split}{i} " + text(words - 1, f"{split} {i}"),
        )
        for i in range(count)
    ]


def by_role(table: pa.Table) -> dict[str, set[str]]:
    rows = zip(table["role"].to_pylist(), table["document"].to_pylist(), strict=True)
    found: dict[str, set[str]] = {"collect": set(), "evaluate": set()}
    for role, document in rows:
        found[role].add(document)
    return found


def test_without_splits_no_document_has_both_roles_and_both_have_some(bench: Bench) -> None:
    bench.source(documents(40))
    roles = by_role(bench.data("causal", {"evaluate": {"sequences": 1000}}))
    assert roles["collect"]
    assert roles["evaluate"]
    assert not roles["collect"] & roles["evaluate"]
    assert len(roles["collect"] | roles["evaluate"]) == 40


def test_without_splits_equal_texts_fall_on_the_same_side(bench: Bench) -> None:
    twins = [d for one in documents(20) for d in (one, _renamed(one))]
    bench.source(twins)
    roles = by_role(bench.data("causal", {"evaluate": {"sequences": 1000}}))
    for documents_of_role in roles.values():
        assert {f"twin of {n}" for n in documents_of_role if "twin" not in n} <= documents_of_role


def _renamed(document: Document, split: str | None = None) -> Document:
    return Document(name=f"twin of {document.name}", split=split, text=document.text)


def test_a_text_of_both_splits_is_never_evaluated(bench: Bench) -> None:
    train, test = documents(6, split="train"), documents(6, split="test")
    leaked = [_renamed(train[0], "test"), _renamed(train[5], "test")]
    bench.source([leaked[0], *test, *train, leaked[1]], ("train", "test"))
    roles = by_role(bench.data("causal"))
    assert roles["collect"] == {d.name for d in train}
    assert roles["evaluate"] == {d.name for d in test}


def test_named_splits_are_taken_as_named(bench: Bench) -> None:
    bench.source(
        [*documents(3, split="train"), *documents(3, split="test"), *documents(3, split="dev")],
        ("train", "dev", "test"),
    )
    named = {"collect": {"split": "dev"}, "evaluate": {"split": "train"}}
    roles = by_role(bench.data("causal", named))
    assert {n.split()[0] for n in roles["collect"]} == {"dev"}
    assert {n.split()[0] for n in roles["evaluate"]} == {"train"}


def test_windows_are_taken_one_per_document_in_turns(bench: Bench) -> None:
    train = documents(5, 40, "train")
    train += [_renamed(d, "train") for d in documents(3, 150, "train")]
    bench.source([*train, *documents(9, 90, "test")], ("train", "test"))
    table = bench.data("causal", {"evaluate": {"sequences": 12}})
    for role in ("collect", "evaluate"):
        turns: Counter[str] = Counter()
        turn_of_row = []
        for row in table.to_pylist():
            if row["role"] == role:
                turns[row["document"]] += 1
                turn_of_row.append(turns[row["document"]])
        assert turn_of_row == sorted(turn_of_row)
    assert Counter(table["role"].to_pylist())["evaluate"] == 12
    assert len(by_role(table)["evaluate"]) == 9
    assert by_role(table)["collect"] == {d.name for d in train}


def made(document: int, count: int) -> list[Window]:
    """Return this many windows of a document, told apart by what they hold."""
    return [Window(document=str(document), input=np.array([i]), bytes=1) for i in range(count)]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 20))
def test_few_windows_are_the_first_of_many(counts: list[int], limit: int) -> None:
    def taken(at_most: int) -> list[tuple[str, int]]:
        windows = in_turns((made(i, n) for i, n in enumerate(counts)), at_most)
        return [(w.document, int(w.input[0])) for w in windows]

    everything = taken(1000)
    assert len(everything) == len(set(everything)) == sum(counts)
    assert [turn for _, turn in everything] == sorted(turn for _, turn in everything)
    assert taken(limit) == everything[:limit]


def test_no_more_documents_are_looked_at_than_the_first_turn_needs() -> None:
    looked_at: list[int] = []

    def documents_with_windows() -> Iterator[list[Window]]:
        for i in range(1000):
            looked_at.append(i)
            yield made(i, i % 2)  # every other one is too short for a window

    assert len(in_turns(documents_with_windows(), 3)) == 3
    assert len(looked_at) <= 7


def test_the_order_of_documents_in_the_source_does_not_matter(bench: Bench) -> None:
    made = [*documents(5, split="train"), *documents(5, split="test")]
    bench.source(made, ("train", "test"))
    few = {"collect": {"sequences": 7}, "evaluate": {"sequences": 4}}
    one = bench.data("causal", few)
    bench.source(made[::-1], ("train", "test"))
    assert bench.data("causal", few).equals(one)


def test_sequences_are_numbered_over_both_roles(bench: Bench) -> None:
    bench.source(documents(12))
    table = bench.data("masked")
    assert table["sequence"].to_pylist() == list(range(table.num_rows))
    assert table["role"].to_pylist() == sorted(table["role"].to_pylist())


EVERYTHING = {"collect": {"sequences": 999}, "evaluate": {"sequences": 999}}
every_opening = pytest.mark.parametrize("bos", ["every_window", "first", "none"])


@every_opening
@pytest.mark.parametrize("model", ["causal", "masked"])
def test_windows_begin_as_asked_and_hold_every_word_and_byte_of_their_document_once(
    bench: Bench, model: str, bos: str
) -> None:
    window = {"causal": WINDOW, "masked": 24}[model]
    room = window - (model == "masked") - (bos == "every_window")
    whole = 5 * room - (bos == "first")  # five windows, and nothing over
    made = {d.name: d for d in documents(8, whole)}
    bench.source(list(made.values()))
    turns: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for row in bench.data(model, {"bos": bos, **EVERYTHING}).to_pylist():
        own = row["input"]
        if model == "causal":
            assert row["target"] == [*own[1:], NOT_SCORED]
        else:  # before it was corrupted
            own = [i if t == NOT_SCORED else t for i, t in zip(own, row["target"], strict=True)]
        assert len(own) == window
        name = row["document"]
        turns[name] += 1
        begins = bos == "every_window" or (bos == "first" and turns[name] == 1)
        assert (own[0] == IDS["bos"]) == begins
        assert (own[-1] == IDS["eos"]) == (model == "masked")
        inner = own[begins : len(own) - (model == "masked")]
        words = str(made[name].text).split(" ")
        start, end = taken[name], taken[name] + len(inner)
        assert inner == [IDS.get(word, IDS["unk"]) for word in words[start:end]]
        before, after = (len(" ".join(words[:n]).encode()) for n in (start, end))
        assert row["bytes"] == after - before
        taken[name] = end
    assert turns == dict.fromkeys(made, 5)
    assert taken == dict.fromkeys(made, whole)


@pytest.mark.parametrize("bos", ["first", "none"])
def test_a_masked_input_is_corrupted_between_its_special_tokens_alone(
    bench: Bench, bos: str
) -> None:
    bench.source(documents(10))
    scored_first = 0
    for row in bench.data("masked", {"bos": bos}).to_pylist():
        target_T = np.array(row["target"])
        assert row["input"][-1] == IDS["eos"]
        assert target_T[-1] == NOT_SCORED
        assert not np.isin(target_T, [planned.SPECIALS[k] for k in ("bos", "eos")]).any()
        scored_first += int(target_T[0] != NOT_SCORED)
    assert scored_first  # it is text like the rest


def test_a_model_without_bos_has_the_same_windows_whatever_is_asked(bench: Bench) -> None:
    bare = {k: v for k, v in planned.SPECIALS.items() if k != "bos"}
    bench.know(causal=planned.facts("causal", window=WINDOW, vocabulary=VOCABULARY, specials=bare))
    bench.source(documents(6))
    tables = [bench.data("causal", {"bos": bos}) for bos in ("every_window", "first", "none")]
    assert all(table.equals(tables[0]) for table in tables)


def test_a_short_last_window_is_dropped_and_a_longer_one_kept(bench: Bench) -> None:
    short = WINDOW - 1 + prepare.SHORTEST - 2
    bench.source([*documents(1, short, "train"), *documents(1, short + 1, "test")],
                 ("train", "test"))  # fmt: skip
    lengths = {r["role"]: [] for r in bench.data("causal").to_pylist()}
    for row in bench.data("causal").to_pylist():
        lengths[row["role"]].append(len(row["input"]))
    assert lengths == {"collect": [WINDOW], "evaluate": [WINDOW, prepare.SHORTEST]}


def test_a_causal_target_is_the_next_token_and_every_window_begins_alike(bench: Bench) -> None:
    bench.source(documents(6))
    for row in bench.data("causal").to_pylist():
        assert row["input"][0] == IDS["bos"]
        assert row["target"] == [*row["input"][1:], NOT_SCORED]
        assert row["kind"] is None


def test_a_masked_input_differs_from_its_text_only_where_it_is_scored(bench: Bench) -> None:
    made = documents(10)
    bench.source(made)
    seen: Counter[str] = Counter()
    for row in bench.data("masked").to_pylist():
        input_T, target_T = np.array(row["input"]), np.array(row["target"])
        scored_T = target_T != NOT_SCORED
        original_T = np.where(scored_T, target_T, input_T)
        assert (original_T[0], original_T[-1]) == (IDS["bos"], IDS["eos"])
        assert not scored_T[[0, -1]].any()
        assert np.isin(original_T[1:-1], [IDS[w] for w in (*WORDS, "unk")]).all()
        assert len(row["kind"]) == scored_T.sum() >= 1
        seen.update(row["kind"])
        for kind, there, held in zip(
            row["kind"], input_T[scored_T], target_T[scored_T], strict=True
        ):
            assert kind != "mask" or there == IDS["mask"]
            assert kind != "kept" or there == held
    assert set(seen) == {"mask", "random", "kept"}


def test_the_masking_seed_and_nothing_else_changes_the_corruption(bench: Bench) -> None:
    bench.source(documents(6))
    one, again = bench.data("masked"), bench.data("masked", seeds={"masks": 5, "donors": [9]})
    other = bench.data("masked", seeds={"masks": 2, "masking": 1})
    assert one.equals(again)
    assert not one["input"].equals(other["input"])
    for column in ("role", "document", "sequence", "bytes"):
        assert one[column].equals(other[column])


def test_tokens_are_asked_for_in_whole_windows_and_no_more_than_needed(bench: Bench) -> None:
    bench.source(documents(12))
    table = bench.data("causal", {"collect": {"tokens": 100}, "evaluate": {"tokens": 96}})
    lengths = {role: [] for role in ("collect", "evaluate")}
    for row in table.to_pylist():
        lengths[row["role"]].append(len(row["input"]))
    assert lengths == {"collect": [WINDOW] * 4, "evaluate": [WINDOW] * 3}


def test_asking_for_more_than_there_is_takes_all_there_is(bench: Bench) -> None:
    bench.source(documents(6, 31))
    table = bench.data("causal", {"collect": {"tokens": 10**6}, "evaluate": {"sequences": 999}})
    assert table.num_rows == 6


def test_a_shorter_window_can_be_asked_for(bench: Bench) -> None:
    bench.source(documents(6))
    table = bench.data("causal", {"sequence_length": 20})
    assert max(len(i) for i in table["input"].to_pylist()) == 20


def test_a_source_with_too_little_text_is_refused(bench: Bench) -> None:
    bench.source([*documents(3, split="train"), *documents(3, 5, "test")], ("train", "test"))
    with pytest.raises(PrepareError, match=r"no sequence for 'evaluate'.*16 positions"):
        bench.data("causal")


def test_rows_that_are_broken_are_skipped_counted_and_listed(bench: Bench) -> None:
    broken = [Broken(where=f"a.jsonl, line {i}", why="no text") for i in range(30)]
    made = documents(40)
    bench.source([*made[:20], *broken, *made[20:]])
    table = bench.data("causal", EVERYTHING)
    assert len(by_role(table)["collect"] | by_role(table)["evaluate"]) == 40
    assert bench.left_out["skipped"] == 30
    assert bench.left_out["broken"] == [f"a.jsonl, line {i}: no text" for i in range(20)]


def version(document: Document) -> Document:
    """Return a later version of a text: another beginning, another word here and there."""
    words = str(document.text).split(" ")
    words[::30] = ["changed"] * len(words[::30])
    return Document(name=f"later {document.name}", split="test", text=" ".join(words))


def test_a_near_duplicate_of_what_is_collected_is_not_evaluated(bench: Bench) -> None:
    train, test = documents(6, split="train"), documents(6, split="test")
    bench.source([*train, *map(version, train[:4]), *test], ("train", "test"))
    table = bench.data("causal")
    assert by_role(table)["evaluate"] == {d.name for d in test}
    assert bench.left_out == {"duplicates": 4}


def test_near_duplicates_are_kept_where_that_is_asked_and_equal_texts_are_not(
    bench: Bench,
) -> None:
    train = documents(6, split="train")
    later = [version(d) for d in train]
    bench.source([*train, *later, _renamed(train[0], "test")], ("train", "test"))
    with pytest.raises(PrepareError, match=r"7 are nearly documents that are collected.*keep"):
        bench.data("causal")
    roles = by_role(bench.data("causal", {"near_duplicates": "keep"}))
    assert roles["evaluate"] == {d.name for d in later}


def test_a_window_that_is_also_collected_is_not_evaluated(bench: Bench) -> None:
    licence = text(WINDOW - 1, "the same in all")
    made = [
        Document(name=f"{s} {i}", split=s, text=f"{licence} {text(200, f'{s} {i}')}")
        for s in ("train", "test")
        for i in range(4)
    ]
    bench.source(made, ("train", "test"))
    table = bench.data("causal", EVERYTHING)
    rows = table.to_pylist()
    fed = {role: [tuple(r["input"]) for r in rows if r["role"] == role] for role in by_role(table)}
    assert len(set(fed["collect"])) == len(fed["collect"]) - 3
    assert not set(fed["collect"]) & set(fed["evaluate"])
    assert len(by_role(table)["evaluate"]) == 4
    assert bench.left_out == {"duplicate_windows": 4}


def test_documents_too_short_for_a_window_are_counted(bench: Bench) -> None:
    bench.source([*documents(30), *(documents(5, 3, "short"))])
    bench.data("causal", EVERYTHING)
    assert bench.left_out == {"too_short": 5}


def test_windows_that_overlap_score_every_word_once(bench: Bench) -> None:
    train, test = documents(3, split="train"), documents(3, 100, "test")
    bench.source([*train, *test], ("train", "test"))
    rows = bench.data("causal", {"stride": 10, "evaluate": {"sequences": 999}}).to_pylist()
    for document in test:
        mine = [r for r in rows if r["document"] == document.name]
        assert len(mine) == 1 + -(-(100 - (WINDOW - 1)) // 10)
        scored = [t for r in mine for t in r["target"] if t != NOT_SCORED]
        assert scored == [IDS.get(word, IDS["unk"]) for word in str(document.text).split(" ")]
        assert sum(r["bytes"] for r in mine) == len(str(document.text).encode())
    assert sum(r["role"] == "collect" for r in rows) == 3 * 3  # these never overlap


def test_no_more_of_a_stream_is_read_than_both_roles_need(bench: Bench) -> None:
    read: list[int] = []

    def endless() -> Iterator[Document]:
        for i, document in enumerate(documents(3000, 40)):
            read.append(i)
            yield document

    few = {"collect": {"sequences": 8}, "evaluate": {"sequences": 4}}
    bench.source(documents(1), streaming=True)
    source = replace(sources.find(""), read=endless)
    bench.patch.setattr(sources, "find", lambda *_, **__: source)
    table = bench.data("causal", few)
    read.clear()
    assert bench.data("causal", few).equals(table)
    assert len(read) < 400
    assert Counter(table["role"].to_pylist()) == {"collect": 8, "evaluate": 4}
    assert max(int(name.split()[1]) for name in table["document"].to_pylist()) < 60


def images(count: int, split: str) -> list[Document]:
    draw = np.random.default_rng([count, len(split)])
    return [
        Document(
            name=f"{split} {i}",
            split=split,
            image=draw.integers(0, 256, (8, 8, 1), dtype=np.uint8),
            target=i % 10,
        )
        for i in range(count)
    ]


def test_images_come_back_pixel_by_pixel_with_their_class(bench: Bench) -> None:
    made = [*images(7, "train"), *images(5, "test")]
    bench.source(made, ("train", "test"))
    table = bench.data("image").to_pylist()
    assert Counter(r["role"] for r in table) == {"collect": 7, "evaluate": 5}
    known = {d.name: d for d in made}
    for row in table:
        document = known[row["document"]]
        assert document.image is not None
        assert np.array_equal(np.reshape(row["image"], row["shape"]), document.image)
        assert row["target"] == document.target


def test_an_image_in_both_splits_is_never_evaluated(bench: Bench) -> None:
    train, test = images(4, "train"), images(4, "test")
    leaked = Document(name="leaked", split="test", image=train[0].image, target=0)
    bench.source([*train, leaked, *test], ("train", "test"))
    assert by_role(bench.data("image"))["evaluate"] == {d.name for d in test}


def test_images_that_are_alike_only_when_made_larger_are_evaluated(
    bench: Bench, tmp_path: Path
) -> None:
    size = {"height": 224, "width": 224}
    said = {"image_processor_type": "ViTImageProcessor", "size": size}
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "config.json").write_text("{}")
    (tmp_path / "image" / "preprocessor_config.json").write_text(json.dumps(said))
    bench.checkpoint = tmp_path
    bench.know(image=planned.facts("image", image=(224, 224, 1)))
    square = np.zeros((8, 8, 1), np.uint8)
    square[2:6, 2:6] = 200
    made = []
    for i in range(12):
        image = square.copy()
        image[2 + i // 4, 2 + i % 4] -= 15
        made.append(Document(name=f"{i}", split=("train", "test")[i % 2], image=image, target=0))
    bench.source(made, ("train", "test"))
    assert len(by_role(bench.data("image"))["evaluate"]) == 6
    assert bench.left_out == {}


def test_a_copy_of_a_collected_image_in_another_coding_is_not_evaluated(bench: Bench) -> None:
    draw = np.random.default_rng(0)
    train = [draw.integers(20, 220, (12, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
             for _ in range(3)]  # fmt: skip
    noise = draw.integers(-2, 3, train[0].shape)
    copy = (train[1] + noise).astype(np.uint8)
    made = [Document(name=f"train {i}", split="train", image=t, target=0)
            for i, t in enumerate(train)]  # fmt: skip
    made += [Document(name="copy", split="test", image=copy, target=0), *images(3, "test")]
    bench.source(made, ("train", "test"))
    assert "copy" not in by_role(bench.data("image"))["evaluate"]
    assert bench.left_out == {"duplicates": 1}
    roles = by_role(bench.data("image", {"near_duplicates": "keep"}))
    assert "copy" in roles["evaluate"]


def test_pictures_that_are_alike_by_nature_are_refused_with_the_cure(bench: Bench) -> None:
    draw = np.random.default_rng(0)
    organ = draw.integers(20, 220, (12, 12, 3)).repeat(8, 0).repeat(8, 1)
    scans = [
        Document(
            name=f"{i}",
            split=("train", "test")[i % 2],
            image=(organ + draw.integers(-2, 3, organ.shape)).astype(np.uint8),
            target=0,
        )
        for i in range(20)
    ]
    bench.source([*scans, *images(4, "test")], ("train", "test"))
    with pytest.raises(PrepareError, match=r"10 of 14 images.*near_duplicates: keep"):
        bench.data("image")
    assert len(by_role(bench.data("image", {"near_duplicates": "keep"}))["evaluate"]) == 14


def test_images_of_any_size_are_made_the_models(bench: Bench) -> None:
    draw = np.random.default_rng(0)
    shapes = [(40, 30, 3), (9, 20, 1), (8, 8, 4), (100, 64, 3)]
    made = [
        Document(
            name=f"{split} {i}",
            split=split,
            image=draw.integers(0, 256, shape, dtype=np.uint8),
            target=0,
        )
        for split in ("train", "test")
        for i, shape in enumerate(shapes)
    ]
    bench.source(made, ("train", "test"))
    rows = {r["document"]: r for r in bench.data("image").to_pylist()}
    how = transform(bench.checkpoint / "image", (8, 8, 1))
    for document in made:
        row = rows[document.name]
        assert document.image is not None
        assert row["shape"] == [8, 8, 1]
        assert row["image"] == fed(document.image, how).ravel().tolist()


@pytest.mark.parametrize("target", [10, -1, None])
def test_a_class_that_the_head_does_not_have_is_refused_by_name(
    bench: Bench, target: int | None
) -> None:
    bench.know(image=planned.facts("image", vocabulary=10))
    odd = Document(name="odd one", split="test", image=images(9, "odd")[8].image, target=target)
    bench.source([*images(4, "train"), *images(4, "test"), odd], ("train", "test"))
    with pytest.raises(PrepareError, match=rf"'odd one' is of class {target}, .* 0 to 9"):
        bench.data("image")


def test_paired_prompts_are_made_a_table_of_their_own(bench: Bench) -> None:
    made = [
        Document(
            name=f"pair {i}",
            split=None,
            text=text(20, f"pair {i}"),
            donor=text(20, f"donor {i}"),
            answer=" " + WORDS[0],
            wrong=(" " + WORDS[1],),
        )
        for i in range(20)
    ]
    twins = [replace(d, name=f"twin of {d.name}") for d in made]
    bench.source([*made, *twins])
    table = bench.data("causal", EVERYTHING)
    assert {"donor", "wrong"} <= set(table.column_names)
    roles = by_role(table)
    assert roles["collect"]
    assert roles["evaluate"]
    assert len(roles["collect"] | roles["evaluate"]) == 40


def test_of_a_stream_of_pairs_as_many_tokens_are_taken_as_are_asked_for(bench: Bench) -> None:
    made = [
        Document(
            name=f"pair {i}", split=None, text=text(3, f"pair {i}"),
            answer=" " + WORDS[0], wrong=(" " + WORDS[1],),
        )
        for i in range(2000)
    ]  # fmt: skip
    bench.source(made, streaming=True)
    asked = {"collect": {"tokens": 1200}, "evaluate": {"tokens": 1200}}
    rows = bench.data("causal", asked).to_pylist()
    for role in ("collect", "evaluate"):
        mine = [r for r in rows if r["role"] == role]
        assert 1200 <= sum(len(r["input"]) for r in mine) < 1210
        numbers = [int(r["document"].split()[1]) for r in mine]
        assert numbers == sorted(numbers)


def test_a_source_that_changed_since_it_was_planned_is_refused(bench: Bench) -> None:
    bench.source(documents(12))
    (task,) = bench.tasks("causal", "data", {})
    bench.source(documents(13))
    store = Store.open(bench.folder / "run")
    with pytest.raises(PrepareError, match=r"any.jsonl has changed since the sweep was planned"):
        prepare.data(task, store)
    assert not (bench.folder / "run" / task.file).exists()


def test_a_mask_is_an_order_of_every_layer_and_the_same_for_every_model(bench: Bench) -> None:
    bench.source(documents(3))
    store = Store.open(bench.folder / "run")
    orders = {}
    for model in ("causal", "masked"):
        for task in bench.tasks(model, "selection", {}, seeds=[3, 4], methods=["zero"]):
            selection(task, store)
            table = store.table(task.file).to_pydict()
            assert table["layer"] == [0, 1, 2]
            assert all(sorted(order) == list(range(10)) for order in table["order"])
            assert len({tuple(order) for order in table["order"]}) == 3
            orders[model, table["seed"][0]] = table["order"]
    assert orders["causal", 3] == orders["masked", 3]
    assert orders["causal", 3] != orders["causal", 4]
