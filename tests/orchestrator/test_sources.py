from pathlib import Path

import pytest

from orchestrator import plan, sources
from orchestrator.mistakes import SpecError
from orchestrator.sources import Broken, Document, Skipped, Source, SourceError, find, usable
from orchestrator.spec import parse
from tests.orchestrator.reading import broken, lines, read, source, texts


def test_the_bundled_texts_have_names_of_their_own_and_two_splits(tmp_path: Path) -> None:
    documents = read("zoo:text", tmp_path)
    found = find("zoo:text", base=tmp_path)
    assert found.kind == "text"
    assert {d.split for d in documents} == set(found.splits) == {"train", "test"}
    assert len({d.name for d in documents}) == len(documents) > 100
    assert all(d.text for d in documents)


def test_the_bundled_digits_are_grey_images_with_a_class(tmp_path: Path) -> None:
    documents = read("zoo:digits", tmp_path)
    found = find("zoo:digits", base=tmp_path)
    assert found.kind == "images"
    assert {d.split for d in documents} == set(found.splits)
    assert len({d.name for d in documents}) == len(documents)
    assert {d.target for d in documents} == set(range(10))
    images = [d.image for d in documents if d.image is not None]
    assert len(images) == len(documents)
    assert {i.shape for i in images} == {sources.DIGITS_SHAPE}
    assert (min(i.min() for i in images), max(i.max() for i in images)) == (0, 255)


def test_every_line_is_a_document_unless_a_key_names_it(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "one", "page": "a"}, "", {"text": "two", "page": "b"},
          {"text": "three", "page": "a"})  # fmt: skip
    by_line = texts(read("documents.jsonl", tmp_path))
    assert by_line == {"line-1": "one", "line-3": "two", "line-4": "three"}
    by_page = read("documents.jsonl", tmp_path, document="page")
    assert texts(by_page) == {"a": "one\n\nthree", "b": "two"}
    assert {d.split for d in by_page} == {None}


def test_the_text_may_have_another_key(tmp_path: Path) -> None:
    lines(tmp_path, {"body": "one", "meta": {"inner": "two"}})
    assert texts(read("documents.jsonl", tmp_path, text="body")) == {"line-1": "one"}
    assert texts(read("documents.jsonl", tmp_path, text="meta.inner")) == {"line-1": "two"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2: expected a JSON object (JSONDecodeError"),
        ("[1]", "line 2: expected a JSON object, found [1]"),
        ({"body": "x"}, "line 2: expected 'text'; found 'body'"),
        ({"text": 3}, "line 2: 'text' is 3, not a text"),
        ({"text": None}, "line 2: 'text' is None, not a text"),
    ],
)
def test_a_wrong_line_is_left_out_and_named_by_its_number(
    tmp_path: Path, row: object, said: str
) -> None:
    lines(tmp_path, {"text": "fine"}, row, {"text": "fine too"})
    found = source("documents.jsonl", tmp_path)
    (told,) = broken(found)
    assert told.startswith(str(tmp_path / "documents.jsonl") + ", " + said)
    skipped = Skipped()
    assert [d.name for d in usable(found, skipped)] == ["line-1", "line-3"]
    assert (skipped.documents, skipped.broken) == (2, 1)
    assert [str(b) for b in skipped.first] == [told]


def test_a_document_without_its_name_is_left_out(tmp_path: Path) -> None:
    rows = [{"text": "a", "page": True}, {"text": "b"}, {"text": "c", "page": 7}]
    lines(tmp_path, *rows)
    found = source("documents.jsonl", tmp_path, document="page")
    assert broken(found) == [
        f"{tmp_path}/documents.jsonl, line 1: 'page' is True, not a name",
        f"{tmp_path}/documents.jsonl, line 2: expected 'page'; found 'text'",
    ]
    assert [d.name for d in found.read() if isinstance(d, Document)] == ["7"]


def test_a_text_that_is_not_utf_8_is_left_out_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "tea"}\n')
    found = source("d.jsonl", tmp_path)
    first, second = found.read()
    assert isinstance(first, Broken)
    assert "d.jsonl, line 1: expected a JSON object (UnicodeDecodeError" in str(first)
    assert isinstance(second, Document)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zoo:txt", "Known: zoo:text, zoo:digits"),
        ("hf:", "expected `hf:owner/name`"),
        ("hf:a/b/c", "expected `hf:owner/name`"),
        ("documents.csv", "found 'documents.csv'. Expected zoo:text, zoo:digits, a preset"),
        ("wikitext-13", "did you mean 'wikitext-103'?"),
        ("none.jsonl", "paths are relative to the sweep file"),
        ("folder", "has none of what can be read"),
    ],
)
def test_a_wrong_source_is_refused_with_what_to_write(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError) as caught:
        find(name, base=tmp_path)
    assert said in str(caught.value)


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "one"})
    lines(tmp_path, {"text": "one"}, name="copy.jsonl")
    lines(tmp_path, {"text": "One"}, name="other.jsonl")
    names = ("documents.jsonl", "copy.jsonl", "other.jsonl")
    one, copy, other = (find(n, base=tmp_path).digest() for n in names)
    assert one == copy != other


def test_the_digest_of_a_folder_is_that_of_its_files_and_their_places(tmp_path: Path) -> None:
    for folder, file in (("a", "x"), ("b", "x"), ("c", "y")):
        lines(tmp_path, {"text": "1"}, name=f"{folder}/train/{file}.jsonl")
        lines(tmp_path, {"text": "2"}, name=f"{folder}/test/z.jsonl")
    one, copy, moved = (find(n, base=tmp_path).digest() for n in "abc")
    assert one == copy != moved
    (tmp_path / "a" / "test" / "z.jsonl").write_text('{"text": "3"}')
    assert find("a", base=tmp_path).digest() != one


def made(*rows: Document | Broken) -> Source:
    return Source(kind="text", files=(), splits=(), read=lambda: iter(rows))


GOOD = Document(name="a", split=None, text="words")
BAD = Broken(where="f, line 2", why="it is no text")


def test_a_source_that_is_mostly_broken_is_refused_with_the_first_and_the_count() -> None:
    assert list(usable(made(GOOD, BAD), Skipped())) == [GOOD]
    with pytest.raises(SourceError, match=r"f, line 2: it is no text; 2 rows in all .* of 3"):
        list(usable(made(BAD, GOOD, BAD), Skipped()))


def test_a_source_that_is_not_read_to_its_end_is_not_judged_by_its_start() -> None:
    skipped = Skipped()
    assert list(usable(made(BAD, BAD, GOOD, GOOD, GOOD), skipped, most=3)) == [GOOD]
    assert (skipped.documents, skipped.broken) == (1, 2)


def test_an_endless_source_of_broken_rows_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.documents.GIVEN_UP", 50)
    endless = Source(kind="text", files=(), splits=(), read=lambda: iter(lambda: BAD, None))
    skipped = Skipped()
    with pytest.raises(SourceError, match="50 rows in all cannot be used, of 50"):
        list(usable(endless, skipped))
    assert len(skipped.first) == 20


def planned(folder: Path, **data: object) -> plan.Plan:
    raw = {"models": ["zoo:opt"], "methods": ["zero"], "fractions": [1], "seeds": 1}
    return plan.make(parse({**raw, "data": {"mine": data}}), base=folder, device="cpu")


def test_a_plan_passes_over_a_few_broken_rows_and_refuses_many(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "a"}, "{", {"text": "b"})
    assert planned(tmp_path, source="documents.jsonl").cells
    lines(tmp_path, {"text": "a"}, "{", "{")
    with pytest.raises(SpecError, match=r"data\.mine: .*line 2: expected a JSON object"):
        planned(tmp_path, source="documents.jsonl")


def test_a_filter_that_no_row_passes_is_a_mistake(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "a", "of": "x"})
    with pytest.raises(SpecError, match="no row has the values that `where` asks for"):
        planned(tmp_path, source="documents.jsonl", where={"of": ["y"]})


def test_how_rows_are_read_is_part_of_the_name_of_the_data(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "a", "of": "x"}, {"text": "b", "of": "y"})
    names = {
        next(t.name for t in planned(tmp_path, source="documents.jsonl", **more).tasks)
        for more in ({}, {"where": {"of": ["x"]}}, {"where": {"of": ["y"]}})
    }
    assert len(names) == 3


def test_a_task_finds_the_very_source_that_was_planned(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "a", "of": "x"}, {"text": "b", "of": "y"})
    task = planned(tmp_path, source="documents.jsonl", where={"of": ["y"]}).tasks[0]
    found = sources.again(task.arguments)
    assert [d.text for d in found.read() if isinstance(d, Document)] == ["b"]
    assert task.kind == "data"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": "zoo:text", "where": {"a": ["b"]}}, "where: is not read: a bundled source"),
        ({"source": "zoo:text", "kind": "text"}, "kind: is not read: a bundled source"),
        ({"source": "zoo:digits", "labels": "x"}, "labels: is not read: a bundled source"),
        ({"source": "documents.jsonl", "streaming": True}, "streaming: .* documents.jsonl lies"),
        ({"source": "documents.jsonl", "split": "test"}, "split: is not read: it is for a hub's"),
        ({"source": "documents.jsonl", "label": "x"}, "label: .* is read as text; leave it out"),
        ({"source": "x.txt", "text": "body"}, "text: is not read: texts have no columns"),
        ({"source": "hf:a/b", "labels": "x"}, "labels: .*leave it out"),
        ({"source": "pile", "split": "val"}, "split: .* or write `split: null` in both"),
    ],
)
def test_a_key_that_is_not_read_is_a_mistake_at_its_path(
    tmp_path: Path, data: dict[str, object], said: str
) -> None:
    lines(tmp_path, {"text": "a"}, {"text": "b"})
    (tmp_path / "x.txt").write_text("words")
    with pytest.raises(SpecError, match=rf"data\.mine\.{said}"):
        planned(tmp_path, **data)


def test_the_split_of_a_preset_can_be_divided(tmp_path: Path) -> None:
    whole = {"collect": {"split": None}, "evaluate": {"split": None}}
    assert planned(tmp_path, source="pile", split="val", **whole).cells
