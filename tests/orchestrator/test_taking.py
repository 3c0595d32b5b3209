"""Which documents a role takes: a fair sample, the same whoever asks, and few held at once."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.documents import Broken, Document, Source, SourceError
from orchestrator.taking import ROLES, Role, Taking, content_digest, splits_of

HALVES = {"collect": None, "evaluate": None}


class Read:
    """A source that counts how often, and how far, it is read."""

    def __init__(self, rows: list[Document | Broken], *, streaming: bool = False) -> None:
        self.rows, self.readings, self.furthest = rows, 0, 0
        self.source = Source(kind="text", files=(), splits=(), read=self._read, streaming=streaming)

    def _read(self) -> Iterator[Document | Broken]:
        self.readings += 1
        for number, row in enumerate(self.rows, 1):
            self.furthest = max(self.furthest, number)
            yield row


def documents(count: int, splits: tuple[str, ...] = ()) -> list[Document]:
    return [
        Document(name=f"d{i}", split=splits[i % len(splits)] if splits else None, text=f"text {i}")
        for i in range(count)
    ]


def taking(read: Read, enough: int, splits: dict[Role, str] | None = None) -> Taking:
    return Taking(read.source, splits, dict.fromkeys(ROLES, enough))


def first(took: Taking, role: Role, many: int) -> list[Document]:
    """Return the first documents of a role; asking for no more than are held reads no more."""
    return list(islice(took.of(role), many))


def names(found: Iterator[Document]) -> list[str]:
    return [document.name for document in found]


def by_hash(some: list[str]) -> list[str]:
    return sorted(some, key=lambda name: hashlib.sha256(name.encode()).digest())


@given(st.integers(0, 60), st.integers(1, 20))
def test_however_few_are_held_all_documents_come_in_the_order_of_their_names_hashes(
    count: int, enough: int
) -> None:
    read = Read([*documents(count)])
    took = taking(read, enough)
    found = {role: names(took.of(role)) for role in ROLES}
    for role in ROLES:
        assert found[role] == by_hash(found[role])
    assert Counter(found["collect"] + found["evaluate"]) == Counter(f"d{i}" for i in range(count))


def test_what_suffices_is_found_in_one_reading_of_which_no_more_is_held() -> None:
    read = Read([*documents(1000)])
    admitted: list[str] = []

    def hold(document: Document) -> Document:
        admitted.append(document.name)
        return document

    took = Taking(read.source, None, dict.fromkeys(ROLES, 10), hold=hold)
    for role in ROLES:
        assert len(first(took, role, 10)) == 10
    assert read.readings == 1
    assert len(admitted) < 200  # most are seen to come later without being looked at


def test_the_order_of_a_file_has_no_part_in_what_is_taken() -> None:
    rows = documents(200)
    one, two = (taking(Read([*r]), 7) for r in (rows, rows[::-1]))
    assert [names(one.of(r)) for r in ROLES] == [names(two.of(r)) for r in ROLES]


def test_equal_documents_fall_on_one_side() -> None:
    rows = [Document(name=f"{i}{t}", split=None, text=f"text {i}") for i in range(30) for t in "ab"]
    took = taking(Read([*rows]), 100)
    for role in ROLES:
        found = names(took.of(role))
        assert found
        assert {n[:-1] for n in found if n.endswith("a")} == {n[:-1] for n in found if n[-1] == "b"}


def test_splits_are_taken_and_the_others_left() -> None:
    read = Read([*documents(30, ("train", "dev", "test"))])
    took = taking(read, 100, {"collect": "dev", "evaluate": "train"})
    assert {d.split for d in took.of("collect")} == {"dev"}
    assert {d.split for d in took.of("evaluate")} == {"train"}


def test_a_stream_is_taken_as_it_comes_and_read_no_further_than_both_roles_need() -> None:
    read = Read([*documents(10_000)], streaming=True)
    took = taking(read, 10)
    found = {role: [d.name for d in first(took, role, 10)] for role in ROLES}
    role_of = {d.name: ROLES[content_digest(d)[0] % 2 == 0] for d in documents(100)}
    for role in ROLES:
        assert found[role] == [n for n in role_of if role_of[n] == role][:10]
    assert read.furthest < 60
    assert read.readings == 1


def test_more_of_a_stream_is_read_when_more_is_taken() -> None:
    read = Read([*documents(300)], streaming=True)
    took = taking(read, 10)
    found = [d.name for role in ROLES for d in took.of(role)]
    assert Counter(found) == Counter(f"d{i}" for i in range(300))


def test_each_split_of_a_stream_is_read_no_further_than_its_role_needs() -> None:
    read: Counter[str] = Counter()

    def of_split(split: str) -> Iterator[Document | Broken]:
        for i in range({"train": 100_000, "test": 5}[split]):
            read[split] += 1
            if i % 3 == 1:
                yield Broken(where=f"{split} {i}", why="no text")
            else:
                yield Document(name=f"{split} {i}", split=split, text=f"text {split} {i}")

    source = replace(Read([], streaming=True).source, read_split=of_split)
    took = Taking(source, {"collect": "train", "evaluate": "test"}, dict.fromkeys(ROLES, 10))
    assert len(first(took, "collect", 10)) == 10
    assert read["train"] < 20
    assert names(took.of("evaluate")) == ["test 0", "test 2", "test 3"]
    assert read == {"train": read["train"], "test": 5}
    assert took.skipped.broken == read["train"] // 3 + 2
    assert took.skipped.first[-1].where == "test 4"


def test_a_name_that_is_no_text_is_a_broken_row() -> None:
    odd = Document(name="caf\udce9.txt", split=None, text="a text")
    took = taking(Read([*documents(4), odd]), 10)
    assert sum(1 for role in ROLES for _ in took.of(role)) == 4
    (said,) = map(str, took.skipped.first)
    assert "udce9.txt: the file's name is not UTF-8; rename the file" in said
    assert said.encode()


def test_broken_rows_are_counted_once_and_the_first_are_kept() -> None:
    rows = [
        row
        for i, d in enumerate(documents(60))
        for row in (d, *([Broken(where=f"line {i}", why="no text")] if i % 2 else []))
    ]
    read = Read(rows)
    took = taking(read, 3)
    assert sum(1 for role in ROLES for _ in took.of(role)) == 60
    assert read.readings > 1
    assert took.skipped.broken == 30
    assert [b.where for b in took.skipped.first[:2]] == ["line 1", "line 3"]


def test_a_source_that_is_mostly_broken_is_refused() -> None:
    broken = [Broken(where=f"line {i}", why="no text") for i in range(5)]
    with pytest.raises(SourceError, match="more than half"):
        first(taking(Read([*documents(4), *broken]), 3), "collect", 3)


@pytest.mark.parametrize(
    ("splits", "named", "expected"),
    [
        ((), HALVES, None),
        (("train",), HALVES, None),
        (("train", "dev", "test"), HALVES, ("train", "test")),
        (("train", "test"), {"collect": "test", "evaluate": "train"}, ("test", "train")),
    ],
)
def test_roles_have_the_splits_that_are_named_or_the_first_and_the_last(
    splits: tuple[str, ...], named: dict[Role, str | None], expected: tuple[str, str] | None
) -> None:
    found = splits_of(splits, named)
    assert (None if found is None else tuple(found[r] for r in ROLES)) == expected
